//! What became of one container under load: what its program printed, and its database.

use std::collections::{BTreeMap, BTreeSet};

use super::load::Part;

/// Attempts of one kind on databases in enforce.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attempts {
    /// So many must be on record at least: those after a pause, each an act of its own.
    pub on_record: u64,
    /// So many were made.
    pub made: u64,
}

/// What became of a container.
#[derive(Debug)]
pub struct Outcome {
    /// Its id.
    pub id: String,
    /// What it was.
    pub part: Part,
    /// How often each call was made.
    pub calls: BTreeMap<String, u64>,
    /// Calls that ended otherwise than they must, and everything else that is wrong.
    pub failed: Vec<String>,
    /// Effects that are there twice.
    pub doubled: Vec<String>,
    /// Accounts it added.
    pub accounts: BTreeSet<String>,
    /// Attempts by the name of the call.
    pub attempts: BTreeMap<String, Attempts>,
    /// Calls that took long: from when to when, in nanoseconds.
    pub slow: Vec<(i64, i64)>,
    /// The longest that a call took, in nanoseconds, and which.
    pub worst: (i64, String),
}

impl Outcome {
    /// From what the program printed, how its container ended, and the database before and after.
    pub fn new(id: &str, part: Part, text: &str, ended: Result<(), String>, database: (&[u8], &[u8])) -> Self {
        let mut outcome = Self {
            id: id.to_owned(),
            part,
            calls: BTreeMap::new(),
            failed: Vec::new(),
            doubled: Vec::new(),
            accounts: BTreeSet::new(),
            attempts: BTreeMap::new(),
            slow: Vec::new(),
            worst: (0, "none".to_owned()),
        };
        for line in text.lines() {
            outcome.read(line);
        }
        if !text.lines().any(|line| line == "done") {
            outcome.failed.push("its program did not come to its end".to_owned());
        }
        outcome.failed.extend(ended.err());
        outcome.compare(database);
        outcome
    }

    fn read(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| word.parse::<i64>().unwrap_or(-1);
        let count = |word: &str| word.parse::<u64>().unwrap_or(0);
        match words.as_slice() {
            ["ready" | "done"] => {}
            ["call", name, often] => *self.calls.entry((*name).to_owned()).or_default() += count(often),
            ["account", name] => {
                self.accounts.insert((*name).to_owned());
            }
            ["attempt", name, on_record, made] => {
                let attempts = Attempts { on_record: count(on_record), made: count(made) };
                self.attempts.insert((*name).to_owned(), attempts);
            }
            ["slow", start, end] => self.slow.push((number(start), number(end))),
            ["worst", name, time] => self.worst = (number(time), (*name).to_owned()),
            ["doubled", ..] => self.doubled.push(line.to_owned()),
            // of the program, and whatever the runtime or an interpreter says
            _ => self.failed.push(line.to_owned()),
        }
    }

    /// In audit the database has every account once; in enforce it is as it was.
    fn compare(&mut self, (before, after): (&[u8], &[u8])) {
        if self.part.guard.mode() == "enforce" {
            if before != after {
                self.failed.push("got through: its database has changed".to_owned());
            }
            return;
        }
        let text = String::from_utf8_lossy(after);
        let mut left: BTreeMap<&str, u64> = BTreeMap::new();
        for line in text.lines().skip(String::from_utf8_lossy(before).lines().count()) {
            *left.entry(line.split(':').next().unwrap_or_default()).or_default() += 1;
        }
        for name in &self.accounts {
            match left.remove(name.as_str()) {
                Some(1) => {}
                Some(times) => self.doubled.push(format!("account {name} is there {times} times")),
                None => self.failed.push(format!("account {name} is not in the database")),
            }
        }
        for name in left.keys() {
            self.failed.push(format!("account {name} is in the database and nobody says they added it"));
        }
    }

    /// How many calls it made.
    pub fn made(&self) -> u64 {
        self.calls.values().sum()
    }

    /// Names it in a line about something that is wrong.
    pub fn name(&self) -> String {
        let Part { program, guard, runtime } = self.part;
        format!("{program:?}, {} on {}", guard.name(), runtime.name())
    }
}

//! The figures of a run: calls, failures, effects done twice, events that are missing, and how long calls waited.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use acctguard::model::event::{Event, Kind, Outcome as Verdict};

use super::load::{Guard, Load};
use super::outcome::Outcome;
use crate::harness::events::of;

/// A finding may come after the end of its container; an event that is not there by then is missing.
const EVENT_PATIENCE: Duration = Duration::from_secs(20);

/// Events that there must be, and what is known of them.
#[derive(Debug, Default)]
struct Recorded {
    expected: u64,
    found: u64,
    /// Those that are not there.
    missing: Vec<String>,
    /// Accounts that more than one finding tells of.
    told_twice: usize,
    /// Attempts made, and how many the events account for.
    attempts: (u64, u64),
}

impl Recorded {
    fn expect(&mut self, is_there: bool, what: impl FnOnce() -> String) {
        self.expected += 1;
        self.found += u64::from(is_there);
        self.missing.extend((!is_there).then(what));
    }
}

/// Everything that a run came to.
pub struct Figures {
    outcomes: Vec<Outcome>,
    recorded: Recorded,
    /// From what was done to the daemon to the next answer in each container, in nanoseconds.
    waits: Vec<i64>,
    /// Containers that were started meanwhile, those of them that failed, and the longest that one took.
    starts: (usize, Vec<String>, Duration),
    log: Vec<String>,
}

impl Figures {
    /// Ends the load, waits for its events, and counts. `moments`: when something was done to the daemon, as the programs count time.
    pub fn take(load: &mut Load, moments: &[i64]) -> Self {
        load.starts.finish();
        let starts = (load.starts.ended, std::mem::take(&mut load.starts.failed), load.starts.longest);
        let outcomes = load.stop();
        let deadline = Instant::now() + EVENT_PATIENCE;
        let recorded = loop {
            let events = load.node.events();
            let recorded = recorded(&outcomes, &events);
            if recorded.missing.is_empty() || Instant::now() > deadline {
                break recorded;
            }
            std::thread::sleep(Duration::from_millis(500));
        };
        let mut waits: Vec<i64> = outcomes.iter().flat_map(|outcome| waits(moments, &outcome.slow)).collect();
        waits.sort_unstable();
        let log = load.node.log_text().lines().map(str::to_owned).collect();
        Self { outcomes, recorded, waits, starts, log }
    }

    /// Whether nothing failed, was done twice, or is missing.
    pub fn is_right(&self) -> bool {
        self.recorded.missing.is_empty()
            && self.starts.1.is_empty()
            && self.outcomes.iter().all(|outcome| outcome.failed.is_empty() && outcome.doubled.is_empty())
    }

    /// What is wrong, a line each.
    pub fn wrongs(&self) -> Vec<String> {
        let of_calls = self.outcomes.iter().flat_map(|outcome| {
            let lines = outcome.failed.iter().chain(&outcome.doubled);
            lines.map(move |line| format!("{}: {line}", outcome.name()))
        });
        of_calls
            .chain(self.starts.1.iter().cloned())
            .chain(self.recorded.missing.iter().map(|line| format!("missing: {line}")))
            .collect()
    }

    /// Prints them; `done` is how often `what` was done to the daemon.
    pub fn print(&self, what: &str, done: usize, seconds: u64) {
        let sum = |number: fn(&Outcome) -> usize| self.outcomes.iter().map(number).sum::<usize>();
        let made: u64 = self.outcomes.iter().map(Outcome::made).sum();
        let caught = self.log.iter().filter(|line| line.contains("a call that the last worker left is answered"));
        println!("\n{:<34}{done} in {seconds} s, {} containers", what, self.outcomes.len());
        println!("{:<34}{made}", "calls");
        for guard in Guard::ALL {
            let own = self.outcomes.iter().filter(|outcome| outcome.part.guard == guard);
            println!("{:<34}{}", format!("  {}", guard.name()), own.map(Outcome::made).sum::<u64>());
        }
        for (name, count) in self.by_type() {
            println!("{:<34}{count}", format!("    {name}"));
        }
        println!("{:<34}{}", "caught while they were answered", caught.count());
        println!("{:<34}{}", "failed", sum(|outcome| outcome.failed.len()));
        println!("{:<34}{}", "effects done twice", sum(|outcome| outcome.doubled.len()));
        let Recorded { expected, found, missing, told_twice, attempts } = &self.recorded;
        println!("{:<34}{expected} expected, {found} found, {} missing", "events", missing.len());
        println!("{:<34}{told_twice}", "accounts told of more than once");
        println!("{:<34}{} made, {} accounted for", "refused attempts", attempts.0, attempts.1);
        let (started, failed, longest) = &self.starts;
        let (failed, longest) = (failed.len(), longest.as_millis());
        println!("{:<34}{started} meanwhile, {failed} failed, longest {longest} ms", "containers started");
        if let Some(outcome) = self.outcomes.iter().max_by_key(|outcome| outcome.worst.0) {
            let (time, call) = &outcome.worst;
            println!("{:<34}{} ms ({call}; {})", "longest call", time / 1_000_000, outcome.name());
        }
        let at =
            |hundredths: usize| self.waits.get(self.waits.len() * hundredths / 100).map_or(0, |wait| wait / 1_000_000);
        println!(
            "{:<34}p50 {} ms, p99 {} ms ({} waits)",
            "from then to the next answer",
            at(50),
            at(99),
            self.waits.len()
        );
        for line in self.wrongs() {
            println!("WRONG {line}");
        }
        self.print_log();
    }

    /// Calls of all programs. Each counts a program's own library's spelling.
    fn by_type(&self) -> BTreeMap<&str, u64> {
        let mut sums = BTreeMap::new();
        for (name, count) in self.outcomes.iter().flat_map(|outcome| &outcome.calls) {
            *sums.entry(name.as_str()).or_default() += count;
        }
        sums
    }

    /// What the daemon warned of, numbers left out, and how often.
    fn print_log(&self) {
        let mut lines: BTreeMap<String, usize> = BTreeMap::new();
        let complaints = self.log.iter().filter(|line| !line.contains(" INFO ") && !line.contains("DEBUG"));
        for line in complaints {
            let words = line.split_whitespace().filter(|word| !word.chars().any(|letter| letter.is_ascii_digit()));
            *lines.entry(words.collect::<Vec<_>>().join(" ")).or_default() += 1;
        }
        println!("the daemon's log:");
        for (line, count) in lines {
            println!("{count:>6} × {line}");
        }
    }
}

/// What must be on record of each container: its creation on the right ground, its end, each account that was added, each kind of
/// refused attempt as often as it came after a pause.
fn recorded(outcomes: &[Outcome], events: &[Event]) -> Recorded {
    let mut recorded = Recorded::default();
    for outcome in outcomes {
        let (id, name) = (outcome.id.as_str(), || outcome.name());
        let created = of(events, Kind::ContainerCreated, id);
        let ground =
            created.first().and_then(|event| event.creation.as_ref()).map(|creation| creation.protection.ground);
        recorded
            .expect(ground == Some(outcome.part.guard.ground()), || format!("{}: the creation: {ground:?}", name()));
        let (ends, late) = ends(events, id);
        recorded.expect(ends.len() == 1, || format!("{}: one end, told by: {ends:?}", name()));
        recorded.expect(late == 0, || format!("{}: {late} events come after its end, told by {ends:?}", name()));
        let told = accounts_told(events, id);
        for account in &outcome.accounts {
            recorded.expect(told.contains_key(account.as_str()), || format!("{}: account {account}", name()));
        }
        recorded.told_twice += told.values().filter(|times| **times > 1).count();
        let foreign: BTreeSet<&str> =
            told.keys().copied().filter(|account| !outcome.accounts.contains(*account)).collect();
        recorded.expect(foreign.is_empty(), || format!("{}: findings of accounts it never added: {foreign:?}", name()));
        for (call, attempts) in &outcome.attempts {
            let count = blocked(events, id, call);
            recorded.attempts.0 += attempts.made;
            recorded.attempts.1 += count;
            recorded.expect(count >= attempts.on_record, || {
                format!(
                    "{}: {call} was refused {} times after a pause, {count} are on record",
                    name(),
                    attempts.on_record
                )
            });
        }
    }
    recorded
}

/// By whom the end of container `id` was told, and how many attempts are on record after it.
fn ends<'a>(events: &'a [Event], id: &str) -> (Vec<&'a str>, usize) {
    let ends = of(events, Kind::ContainerExited, id);
    let first = ends.iter().map(|event| event.time.0).min();
    let witnesses = ends.iter().filter_map(|event| event.exit.as_ref()).map(|exit| exit.witness.as_str()).collect();
    let attempts = of(events, Kind::AccountAttempt, id);
    let late = attempts.iter().filter(|event| first.is_some_and(|first| event.time.0 > first)).count();
    (witnesses, late)
}

/// Accounts that findings of container `id` tell to have been added, and how often.
fn accounts_told<'a>(events: &'a [Event], id: &str) -> BTreeMap<&'a str, usize> {
    let mut told = BTreeMap::new();
    let changes = of(events, Kind::AccountFinding, id).into_iter().flat_map(|event| event.changes.iter().flatten());
    for change in changes.filter(|change| change.change == "account_added" && change.database == "/etc/passwd") {
        *told.entry(change.name.as_deref().unwrap_or_default()).or_default() += 1;
    }
    told
}

/// For how many refused attempts by `call` the events account.
fn blocked(events: &[Event], id: &str, call: &str) -> u64 {
    let attempts = of(events, Kind::AccountAttempt, id).into_iter().filter(|event| {
        event.verdict.as_ref().is_some_and(|verdict| verdict.result == Verdict::Blocked)
            && event.operation.as_ref().is_some_and(|operation| operation.call == call)
    });
    attempts.map(|event| event.count.unwrap_or(1)).sum()
}

/// For each moment, how long after it the call ended that waited then or was the next to wait. Calls that wait are in order.
fn waits(moments: &[i64], slow: &[(i64, i64)]) -> Vec<i64> {
    let mut waits = Vec::new();
    for (index, moment) in moments.iter().enumerate() {
        let next = moments.get(index + 1).copied().unwrap_or(i64::MAX);
        // one that waits over several moments counts for each
        let waited = slow.iter().find(|(start, end)| end > moment && *start < next);
        waits.extend(waited.map(|(_, end)| end - moment));
    }
    waits
}

//! Races: an argument flips between something harmless and a database while the call on it is answered (`races.c`).

use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use acctguard::model::event::{Event, Kind};
use acctguard::model::policy::Ground;

use crate::evasion::technique::compile;
use crate::harness::bundle::{Bundle, Capabilities, Spec};
use crate::harness::events::of;
use crate::harness::node::{Node, PATIENCE, Runtime, policy};

/// How long a race may take beyond its time: starting, stopping, recording.
const GRACE: Duration = Duration::from_secs(60);

/// Each technique, and the flips of `races.c` that are ways to do it: they share its attempts.
const TECHNIQUES: [(&str, &[&str]); 10] = [
    ("path", &["path-by-thread", "path-by-process", BY_FAULT]),
    ("flags", &["flags-by-thread", "flags-by-process"]),
    ("link", &["link-by-thread", "link-by-process"]),
    ("folder", &["folder-by-thread", "folder-by-process"]),
    ("number", &["number-by-thread", "number-by-process"]),
    ("link-to-number", &["link-to-number"]),
    ("descriptor-link", &["descriptor-link"]),
    ("root", &["root-by-thread"]),
    ("exchange", &["exchange-by-thread", "exchange-by-process"]),
    ("program", &["program-by-thread"]),
];

/// Memory that changes when the kernel reads it for us wants CAP_SYS_PTRACE (userfaultfd(2)); a workload that has it is never sealed.
const BY_FAULT: &str = "path-by-fault";

/// How a race is stood against: audit finds what changed, in enforce the seal or the broker alone keeps it off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Against {
    Audit,
    Seal,
    Broker,
}

impl Against {
    const ALL: [Self; 3] = [Self::Audit, Self::Seal, Self::Broker];

    fn mode(self) -> &'static str {
        if self == Self::Audit { "audit" } else { "enforce" }
    }

    fn ground(self) -> Ground {
        match self {
            Self::Audit => Ground::Notify,
            Self::Seal => Ground::Seal,
            Self::Broker => Ground::Broker,
        }
    }

    fn policy(self) -> String {
        let landlock = if self == Self::Broker { "  landlock: off\n" } else { "" };
        policy(self.mode()) + landlock
    }

    /// How many share the attempts that each technique makes in a mode.
    fn sharers(self) -> u64 {
        if self == Self::Audit { 1 } else { 2 }
    }

    fn meets(self, flip: &str) -> bool {
        self != Self::Seal || flip != BY_FAULT
    }
}

/// What the caller asks for.
pub struct Bounds {
    attempts: u64,
    seconds: u64,
    /// Only in this mode, where one is named.
    mode: Option<String>,
    words: Vec<String>,
}

impl Bounds {
    /// From the words behind `races`.
    pub fn parse(words: &[String]) -> Result<Self, String> {
        let mut bounds = Self { attempts: 1_000_000, seconds: 1_800, mode: None, words: Vec::new() };
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
            let number = |text: &str| text.parse().map_err(|error| format!("{word} {text}: {error}"));
            match word {
                "--attempts" => bounds.attempts = number(value()?)?,
                "--seconds" => bounds.seconds = number(value()?)?,
                "--mode" => bounds.mode = Some(mode(value()?)?),
                _ if word.starts_with('-') => return Err(format!("races has no option {word}")),
                _ => bounds.words.push(word.to_owned()),
            }
        }
        if TECHNIQUES.iter().all(|(_, flips)| flips.iter().all(|flip| !bounds.wants(flip))) {
            return Err(format!("no flip has a name with one of {:?} in it", bounds.words));
        }
        Ok(bounds)
    }

    fn grounds(&self) -> impl Iterator<Item = Against> {
        Against::ALL.into_iter().filter(|against| self.mode.as_deref().is_none_or(|mode| against.mode() == mode))
    }

    fn wants(&self, flip: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| flip.contains(word.as_str()))
    }

    /// The flips of a technique that are wanted and that can be made where they are stood `against`.
    fn flips<'a>(&self, flips: &[&'a str], against: Against) -> Vec<&'a str> {
        flips.iter().copied().filter(|flip| self.wants(flip) && against.meets(flip)).collect()
    }
}

fn mode(text: &str) -> Result<String, String> {
    let known = Against::ALL.iter().any(|against| against.mode() == text);
    known.then(|| text.to_owned()).ok_or_else(|| format!("--mode {text}: use audit or enforce"))
}

/// What became of a race.
#[derive(Default)]
struct Outcome {
    attempts: u64,
    refused: u64,
    changes: u64,
    seconds: f64,
    ground: Option<Ground>,
    /// Names in the database that were not there before, or are gone, and that no finding names.
    unfound: BTreeSet<String>,
    /// How many there are with one.
    found: usize,
}

impl Outcome {
    fn lasting(&self) -> usize {
        self.found + self.unfound.len()
    }

    fn is_right(&self, against: Against) -> bool {
        let nothing_changed = self.changes == 0 && self.lasting() == 0;
        self.unfound.is_empty()
            && self.ground == Some(against.ground())
            && (against == Against::Audit || nothing_changed)
    }
}

/// Runs the races in both modes and on both grounds, and prints what came of them. True when none was lost.
pub fn run(bounds: &Bounds) -> bool {
    let program = compile(&["races.c"]);
    println!(
        "changes: the calls that the program won. lasting: accounts that the database has more or less afterwards"
    );
    println!(
        "{:<22} {:<8} {:<5} {:<8} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8}",
        "flip", "mode", "", "ground", "attempts", "a second", "refused", "changes", "lasting", "unfound"
    );
    let mut lost = 0;
    let mut sums = Vec::new();
    for against in bounds.grounds() {
        // The techniques take turns on the runtimes: which of them installed the filter makes no difference to a race.
        let nodes = Runtime::ALL.map(|runtime| Node::start(runtime, &against.policy()));
        for ((technique, flips), node) in TECHNIQUES.iter().zip(nodes.iter().cycle()) {
            let mut sum = Outcome::default();
            let flips = bounds.flips(flips, against);
            for flip in &flips {
                let share = bounds.attempts.div_ceil(flips.len() as u64 * against.sharers());
                let outcome = race(node, against, flip, &program, share, bounds.seconds);
                lost += usize::from(!outcome.as_ref().is_some_and(|outcome| outcome.is_right(against)));
                let outcome = outcome.unwrap_or_default();
                sum.attempts += outcome.attempts;
                sum.changes += outcome.changes;
                sum.found += outcome.found;
                sum.unfound.extend(outcome.unfound);
            }
            sums.extend((!flips.is_empty()).then_some((*technique, against, sum)));
        }
    }
    println!(
        "\n{:<22} {:<8} {:<8} {:>9} {:>9} {:>8} {:>8}",
        "technique", "mode", "ground", "attempts", "changes", "lasting", "unfound"
    );
    for (technique, against, sum) in &sums {
        println!(
            "{technique:<22} {:<8} {:<8} {:>9} {:>9} {:>8} {:>8}",
            against.mode(),
            against.ground().as_str(),
            sum.attempts,
            sum.changes,
            sum.lasting(),
            sum.unfound.len()
        );
    }
    for against in bounds.grounds() {
        let (attempts, changes) = sums
            .iter()
            .filter(|(_, of, _)| *of == against)
            .fold((0, 0), |(attempts, changes), (_, _, sum)| (attempts + sum.attempts, changes + sum.changes));
        println!("{} on {}: {attempts} attempts, {changes} changes", against.mode(), against.ground().as_str());
    }
    println!("{lost} races lost");
    lost == 0
}

fn print(flip: &str, against: Against, runtime: Runtime, outcome: &Outcome) {
    #[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
    let rate = outcome.attempts as f64 / outcome.seconds;
    println!(
        "{flip:<22} {:<8} {:<5} {:<8} {:>9} {rate:>9.0} {:>9} {:>9} {:>8} {:>8}",
        against.mode(),
        runtime.name(),
        outcome.ground.map_or("?", Ground::as_str),
        outcome.attempts,
        outcome.refused,
        outcome.changes,
        outcome.lasting(),
        outcome.unfound.len()
    );
    if !outcome.unfound.is_empty() {
        println!("  without a finding: {:?}", outcome.unfound);
    }
}

/// One race in a container of its own.
fn race(node: &Node, against: Against, flip: &str, program: &[u8], attempts: u64, seconds: u64) -> Option<Outcome> {
    let mode = against.mode();
    let mut spec = Spec::new(&["/races", flip, &attempts.to_string(), &seconds.to_string()]);
    if flip == BY_FAULT {
        spec.capabilities = Capabilities::All;
    }
    let bundle = node.bundle(&spec);
    bundle.put("/races", program, 0o755);
    if flip == "program-by-thread" {
        bundle.put("/usr/sbin/useradd", program, 0o755);
    }
    let started = Instant::now();
    let text = match output(node, &bundle, Duration::from_secs(seconds) + GRACE) {
        Ok(text) => text,
        Err(reason) => {
            println!("{flip:<22} {mode:<8} {:<5} ERROR {reason}", node.runtime.name());
            return None;
        }
    };
    let elapsed = started.elapsed().as_secs_f64();
    let numbers: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let &[attempts, refused, changes] = numbers.as_slice() else {
        println!("{flip:<22} {mode:<8} {:<5} ERROR it said: {}", node.runtime.name(), text.trim());
        return None;
    };
    let lasting = lasting(&bundle);
    let (events, unfound) = settled(node, &bundle, &lasting);
    let created = of(&events, Kind::ContainerCreated, &bundle.id);
    let creation = created.first().and_then(|event| event.creation.as_ref());
    let ground = creation.map(|creation| creation.protection.ground);
    let found = lasting.len() - unfound.len();
    let outcome = Outcome { attempts, refused, changes, seconds: elapsed, ground, unfound, found };
    print(flip, against, node.runtime, &outcome);
    Some(outcome)
}

/// Runs the container to its end; what it printed.
fn output(node: &Node, bundle: &Bundle, limit: Duration) -> Result<String, String> {
    let path = bundle.folder.join("output");
    let file = std::fs::File::create(&path).map_err(|error| error.to_string())?;
    let errors = file.try_clone().map_err(|error| error.to_string())?;
    let mut command = node.shim();
    command.args(["run", "--bundle"]).arg(&bundle.folder).arg(&bundle.id).stdin(Stdio::null());
    let mut child: Child = command.stdout(file).stderr(errors).spawn().map_err(|error| error.to_string())?;
    let deadline = Instant::now() + limit;
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if Instant::now() > deadline {
            node.delete(bundle);
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("it did not end within {limit:?}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

fn names(bytes: &[u8]) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    text.lines().filter_map(|line| line.split(':').next()).map(str::to_owned).collect()
}

/// Accounts that the database has more, or less, than before.
fn lasting(bundle: &Bundle) -> BTreeSet<String> {
    let (before, after) = (names(&Bundle::original("/etc/passwd")), names(&bundle.read("/etc/passwd")));
    before.symmetric_difference(&after).cloned().collect()
}

/// The events once the container's end and all of `lasting` are told, and which of those are not in the end. A finding may
/// come after the end.
fn settled(node: &Node, bundle: &Bundle, lasting: &BTreeSet<String>) -> (Vec<Event>, BTreeSet<String>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let events = node.events();
        let told = told_names(&events, bundle);
        let unfound: BTreeSet<String> = lasting.difference(&told).cloned().collect();
        let ended = !of(&events, Kind::ContainerExited, &bundle.id).is_empty();
        if (ended && unfound.is_empty()) || Instant::now() > deadline {
            return (events, unfound);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Accounts that the findings of a container name as added or removed.
fn told_names(events: &[Event], bundle: &Bundle) -> BTreeSet<String> {
    let findings = of(events, Kind::AccountFinding, &bundle.id);
    let changes = findings.iter().flat_map(|event| event.changes.iter().flatten());
    let lasting = changes.filter(|change| change.database == "/etc/passwd" && change.evidence == "content");
    lasting.filter_map(|change| change.name.clone()).collect()
}

//! Races: an argument flips between something harmless and a database while the call on it is answered (`races.c`).

use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use acctguard::model::event::{Event, Kind};

use crate::evasion::technique::compile;
use crate::harness::bundle::{Bundle, Capabilities, Spec};
use crate::harness::events::of;
use crate::harness::node::{Node, PATIENCE, Runtime, policy};

/// How long a race may take beyond its time: starting, stopping, recording.
const GRACE: Duration = Duration::from_secs(60);

const FLIPS: [&str; 17] = [
    "path-by-thread",
    "path-by-process",
    "path-by-fault",
    "flags-by-thread",
    "flags-by-process",
    "link-by-thread",
    "link-by-process",
    "folder-by-thread",
    "folder-by-process",
    "number-by-thread",
    "number-by-process",
    "link-to-number",
    "descriptor-link",
    "root-by-thread",
    "exchange-by-thread",
    "exchange-by-process",
    "program-by-thread",
];

/// What the caller asks for.
pub struct Bounds {
    attempts: u64,
    seconds: u64,
    flips: Vec<&'static str>,
}

impl Bounds {
    /// From the words behind `races`.
    pub fn parse(words: &[String]) -> Result<Self, String> {
        let mut bounds = Self { attempts: 1_000_000, seconds: 10, flips: Vec::new() };
        let mut wanted: Vec<&str> = Vec::new();
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            let mut number = || {
                let text = words.next().ok_or_else(|| format!("{word} wants a number"))?;
                text.parse().map_err(|error| format!("{word} {text}: {error}"))
            };
            match word {
                "--attempts" => bounds.attempts = number()?,
                "--seconds" => bounds.seconds = number()?,
                _ if word.starts_with('-') => return Err(format!("races has no option {word}")),
                _ => wanted.push(word),
            }
        }
        let is_wanted = |flip: &&str| wanted.is_empty() || wanted.iter().any(|word| flip.contains(word));
        bounds.flips = FLIPS.into_iter().filter(is_wanted).collect();
        if bounds.flips.is_empty() {
            return Err(format!("no flip has a name with one of {wanted:?} in it"));
        }
        Ok(bounds)
    }
}

/// What became of a race.
struct Outcome {
    attempts: u64,
    refused: u64,
    changes: u64,
    seconds: f64,
    ground: String,
    /// Names in the database that were not there before, or are gone, and that no finding names.
    unfound: BTreeSet<String>,
    /// How many there are with one.
    found: usize,
}

/// Runs the races in both modes and prints what came of them. True when none was lost.
pub fn run(bounds: &Bounds) -> bool {
    let program = compile(&["races.c"]);
    println!(
        "changes: the calls that the program won. lasting: accounts that the database has more or less afterwards"
    );
    println!(
        "{:<22} {:<8} {:<5} {:<8} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8}",
        "flip", "mode", "", "ground", "attempts", "a second", "refused", "changes", "lasting", "unfound"
    );
    let mut lost = 0;
    let mut totals = [(0, 0); 2];
    for (index, mode) in ["audit", "enforce"].into_iter().enumerate() {
        for runtime in Runtime::ALL {
            // The flips take turns on the runtimes: which of them installed the filter makes no difference to a race.
            let turn = usize::from(runtime == Runtime::Crun);
            let flips = bounds.flips.iter().enumerate().filter(|(number, _)| number % 2 == turn);
            let flips: Vec<&str> = flips.map(|(_, flip)| *flip).collect();
            if flips.is_empty() {
                continue;
            }
            let node = Node::start(runtime, &policy(mode));
            for flip in flips {
                let right = race(&node, mode, flip, &program, bounds).is_some_and(|outcome| {
                    totals[index].0 += outcome.attempts;
                    totals[index].1 += outcome.changes;
                    print(flip, mode, runtime, &outcome);
                    let lasting = outcome.found + outcome.unfound.len();
                    outcome.unfound.is_empty() && (mode == "audit" || outcome.changes == 0 && lasting == 0)
                });
                lost += usize::from(!right);
            }
        }
    }
    println!(
        "audit: {} attempts, {} changes; enforce: {} attempts, {} changes; {lost} races lost",
        totals[0].0, totals[0].1, totals[1].0, totals[1].1
    );
    lost == 0
}

fn print(flip: &str, mode: &str, runtime: Runtime, outcome: &Outcome) {
    #[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
    let rate = outcome.attempts as f64 / outcome.seconds;
    println!(
        "{flip:<22} {mode:<8} {:<5} {:<8} {:>9} {rate:>9.0} {:>8} {:>8} {:>8} {:>8}",
        runtime.name(),
        outcome.ground,
        outcome.attempts,
        outcome.refused,
        outcome.changes,
        outcome.found + outcome.unfound.len(),
        outcome.unfound.len()
    );
    if !outcome.unfound.is_empty() {
        println!("  without a finding: {:?}", outcome.unfound);
    }
}

/// One race in a container of its own.
fn race(node: &Node, mode: &str, flip: &str, program: &[u8], bounds: &Bounds) -> Option<Outcome> {
    let (attempts, seconds) = (bounds.attempts.to_string(), bounds.seconds.to_string());
    let mut spec = Spec::new(&["/races", flip, &attempts, &seconds]);
    if flip == "path-by-fault" {
        spec.capabilities = Capabilities::All;
    }
    let bundle = node.bundle(&spec);
    bundle.put("/races", program, 0o755);
    if flip == "program-by-thread" {
        for name in ["/usr/sbin/useradd", "/usr/sbin/noneadd"] {
            bundle.put(name, program, 0o755);
        }
    }
    let started = Instant::now();
    let text = match output(node, &bundle, Duration::from_secs(bounds.seconds) + GRACE) {
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
    let ground = creation.map(|creation| creation.protection.ground.as_str().to_owned()).unwrap_or_default();
    Some(Outcome {
        attempts,
        refused,
        changes,
        seconds: elapsed,
        ground,
        found: lasting.len() - unfound.len(),
        unfound,
    })
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

//! What an open costs one container while another is idle, and while that does its worst: in turns, in one run.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::chaos::obedient::{Hanging, Obedient};
use crate::harness::command::finish;
use crate::harness::node::{Node, Runtime, policy};

/// How many times as long an open may take beside a container that does its worst.
const MOST_AT_P50: f64 = 1.3;
const MOST_AT_P99: f64 = 2.0;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Rounds, idle and loaded in turns.
    pub rounds: u32,
    /// Calls in each.
    pub calls: u32,
}

impl Bounds {
    /// From the words behind the program's name, with the modes to measure in.
    fn parse(words: &[String]) -> Result<(Self, Vec<String>), String> {
        let mut words = words.iter().map(String::as_str);
        let mut bounds = Self { rounds: 10, calls: 2000 };
        let mut modes = vec!["audit".to_owned(), "enforce".to_owned()];
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("{word} wants a value"))?;
            let number = || value.parse().map_err(|error| format!("{word} {value}: {error}"));
            match word {
                "--rounds" => bounds.rounds = number()?,
                "--calls" => bounds.calls = number()?,
                "--mode" => modes = vec![value.to_owned()],
                _ => return Err(format!("no option {word}")),
            }
        }
        Ok((bounds, modes))
    }
}

/// What the other container does, and how it is made to and to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Four threads make calls without a pause.
    Flood,
    /// Four processes fork without a pause.
    Storm,
    /// It is stopped in the middle of a flood.
    Stopped,
    /// It is frozen so.
    Frozen,
    /// Its threads wait for a FUSE server that never answers.
    HungPath,
    /// Such a file system lies on the way to one of its databases.
    HungDatabase,
}

impl Deed {
    const ALL: [Self; 6] = [Self::Flood, Self::Storm, Self::Stopped, Self::Frozen, Self::HungPath, Self::HungDatabase];

    const fn name(self) -> &'static str {
        match self {
            Self::Flood => "flooding",
            Self::Storm => "fork storm",
            Self::Stopped => "stopped",
            Self::Frozen => "frozen",
            Self::HungPath => "hung on FUSE",
            Self::HungDatabase => "database hung",
        }
    }
}

/// A twentieth of one processor: what floods competes for the machine's processors like any program, which is the engine's to
/// bound and not what is measured.
fn limited(config: &mut Value) {
    config["linux"]["resources"]["cpu"] = json!({"quota": 5000, "period": 100_000});
}

/// One deed for as long as it lives.
struct Doing<'a> {
    node: &'a Node,
    deed: Deed,
    other: &'a mut Obedient,
    hanging: Option<Hanging>,
    since: Instant,
}

impl<'a> Doing<'a> {
    fn begin(node: &'a Node, deed: Deed, other: &'a mut Obedient) -> Self {
        let mut hanging = None;
        match deed {
            Deed::Flood => assert_eq!(other.ask("flood 4"), "begun"),
            Deed::Storm => assert_eq!(other.ask("storm 4"), "begun"),
            Deed::Stopped | Deed::Frozen => {
                assert_eq!(other.ask("flood 4"), "begun");
                std::thread::sleep(Duration::from_millis(50));
                give(node, deed, other, true);
            }
            Deed::HungPath => {
                hanging = Some(Hanging::mount(node, other, "/hangs"));
                (0..8).for_each(|number| other.tell(&format!("reach /hangs/{number}")));
            }
            Deed::HungDatabase => {
                hanging = Some(Hanging::mount(node, other, "/srv/accounts"));
                // a directory that was found is taken for the one at its path for a second
                std::thread::sleep(Duration::from_millis(1200));
                (0..8).for_each(|number| other.tell(&format!("reach /tmp/{number}")));
            }
        }
        std::thread::sleep(Duration::from_millis(100));
        Self { node, deed, other, hanging, since: Instant::now() }
    }

    /// Ends it; how many intercepted calls a second that were.
    fn end(mut self) -> f64 {
        if matches!(self.deed, Deed::HungPath | Deed::HungDatabase) {
            self.hanging = None;
            while self.other.line(Duration::from_millis(500)).is_some() {}
            return 0.0;
        }
        let took = self.since.elapsed().as_secs_f64();
        give(self.node, self.deed, self.other, false);
        let calls: f64 = self.other.ask("calm").parse().expect("a number");
        if self.deed == Deed::Flood { calls / took } else { 0.0 }
    }
}

fn give(node: &Node, deed: Deed, other: &Obedient, begins: bool) {
    match deed {
        Deed::Stopped => {
            let signal = if begins { "STOP" } else { "CONT" };
            finish(Command::new("kill").args(["-s", signal, &other.pid(node).to_string()])).ok();
        }
        Deed::Frozen => {
            let word = if begins { "pause" } else { "resume" };
            finish(node.bare().arg(word).arg(&other.bundle.id)).ok();
        }
        _ => {}
    }
}

fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() * percent / 100).copied().unwrap_or(f64::NAN)
}

/// What an open costs, in nanoseconds, beside an idle container and beside one at its worst.
#[derive(Debug, Clone, Copy)]
pub struct Costs {
    idle: [f64; 2],
    loaded: [f64; 2],
    /// Intercepted calls a second of the other.
    rate: f64,
}

impl Costs {
    /// How many times the idle one's the loaded one's median is, and the 99th percentile.
    pub fn ratios(&self) -> [f64; 2] {
        [self.loaded[0] / self.idle[0], self.loaded[1] / self.idle[1]]
    }

    fn print(&self, deed: Deed) -> bool {
        let Self { idle, loaded, rate } = self;
        let [at50, at99] = self.ratios();
        let is_within = at50 <= MOST_AT_P50 && at99 <= MOST_AT_P99;
        println!(
            "  {:<14}{:>9.1} µs{:>9.1} µs  ×{at50:<6.2}{:>9.1} µs{:>9.1} µs  ×{at99:<6.2}{}{}",
            deed.name(),
            idle[0] / 1000.0,
            loaded[0] / 1000.0,
            idle[1] / 1000.0,
            loaded[1] / 1000.0,
            if *rate > 0.0 { format!("  {rate:.0} calls/s") } else { String::new() },
            if is_within { "" } else { "  TOO MUCH" }
        );
        is_within
    }
}

/// Measures beside one deed, in turns with an idle neighbour.
pub fn beside(node: &Node, deed: Deed, bounds: Bounds) -> Costs {
    let mut measured = Obedient::start(node, |_| {});
    let mut other = Obedient::start(node, limited);
    measured.measure(bounds.calls);
    let (mut idle, mut loaded, mut rate) = (Vec::new(), Vec::new(), 0.0);
    for _ in 0..bounds.rounds {
        idle.extend(measured.measure(bounds.calls));
        let doing = Doing::begin(node, deed, &mut other);
        loaded.extend(measured.measure(bounds.calls));
        rate += doing.end() / f64::from(bounds.rounds);
    }
    let [idle, loaded] = [&mut idle, &mut loaded].map(|values| [50, 99].map(|percent| percentile(values, percent)));
    Costs { idle, loaded, rate }
}

/// The whole program: everything that another container may do, in both modes. True when every bound is kept.
///
/// # Errors
/// Words that are no options.
pub fn run(words: &[String]) -> Result<bool, String> {
    let (bounds, modes) = Bounds::parse(words)?;
    let mut is_within = true;
    for mode in &modes {
        println!(
            "an open for writing in one container ({mode}), the other idle and at its worst in turns, its programs limited to"
        );
        println!("5 % of a processor ({} × {} calls each)", bounds.rounds, bounds.calls);
        println!("  {:<14}{:>12}{:>12}  {:<7}{:>12}{:>12}", "the other", "p50 idle", "p50", "", "p99 idle", "p99");
        let node = Node::start(Runtime::Runc, &policy(mode));
        for deed in Deed::ALL {
            is_within &= beside(&node, deed, bounds).print(deed);
        }
    }
    println!("bounds: ×{MOST_AT_P50} at p50, ×{MOST_AT_P99} at p99: {}", if is_within { "kept" } else { "NOT kept" });
    Ok(is_within)
}

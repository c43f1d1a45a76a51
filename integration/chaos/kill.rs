//! `kill -9` at random moments: of the worker, and of the keeper.

use std::fs;
use std::io::Read as _;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::figures::Figures;
use super::load::{Load, Part, Program, clock, parts};
use crate::harness::node::Node;

/// How long a killed process's successor may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest that a process lives, once its worker serves, before it is killed.
const LONGEST_LIFE_US: u64 = 600_000;
/// A third of them die while they begin.
const BEGINNING_US: u64 = 60_000;

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The worker.
    Worker,
    /// The keeper; its standby takes over.
    Keeper,
}

/// How often, and for how long at most.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// So many times.
    pub count: usize,
    /// Or until so many seconds are over.
    pub seconds: u64,
}

impl Bounds {
    /// From the words behind the program's name, of which `counted` is the option for the number.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(words: &[String], counted: &str, count: usize) -> Result<Self, String> {
        let mut bounds = Self { count, seconds: 24 * 3600 };
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            let text = words.next().ok_or_else(|| format!("{word} wants a number, if it is an option at all"))?;
            let number: u32 = text.parse().map_err(|error| format!("{word} {text}: {error}"))?;
            match word {
                _ if word == counted => bounds.count = number as usize,
                "--seconds" => bounds.seconds = u64::from(number),
                _ => return Err(format!("no option {word}")),
            }
        }
        Ok(bounds)
    }
}

/// The whole program: 20 containers of all kinds. True when nothing is wrong.
///
/// # Errors
/// What is wrong with `words`.
#[cfg_attr(test, expect(dead_code, reason = "the tests run a short one"))]
pub fn run(victim: Victim, words: &[String]) -> Result<bool, String> {
    let bounds = Bounds::parse(words, "--kills", 1_000)?;
    let parts = parts(&[Program::C, Program::Shell, Program::Python, Program::Go, Program::C], 20);
    let started = Instant::now();
    let (figures, kills) = kill_under_load(victim, bounds, &parts);
    let what = if victim == Victim::Worker { "kills of the worker" } else { "kills of the keeper" };
    figures.print(what, kills, started.elapsed().as_secs());
    Ok(figures.is_right() && kills > 0)
}

/// Kills under load; the figures, and how many kills there were.
pub fn kill_under_load(victim: Victim, bounds: Bounds, parts: &[Part]) -> (Figures, usize) {
    let with_standby = if victim == Victim::Keeper { "[daemon]\nstandby = true\n" } else { "" };
    let mut load = Load::prepare(with_standby);
    load.node.start_daemon();
    let _end = (victim == Victim::Keeper).then(|| EndOfKeepers { run_dir: load.node.scratch.path().join("run") });
    load.start(parts);
    let mut random = Random::new();
    let mut last = None;
    let mut moments = Vec::new();
    let mut serving = Serving::new(&load.node);
    let started = Instant::now();
    let (origin, nanoseconds) = clock();
    while moments.len() < bounds.count && started.elapsed().as_secs() < bounds.seconds {
        load.start_another();
        let pid = next_victim(&load.node, victim, last);
        let mut life = BEGINNING_US;
        if random.below(3) > 0 {
            serving.wait();
            life = LONGEST_LIFE_US;
        }
        std::thread::sleep(Duration::from_micros(random.below(life)));
        let since = i64::try_from(origin.elapsed().as_nanos()).unwrap_or(i64::MAX);
        match kill(pid, Signal::SIGKILL) {
            Ok(()) => moments.push(nanoseconds + since),
            Err(error) => println!("{pid} was gone before it was killed: {error}"),
        }
        serving.skip();
        last = Some(pid);
        if moments.len() % 100 == 0 {
            println!("{} kills", moments.len());
        }
    }
    // the load ends with a daemon that serves
    serving.wait();
    let figures = Figures::take(&mut load, &moments);
    (figures, moments.len())
}

/// The process to be killed next, another than the last.
fn next_victim(node: &Node, victim: Victim, last: Option<Pid>) -> Pid {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let keeper = keeper(node, victim);
        let pid = if victim == Victim::Keeper { keeper } else { keeper.and_then(worker_of) };
        if let Some(pid) = pid.filter(|pid| Some(*pid) != last && kill(*pid, None).is_ok()) {
            return pid;
        }
        assert!(Instant::now() < deadline, "nobody came after {last:?} ({victim:?}):\n{}", tail(&node.log_text()));
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(40)).copied().collect::<Vec<_>>().join("\n")
}

/// The keeper that was started, or with a standby whoever is keeper now.
fn keeper(node: &Node, victim: Victim) -> Option<Pid> {
    if victim == Victim::Worker {
        return Some(node.daemon_pid());
    }
    written_pid(&node.scratch.path().join("run"))
}

fn written_pid(run_dir: &std::path::Path) -> Option<Pid> {
    let text = fs::read_to_string(run_dir.join("daemon.pid")).ok()?;
    text.trim().parse().ok().map(Pid::from_raw)
}

/// The worker among the children of a keeper; a standby is one too.
pub fn worker_of(keeper: Pid) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).ok()?;
    let mut pids = children.split_whitespace().filter_map(|word| word.parse().ok());
    pids.find(|pid: &i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == b"--worker")
    })
    .map(Pid::from_raw)
}

/// Ends whoever is keeper in the end: it is no child of ours.
struct EndOfKeepers {
    run_dir: std::path::PathBuf,
}

impl Drop for EndOfKeepers {
    fn drop(&mut self) {
        let Some(pid) = written_pid(&self.run_dir) else { return };
        let deadline = Instant::now() + PATIENCE;
        let mut alive = kill(pid, Signal::SIGTERM).is_ok();
        while alive && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
            alive = kill(pid, None).is_ok();
        }
        if alive {
            eprintln!("the keeper {pid} did not end when it was asked to");
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// Tells by the log when a worker serves.
struct Serving {
    log: fs::File,
    /// A line that is not complete yet.
    rest: Vec<u8>,
}

impl Serving {
    fn new(node: &Node) -> Self {
        let log = fs::File::open(node.scratch.path().join("daemon.log")).expect("open the log");
        Self { log, rest: Vec::new() }
    }

    /// Whether a worker has begun to serve since this was asked last.
    fn has_begun(&mut self) -> bool {
        self.log.read_to_end(&mut self.rest).expect("read the log");
        let complete = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines: Vec<u8> = self.rest.drain(..complete).collect();
        String::from_utf8_lossy(&lines).contains("acctguard-daemon serves")
    }

    fn skip(&mut self) {
        self.has_begun();
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.has_begun() {
            assert!(Instant::now() < deadline, "no worker serves after {} s", PATIENCE.as_secs());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Numbers that differ from run to run (xorshift).
struct Random(u64);

impl Random {
    fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self(now.as_secs() << 32 | u64::from(now.subsec_nanos()) | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound.max(1)
    }
}

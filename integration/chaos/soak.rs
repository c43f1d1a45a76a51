//! Many containers for a while, with starts and stops: what keeper and worker hold returns to what it was.

use std::collections::VecDeque;
use std::fs;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::chaos::obedient::program;
use crate::harness::bundle::{Bundle, Spec};
use crate::harness::command::finish;
use crate::harness::node::{Node, Runtime, policy};

/// What may be held beyond the start when all containers have ended: memory that the allocator keeps for later.
const MOST_MEMORY_LEFT_KIB: u64 = 24 * 1024;
/// How long after the last container's end.
const SETTLING: Duration = Duration::from_secs(30);

struct Bounds {
    seconds: u64,
    containers: usize,
    mode: String,
}

impl Bounds {
    fn parse(words: &[String]) -> Result<Self, String> {
        let mut words = words.iter().map(String::as_str);
        let mut bounds = Self { seconds: 600, containers: 1000, mode: "audit".to_owned() };
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("{word} wants a value"))?;
            let number = || value.parse::<u64>().map_err(|error| format!("{word} {value}: {error}"));
            match word {
                "--seconds" => bounds.seconds = number()?,
                "--containers" => bounds.containers = usize::try_from(number()?).map_err(|error| error.to_string())?,
                "--mode" => bounds.mode = value.to_owned(),
                _ => return Err(format!("no option {word}")),
            }
        }
        Ok(bounds)
    }
}

/// What a process holds.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    descriptors: usize,
    threads: usize,
    memory_kib: u64,
}

impl Held {
    fn by(pid: Pid) -> Self {
        let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).map_or(0, Iterator::count);
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("read smaps_rollup");
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).expect("Pss");
        let memory_kib = line.trim().trim_end_matches(" kB").parse().expect("a number");
        Self { descriptors: count("fd"), threads: count("task"), memory_kib }
    }

    fn line(&self) -> String {
        let Self { descriptors, threads, memory_kib } = self;
        format!("{descriptors:>6} descriptors {threads:>6} threads {memory_kib:>8} KiB")
    }
}

/// Keeper and worker.
struct Both([Held; 2]);

impl Both {
    fn of(node: &Node) -> Self {
        Self([node.daemon_pid(), node.worker_pid()].map(Held::by))
    }

    fn print(&self, when: &str) {
        let Self([keeper, worker]) = self;
        println!("  {when:<20} keeper {}   worker {}", keeper.line(), worker.line());
    }

    fn memory_kib(&self) -> u64 {
        self.0.iter().map(|held| held.memory_kib).sum()
    }

    /// Whether no more is held than in the `first` place.
    fn has_returned_to(&self, first: &Self) -> bool {
        self.0.iter().zip(&first.0).all(|(now, first)| {
            now.descriptors <= first.descriptors
                && now.threads <= first.threads
                && now.memory_kib <= first.memory_kib + MOST_MEMORY_LEFT_KIB
        })
    }
}

fn start(node: &Node) -> Bundle {
    let bundle = node.bundle(&Spec::new(&["/chaos", "sleep"]));
    bundle.put("/chaos", program(), 0o755);
    fs::create_dir_all(bundle.path("tmp")).expect("create folder");
    node.create(&bundle).ok();
    let mut start = node.shim();
    finish(start.arg("start").arg(&bundle.id)).ok();
    bundle
}

fn end(node: &Node, bundle: &Bundle) {
    node.delete(bundle).ok();
    let root = bundle.folder.join("rootfs");
    nix::mount::umount2(&root, nix::mount::MntFlags::MNT_DETACH).expect("unmount the root file system");
    fs::remove_dir_all(&bundle.folder).expect("remove the bundle");
}

/// The whole program. True when nothing leaked.
///
/// # Errors
/// Words that are no options.
pub fn run(words: &[String]) -> Result<bool, String> {
    let bounds = Bounds::parse(words)?;
    let node = Node::start(Runtime::Runc, &policy(&bounds.mode));
    // what is made once and stays is not a leak
    let warm = start(&node);
    std::thread::sleep(Duration::from_secs(4));
    end(&node, &warm);
    std::thread::sleep(Duration::from_secs(8));
    let first = Both::of(&node);
    println!("{} containers ({}), starts and stops for {} s", bounds.containers, bounds.mode, bounds.seconds);
    first.print("at the start");
    let began = Instant::now();
    let mut running: VecDeque<Bundle> = (0..bounds.containers).map(|_| start(&node)).collect();
    println!("  all of them run after {:.0} s", began.elapsed().as_secs_f64());
    let full = Both::of(&node);
    full.print("with all of them");
    let more = full.memory_kib().saturating_sub(first.memory_kib());
    println!("  memory for each: {} KiB in keeper and worker", more / bounds.containers.max(1) as u64);
    let deadline = Instant::now() + Duration::from_secs(bounds.seconds);
    let (mut turns, mut told) = (0_u64, Instant::now());
    while Instant::now() < deadline {
        if let Some(oldest) = running.pop_front() {
            end(&node, &oldest);
            running.push_back(start(&node));
            turns += 1;
        }
        if told.elapsed() > Duration::from_secs(60) {
            Both::of(&node).print(&format!("after {turns} turns"));
            told = Instant::now();
        }
    }
    println!("  {turns} containers ended and started");
    Both::of(&node).print("after that");
    running.iter().for_each(|bundle| end(&node, bundle));
    let settled = Instant::now() + SETTLING;
    let mut last = Both::of(&node);
    while !last.has_returned_to(&first) && Instant::now() < settled {
        std::thread::sleep(Duration::from_millis(500));
        last = Both::of(&node);
    }
    last.print("at the end");
    let is_back = last.has_returned_to(&first);
    println!("{}", if is_back { "nothing leaked" } else { "LEAKED: more is held than at the start" });
    Ok(is_back)
}

//! What acctguard costs: what `integration/bench` runs. The same calls and the same starts in containers of the bare runc and in
//! guarded ones, in turns, and how many times as long each took.

// The benchmark uses a part of what the tests use.
#[expect(dead_code, reason = "the rest of the harness is the tests'")]
mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::mount::MsFlags;

use crate::harness::bundle::{Bundle, Capabilities, Spec};
use crate::harness::command::Done;
use crate::harness::machine::{compiled, launcher};
use crate::harness::node::{Node, Runtime, policy};

/// How long the launcher may take.
const LAUNCHER_LIMIT: Duration = Duration::from_millis(2);

struct Bounds {
    rounds: usize,
    calls: u64,
}

impl Bounds {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut bounds = Self { rounds: 15, calls: 4000 };
        while let Some(word) = words.next() {
            let mut number = || -> Result<u64, String> {
                let text = words.next().ok_or_else(|| format!("{word} wants a number"))?;
                text.parse::<u64>()
                    .ok()
                    .filter(|number| *number > 1)
                    .ok_or_else(|| format!("{word} {text}: at least 2"))
            };
            match word.as_str() {
                "--rounds" => bounds.rounds = usize::try_from(number()?).map_err(|error| error.to_string())?,
                "--calls" => bounds.calls = number()?,
                _ => return Err(format!("no option {word}")),
            }
        }
        Ok(bounds)
    }
}

/// Who runs a container.
#[derive(Clone, Copy)]
enum By<'a> {
    Bare(&'a Node),
    Shim(&'a Node),
}

impl By<'_> {
    fn run(self, prepare: impl Fn(&Node) -> Bundle) -> (Done, Duration) {
        let (Self::Bare(node) | Self::Shim(node)) = self;
        let bundle = prepare(node);
        let started = Instant::now();
        let done = match self {
            Self::Bare(node) => node.run_bare(&bundle),
            Self::Shim(node) => node.run(&bundle),
        };
        (done.ok(), started.elapsed())
    }
}

/// The numbers that the program in the container printed.
fn numbers(done: &Done) -> Vec<f64> {
    done.stdout.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// One thing that is measured: for each way of running, a value a round.
struct Series {
    what: &'static str,
    values: Vec<Vec<f64>>,
}

impl Series {
    fn new(what: &'static str, ways: usize) -> Self {
        Self { what, values: vec![Vec::new(); ways] }
    }

    fn line(&self) -> String {
        let bare = self.values.first().map(Vec::as_slice).unwrap_or_default();
        let ratios = self.values.iter().skip(1).map(|values| {
            let ratios = values.iter().zip(bare).map(|(value, bare)| value / bare).collect();
            let (median, least) = median_and_least(ratios);
            format!("{:<19}", format!("×{median:.2} (×{least:.2})"))
        });
        let (median, _) = median_and_least(bare.to_vec());
        format!("{:<18}{:>9.1} µs   {}", self.what, median / 1000.0, ratios.collect::<String>())
    }
}

fn median_and_least(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    (at(values.len() / 2), at(0))
}

/// Nodes of each mode.
struct Nodes {
    audit: Node,
    sealed: Node,
    brokered: Node,
}

impl Nodes {
    fn start() -> Self {
        let enforce = policy("enforce");
        Self {
            audit: Node::start(Runtime::Runc, &policy("audit")),
            sealed: Node::start(Runtime::Runc, &enforce),
            brokered: Node::start(Runtime::Runc, &format!("{enforce}  landlock: off\n")),
        }
    }

    fn ways(&self) -> [By<'_>; 4] {
        [By::Bare(&self.audit), By::Shim(&self.audit), By::Shim(&self.sealed), By::Shim(&self.brokered)]
    }
}

fn bundle(node: &Node, program: &[u8], arguments: &[&str]) -> Bundle {
    let bundle = node.bundle(&Spec::new(arguments));
    bundle.put("/bench", program, 0o755);
    bundle
}

fn measure_calls_and_starts(nodes: &Nodes, program: &[u8], bounds: &Bounds) {
    let ways = nodes.ways();
    let mut series = ["open for writing", "open for reading", "rename", "runc run /bin/true"]
        .map(|what| Series::new(what, ways.len()));
    let calls = bounds.calls.to_string();
    for round in 0..bounds.rounds {
        for step in 0..ways.len() {
            // whoever comes first in one round comes later in the next
            let way = (round + step) % ways.len();
            let (done, _) = ways[way].run(|node| bundle(node, program, &["/bench", "calls", &calls]));
            let (_, start) = ways[way].run(|node| bundle(node, program, &["/bin/true"]));
            #[expect(clippy::cast_precision_loss, reason = "a time for people to read")]
            let start = start.as_nanos() as f64;
            for (series, value) in series.iter_mut().zip(numbers(&done).into_iter().chain([start])) {
                series.values[way].push(value);
            }
        }
    }
    println!(
        "times of the bare runc, and how many times as long it took guarded: median (minimum) of {} rounds",
        bounds.rounds
    );
    println!("{:<18}{:>12}   {:<19}{:<19}{:<19}", "", "bare", "audit", "sealed", "brokered");
    for series in series {
        println!("{}", series.line().trim_end());
    }
}

/// From the launcher's execve to the program's first instruction, less the same without launcher: its share of a start. The longest, in
/// nanoseconds.
fn measure_launcher(nodes: &Nodes, program: &[u8], bounds: &Bounds) -> f64 {
    let static_launcher = std::fs::read(launcher()).expect("read the launcher");
    let count = (bounds.rounds * 10).to_string();
    let prepare = |node: &Node| {
        let mut spec = Spec::new(&["/bench", "start", &count, "/launch", "--"]);
        // it may seal itself again
        spec.no_new_privileges = true;
        spec.capabilities = Capabilities::Engine;
        let bundle = node.bundle(&spec);
        bundle.put("/bench", program, 0o755);
        bundle.put("/launch", &static_launcher, 0o755);
        bundle
    };
    let mut longest = 0.0_f64;
    for (what, way) in
        [("a bare container", By::Bare(&nodes.sealed)), ("an enforced container", By::Shim(&nodes.sealed))]
    {
        let (done, _) = way.run(prepare);
        let [direct, behind] = numbers(&done)[..] else { panic!("it said {:?}", done.stdout) };
        let share = behind - direct;
        println!(
            "the launcher's share of a start, in {what}: {:.2} ms, ×{:.2} of what an exec alone takes ({:.2} ms; medians of {count})",
            share / 1e6,
            share / direct,
            direct / 1e6
        );
        longest = longest.max(share);
    }
    longest
}

/// The same of containers' own starts, where the launcher puts a listener of its own in the place of runc's: from its execve to the last
/// call that it makes before the program's. That one is held by the daemon while it looks at the container, which is no part of it. The
/// longest median, in nanoseconds.
fn measure_launcher_that_listens(nodes: &Nodes, program: &[u8], bounds: &Bounds) -> f64 {
    let trace = Trace::start();
    let start = |node: &Node| {
        trace.clear();
        node.run(&bundle(node, program, &["/bench", "calls", "2"])).ok();
        trace.events()
    };
    let name = launcher_of(&start(&nodes.sealed)).expect("the first start behind the launcher");
    trace.watch_calls_of(&name);
    let mut longest = 0.0_f64;
    for (what, node) in [("sealed", &nodes.sealed), ("brokered", &nodes.brokered)] {
        let took = (0..bounds.rounds * 2).map(|_| time_of_launcher(&start(node)).expect("a start behind the launcher"));
        let (median, least) = median_and_least(took.collect());
        println!(
            "the same in a {what} container's own start, with a listener of the launcher's own: {:.2} ms (at least {:.2} ms)",
            median / 1e6,
            least / 1e6
        );
        longest = longest.max(median);
    }
    longest
}

/// The execve(2) of the launcher, and the events from there to that of `/bench`, which is none of them.
fn launcher_events(events: &[TraceEvent]) -> Option<(&TraceEvent, Vec<&TraceEvent>)> {
    let program = events.iter().find(|event| event.executed() == Some("/bench"))?;
    let mut own: Vec<_> = events.iter().filter(|event| event.pid == program.pid && event.at < program.at).collect();
    let mut calls = own.split_off(own.iter().rposition(|event| event.executed().is_some())? + 1);
    // the end of the execve(2) itself
    calls.retain(|event| !event.what.starts_with(&format!("sys_exit: NR {} ", nix::libc::SYS_execve)));
    Some((own.pop()?, calls))
}

/// Name of the launcher's process.
fn launcher_of(events: &[TraceEvent]) -> Option<String> {
    launcher_events(events)?.0.executed()?.rsplit('/').next().map(str::to_owned)
}

/// Nanoseconds from the launcher's execve(2) to its last call.
fn time_of_launcher(events: &[TraceEvent]) -> Option<f64> {
    let (launcher, calls) = launcher_events(events)?;
    Some(calls.last()?.at - launcher.at)
}

/// One line of the kernel's trace.
struct TraceEvent {
    pid: u32,
    /// Nanoseconds.
    at: f64,
    what: String,
}

impl TraceEvent {
    /// Of a line `comm-pid [cpu] flags seconds: event: …`.
    fn parse(line: &str) -> Option<Self> {
        let (task, rest) = line.split_once(" [")?;
        let (before, what) = rest.split_once(": ")?;
        let seconds: f64 = before.split_whitespace().next_back()?.parse().ok()?;
        Some(Self { pid: task.trim_end().rsplit('-').next()?.parse().ok()?, at: seconds * 1e9, what: what.to_owned() })
    }

    /// The path of an execve(2).
    fn executed(&self) -> Option<&str> {
        self.what.strip_prefix("sched_process_exec: filename=")?.split(' ').next()
    }
}

/// What the launcher does for each entry of a sealed directory; it begins and ends with other calls.
const FREQUENT: [nix::libc::c_long; 5] = [
    nix::libc::SYS_openat,
    nix::libc::SYS_newfstatat,
    nix::libc::SYS_landlock_add_rule,
    nix::libc::SYS_close,
    nix::libc::SYS_readlink,
];

/// An instance of the kernel's tracing of our own (Documentation/trace/ftrace.rst, "Instances"); gone when dropped.
struct Trace {
    instance: PathBuf,
    mounted: bool,
}

impl Trace {
    fn start() -> Self {
        let root = Path::new("/sys/kernel/tracing");
        let mounted = !root.join("instances").exists();
        if mounted {
            let none = None::<&str>;
            nix::mount::mount(none, root, Some("tracefs"), MsFlags::empty(), none).expect("mount tracefs");
        }
        let trace = Self { instance: root.join("instances/acctguard-bench"), mounted };
        // of a run that was killed
        let _ = fs::remove_dir(&trace.instance);
        fs::create_dir(&trace.instance).expect("make a trace instance: see whether the kernel has CONFIG_FTRACE");
        trace.set("trace_clock", "mono");
        trace.set("events/sched/sched_process_exec/enable", "1");
        trace
    }

    fn set(&self, name: &str, value: &str) {
        fs::write(self.instance.join(name), value).unwrap_or_else(|error| panic!("trace {name}: {error}"));
    }

    /// Tells the ends of system calls of processes of that name, too; but of those of which there are hundreds: to tell them would take
    /// longer than to make them.
    fn watch_calls_of(&self, name: &str) {
        let others = FREQUENT.map(|number| format!(" && id != {number}")).concat();
        self.set("events/raw_syscalls/sys_exit/filter", &format!("comm == \"{name}\"{others}"));
        self.set("events/raw_syscalls/sys_exit/enable", "1");
    }

    fn clear(&self) {
        self.set("trace", "");
    }

    fn events(&self) -> Vec<TraceEvent> {
        let text = fs::read_to_string(self.instance.join("trace")).expect("read the trace");
        text.lines().filter_map(TraceEvent::parse).collect()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.instance);
        if self.mounted {
            let _ = nix::mount::umount("/sys/kernel/tracing");
        }
    }
}

fn main() -> ExitCode {
    let bounds = match Bounds::parse(std::env::args().skip(1)) {
        Ok(bounds) => bounds,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(64);
        }
    };
    let program = compiled("bench.c");
    let nodes = Nodes::start();
    measure_calls_and_starts(&nodes, &program, &bounds);
    let longest = measure_launcher(&nodes, &program, &bounds);
    let longest = longest.max(measure_launcher_that_listens(&nodes, &program, &bounds));
    if longest < LAUNCHER_LIMIT.as_secs_f64() * 1e9 {
        return ExitCode::SUCCESS;
    }
    println!("the launcher takes longer than {} ms", LAUNCHER_LIMIT.as_millis());
    ExitCode::FAILURE
}

//! Programs under signals, frozen and stopped (`fixtures/signals.c`, and Go's own in `fixtures/signals.go`), through runc, whose calls a signal cancels, and
//! crun, whose calls wait killable, as those of an enforced workload do by the launcher's listener (signal(7), "Interruption of system calls"; seccomp_unotify(2)): they get on, nothing is done
//! or told twice, and nobody sees an error that no signal gives without acctguard. A program that wants a listener of its own
//! gets EBUSY from the kernel, and that is told.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use acctguard::model::event::{Event, Kind, Outcome};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::harness::bundle::{Bundle, Spec};
use crate::harness::command::{LIMIT, finish};
use crate::harness::events::{container_id, of};
use crate::harness::machine::{compiled, compiled_go, fixture};
use crate::harness::node::{Node, PATIENCE, Runtime, policy};

/// Rounds of twelve calls for each thread.
const ROUNDS: &str = "20";

/// Microseconds between signals. Where a signal cancels a call that is being answered, answers must come in less than that, also of a
/// program that was not made for speed on a machine that is busy: there it is what Go's own preemption takes (runtime/proc.go,
/// `forcePreemptNS`).
fn interval(runtime: Runtime, way: Way) -> &'static str {
    match (runtime, way) {
        (Runtime::Runc, Way::Bare | Way::Audit | Way::Exec) => "10000",
        // the launcher's listener has calls wait where the runtime's does not
        _ => "300",
    }
}

/// How often `signals` signals may have the kernel lose an answer that it took, which then is to a call that is made again: a signal
/// wakes the caller just before the answer is given, and the caller looks only after (kernel/seccomp.c,
/// `seccomp_do_user_notification`). One signal of 30 did where answers come at once, under either runtime: a caller begins to wait
/// killable only after the daemon has its call. Without what is kept of a call nearly every signal would double it.
fn lost_answers(signals: u64) -> u64 {
    signals / 10 + 2
}

/// What stands between the program and the databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Bare,
    Audit,
    Sealed,
    Brokered,
    Exec,
    SealedExec,
}

impl Way {
    fn node(self, runtime: Runtime) -> Node {
        let policy = match self {
            Self::Bare | Self::Audit => policy("audit"),
            Self::Brokered => format!("{}  landlock: off\n", policy("enforce")),
            Self::Sealed | Self::Exec => policy("enforce"),
            Self::SealedExec => format!("{}  exec: sealed\n", policy("enforce")),
        };
        Node::start(runtime, &policy)
    }
}

/// The program's last line.
#[derive(Debug)]
struct Outcomes(BTreeMap<String, String>);

impl Outcomes {
    fn parse(stdout: &str) -> Self {
        let words = stdout.split_whitespace().filter_map(|word| word.split_once('='));
        Self(words.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    #[track_caller]
    fn word(&self, key: &str) -> &str {
        self.0.get(key).unwrap_or_else(|| panic!("no {key} in {self:?}"))
    }

    #[track_caller]
    fn number(&self, key: &str) -> u64 {
        self.word(key).parse().unwrap_or_else(|error| panic!("{key} in {self:?}: {error}"))
    }
}

fn bundle(node: &Node, arguments: &[&str]) -> Bundle {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    static GO_PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    let bundle = node.bundle(&Spec::new(arguments));
    bundle.put("/signals", PROGRAM.get_or_init(|| compiled("signals.c")), 0o755);
    bundle.put("/signals-go", GO_PROGRAM.get_or_init(|| compiled_go(&fixture("signals.go"))), 0o755);
    // there before the seal, which grants it then
    std::fs::create_dir(bundle.path("/work")).expect("create folder");
    bundle
}

fn run(node: &Node, way: Way, words: &[&str]) -> Outcomes {
    run_program(node, way, &[&["/signals"], words].concat())
}

fn run_program(node: &Node, way: Way, arguments: &[&str]) -> Outcomes {
    let done = match way {
        Way::Bare => node.run_bare(&bundle(node, arguments)),
        Way::Exec | Way::SealedExec => {
            let bundle = bundle(node, &["/bin/busybox", "sleep", "3600"]);
            node.create(&bundle).ok();
            finish(node.shim().arg("start").arg(&bundle.id)).ok();
            node.exec(&bundle, arguments)
        }
        _ => node.run(&bundle(node, arguments)),
    };
    let done = done.ok();
    // what failed or was done twice
    eprint!("{}", done.stderr);
    Outcomes::parse(&done.stdout)
}

/// Nothing was done twice but what `lost` answers explain, nothing failed, and no descriptor was put in twice and left.
#[track_caller]
fn assert_unharmed(outcomes: &Outcomes, lost: u64, what: &str) {
    assert!(outcomes.number("doubled") <= lost && outcomes.number("failed") == 0, "{what}: {outcomes:?}");
    assert!(outcomes.number("highest") < 20, "descriptors are left behind, {what}: {outcomes:?}");
}

fn files(runtime: Runtime, way: Way) {
    let node = way.node(runtime);
    let like_c: fn(&'static str) -> Vec<&'static str> = |kind| vec!["/signals", "files", kind];
    for program in [like_c("c"), like_c("go"), like_c("java"), vec!["/signals-go"]] {
        for restart in ["restart", "norestart"] {
            let words = [program.as_slice(), &[restart, ROUNDS, interval(runtime, way)]].concat();
            let bare = run_program(&node, Way::Bare, &words);
            assert_eq!(bare.number("interrupted"), 0, "the kernel interrupts none of these calls: {bare:?}");
            let begun = Instant::now();
            let guarded = run_program(&node, way, &words);
            let what = format!("{runtime:?} {way:?} {} {restart}", program.join(" "));
            println!(
                "{what}: {} signals, {} EINTR, {} doubled, {} ms",
                guarded.number("caught"),
                guarded.number("interrupted"),
                guarded.number("doubled"),
                begun.elapsed().as_millis()
            );
            let acts = runtime == Runtime::Runc && way == Way::Exec;
            // what a helper does takes its caller long past that moment
            let lost = if acts { 1 + guarded.number("caught") / 1000 } else { 0 };
            assert_unharmed(&guarded, lost, &what);
            assert!(guarded.number("caught") > 0, "no signal came, {what}: {guarded:?}");
            if restart == "restart" {
                assert_eq!(guarded.number("interrupted"), 0, "{what}: {guarded:?}");
            }
        }
    }
}

#[test]
fn runc_audit() {
    files(Runtime::Runc, Way::Audit);
}

#[test]
fn runc_sealed() {
    files(Runtime::Runc, Way::Sealed);
}

#[test]
fn runc_brokered() {
    files(Runtime::Runc, Way::Brokered);
}

#[test]
fn runc_exec() {
    files(Runtime::Runc, Way::Exec);
}

#[test]
fn runc_sealed_exec() {
    files(Runtime::Runc, Way::SealedExec);
}

#[test]
fn crun_audit() {
    files(Runtime::Crun, Way::Audit);
}

#[test]
fn crun_sealed() {
    files(Runtime::Crun, Way::Sealed);
}

#[test]
fn crun_brokered() {
    files(Runtime::Crun, Way::Brokered);
}

#[test]
fn crun_exec() {
    files(Runtime::Crun, Way::Exec);
}

/// How many attempts on `/etc/passwd` the events tell.
fn told(events: &[Event]) -> u64 {
    let on_passwd = events.iter().filter(|event| {
        let database = event.operation.as_ref().and_then(|operation| operation.database.as_deref());
        event.kind == Kind::AccountAttempt && database == Some("/etc/passwd")
    });
    on_passwd.map(|event| event.count.unwrap_or(1)).sum()
}

#[test]
fn an_attempt_that_is_made_again_by_a_signal_is_told_once() {
    for runtime in Runtime::ALL {
        for way in [Way::Audit, Way::Sealed, Way::Brokered] {
            let node = way.node(runtime);
            let outcomes = run(&node, way, &["attempts", "restart", "400", interval(runtime, way)]);
            let answered = outcomes.number(if way == Way::Audit { "opened" } else { "refused" });
            assert_eq!(answered, 400, "{runtime:?} {way:?}: {outcomes:?}");
            let all = |events: &[Event]| (told(events) >= 400).then_some(());
            node.wait_for("every attempt", all);
            std::thread::sleep(Duration::from_secs(2));
            let (told, signals) = (told(&node.events()), outcomes.number("caught"));
            println!("{runtime:?} {way:?}: {signals} signals, {told} attempts told of 400");
            // one of a lost answer cannot be told from another attempt
            assert!(
                (400..=400 + lost_answers(signals)).contains(&told),
                "{runtime:?} {way:?}: {told} of 400, {signals} signals"
            );
        }
    }
}

#[test]
fn an_open_that_waits_is_interrupted_as_ever() {
    for runtime in Runtime::ALL {
        for way in [Way::Bare, Way::Audit, Way::Sealed, Way::Brokered, Way::Exec] {
            let node = way.node(runtime);
            for (restart, expected) in [("norestart", "EINTR"), ("restart", "opened")] {
                let outcomes = run(&node, way, &["fifo", restart]);
                assert_eq!(outcomes.word("fifo"), expected, "{runtime:?} {way:?} {restart}: {outcomes:?}");
                assert_eq!(outcomes.number("caught"), 1, "{runtime:?} {way:?} {restart}");
            }
        }
    }
}

/// A container that runs.
struct Running<'a> {
    node: &'a Node,
    bundle: Bundle,
    child: Child,
    stdout: File,
}

impl<'a> Running<'a> {
    fn start(node: &'a Node, words: &[&str]) -> Self {
        let bundle = bundle(node, &[&["/signals"], words].concat());
        let stdout = tempfile::tempfile().expect("unnamed file");
        let mut command: Command = node.shim();
        command.args(["run", "--bundle"]).arg(&bundle.folder).arg(&bundle.id);
        let child = command.stdout(stdout.try_clone().expect("dup")).spawn().expect("start the shim");
        Self { node, bundle, child, stdout }
    }

    /// Pid of its init, once it works.
    fn pid(&self) -> Pid {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let state = finish(self.node.bare().arg("state").arg(&self.bundle.id)).stdout;
            let state: serde_json::Value = serde_json::from_str(&state).unwrap_or_default();
            let pid = state["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0);
            if let Some(pid) = pid.filter(|_| state["status"] == "running" && self.bundle.path("/work/0").exists()) {
                return Pid::from_raw(pid);
            }
            assert!(Instant::now() < deadline, "the container does not run: {state}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn command(&self, name: &str) {
        finish(self.node.shim().arg(name).arg(&self.bundle.id)).ok();
    }

    fn end(mut self) -> Outcomes {
        std::fs::write(self.bundle.path("/work/end"), "").expect("tell it to end");
        let deadline = Instant::now() + LIMIT;
        while self.child.try_wait().expect("wait").is_none() {
            assert!(Instant::now() < deadline, "the container does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut text = String::new();
        self.stdout.rewind().and_then(|()| self.stdout.read_to_string(&mut text)).expect("read output");
        Outcomes::parse(&text)
    }
}

/// Has `disturb` disturb a container that works, and says how many rounds it did.
fn disturbed(runtime: Runtime, way: Way, disturb: impl Fn(&Running<'_>, Pid)) -> u64 {
    let node = way.node(runtime);
    let running = Running::start(&node, &["steady"]);
    let pid = running.pid();
    disturb(&running, pid);
    let outcomes = running.end();
    assert_unharmed(&outcomes, 0, &format!("{runtime:?} {way:?}"));
    assert_eq!(outcomes.number("interrupted"), 0, "{runtime:?} {way:?}: {outcomes:?}");
    outcomes.number("rounds")
}

#[test]
fn freezing_in_the_middle_of_calls_changes_nothing() {
    for runtime in Runtime::ALL {
        for way in [Way::Audit, Way::Sealed, Way::Brokered] {
            let rounds = disturbed(runtime, way, |running, _| {
                for time in 0..12 {
                    running.command("pause");
                    std::thread::sleep(Duration::from_millis(20 + 7 * time));
                    running.command("resume");
                    std::thread::sleep(Duration::from_millis(30));
                }
            });
            println!("{runtime:?} {way:?}: {rounds} rounds between 12 freezes");
            assert!(rounds > 10, "{runtime:?} {way:?}: {rounds}");
        }
    }
}

/// Longer than a deed is kept by the clock alone.
#[test]
fn a_long_freeze_doubles_nothing() {
    for runtime in Runtime::ALL {
        disturbed(runtime, Way::Brokered, |running, _| {
            running.command("pause");
            std::thread::sleep(Duration::from_secs(6));
            running.command("resume");
        });
    }
}

#[test]
fn a_storm_of_stops_changes_nothing() {
    for runtime in Runtime::ALL {
        for way in [Way::Audit, Way::Sealed, Way::Brokered] {
            let rounds = disturbed(runtime, way, |_, pid| {
                for time in 0..400 {
                    kill(pid, Signal::SIGSTOP).expect("stop");
                    std::thread::sleep(Duration::from_micros(500 + 10 * time));
                    kill(pid, Signal::SIGCONT).expect("continue");
                    std::thread::sleep(Duration::from_micros(2_500));
                }
            });
            println!("{runtime:?} {way:?}: {rounds} rounds between 400 stops");
            assert!(rounds > 10, "{runtime:?} {way:?}: {rounds}");
        }
    }
}

#[test]
fn a_listener_of_its_own_is_refused_by_the_kernel_and_told() {
    for runtime in Runtime::ALL {
        for way in [Way::Audit, Way::Sealed, Way::Brokered, Way::Exec] {
            let node = way.node(runtime);
            assert_eq!(run(&node, Way::Bare, &["listener"]).word("listener"), "got");
            let question = run(&node, way, &["question"]);
            assert_eq!((question.word("plain"), question.word("listener")), ("0", "EFAULT"), "{runtime:?} {way:?}");
            let outcomes = run(&node, way, &["listener"]);
            assert_eq!((outcomes.word("plain"), outcomes.word("listener")), ("0", "EBUSY"), "{runtime:?} {way:?}");
            let listens = |event: &&Event| event.operation.as_ref().is_some_and(|it| it.effect == "listens");
            let event = node.wait_for("the attempt", |events| events.iter().find(listens).cloned());
            let verdict = event.verdict.as_ref().expect("verdict");
            assert_eq!((event.kind, verdict.result), (Kind::AccountAttempt, Outcome::Blocked));
            assert_eq!((verdict.errno.as_deref(), verdict.witness.join(" ").as_str()), (Some("EBUSY"), "notify"));
            let operation = event.operation.as_ref().expect("operation");
            assert_eq!((operation.call.as_str(), operation.flags.len()), ("seccomp", 1), "{operation:?}");
            assert!(container_id(&event).is_some() && event.actor.as_ref().is_some_and(|it| it.argv[1] == "listener"));
            std::thread::sleep(Duration::from_secs(2));
            let events = node.events();
            assert_eq!(events.iter().filter(listens).count(), 1, "{runtime:?} {way:?}: a question is no attempt");
            let findings = events.iter().filter(|event| event.kind == Kind::AccountFinding).count();
            assert_eq!(findings, 0, "{runtime:?} {way:?}: no account is concerned");
        }
    }
}

#[test]
fn the_record_says_whether_calls_wait_killable() {
    for runtime in Runtime::ALL {
        let node = Way::Audit.node(runtime);
        // of two containers the second is told from what is kept of the first
        let of_profile = match runtime {
            Runtime::Crun => json!(["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG"]),
            // runc before 1.2 takes none at all, acctguard or not
            Runtime::Runc | Runtime::Youki => json!([]),
        };
        for flags in [json!(null), of_profile] {
            let bundle = bundle(&node, &["/bin/true"]);
            let mut config = bundle.config();
            config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": flags,
                "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}]});
            if flags.is_null() {
                config["linux"]["seccomp"].as_object_mut().expect("object").remove("flags");
            }
            bundle.write_config(&config);
            node.run(&bundle).ok();
            let events = node.events();
            let created = of(&events, Kind::ContainerCreated, &bundle.id);
            let protection = &created[0].creation.as_ref().expect("creation").protection;
            let why = protection.not_killable.as_deref();
            match runtime {
                Runtime::Crun => assert_eq!((protection.wait_killable, why), (Some(true), None), "{flags}"),
                Runtime::Runc | Runtime::Youki => {
                    assert_eq!(protection.wait_killable, Some(false), "{flags}");
                    // the latter of runc 1.2 and later
                    let says = ["features list no seccomp flags", "features do not list "];
                    let says = why.is_some_and(|why| says.iter().any(|words| why.contains(words)));
                    assert!(says, "{flags}: {why:?}");
                }
            }
            assert!(protection.intercepted && protection.reasons.is_empty(), "{:?}", protection.reasons);
        }
    }
}

//! What the daemon's processes took from themselves, seen from outside, and what becomes of one that does what it never does.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use acctguard::daemon::confinement::{HELPERS, WORKER};
use acctguard::model::event::Kind;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::harness::bundle::{Bundle, Spec};
use crate::harness::events::of;
use crate::harness::node::{Node, PATIENCE, Runtime, policy};

/// `/proc/PATH/status`.
fn status(path: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{path}/status")).expect("status");
    let pairs = text.lines().filter_map(|line| line.split_once(":\t"));
    pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

/// Of `capabilities` those that this machine's root has.
fn mask(capabilities: &[caps::Capability]) -> String {
    let had = caps::read(None, caps::CapSet::Bounding).expect("bounding set");
    let kept = capabilities.iter().filter(|capability| had.contains(capability));
    format!("{:016x}", kept.fold(0, |mask, capability| mask | capability.bitmask()))
}

#[track_caller]
fn is_confined(path: &str, effective: &str, bounding: &str) {
    let status = status(path);
    let found = ["Seccomp", "NoNewPrivs", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .map(|name| (name, status.get(name).map_or("", String::as_str)));
    let none = "0000000000000000";
    let expected = [
        ("Seccomp", "2"),
        ("NoNewPrivs", "1"),
        ("CapInh", none),
        ("CapPrm", bounding),
        ("CapEff", effective),
        ("CapBnd", bounding),
        ("CapAmb", none),
    ];
    assert_eq!(found, expected, "{path} ({})", status.get("Name").map_or("", String::as_str));
}

fn children(pid: Pid) -> Vec<Pid> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("children");
    text.split_whitespace().map(|word| Pid::from_raw(word.parse().expect("pid"))).collect()
}

/// Every thread, with containers on both grounds: what is documented, bit for bit.
#[test]
fn every_process_has_what_is_documented() {
    let node = Node::start(Runtime::Crun, &policy("enforce"));
    let bundle = node.launch(&Spec::idle());
    let mut session = node.shim();
    session.arg("exec").arg(&bundle.id).args(["/bin/sh", "-c", "touch /etc/new; exec sleep 60"]);
    let mut session = session.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start an exec session");
    wait_until("the session's file", || bundle.path("/etc/new").exists());
    let (keeper, worker) = (node.daemon_pid(), node.worker_pid());
    let (of_worker, of_helpers) = (mask(&WORKER), mask(&HELPERS));
    is_confined(&keeper.to_string(), "0000000000000000", &of_helpers);
    let tasks = fs::read_dir(format!("/proc/{worker}/task")).expect("threads");
    let tasks: Vec<String> = tasks.map(|task| task.expect("task").file_name().to_string_lossy().into_owned()).collect();
    assert!(tasks.len() > 8, "{tasks:?}");
    for task in tasks {
        is_confined(&format!("{worker}/task/{task}"), &of_worker, &of_worker);
    }
    let starters = children(worker);
    let [starter] = starters[..] else {
        panic!("the worker has other children than what starts helpers: {starters:?}")
    };
    is_confined(&starter.to_string(), &of_helpers, &of_helpers);
    let helpers = children(starter);
    assert!(!helpers.is_empty(), "an exec session's file was made without a helper");
    for helper in helpers {
        let status = status(&helper.to_string());
        let found = ["Seccomp", "NoNewPrivs", "CapBnd"].map(|name| status.get(name).map_or("", String::as_str));
        assert_eq!(found, ["2", "1", &of_helpers]);
    }
    for process in [keeper, worker, starter] {
        let limits = fs::read_to_string(format!("/proc/{process}/limits")).expect("limits");
        let cores = limits.lines().find(|line| line.starts_with("Max core file size")).expect("core");
        assert_eq!(cores.split_whitespace().filter(|word| *word == "0").count(), 2, "{cores}");
    }
    assert!(!node.log_text().contains("less confined"), "{}", node.log_text());
    session.kill().expect("end the session");
    session.wait().expect("its end");
}

#[track_caller]
fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Makes `process` do system call `number`, as code in it might, while it waits in another.
#[cfg(target_arch = "x86_64")]
fn make_it_call(process: Pid, number: u64) {
    ptrace::seize(process, ptrace::Options::PTRACE_O_TRACESYSGOOD).expect("seize");
    ptrace::interrupt(process).expect("interrupt");
    let stopped = |what: &str| waitpid(process, Some(WaitPidFlag::__WALL)).expect(what);
    stopped("stop");
    ptrace::syscall(process, None).expect("go to its next call");
    stopped("entry of a call");
    let mut registers = ptrace::getregs(process).expect("registers");
    registers.orig_rax = number;
    ptrace::setregs(process, registers).expect("another call");
    ptrace::cont(process, None).expect("go on");
    let end = waitpid(process, Some(WaitPidFlag::__WALL)).expect("its end");
    assert!(matches!(end, WaitStatus::Signaled(_, Signal::SIGSYS, false)), "{end:?}");
}

#[track_caller]
fn another_worker(node: &Node, before: Pid) {
    let deadline = Instant::now() + PATIENCE;
    while fs::metadata(format!("/proc/{before}/fd/0")).is_ok() || node.worker_pid() == before {
        assert!(Instant::now() < deadline, "the worker lives on:\n{}", node.log_text());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A call that the worker never makes ends it. The log says why, another worker goes on, and the container noticed nothing.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_worker_that_makes_a_forbidden_call_is_followed_by_another() {
    const SYS_SWAPOFF: u64 = 168;
    let node = Node::start(Runtime::Runc, &policy("enforce"));
    let bundle = node.launch(&Spec::idle());
    let worker = node.worker_pid();
    make_it_call(worker, SYS_SWAPOFF);
    another_worker(&node, worker);
    let told = |_: &[acctguard::model::event::Event]| node.log_text().contains("audit record type 1326").then_some(());
    node.wait_for("the reason in the log", told);
    let refused = node.exec(&bundle, &["/bin/sh", "-c", "echo x >> /etc/passwd"]);
    assert_ne!(refused.code(), 0);
    assert_eq!(bundle.read("/etc/passwd"), Bundle::original("/etc/passwd"));
    node.wait_for("the attempt", |events| of(events, Kind::AccountAttempt, &bundle.id).pop().map(|_| ()));
}

/// Without what starts helpers nothing could be carried out: the next worker has another.
#[test]
fn a_starter_that_dies_is_followed_by_another() {
    let node = Node::start(Runtime::Crun, &policy("enforce"));
    let bundle = node.launch(&Spec::idle());
    let worker = node.worker_pid();
    kill(children(worker)[0], Signal::SIGKILL).expect("kill what starts helpers");
    another_worker(&node, worker);
    node.exec(&bundle, &["/bin/sh", "-c", "echo y > /etc/new && cat /etc/new"]).ok();
    assert_eq!(bundle.read("/etc/new"), b"y\n");
}

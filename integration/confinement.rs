//! What the daemon's processes took from themselves, seen from outside, and what becomes of one that does what it never does.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use acctguard::daemon::confinement::{KEEPER, WORKER};
use acctguard::model::event::Kind;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::harness::bundle::{Bundle, Spec};
use crate::harness::command::finish;
use crate::harness::events::of;
use crate::harness::machine::program;
use crate::harness::node::{Node, PATIENCE, Runtime, policy};

/// `/proc/PATH/status`; `None` when it is gone.
fn found_status(path: &str) -> Option<BTreeMap<String, String>> {
    let text = fs::read_to_string(format!("/proc/{path}/status")).ok()?;
    let pairs = text.lines().filter_map(|line| line.split_once(":\t"));
    Some(pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
}

fn status(path: &str) -> BTreeMap<String, String> {
    found_status(path).expect("status")
}

/// Of `capabilities` those that this machine's root has.
fn mask(capabilities: &[caps::Capability]) -> String {
    let had = caps::read(None, caps::CapSet::Bounding).expect("bounding set");
    let kept = capabilities.iter().filter(|capability| had.contains(capability));
    format!("{:016x}", kept.fold(0, |mask, capability| mask | capability.bitmask()))
}

/// What this machine's root has.
fn all() -> String {
    let had = caps::read(None, caps::CapSet::Bounding).expect("bounding set");
    format!("{:016x}", had.iter().fold(0, |mask, capability| mask | capability.bitmask()))
}

#[track_caller]
fn is_confined(path: &str, effective: &str, bounding: &str) {
    assert_confined(path, &status(path), effective, bounding);
}

#[track_caller]
fn assert_confined(path: &str, status: &BTreeMap<String, String>, effective: &str, bounding: &str) {
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
    let of_helpers = all();
    is_confined(&keeper.to_string(), &mask(&KEEPER), &of_helpers);
    let starter = worker_is_confined(worker);
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

/// Every thread of `worker`, and what starts its helpers, which is returned.
#[track_caller]
fn worker_is_confined(worker: Pid) -> Pid {
    let (of_worker, of_helpers) = (mask(&WORKER), all());
    let tasks = fs::read_dir(format!("/proc/{worker}/task")).expect("threads");
    let tasks: Vec<String> = tasks.map(|task| task.expect("task").file_name().to_string_lossy().into_owned()).collect();
    assert!(tasks.len() > 8, "{tasks:?}");
    for task in tasks.iter().map(|task| format!("{worker}/task/{task}")) {
        // a connection's thread may have ended by now
        if let Some(found) = found_status(&task) {
            assert_confined(&task, &found, &of_worker, &of_worker);
        }
    }
    let starters = children(worker);
    let [starter] = starters[..] else {
        panic!("the worker has other children than what starts helpers: {starters:?}")
    };
    is_confined(&starter.to_string(), &of_helpers, &of_helpers);
    starter
}

/// The process that has `role` and is not `before`.
fn another(node: &Node, role: &str, before: Option<Pid>) -> Pid {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = node.children_as(role).into_iter().find(|pid| Some(*pid) != before) {
            return found;
        }
        assert!(Instant::now() < deadline, "there is no {role}:\n{}", node.log_text());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn brokered(node: &Node, bundle: &Bundle, text: &str) {
    node.exec(bundle, &["/bin/sh", "-c", &format!("echo {text} > /etc/new && cat /etc/new")]).ok();
    assert_eq!(bundle.read("/etc/new"), format!("{text}\n").into_bytes());
}

/// The second keeper, what it starts when it is the first, and no filter more each time.
#[test]
fn a_second_keeper_is_confined_as_the_first() {
    let node = Node::prepare(Runtime::Crun, &policy("enforce"), "[daemon]\nstandby = true\n");
    node.start_daemon();
    let bundle = node.launch(&Spec::idle());
    let (of_keeper, of_helpers) = (mask(&KEEPER), all());
    let filters = |pid: Pid| status(&pid.to_string()).remove("Seccomp_filters");
    let mut keeper = node.keeper_pid();
    let of_first = filters(keeper);
    for round in 0..2 {
        let (worker, second) = (another(&node, "--worker", None), another(&node, "--standby", None));
        wait_until("its capabilities", || status(&second.to_string()).get("CapEff") == Some(&of_keeper));
        is_confined(&second.to_string(), &of_keeper, &of_helpers);
        assert_eq!(filters(second), of_first);
        std::thread::sleep(Duration::from_millis(300));
        kill(keeper, Signal::SIGKILL).expect("kill the keeper");
        wait_until("another keeper", || node.keeper_pid() != keeper);
        keeper = node.keeper_pid();
        assert_eq!(keeper, second);
        let worker = another(&node, "--worker", Some(worker));
        brokered(&node, &bundle, &format!("round-{round}"));
        worker_is_confined(worker);
    }
    assert!(!node.log_text().contains("less confined"), "{}", node.log_text());
}

/// The worker of another program has what starts its helpers for itself, and the old worker's ends with it.
#[test]
fn a_worker_after_an_upgrade_has_a_starter_of_its_own() {
    let node = Node::prepare(Runtime::Runc, &policy("enforce"), "");
    let installed = node.scratch.path().join("acctguard-daemon");
    fs::copy(program("acctguard-daemon"), &installed).expect("install");
    node.start_daemon_at(&installed);
    let bundle = node.launch(&Spec::idle());
    brokered(&node, &bundle, "before");
    let old = worker_is_confined(node.worker_pid());
    finish(node.program("acctguard-daemon").arg("upgrade")).ok();
    brokered(&node, &bundle, "after");
    let starter = worker_is_confined(node.worker_pid());
    assert_ne!(starter, old);
    wait_until("the end of the old worker's", || kill(old, None).is_err());
}

/// What starts helpers ends with a worker that is killed, and holds up no helper that has something to answer.
#[test]
fn a_starter_ends_with_its_worker() {
    let node = Node::start(Runtime::Runc, &policy("enforce"));
    let bundle = node.launch(&Spec::idle());
    brokered(&node, &bundle, "before");
    let worker = node.worker_pid();
    let starter = worker_is_confined(worker);
    kill(worker, Signal::SIGKILL).expect("kill the worker");
    another_worker(&node, worker);
    wait_until("its end", || kill(starter, None).is_err());
    brokered(&node, &bundle, "after");
}

#[track_caller]
fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Makes `process` do system call `number`, as code in it might, while it waits in another; what becomes of it.
#[cfg(target_arch = "x86_64")]
fn make_it_call(process: Pid, number: u64) -> Result<i64, Signal> {
    ptrace::seize(process, ptrace::Options::PTRACE_O_TRACESYSGOOD).expect("seize");
    ptrace::interrupt(process).expect("interrupt");
    let stopped = |what: &str| waitpid(process, Some(WaitPidFlag::__WALL)).expect(what);
    stopped("stop");
    ptrace::syscall(process, None).expect("go to its next call");
    stopped("entry of a call");
    let mut registers = ptrace::getregs(process).expect("registers");
    registers.orig_rax = number;
    ptrace::setregs(process, registers).expect("another call");
    ptrace::syscall(process, None).expect("go on");
    assert!(matches!(stopped("exit of the call"), WaitStatus::PtraceSyscall(_)));
    let returned = ptrace::getregs(process).expect("registers").rax.cast_signed();
    if returned < 0 {
        ptrace::detach(process, None).expect("let it go");
        return Ok(returned);
    }
    ptrace::cont(process, None).expect("go on");
    match stopped("its end") {
        WaitStatus::Signaled(_, signal, false) => Err(signal),
        other => panic!("{other:?}"),
    }
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
    assert_eq!(make_it_call(worker, SYS_SWAPOFF), Err(Signal::SIGSYS));
    another_worker(&node, worker);
    let told = |_: &[acctguard::model::event::Event]| node.log_text().contains("audit record type 1326").then_some(());
    node.wait_for("the reason in the log", told);
    let refused = node.exec(&bundle, &["/bin/sh", "-c", "echo x >> /etc/passwd"]);
    assert_ne!(refused.code(), 0);
    assert_eq!(bundle.read("/etc/passwd"), Bundle::original("/etc/passwd"));
    node.wait_for("the attempt", |events| of(events, Kind::AccountAttempt, &bundle.id).pop().map(|_| ()));
}

/// A mistake of ours would end worker after worker, and a container's call would wait for ever: the second is refused, and lives.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_forbidden_call_ends_one_worker_and_no_other() {
    const SYS_SWAPOFF: u64 = 168;
    const EPERM: i64 = 1;
    let node = Node::start(Runtime::Runc, &policy("enforce"));
    let bundle = node.launch(&Spec::idle());
    let first = node.worker_pid();
    assert_eq!(make_it_call(first, SYS_SWAPOFF), Err(Signal::SIGSYS));
    another_worker(&node, first);
    node.wait_for("the next worker", |_| node.answers().then_some(()));
    let second = node.worker_pid();
    assert_eq!(make_it_call(second, SYS_SWAPOFF), Ok(-EPERM));
    worker_is_confined(second);
    brokered(&node, &bundle, "served");
    assert_eq!(node.worker_pid(), second);
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

//! The daemon over time: what goes is gone, quiet costs nothing, policy changes, restarts lose nothing.

use std::fs;
use std::time::{Duration, Instant};

use acctguard::model::event::{Event, Kind, Outcome};
use nix::sys::signal::Signal;

use crate::harness::bundle::{Bundle, Spec};
use crate::harness::command::finish;
use crate::harness::events::of;
use crate::harness::machine::calls_program;
use crate::harness::node::{Node, PATIENCE, Runtime, policy};

/// Threads, descriptors and memory mappings of a process.
fn holdings(pid: i32) -> (usize, usize) {
    let count = |folder: &str| fs::read_dir(format!("/proc/{pid}/{folder}")).expect("read").count();
    (count("task"), count("fd"))
}

/// Processor time used by all threads of a process, in clock ticks (proc_pid_stat(5), fields 14 and 15).
fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    fields[11..13].iter().map(|field| field.parse::<u64>().expect("number")).sum()
}

/// `/proc/PID/task` and `/proc/PID/fd` are as they were once containers and sessions are gone, and nothing spins: neither with
/// idle containers nor after they ended (seccomp_unotify(2): a listener without users is POLLHUP for ever).
#[test]
fn what_is_gone_costs_nothing() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("audit"));
        let pid = node.worker_pid().as_raw();
        node.run(&node.bundle(&Spec::shell("true"))).ok();
        std::thread::sleep(Duration::from_millis(500));
        let before = holdings(pid);
        let containers: Vec<Bundle> = (0..8).map(|_| node.launch(&Spec::idle())).collect();
        for bundle in &containers {
            node.exec(bundle, &["/bin/sh", "-c", "touch /etc/passwd"]).ok();
        }
        let during = holdings(pid);
        assert!(during.0 >= before.0 + containers.len(), "a thread for each container: {before:?} {during:?}");
        quiet(pid, "with idle containers");
        for bundle in &containers {
            node.delete(bundle).ok();
        }
        let deadline = Instant::now() + PATIENCE;
        while holdings(pid) > before {
            assert!(
                Instant::now() < deadline,
                "threads and descriptors stay: {before:?} before, {:?} after",
                holdings(pid)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        quiet(pid, "after the containers ended");
        quiet(node.daemon_pid().as_raw(), "in the keeper");
    }
}

/// Two quiet seconds cost the daemon no more than 40 ms of processor time.
#[track_caller]
fn quiet(pid: i32, when: &str) {
    // What just happened may still be written.
    std::thread::sleep(Duration::from_millis(2500));
    let start = ticks(pid);
    std::thread::sleep(Duration::from_secs(2));
    let used = ticks(pid) - start;
    assert!(used <= 4, "{used} ticks in two quiet seconds {when}");
}

/// Containers side by side: each finding names its own.
#[test]
fn containers_do_not_mix() {
    let node = Node::start(Runtime::Crun, &policy("audit"));
    let bundles: Vec<Bundle> = (0..6)
        .map(|number| {
            node.launch(&Spec::shell(&format!(
                "while ! [ -e /go ]; do sleep 0.02; done; useradd user{number}; sleep 30"
            )))
        })
        .collect();
    for bundle in &bundles {
        fs::write(bundle.path("/go"), "").expect("write");
    }
    for (number, bundle) in bundles.iter().enumerate() {
        let finding = node.wait_for(&format!("the finding of user{number}"), |events| {
            let findings = of(events, Kind::AccountFinding, &bundle.id);
            let with_changes =
                findings.into_iter().find(|event| event.changes.as_ref().is_some_and(|changes| !changes.is_empty()));
            with_changes.cloned()
        });
        let names: Vec<_> = finding.changes.iter().flatten().filter_map(|change| change.name.as_deref()).collect();
        assert!(names.iter().all(|name| *name == format!("user{number}")), "{names:?}");
    }
}

fn append(node: &Node, bundle: &Bundle) -> bool {
    node.exec(bundle, &["/bin/sh", "-c", "echo 'mallory:x:0:0::/:/bin/sh' >> /etc/passwd"]).code() == 0
}

/// SIGHUP reads the policies again; containers that run already are held by the new one too.
#[test]
fn policies_are_read_again() {
    let node = Node::start(Runtime::Runc, &policy("audit"));
    let bundle = node.launch(&Spec::idle());
    assert!(append(&node, &bundle));
    node.write_policy(&policy("enforce"));
    node.signal_daemon(Signal::SIGHUP);
    let deadline = Instant::now() + PATIENCE;
    while append(&node, &bundle) {
        assert!(Instant::now() < deadline, "the new policy never took hold");
        std::thread::sleep(Duration::from_millis(100));
    }
    let next = node.launch(&Spec::idle());
    assert!(!append(&node, &next));
    assert_eq!(next.read("/etc/passwd"), Bundle::original("/etc/passwd"));
}

/// The record comes before the effect: a daemon killed right after a call was answered has that call on record.
#[test]
fn what_was_answered_is_on_record_after_a_kill() {
    let node = Node::start(Runtime::Runc, &policy("audit"));
    let bundle = node.launch(&Spec::idle());
    assert!(append(&node, &bundle));
    assert_eq!(node.stop_daemon(Signal::SIGKILL), 128 + 9);
    node.start_daemon();
    let events = node.events();
    let attempts: Vec<&Event> = of(&events, Kind::AccountAttempt, &bundle.id);
    assert!(
        attempts.iter().any(|event| event.verdict.as_ref().is_some_and(|verdict| verdict.result == Outcome::Allowed))
    );
    assert!(!of(&events, Kind::ContainerCreated, &bundle.id).is_empty());
}

/// The keeper holds the listeners, and the call that is being answered lies in memory that outlives its worker: a worker that
/// is killed, again and again, costs the containers nothing.
#[test]
fn calls_go_on_when_the_worker_is_killed() {
    for (runtime, mode, path) in [(Runtime::Runc, "audit", "/etc/passwd"), (Runtime::Crun, "enforce", "/tmp/other")] {
        let node = Node::start(runtime, &policy(mode));
        let mut spec = Spec::new(&["/calls", "patience", path]);
        spec.no_new_privileges = true;
        let bundle = node.bundle(&spec);
        bundle.put("/calls", calls_program(), 0o755);
        node.create(&bundle).ok();
        finish(node.shim().arg("start").arg(&bundle.id)).ok();
        // The listener reaches the keeper by way of the worker.
        std::thread::sleep(Duration::from_millis(500));
        for _ in 0..10 {
            let worker = node.worker_pid();
            nix::sys::signal::kill(worker, Signal::SIGKILL).expect("kill the worker");
            while node.worker_pid() == worker {
                std::thread::sleep(Duration::from_millis(2));
            }
            std::thread::sleep(Duration::from_millis(100));
            let state = finish(node.bare().arg("state").arg(&bundle.id)).ok().stdout;
            assert!(state.contains("\"running\""), "a call failed: {state}\n{}", node.log_text());
        }
        assert!(!append(&node, &bundle) || mode == "audit", "enforce was lost with the worker");
        node.wait_for("an attempt after all", |events| of(events, Kind::AccountAttempt, &bundle.id).pop().map(|_| ()));
    }
}

/// SIGTERM ends it with 0, and what it knew it knows again.
#[test]
fn a_restart_forgets_nothing() {
    let node = Node::start(Runtime::Crun, &policy("audit"));
    let bundle = node.bundle(&Spec::shell("useradd mallory"));
    node.run(&bundle).ok();
    node.wait_for("a finding", |events| of(events, Kind::AccountFinding, &bundle.id).pop().map(|_| ()));
    let before = node.events();
    assert_eq!(node.stop_daemon(Signal::SIGTERM), 0, "{}", node.log_text());
    assert!(!node.control_socket().exists(), "the control socket was left behind");
    node.start_daemon();
    let after = node.events();
    assert_eq!(before, after[..before.len()]);
}

/// Two daemons on one machine do not meet; a second one on the same folders is refused.
#[test]
fn daemons_side_by_side() {
    let first = Node::start(Runtime::Runc, &policy("enforce"));
    let second = Node::start(Runtime::Crun, &policy("audit"));
    let (held, watched) = (first.launch(&Spec::idle()), second.launch(&Spec::idle()));
    assert!(!append(&first, &held));
    assert!(append(&second, &watched));
    assert!(of(&first.events(), Kind::ContainerCreated, &watched.id).is_empty());
    let again = finish(&mut first.program("acctguard-daemon"));
    assert_ne!(again.code(), 0, "a second daemon took the first one's sockets");
    assert!(!append(&first, &held), "the first daemon lost its sockets");
}

/// Thousands of attempts are folded into a few events that account for all of them.
#[test]
fn a_burst_is_folded_and_never_dropped() {
    let node = Node::start(Runtime::Runc, &policy("audit"));
    let bundle = node.bundle(&Spec::new(&["/calls", "burst", "3000"]));
    bundle.put("/calls", calls_program(), 0o755);
    node.run(&bundle).ok();
    node.wait_for("the end", |events| of(events, Kind::ContainerExited, &bundle.id).pop().map(|_| ()));
    let events = node.events();
    let attempts = of(&events, Kind::AccountAttempt, &bundle.id);
    let accounted: u64 = attempts.iter().map(|event| event.count.unwrap_or(1)).sum();
    assert_eq!(accounted, 3000, "in {} events", attempts.len());
    assert!(attempts.len() < 300, "{} events for one burst", attempts.len());
}

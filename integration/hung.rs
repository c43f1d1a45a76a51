//! A file system of one container that hangs: its calls are answered by policy in time, and no other container's wait for it.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use acctguard::daemon::deadline_watch::{DEADLINE, MAX_STUCK};
use acctguard::model::event::{Event, Kind};
use nix::sys::signal::{Signal, kill};

use crate::chaos::obedient::{Hanging, Obedient};
use crate::harness::bundle::Spec;
use crate::harness::command::finish;
use crate::harness::events::of;
use crate::harness::machine::program;
use crate::harness::node::{Node, Runtime, policy};

/// What an answer may take beyond the deadline on a busy machine.
const GRACE: Duration = Duration::from_secs(5);
/// A directory that was found is taken for the one at its path for less.
const KNOWN_FOR: Duration = Duration::from_millis(1200);
/// `EPERM`.
const REFUSED: &str = "reached 1 ";

/// What an open costs that waits for nobody, at most.
#[track_caller]
fn is_quick(container: &mut Obedient) {
    let started = Instant::now();
    container.measure(20);
    assert!(started.elapsed() < Duration::from_secs(3), "20 opens took {:?}", started.elapsed());
}

fn degraded(node: &Node, id: &str) -> Vec<Event> {
    let events = node.events();
    let all = of(&events, Kind::ProtectionDegraded, id).into_iter().cloned();
    all.filter(|event| event.protection.as_ref().is_some_and(|change| change.what.starts_with("calls are"))).collect()
}

#[test]
fn enforce_refuses_what_hangs_and_nobody_else_waits() {
    let node = Node::start(Runtime::Runc, &policy("enforce"));
    let (mut other, mut hung) = (Obedient::start(&node, |_| {}), Obedient::start(&node, |_| {}));
    let hanging = Hanging::mount(&node, &hung, "/hangs");
    hung.tell("reach /hangs/x");
    std::thread::sleep(Duration::from_millis(200));
    is_quick(&mut other);
    let answer = hung.line(DEADLINE + GRACE).expect("an answer by policy");
    assert!(answer.starts_with(REFUSED), "{answer}");
    // another thread serves the container's other calls
    is_quick(&mut hung);
    let told = degraded(&node, &hung.bundle.id);
    let [event] = &told[..] else { panic!("told {told:?}") };
    let change = event.protection.as_ref().expect("protection");
    assert!(change.reason.contains("open") && change.remedy.is_some(), "{change:?}");
    assert_eq!(degraded(&node, &other.bundle.id), Vec::<Event>::new());
    drop(hanging);
    node.wait_for("the end of it", |events| {
        (!of(events, Kind::ProtectionRestored, &hung.bundle.id).is_empty()).then_some(())
    });
    is_quick(&mut hung);
}

#[test]
fn audit_lets_go_what_hangs_and_nobody_else_waits() {
    let node = Node::start(Runtime::Runc, &policy("audit"));
    let (mut other, mut hung) = (Obedient::start(&node, |_| {}), Obedient::start(&node, |_| {}));
    let hanging = Hanging::mount(&node, &hung, "/hangs");
    hung.tell("reach /hangs/x");
    std::thread::sleep(Duration::from_millis(200));
    is_quick(&mut other);
    node.wait_for("the deadline", |events| of(events, Kind::ProtectionDegraded, &hung.bundle.id).first().map(|_| ()));
    // the kernel has the call by now, and waits as it would without acctguard
    assert_eq!(hung.line(Duration::from_millis(500)), None);
    is_quick(&mut hung);
    drop(hanging);
    let answer = hung.line(GRACE).expect("the kernel's answer");
    assert!(!answer.starts_with(REFUSED), "{answer}");
}

#[test]
fn where_a_database_hangs_the_watch_answers_every_call_until_it_does_not() {
    let node = Node::start(Runtime::Runc, &policy("enforce"));
    let (mut other, mut hung) = (Obedient::start(&node, |_| {}), Obedient::start(&node, |_| {}));
    let hanging = Hanging::mount(&node, &hung, "/srv/accounts");
    std::thread::sleep(KNOWN_FOR);
    for _ in 0..=MAX_STUCK {
        hung.tell("reach /tmp/x");
        is_quick(&mut other);
        let answer = hung.line(DEADLINE + GRACE).expect("an answer by policy");
        assert!(answer.starts_with(REFUSED), "{answer}");
    }
    // all threads are stuck: from now on nobody waits for the deadline
    let started = Instant::now();
    for _ in 0..10 {
        hung.tell("reach /tmp/x");
        let answer = hung.line(DEADLINE).expect("an answer by policy");
        assert!(answer.starts_with(REFUSED), "{answer}");
    }
    assert!(started.elapsed() < DEADLINE, "{:?}", started.elapsed());
    is_quick(&mut other);
    // what all containers share goes on
    let started = Instant::now();
    node.acctguard(&["containers"]).ok();
    let third = node.launch(&Spec::idle());
    node.exec(&third, &["/bin/true"]).ok();
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    drop(hanging);
    node.wait_for("the end of it", |events| {
        let restored = of(events, Kind::ProtectionRestored, &hung.bundle.id);
        restored.first().map(|event| assert!(event.count.is_some_and(|count| count >= 10), "{event:?}"))
    });
    hung.tell("reach /tmp/x");
    let answer = hung.line(DEADLINE).expect("an answer");
    assert!(answer.starts_with("reached 0 "), "{answer}");
}

#[test]
fn a_container_that_is_stopped_or_frozen_holds_up_no_other() {
    let node = Node::start(Runtime::Runc, &policy("enforce"));
    let (mut other, mut busy) = (Obedient::start(&node, |_| {}), Obedient::start(&node, |_| {}));
    assert_eq!(busy.ask("flood 2"), "begun");
    for (begin, end) in [("STOP", "CONT"), ("pause", "resume")] {
        let give = |word: &str| {
            if word.chars().all(char::is_uppercase) {
                let pid = busy.pid(&node).to_string();
                finish(std::process::Command::new("kill").args(["-s", word, &pid])).ok();
            } else {
                finish(node.bare().arg(word).arg(&busy.bundle.id)).ok();
            }
        };
        give(begin);
        is_quick(&mut other);
        give(end);
    }
    let calls: u64 = busy.ask("calm").parse().expect("a number");
    assert!(calls > 0);
    assert_eq!(degraded(&node, &busy.bundle.id), Vec::<Event>::new());
}

/// A node whose daemon was started from a file that can be replaced, and its path.
fn upgradable(mode: &str) -> (Node, PathBuf) {
    let node = Node::prepare(Runtime::Runc, &policy(mode), "");
    let installed = node.scratch.path().join("acctguard-daemon");
    fs::copy(program("acctguard-daemon"), &installed).expect("install");
    node.start_daemon_at(&installed);
    (node, installed)
}

#[test]
fn an_upgrade_waits_for_no_thread_that_hangs_and_what_it_was_at_is_answered_once() {
    for is_answered_before in [false, true] {
        let (node, installed) = upgradable("enforce");
        let (mut other, mut hung) = (Obedient::start(&node, |_| {}), Obedient::start(&node, |_| {}));
        let hanging = Hanging::mount(&node, &hung, "/hangs");
        hung.tell("reach /hangs/x");
        let answer = if is_answered_before {
            hung.line(DEADLINE + GRACE)
        } else {
            std::thread::sleep(Duration::from_millis(300));
            None
        };
        let (worker, started) = (node.worker_pid(), Instant::now());
        fs::copy(&installed, node.scratch.path().join("fresh")).expect("copy");
        fs::rename(node.scratch.path().join("fresh"), &installed).expect("replace");
        finish(node.program("acctguard-daemon").arg("upgrade")).ok();
        assert!(started.elapsed() < Duration::from_secs(12), "it took {:?}\n{}", started.elapsed(), node.log_text());
        assert_ne!(node.worker_pid(), worker);
        is_quick(&mut other);
        let answer = answer.or_else(|| hung.line(DEADLINE + GRACE)).expect("an answer by policy");
        assert!(answer.starts_with(REFUSED), "{answer}");
        is_quick(&mut hung);
        std::thread::sleep(Duration::from_secs(1));
        let told = degraded(&node, &hung.bundle.id);
        assert_eq!(told.len(), 1, "{told:?}");
        drop(hanging);
        is_quick(&mut hung);
    }
}

#[test]
fn a_worker_that_is_killed_while_a_thread_hangs_is_followed_by_another() {
    for mode in ["audit", "enforce"] {
        let node = Node::start(Runtime::Runc, &policy(mode));
        let (mut other, mut hung) = (Obedient::start(&node, |_| {}), Obedient::start(&node, |_| {}));
        let hanging = Hanging::mount(&node, &hung, "/hangs");
        hung.tell("reach /hangs/x");
        std::thread::sleep(Duration::from_millis(300));
        let worker = node.worker_pid();
        kill(worker, Signal::SIGKILL).expect("kill the worker");
        let started = Instant::now();
        other.measure(20);
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}\n{}", started.elapsed(), node.log_text());
        assert_ne!(node.worker_pid(), worker);
        assert!(node.log_text().contains("keeps its threads"), "{}", node.log_text());
        if mode == "enforce" {
            let answer = hung.line(DEADLINE + GRACE).expect("an answer by policy");
            assert!(answer.starts_with(REFUSED), "{answer}");
        } else {
            node.wait_for("the deadline", |events| {
                of(events, Kind::ProtectionDegraded, &hung.bundle.id).first().map(|_| ())
            });
        }
        is_quick(&mut hung);
        drop(hanging);
        if mode == "audit" {
            assert!(!hung.line(GRACE).expect("the kernel's answer").starts_with(REFUSED));
        }
        is_quick(&mut hung);
        let told = degraded(&node, &hung.bundle.id);
        assert_eq!(told.len(), 1, "{told:?}");
    }
}

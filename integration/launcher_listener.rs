//! The launcher's own listener, for a runtime that cannot have calls wait killable (Debian 12's runc): where policy enforces, the calls of
//! a workload wait all the same, and the record says so and is true. `signals.rs` has the programs under signals.

use std::process::Stdio;
use std::time::{Duration, Instant};

use acctguard::model::event::{Event, Kind, Outcome, Protection};
use acctguard::model::policy::Ground;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::harness::bundle::{Bundle, Capabilities, Spec};
use crate::harness::command::finish;
use crate::harness::events::{container_id, of};
use crate::harness::node::{Node, Runtime, policy};

const APPEND: &str = "echo eve:x:0:0::/:/bin/sh >> /etc/passwd; echo code $?; true";

fn protection(events: &[Event], bundle: &Bundle) -> Protection {
    let created = of(events, Kind::ContainerCreated, &bundle.id);
    created[0].creation.as_ref().expect("a creation").protection.clone()
}

fn result(attempt: &Event) -> Outcome {
    attempt.verdict.as_ref().expect("a verdict").result
}

/// Runs [`APPEND`], which is refused and told once, and returns what the record says and what was told of less protection.
#[track_caller]
fn refused(node: &Node, bundle: &Bundle) -> (Protection, Vec<String>) {
    let before = bundle.text("/etc/passwd");
    let done = node.run(bundle);
    assert!(done.stdout.contains("code 2"), "{done:?}");
    assert_eq!(bundle.text("/etc/passwd"), before);
    let events = node.events();
    let is_own = |event: &&Event| container_id(event) == Some(&bundle.id);
    let attempts: Vec<_> = events.iter().filter(is_own).filter(|event| event.kind == Kind::AccountAttempt).collect();
    let told: u64 = attempts.iter().map(|event| event.count.unwrap_or(1)).sum();
    assert_eq!(told, 1, "{attempts:#?}");
    assert_eq!(result(attempts[0]), Outcome::Blocked);
    assert!(attempts[0].actor.is_some() && attempts[0].session.is_none(), "{attempts:#?}");
    let degraded = of(&events, Kind::ProtectionDegraded, &bundle.id);
    let reason = |event: &&Event| event.protection.as_ref().expect("what is missing").reason.clone();
    (protection(&events, bundle), degraded.iter().map(reason).collect())
}

#[test]
fn an_enforced_workload_waits_by_the_launchers_listener() {
    let brokered = format!("{}  landlock: off\n", policy("enforce"));
    for (text, ground) in [(policy("enforce"), Ground::Seal), (brokered, Ground::Broker)] {
        let node = Node::start(Runtime::Runc, &text);
        for (uid, no_new_privileges, engine_seccomp) in
            [(0, false, false), (0, true, false), (0, false, true), (1000, true, true), (1000, false, false)]
        {
            let mut spec = Spec::shell(APPEND);
            (spec.uid, spec.no_new_privileges, spec.engine_seccomp) = (uid, no_new_privileges, engine_seccomp);
            waits(&node, &spec, ground);
        }
        let mut spec = Spec::shell(APPEND);
        spec.capabilities = Capabilities::All;
        let drop_tracing = |config: &mut serde_json::Value| {
            for set in ["bounding", "effective", "permitted"] {
                let held = config["process"]["capabilities"][set].as_array_mut().expect("list");
                held.retain(|capability| capability != "CAP_SYS_PTRACE");
            }
        };
        let bundle = node.bundle(&spec);
        let mut config = bundle.config();
        drop_tracing(&mut config);
        bundle.write_config(&config);
        is_heard(&node, &bundle, Ground::Broker);
    }
}

fn waits(node: &Node, spec: &Spec, ground: Ground) {
    let bundle = node.bundle(spec);
    if spec.uid != 0 {
        // for whom the file's own mode is no obstacle
        std::os::unix::fs::chown(bundle.path("/etc/passwd"), Some(spec.uid), None).expect("chown");
    }
    is_heard(node, &bundle, ground);
}

fn is_heard(node: &Node, bundle: &Bundle, ground: Ground) {
    let (protection, degraded) = refused(node, bundle);
    let what = format!("{}: {protection:?} {degraded:?}", bundle.config()["process"]);
    assert_eq!(protection.installer.as_deref(), Some("launcher"), "{what}");
    assert_eq!((protection.wait_killable, &protection.not_killable), (Some(true), &None), "{what}");
    assert_eq!(protection.ground, ground, "{what}");
    assert!(degraded.is_empty(), "{what}");
}

/// An exec session has the runtime's listener as ever while the container's own process has the launcher's; where policy seals it, its
/// launcher's.
#[test]
fn exec_sessions_are_heard_on_either_ground() {
    for more in ["", "  exec: sealed\n"] {
        exec_sessions_are_heard(&format!("{}{more}", policy("enforce")));
    }
}

fn exec_sessions_are_heard(policy: &str) {
    let node = Node::start(Runtime::Runc, policy);
    let bundle = node.launch(&Spec::idle());
    for _ in 0..3 {
        let done = node.exec(&bundle, &["/bin/sh", "-c", APPEND]);
        assert!(done.stdout.contains("code 2"), "{done:?}");
    }
    let events = node.events();
    let attempts = of(&events, Kind::AccountAttempt, &bundle.id);
    let told: u64 = attempts.iter().map(|event| event.count.unwrap_or(1)).sum();
    assert!(told == 3 && attempts.iter().all(|attempt| attempt.session.is_some()), "{attempts:#?}");
    let sessions = of(&events, Kind::ContainerExec, &bundle.id);
    let sessions: Vec<_> = sessions.iter().map(|event| &event.session.as_ref().expect("a session").id).collect();
    let named = attempts.iter().map(|attempt| &attempt.session.as_ref().expect("a session").id);
    assert!(sessions.len() == 3 && named.eq(sessions.iter().copied()), "{sessions:?} {attempts:#?}");
    assert!(of(&events, Kind::ProtectionDegraded, &bundle.id).is_empty());
    node.delete(&bundle).ok();
    node.wait_for("its end", |events| of(events, Kind::ContainerExited, &bundle.id).first().map(|_| ()));
}

/// Where it must not be, or cannot, the runtime's listener stays: nothing else is less, and the record says why.
#[test]
fn what_keeps_the_runtimes_listener_is_on_record() {
    type Change = fn(&mut serde_json::Value);
    let node = Node::start(Runtime::Runc, &policy("enforce"));
    let shared: Change = |config| {
        config["linux"]["namespaces"].as_array_mut().expect("list").retain(|namespace| namespace["type"] != "pid");
        let mounts = config["mounts"].as_array_mut().expect("list");
        let proc = mounts.iter_mut().find(|mount| mount["destination"] == "/proc").expect("/proc");
        *proc = json!({"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"]});
    };
    let refusing: Change = |config| {
        config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["seccomp"], "action": "SCMP_ACT_ERRNO"}]});
    };
    let cases: [(Change, &str); 2] =
        [(shared, "processes of other containers could take hold of it"), (refusing, "rules of its own about seccomp")];
    for (change, words) in cases {
        let mut spec = Spec::shell(APPEND);
        spec.no_new_privileges = true;
        spec.capabilities = Capabilities::Engine;
        let bundle = node.bundle(&spec);
        let mut config = bundle.config();
        change(&mut config);
        bundle.write_config(&config);
        let (protection, degraded) = refused(&node, &bundle);
        assert_eq!(
            (protection.installer.as_deref(), protection.wait_killable),
            (Some("runtime"), Some(false)),
            "{words}"
        );
        assert!(protection.not_killable.as_ref().is_some_and(|why| why.contains(words)), "{protection:?}");
        assert!(degraded.is_empty(), "{degraded:?}");
    }
}

/// A container that waits between create and start for a new worker is none the worse for it.
#[test]
fn the_worker_may_change_between_create_and_start() {
    let node = Node::start(Runtime::Runc, &policy("enforce"));
    let bundle = node.bundle(&Spec::shell(APPEND));
    node.create(&bundle).ok();
    kill(node.worker_pid(), Signal::SIGKILL).expect("kill the worker");
    finish(node.shim().arg("start").arg(&bundle.id)).ok();
    let outcome = node.wait_for("an attempt", |events| {
        of(events, Kind::AccountAttempt, &bundle.id).first().map(|event| result(event))
    });
    assert_eq!(outcome, Outcome::Blocked);
    assert!(of(&node.events(), Kind::ProtectionDegraded, &bundle.id).is_empty(), "the launcher's listener came");
}

/// Workers die at moments all over the start of containers: each starts, sealed and heard.
#[test]
fn containers_start_while_workers_die() {
    containers_start_while("workers", Node::worker_pid);
}

/// The same of keepers: for a while two workers have a listener then, the second keeper's and the one that retires.
#[test]
fn containers_start_while_keepers_die() {
    containers_start_while("keepers", Node::keeper_pid);
}

fn containers_start_while(what: &str, dies: fn(&Node) -> Pid) {
    let node = Node::prepare(Runtime::Runc, &policy("enforce"), "[daemon]\nstandby = true\n");
    node.start_daemon();
    let begun = Instant::now();
    let (mut kills, mut containers) = (0, 0);
    for pause in (5..200).cycle().step_by(7).map(Duration::from_millis) {
        if begun.elapsed() > Duration::from_secs(20) {
            break;
        }
        let bundle = node.bundle(&Spec::shell(APPEND));
        let mut command = node.shim();
        command
            .args(["run", "--bundle"])
            .arg(&bundle.folder)
            .arg(&bundle.id)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut start = command.spawn().expect("the shim runs");
        std::thread::sleep(pause);
        if start.try_wait().expect("wait").is_none() {
            // one that is gone already is not to be killed
            kills += u32::from(kill(dies(&node), Signal::SIGKILL).is_ok());
        }
        let done = start.wait_with_output().expect("it ends");
        let stdout = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(stdout.contains("code 2"), "{pause:?}: {done:?}\n{}", node.log_text());
        let told = |events: &[Event]| of(events, Kind::AccountAttempt, &bundle.id).first().map(|event| result(event));
        assert_eq!(node.wait_for("an attempt", told), Outcome::Blocked);
        containers += 1;
    }
    println!("{containers} containers, {kills} {what} killed");
    assert!(kills > 10, "only {kills} {what} were killed");
}

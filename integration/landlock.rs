//! What the seal refuses is told, with Landlock as the witness, also where the notifier let it through: the record of the kernel
//! itself, which no race can beat.

use acctguard::model::event::{Event, Kind, Outcome};

use crate::harness::auditing::Auditing;
use crate::harness::bundle::{Bundle, Spec};
use crate::harness::events::{changes, of};
use crate::harness::machine::launcher;
use crate::harness::node::{Node, Runtime, policy};

const LAUNCHER: &str = "/usr/local/bin/acctguard-launch";

/// A container whose shell is sealed by the launcher, and runs `script`.
fn sealed(node: &Node, script: &str) -> Bundle {
    let mut spec = Spec::new(&[LAUNCHER, "--", "sh", "-c", script]);
    spec.no_new_privileges = true;
    let bundle = node.bundle(&spec);
    bundle.put(LAUNCHER, &std::fs::read(launcher()).expect("the launcher"), 0o755);
    bundle
}

fn witnesses(event: &Event) -> Vec<&str> {
    event.verdict.iter().flat_map(|verdict| verdict.witness.iter().map(String::as_str)).collect()
}

fn node_that_switches_auditing_on(runtime: Runtime, mode: &str) -> Node {
    let node = Node::prepare(runtime, &policy(mode), "[witness]\nkernel_audit = \"switch_on\"\n");
    node.start_daemon();
    node
}

fn refused_findings(node: &Node, bundle: &Bundle, wanted: impl Fn(&Event) -> bool) -> Event {
    node.wait_for("a finding that Landlock witnesses", |events| {
        let found = of(events, Kind::AccountFinding, &bundle.id);
        found.into_iter().find(|event| witnesses(event).contains(&"landlock") && wanted(event)).cloned()
    })
}

fn a_refusal_becomes_a_finding(runtime: Runtime) {
    let _auditing = Auditing::switched_off();
    let node = node_that_switches_auditing_on(runtime, "audit");
    let script = "echo 'mallory:x:0:0::/root:/bin/sh' >> /etc/passwd; sleep 2; exit 3";
    let bundle = sealed(&node, script);
    let done = node.run(&bundle);
    assert_eq!(done.code(), 3, "{done:?}");
    assert_eq!(bundle.read("/etc/passwd"), Bundle::original("/etc/passwd"));
    let finding = refused_findings(&node, &bundle, |_| true);
    assert_eq!(witnesses(&finding), ["notify", "landlock"], "one finding for what both saw");
    let verdict = finding.verdict.as_ref().expect("verdict");
    assert_eq!((verdict.result, verdict.errno.as_deref()), (Outcome::Blocked, Some("EACCES")));
    let operation = finding.operation.as_ref().expect("operation");
    assert_eq!((operation.call.as_str(), operation.database.as_deref()), ("openat", Some("/etc/passwd")));
    let actor = finding.actor.as_ref().expect("actor");
    assert!(actor.argv.iter().any(|word| word == script), "{actor:?}");
    assert!(!actor.gone && actor.container_pid == Some(1), "{actor:?}");
    let incident = finding.incident.as_ref().expect("incident");
    assert_eq!((incident.attempts, incident.blocked), (1, 1));
}

#[test]
fn runc_a_refusal_becomes_a_finding() {
    a_refusal_becomes_a_finding(Runtime::Runc);
}

#[test]
fn crun_a_refusal_becomes_a_finding() {
    a_refusal_becomes_a_finding(Runtime::Crun);
}

/// useradd is refused its lock file, which is no database: what it was about to do is told by its arguments.
#[test]
fn runc_an_account_tool_under_the_seal_is_told_with_what_it_was_about_to_do() {
    let _auditing = Auditing::switched_off();
    let node = node_that_switches_auditing_on(Runtime::Runc, "audit");
    let bundle = sealed(&node, "useradd mallory; mv /etc/hostname /etc/passwd; exit 0");
    node.run(&bundle).ok();
    let named = |event: &Event| changes(&[event]).contains(&"account_added mallory".to_owned());
    let finding = refused_findings(&node, &bundle, named);
    // the notifier saw its process start, so that its place in the container is known though it was gone when looked at
    assert!(finding.actor.as_ref().is_some_and(|actor| actor.container_pid.is_some()), "{finding:?}");
    assert_eq!(finding.verdict.as_ref().map(|verdict| verdict.result), Some(Outcome::Blocked));
    let moved = node.wait_for("the refused rename", |events| {
        let found = of(events, Kind::AccountAttempt, &bundle.id);
        let of_mv =
            |event: &&&Event| event.actor.iter().any(|actor| actor.argv.first().is_some_and(|word| word == "mv"));
        found.iter().filter(of_mv).find(|event| witnesses(event) == ["landlock"]).map(|event| (*event).clone())
    });
    assert_eq!(moved.operation.and_then(|operation| operation.database).as_deref(), Some("/etc/passwd"));
}

/// Two containers at one time: each refusal is told where it happened.
#[test]
fn crun_refusals_are_told_in_their_own_containers() {
    let _auditing = Auditing::switched_off();
    let node = node_that_switches_auditing_on(Runtime::Crun, "audit");
    let databases = ["/etc/passwd", "/etc/group"];
    let bundles: Vec<Bundle> = databases
        .iter()
        .map(|path| sealed(&node, &format!("for i in 1 2 3; do echo x >> {path}; done; sleep 1")))
        .collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = bundles
            .iter()
            .map(|bundle| {
                let mut command = node.shim();
                command.args(["run", "--bundle"]).arg(&bundle.folder).arg(&bundle.id);
                scope.spawn(move || crate::harness::command::finish(&mut command).ok())
            })
            .collect();
        threads.into_iter().for_each(|thread| drop(thread.join().expect("thread")));
    });
    for (bundle, database) in bundles.iter().zip(databases) {
        let finding = refused_findings(&node, bundle, |_| true);
        assert_eq!(finding.operation.and_then(|operation| operation.database).as_deref(), Some(database));
        let incident = finding.incident.expect("incident");
        assert_eq!((incident.attempts, incident.blocked), (3, 3));
    }
}

/// Off and left so: everything else works, the log and doctor say it once.
#[test]
fn runc_auditing_that_is_left_off_is_told_and_nothing_else_is_missing() {
    let _auditing = Auditing::switched_off();
    let node = Node::start(Runtime::Runc, &policy("audit"));
    let bundle = sealed(&node, "echo 'mallory:x:0:0::/root:/bin/sh' >> /etc/passwd; exit 0");
    node.run(&bundle).ok();
    let attempt = node.wait_for("the attempt", |events| {
        of(events, Kind::AccountAttempt, &bundle.id).first().map(|event| (*event).clone())
    });
    assert_eq!(witnesses(&attempt), ["notify"]);
    assert!(node.log_text().contains("not witnessed while kernel auditing is off"), "{}", node.log_text());
    let doctor = node.acctguard(&["doctor"]);
    let line = doctor.stdout.lines().find(|line| line.contains("kernel auditing")).expect("a line");
    assert!(line.starts_with("note ") && line.contains("switch_on"), "{line}");
}

//! The event store's disk is full. In audit everything goes on, in enforce what cannot be recorded is refused; either way it is said, and
//! afterwards every event is there, in order and once.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use acctguard::model::event::{Event, Kind};
use nix::sys::signal::{Signal, kill};
use uuid::Uuid;

use super::events;
use crate::harness::bundle::{Bundle, Spec};
use crate::harness::events::{changes, of};
use crate::harness::machine::tmpfs;
use crate::harness::node::{Node, Runtime, policy};

const SAID: &str = "events cannot be stored";

/// A node whose state directory is a small file system, and what fills that.
struct Small {
    node: Node,
    ballast: PathBuf,
}

impl Small {
    fn start(mode: &str) -> Self {
        let node = Node::prepare(Runtime::Runc, &policy(mode), "");
        let state = node.scratch.path().join("state");
        tmpfs(&state, "size=8m,mode=700");
        node.start_daemon();
        Self { node, ballast: state.join("ballast") }
    }

    fn fill(&self) {
        let mut file = File::create(&self.ballast).expect("create");
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(&self.ballast).expect("remove");
    }
}

/// Containers of policy `mode` while the disk is full.
pub fn run(mode: &str) {
    let small = Small::start(mode);
    let node = &small.node;
    let running = node.launch(&Spec::idle());
    small.fill();
    let mut given = events::give_until(node, || node.log_text().contains(SAID));
    let begun = Instant::now();
    let changed = node.exec(&running, &["/bin/sh", "-c", "echo 'mallory:x:1001:1001::/:/bin/sh' >> /etc/passwd"]);
    let lasted = begun.elapsed();
    let new = node.bundle(&Spec::shell("touch /ran"));
    let created = node.run(&new);
    let is_audit = mode == "audit";
    assert_eq!(changed.code() == 0, is_audit, "a change in {mode}: {changed:?}");
    assert_eq!(running.text("/etc/passwd").contains("mallory"), is_audit, "{mode}");
    assert_eq!(created.code() == 0, is_audit, "a creation in {mode}: {created:?}");
    assert_eq!(new.path("/ran").exists(), is_audit, "{mode}");
    given.extend(events::give_until(node, {
        let end = Instant::now() + std::time::Duration::from_millis(300);
        move || Instant::now() > end
    }));
    // what waits outlives the worker
    let worker = node.worker_pid();
    kill(worker, Signal::SIGKILL).expect("kill the worker");
    while node.worker_pid() == worker || !node.answers() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    node.delete(&running).ok();
    if is_audit {
        // and the daemon, and the next one starts on the full disk
        assert_eq!(node.stop_daemon(Signal::SIGTERM), 0);
        node.start_daemon();
    }
    let before = events::stored(node).len();
    small.free();
    let all = settled(node, &given);
    check(&all, &given, (&running, &new), is_audit);
    println!(
        "disk full, {mode}: {} of {} events waited for the disk and are stored, in order and once; a change {} in {:.0} ms, a new container {}",
        all.len() - before,
        all.len(),
        if is_audit { "went on" } else { "was refused" },
        lasted.as_secs_f64() * 1000.0,
        if is_audit { "started" } else { "was refused" }
    );
}

/// All events, once those given are there and nothing more comes.
fn settled(node: &Node, given: &[Uuid]) -> Vec<Event> {
    node.wait_for("everything that waited", |events| {
        let has_all = given.iter().all(|id| events.iter().any(|event| event.id == *id));
        has_all.then_some(())
    });
    let mut all = events::stored(node);
    loop {
        std::thread::sleep(std::time::Duration::from_secs(1));
        let again = events::stored(node);
        if again.len() == all.len() {
            return again;
        }
        all = again;
    }
}

fn check(all: &[Event], given: &[Uuid], (running, new): (&Bundle, &Bundle), is_audit: bool) {
    let given_and_stored: Vec<Uuid> = events::ids(all).into_iter().filter(|id| given.contains(id)).collect();
    assert_eq!(events::doubles(given, &given_and_stored), 0);
    let said = |kind: Kind, what: &str| {
        let told =
            |event: &&Event| event.kind == kind && event.protection.as_ref().is_some_and(|told| told.what == what);
        all.iter().filter(told).count()
    };
    assert!(said(Kind::ProtectionDegraded, SAID) >= 1, "the outage is no event");
    assert_eq!(said(Kind::ProtectionDegraded, "events were lost"), 0);
    for kind in [Kind::ContainerCreated, Kind::ContainerExec, Kind::ContainerExited] {
        assert_eq!(of(all, kind, &running.id).len(), 1, "{kind:?} of the running container");
    }
    let findings = of(all, Kind::AccountFinding, &running.id);
    let tells = changes(&findings).iter().any(|change| change == "account_added mallory");
    assert!(!findings.is_empty() && (tells || !is_audit), "{findings:?}");
    let places: Vec<usize> = [
        Kind::ContainerCreated,
        Kind::ContainerExec,
        Kind::AccountAttempt,
        Kind::AccountFinding,
        Kind::ContainerExited,
    ]
    .iter()
    .map(|kind| {
        let mut events = all.iter();
        let place = events.position(|event| event.kind == *kind && is_of(event, running));
        place.unwrap_or_else(|| panic!("no {kind:?}"))
    })
    .collect();
    assert!(places.is_sorted(), "out of order: {places:?}");
    let created = of(all, Kind::ContainerCreated, &new.id);
    assert_eq!(created.len(), 1, "creation of the new container");
    // the hook's own record, not what the daemon makes of a container that nobody registered
    let has_baseline = |event: &&&Event| event.creation.as_ref().is_some_and(|creation| creation.accounts.is_some());
    assert_eq!(created.iter().filter(has_baseline).count(), 1, "the hook's record of the new container");
    let refused = created.iter().any(|event| event.creation.as_ref().is_some_and(|creation| creation.verdict.refused));
    assert_eq!(refused, !is_audit);
}

fn is_of(event: &Event, bundle: &Bundle) -> bool {
    event.container.as_ref().is_some_and(|container| container.id.as_str() == bundle.id)
}

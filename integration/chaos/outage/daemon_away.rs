//! The daemon is away while containers come and go, and is started last: their records wait in the spool.

use acctguard::model::event::{Event, Kind};
use nix::sys::signal::Signal;

use super::events;
use crate::harness::bundle::{Bundle, Spec};
use crate::harness::events::of;
use crate::harness::node::{Node, Runtime, policy};

/// `count` containers from beginning to end, and one that goes on, before the first daemon.
pub fn run(count: usize) {
    let more = "[supervisor]\nwhen_absent = \"start_unprotected\"\n";
    let node = Node::prepare(Runtime::Runc, &policy("audit"), more);
    let mut bundles: Vec<Bundle> = Vec::new();
    for _ in 0..count {
        let bundle = node.bundle(&Spec::shell("true"));
        node.run(&bundle).ok();
        bundles.push(bundle);
    }
    let lasting = node.launch(&Spec::idle());
    let spool = node.scratch.path().join("state/spool");
    // what a hook leaves that was killed while it wrote
    std::fs::write(spool.join(".half.1.tmp"), "{\"half").expect("write");
    let waiting = std::fs::read_dir(&spool).expect("spool").count() - 1;
    node.start_daemon();
    let all = taken_in(&node, waiting);
    check(&all, &bundles, &lasting);
    // a second start has nothing to take in, and a record that comes back after a power cut is known
    let known = all.iter().find(|event| event.kind == Kind::ContainerCreated).expect("a creation");
    node.stop_daemon(Signal::SIGKILL);
    acctguard::store::spool::put(&spool, known).expect("spool");
    node.start_daemon();
    let again = taken_in(&node, waiting);
    assert_eq!(events::ids(&again), events::ids(&all));

    // an exit while the daemon is away is the only one of its container
    let guarded = node.launch(&Spec::idle());
    assert_eq!(node.stop_daemon(Signal::SIGTERM), 0);
    node.delete(&guarded).ok();
    node.start_daemon();
    std::thread::sleep(std::time::Duration::from_secs(16));
    let all = events::stored(&node);
    assert_eq!(of(&all, Kind::ContainerExited, &guarded.id).len(), 1, "exits of one container");
    println!(
        "daemon away: {waiting} records of {} containers were taken in by the daemon started last, in order and once",
        count + 1
    );
}

fn taken_in(node: &Node, count: usize) -> Vec<Event> {
    node.wait_for("the spooled records", |events| (events.len() >= count).then_some(()));
    events::stored(node)
}

fn check(all: &[Event], bundles: &[Bundle], lasting: &Bundle) {
    let ids: Vec<&str> = bundles.iter().chain([lasting]).map(|bundle| bundle.id.as_str()).collect();
    let created: Vec<&Event> = all.iter().filter(|event| event.kind == Kind::ContainerCreated).collect();
    let order: Vec<&str> = created.iter().filter_map(|event| Some(event.container.as_ref()?.id.as_str())).collect();
    assert_eq!(order, ids, "creations, each once and in order");
    for bundle in bundles {
        assert_eq!(of(all, Kind::ContainerExited, &bundle.id).len(), 1, "exits of {}", bundle.id);
    }
}

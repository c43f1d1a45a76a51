//! What a worker has counted and not told when it ends: the next one says that there was something, and after an orderly end nothing is
//! left to say.

use std::time::{Duration, Instant};

use acctguard::model::event::{Event, Kind};
use nix::sys::signal::{Signal, kill};

use crate::harness::bundle::{Bundle, Spec};
use crate::harness::events::of;
use crate::harness::node::{Node, PATIENCE, Runtime, policy};

/// Attempts of one process, of which the first is told at once and the others with their number.
const ATTEMPTS: u64 = 50;

fn loud(node: &Node) -> Bundle {
    let script = format!(
        "i=0; while [ $i -lt {ATTEMPTS} ]; do echo x >> /etc/passwd; i=$((i+1)); done; touch /done; sleep 3600"
    );
    let bundle = node.launch(&Spec::shell(&script));
    let begun = Instant::now();
    while !bundle.path("/done").exists() {
        assert!(begun.elapsed() < PATIENCE, "the container does nothing:\n{}", node.log_text());
        std::thread::sleep(Duration::from_millis(2));
    }
    bundle
}

fn told(events: &[Event], bundle: &Bundle) -> u64 {
    of(events, Kind::AccountAttempt, &bundle.id).iter().map(|event| event.count.unwrap_or(1)).sum()
}

/// How many repeats the next worker says were not told, and of how many refused acts.
fn untold(events: &[Event], bundle: &Bundle) -> Option<(u64, String)> {
    let degraded = of(events, Kind::ProtectionDegraded, &bundle.id);
    let [event] = degraded.as_slice() else { return None };
    Some((event.suppressed.unwrap_or(0), event.protection.as_ref()?.reason.clone()))
}

#[test]
fn what_a_killed_worker_did_not_tell_is_said_by_the_next() {
    for mode in ["audit", "enforce"] {
        let node = Node::start(Runtime::Crun, &policy(mode));
        let bundle = loud(&node);
        kill(node.worker_pid(), Signal::SIGKILL).expect("kill the worker");
        let (repeats, reason) = node.wait_for("what was not told", |events| untold(events, &bundle));
        let known = told(&node.events(), &bundle);
        assert_eq!(known + repeats, ATTEMPTS, "{mode}: {known} told");
        let refusals = if mode == "audit" { "up to 0 acts" } else { "up to 1 acts" };
        assert!(reason.contains(refusals), "{mode}: {reason}");
    }
}

#[test]
fn an_upgrade_leaves_nothing_untold() {
    for mode in ["audit", "enforce"] {
        let node = Node::start(Runtime::Crun, &policy(mode));
        let bundle = loud(&node);
        let done = crate::harness::command::finish(node.program("acctguard-daemon").arg("upgrade")).ok();
        node.wait_for("all attempts", |events| (told(events, &bundle) == ATTEMPTS).then_some(()));
        assert_eq!(untold(&node.events(), &bundle), None, "{mode}: {done:?}");
        let findings = of(&node.events(), Kind::AccountFinding, &bundle.id).len();
        assert!(findings > 0, "{mode}");
    }
}

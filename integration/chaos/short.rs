//! A short one of the programs, so that every run of the tests sees it; `integration/chaos/run` is the long one, and stricter.

use super::kill::{Bounds, Victim, kill_under_load};
use super::load::{Program, parts};
use super::neighbours::{Bounds as Calls, Deed, beside};
use crate::harness::node::{Node, Runtime, policy};

/// `kill -9` of the worker under load: no call fails, no change comes twice, no event is missing.
#[test]
fn kills_of_the_worker_under_load_cost_nothing() {
    let (figures, kills) = kill_under_load(Victim::Worker, Bounds { count: 40, seconds: 12 }, &parts(&[Program::C], 4));
    figures.print("kills of the worker", kills, 12);
    assert!(kills > 5, "only {kills} kills");
    assert!(figures.is_right(), "{}", figures.wrongs().join("\n"));
}

/// Others wait for a container that floods, or that hangs, as little as they do for a busy one: a file system that hangs would cost
/// them seconds, and no run of this test is quiet enough for less than that.
#[test]
fn one_container_at_its_worst_leaves_another_served() {
    let node = Node::start(Runtime::Runc, &policy("enforce"));
    for deed in [Deed::Flood, Deed::HungPath] {
        let figures = beside(&node, deed, Calls { rounds: 2, calls: 200 });
        let [median, _] = figures.ratios();
        assert!(median < 20.0, "{deed:?}: {figures:?}");
    }
}

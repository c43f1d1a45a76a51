//! A short one of the programs, so that every run of the tests sees it; `integration/chaos/run` is the long one, and stricter.

use super::kill::{Bounds, Victim, kill_under_load};
use super::load::{Program, parts};

/// `kill -9` of the worker under load: no call fails, no change comes twice, no event is missing.
#[test]
fn kills_of_the_worker_under_load_cost_nothing() {
    let (figures, kills) = kill_under_load(Victim::Worker, Bounds { count: 40, seconds: 12 }, &parts(&[Program::C], 4));
    figures.print("kills of the worker", kills, 12);
    assert!(kills > 5, "only {kills} kills");
    assert!(figures.is_right(), "{}", figures.wrongs().join("\n"));
}

//! The suite's work: a lane for each runtime and question, side by side.

use std::collections::BTreeMap;

use crate::evasion::judgement::{Judgement, Question};
use crate::evasion::lane::Lane;
use crate::evasion::technique::Technique;
use crate::evasion::trial::Entry;
use crate::harness::node::Runtime;

const fn lane(runtime: Runtime, question: Question) -> Lane {
    Lane { runtime, question }
}

/// The lanes in the table's order.
pub const LANES: [Lane; 6] = [
    lane(Runtime::Runc, Question::Control),
    lane(Runtime::Crun, Question::Control),
    lane(Runtime::Runc, Question::Audit),
    lane(Runtime::Crun, Question::Audit),
    lane(Runtime::Runc, Question::Enforce),
    lane(Runtime::Crun, Question::Enforce),
];

/// By number of the technique, number of the lane, number of the way in.
pub type Results = BTreeMap<(usize, usize, usize), Judgement>;

/// Carries all of `techniques` out in every lane, by every way in.
///
/// # Panics
/// When a lane could not be run.
pub fn run(techniques: &[Technique]) -> Results {
    let lanes = std::thread::scope(|scope| {
        let started = LANES.map(|lane| scope.spawn(move || lane.run(techniques)));
        started.map(|lane| lane.join().expect("a lane could not be run: see the lines above"))
    });
    let ways = Entry::ALL.len();
    let mut results = Results::new();
    for (lane, judged) in lanes.into_iter().enumerate() {
        let numbered = judged.into_iter().enumerate();
        results.extend(numbered.map(|(number, (_, judgement))| ((number / ways, lane, number % ways), judgement)));
    }
    results
}

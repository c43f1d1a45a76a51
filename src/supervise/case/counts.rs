//! How much has come of a container.

use crate::model::event::Outcome;
use crate::supervise::case::Case;
use crate::supervise::incident::Act;

/// Numbers for `acctguard containers`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Attempts seen.
    pub attempts: u64,
    /// Blocked among them.
    pub blocked: u64,
    /// Findings made.
    pub findings: u64,
}

impl Counts {
    /// Counts an attempt.
    pub(super) fn add(&mut self, outcome: Outcome) {
        self.attempts = self.attempts.saturating_add(1);
        if outcome == Outcome::Blocked {
            self.blocked = self.blocked.saturating_add(1);
        }
    }
}

/// What a case knows and has not told yet. The first of each kind of attempt is told at once and in neither.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Untold {
    /// Repeats and folded attempts, which are told as numbers.
    pub attempts: u64,
    /// Acts in progress that were refused something.
    pub refusals: u64,
}

impl Case {
    /// What is not told yet.
    #[must_use]
    pub fn untold(&self) -> Untold {
        let state = self.state();
        let repeats: u64 = state.acts.iter().flat_map(Act::repeats).map(|(_, count)| count).sum();
        let folded = state.gate.count().saturating_add(state.neighbours_gate.count());
        let refusals = state.acts.iter().chain(&state.remembered).filter(|act| act.has_untold_refusal()).count();
        Untold { attempts: repeats.saturating_add(folded), refusals: refusals as u64 }
    }
}

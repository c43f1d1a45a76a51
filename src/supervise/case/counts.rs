//! How much has come of a container.

use crate::model::event::Outcome;

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

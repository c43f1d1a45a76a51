//! How many events a container can bring about. What is beyond the rate is folded: the first of a kind is told at once, the others are
//! told as a number. Findings of changes never pass here: they are bounded by how often the databases are read.

use std::time::Duration;

use crate::model::attempt::Effect;
use crate::model::database_path::DatabasePath;
use crate::model::event::Outcome;
use crate::supervise::incident::Sighting;
use crate::supervise::moment::Moment;
use crate::supervise::witness::Witness;

/// Events that a container may bring about at once.
pub(super) const BURST: u32 = 256;
/// Events a second that it may bring about for ever.
pub(super) const PER_SECOND: u32 = 32;
/// Kinds told apart while events are folded; what is of none of them counts to the last.
pub(super) const MAX_KINDS: usize = 64;
/// After so long what was folded is told.
const TELL_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Kind {
    call: &'static str,
    effect: Effect,
    database: Option<DatabasePath>,
    outcome: Outcome,
}

impl Kind {
    fn of(sighting: &Sighting) -> Self {
        let attempt = &sighting.seen.attempt;
        let database = attempt.database.clone();
        Self { call: attempt.call, effect: attempt.effect, database, outcome: sighting.outcome }
    }
}

/// Events of one kind that were folded.
#[derive(Debug)]
pub(super) struct Folded {
    kind: Kind,
    /// The first of them, which was told.
    pub sighting: Sighting,
    /// Who saw it.
    pub witness: Witness,
    /// How many there were besides.
    pub count: u64,
}

/// A bucket of tokens, and what came while it was empty.
#[derive(Debug)]
pub(super) struct Gate {
    /// Thousandths of an event.
    tokens: u64,
    refilled: Moment,
    since: Option<Moment>,
    folded: Vec<Folded>,
}

impl Gate {
    pub fn new(now: Moment) -> Self {
        Self { tokens: u64::from(BURST).saturating_mul(1000), refilled: now, since: None, folded: Vec::new() }
    }

    fn refill(&mut self, now: Moment) {
        let passed = u64::try_from(now.since(self.refilled).as_millis()).unwrap_or(u64::MAX);
        if passed > 0 {
            let more = passed.saturating_mul(u64::from(PER_SECOND));
            self.tokens = self.tokens.saturating_add(more).min(u64::from(BURST).saturating_mul(1000));
            self.refilled = now;
        }
    }

    /// Whether an event of `sighting` is recorded; else it counts.
    pub fn admits(&mut self, sighting: &Sighting, witness: Witness, now: Moment) -> bool {
        self.refill(now);
        if let Some(tokens) = self.tokens.checked_sub(1000) {
            self.tokens = tokens;
            return true;
        }
        self.since.get_or_insert(now);
        let kind = Kind::of(sighting);
        let is_full = self.folded.len() >= MAX_KINDS;
        if let Some(known) = self.folded.iter_mut().find(|folded| folded.kind == kind) {
            known.count = known.count.saturating_add(1);
            return false;
        }
        if let Some(last) = self.folded.last_mut().filter(|_| is_full) {
            last.count = last.count.saturating_add(1);
            return false;
        }
        let mut sighting = sighting.clone();
        sighting.seen.proposed = None;
        self.folded.push(Folded { kind, sighting, witness, count: 0 });
        true
    }

    /// How many events were folded and not told.
    pub fn count(&self) -> u64 {
        self.folded.iter().map(|folded| folded.count).sum()
    }

    /// How long until something folded is to be told.
    pub fn wait(&self, now: Moment) -> Option<Duration> {
        self.since.map(|since| TELL_AFTER.saturating_sub(now.since(since)))
    }

    /// What was folded, when it is time to tell or `at_once`.
    pub fn take(&mut self, now: Moment, at_once: bool) -> Vec<Folded> {
        if !at_once && self.wait(now).is_none_or(|left| !left.is_zero()) {
            return Vec::new();
        }
        self.since = None;
        let mut folded = std::mem::take(&mut self.folded);
        folded.retain(|folded| folded.count > 0);
        folded
    }
}

//! Attempts of one process tree in one burst: an act.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::model::attempt::Effect;
use crate::model::database_path::DatabasePath;
use crate::model::event;
use crate::model::event::Change;
use crate::model::event::Outcome;
use crate::model::event::PolicyReference;
use crate::model::event::Session;
use crate::supervise::actor::Acting;
use crate::supervise::known_threads::ProcessKey;
use crate::supervise::moment::Moment;
use crate::supervise::observe::Seen;
use crate::supervise::witness::Witness;

/// A pause longer than this ends a burst.
pub const BURST_GAP: Duration = Duration::from_secs(1);
/// A burst is never longer than this.
pub const BURST_LIMIT: Duration = Duration::from_secs(30);
/// After this long a pause with nobody of the act alive, the act is over.
pub const QUIET: Duration = Duration::from_millis(250);
/// Most different attempts kept of one act; more are recorded one by one.
const MAX_KINDS: usize = 256;

/// An attempt, who made it, and what was decided.
#[derive(Debug, Clone)]
pub struct Sighting {
    /// What.
    pub seen: Seen,
    /// Who.
    pub acting: Arc<Acting>,
    /// In which exec session.
    pub session: Option<Session>,
    /// What policy said.
    pub outcome: Outcome,
    /// Which policy.
    pub policy: PolicyReference,
    /// When.
    pub at: Moment,
}

impl Sighting {
    /// Whether it was let go and concerns `database` itself.
    #[must_use]
    pub fn touched(&self, database: &str) -> bool {
        self.outcome != Outcome::Blocked
            && matches!(self.seen.attempt.effect, Effect::Writes | Effect::Replaces | Effect::Aliases)
            && self.seen.attempt.database.as_ref().is_some_and(|concerned| covers(concerned, database))
    }

    /// Whether it was let go and may have changed `database`, by whatever way.
    #[must_use]
    pub fn may_have_changed(&self, database: &str) -> bool {
        let by_any_way =
            matches!(self.seen.attempt.effect, Effect::ReplacesAncestor | Effect::Bypasses | Effect::Unresolved);
        self.touched(database) || (self.outcome != Outcome::Blocked && by_any_way)
    }

    /// How surely it touched a database; the greatest of an act is what its finding shows.
    fn decisiveness(&self) -> u8 {
        match self.seen.attempt.effect {
            Effect::Replaces => 6,
            Effect::Writes => 5,
            Effect::ReplacesAncestor => 4,
            Effect::Aliases => 3,
            Effect::Unresolved => 2,
            Effect::Bypasses => 1,
            Effect::RunsAccountTool | Effect::Listens => 0,
        }
    }

    /// Name of the errno that it ended with when it was refused, as `witness` saw.
    #[must_use]
    pub fn errno(&self, witness: Witness) -> &'static str {
        if self.seen.attempt.effect == Effect::Listens { "EBUSY" } else { witness.errno() }
    }

    /// Whether it was refused something that concerns accounts.
    fn is_refusal(&self) -> bool {
        self.outcome == Outcome::Blocked && self.seen.attempt.effect != Effect::Listens
    }

    fn process(&self) -> ProcessKey {
        ProcessKey { pid: self.acting.pid(), start_time_ticks: self.acting.start_time_ticks }
    }

    /// Whether `seen` with `outcome`, by `process`, is the same again.
    fn is_repeated_by(&self, process: ProcessKey, seen: &Seen, outcome: Outcome) -> bool {
        let key = |seen: &Seen| (seen.attempt.call, seen.attempt.effect);
        self.process() == process
            && self.outcome == outcome
            && key(&self.seen) == key(seen)
            && self.seen.attempt.database == seen.attempt.database
    }
}

/// Sightings of one kind in an act.
#[derive(Debug, Clone)]
pub struct Kind {
    /// The first of them.
    pub sighting: Sighting,
    /// How many there were.
    pub count: u64,
    /// Who saw them.
    pub witness: Witness,
}

impl Kind {
    fn repeat(&mut self, proposed: Option<Vec<u8>>) {
        self.count = self.count.saturating_add(1);
        if proposed.is_some() {
            self.sighting.seen.proposed = proposed; // the latest is what was meant to last
        }
    }
}

/// Whether a change of `database` is one of `concerned`: the same file, or one in that directory.
fn covers(concerned: &DatabasePath, database: &str) -> bool {
    let text = concerned.as_str();
    text == database || (concerned.is_directory() && database.starts_with(text))
}

/// An act.
#[derive(Debug, Clone)]
pub struct Act {
    id: Uuid,
    first: Moment,
    last: Moment,
    attempts: u64,
    blocked: u64,
    told: bool,
    kinds: Vec<Kind>,
    /// Changes of content that it explains.
    pub changes: Vec<Change>,
    /// Whether fanotify saw one of them.
    pub seen_by_fanotify: bool,
}

impl Act {
    /// An act that begins with `sighting`, which `witness` saw.
    #[must_use]
    pub fn begin(sighting: Sighting, witness: Witness) -> Self {
        let at = sighting.at;
        let mut act = Self {
            id: Uuid::now_v7(),
            first: at,
            last: at,
            attempts: 0,
            blocked: 0,
            told: false,
            kinds: Vec::new(),
            changes: Vec::new(),
            seen_by_fanotify: false,
        };
        act.add(sighting, witness);
        act
    }

    /// Whether `sighting` goes on with this act.
    #[must_use]
    pub fn takes(&self, sighting: &Sighting) -> bool {
        self.goes_on_at(sighting.at) && self.sightings().any(|member| sighting.acting.is_related_to(&member.acting))
    }

    fn goes_on_at(&self, at: Moment) -> bool {
        at.since(self.last) <= BURST_GAP && at.since(self.first) <= BURST_LIMIT
    }

    /// Counts `seen` when the notifier saw the same of `process` in this act before: all that is kept of a repeat. False when it
    /// is none.
    pub fn add_repeat(&mut self, process: ProcessKey, seen: &mut Seen, outcome: Outcome, at: Moment) -> bool {
        if !self.goes_on_at(at) {
            return false;
        }
        let is_known =
            |kind: &&mut Kind| kind.witness == Witness::Notify && kind.sighting.is_repeated_by(process, seen, outcome);
        let Some(known) = self.kinds.iter_mut().find(is_known) else { return false };
        known.repeat(seen.proposed.take());
        self.count(outcome, at);
        true
    }

    fn count(&mut self, outcome: Outcome, at: Moment) {
        self.last = at;
        self.attempts = self.attempts.saturating_add(1);
        if outcome == Outcome::Blocked {
            self.blocked = self.blocked.saturating_add(1);
        }
    }

    /// Adds `sighting`, which `witness` saw. True when it is the first of its kind: to be recorded at once; repeats are counted.
    pub fn add(&mut self, sighting: Sighting, witness: Witness) -> bool {
        let is_told_already = witness != Witness::Notify && self.was_let_go(&sighting);
        self.count(sighting.outcome, sighting.at);
        // what the notifier let go and Landlock refused was one attempt
        self.attempts = self.attempts.saturating_sub(u64::from(is_told_already));
        let is_known = |kind: &&mut Kind| {
            kind.witness == witness
                && kind.sighting.is_repeated_by(sighting.process(), &sighting.seen, sighting.outcome)
        };
        if let Some(known) = self.kinds.iter_mut().find(is_known) {
            known.repeat(sighting.seen.proposed);
            return false;
        }
        if self.kinds.len() < MAX_KINDS {
            self.kinds.push(Kind { sighting, count: 1, witness });
        }
        true
    }

    /// Whether the notifier let something go of which `refused` may be the end: by the same process, on the same database.
    fn was_let_go(&self, refused: &Sighting) -> bool {
        let concerned = |sighting: &Sighting| sighting.seen.attempt.database.clone();
        self.kinds.iter().any(|kind| {
            kind.witness == Witness::Notify
                && kind.sighting.outcome != Outcome::Blocked
                && kind.sighting.acting.pid() == refused.acting.pid()
                && (concerned(refused).is_none() || concerned(refused) == concerned(&kind.sighting))
        })
    }

    /// Notes activity that is no attempt.
    pub fn touch(&mut self, now: Moment) {
        if now.since(self.last) > Duration::ZERO {
            self.last = now;
        }
    }

    /// When it is over at the latest, and at the earliest: the latter holds when none of its processes lives any more.
    #[must_use]
    pub fn is_over(&self, now: Moment, is_alive: impl Fn(&Acting) -> bool) -> bool {
        let quiet = now.since(self.last);
        quiet > BURST_GAP
            || now.since(self.first) >= BURST_LIMIT
            || (quiet >= QUIET && !self.sightings().any(|sighting| is_alive(&sighting.acting)))
    }

    /// Whether it has gone on for as long as an act may.
    #[must_use]
    pub fn is_at_limit(&self, now: Moment) -> bool {
        now.since(self.first) >= BURST_LIMIT
    }

    /// When it should be looked at again.
    #[must_use]
    pub fn wait(&self, now: Moment) -> Duration {
        let quiet = now.since(self.last);
        let step = if quiet < QUIET { QUIET } else { BURST_GAP.saturating_add(Duration::from_millis(1)) };
        step.saturating_sub(quiet)
    }

    /// When it has gone on for as long as an act may.
    #[must_use]
    pub fn limit_in(&self, now: Moment) -> Duration {
        BURST_LIMIT.saturating_sub(now.since(self.first))
    }

    /// Its sightings, one of each kind.
    pub fn sightings(&self) -> impl Iterator<Item = &Sighting> {
        self.kinds.iter().map(|kind| &kind.sighting)
    }

    /// Its repeats: each kind that came again, and how often it did so.
    pub fn repeats(&self) -> impl Iterator<Item = (&Kind, u64)> {
        self.kinds.iter().filter(|kind| kind.count > 1).map(|kind| (kind, kind.count.saturating_sub(1)))
    }

    /// Who saw something of it.
    #[must_use]
    pub fn witnesses(&self) -> Vec<&'static str> {
        let mut words: Vec<&str> = self.kinds.iter().map(|kind| kind.witness.word()).collect();
        words.sort_unstable();
        words.dedup();
        words.reverse();
        words
    }

    /// Name of the errno that what was refused of it ended with.
    #[must_use]
    pub fn errno(&self) -> &'static str {
        let refused = self.kinds.iter().find(|kind| kind.sighting.is_refusal());
        refused.map_or(Witness::Notify, |kind| kind.witness).errno()
    }

    /// Whether something of it was refused that concerns accounts. What was too much to be kept may have been.
    fn was_refused(&self) -> bool {
        self.blocked > 0 && (self.kinds.len() >= MAX_KINDS || self.sightings().any(Sighting::is_refusal))
    }

    /// Whether there is something to tell: a change, or something blocked that was not told yet.
    #[must_use]
    pub fn is_worth_telling(&self) -> bool {
        !self.changes.is_empty() || self.has_untold_refusal()
    }

    /// Whether something blocked is to be told.
    #[must_use]
    pub fn has_untold_refusal(&self) -> bool {
        self.was_refused() && !self.told
    }

    /// Notes that everything up to now has been told.
    pub fn set_told(&mut self) {
        self.told = true;
        for kind in &mut self.kinds {
            kind.count = 1;
        }
        self.changes.clear();
        self.seen_by_fanotify = false;
    }

    /// Whether anything of it that was let go concerns `database` itself.
    #[must_use]
    pub fn touched(&self, database: &str) -> bool {
        self.sightings().any(|sighting| sighting.touched(database))
    }

    /// Whether anything of it may have changed `database`.
    #[must_use]
    pub fn may_have_changed(&self, database: &str) -> bool {
        self.sightings().any(|sighting| sighting.may_have_changed(database))
    }

    /// Whether anything of it may still change a database: something was let go.
    #[must_use]
    pub fn may_change_later(&self) -> bool {
        self.sightings().any(|sighting| {
            sighting.outcome != Outcome::Blocked && sighting.seen.attempt.effect != Effect::RunsAccountTool
        })
    }

    /// Whether process `pid` is part of it.
    #[must_use]
    pub fn has_process(&self, pid: u32) -> bool {
        self.sightings().any(|sighting| sighting.acting.pid() == pid)
    }

    /// Whether one of its processes, or a tool it ran, was told `name`.
    #[must_use]
    pub fn mentions(&self, name: &str) -> bool {
        self.sightings().any(|sighting| {
            sighting.acting.actor.argv.iter().chain(&sighting.seen.tool_arguments).any(|argument| argument == name)
        })
    }

    /// The sighting that tells most: one that concerns the database of the weightiest change when there are changes, a blocked
    /// one when there are none. The first of equals, so that a finding names what began it.
    #[must_use]
    pub fn decisive(&self) -> Option<&Sighting> {
        let of_account = self.changes.iter().find(|change| change.change.starts_with("account_"));
        let weightiest = of_account.or(self.changes.first());
        let concerned = |sighting: &Sighting| match weightiest {
            Some(change) if sighting.touched(&change.database) => 2,
            Some(change) => u8::from(sighting.may_have_changed(&change.database)),
            None => u8::from(sighting.outcome == Outcome::Blocked),
        };
        self.sightings().first_max_by_key(|sighting| (concerned(sighting), sighting.decisiveness()))
    }

    /// As events show it.
    #[must_use]
    pub fn published(&self) -> event::Incident {
        event::Incident {
            id: self.id,
            attempts: self.attempts,
            blocked: self.blocked,
            first: self.first.wall,
            last: self.last.wall,
        }
    }
}

/// `max_by_key` that gives the first of equals.
trait FirstMaximum: Iterator + Sized {
    fn first_max_by_key<K: Ord>(self, mut key: impl FnMut(&Self::Item) -> K) -> Option<Self::Item> {
        self.fold(None, |best: Option<(K, Self::Item)>, item| {
            let rank = key(&item);
            match best {
                Some((best_rank, best_item)) if best_rank >= rank => Some((best_rank, best_item)),
                _ => Some((rank, item)),
            }
        })
        .map(|(_, item)| item)
    }
}

impl<I: Iterator> FirstMaximum for I {}

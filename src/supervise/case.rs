//! What is known of one container: its databases as they last were, and the acts in progress.
//!
//! Attempts come from the supervisors of its listeners, changes from fanotify, time from the daemon. When an act is over the
//! databases are read again and what changed is told once, in a finding. A change that no attempt explains is a finding
//! of its own. An act that changed and was refused nothing is no finding, but it is remembered: the descriptor it opened
//! may be written to later.

use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::time::Duration;

use crate::model::account;
use crate::model::account::Databases;
use crate::model::account::kept::Told;
use crate::model::database_path::DatabasePath;
use crate::model::event::Change;
use crate::model::event::Container;
use crate::model::event::Event;
use crate::model::event::Host;
use crate::model::event::Incident;
use crate::model::event::Kind;
use crate::model::event::Outcome;
use crate::model::event::Severity;
use crate::model::policy::Applied;
use crate::model::workload::ContainerId;
use crate::supervise::actor::Acting;
use crate::supervise::attribution;
use crate::supervise::attribution::Writer;
use crate::supervise::case::gate::Gate;
use crate::supervise::container_root::ContainerRoot;
use crate::supervise::databases::Devices;
use crate::supervise::finding;
use crate::supervise::incident::Act;
use crate::supervise::incident::QUIET;
use crate::supervise::incident::Sighting;
use crate::supervise::known_threads::ProcessKey;
use crate::supervise::live_policy::LivePolicy;
use crate::supervise::moment::Moment;
use crate::supervise::neighbourhood::Neighbourhood;
use crate::supervise::neighbourhood::Residence;
use crate::supervise::neighbours::Visits;
use crate::supervise::observe::Seen;
use crate::supervise::surroundings::LiveSurroundings;
use crate::supervise::surroundings::Surroundings;
use crate::supervise::witness::Witness;

mod counts;
mod gate;
mod intervals;
mod refused;

pub use crate::supervise::case::counts::Counts;
pub use crate::supervise::case::counts::Untold;

/// Most acts in progress; what belongs to none of them is told and counted, and its changes are explained by fanotify.
const MAX_ACTS: usize = 64;
/// Of them, most that other containers began: they take none of the container's own.
const MAX_NEIGHBOURS_ACTS: usize = 16;
/// Most bytes kept of contents that would take a database's place; without its own an act's refusal names no account.
const MAX_PROPOSED_BYTES: usize = 16 * 1024 * 1024;
/// Most acts remembered for what their open descriptors may still do.
const MAX_REMEMBERED: usize = 64;
/// Most writers of changed databases remembered until the databases are read.
const MAX_WRITERS: usize = 64;
/// Changes that come without a pause are looked at after this long.
const CHANGE_LIMIT: Duration = Duration::from_secs(2);

/// Which container a case is about.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The node.
    pub host: Host,
    /// The container, as its events show it.
    pub container: Container,
    /// Pid of its init on the host; 0 when unknown.
    pub init: u32,
    /// Its policy.
    pub policy: LivePolicy,
}

struct State {
    identity: Identity,
    known: Databases,
    /// Which databases `known` is of.
    watched: Arc<[DatabasePath]>,
    acts: Vec<Act>,
    remembered: VecDeque<Act>,
    /// First and last change told by fanotify since the databases were read.
    changed: Option<(Moment, Moment)>,
    /// When the databases were read last.
    read_at: Moment,
    writers: Vec<Writer>,
    /// Somebody was let change the root of all processes.
    root_moves: bool,
    /// It goes on where an earlier case ended: `known` is not to be read anew.
    goes_on: bool,
    counts: Counts,
    /// For what the container does.
    gate: Gate,
    /// For what others do to its databases: they fold no event of its own.
    neighbours_gate: Gate,
}

/// One container's case. Shared by its listeners and the thread that ticks it.
pub struct Case {
    root: Arc<RwLock<Arc<ContainerRoot>>>,
    surroundings: Box<dyn Surroundings>,
    policy: LivePolicy,
    /// The file systems that its databases lay on when they were read last.
    devices: Mutex<Devices>,
    /// Where others find it by them.
    residence: Mutex<Option<Residence>>,
    /// Threads of other containers that look at its databases.
    pub visits: Visits,
    /// Held while the databases are read to tell what changed.
    reading: Mutex<()>,
    state: Mutex<State>,
}

impl Case {
    /// A case that begins with the databases as they are below `root`.
    #[must_use]
    pub fn new(identity: Identity, root: Arc<ContainerRoot>) -> Self {
        let root = Arc::new(RwLock::new(root));
        let surroundings = Box::new(LiveSurroundings { root: Arc::clone(&root) });
        Self::with_surroundings(identity, root, surroundings)
    }

    /// A case that goes on where another of the same container ended, which had told what `told` says. What has changed
    /// since is told as soon as it is due.
    #[must_use]
    pub fn go_on(identity: Identity, root: Arc<ContainerRoot>, told: Told) -> Self {
        let case = Self::new(identity, root);
        case.go_on_from(told, Moment::now());
        case
    }

    /// The same, to be found by other containers' calls in `neighbourhood`.
    #[must_use]
    pub fn among(self, neighbourhood: &Arc<Neighbourhood>) -> Self {
        let mut residence = Residence::new(Arc::clone(neighbourhood), self.container_id());
        residence.move_to(all_of(&self.devices.lock().unwrap_or_else(PoisonError::into_inner)));
        Self { residence: Mutex::new(Some(residence)), ..self }
    }

    fn go_on_from(&self, told: Told, now: Moment) {
        let mut state = self.state();
        state.known = told.databases;
        state.watched = told.watched;
        state.goes_on = true;
        state.changed = Some((now, now));
    }

    fn with_surroundings(
        identity: Identity,
        root: Arc<RwLock<Arc<ContainerRoot>>>,
        surroundings: Box<dyn Surroundings>,
    ) -> Self {
        let watched: Arc<[DatabasePath]> = Arc::from(identity.policy.current().databases.as_slice());
        let known = surroundings.snapshot(&watched);
        let policy = identity.policy.clone();
        let devices = Mutex::new(surroundings.devices(&watched));
        let state = State {
            identity,
            known,
            watched,
            acts: Vec::new(),
            remembered: VecDeque::new(),
            changed: None,
            read_at: Moment::now(),
            writers: Vec::new(),
            root_moves: false,
            goes_on: false,
            counts: Counts::default(),
            gate: Gate::new(Moment::now()),
            neighbours_gate: Gate::new(Moment::now()),
        };
        Self {
            root,
            surroundings,
            policy,
            devices,
            residence: Mutex::default(),
            visits: Visits::default(),
            reading: Mutex::new(()),
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on with another root directory and begins anew with the databases there: for a case that began with the bundle's
    /// root file system and learns the container's own root, mounts and all, when its listener comes. One that goes on where another
    /// ended keeps what that one told.
    pub fn replace_root(&self, root: Arc<ContainerRoot>, init: u32) {
        let _one_at_a_time = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        *self.root.write().unwrap_or_else(PoisonError::into_inner) = root;
        let watched: Arc<[DatabasePath]> = Arc::from(self.policy.current().databases.as_slice());
        self.state().identity.init = init;
        let known = self.surroundings.snapshot(&watched);
        self.note_devices(&watched);
        let mut state = self.state();
        if state.goes_on {
            return;
        }
        state.known = known;
        state.watched = watched;
    }

    fn note_devices(&self, databases: &[DatabasePath]) {
        let devices = self.surroundings.devices(databases);
        if let Some(residence) = &mut *self.residence.lock().unwrap_or_else(PoisonError::into_inner) {
            residence.move_to(all_of(&devices));
        }
        *self.devices.lock().unwrap_or_else(PoisonError::into_inner) = devices;
    }

    /// Its databases that lay, or had a directory above them, on one of the file systems when they were read last.
    #[must_use]
    pub fn databases_on(&self, devices: &[u64]) -> Vec<DatabasePath> {
        let known = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let is_there = |(_, of_database): &&(DatabasePath, _)| {
            let of_database: &BTreeSet<u64> = of_database;
            devices.iter().any(|device| of_database.contains(device))
        };
        known.iter().filter(is_there).map(|(database, _)| database.clone()).collect()
    }

    /// The container's root.
    #[must_use]
    pub fn root(&self) -> Arc<ContainerRoot> {
        Arc::clone(&self.root.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Applied> {
        self.policy.current()
    }

    /// Puts another policy in force, for the next call on. Databases that it adds begin as they are.
    pub fn replace_policy(&self, applied: Applied, now: Moment) {
        self.policy.replace(applied);
        self.request_check(now);
    }

    /// Which container it is about.
    #[must_use]
    pub fn container_id(&self) -> ContainerId {
        self.state().identity.container.id.clone()
    }

    /// Pid of the container's init on the host; 0 when unknown.
    #[must_use]
    pub fn init(&self) -> u32 {
        self.state().identity.init
    }

    /// Its events call the container so from now on: its engine told more of it.
    pub fn set_container(&self, container: Container) {
        self.state().identity.container = container;
    }

    /// The databases as they last were.
    #[must_use]
    pub fn known(&self) -> Databases {
        self.state().known.clone()
    }

    /// What of them was told last, for whoever is to go on. `None` while an act in progress has changes that are yet to be told.
    #[must_use]
    pub fn told(&self) -> Option<Told> {
        let state = self.state();
        let is_all_told = state.acts.iter().all(|act| act.changes.is_empty());
        is_all_told.then(|| Told { databases: state.known.clone(), watched: Arc::clone(&state.watched) })
    }

    /// Numbers so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// An event about this container with nothing but the node, the container and the policy in it.
    #[must_use]
    pub fn event(&self, kind: Kind, severity: Severity, now: Moment) -> Event {
        let state = self.state();
        let mut event = finding::bare(&state.identity, kind, severity, now);
        event.policy = Some(self.policy.current().reference("mode"));
        event
    }

    /// Takes an attempt in. Gives its event when it is the first of its kind in its act; repeats are counted and told with
    /// the end of the act.
    pub fn note_attempt(&self, sighting: Sighting) -> Option<Event> {
        let mut state = self.state();
        state.counts.add(sighting.outcome);
        state.root_moves |= moves_root(&sighting.seen, sighting.outcome);
        state.take(sighting, Witness::Notify)
    }

    /// Counts an attempt by `process` when it is a repeat in its act, of which nothing but the number is told. False when it is not:
    /// [`Case::note_attempt`] then takes it.
    pub fn note_repeat(&self, process: ProcessKey, seen: &mut Seen, outcome: Outcome, now: Moment) -> bool {
        let mut state = self.state();
        let is_repeat = state.acts.iter_mut().any(|act| act.add_repeat(process, seen, outcome, now));
        if is_repeat {
            state.counts.add(outcome);
            state.root_moves |= moves_root(seen, outcome);
        }
        is_repeat
    }

    /// Takes in that something named `name` changed in a watched directory, by process `pid` on the host (0: unknown).
    pub fn note_change(&self, name: &[u8], pid: u32, now: Moment) {
        let mut state = self.state();
        let first = state.changed.map_or(now, |(first, _)| first);
        state.changed = Some((first, now));
        let is_database = self.policy.current().databases.iter().any(|database| {
            database.is_directory() || database.as_str().rsplit('/').next().is_some_and(|base| base.as_bytes() == name)
        });
        let is_known = state.writers.iter().any(|writer| writer.pid == pid && writer.name == name);
        if pid == 0 || !is_database || is_known || state.writers.len() >= MAX_WRITERS {
            return;
        }
        for act in state.acts.iter_mut().filter(|act| act.has_process(pid)) {
            act.touch(now);
        }
        let explained = state.acts.iter().chain(&state.remembered).any(|act| act.has_process(pid));
        let init = state.identity.init;
        let acting = if explained { None } else { self.surroundings.acting(pid, init) };
        state.writers.push(Writer { name: name.to_vec(), pid, acting });
    }

    /// Asks for a look at the databases though nothing is known to have changed.
    pub fn request_check(&self, now: Moment) {
        self.state().changed.get_or_insert((now, now));
    }

    /// When [`Case::due`] should be called next; `None` while nothing is in progress.
    #[must_use]
    pub fn wait(&self, now: Moment) -> Option<Duration> {
        let state = self.state();
        let pause = state.acts.iter().map(|act| act.wait(now)).max();
        let limit = state.acts.iter().map(|act| act.limit_in(now)).min();
        let acts = pause.into_iter().chain(limit).min();
        let change = state.changed.map(|(first, last)| change_wait(first, last, now));
        let folded = state.gate.wait(now).into_iter().chain(state.neighbours_gate.wait(now)).min();
        let next = acts.or(change).or_else(|| self.interval_left(&state, now));
        next.into_iter().chain(folded).min()
    }

    /// The events that are due: repeats of attempts, and findings. To be recorded by the caller.
    pub fn due(&self, now: Moment) -> Vec<Event> {
        let mut events = self.conclude(now, Ending::No, |state| {
            let over = state.acts.iter().all(|act| act.is_over(now, |acting| self.surroundings.is_alive(acting)));
            let at_limit = state.acts.iter().any(|act| act.is_at_limit(now));
            let changed = state.changed.is_some_and(|(first, last)| change_wait(first, last, now).is_zero());
            let interval_is_over = || self.interval_left(state, now).is_some_and(|left| left.is_zero());
            (!state.acts.is_empty() || changed || interval_is_over()) && (over || at_limit)
        });
        events.extend(self.state().tell_folded(now, false));
        events
    }

    /// The container ends: everything in progress is concluded. A database that is missing now, though nobody was seen to
    /// remove it, went with the container: engines take its file system apart as soon as its last process is gone.
    pub fn finish(&self, now: Moment) -> Vec<Event> {
        let mut events = self.conclude(now, Ending::Yes, |_| true);
        events.extend(self.state().tell_folded(now, true));
        events
    }

    /// Somebody else goes on with it: everything in progress is concluded.
    pub fn hand_over(&self, now: Moment) -> Vec<Event> {
        let is_in_progress = |state: &State| !state.acts.is_empty() || state.changed.is_some();
        let mut events = self.conclude(now, Ending::No, is_in_progress);
        events.extend(self.state().tell_folded(now, true));
        events
    }

    /// Reads the databases, shares out what changed, and tells all acts in progress. They are read without the state locked:
    /// should that take long (a file system of the container's that hangs), only this container's findings wait.
    fn conclude(&self, now: Moment, ending: Ending, is_due: impl FnOnce(&State) -> bool) -> Vec<Event> {
        let _one_at_a_time = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut ended, before, watched, root_moves) = {
            let mut state = self.state();
            if !is_due(&state) {
                return Vec::new();
            }
            let first_change = state.changed.take().map_or(now, |(first, _)| first);
            let acts = std::mem::take(&mut state.acts);
            let writers = std::mem::take(&mut state.writers);
            let root_moves = std::mem::take(&mut state.root_moves).then_some(state.identity.init);
            (Ended { acts, writers, first_change }, state.known.clone(), Arc::clone(&state.watched), root_moves)
        };
        if let Some(init) = root_moves {
            self.surroundings.follow_root(init);
        }
        let read = self.surroundings.snapshot(&watched);
        let policy = self.policy.current();
        self.note_devices(&policy.databases);
        // other databases than before: what they hold now is where they begin
        let begun_anew = (policy.databases != *watched).then(|| self.surroundings.snapshot(&policy.databases));
        let mut state = self.state();
        let mut events = Vec::new();
        let is_news = read.unreadable().count() > before.unreadable().count();
        events.extend(is_news.then(|| finding::unreadable(&state.identity, &read, now)));
        let mut unexplained = self.share_out(&mut state, &mut ended, &before, &read);
        if ending == Ending::Yes {
            unexplained.retain(|change| read.get(&change.database).is_some());
        }
        state.known = read;
        state.read_at = now;
        if let Some(known) = begun_anew {
            state.known = known;
            state.watched = Arc::from(policy.databases.as_slice());
        }
        events.extend(state.tell(ended, &before, unexplained, &policy, now));
        events
    }

    /// Gives what changed to the acts that ended, to those remembered, to those that began while the databases were read.
    fn share_out(&self, state: &mut State, ended: &mut Ended, before: &Databases, after: &Databases) -> Vec<Change> {
        let is_alive = |acting: &Acting| self.surroundings.is_alive(acting);
        let Ended { acts, writers, .. } = ended;
        let changes = account::diff(before, after);
        let rest = attribution::share_out(acts, &mut state.remembered, writers, before, changes, &is_alive);
        attribution::share_out(&mut state.acts, &mut VecDeque::new(), writers, before, rest, &is_alive)
    }
}

/// Whether the container is at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Yes,
    No,
}

/// What was in progress when the databases were read.
struct Ended {
    acts: Vec<Act>,
    writers: Vec<Writer>,
    first_change: Moment,
}

fn all_of(devices: &Devices) -> BTreeSet<u64> {
    devices.iter().flat_map(|(_, of_database)| of_database).copied().collect()
}

fn moves_root(seen: &Seen, outcome: Outcome) -> bool {
    outcome != Outcome::Blocked && seen.attempt.call == "pivot_root"
}

impl State {
    /// Takes a sighting in; its event when it is the first of its kind in its act, and within the rate.
    fn take(&mut self, mut sighting: Sighting, witness: Witness) -> Option<Event> {
        if sighting.seen.proposed.as_ref().is_some_and(|proposed| !self.has_room_for(proposed.len())) {
            sighting.seen.proposed = None;
        }
        let position = self.acts.iter().position(|act| act.takes(&sighting));
        let shown = sighting.clone();
        let (is_first, incident) = match position.and_then(|position| self.acts.get_mut(position)) {
            Some(act) => (act.add(sighting, witness), act.published()),
            None => {
                let has_room = self.has_room_for_act(sighting.seen.neighbour.is_some());
                let act = Act::begin(sighting, witness);
                let incident = act.published();
                self.acts.extend(has_room.then_some(act));
                (true, incident)
            }
        };
        let is_told = is_first && self.gate_of(&shown).admits(&shown, witness, shown.at);
        is_told.then(|| finding::attempt(&self.identity, (&shown, witness), incident, None))
    }

    fn gate_of(&mut self, sighting: &Sighting) -> &mut Gate {
        if sighting.seen.neighbour.is_some() { &mut self.neighbours_gate } else { &mut self.gate }
    }

    fn has_room_for_act(&self, of_neighbour: bool) -> bool {
        let is_neighbours =
            |act: &&Act| act.sightings().next().is_some_and(|sighting| sighting.seen.neighbour.is_some());
        let neighbours = self.acts.iter().filter(is_neighbours).count();
        let (taken, most) = if of_neighbour {
            (neighbours, MAX_NEIGHBOURS_ACTS)
        } else {
            (self.acts.len().saturating_sub(neighbours), MAX_ACTS)
        };
        taken < most
    }

    fn has_room_for(&self, bytes: usize) -> bool {
        let sightings = self.acts.iter().flat_map(Act::sightings);
        let kept: usize = sightings.filter_map(|sighting| sighting.seen.proposed.as_ref()).map(Vec::len).sum();
        kept.saturating_add(bytes) <= MAX_PROPOSED_BYTES
    }

    /// What was beyond the rate, as numbers.
    fn tell_folded(&mut self, now: Moment, at_once: bool) -> Vec<Event> {
        let folded = [self.gate.take(now, at_once), self.neighbours_gate.take(now, at_once)].into_iter().flatten();
        let tell = |folded: gate::Folded| {
            let is_blocked = folded.sighting.outcome == Outcome::Blocked;
            let incident = Incident {
                attempts: folded.count,
                blocked: if is_blocked { folded.count } else { 0 },
                last: now.wall,
                ..Act::begin(folded.sighting.clone(), folded.witness).published()
            };
            let shown = (&folded.sighting, folded.witness);
            let mut event = finding::attempt(&self.identity, shown, incident, Some(folded.count));
            event.suppressed = Some(folded.count);
            event
        };
        folded.map(tell).collect()
    }

    /// Repeats and findings of the acts that ended and of those remembered, and the finding of what nobody explains.
    fn tell(
        &mut self,
        mut ended: Ended,
        before: &Databases,
        unexplained: Vec<Change>,
        policy: &Applied,
        now: Moment,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        for act in &ended.acts {
            for (kind, count) in act.repeats() {
                let shown = (&kind.sighting, kind.witness);
                if self.gate_of(&kind.sighting).admits(&kind.sighting, kind.witness, now) {
                    events.push(finding::attempt(&self.identity, shown, act.published(), Some(count)));
                }
            }
        }
        let mut remembered = std::mem::take(&mut self.remembered);
        for act in ended.acts.iter_mut().chain(&mut remembered) {
            if act.is_worth_telling() && self.may_tell(act, now) {
                events.push(finding::of_act(&self.identity, act, before, now));
            }
            act.set_told();
        }
        self.remembered = remembered;
        if !unexplained.is_empty() {
            let reference = policy.reference("content");
            let Ended { writers, first_change, .. } = &ended;
            events.push(finding::unexplained(&self.identity, reference, unexplained, writers, *first_change, now));
        }
        let findings = events.iter().filter(|event| event.kind == Kind::AccountFinding).count();
        self.counts.findings = self.counts.findings.saturating_add(findings as u64);
        self.remember(ended.acts);
        events
    }

    /// A change is told whatever the rate is.
    fn may_tell(&mut self, act: &Act, now: Moment) -> bool {
        let refused = act.decisive().filter(|_| act.changes.is_empty()).cloned();
        refused.is_none_or(|sighting| self.gate_of(&sighting).admits(&sighting, Witness::Notify, now))
    }

    /// Acts that are told are remembered where what they opened may be written to later.
    fn remember(&mut self, told: Vec<Act>) {
        self.remembered.extend(told.into_iter().filter(Act::may_change_later));
        while self.remembered.len() > MAX_REMEMBERED {
            self.remembered.pop_front();
        }
    }
}

fn change_wait(first: Moment, last: Moment, now: Moment) -> Duration {
    QUIET.saturating_sub(now.since(last)).min(CHANGE_LIMIT.saturating_sub(now.since(first)))
}

#[cfg(test)]
mod tests;

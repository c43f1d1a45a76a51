//! What all threads of the worker share: configuration, store, policies, containers, and the line to the keeper.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::config::Config;
use crate::config::findings;
use crate::config::policy_files;
use crate::control::ExecRegistration;
use crate::control::Registration;
use crate::daemon::cases::Cases;
use crate::daemon::control_server::Clients;
use crate::daemon::deadline_watch::DeadlineWatch;
use crate::daemon::journal::Journal;
use crate::daemon::last_good;
use crate::daemon::late_identity::LateIdentities;
use crate::daemon::lines::Lines;
use crate::daemon::namesakes;
use crate::daemon::registry::Full;
use crate::daemon::registry::Guarded;
use crate::daemon::registry::PendingExec;
use crate::daemon::registry::Record;
use crate::daemon::registry::Registry;
use crate::daemon::registry::start_time;
use crate::daemon::retirement::Retirement;
use crate::kernel::broker::Starter;
use crate::kernel::shared_area::SharedArea;
use crate::model::event::Container;
use crate::model::event::Event;
use crate::model::event::EventTime;
use crate::model::event::Exit;
use crate::model::event::Host;
use crate::model::event::Kind;
use crate::model::event::Severity;
use crate::model::policy::Mode;
use crate::model::policy::PolicySet;
use crate::model::workload::ContainerId;
use crate::oci::identity::later;
use crate::store::Row;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::Write;

/// Ended containers whose poststop hook may still come.
const MAX_ENDED: usize = 4096;

/// Why a request could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Too many containers.
    #[error(transparent)]
    Full(#[from] Full),
    /// A policy with mistakes; the last good one stays in force.
    #[error("the policy in {directory} is not used, the last good one stays in force: {first}{more}")]
    Policy {
        /// Where.
        directory: String,
        /// First mistake.
        first: String,
        /// How many there are besides.
        more: String,
    },
}

/// The worker's shared state.
#[derive(Debug)]
pub struct Service {
    /// Configuration of this daemon's life.
    pub config: Config,
    /// The node, as events name it.
    pub host: Host,
    /// Event store, for reading.
    pub store: Arc<Store>,
    /// The way into it.
    pub journal: Arc<Journal>,
    /// Containers.
    pub registry: Registry,
    /// Memory for notifications in flight.
    pub area: Arc<SharedArea>,
    /// Open cases and the witness of the file systems.
    pub cases: Cases,
    /// Containers of which the engine may tell more.
    pub late_identities: LateIdentities,
    /// The watch over the threads that serve.
    pub deadlines: DeadlineWatch,
    /// Who is connected.
    pub clients: Clients,
    /// Set when the worker is to end.
    pub stopping: Arc<AtomicBool>,
    /// Lines to the keepers.
    pub lines: Lines,
    /// The end of a worker that has a successor.
    pub retirement: Retirement,
    /// What starts the broker's helpers.
    pub starter: Starter,
    policies: RwLock<PolicySet>,
    ended: Mutex<VecDeque<ContainerId>>,
}

/// What [`Service::new`] puts together.
#[derive(Debug)]
pub struct Parts {
    /// Configuration.
    pub config: Config,
    /// Event store.
    pub store: Arc<Store>,
    /// The way into it.
    pub journal: Arc<Journal>,
    /// Memory for notifications in flight.
    pub area: SharedArea,
    /// Lines to the keepers.
    pub lines: Lines,
    /// The end of a worker that has a successor.
    pub retirement: Retirement,
    /// What starts the broker's helpers.
    pub starter: Starter,
    /// Policies in force.
    pub policies: PolicySet,
}

/// What becomes of a record that cannot be made durable now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unstored {
    /// It is kept in memory until it can, and what it tells of goes on.
    Kept,
    /// Nothing: who asked is told of the failure.
    Refused,
}

impl Unstored {
    /// What policy says of the creation of a container: an enforcing one refuses what cannot be recorded.
    #[must_use]
    pub const fn of_creation(mode: Mode) -> Self {
        if matches!(mode, Mode::Enforce) { Self::Refused } else { Self::Kept }
    }
}

/// Now, as events tell it.
#[must_use]
pub fn now() -> EventTime {
    EventTime(jiff::Timestamp::now())
}

impl Service {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let host = crate::config::node::host(&parts.config);
        Self {
            cases: Cases::new(Arc::clone(&parts.journal), host.clone(), &parts.config.run_dir),
            config: parts.config,
            host,
            store: parts.store,
            journal: parts.journal,
            registry: Registry::default(),
            area: Arc::new(parts.area),
            late_identities: LateIdentities::default(),
            deadlines: DeadlineWatch::default(),
            clients: Clients::default(),
            stopping: Arc::new(AtomicBool::new(false)),
            lines: parts.lines,
            retirement: parts.retirement,
            starter: parts.starter,
            policies: RwLock::new(parts.policies),
            ended: Mutex::new(VecDeque::new()),
        }
    }

    /// A new event of this node, with nothing but what every event has.
    #[must_use]
    pub fn event(&self, kind: Kind, severity: Severity) -> Event {
        Event::new(uuid::Uuid::now_v7(), now(), kind, severity, self.host.clone())
    }

    /// A new event about `guarded`.
    #[must_use]
    pub fn event_of(&self, guarded: &Guarded, kind: Kind, severity: Severity) -> Event {
        let mut event = self.event(kind, severity);
        event.container = Some(guarded.record().workload.container);
        event.policy = Some(guarded.policy.current().reference("mode"));
        event
    }

    /// Records and registers what the createRuntime hook saw. Durable when it returns, unless the disk takes nothing and policy audits:
    /// then the record is kept in memory.
    ///
    /// # Errors
    /// [`ServiceError`]; then nothing is recorded and nothing registered.
    pub fn register(&self, registration: Registration) -> Result<(), ServiceError> {
        let record = Record {
            start_time_ticks: start_time(registration.pid),
            workload: registration.workload,
            alias: None,
            bundle: registration.bundle,
            pid: registration.pid,
            root: registration.root,
            intercepted: registration.intercepted,
            ground: registration.ground,
            boot_id: self.host.boot_id.clone(),
            incomplete: None,
        };
        let mode = self.policies().apply(&record.workload).mode;
        self.admit(record, &registration.event, Unstored::of_creation(mode)).map(drop)
    }

    /// Records `event`, stores `record` and takes the container into the registry.
    ///
    /// # Errors
    /// [`ServiceError`]; then nothing is recorded and nothing registered.
    pub fn admit(&self, record: Record, event: &Event, unstored: Unstored) -> Result<Arc<Guarded>, ServiceError> {
        let incomplete = later::is_incomplete(&record.workload.container).then_some(event.id);
        let record = Record { incomplete, ..record };
        let applied = self.policies().apply(&record.workload);
        let (guarded, earlier) = self.registry.insert(record, applied)?;
        let stored = guarded.record().stored();
        self.ended().retain(|id| *id != guarded.id);
        if let Some(earlier) = earlier {
            earlier.give_place();
            self.cases.finish(&earlier);
        }
        if let Err(error) = self.store_or(unstored, event, Write::PutContainer(stored)) {
            self.registry.remove(&guarded);
            return Err(error.into());
        }
        self.late_identities.expect(&guarded);
        Ok(guarded)
    }

    /// Makes `event` durable together with `state`, or does what `unstored` says.
    fn store_or(&self, unstored: Unstored, event: &Event, state: Write) -> Result<(), StoreError> {
        match unstored {
            Unstored::Kept => self.journal.write_or_keep(event, &[state]),
            Unstored::Refused => self.journal.write(vec![Write::Event(Row::new(event)?), state])?,
        }
        Ok(())
    }

    /// Takes a container out of the store into the registry, after this worker's start.
    ///
    /// # Errors
    /// [`Full`].
    pub fn readmit(&self, record: Record) -> Result<Arc<Guarded>, Full> {
        let applied = self.policies().apply(&record.workload);
        let (guarded, _) = self.registry.insert(record, applied)?;
        self.late_identities.expect(&guarded);
        Ok(guarded)
    }

    /// Records an exec session and expects its listener. Durable when it returns; an exec by itself changes nothing, so while the disk takes
    /// nothing it goes on in every mode and its record is kept in memory.
    pub fn register_exec(&self, registration: ExecRegistration) {
        let mut event = registration.event;
        let known = namesakes::with_process(&self.registry.all_of(&registration.id), registration.init);
        if let Some(guarded) = &known {
            event.container = Some(guarded.record().workload.container);
            event.policy = Some(guarded.policy.current().reference("mode"));
        } else {
            event.container = Some(event.container.unwrap_or_else(|| unknown(&registration.id)));
        }
        self.journal.record_or_keep(&event);
        self.registry.expect_exec(PendingExec {
            container: known.map_or_else(|| registration.id.clone(), |guarded| guarded.id.clone()),
            id: registration.id,
            pid: registration.pid,
            start_time_ticks: registration.start_time_ticks,
            ground: registration.ground,
            launcher_listens: registration.launcher_listens,
            event: event.id,
            session: event.session.unwrap_or_default(),
            since: Instant::now(),
        });
    }

    /// The poststop hook says that `id` is gone: its case is closed, its exit recorded unless it was already, its state dropped.
    ///
    /// # Errors
    /// [`StoreError`], where `unstored` says so.
    pub fn exited(&self, id: &ContainerId, event: Event, unstored: Unstored) -> Result<(), StoreError> {
        let found = namesakes::that_ended(&self.registry.all_of(id));
        // one that runs is not the one that was found to have ended before
        let is_recorded = found.as_ref().is_none_or(|guarded| guarded.runs()) && self.take_ended(id);
        let Some(guarded) = found.filter(|_| !is_recorded) else {
            return match unstored {
                _ if is_recorded => Ok(()),
                Unstored::Refused => self.journal.record(&event),
                Unstored::Kept => {
                    self.journal.record_or_keep(&event);
                    Ok(())
                }
            };
        };
        self.cases.finish(&guarded);
        let mut event = event;
        event.policy.get_or_insert_with(|| guarded.policy.current().reference("mode"));
        self.conclude(&guarded, &event, unstored)
    }

    /// Closes the case of a container that nobody of the runtime reported gone, and records its exit.
    ///
    /// # Errors
    /// [`StoreError`]; then it stays registered.
    pub fn ended_unreported(&self, guarded: &Arc<Guarded>, witness: &str) -> Result<(), StoreError> {
        self.cases.finish(guarded);
        let mut event = self.event_of(guarded, Kind::ContainerExited, Severity::Info);
        event.exit = Some(Exit { witness: witness.to_owned() });
        self.conclude(guarded, &event, Unstored::Kept)?;
        let mut ended = self.ended();
        if ended.len() >= MAX_ENDED {
            ended.pop_front();
        }
        ended.push_back(guarded.record().workload.container.id);
        Ok(())
    }

    /// Records the exit once, forgets the container in the store and in the registry.
    fn conclude(&self, guarded: &Arc<Guarded>, event: &Event, unstored: Unstored) -> Result<(), StoreError> {
        if guarded.claim_exit() {
            let removal = Write::RemoveContainer(guarded.id.as_str().to_owned());
            if let Err(error) = self.store_or(unstored, event, removal) {
                guarded.disclaim_exit();
                return Err(error);
            }
        }
        self.registry.remove(guarded);
        Ok(())
    }

    /// Reads the policy again and puts it in force for every container.
    ///
    /// # Errors
    /// [`ServiceError::Policy`]; then nothing has changed.
    pub fn reload(&self) -> Result<(), ServiceError> {
        let checked = findings::check(&self.config);
        let mistakes: Vec<_> = checked.findings.iter().filter(|finding| finding.is_error()).collect();
        if let Some(first) = mistakes.first() {
            for mistake in &mistakes {
                tracing::error!("{mistake}");
            }
            return Err(ServiceError::Policy {
                directory: self.config.policy_dir.display().to_string(),
                first: first.to_string(),
                more: if mistakes.len() > 1 { format!(", and {} more", mistakes.len() - 1) } else { String::new() },
            });
        }
        for remark in &checked.findings {
            tracing::warn!("{remark}");
        }
        last_good::save(&self.config);
        for guarded in self.registry.all() {
            let applied = checked.policies.apply(&guarded.record().workload);
            self.cases.replace_policy(&guarded, applied);
        }
        tracing::info!(documents = checked.policies.documents.len(), "the policy is in force");
        *self.policies.write().unwrap_or_else(PoisonError::into_inner) = checked.policies;
        Ok(())
    }

    /// The policies in force.
    #[must_use]
    pub fn policies(&self) -> PolicySet {
        self.policies.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether an exit of `id` was recorded before anybody told of it; asked once for each.
    fn take_ended(&self, id: &ContainerId) -> bool {
        let mut ended = self.ended();
        let position = ended.iter().position(|ended| ended == id);
        position.and_then(|position| ended.remove(position)).is_some()
    }

    fn ended(&self) -> std::sync::MutexGuard<'_, VecDeque<ContainerId>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A container of which nothing but the id is known.
#[must_use]
pub fn unknown(id: &ContainerId) -> Container {
    Container {
        id: id.clone(),
        name: None,
        image: None,
        engine: "unknown".to_owned(),
        runtime: None,
        pod: None,
        started_at: None,
    }
}

/// The policies to start with: those of the configuration, or the last good ones when these have mistakes by now.
///
/// # Errors
/// The mistakes, when there are no last good ones either.
pub fn first_policies(config: &Config) -> Result<PolicySet, ServiceError> {
    let checked = findings::check(config);
    if checked.is_usable() {
        last_good::save(config);
        return Ok(checked.policies);
    }
    let mistakes: Vec<String> = checked.findings.iter().map(ToString::to_string).collect();
    match policy_files::load(&last_good::directory(config)) {
        Ok(policies) if last_good::directory(config).is_dir() => {
            tracing::error!("the last good policy stays in force: {}", mistakes.join("; "));
            Ok(policies)
        }
        _ => Err(ServiceError::Policy {
            directory: config.policy_dir.display().to_string(),
            first: mistakes.join("; "),
            more: String::new(),
        }),
    }
}

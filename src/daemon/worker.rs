//! A thread for each listener: wait, receive into its slot, let the supervisor answer, clear the slot. It ends when nobody has
//! the filter any more.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;
use serde::Serialize;
use uuid::Uuid;

use crate::daemon::case_thread::OpenCase;
use crate::daemon::neighbours::Others;
use crate::daemon::registry::Guarded;
use crate::daemon::service::Service;
use crate::kernel::broker;
use crate::kernel::pidfd;
use crate::kernel::seccomp_notify::Answer;
use crate::kernel::seccomp_notify::ContinueReason;
use crate::kernel::seccomp_notify::Listener;
use crate::kernel::seccomp_notify::ListenerError;
use crate::kernel::seccomp_notify::Notification;
use crate::kernel::seccomp_notify::Readiness;
use crate::kernel::shared_area::Entry;
use crate::kernel::shared_area::Slot;
use crate::model::diagnostic::chain;
use crate::model::event::Session;
use crate::model::policy::Ground;
use crate::model::workload::ContainerId;
use crate::supervise::Recorder;
use crate::supervise::broker::Broker;
use crate::supervise::broker::InFlight;
use crate::supervise::supervisor::Origin;
use crate::supervise::supervisor::Supervisor;

const STACK_BYTES: usize = 256 * 1024;
/// Pause after a listener failed, so that one that fails for ever costs nothing.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);
/// After so many failures in a row a listener is given up: an error that lasts is none of the moment.
const MAX_FAILURES: u32 = 50;
/// How long the poststop hook may take to say that a container is gone before its listener's end is taken for it.
const POSTSTOP_PATIENCE: Duration = Duration::from_secs(2);

/// How long a helper whose worker is gone may take to end: as long as it gives itself, and a little more.
const HELPER_PATIENCE: Duration = broker::LAST_DEED_LIMIT.saturating_add(Duration::from_secs(1));

/// What the next worker needs to know about a listener; the keeper keeps it unread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// Whose.
    pub container: ContainerId,
    /// Pid in the listener's state.
    pub pid: u32,
    /// Id of the exec session, when it is one.
    pub session: Option<String>,
    /// Its recorded `container.exec` event, when it was registered.
    pub exec_event: Option<Uuid>,
    /// On which ground its processes stand.
    #[serde(default)]
    pub ground: Ground,
    /// Whether the workload runs; before, it is the runtime's own init that makes the calls.
    #[serde(default = "runs")]
    pub runs: bool,
}

const fn runs() -> bool {
    true
}

/// A broker for the calls that are received in `slot`.
fn broker_for(service: &Service, slot: &Slot) -> Broker {
    let area = Arc::clone(&service.area);
    let in_flight = InFlight { area, slot: slot.index(), ledger: Arc::new(slot.ledger()) };
    Broker::new(service.starter.clone()).in_flight(in_flight)
}

fn others(service: &Arc<Service>, guarded: &Guarded) -> Arc<Others> {
    Arc::new(Others { service: Arc::clone(service), own: guarded.id.clone() })
}

/// Why a listener is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// All slots are taken.
    #[error("no slot is free for another listener; {0} are served already")]
    NoSlot(usize),
    /// The case could not be opened.
    #[error("cannot open the case of container {container}")]
    Case {
        /// Which.
        container: String,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The label has no JSON form.
    #[error("cannot describe the listener to the keeper")]
    Label(#[source] serde_json::Error),
    /// No thread.
    #[error("cannot make a thread for a listener")]
    Thread(#[source] std::io::Error),
}

/// A listener ready to be served.
pub struct Delivered {
    /// The listener.
    pub listener: Arc<Listener>,
    /// Whose.
    pub guarded: Arc<Guarded>,
    /// The exec session, when it is one.
    pub session: Option<Session>,
    /// For the next worker.
    pub label: Label,
}

/// Serves a listener that a runtime delivered just now. The keeper holds a duplicate before the first call is answered.
///
/// # Errors
/// [`ServeError`]; the listener is closed then, and calls in the container fail.
pub fn serve_new(service: &Arc<Service>, delivered: Delivered) -> Result<(), ServeError> {
    let slot = service.area.free_slot().ok_or(ServeError::NoSlot(service.area.slot_count()))?;
    let label = serde_json::to_vec(&delivered.label).map_err(ServeError::Label)?;
    if let Err(error) = service.lines.hold(number_of(&slot), label, Arc::<Listener>::clone(&delivered.listener)) {
        tracing::error!("a listener would be lost with this worker, the keeper did not take it: {}", chain(&error));
    }
    start(service, delivered, Room { slot, kept: Vec::new() }, Supervisor::new)
}

fn number_of(slot: &Slot) -> u32 {
    u32::try_from(slot.index()).unwrap_or(u32::MAX)
}

/// Where a listener's notifications lie.
pub struct Room {
    /// Where they are received.
    pub slot: Slot,
    /// Those that wait for something.
    pub kept: Vec<Slot>,
}

/// Serves a listener that an earlier worker served, beginning with the calls that were being answered.
///
/// # Errors
/// [`ServeError`].
pub fn serve_adopted(service: &Arc<Service>, delivered: Delivered, room: Room) -> Result<(), ServeError> {
    let label = serde_json::to_vec(&delivered.label).map_err(ServeError::Label)?;
    service.lines.note(number_of(&room.slot), label, Arc::<Listener>::clone(&delivered.listener));
    let new_supervisor: NewSupervisor = if delivered.label.runs { Supervisor::adopt } else { Supervisor::new };
    start(service, delivered, room, new_supervisor)
}

type NewSupervisor = fn(Arc<Listener>, Arc<crate::supervise::case::Case>, Arc<dyn Recorder>, Origin) -> Supervisor;

fn start(
    service: &Arc<Service>,
    delivered: Delivered,
    Room { slot, kept }: Room,
    new_supervisor: NewSupervisor,
) -> Result<(), ServeError> {
    let Delivered { listener, guarded, session, label } = delivered;
    let open = service
        .cases
        .enter(&guarded, label.pid, session.is_none())
        .map_err(|source| ServeError::Case { container: guarded.id.as_str().to_owned(), source })?;
    match listener.set_sync_wake_up() {
        Ok(true) => {}
        Ok(false) => tracing::debug!("this kernel has no synchronous wake-up (Linux 6.6): answers take longer"),
        Err(error) => tracing::warn!("{}", chain(&error)),
    }
    let recorder: Arc<dyn Recorder> = Arc::<OpenCase>::clone(&open);
    let origin = Origin { pid: label.pid, session, ground: label.ground };
    let may_see_others = origin.session.is_some().then_some((new_supervisor, origin.clone()));
    let supervisor = new_supervisor(Arc::clone(&listener), Arc::clone(&open.case), recorder, origin)
        .with_broker(broker_for(service, &slot))
        .with_neighbours(others(service, &guarded));
    drop(open);
    guarded.add_listener();
    let worker = Worker {
        service: Arc::clone(service),
        guarded: Arc::clone(&guarded),
        listener,
        slot,
        kept,
        label,
        supervisor,
        may_see_others,
        view: None,
    };
    let spawned = std::thread::Builder::new()
        .name(format!("n {}", guarded.id.as_str().chars().take(13).collect::<String>()))
        .stack_size(STACK_BYTES)
        .spawn(move || worker.run());
    spawned.map(drop).map_err(|error| {
        guarded.remove_listener();
        ServeError::Thread(error)
    })
}

struct Worker {
    service: Arc<Service>,
    guarded: Arc<Guarded>,
    listener: Arc<Listener>,
    slot: Slot,
    /// Calls that waited for something when the last worker ended.
    kept: Vec<Slot>,
    label: Label,
    supervisor: Supervisor,
    /// Of an exec session whose first call is yet to come.
    may_see_others: Option<(NewSupervisor, Origin)>,
    /// The case of an exec session that sees other databases than the container.
    view: Option<Arc<OpenCase>>,
}

/// Waits for the helper of an earlier worker that is at work on a call, or ends one that only waits: the call can begin again.
fn leave_to_helper(entry: Entry) {
    let Ok(helper) = pidfd::open(entry.helper) else { return };
    // the number may be another process's by now
    let line = std::fs::read(format!("/proc/{}/cmdline", entry.helper)).unwrap_or_default();
    if !line.starts_with(broker::HELPER_NAME.as_bytes()) {
        return;
    }
    if entry.waits {
        let _ = helper.signal(Signal::KILL);
    }
    if helper.outlives(HELPER_PATIENCE).unwrap_or(false) {
        tracing::error!("a helper of the last worker does not end; its call is done again, and may be done twice");
        let _ = helper.signal(Signal::KILL);
    }
}

/// What became of a wait for a notification.
enum Step {
    /// It was answered, or there was none after all.
    Served,
    /// There will be no other.
    Ended,
    /// The worker retires.
    Retired,
}

impl Worker {
    /// Looks, at the first call of an exec session, what databases it sees.
    fn look_around(&mut self, tid: u32) {
        let Some((new_supervisor, origin)) = self.may_see_others.take() else { return };
        let Some(view) = self.service.cases.view_of(&self.guarded, tid) else { return };
        tracing::info!(container = self.guarded.id.as_str(), "an exec session sees other databases than its container");
        let recorder: Arc<dyn Recorder> = Arc::<OpenCase>::clone(&view);
        let supervisor = new_supervisor(Arc::clone(&self.listener), Arc::clone(&view.case), recorder, origin);
        let others = others(&self.service, &self.guarded);
        self.supervisor = supervisor.with_broker(broker_for(&self.service, &self.slot)).with_neighbours(others);
        self.view = Some(view);
    }

    fn run(mut self) {
        let service = Arc::clone(&self.service);
        let _busy = service.retirement.busy();
        self.answer_what_is_left();
        let mut failures = 0;
        loop {
            match self.step() {
                Ok(Step::Served) => failures = 0,
                Ok(Step::Ended) => break,
                // the successor has it
                Ok(Step::Retired) => return,
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        tracing::error!(container = self.guarded.id.as_str(), "{}", chain(&error));
                    }
                    if failures > MAX_FAILURES {
                        tracing::error!(container = self.guarded.id.as_str(), "a listener is given up");
                        break;
                    }
                    std::thread::sleep(FAILURE_PAUSE);
                }
            }
        }
        self.end();
    }

    /// Answers what an earlier worker received and did not answer, unless a helper of it does.
    fn answer_what_is_left(&mut self) {
        if let Some(notification) = self.slot.in_flight() {
            self.answer_left(&notification, self.slot.ledger().entry());
            self.slot.clear();
        }
        // each stays where the next worker would find it until it is answered
        for mut slot in std::mem::take(&mut self.kept) {
            if let Some(notification) = slot.in_flight() {
                self.answer_left(&notification, slot.ledger().entry());
            }
            slot.clear();
        }
    }

    fn answer_left(&mut self, notification: &Notification, entry: Entry) {
        leave_to_helper(entry);
        if !self.listener.is_valid(notification.id) {
            return;
        }
        self.look_around(notification.tid);
        tracing::info!(container = self.guarded.id.as_str(), "a call that the last worker left is answered");
        if let Err(error) = self.serve(notification) {
            tracing::warn!("{}", chain(&error));
        }
    }

    /// At most one notification.
    fn step(&mut self) -> Result<Step, ListenerError> {
        match self.listener.wait_unless(Some(self.service.retirement.as_fd()), None)? {
            Readiness::HungUp => return Ok(Step::Ended),
            Readiness::Woken => return Ok(Step::Retired),
            Readiness::TimedOut => return Ok(Step::Served),
            Readiness::Ready => {}
        }
        let Some(notification) = self.listener.receive(&mut self.slot)? else { return Ok(Step::Served) };
        self.look_around(notification.tid);
        self.note_whether_it_runs(&notification);
        let served = self.serve(&notification);
        self.slot.clear();
        served.map(|()| Step::Served)
    }

    fn serve(&mut self, notification: &Notification) -> Result<(), ListenerError> {
        let served = self.supervisor.serve(notification);
        if served.is_err() {
            // nobody must wait for an answer that cannot be given as decided
            let _ = self.listener.answer(notification.id, Answer::Continue(ContinueReason::OwnFailure));
        }
        served.map(drop)
    }

    /// Has the next worker know that the runtime's own init becomes the workload, before it does: it would take the workload's calls
    /// for the runtime's.
    fn note_whether_it_runs(&mut self, notification: &Notification) {
        if self.label.runs || !self.supervisor.begins_workload(notification) {
            return;
        }
        self.label.runs = true;
        // a Label that had a JSON form has one
        let text = serde_json::to_vec(&self.label).unwrap_or_default();
        if let Err(error) = self.service.lines.hold(number_of(&self.slot), text, Arc::<Listener>::clone(&self.listener))
        {
            tracing::warn!("the keeper is not told that a workload runs: {}", chain(&error));
        }
    }

    /// The listener is closed here and at the keeper; with a container's last one its case is closed.
    fn end(self) {
        let Self { service, guarded, listener, slot, supervisor, view, .. } = self;
        service.lines.release(number_of(&slot));
        if supervisor.session().is_none() {
            guarded.note_own_listener_ended();
        }
        drop((slot, supervisor, listener));
        if let Some(view) = view {
            service.cases.close(&view);
        }
        if guarded.remove_listener() {
            conclude(&service, &guarded);
        }
    }
}

/// A container without listeners has ended, unless its exec sessions came before its own.
fn conclude(service: &Service, guarded: &Arc<Guarded>) {
    if !guarded.has_ended() {
        // an exec session of a container whose own listener is yet to come, or was lost
        return;
    }
    service.cases.finish(guarded);
    if guarded.wait_for_exit(POSTSTOP_PATIENCE) || guarded.listeners() > 0 {
        return;
    }
    if let Err(error) = service.ended_unreported(guarded, "listener") {
        tracing::error!(container = guarded.id.as_str(), "its end is not recorded: {}", chain(&error));
    }
}

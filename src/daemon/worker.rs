//! A thread for each listener: wait, receive into its slot, let the supervisor answer, clear the slot. It ends when nobody has
//! the filter any more.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use uuid::Uuid;

use crate::daemon::case_thread::OpenCase;
use crate::daemon::hand_over::Message;
use crate::daemon::neighbours::Others;
use crate::daemon::registry::Guarded;
use crate::daemon::service::Service;
use crate::kernel::seccomp_notify::Answer;
use crate::kernel::seccomp_notify::ContinueReason;
use crate::kernel::seccomp_notify::Listener;
use crate::kernel::seccomp_notify::ListenerError;
use crate::kernel::seccomp_notify::Readiness;
use crate::kernel::shared_area::Slot;
use crate::model::diagnostic::chain;
use crate::model::event::Session;
use crate::model::policy::Ground;
use crate::model::workload::ContainerId;
use crate::supervise::Recorder;
use crate::supervise::supervisor::Origin;
use crate::supervise::supervisor::Supervisor;

const STACK_BYTES: usize = 256 * 1024;
/// Pause after a listener failed, so that one that fails for ever costs nothing.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);
/// After so many failures in a row a listener is given up: an error that lasts is none of the moment.
const MAX_FAILURES: u32 = 50;
/// How long the poststop hook may take to say that a container is gone before its listener's end is taken for it.
const POSTSTOP_PATIENCE: Duration = Duration::from_secs(2);

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
    pub listener: Listener,
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
    let number = u32::try_from(slot.index()).unwrap_or(u32::MAX);
    let held = service.tell_keeper(&Message::Hold { slot: number, label }, &[delivered.listener.as_fd()]);
    if let Err(error) = held {
        tracing::error!("a listener would be lost with this worker, the keeper did not take it: {}", chain(&error));
    }
    start(service, delivered, slot, Supervisor::new)
}

/// Serves a listener that an earlier worker served, beginning with the call that was being answered.
///
/// # Errors
/// [`ServeError`].
pub fn serve_adopted(service: &Arc<Service>, delivered: Delivered, slot: Slot) -> Result<(), ServeError> {
    start(service, delivered, slot, Supervisor::adopt)
}

type NewSupervisor = fn(Arc<Listener>, Arc<crate::supervise::case::Case>, Arc<dyn Recorder>, Origin) -> Supervisor;

fn start(
    service: &Arc<Service>,
    delivered: Delivered,
    slot: Slot,
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
    let listener = Arc::new(listener);
    let recorder: Arc<dyn Recorder> = Arc::<OpenCase>::clone(&open);
    let origin = Origin { pid: label.pid, session, ground: label.ground };
    let may_see_others = origin.session.is_some().then_some((new_supervisor, origin.clone()));
    let supervisor = new_supervisor(Arc::clone(&listener), Arc::clone(&open.case), recorder, origin)
        .with_broker(service.starter.clone())
        .with_neighbours(others(service, &guarded));
    drop(open);
    guarded.add_listener();
    let worker = Worker {
        service: Arc::clone(service),
        guarded: Arc::clone(&guarded),
        listener,
        slot,
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
    supervisor: Supervisor,
    /// Of an exec session whose first call is yet to come.
    may_see_others: Option<(NewSupervisor, Origin)>,
    /// The case of an exec session that sees other databases than the container.
    view: Option<Arc<OpenCase>>,
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
        self.supervisor = supervisor.with_broker(self.service.starter.clone()).with_neighbours(others);
        self.view = Some(view);
    }

    fn run(mut self) {
        if let Some(notification) = self.slot.in_flight() {
            self.look_around(notification.tid);
            tracing::info!(container = self.guarded.id.as_str(), "a call that the last worker left is answered");
            if let Err(error) = self.supervisor.serve(&notification) {
                tracing::warn!("{}", chain(&error));
            }
            self.slot.clear();
        }
        let mut failures = 0;
        loop {
            match self.step() {
                Ok(true) => failures = 0,
                Ok(false) => break,
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

    /// One notification. False when there will be no other.
    fn step(&mut self) -> Result<bool, ListenerError> {
        match self.listener.wait(None)? {
            Readiness::HungUp => return Ok(false),
            Readiness::TimedOut => return Ok(true),
            Readiness::Ready => {}
        }
        let Some(notification) = self.listener.receive(&mut self.slot)? else { return Ok(true) };
        self.look_around(notification.tid);
        let served = self.supervisor.serve(&notification);
        if served.is_err() {
            // nobody must wait for an answer that cannot be given as decided
            let _ = self.listener.answer(notification.id, Answer::Continue(ContinueReason::OwnFailure));
        }
        self.slot.clear();
        served.map(|_| true)
    }

    /// The listener is closed here and at the keeper; with a container's last one its case is closed.
    fn end(self) {
        let Self { service, guarded, listener, slot, supervisor, view, .. } = self;
        let number = u32::try_from(slot.index()).unwrap_or(u32::MAX);
        if let Err(error) = service.tell_keeper(&Message::Release { slot: number }, &[]) {
            tracing::debug!("{}", chain(&error));
        }
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

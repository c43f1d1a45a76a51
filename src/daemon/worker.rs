//! A thread for each listener: wait, receive into its slot, let the supervisor answer, clear the slot. It ends when nobody has
//! the filter any more.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use uuid::Uuid;

use crate::daemon::case_thread::OpenCase;
use crate::daemon::deadline_watch;
use crate::daemon::deadline_watch::Cause;
use crate::daemon::hand_over::Message;
use crate::daemon::neighbours::Others;
use crate::daemon::post::Parts;
use crate::daemon::post::Post;
use crate::daemon::post::Received;
use crate::daemon::registry::Guarded;
use crate::daemon::service::Service;
use crate::daemon::startup;
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
use crate::supervise::broker::HelperProgram;
use crate::supervise::supervisor::Origin;
use crate::supervise::supervisor::Supervisor;

const STACK_BYTES: usize = 256 * 1024;
/// Pause after a listener failed, so that one that fails for ever costs nothing.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);
/// After so many failures in a row a listener is given up: an error that lasts is none of the moment.
const MAX_FAILURES: u32 = 50;
/// Most listeners of one container that have a thread each: its own and those of exec sessions. The calls of more are answered by
/// policy.
pub const MAX_LISTENERS: u32 = 128;
/// How long the adoption of one listener may hold up that of the next.
const ADOPTION_PATIENCE: Duration = Duration::from_millis(250);
/// Whoever adopts a listener may read all databases.
const ADOPTION_STACK_BYTES: usize = 512 * 1024;
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

/// This program, as a helper of the broker.
fn helper_program() -> HelperProgram {
    HelperProgram { path: "/proc/self/exe".to_owned(), arguments: vec![startup::BE_A_HELPER.to_owned()] }
}

/// Why a listener is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// All slots are taken.
    #[error("no slot is free for another listener; {0} are served already")]
    NoSlot(usize),
    /// The label has no JSON form.
    #[error("cannot describe the listener to the keeper")]
    Label(#[source] serde_json::Error),
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
    let post = post(service, delivered, slot, false);
    if post.guarded.listeners() > MAX_LISTENERS {
        deadline_watch::leave_to_policy(&post, Cause::TooMany(MAX_LISTENERS));
    } else {
        man(&post);
    }
    Ok(())
}

/// Serves a listener that an earlier worker served, beginning with the call that was being answered. Returns when that has begun,
/// or when a container whose file systems do not answer at once has had its time: others wait for their adoption.
pub fn serve_adopted(service: &Arc<Service>, delivered: Delivered, slot: Slot) {
    let is_known_as_slow = service.deadlines.is_entering(&delivered.guarded);
    let post = post(service, delivered, slot, true);
    let (done, is_manned) = std::sync::mpsc::channel();
    let adopted = Arc::clone(&post);
    let thread = std::thread::Builder::new().name("adopts".to_owned()).stack_size(ADOPTION_STACK_BYTES);
    let spawned = thread.spawn(move || {
        man(&adopted);
        // nobody waits for it any more when it took long
        let _ = done.send(());
    });
    if let Err(error) = spawned {
        return deadline_watch::leave_to_policy(&post, Cause::Failure(&format!("no thread could be made: {error}")));
    }
    if !is_known_as_slow {
        // what comes later comes all the same
        let _ = is_manned.recv_timeout(ADOPTION_PATIENCE);
    }
}

/// Takes the listener in: from now on the watch sees to it that its calls are answered.
fn post(service: &Arc<Service>, delivered: Delivered, slot: Slot, adopted: bool) -> Arc<Post> {
    let Delivered { listener, guarded, session, label } = delivered;
    match listener.set_sync_wake_up() {
        Ok(true) => {}
        Ok(false) => tracing::debug!("this kernel has no synchronous wake-up (Linux 6.6): answers take longer"),
        Err(error) => tracing::warn!("{}", chain(&error)),
    }
    guarded.add_listener();
    let origin = Origin { pid: label.pid, session, ground: label.ground };
    let post = Post::new(Parts { service: Arc::clone(service), guarded, listener, origin, adopted }, slot);
    service.deadlines.add(&post);
    post
}

/// Opens the case and begins to serve. What cannot be served is answered by policy.
fn man(post: &Arc<Post>) {
    let own = post.origin.session.is_none();
    match post.service.cases.enter(&post.guarded, post.origin.pid, own) {
        Ok(open) => {
            let _ = post.open.set(open);
            if post.is_closed() {
                // the container ended while its databases were looked at
                if post.guarded.listeners() == 0 {
                    post.service.cases.finish(&post.guarded);
                }
            } else if !start(post, 0) {
                deadline_watch::leave_to_policy(post, Cause::Failure("no thread could be made for a listener"));
            }
        }
        Err(error) => {
            let reason = format!("the case of the container could not be opened: {error}");
            deadline_watch::leave_to_policy(post, Cause::Failure(&reason));
        }
    }
}

/// Another thread serves in the place of one that is stuck. False when none can be made.
pub fn relieve(post: &Arc<Post>, turn: u64) -> bool {
    start(post, turn)
}

fn start(post: &Arc<Post>, turn: u64) -> bool {
    let Some(worker) = Worker::new(post, turn) else { return false };
    let spawned = std::thread::Builder::new()
        .name(format!("n {}", post.guarded.id.as_str().chars().take(13).collect::<String>()))
        .stack_size(STACK_BYTES)
        .spawn(move || worker.run());
    spawned.inspect_err(|error| tracing::error!("cannot make a thread for a listener: {error}")).is_ok()
}

struct Worker {
    post: Arc<Post>,
    turn: u64,
    supervisor: Supervisor,
}

/// Why a thread no longer serves.
enum Outcome {
    /// There will be no other call.
    Over,
    /// Another serves in its place.
    Relieved,
}

impl Worker {
    /// `None` before the container's case is open.
    fn new(post: &Arc<Post>, turn: u64) -> Option<Self> {
        let view = post.sight().view.clone();
        let open = view.as_ref().or(post.open.get())?;
        let supervisor = supervisor(post, open, post.adopted || turn > 0);
        Some(Self { post: Arc::clone(post), turn, supervisor })
    }

    /// Looks, at the first call of an exec session, what databases it sees.
    fn look_around(&mut self, tid: u32) {
        if self.post.sight().looked {
            return;
        }
        let view = self.post.service.cases.view_of(&self.post.guarded, tid);
        let mut sight = self.post.sight();
        if std::mem::replace(&mut sight.looked, true) {
            // another thread was quicker
            drop(sight);
            return view.into_iter().for_each(|view| self.post.service.cases.close(&view));
        }
        let Some(view) = view else { return };
        let container = self.post.guarded.id.as_str();
        tracing::info!(container, "an exec session sees other databases than its container");
        self.supervisor = supervisor(&self.post, &view, self.post.adopted || self.turn > 0);
        sight.view = Some(view);
        drop(sight);
        self.post.set_hand(self.turn, self.supervisor.hand());
    }

    fn run(mut self) {
        loop {
            match self.serve() {
                Outcome::Over => {
                    let Self { post, supervisor, .. } = self;
                    // its helpers keep the container's mounts where they are
                    drop(supervisor);
                    return end(&post);
                }
                Outcome::Relieved => {}
            }
            let Some(next) = deadline_watch::comes_back(&self.post).and_then(|turn| Self::new(&self.post, turn)) else {
                return;
            };
            self = next;
        }
    }

    fn serve(&mut self) -> Outcome {
        match self.post.begins(self.turn, self.supervisor.hand()) {
            (false, _) => return Outcome::Relieved,
            (true, None) => {}
            (true, Some(notification)) => {
                self.look_around(notification.tid);
                tracing::info!(
                    container = self.post.guarded.id.as_str(),
                    "a call that the last worker left is answered"
                );
                if let Err(error) = self.supervisor.serve(&notification) {
                    tracing::warn!("{}", chain(&error));
                }
                if !self.post.is_done(self.turn) {
                    return Outcome::Relieved;
                }
            }
        }
        let mut failures = 0;
        loop {
            match self.step() {
                Ok(None) => failures = 0,
                Ok(Some(outcome)) => return outcome,
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        tracing::error!(container = self.post.guarded.id.as_str(), "{}", chain(&error));
                    }
                    if failures > MAX_FAILURES {
                        tracing::error!(container = self.post.guarded.id.as_str(), "a listener is given up");
                        return Outcome::Over;
                    }
                    std::thread::sleep(FAILURE_PAUSE);
                }
            }
        }
    }

    /// One notification. `None`: there will be others.
    fn step(&mut self) -> Result<Option<Outcome>, ListenerError> {
        match self.post.listener.wait(None)? {
            Readiness::HungUp => return Ok(Some(Outcome::Over)),
            Readiness::TimedOut => return Ok(None),
            Readiness::Ready => {}
        }
        let notification = match self.post.receive(self.turn)? {
            Received::Call(notification) => notification,
            Received::Nothing => return Ok(None),
            Received::Relieved => return Ok(Some(Outcome::Relieved)),
        };
        self.look_around(notification.tid);
        let served = self.supervisor.serve(&notification);
        if served.is_err() {
            // nobody must wait for an answer that cannot be given as decided
            let _ = self.post.listener.answer(notification.id, Answer::Continue(ContinueReason::OwnFailure));
        }
        if !self.post.is_done(self.turn) {
            return Ok(Some(Outcome::Relieved));
        }
        served.map(|_| None)
    }
}

fn supervisor(post: &Arc<Post>, open: &Arc<OpenCase>, goes_on: bool) -> Supervisor {
    let recorder: Arc<dyn Recorder> = Arc::<OpenCase>::clone(open);
    let new = if goes_on { Supervisor::adopt } else { Supervisor::new };
    let others = Others { service: Arc::clone(&post.service), own: post.guarded.id.clone() };
    new(Arc::clone(&post.listener), Arc::clone(&open.case), recorder, post.origin.clone())
        .with_broker(helper_program(), Arc::clone(&post.guarded.quota))
        .with_neighbours(Arc::new(others))
}

/// Closes a post that the watch served, which waits for nobody.
pub fn conclude_elsewhere(post: &Arc<Post>) {
    let of_thread = Arc::clone(post);
    let thread = std::thread::Builder::new().name("concludes".to_owned()).stack_size(STACK_BYTES);
    if let Err(error) = thread.spawn(move || end(&of_thread)) {
        tracing::error!(container = post.guarded.id.as_str(), "cannot make a thread that closes a listener: {error}");
    }
}

/// The listener is closed here and at the keeper, once no thread is stuck with it; with a container's last one its case is closed.
fn end(post: &Arc<Post>) {
    let Post { service, guarded, .. } = post.as_ref();
    let number = u32::try_from(post.close()).unwrap_or(u32::MAX);
    if let Err(error) = service.tell_keeper(&Message::Release { slot: number }, &[]) {
        tracing::debug!("{}", chain(&error));
    }
    if post.origin.session.is_none() {
        guarded.note_own_listener_ended();
    }
    service.deadlines.remove(post);
    deadline_watch::tell_rest(post);
    let view = post.sight().view.take();
    if let Some(view) = view {
        service.cases.close(&view);
    }
    if guarded.remove_listener() {
        conclude(service, guarded);
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

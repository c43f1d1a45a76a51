//! A thread for each listener: wait, receive into its slot, let the supervisor answer, clear the slot. It ends when nobody has
//! the filter any more. Another relieves it when it is stuck ([`crate::daemon::deadline_watch`]).

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Signal;

use crate::daemon::case_thread::OpenCase;
use crate::daemon::conclusion;
use crate::daemon::deadline_watch;
use crate::daemon::deadline_watch::Cause;
use crate::daemon::delivered::Delivered;
use crate::daemon::delivered::Room;
use crate::daemon::neighbours::Others;
use crate::daemon::post::Begun;
use crate::daemon::post::Post;
use crate::daemon::post::Received;
use crate::daemon::service::Service;
use crate::kernel::broker;
use crate::kernel::pidfd;
use crate::kernel::pidfd::Process;
use crate::kernel::placed;
use crate::kernel::seccomp_notify::Answer;
use crate::kernel::seccomp_notify::Listener;
use crate::kernel::seccomp_notify::ListenerError;
use crate::kernel::seccomp_notify::Notification;
use crate::kernel::seccomp_notify::Readiness;
use crate::kernel::shared_area::Entry;
use crate::model::diagnostic::chain;
use crate::supervise::Recorder;
use crate::supervise::broker::Broker;
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
/// How long a helper that is killed may take to end.
const END_PATIENCE: Duration = broker::LAST_DEED_LIMIT.saturating_add(Duration::from_secs(1));
/// How long a helper whose worker is gone may take to finish: as long as it gives itself, and a little more. One that gets nowhere is
/// ended by the watch before.
const WORK_PATIENCE: Duration = broker::WORK_LIMIT.saturating_add(Duration::from_secs(10));

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

/// Serves a listener that a runtime delivered just now. The keeper holds a duplicate before the first call is answered.
///
/// # Errors
/// [`ServeError`]; the listener is closed then, and calls in the container fail.
pub fn serve_new(service: &Arc<Service>, delivered: Delivered) -> Result<(), ServeError> {
    let slot = service.area.free_slot().ok_or(ServeError::NoSlot(service.area.slot_count()))?;
    let label = serde_json::to_vec(&delivered.label).map_err(ServeError::Label)?;
    let number = u32::try_from(slot.index()).unwrap_or(u32::MAX);
    if let Err(error) = service.lines.hold(number, label, Arc::<Listener>::clone(&delivered.listener)) {
        tracing::error!("a listener would be lost with this worker, the keeper did not take it: {}", chain(&error));
    }
    let post = post(service, delivered, Room { slot, kept: Vec::new() });
    if post.guarded.listeners() > MAX_LISTENERS {
        deadline_watch::leave_to_policy(&post, Cause::TooMany(MAX_LISTENERS));
    } else {
        man(&post);
    }
    Ok(())
}

/// Serves a listener that an earlier worker served, beginning with the calls that were being answered. Returns when that has begun, or
/// when a container whose file systems do not answer at once has had its time: others wait for their adoption.
///
/// # Errors
/// [`ServeError`].
pub fn serve_adopted(service: &Arc<Service>, delivered: Delivered, room: Room) -> Result<(), ServeError> {
    let is_known_as_slow = service.deadlines.is_entering(&delivered.guarded);
    let label = serde_json::to_vec(&delivered.label).map_err(ServeError::Label)?;
    let listener = Arc::clone(&delivered.listener);
    let post = post(service, delivered, room);
    service.lines.note(post.number, label, listener);
    let (done, is_manned) = std::sync::mpsc::channel();
    let adopted = Arc::clone(&post);
    let thread = std::thread::Builder::new().name("adopts".to_owned()).stack_size(ADOPTION_STACK_BYTES);
    let spawned = thread.spawn(move || {
        man(&adopted);
        // nobody waits for it any more when it took long
        let _ = done.send(());
    });
    if let Err(error) = spawned {
        deadline_watch::leave_to_policy(&post, Cause::Failure(&format!("no thread could be made: {error}")));
    } else if !is_known_as_slow {
        // what comes later comes all the same
        let _ = is_manned.recv_timeout(ADOPTION_PATIENCE);
    }
    Ok(())
}

/// Takes the listener in: from now on the watch sees to it that its calls are answered.
fn post(service: &Arc<Service>, delivered: Delivered, room: Room) -> Arc<Post> {
    match delivered.listener.set_sync_wake_up() {
        Ok(true) => {}
        Ok(false) => tracing::debug!("this kernel has no synchronous wake-up (Linux 6.6): answers take longer"),
        Err(error) => tracing::warn!("{}", chain(&error)),
    }
    delivered.guarded.add_listener();
    let post = Post::new(service, delivered, room);
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

/// The supervisor of the calls of `post`, whose databases are those of `open`.
fn supervisor(post: &Arc<Post>, open: &Arc<OpenCase>) -> Supervisor {
    let recorder: Arc<dyn Recorder> = Arc::<OpenCase>::clone(open);
    let new = if post.label().runs { Supervisor::adopt } else { Supervisor::new };
    let broker =
        Broker::new(post.service.starter.clone(), Arc::clone(&post.guarded.quota)).in_flight(post.in_flight.clone());
    let others = Others { service: Arc::clone(&post.service), own: post.guarded.id.clone() };
    new(Arc::clone(&post.listener), Arc::clone(&open.case), recorder, post.origin.clone())
        .with_broker(broker)
        .with_neighbours(Arc::new(others))
        .with_unsettled(Arc::clone(&post.unsettled))
        .with_granted(post.granted())
}

struct Worker {
    post: Arc<Post>,
    turn: u64,
    supervisor: Supervisor,
}

/// The helper that an earlier worker had, should it be there still.
pub fn helper_of(entry: Entry) -> Option<Process> {
    let helper = pidfd::open(entry.helper).ok()?;
    // the number may be another process's by now
    let line = std::fs::read(format!("/proc/{}/cmdline", entry.helper)).unwrap_or_default();
    line.starts_with(broker::HELPER_NAME.as_bytes()).then_some(helper)
}

/// Ends it.
pub fn end_helper_of(entry: Entry) {
    if let Some(helper) = helper_of(entry) {
        // one that is gone by now needs no end
        let _ = helper.signal(Signal::KILL);
    }
}

/// Waits for the helper of an earlier worker that is at work on a call, or ends one that only waits: the call can begin again. Gives what
/// came of the call where its caller was not told, which `keep` keeps for the next worker before the helper is ended, who alone knows it.
fn outcome_of(entry: Entry, keep: &mut dyn FnMut(i64)) -> Option<i64> {
    if entry.done.is_some() {
        return entry.done;
    }
    let helper = helper_of(entry)?;
    let (signal, patience) =
        if entry.waits { (Signal::KILL, END_PATIENCE) } else { (broker::ANSWER_SIGNAL, WORK_PATIENCE) };
    // one that has ended needs no signal
    let _ = helper.signal(signal);
    let deadline = Instant::now().checked_add(patience);
    while helper.outlives(WORD_STEP).unwrap_or(false) {
        if let Some((id, value)) = broker::word_left(&helper) {
            // it may be of a call before, and whether the last worker told the caller itself, nothing says
            let outcome = (id == entry.begun_as && !entry.answers).then_some(value);
            outcome.into_iter().for_each(keep);
            let _ = helper.signal(Signal::KILL);
            return outcome;
        }
        if deadline.is_none_or(|deadline| Instant::now() >= deadline) {
            tracing::error!("a helper of the last worker does not end; its call is done again, and may be done twice");
            let _ = helper.signal(Signal::KILL);
            break;
        }
    }
    None
}

/// How often it is looked whether a helper has left word of what came of a call.
const WORD_STEP: Duration = Duration::from_millis(20);

/// Why a thread no longer serves.
enum Outcome {
    /// There will be no other call.
    Over,
    /// Another serves in its place.
    Relieved,
    /// The worker retires: the successor has it.
    Retired,
    /// The launcher makes a listener of its own.
    GivesWay,
}

impl Worker {
    /// `None` before the container's case is open.
    fn new(post: &Arc<Post>, turn: u64) -> Option<Self> {
        let view = post.sight().view.clone();
        let open = view.as_ref().or(post.open.get())?;
        let supervisor = supervisor(post, open);
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
        sight.view = Some(Arc::clone(&view));
        drop(sight);
        let container = self.post.guarded.id.as_str();
        tracing::info!(container, "an exec session sees other databases than its container");
        self.supervisor = supervisor(&self.post, &view);
        self.post.set_hand(self.turn, self.supervisor.hand());
    }

    fn run(mut self) {
        loop {
            match self.serve() {
                Outcome::Over => {
                    let Self { post, supervisor, .. } = self;
                    // its helpers keep the container's mounts where they are
                    drop(supervisor);
                    return conclusion::close(&post);
                }
                Outcome::GivesWay => {
                    let Self { post, supervisor, .. } = self;
                    drop(supervisor);
                    return conclusion::give_way(&post);
                }
                Outcome::Retired => return self.post.rests(),
                Outcome::Relieved => {}
            }
            let Some(next) =
                deadline_watch::comes_back(&self.post, self.turn).and_then(|turn| Self::new(&self.post, turn))
            else {
                return;
            };
            self = next;
        }
    }

    fn serve(&mut self) -> Outcome {
        match self.post.begins(self.turn, self.supervisor.hand()) {
            Begun::Serves => {}
            Begun::Relieved => return Outcome::Relieved,
            Begun::Retired => return Outcome::Retired,
        }
        // each stays where the next worker would find it until it is answered
        while let Some((notification, entry)) = self.post.next_left(self.turn) {
            self.answer_left(&notification, entry);
            if !self.post.is_done(self.turn) {
                return Outcome::Relieved;
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

    /// Answers what an earlier worker received and did not answer, unless a helper of it does.
    fn answer_left(&mut self, notification: &Notification, entry: Entry) {
        let note = |number| self.supervisor.note_placed(number);
        if let Some(number) = placed::find(notification.tid, notification.id, entry.placed, note) {
            // should this worker end before it has told the number, the next one finds it noted
            end_helper_of(entry);
            // a caller that is gone needs no answer
            let _ = self.post.listener.answer(notification.id, Answer::Value(number.into()));
            return;
        }
        if self.post.listener.is_valid(notification.id) {
            self.look_around(notification.tid);
            tracing::info!(container = self.post.guarded.id.as_str(), "a call that the last worker left is answered");
        }
        if let Err(error) = self.supervisor.serve_left(notification, entry, |keep| outcome_of(entry, keep)) {
            tracing::warn!("{}", chain(&error));
        }
    }

    /// At most one notification. `None`: there will be others.
    fn step(&mut self) -> Result<Option<Outcome>, ListenerError> {
        match self.post.listener.wait_unless(Some(self.post.service.retirement.as_fd()), None)? {
            Readiness::HungUp => return Ok(Some(Outcome::Over)),
            Readiness::Woken => return Ok(Some(Outcome::Retired)),
            Readiness::TimedOut => return Ok(None),
            Readiness::Ready => {}
        }
        let notification = match self.post.receive(self.turn)? {
            Received::Call(notification) => notification,
            Received::Nothing => return Ok(None),
            Received::Relieved => return Ok(Some(Outcome::Relieved)),
        };
        // where another worker has the listener too it would stay open, and the launcher would wait for ever
        if self.supervisor.is_to_give_way(&notification) && self.post.service.lines.has_keeper() {
            return Ok(Some(Outcome::GivesWay));
        }
        self.look_around(notification.tid);
        let begins = self.note_whether_it_runs(&notification);
        let answered = self.answer(&notification);
        if begins {
            self.keep_granted();
        }
        if !self.post.is_done(self.turn) {
            return Ok(Some(Outcome::Relieved));
        }
        answered.map(|()| None)
    }

    fn answer(&mut self, notification: &Notification) -> Result<(), ListenerError> {
        self.supervisor.serve(notification).map(drop)
    }

    /// Has the next worker know that the runtime's own init becomes the workload, before it does: it would take the workload's calls
    /// for the runtime's.
    fn note_whether_it_runs(&self, notification: &Notification) -> bool {
        if self.post.label().runs || !self.supervisor.begins_workload(notification) {
            return false;
        }
        self.post.label().runs = true;
        // a Label that had a JSON form has one
        let text = serde_json::to_vec(&*self.post.label()).unwrap_or_default();
        let listener = Arc::<Listener>::clone(&self.post.listener);
        if let Err(error) = self.post.service.lines.hold(self.post.number, text, listener) {
            tracing::warn!("the keeper is not told that a workload runs: {}", chain(&error));
        }
        true
    }

    /// Has whoever serves next know what a sealed workload was granted.
    fn keep_granted(&self) {
        let Some(granted) = self.supervisor.granted() else { return };
        if let Err(error) = self.post.keep_granted(granted) {
            tracing::warn!("after this worker the broker carries out what a seal would allow: {error}");
        }
    }
}

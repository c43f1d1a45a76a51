//! One listener: each notification is decoded, observed, decided, recorded, and only then answered. What an enforced workload
//! may do is carried out for it (`brokered`).

mod brokered;
mod decided;
mod left;
mod reply;
mod sealed;
mod unsettled;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use uuid::Uuid;

use crate::kernel::Errno;
use crate::kernel::pidfd::Process;
use crate::kernel::process::Facts;
use crate::kernel::seccomp_notify::Added;
use crate::kernel::seccomp_notify::Answer;
use crate::kernel::seccomp_notify::ContinueReason;
use crate::kernel::seccomp_notify::Delivery;
use crate::kernel::seccomp_notify::Listener;
use crate::kernel::seccomp_notify::ListenerError;
use crate::kernel::seccomp_notify::Notification;
use crate::model::attempt::Attempt;
use crate::model::event::Kind;
use crate::model::event::Session;
use crate::model::event::Severity;
use crate::model::policy::Applied;
use crate::model::policy::Ground;
use crate::model::policy::Mode;
use crate::supervise::Recorder;
use crate::supervise::actor;
use crate::supervise::actor::Acting;
use crate::supervise::broker;
use crate::supervise::broker::Broker;
use crate::supervise::broker::hand::Hand;
use crate::supervise::case::Case;
use crate::supervise::decode::Decoded;
use crate::supervise::decode::Operation;
use crate::supervise::decode::Request;
use crate::supervise::decode::decode;
use crate::supervise::known_threads::KnownThreads;
use crate::supervise::live_target::LiveTarget;
use crate::supervise::moment::Moment;
use crate::supervise::neighbours::Alone;
use crate::supervise::neighbours::Neighbours;
use crate::supervise::observe;
use crate::supervise::observe::Guarded;
use crate::supervise::observe::Observation;
use crate::supervise::observe::Seen;
use crate::supervise::program_arguments;
use crate::supervise::supervisor::reply::Kept;
use crate::supervise::supervisor::unsettled::Calls;

pub use crate::supervise::supervisor::reply::Reply;
pub use crate::supervise::supervisor::sealed::Granted;
pub use crate::supervise::supervisor::unsettled::Unsettled;

/// A call that comes again within this time with an answer undelivered, and means the same, is the same call: a signal or the
/// freezer cancelled and re-issued it.
const REISSUE_WINDOW: Duration = Duration::from_secs(5);
/// Most calls remembered for that.
const MAX_RECENT: usize = 32;

/// Where a listener came from.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// Pid in the listener's state: the container's init, or the process of an exec. 0 when the runtime did not tell.
    pub pid: u32,
    /// The exec session; `None` for the container's own process. Empty `argv`: the exec was not registered, and its first
    /// execve tells.
    pub session: Option<Session>,
    /// On what enforcement stands.
    pub ground: Ground,
    /// Whether it gives way to the launcher's own listener when that asks for it.
    pub gives_way: bool,
}

/// Up to the first execve it is the runtime's own code that runs inside the filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    RuntimeInit,
    Workload,
}

/// A call with attempts in it that was answered.
struct Recent {
    /// Of the notification that was answered last.
    id: u64,
    tid: u32,
    number: i32,
    arguments: [u64; 6],
    /// What it meant: the memory behind its arguments may hold something else when it comes again.
    attempts: Vec<Attempt>,
    at: Moment,
    answer: Answer,
    undelivered: bool,
}

/// Serves one listener.
pub struct Supervisor {
    listener: Arc<Listener>,
    case: Arc<Case>,
    recorder: Arc<dyn Recorder>,
    origin: Origin,
    phase: Phase,
    /// The execve by which the runtime's init becomes the launcher, until the launcher makes a call.
    launcher: Option<Notification>,
    recent: VecDeque<Recent>,
    /// Carries out what an enforced workload may do; `None`: calls are let go after they are decided.
    broker: Option<Broker>,
    last_deed: Option<Kept>,
    threads: KnownThreads,
    unsettled: Arc<Unsettled>,
    told_broken_broker: bool,
    /// Whether an exec session that nobody registered is on record.
    told_session: bool,
    neighbours: Arc<dyn Neighbours>,
    /// What a sealed workload was granted; `None` where it is not sealed, or where that was not seen.
    granted: Option<Granted>,
}

impl Supervisor {
    /// A supervisor for a listener that was installed just now: the runtime's own init runs first.
    #[must_use]
    pub fn new(listener: Arc<Listener>, case: Arc<Case>, recorder: Arc<dyn Recorder>, origin: Origin) -> Self {
        Self {
            listener,
            case,
            recorder,
            origin,
            phase: Phase::RuntimeInit,
            launcher: None,
            recent: VecDeque::new(),
            broker: None,
            last_deed: None,
            threads: KnownThreads::default(),
            unsettled: Arc::default(),
            told_broken_broker: false,
            told_session: false,
            neighbours: Arc::new(Alone),
            granted: None,
        }
    }

    /// The same, with a broker for what an enforced workload may do, within what its container's `quota` leaves.
    #[must_use]
    pub fn with_broker(self, broker: Broker) -> Self {
        Self { broker: Some(broker), ..self }
    }

    /// By which whoever watches over this supervisor's thread stops what is being carried out; `None` without a broker.
    #[must_use]
    pub fn hand(&self) -> Option<Arc<Hand>> {
        self.broker.as_ref().map(Broker::hand)
    }

    /// The same, beside other threads that serve the listener: what is begun and not answered is known to all.
    #[must_use]
    pub fn with_unsettled(self, unsettled: Arc<Unsettled>) -> Self {
        Self { unsettled, ..self }
    }

    /// The same, beside other containers.
    #[must_use]
    pub fn with_neighbours(self, neighbours: Arc<dyn Neighbours>) -> Self {
        Self { neighbours, ..self }
    }

    /// The same, of a sealed workload that was granted this before this process.
    #[must_use]
    pub fn with_granted(self, granted: Option<Granted>) -> Self {
        Self { granted, ..self }
    }

    /// What a sealed workload was granted, for the next worker.
    #[must_use]
    pub fn granted(&self) -> Option<&Granted> {
        self.granted.as_ref()
    }

    /// A supervisor for a listener that was adopted while its workload runs.
    #[must_use]
    pub fn adopt(listener: Arc<Listener>, case: Arc<Case>, recorder: Arc<dyn Recorder>, origin: Origin) -> Self {
        Self { phase: Phase::Workload, told_session: true, ..Self::new(listener, case, recorder, origin) }
    }

    /// Whether `notification` is the call by which the runtime's own init becomes the workload.
    #[must_use]
    pub fn begins_workload(&self, notification: &Notification) -> bool {
        let decoded = decode(notification.arch, notification.nr, notification.args);
        self.phase == Phase::RuntimeInit && self.is_first_execve(notification, &decoded)
    }

    /// Whether `notification` is the launcher's wish that this listener be given up for its own ([`crate::supervise`] knows no more of
    /// that). Nothing but the launcher can have it: nobody else has run since the runtime's own init.
    #[must_use]
    pub fn is_to_give_way(&self, notification: &Notification) -> bool {
        let asks = || match decode(notification.arch, notification.nr, notification.args) {
            Decoded::Request(request) => matches!(request.operation, Operation::InstallFilter { .. }),
            _ => false,
        };
        self.launcher.is_some_and(|start| start.tid == notification.tid) && asks()
    }

    /// The exec session, with what its first execve told.
    #[must_use]
    pub fn session(&self) -> Option<&Session> {
        self.origin.session.as_ref()
    }

    /// Names the exec session, once it is known which one it is.
    pub fn set_session(&mut self, session: Session) {
        self.origin.session = Some(session);
    }

    /// Decides `notification`, answers it, and notes whether the answer arrived.
    ///
    /// # Errors
    /// [`ListenerError`] when it cannot be answered for another reason than a caller that is gone.
    pub fn serve(&mut self, notification: &Notification) -> Result<Delivery, ListenerError> {
        let (unsettled, hand) = (Arc::clone(&self.unsettled), self.hand());
        let mut call = *notification;
        loop {
            let reply = self.handle(&call);
            // until it is known whether the reply arrives, nobody else begins the same call
            let mut calls = unsettled.calls();
            let last = hand.as_ref().and_then(|hand| calls.as_it_came_last(hand)).unwrap_or(call);
            if last.id != call.id && reply.is_for_this_id_only() {
                // it came again while nothing was done for it
                call = last;
                continue;
            }
            let given = self.give(last.id, reply).inspect_err(|_| {
                // nobody must wait for an answer that cannot be given as decided
                let _ = self.listener.answer(last.id, Answer::Continue(ContinueReason::OwnFailure));
            });
            hand.iter().for_each(|hand| calls.ends(hand));
            let delivery = given?;
            self.note(&call, delivery, &mut calls);
            return Ok(delivery);
        }
    }

    fn give(&mut self, id: u64, reply: Reply) -> Result<Delivery, ListenerError> {
        if let (Some(_), Some(broker)) = (&self.last_deed, &self.broker) {
            broker.note_answers();
        }
        match reply {
            Reply::Answer(answer) => self.listener.answer(id, answer),
            Reply::Inject { file, close_on_exec } => self.inject(id, file, close_on_exec),
            Reply::Exceeded { thread } => self.tell_exceeded(id, &thread),
            Reply::Later => Ok(Delivery::Delivered),
        }
    }

    /// Puts `file` into the caller's table and lets every copy of ours go before the caller runs on: while one is open for writing
    /// nobody can execute the file (execve(2), ETXTBSY).
    fn inject(&mut self, id: u64, file: Arc<OwnedFd>, close_on_exec: bool) -> Result<Delivery, ListenerError> {
        let placed = match &self.broker {
            Some(broker) => broker.place(&self.listener, id, &file, close_on_exec),
            None => self.listener.add_descriptor(id, &file, close_on_exec),
        };
        let number = match placed? {
            Added::Number(number) => Answer::Value(i64::from(number)),
            Added::Refused(errno) => Answer::Errno(errno),
            Added::TargetGone => return Ok(Delivery::TargetGone),
        };
        // should the call come again, its descriptor is there already
        if let Some(deed) = &mut self.last_deed {
            deed.reply = Reply::Answer(number);
        }
        drop(file);
        self.listener.answer(id, number)
    }

    fn tell_exceeded(&self, id: u64, thread: &Process) -> Result<Delivery, ListenerError> {
        let delivery = self.listener.answer(id, Answer::Errno(Errno::FBIG))?;
        if delivery == Delivery::Delivered {
            // one that has ended by now needs no signal
            let _ = thread.signal(Signal::XFSZ);
        }
        Ok(delivery)
    }

    /// Notes what became of an answer; needed only by callers of [`Supervisor::handle`] that answer themselves.
    pub fn note_delivery(&mut self, notification: &Notification, delivery: Delivery) {
        let unsettled = Arc::clone(&self.unsettled);
        self.note(notification, delivery, &mut unsettled.calls());
    }

    fn note(&mut self, notification: &Notification, delivery: Delivery, calls: &mut Calls) {
        if delivery == Delivery::TargetGone {
            // one that was cancelled before it was decided is no repeat of the same call before it
            for recent in self.recent.iter_mut().filter(|recent| recent.id == notification.id) {
                recent.undelivered = true;
            }
            if let Some(deed) = self.last_deed.take() {
                calls.keep(deed.undelivered(notification, self.broker.as_ref()), Moment::now());
            }
        }
        self.last_deed = None;
    }

    /// Decides `notification`: what concerns an account database is recorded when this returns.
    #[must_use]
    pub fn handle(&mut self, notification: &Notification) -> Reply {
        self.handle_at(notification, Moment::now())
    }

    fn handle_at(&mut self, notification: &Notification, now: Moment) -> Reply {
        let decoded = decode(notification.arch, notification.nr, notification.args);
        let notification = &meant(notification, &decoded);
        let is_first_execve = self.phase == Phase::RuntimeInit && self.is_first_execve(notification, &decoded);
        if self.phase == Phase::RuntimeInit && !is_first_execve {
            return Reply::let_go(ContinueReason::RuntimeInit);
        }
        self.phase = Phase::Workload;
        let starts = is_first_execve && self.origin.gives_way;
        // a signal, as runc's own, has the same call come again; the launcher's arguments lie elsewhere than the runtime's
        let is_same = |start: Notification| {
            (start.tid, start.nr, start.args) == (notification.tid, notification.nr, notification.args)
        };
        if !self.launcher.is_some_and(is_same) {
            self.launcher = starts.then_some(*notification);
        }
        self.unsettled.calls().note_call(notification);
        let policy = self.case.policy();
        self.learn_session(notification, &decoded, now);
        if is_first_execve {
            let look_around = || Granted::look_around(self.case.root().as_ref(), &policy.databases);
            self.granted = (self.origin.ground == Ground::Seal).then(look_around);
        }
        if policy.mode == Mode::Off {
            return Reply::let_go(ContinueReason::AuditOnly);
        }
        let seen = match &decoded {
            Decoded::NotWatched => return Reply::let_go(ContinueReason::NotDecoded),
            Decoded::UnknownArchitecture => vec![observe::unresolved("unknown")],
            Decoded::Request(request) if policy.mode == Mode::Enforce && self.broker.is_some() => {
                return self.serve_by_broker(notification, request, &policy, is_first_execve, now);
            }
            Decoded::Request(request) => match self.observe(notification, request, &policy) {
                Observation::Attempts(seen) => seen,
                Observation::Nothing => return Reply::let_go(ContinueReason::NotAnAccountDatabase),
                // it still waits, so it is not gone but out of our sight (another pid namespace)
                Observation::Gone if self.listener.is_valid(notification.id) => {
                    vec![observe::unresolved(request.call.name())]
                }
                Observation::Gone => return Reply::let_go(ContinueReason::NotAnAccountDatabase),
                Observation::Fails(errno) => {
                    let target = LiveTarget::new(&self.listener, notification);
                    return Reply::Answer(Answer::Errno(broker::failure(request, notification, &target, errno)));
                }
            },
        };
        if let Some(answer) = self.reissued(notification, &seen, now) {
            return Reply::Answer(answer);
        }
        Reply::Answer(self.decide(notification, seen, &policy, is_first_execve, now))
    }

    /// Whether this is the execve by which the runtime's init becomes the workload. startContainer hooks run inside the filter
    /// too, as children of the init: theirs is not, when the init's pid is known.
    fn is_first_execve(&self, notification: &Notification, decoded: &Decoded) -> bool {
        let is_execve = matches!(decoded, Decoded::Request(Request { operation: Operation::Execute { .. }, .. }));
        let by_init = || {
            self.origin.pid == 0
                || notification.tid == self.origin.pid
                || Facts::read(notification.tid).is_ok_and(|facts| facts.pid == self.origin.pid)
        };
        is_execve && by_init()
    }

    fn observe(&self, notification: &Notification, request: &Request, policy: &Applied) -> Observation {
        let target = LiveTarget::new(&self.listener, notification);
        let root = self.case.root();
        let guarded =
            Guarded { root: root.as_ref(), databases: &policy.databases, neighbours: self.neighbours.as_ref() };
        observe::observe(request, &target, &guarded)
    }

    /// Takes the arguments of an exec that nobody registered from its first execve, and records the exec. One that a signal cancels, as
    /// runc's own does, cannot be read and comes again.
    fn learn_session(&mut self, notification: &Notification, decoded: &Decoded, now: Moment) {
        let (Some(session), Decoded::Request(request)) = (&mut self.origin.session, decoded) else { return };
        let is_execve = matches!(request.operation, Operation::Execute { .. });
        if self.told_session || !session.argv.is_empty() || !is_execve {
            return;
        }
        let target = LiveTarget::new(&self.listener, notification);
        let Ok(arguments) = program_arguments::of_request(request, &target) else { return };
        session.argv = actor::shown(&arguments);
        self.told_session = true;
        let mut event = self.case.event(Kind::ContainerExec, Severity::Info, now);
        event.session = Some(session.clone());
        self.recorder.record_or_keep(event);
    }

    /// The answer to the same call, decided already, that was kept from its caller.
    fn reissued(&mut self, notification: &Notification, seen: &[Seen], now: Moment) -> Option<Answer> {
        let recent = self.recent.iter_mut().find(|recent| {
            recent.undelivered
                && recent.is_of(notification)
                && recent.attempts.iter().eq(seen.iter().map(|seen| &seen.attempt))
                && now.since(recent.at) <= REISSUE_WINDOW
        })?;
        recent.id = notification.id;
        recent.at = now;
        recent.undelivered = false;
        Some(recent.answer)
    }

    /// Who made the call; `None` when nobody waits for the answer any more.
    fn acting(&self, notification: &Notification, is_first_execve: bool, seen: &Seen) -> Option<Arc<Acting>> {
        let session = self.origin.session.as_ref().map(|session| session.id.as_str());
        // an attempt is told even when little can be learned of who made it
        let mut acting = Acting::read(notification.tid, self.case.init(), session)
            .unwrap_or_else(|_| Acting::unknown(notification.tid));
        if is_first_execve && !seen.tool_arguments.is_empty() {
            acting.becomes(seen.attempt.object_path.as_deref(), &seen.tool_arguments);
        }
        self.listener.is_valid(notification.id).then(|| Arc::new(acting))
    }

    fn remember(&mut self, notification: &Notification, attempts: Vec<Attempt>, answer: Answer, now: Moment) {
        self.recent.retain(|recent| !recent.is_of(notification));
        if self.recent.len() >= MAX_RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(Recent {
            id: notification.id,
            tid: notification.tid,
            number: notification.nr,
            arguments: notification.args,
            attempts,
            at: now,
            answer,
            undelivered: false,
        });
    }
}

impl Recent {
    fn is_of(&self, notification: &Notification) -> bool {
        (self.tid, self.number, self.arguments) == (notification.tid, notification.nr, notification.args)
    }
}

/// The notification without what is left in the registers beyond its arguments: a program that makes its call again after EINTR has
/// something else there.
fn meant(notification: &Notification, decoded: &Decoded) -> Notification {
    let mut meant = *notification;
    if let Decoded::Request(request) = decoded {
        meant.args.iter_mut().skip(request.call.argument_count()).for_each(|surplus| *surplus = 0);
    }
    meant
}

/// A session for an exec that nobody registered.
#[must_use]
pub fn unregistered_session() -> Session {
    Session { id: Uuid::now_v7().to_string(), ..Session::default() }
}

#[cfg(test)]
mod tests;

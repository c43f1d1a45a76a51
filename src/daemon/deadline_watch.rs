//! The watch over the threads that serve listeners: a call that was not answered in time is answered by policy, so that whatever a
//! container's path leads into (a FUSE server that never answers, an NFS server that is gone) holds up nobody else.
//!
//! A thread that is stuck cannot be freed: a FUSE request that its server has taken is waited for whatever signal comes (fs/fuse/dev.c,
//! `request_wait_answer`). So its broker is stopped, its call answered, and another thread relieves it; when too many of one listener
//! are stuck, the watch itself answers every call of that listener by policy until one comes back. Opens that wait for somebody (a
//! FIFO) hold up no thread (`supervise::broker`) and have no deadline. A call whose helper gets on, however slowly, is set aside before
//! its deadline ([`crate::daemon::set_aside`]).
//!
//! What is answered here is done with: its slot is cleared, so that no later worker does it again, and whoever is at work on it is ended,
//! be it a helper of this worker's or one that an earlier worker left. A worker that retires leaves what hangs to its successor, by
//! the slot.
//!
//! Invariants: nothing here touches a file of a container; what is answered here is on record first, the first at once, repeats as
//! a number; in enforce nothing is let go but an execve, which policy never refuses.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::Once;
use std::sync::PoisonError;
use std::sync::Weak;
use std::time::Duration;
use std::time::Instant;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;

use crate::daemon::conclusion;
use crate::daemon::post::Busy;
use crate::daemon::post::Call;
use crate::daemon::post::Post;
use crate::daemon::post::Seat;
use crate::daemon::registry::Guarded;
use crate::daemon::service::Service;
use crate::daemon::set_aside::set_aside;
use crate::daemon::worker;
use crate::kernel::leftovers::reap;
use crate::kernel::seccomp_notify::Answer;
use crate::kernel::seccomp_notify::ContinueReason;
use crate::kernel::seccomp_notify::Notification;
use crate::kernel::seccomp_notify::Readiness;
use crate::model::diagnostic::chain;
use crate::model::event::Kind;
use crate::model::event::ProtectionChange;
use crate::model::event::Severity;
use crate::model::policy::Mode;
use crate::supervise::decode::Decoded;
use crate::supervise::decode::Operation;
use crate::supervise::decode::decode;

/// How long a call may wait for its answer, or for somebody to get on with it. Longer than anything that does not hang: the slowest
/// answers but for those of slow file systems are those that start a helper or write a record, some ten milliseconds each.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// Most threads of one listener that may be stuck at one time; with one more the watch answers the listener's calls.
pub const MAX_STUCK: usize = 3;
/// How often threads are looked at.
const TICK: Duration = Duration::from_millis(500);
/// How often while a call is slow.
const SHORT_TICK: Duration = Duration::from_millis(100);
/// Answers by policy are told again after this long, as a number.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// Most calls of one listener answered before another's turn.
const BURST: usize = 64;

/// Why calls are answered by policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause<'a> {
    /// Somebody waited too long.
    Deadline(Duration),
    /// All threads of the listener are stuck.
    AllStuck,
    /// The container has more listeners than threads are made for.
    TooMany(u32),
    /// Something of ours failed.
    Failure(&'a str),
}

/// The posts of all listeners, and the thread that watches over them.
#[derive(Debug)]
pub struct DeadlineWatch {
    posts: Mutex<Vec<Arc<Post>>>,
    started: Once,
}

impl Default for DeadlineWatch {
    fn default() -> Self {
        Self { posts: Mutex::default(), started: Once::new() }
    }
}

impl DeadlineWatch {
    fn posts(&self) -> MutexGuard<'_, Vec<Arc<Post>>> {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches over `post` from now on.
    pub fn add(&self, post: &Arc<Post>) {
        self.posts().push(Arc::clone(post));
        self.started.call_once(|| {
            let service = Arc::clone(&post.service);
            let thread = std::thread::Builder::new().name("deadlines".to_owned()).spawn(move || run(&service));
            if let Err(error) = thread {
                tracing::error!("cannot make a thread that watches over the others: {error}");
            }
        });
    }

    /// Its listener is closed.
    pub fn remove(&self, post: &Arc<Post>) {
        self.posts().retain(|known| !Arc::ptr_eq(known, post));
    }

    /// Whether the databases of `guarded` are being looked at for the first time.
    #[must_use]
    pub fn is_entering(&self, guarded: &Arc<Guarded>) -> bool {
        self.posts().iter().any(|post| Arc::ptr_eq(&post.guarded, guarded) && post.open.get().is_none())
    }
}

fn run(service: &Service) {
    let mut looked = Instant::now();
    loop {
        // held while it waits is only what it answers: a listener that gives way is closed with the last that holds its post
        let posts: Vec<Weak<Post>> = service.deadlines.posts().iter().map(Arc::downgrade).collect();
        let held = || posts.iter().filter_map(Weak::upgrade);
        let mut tick = TICK;
        let mut left = Vec::new();
        for post in held() {
            let Some(seat) = post.try_seat() else { continue };
            if !seat.aside.is_empty() {
                tick = SHORT_TICK;
            }
            let is_left = seat.by_policy;
            drop(seat);
            if is_left {
                left.push(post);
            }
        }
        await_calls(&left, tick.saturating_sub(looked.elapsed()));
        let Some(_busy) = service.retirement.busy() else { return };
        left.iter().for_each(answer_calls);
        if looked.elapsed() >= tick {
            held().for_each(|post| expire(&post));
            reap();
            looked = Instant::now();
        }
    }
}

/// Until one of the listeners has a call, or `limit` is over.
fn await_calls(left: &[Arc<Post>], limit: Duration) {
    let timeout =
        Timespec { tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX), tv_nsec: limit.subsec_nanos().into() };
    let listeners: Vec<_> = left.iter().map(|post| post.listener.as_fd()).collect();
    let mut polled: Vec<PollFd<'_>> = listeners.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    // a signal only makes the next look an early one
    let _ = rustix::event::poll(&mut polled, Some(&timeout));
}

/// What a call gets that nobody could decide.
fn answer_of(mode: Mode, notification: &Notification) -> Answer {
    let decoded = decode(notification.arch, notification.nr, notification.args);
    let starts_program =
        matches!(decoded, Decoded::Request(ref request) if matches!(request.operation, Operation::Execute { .. }));
    if mode == Mode::Enforce && !starts_program {
        Answer::Errno(crate::kernel::Errno::PERM)
    } else {
        Answer::Continue(ContinueReason::OwnFailure)
    }
}

fn call_name(notification: &Notification) -> &'static str {
    match decode(notification.arch, notification.nr, notification.args) {
        Decoded::Request(request) => request.call.name(),
        _ => "an unknown call",
    }
}

/// Answers the calls of a listener that nobody else serves.
fn answer_calls(post: &Arc<Post>) {
    let Some(mut seat) = post.try_seat() else { return };
    while seat.by_policy
        && let Some(call) = seat.take_left()
    {
        answer(post, &mut seat, call, Cause::AllStuck);
    }
    for _ in 0..BURST {
        if !seat.by_policy {
            return;
        }
        match post.listener.wait(Some(Duration::ZERO)) {
            Ok(Readiness::Ready) => {}
            Ok(Readiness::TimedOut | Readiness::Woken) => return,
            Ok(Readiness::HungUp) => {
                seat.by_policy = false;
                drop(seat);
                return conclusion::close_elsewhere(post);
            }
            Err(error) => return tracing::error!(container = post.guarded.id.as_str(), "{}", chain(&error)),
        }
        if let Ok(Some(notification)) = post.listener.receive(&mut seat.slot) {
            answer(post, &mut seat, Call::received(notification), Cause::AllStuck);
        }
    }
}

/// Puts on record that `call` is answered by policy, answers it, and clears its slot.
fn answer(post: &Post, seat: &mut Seat, call: Call, cause: Cause<'_>) {
    answer_call(post, seat, &call, cause);
    seat.clear(call);
}

fn answer_call(post: &Post, seat: &mut Seat, call: &Call, cause: Cause<'_>) {
    worker::end_helper_of(call.entry);
    let notification = call.notification;
    note(post, seat, Some(&notification), cause);
    let mode = post.guarded.policy.current().mode;
    if let Err(error) = post.listener.answer(notification.id, answer_of(mode, &notification)) {
        tracing::error!(container = post.guarded.id.as_str(), "{}", chain(&error));
    }
}

/// Answers what whoever had the turn was at.
fn answer_in_place(post: &Post, seat: &mut Seat, busy: Option<Busy>, cause: Cause<'_>) {
    match busy.and_then(|busy| busy.call) {
        Some(call) => answer(post, seat, call, cause),
        None => note(post, seat, None, cause),
    }
}

/// Relieves the thread of `post` when what it is at is slow or takes too long, and answers what was set aside and gets nowhere.
fn expire(post: &Arc<Post>) {
    let Some(mut seat) = post.try_seat() else { return };
    for (call, waited) in seat.overdue() {
        // a caller that went away meanwhile is told nothing
        if post.listener.is_valid(call.notification.id) {
            answer_call(post, &mut seat, &call, Cause::Deadline(waited));
        }
    }
    let is_slow = set_aside(post, &mut seat);
    if !is_slow {
        let waited = seat.busy.as_ref().map(|busy| busy.since.elapsed());
        let Some(waited) = waited.filter(|waited| *waited >= DEADLINE) else { return };
        seat.stuck += 1;
        let busy = seat.take_turn();
        answer_in_place(post, &mut seat, busy, Cause::Deadline(waited));
    }
    let turn = seat.turn;
    // slow calls are bounded by themselves
    let relieved = (is_slow || seat.stuck <= MAX_STUCK) && post.open.get().is_some() && worker::relieve(post, turn);
    seat.by_policy = !relieved;
}

/// The listener is left to the watch.
pub fn leave_to_policy(post: &Arc<Post>, cause: Cause<'_>) {
    if post.is_closed() {
        return;
    }
    let mut seat = post.seat();
    let busy = seat.take_turn();
    seat.by_policy = true;
    answer_in_place(post, &mut seat, busy, cause);
}

/// A thread that was relieved of `turn` is back. Its next turn when nobody else serves by now; else it ends.
pub fn comes_back(post: &Post, turn: u64) -> Option<u64> {
    let mut seat = post.seat();
    if !seat.is_done_aside(turn) {
        seat.stuck = seat.stuck.saturating_sub(1);
    }
    let takes_over = std::mem::take(&mut seat.by_policy);
    if takes_over {
        seat.take_turn();
    }
    if seat.stuck == 0 && seat.told.take().is_some() {
        let untold = std::mem::take(&mut seat.untold);
        let mut event = post.service.event_of(&post.guarded, Kind::ProtectionRestored, Severity::Info);
        event.protection = Some(ProtectionChange {
            what: "calls are decided again".to_owned(),
            reason: "what a call waited for has come".to_owned(),
            remedy: None,
        });
        event.count = (untold > 0).then_some(untold);
        post.service.journal.record_or_keep(&event);
    }
    takes_over.then_some(seat.turn)
}

/// Tells what nobody was told yet, when the listener is closed.
pub fn tell_rest(post: &Post) {
    let mut seat = post.seat();
    if seat.untold > 0 {
        tell(post, &mut seat, None, Cause::AllStuck);
    }
}

fn note(post: &Post, seat: &mut Seat, notification: Option<&Notification>, cause: Cause<'_>) {
    seat.untold += 1;
    if seat.told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
        tell(post, seat, notification, cause);
    }
}

fn tell(post: &Post, seat: &mut Seat, notification: Option<&Notification>, cause: Cause<'_>) {
    let mode = post.guarded.policy.current().mode;
    let what = if mode == Mode::Enforce {
        "calls are refused with EPERM without being looked at, as mode enforce says"
    } else {
        "calls are let go without being looked at; their effect on databases is seen in the content alone"
    };
    let call = notification.map_or_else(
        || "the look at its databases".to_owned(),
        |notification| format!("{} of thread {}", call_name(notification), notification.tid),
    );
    let (reason, remedy) = match cause {
        Cause::Deadline(waited) => (
            format!("{call} waited {:.1} s for a file system that does not answer", waited.as_secs_f64()),
            "find the container's FUSE or network mount that hangs (findmnt in the container), and its server",
        ),
        Cause::AllStuck => (
            format!(
                "{} calls wait for a file system that does not answer; so does no other, {call} the last",
                seat.stuck
            ),
            "find the container's FUSE or network mount that hangs (findmnt in the container), and its server",
        ),
        Cause::TooMany(most) => (
            format!("{most} exec sessions of the container are served already"),
            "end exec sessions that are not needed; see acctguard containers",
        ),
        Cause::Failure(reason) => (reason.to_owned(), "see the daemon's log"),
    };
    let mut event = post.service.event_of(&post.guarded, Kind::ProtectionDegraded, Severity::High);
    event.session.clone_from(&post.origin.session);
    event.count = (seat.untold > 1).then_some(seat.untold);
    tracing::error!(container = post.guarded.id.as_str(), count = seat.untold, "{what}: {reason}");
    event.protection = Some(ProtectionChange { what: what.to_owned(), reason, remedy: Some(remedy.to_owned()) });
    post.service.journal.record_or_keep(&event);
    seat.untold = 0;
    seat.told = Some(Instant::now());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_decided_is_let_go_in_audit_and_refused_in_enforce_but_for_programs() {
        const AUDIT_ARCH_X86_64: u32 = 0xC000_003E;
        let call = |nr| Notification { id: 1, tid: 1, arch: AUDIT_ARCH_X86_64, nr, args: [0; 6] };
        let (openat, execve, unknown_arch) = (call(257), call(59), Notification { arch: 7, ..call(257) });
        let let_go = Answer::Continue(ContinueReason::OwnFailure);
        let refused = Answer::Errno(crate::kernel::Errno::PERM);
        for (mode, notification, expected) in [
            (Mode::Audit, openat, let_go),
            (Mode::Off, openat, let_go),
            (Mode::Enforce, openat, refused),
            (Mode::Enforce, unknown_arch, refused),
            (Mode::Enforce, execve, let_go),
            (Mode::Audit, execve, let_go),
        ] {
            assert_eq!(answer_of(mode, &notification), expected, "{mode:?} {notification:?}");
        }
    }
}

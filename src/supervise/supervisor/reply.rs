//! What the caller of an intercepted call gets, and what is kept of it should the call come again.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::kernel::Errno;
use crate::kernel::pidfd::PidfdError;
use crate::kernel::pidfd::Process;
use crate::kernel::seccomp_notify::Answer;
use crate::kernel::seccomp_notify::ContinueReason;
use crate::kernel::seccomp_notify::Notification;
use crate::kernel::thread;
use crate::supervise::broker::Broker;
use crate::supervise::broker::KeptSlot;
use crate::supervise::moment::Moment;

/// A deed whose reply did not arrive is kept for so long: for as long as a signal handler may run.
const KEPT_WINDOW: Duration = Duration::from_secs(5);

/// Most that a thread runs for a call that is made again after a freeze: the kernel's own work.
const RUN_TO_MAKE_A_CALL_AGAIN: Duration = Duration::from_millis(1);

/// What a call means, whatever its id.
#[derive(Clone)]
pub(super) struct Meant {
    tid: u32,
    number: i32,
    arguments: [u64; 6],
    read: Read,
}

/// What the arguments in memory were.
#[derive(Clone)]
enum Read {
    /// Themselves.
    Known(Vec<Vec<u8>>),
    /// What an earlier worker left of them.
    Digest(u64),
}

/// FNV-1a of all of it, by which workers of different versions mean the same; never 0.
fn digest(read: &[Vec<u8>]) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let of =
        |hash: u64, bytes: &[u8]| bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME));
    let all = read.iter().fold(BASIS, |hash, argument| of(of(hash, &argument.len().to_le_bytes()), argument));
    all.max(1)
}

impl Meant {
    /// `read` is what its arguments in memory are, as far as it is known.
    pub(super) fn new(notification: &Notification, read: Vec<Vec<u8>>) -> Self {
        let Notification { tid, nr, args, .. } = *notification;
        Self { tid, number: nr, arguments: args, read: Read::Known(read) }
    }

    /// Of a call that an earlier worker left, of which `digest` is known.
    pub(super) fn left(notification: &Notification, digest: u64) -> Self {
        Self { read: Read::Digest(digest), ..Self::new(notification, Vec::new()) }
    }

    /// For the next worker.
    pub(super) fn digest(&self) -> u64 {
        match &self.read {
            Read::Known(read) => digest(read),
            Read::Digest(digest) => *digest,
        }
    }

    /// Whether `notification` is the same call, its arguments in memory being `read`, of which only the beginning may be known yet.
    pub(super) fn is(&self, notification: &Notification, read: &[Vec<u8>]) -> bool {
        (self.tid, self.number, self.arguments) == (notification.tid, notification.nr, notification.args)
            && match &self.read {
                Read::Known(known) => read.iter().all(|argument| known.contains(argument)),
                Read::Digest(known) => digest(read) == *known,
            }
    }
}

/// A deed that was done for a call, and the reply to it.
#[derive(Clone)]
pub(super) struct Kept {
    meant: Meant,
    pub(super) reply: Reply,
    at: Moment,
    /// What its caller had run by when the reply did not arrive.
    ran: Option<Duration>,
    /// As it was before anything was done.
    begun: Meant,
    /// Where the next worker finds it.
    _slot: Option<Arc<KeptSlot>>,
}

impl Kept {
    /// `begun` is what it meant as far as it was known when it was begun.
    pub(super) fn new(meant: Meant, begun: Meant, reply: Reply, at: Moment) -> Self {
        Self { meant, reply, at, ran: None, begun, _slot: None }
    }

    /// The reply to it, which was `call`, did not arrive.
    pub(super) fn undelivered(self, call: &Notification, broker: Option<&Broker>) -> Self {
        let ran = thread::time_run(self.meant.tid);
        let slot = match self.reply {
            Reply::Answer(Answer::Value(value)) => {
                broker.and_then(|broker| broker.keep_outcome(call, self.begun.digest(), value)).map(Arc::new)
            }
            _ => None,
        };
        Self { ran, _slot: slot, ..self }
    }

    /// Whether its call will not come again any more.
    pub(super) fn is_over(&self, now: Moment) -> bool {
        now.since(self.at) > KEPT_WINDOW && !self.has_run_nothing_since()
    }

    /// Its caller, thread of `notification`, makes that call: if it is another one, it was not held up all the time.
    pub(super) fn note_call(&mut self, notification: &Notification) {
        let is_other = (self.meant.number, self.meant.arguments) != (notification.nr, notification.args);
        if self.meant.tid == notification.tid && is_other {
            self.ran = None;
        }
    }

    /// Its call came again, and may be interrupted again: under many signals for longer than the window.
    pub(super) fn came_again(self, now: Moment) -> Self {
        Self { at: now, ..self }
    }

    /// Whether `notification` is the call that it was done for, its arguments in memory being `read`.
    pub(super) fn is_of(&self, notification: &Notification, read: &[Vec<u8>], now: Moment) -> bool {
        self.meant.is(notification, read) && !self.is_over(now)
    }

    /// Whether its caller was stopped or frozen ever since, and so did nothing but make its call again.
    fn has_run_nothing_since(&self) -> bool {
        let now = thread::time_run(self.meant.tid);
        self.ran.zip(now).is_some_and(|(then, now)| now.saturating_sub(then) <= RUN_TO_MAKE_A_CALL_AGAIN)
    }
}

/// What the caller gets.
#[derive(Debug, Clone)]
pub enum Reply {
    /// An answer of the listener.
    Answer(Answer),
    /// A descriptor that was opened for it.
    Inject {
        /// Opened.
        file: Arc<OwnedFd>,
        /// Closed on exec in its table.
        close_on_exec: bool,
    },
    /// `EFBIG`, and after it the signal `SIGXFSZ` (setrlimit(2), `RLIMIT_FSIZE`): before it, it would interrupt the call.
    Exceeded {
        /// Who made the call.
        thread: Arc<Process>,
    },
    /// It waits for somebody else; the reply comes by itself.
    Later,
}

impl Reply {
    /// Of a call that exceeded a limit. A thread that cannot be told is gone, or has its errno.
    pub(super) fn exceeded(thread: Result<Process, PidfdError>) -> Self {
        match thread {
            Ok(thread) => Self::Exceeded { thread: Arc::new(thread) },
            Err(_) => Self::Answer(Answer::Errno(Errno::FBIG)),
        }
    }

    pub(super) fn let_go(reason: ContinueReason) -> Self {
        Self::Answer(Answer::Continue(reason))
    }

    /// Whether it is of no use to the same call under another id: nothing was done for it, or somebody waits under its own.
    pub(super) const fn is_for_this_id_only(&self) -> bool {
        matches!(self, Self::Answer(Answer::Continue(_) | Answer::Interrupted) | Self::Later)
    }
}

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
use crate::supervise::broker::remembering::Memory;
use crate::supervise::broker::remembering::ReadMemory;
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
    Known(Vec<ReadMemory>),
    /// What an earlier worker left of them.
    Digest(u64),
}

/// FNV-1a of all of it, by which workers of different versions mean the same; never 0.
fn digest(read: &[ReadMemory]) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let of =
        |hash: u64, bytes: &[u8]| bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME));
    let all = read.iter().map(|memory| &memory.bytes);
    all.fold(BASIS, |hash, bytes| of(of(hash, &bytes.len().to_le_bytes()), bytes)).max(1)
}

impl Meant {
    /// `read` is what its arguments in memory are, as far as it is known.
    pub(super) fn new(notification: &Notification, read: Vec<ReadMemory>) -> Self {
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

    /// Whether `notification` is the same call, of whose arguments in `memory` only the beginning may be known yet.
    ///
    /// The kernel makes a call again in the same thread, from the same registers (signal(7), `SA_RESTART`). A program that is told EINTR
    /// makes it again as it likes: Go's does in whichever of its threads is free, with its paths elsewhere in memory. That is the same
    /// call for a thread that is like the first one: it either adopts what was done for that, or would find it done.
    pub(super) fn is(&self, notification: &Notification, memory: &dyn Memory) -> bool {
        let is_callers = self.tid == notification.tid;
        self.number == notification.nr
            && (is_callers && self.is_made_by_the_kernel(notification, memory)
                || self.says_the_same(notification, memory)
                    && (is_callers || thread::are_alike(self.tid, notification.tid)))
    }

    fn is_made_by_the_kernel(&self, notification: &Notification, memory: &dyn Memory) -> bool {
        self.arguments == notification.args
            && match &self.read {
                Read::Known(known) => memory.read_so_far().iter().all(|read| known.contains(read)),
                Read::Digest(known) => digest(&memory.read_so_far()) == *known,
            }
    }

    /// Whether both give the same values and the same texts, wherever these lie.
    fn says_the_same(&self, notification: &Notification, memory: &dyn Memory) -> bool {
        let mut values = self.arguments.iter().zip(notification.args);
        match &self.read {
            Read::Known(known) => values.all(|(then, now)| match known.iter().find(|read| read.address == *then) {
                Some(read) => memory.read_like(read, now).is_some_and(|bytes| bytes == read.bytes),
                None => *then == now,
            }),
            Read::Digest(known) => {
                let read = memory.read_so_far();
                values.all(|(then, now)| *then == now || read.iter().any(|read| read.address == now))
                    && digest(&read) == *known
            }
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

    /// Its call came again as `notification`, and may be interrupted again: under many signals for longer than the window.
    pub(super) fn came_again(self, notification: &Notification, memory: &dyn Memory, now: Moment) -> Self {
        Self { at: now, meant: Meant::new(notification, memory.read_so_far()), ..self }
    }

    /// Whether `notification` is the call that it was done for, its arguments lying in `memory`.
    pub(super) fn is_of(&self, notification: &Notification, memory: &dyn Memory, now: Moment) -> bool {
        self.meant.is(notification, memory) && !self.is_over(now)
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const GONE: u32 = 0;

    /// A memory in which these texts lie; how many of them were read.
    pub struct Texts<'a>(pub usize, pub &'a [(u64, &'a str)]);

    impl Memory for Texts<'_> {
        fn read_so_far(&self) -> Vec<ReadMemory> {
            let memory =
                |(address, text): &(u64, &str)| ReadMemory { address: *address, bytes: (*text).into(), is_path: true };
            self.1[..self.0].iter().map(memory).collect()
        }

        fn read_like(&self, _other: &ReadMemory, address: u64) -> Option<Vec<u8>> {
            self.1.iter().find(|(place, _)| *place == address).map(|(_, text)| (*text).into())
        }
    }

    fn rename(tid: u32, old: u64, new: u64) -> Notification {
        Notification { id: 1, tid, arch: 1, nr: 82, args: [old, new, 7, 0, 0, 0] }
    }

    #[test]
    fn a_call_is_the_same_wherever_its_paths_lie_and_only_for_the_same_paths() {
        let own = std::process::id();
        let memory = Texts(2, &[(64, "/a"), (80, "/b")]);
        let known = Meant::new(&rename(own, 64, 80), memory.read_so_far());
        for meant in [&known, &Meant::left(&rename(own, 64, 80), known.digest())] {
            assert!(meant.is(&rename(own, 64, 80), &memory));
            assert!(meant.is(&rename(own, 128, 64), &Texts(2, &[(128, "/a"), (64, "/b")])), "elsewhere in memory");
            assert!(!meant.is(&rename(own, 64, 80), &Texts(2, &[(64, "/b"), (80, "/a")])), "the other way round");
            assert!(!meant.is(&rename(GONE, 64, 80), &memory), "a thread that is not like it");
            let other_value = Notification { args: [64, 80, 8, 0, 0, 0], ..rename(own, 64, 80) };
            assert!(!meant.is(&other_value, &memory));
        }
        assert!(known.is(&rename(own, 128, 64), &Texts(0, &[(128, "/a"), (64, "/b")])), "nothing was read yet");
        assert!(!known.is(&rename(own, 128, 64), &Texts(0, &[(128, "/b"), (64, "/a")])), "that neither");
    }
}

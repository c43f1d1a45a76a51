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
use crate::supervise::decode::Decoded;
use crate::supervise::decode::Operation;
use crate::supervise::decode::decode;
use crate::supervise::moment::Moment;

/// A deed whose reply did not arrive is kept for so long: for as long as a signal handler may run.
const KEPT_WINDOW: Duration = Duration::from_secs(5);

/// For so long it is kept for a call that the program makes, which it does at once.
const PROGRAMS_WINDOW: Duration = Duration::from_secs(1);

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

    /// Whether `notification` is the same call, made again by the kernel: in the same thread, from the same registers (signal(7),
    /// `SA_RESTART`). Of its arguments in `memory` only the beginning may be known yet.
    pub(super) fn is(&self, notification: &Notification, memory: &dyn Memory) -> bool {
        (self.tid, self.number, self.arguments) == (notification.tid, notification.nr, notification.args)
            && match &self.read {
                Read::Known(known) => memory.read_so_far().iter().all(|read| known.contains(read)),
                Read::Digest(known) => digest(&memory.read_so_far()) == *known,
            }
    }

    /// Whether `notification` is the same call, made again by a program that was told EINTR, as it likes: Go's does in whichever of its
    /// threads is free, with its paths elsewhere in memory. A thread that is like the first one either adopts what was done, or would find
    /// it done. So this is only asked of what cannot be done twice: all else it had better find as it is by then.
    pub(super) fn is_again(&self, notification: &Notification, memory: &dyn Memory) -> bool {
        self.number == notification.nr
            && is_done_once(notification)
            && self.says_the_same(notification, memory)
            && (self.tid == notification.tid || thread::are_alike(self.tid, notification.tid))
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

/// Whether the call, done a second time, fails for having been done: what makes a name, moves it or takes it away.
fn is_done_once(notification: &Notification) -> bool {
    match decode(notification.arch, notification.nr, notification.args) {
        Decoded::Request(request) => match request.operation {
            Operation::Open { flags, .. } => flags.is_exclusive(),
            Operation::Rename { .. }
            | Operation::Link { .. }
            | Operation::MakeEntry { .. }
            | Operation::Unlink { .. } => true,
            _ => false,
        },
        _ => false,
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
        let is_again = || {
            let succeeded = matches!(self.reply, Reply::Inject { .. } | Reply::Answer(Answer::Value(_)));
            succeeded && now.since(self.at) <= PROGRAMS_WINDOW && self.meant.is_again(notification, memory)
        };
        !self.is_over(now) && (self.meant.is(notification, memory) || is_again())
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
    /// `AUDIT_ARCH_X86_64` (linux/audit.h).
    const X86_64: u32 = 0xc000_003e;

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
        Notification { id: 1, tid, arch: X86_64, nr: 82, args: [old, new, 7, 0, 0, 0] }
    }

    #[test]
    fn a_call_is_the_same_wherever_its_paths_lie_and_only_for_the_same_paths() {
        let own = std::process::id();
        let memory = Texts(2, &[(64, "/a"), (80, "/b")]);
        let known = Meant::new(&rename(own, 64, 80), memory.read_so_far());
        for meant in [&known, &Meant::left(&rename(own, 64, 80), known.digest())] {
            let is = |call: &Notification, memory: &Texts<'_>| meant.is(call, memory) || meant.is_again(call, memory);
            assert!(meant.is(&rename(own, 64, 80), &memory));
            assert!(is(&rename(own, 128, 64), &Texts(2, &[(128, "/a"), (64, "/b")])), "elsewhere in memory");
            assert!(!is(&rename(own, 64, 80), &Texts(2, &[(64, "/b"), (80, "/a")])), "the other way round");
            assert!(!is(&rename(GONE, 64, 80), &memory), "a thread that is not like it");
            let other_value = Notification { args: [64, 80, 8, 0, 0, 0], ..rename(own, 64, 80) };
            assert!(!is(&other_value, &memory));
        }
        assert!(known.is_again(&rename(own, 128, 64), &Texts(0, &[(128, "/a"), (64, "/b")])), "nothing was read yet");
        assert!(!known.is_again(&rename(own, 128, 64), &Texts(0, &[(128, "/b"), (64, "/a")])), "that neither");
    }

    #[test]
    fn what_may_be_done_twice_is_the_same_call_only_where_the_kernel_makes_it_again() {
        let own = std::process::id();
        let open = |path, flags| Notification { nr: 2, args: [path, flags, 0, 0, 0, 0], ..rename(own, 0, 0) };
        let (here, there) = (Texts(1, &[(64, "/a")]), Texts(1, &[(80, "/a")]));
        for (flags, again) in [(0o301, true), (0o101, false), (0o1, false)] {
            let known = Meant::new(&open(64, flags), here.read_so_far());
            assert!(known.is(&open(64, flags), &here));
            assert_eq!(known.is_again(&open(80, flags), &there), again, "{flags:o}");
        }
        let at = Moment::now();
        let kept = |reply| {
            Kept::new(Meant::new(&open(64, 0o301), here.read_so_far()), Meant::left(&open(64, 0o301), 1), reply, at)
        };
        let adopts = |kept: &Kept| kept.is_of(&open(80, 0o301), &there, at);
        assert!(adopts(&kept(Reply::Answer(Answer::Value(3)))));
        assert!(!adopts(&kept(Reply::Answer(Answer::Errno(Errno::NOENT)))), "what failed may succeed by now");
    }
}

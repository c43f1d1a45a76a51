//! Whether something waits for a thread whose call is being answered: a signal, a stop, or the freezer of its control group.
//!
//! A call that waits killable (`SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`) is left by none of them before it is answered, though the same
//! call in the kernel would be (open(2) of a FIFO: `EINTR`). So whoever holds a call up for long looks here, and answers it with
//! [`crate::kernel::seccomp_notify::Answer::Interrupted`] where the thread has certainly been told by the kernel
//! (`TIF_SIGPENDING`), which nothing shows. It has been when
//! * a signal that it does not block is pending for it alone, or for a process in which no other thread could take it (kernel/signal.c,
//!   `complete_signal`; signal and flag are set under the lock under which `/proc/PID/status` is written);
//! * another thread of its process is stopped (`do_signal_stop` tells all of them);
//! * its control group freezes: v1 tells under the lock under which it freezes; v2 may be read while it does, so it is looked at again.

use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use rustix::fs::CWD;
use rustix::fs::Mode;
use rustix::fs::OFlags;

use crate::kernel::process::MAX_STATUS_BYTES;
use crate::kernel::process::field;
use crate::kernel::process::numbers;
use crate::kernel::process::open_process;
use crate::kernel::process::read_file;

/// Other threads that are looked at.
const MAX_OTHERS: usize = 16;
/// For so long every look must find what may also be for somebody else, or not told yet.
const LASTING: Duration = Duration::from_millis(100);
/// Most bytes of a control group's file, and of `/proc/PID/cgroup`.
const MAX_GROUP_BYTES: usize = 16_384;
/// Where control groups are: v2 alone, and beside v1 (systemd's hybrid layout).
const V2: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
const V1_FREEZER: &str = "/sys/fs/cgroup/freezer";

/// How sure it is that the kernel has told the thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    /// The kernel restarts the call, or makes it fail with EINTR, as the signal's handler says.
    Certain,
    /// A signal has waited for the process for long, and another thread may take it yet.
    Likely,
}

/// Looks at one thread again and again.
#[derive(Debug)]
pub struct Watch {
    tid: u32,
    /// Signals for the whole process that were pending at every look since then.
    lasting: Option<(u64, Instant)>,
    freezing: Option<Instant>,
}

/// What `/proc/TID/status` says about signals.
struct Signals {
    process: u32,
    threads: u32,
    private: u64,
    shared: u64,
    blocked: u64,
    stopped: bool,
}

impl Signals {
    fn parse(text: &[u8]) -> Option<Self> {
        let mask = |name: &[u8]| u64::from_str_radix(std::str::from_utf8(field(text, name)?).ok()?.trim(), 16).ok();
        let number = |name: &[u8]| numbers(field(text, name)?, 10)?.first().copied();
        Some(Self {
            process: number(b"Tgid:")?,
            threads: number(b"Threads:")?,
            private: mask(b"SigPnd:")?,
            shared: mask(b"ShdPnd:")?,
            blocked: mask(b"SigBlk:")?,
            stopped: field(text, b"State:")?.trim_ascii_start().starts_with(b"T"),
        })
    }

    fn read(tid: u32) -> Option<Self> {
        let folder = open_process(tid).ok()?;
        Self::parse(&read_file(&folder, tid, "status", MAX_STATUS_BYTES).ok()?)
    }
}

impl Watch {
    /// A watch over thread `tid`.
    #[must_use]
    pub const fn new(tid: u32) -> Self {
        Self { tid, lasting: None, freezing: None }
    }

    /// Looks whether the thread should leave its call. What was read is the thread's only while the call is still unanswered.
    pub fn look(&mut self) -> Option<Interruption> {
        let signals = Signals::read(self.tid)?;
        let others = if signals.threads > 1 { others(signals.process, self.tid) } else { Vec::new() };
        let now = Instant::now();
        self.judge(&signals, &others, now).or_else(|| self.freezer(now))
    }

    fn judge(&mut self, signals: &Signals, others: &[Signals], now: Instant) -> Option<Interruption> {
        let shared = signals.shared & !signals.blocked;
        let all_known = others.len().saturating_add(1) == usize::try_from(signals.threads).unwrap_or(usize::MAX);
        let only_here = all_known && others.iter().all(|other| shared & !other.blocked == 0);
        if signals.private & !signals.blocked != 0
            || shared != 0 && only_here
            || others.iter().any(|other| other.stopped)
        {
            return Some(Interruption::Certain);
        }
        let (pending, since) = match self.lasting {
            Some((lasting, since)) if lasting & shared != 0 => (lasting & shared, since),
            _ => (shared, now),
        };
        self.lasting = (pending != 0).then_some((pending, since));
        (pending != 0 && now.duration_since(since) >= LASTING).then_some(Interruption::Likely)
    }

    fn freezer(&mut self, now: Instant) -> Option<Interruption> {
        let groups = read(Path::new(&format!("/proc/{}/cgroup", self.tid)))?;
        for line in groups.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
            if controllers.split(',').any(|controller| controller == "freezer") && freezes_v1(group) {
                return Some(Interruption::Certain);
            }
            if controllers.is_empty() {
                self.freezing = freezes_v2(group).then(|| self.freezing.unwrap_or(now));
            }
        }
        self.freezing.filter(|since| now.duration_since(*since) >= LASTING).map(|_| Interruption::Certain)
    }
}

/// Other threads of process `pid` than `tid`, as many as are looked at.
fn others(pid: u32, tid: u32) -> Vec<Signals> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let numbers = threads.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()));
    numbers.filter(|other| *other != tid).take(MAX_OTHERS).filter_map(Signals::read).collect()
}

/// freezer.state of a v1 group tells of its ancestors' freezing, too (cgroup-v1/freezer-subsystem.rst).
fn freezes_v1(group: &str) -> bool {
    let state = read(&Path::new(V1_FREEZER).join(group.trim_start_matches('/')).join("freezer.state"));
    state.is_some_and(|state| state.starts_with("FR"))
}

/// cgroup.freeze of a v2 group or of an ancestor (cgroup-v2.rst).
fn freezes_v2(group: &str) -> bool {
    V2.iter().any(|mount| {
        let path = Path::new(mount).join(group.trim_start_matches('/'));
        let groups = path.ancestors().take_while(|path| path.starts_with(mount));
        groups
            .map(|path| read(&path.join("cgroup.freeze")))
            .any(|state| state.is_some_and(|state| state.starts_with('1')))
    })
}

fn read(path: &Path) -> Option<String> {
    let file = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    String::from_utf8(crate::kernel::process::read_bounded(&file, MAX_GROUP_BYTES).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::raw::child::fork_for_test;
    use nix::sys::signal::SigSet;
    use nix::sys::signal::Signal;
    use nix::unistd::Pid;

    fn signals(threads: u32, private: u64, shared: u64, blocked: u64) -> Signals {
        Signals { process: 1, threads, private, shared, blocked, stopped: false }
    }

    #[test]
    fn what_is_certain_and_what_is_only_likely() {
        let certain = Some(Interruption::Certain);
        let free = || vec![signals(2, 0, 0, 0)];
        let busy = || vec![signals(2, 0, 0, 0b100)];
        let stopped = || vec![Signals { stopped: true, ..signals(2, 0, 0, 0) }];
        for (of_thread, others, expected) in [
            (signals(1, 0, 0, 0), Vec::new(), None),
            (signals(1, 0b100, 0, 0), Vec::new(), certain),
            (signals(1, 0b100, 0b100, 0b100), Vec::new(), None),
            (signals(1, 0, 0b100, 0), Vec::new(), certain),
            (signals(2, 0, 0b100, 0), free(), None),
            (signals(2, 0, 0b100, 0), busy(), certain),
            (signals(3, 0, 0b100, 0), busy(), None),
            (signals(2, 0b100, 0, 0), free(), certain),
            (signals(2, 0, 0, 0), stopped(), certain),
        ] {
            assert_eq!(Watch::new(1).judge(&of_thread, &others, Instant::now()), expected);
        }
        let mut watch = Watch::new(1);
        let begun = Instant::now();
        let mut after = |milliseconds, shared| {
            let now = begun.checked_add(Duration::from_millis(milliseconds)).expect("time");
            watch.judge(&signals(2, 0, shared, 0), &free(), now)
        };
        for (milliseconds, shared) in [(0, 0b100), (60, 0b110), (120, 0b010), (130, 0b100), (140, 0), (150, 0b100)] {
            assert_eq!(after(milliseconds, shared), None, "{milliseconds} {shared:b}: not the same signal for long");
        }
        assert_eq!(after(249, 0b101), None);
        assert_eq!(after(250, 0b100), Some(Interruption::Likely));
    }

    #[test]
    fn a_signal_that_a_process_blocks_is_none_of_its_business() {
        let child = fork_for_test(|| {
            if SigSet::from(Signal::SIGUSR1).thread_block().is_err() {
                return 1;
            }
            std::thread::sleep(Duration::from_secs(60));
            0
        });
        std::thread::sleep(Duration::from_millis(200));
        let pid = Pid::from_raw(i32::try_from(child.pid()).expect("pid"));
        nix::sys::signal::kill(pid, Signal::SIGUSR1).expect("signal");
        let found = Signals::read(child.pid()).expect("status");
        assert_ne!(found.shared & found.blocked, 0);
        assert_eq!(Watch::new(child.pid()).look(), None);
        child.kill();
        assert_eq!(Watch::new(u32::MAX - 1).look(), None, "no such thread");
    }
}

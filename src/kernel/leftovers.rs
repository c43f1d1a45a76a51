//! Processes that were killed and are not gone yet: a file system that hangs may keep one from dying (a FUSE request that its server
//! has taken is waited for whatever signal comes; fs/fuse/dev.c, `request_wait_answer`). Whoever lets a child go does not wait for that.

use std::process::Child;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use rustix::process::Signal;

use crate::kernel::pidfd::Process;
use crate::kernel::process::field;

/// Something that is dropped when a child is gone.
pub type Held = Box<dyn std::fmt::Debug + Send + Sync>;

/// A process that was killed is gone in less, unless something holds it: so many looks, so long a pause between two.
const LOOKS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(1);

/// Bit of SIGKILL in a set of signals of `/proc/PID/status`.
const KILL: u64 = 1 << 8;

static LEFT: Mutex<Vec<(Leftover, Option<Held>)>> = Mutex::new(Vec::new());

/// Who is to go.
#[derive(Debug)]
pub enum Leftover {
    /// A child, whose exit status is taken.
    Child(Child),
    /// A child of somebody else, who takes its exit status.
    Process(Arc<Process>),
}

impl Leftover {
    /// One that is gone already cannot be killed, and needs not be.
    fn kill(&mut self) {
        match self {
            Self::Child(child) => drop(child.kill()),
            Self::Process(process) => drop(process.signal(Signal::KILL)),
        }
    }

    fn is_there(&mut self) -> bool {
        match self {
            Self::Child(child) => matches!(child.try_wait(), Ok(None)),
            Self::Process(process) => process.still_alive().unwrap_or(false),
        }
    }
}

/// Kills `leftover` and takes leave of it, now or when it is gone.
pub fn end(mut leftover: Leftover, held: Option<Held>) {
    leftover.kill();
    for _ in 0..LOOKS {
        if !leftover.is_there() {
            return;
        }
        std::thread::sleep(PAUSE);
    }
    LEFT.lock().unwrap_or_else(PoisonError::into_inner).push((leftover, held));
    reap();
}

/// Takes leave of those that are gone by now. Their number is bounded by what they hold.
pub fn reap() {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.retain_mut(|(leftover, _)| leftover.is_there());
}

/// Whether nothing of process `pid` will ever run again, though it is not gone: each of its threads is dead, or is killed and sleeps where
/// no signal reaches it (proc(5), `State: D`).
///
/// It keeps its descriptors until it is gone: its sockets are not closed, its locks not released.
#[must_use]
pub fn is_held(pid: u32) -> bool {
    // its first thread, before all others are looked at
    let is_over = |thread: &str| {
        let status = std::fs::read(format!("/proc/{pid}/task/{thread}/status")).ok();
        status.is_none_or(|status| has_run_its_last(&status))
    };
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    is_over(&pid.to_string()) && threads.flatten().all(|thread| thread.file_name().to_str().is_none_or(is_over))
}

/// Whether a thread with this `/proc/PID/status` was killed.
pub(in crate::kernel) fn was_killed(status: &[u8]) -> bool {
    let pending = |name: &[u8]| {
        let set = field(status, name).and_then(|text| std::str::from_utf8(text).ok());
        set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set & KILL != 0)
    };
    pending(b"SigPnd:") || pending(b"ShdPnd:")
}

fn has_run_its_last(status: &[u8]) -> bool {
    match field(status, b"State:").and_then(|state| state.trim_ascii().first()) {
        Some(b'Z' | b'X') => true,
        Some(b'D') => was_killed(status),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_dead_or_killed_where_no_signal_comes_has_run_its_last() {
        let status = |state: &str, private: u64, shared: u64| {
            format!("Name:\tx\nState:\t{state}\nSigPnd:\t{private:016x}\nShdPnd:\t{shared:016x}\n")
        };
        for (state, private, shared, expected) in [
            ("Z (zombie)", 0, 0, true),
            ("X (dead)", 0, 0, true),
            ("D (disk sleep)", 0x100, 0, true),
            ("D (disk sleep)", 0, 0x100, true),
            ("D (disk sleep)", 0x4000, 0, false),
            ("S (sleeping)", 0x100, 0, false),
            ("R (running)", 0x100, 0, false),
        ] {
            let status = status(state, private, shared);
            assert_eq!(has_run_its_last(status.as_bytes()), expected, "{status}");
        }
        assert!(!has_run_its_last(b""));
        assert!(!is_held(std::process::id()));
        assert!(!is_held(u32::MAX));
    }
}

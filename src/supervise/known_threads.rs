//! To which process a thread belongs, kept for as long as the thread lives.
//!
//! A thread's process and when that started stay the same until the thread ends: an execve(2) by a thread that is not the first
//! ends that thread's number and goes on under the first one's, start time included (fs/exec.c, `de_thread`). Everything else
//! of it (program, ids, capabilities, parents) may change at any time and is deliberately absent.

use std::collections::VecDeque;

use crate::kernel::pidfd;
use crate::kernel::pidfd::Process;
use crate::kernel::process::Facts;

/// Most threads kept of one listener; each costs a descriptor.
const MAX_THREADS: usize = 4;

/// A process, by what tells it from any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessKey {
    /// Its pid on the host.
    pub pid: u32,
    /// When it started.
    pub start_time_ticks: u64,
}

#[derive(Debug)]
struct Known {
    tid: u32,
    thread: Process,
    process: ProcessKey,
}

/// Threads that made a call lately.
#[derive(Debug, Default)]
pub struct KnownThreads(VecDeque<Known>);

impl KnownThreads {
    /// The process of thread `tid`. True of the thread behind a notification that is still valid afterwards: it lived from before
    /// until then, so the number meant it all the time. `None` where it cannot be told.
    pub fn process_of(&mut self, tid: u32) -> Option<ProcessKey> {
        self.0.retain(|known| known.tid != tid || known.thread.still_alive().unwrap_or(false));
        if let Some(known) = self.0.iter().find(|known| known.tid == tid) {
            return Some(known.process);
        }
        let thread = pidfd::watch_thread(tid).ok()?;
        let facts = Facts::read(tid).ok()?;
        // what was read is of the thread that was opened, unless that has ended since
        if !thread.still_alive().unwrap_or(false) {
            return None;
        }
        let process = ProcessKey { pid: facts.pid, start_time_ticks: facts.start_time_ticks };
        if self.0.len() >= MAX_THREADS {
            self.0.pop_front();
        }
        self.0.push_back(Known { tid, thread, process });
        Some(process)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::raw::child::fork_for_test;
    use std::time::Duration;

    #[test]
    fn a_thread_is_known_until_it_ends() {
        let mut threads = KnownThreads::default();
        let own = threads.process_of(std::process::id()).expect("ourselves");
        assert_eq!(own.pid, std::process::id());
        assert!(own.start_time_ticks > 0);
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let (told, tid) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            told.send(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()).expect("send");
            receiver.recv().unwrap_or(());
        });
        assert_eq!(threads.process_of(tid.recv().expect("tid")), Some(own), "a thread is its process");
        drop(sender);
        thread.join().expect("thread");
        let child = fork_for_test(|| {
            std::thread::sleep(Duration::from_secs(60));
            0
        });
        let pid = child.pid();
        for _ in 0..2 {
            assert_eq!(threads.process_of(pid).map(|process| process.pid), Some(pid));
        }
        child.kill();
        assert_eq!(threads.process_of(pid), None, "a zombie makes no calls");
        for _ in 0..2 * MAX_THREADS {
            assert_eq!(threads.process_of(std::process::id()), Some(own));
        }
        assert!(threads.0.len() <= MAX_THREADS);
    }
}

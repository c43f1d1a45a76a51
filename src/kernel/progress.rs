//! Whether a process gets on with the system call that it is in, however slowly, or waits there for somebody who may never come.
//!
//! The kernel waits in two ways (`/proc/PID/status`, `State:`). In a wait that a signal could end it is `S`: for another process, which
//! may be gone for ever. On its own account it is `R`, and where it waits for a disk, a lock of its own or a file system that comes back,
//! `D`. Measured on Linux 6.18, at three looks each:
//!
//! | what the call waits for | state | switches of its own will | after SIGKILL |
//! | --- | --- | --- | --- |
//! | a FUSE server that does not answer (`request_wait_answer`) | S | none | D, for ever |
//! | unlink, mkdir on a frozen ext4 (`fsfreeze -f`, `percpu_rwsem_wait`) | D | none | D; the deed is done at the thaw |
//! | unlink of 1 GB on tmpfs, of 300 000 extents on ext4 and on an overlay over it | R | none or one | comes to its end |
//!
//! By its source an NFS server that is gone is waited for killable, which shows as D, too (net/sunrpc, `rpc_wait_bit_killable`); so do 9p
//! and CIFS. They cannot be told from a disk that is slow, and are given as long.
//! What was killed is not waited for: whatever it still does is of no use to its caller.
//!
//! Switches (`voluntary_ctxt_switches`) tell of an `S` that is many short waits: something comes back.

use std::os::fd::BorrowedFd;

use crate::kernel::leftovers::was_killed;
use crate::kernel::process::MAX_STATUS_BYTES;
use crate::kernel::process::field;
use crate::kernel::process::numbers;
use crate::kernel::process::open_process;
use crate::kernel::process::read_file;
use crate::kernel::process::read_proc_file;

/// Looks at the first thread of one process again and again.
#[derive(Debug, Default)]
pub struct Progress {
    /// Who was looked at last, and how often it had been switched by then.
    last: Option<(u32, u32)>,
}

impl Progress {
    /// Whether process `pid` is getting on. One that is gone is not; nor is one that is seen waiting for the first time.
    pub fn look(&mut self, pid: u32) -> bool {
        let status = open_process(pid).and_then(|folder| read_file(&folder, pid, "status", MAX_STATUS_BYTES));
        status.is_ok_and(|status| self.judge(pid, &status))
    }

    /// The same of this process, whose `/proc/PID/fd` is `own`: in another mount namespace there is no other way to it.
    pub(in crate::kernel) fn look_at_self(&mut self, own: BorrowedFd<'_>) -> bool {
        read_proc_file(own, "../status").is_ok_and(|status| self.judge(0, &status))
    }

    fn judge(&mut self, pid: u32, status: &[u8]) -> bool {
        let state = field(status, b"State:").and_then(|state| state.trim_ascii().first().copied());
        let number = |name: &[u8]| numbers(field(status, name)?, 10)?.first().copied();
        let switches = number(b"voluntary_ctxt_switches:").map(|switches| (pid, switches));
        let before = std::mem::replace(&mut self.last, switches);
        let was_switched = before.zip(switches).is_some_and(|(before, now)| before.0 == now.0 && before.1 != now.1);
        let gets_on = matches!(state, Some(b'R' | b'D')) || state == Some(b'S') && was_switched;
        gets_on && !was_killed(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_runs_or_waits_for_the_kernel_gets_on_and_who_waits_for_somebody_only_when_it_is_switched() {
        let mut progress = Progress::default();
        for (pid, state, switches, expected) in [
            (1, "R (running)", 1, true),
            (1, "D (disk sleep)", 1, true),
            (1, "S (sleeping)", 1, false),
            (1, "S (sleeping)", 2, true),
            (1, "S (sleeping)", 2, false),
            (2, "S (sleeping)", 3, false),
            (2, "T (stopped)", 4, false),
            (2, "Z (zombie)", 5, false),
        ] {
            let status = format!(
                "Name:\tR\nState:\t{state}\nvoluntary_ctxt_switches:\t{switches}\nnonvoluntary_ctxt_switches:\t9\n"
            );
            assert_eq!(progress.judge(pid, status.as_bytes()), expected, "{status}");
        }
        assert!(!progress.judge(2, b"State:\tD (disk sleep)\nShdPnd:\t0000000000000100\n"), "it was killed");
        assert!(!progress.judge(2, b""));
        assert!(!Progress::default().look(u32::MAX));
    }

    #[test]
    fn a_process_finds_its_own_first_thread() {
        let own = std::fs::File::open("/proc/self/fd").expect("open");
        let mut progress = Progress::default();
        // it waits for this test
        let looks: Vec<bool> = (0..3).map(|_| progress.look_at_self(std::os::fd::AsFd::as_fd(&own))).collect();
        assert!(progress.last.is_some(), "{looks:?}");
    }
}

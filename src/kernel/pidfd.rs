//! Process descriptors, pidfd_open(2): a process that cannot be taken for another one.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::process::Pid;
use rustix::process::PidfdFlags;
use rustix::process::PidfdGetfdFlags;
use rustix::process::Signal;

use crate::kernel::Errno;
use crate::kernel::process::Facts;

/// What went wrong with a process descriptor.
#[derive(Debug, thiserror::Error)]
pub enum PidfdError {
    /// No such process.
    #[error("process {0} does not exist")]
    Gone(u32),
    /// pidfd_open(2) failed.
    #[error("cannot open a descriptor of process {pid}; pidfd_open needs Linux 5.3 or later")]
    Open {
        /// Which process.
        pid: u32,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// pidfd_send_signal(2) failed.
    #[error("cannot signal a process")]
    Signal(#[source] Errno),
    /// poll(2) failed.
    #[error("cannot ask whether a process is alive")]
    Poll(#[source] Errno),
    /// pidfd_getfd(2) failed.
    #[error("cannot copy descriptor {number} out of a process")]
    Copy {
        /// Its number there.
        number: i32,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
}

/// One process (thread group), whatever becomes of its number.
#[derive(Debug)]
pub struct Process {
    fd: OwnedFd,
}

/// Opens process `pid` (a thread group id).
///
/// # Errors
/// [`PidfdError::Gone`], [`PidfdError::Open`].
pub fn open(pid: u32) -> Result<Process, PidfdError> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(PidfdError::Gone(pid))?;
    match rustix::process::pidfd_open(number, PidfdFlags::empty()) {
        Ok(fd) => Ok(Process { fd }),
        Err(Errno::SRCH) => Err(PidfdError::Gone(pid)),
        Err(source) => Err(PidfdError::Open { pid, source }),
    }
}

/// `PIDFD_THREAD` of pidfd_open(2): Linux 6.9. The value is `O_EXCL`'s.
const PIDFD_THREAD: u32 = 0o200;

/// Opens thread `tid`; before Linux 6.9 its process.
///
/// # Errors
/// [`PidfdError::Gone`], [`PidfdError::Open`].
pub fn open_thread(tid: u32) -> Result<Process, PidfdError> {
    match open_itself(tid)? {
        Some(thread) => Ok(thread),
        None => open(Facts::read(tid).map_err(|_| PidfdError::Gone(tid))?.pid),
    }
}

/// Thread `tid` itself; `None` before Linux 6.9.
fn open_itself(tid: u32) -> Result<Option<Process>, PidfdError> {
    let thread = i32::try_from(tid).ok().and_then(Pid::from_raw).ok_or(PidfdError::Gone(tid))?;
    match rustix::process::pidfd_open(thread, PidfdFlags::from_bits_retain(PIDFD_THREAD)) {
        Ok(fd) => Ok(Some(Process { fd })),
        Err(Errno::SRCH) => Err(PidfdError::Gone(tid)),
        Err(Errno::INVAL) => Ok(None),
        Err(source) => Err(PidfdError::Open { pid: tid, source }),
    }
}

/// A copy of descriptor `number` of thread `tid`, which may have a descriptor table of its own (clone(2), CLONE_FILES). Before
/// Linux 6.9 that of its process. Close-on-exec.
///
/// # Errors
/// [`PidfdError`].
pub fn copy_descriptor_of_thread(tid: u32, number: i32) -> Result<OwnedFd, PidfdError> {
    open_thread(tid)?.copy_descriptor(number)
}

/// Opens thread `tid`, which [`Process::still_alive`] then tells of: as long as it says so, the number means that thread. Before
/// Linux 6.9 only the first thread of a process can be opened; its number stays its process's until all threads have ended.
///
/// # Errors
/// [`PidfdError::Gone`], [`PidfdError::Open`] for any other thread there.
pub fn watch_thread(tid: u32) -> Result<Process, PidfdError> {
    open_itself(tid)?.map_or_else(|| open(tid), Ok)
}

impl Process {
    /// Takes a descriptor of a process that somebody else opened.
    #[must_use]
    pub const fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// The same process by another descriptor. Close-on-exec.
    ///
    /// # Errors
    /// `EMFILE` at the limit of open files.
    pub fn try_clone(&self) -> Result<Self, Errno> {
        rustix::io::fcntl_dupfd_cloexec(&self.fd, 3).map(Self::from_fd)
    }

    /// Whether the process has not ended yet. A zombie has ended.
    ///
    /// # Errors
    /// [`PidfdError::Poll`].
    pub fn still_alive(&self) -> Result<bool, PidfdError> {
        self.outlives(Duration::ZERO)
    }

    /// Whether the process has not ended within `limit` either.
    ///
    /// # Errors
    /// [`PidfdError::Poll`].
    pub fn outlives(&self, limit: Duration) -> Result<bool, PidfdError> {
        let timeout = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        let mut polled = [PollFd::new(&self.fd, PollFlags::IN)];
        loop {
            match rustix::event::poll(&mut polled, Some(&timeout)) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(PidfdError::Poll(errno)),
                Ok(ready) => return Ok(ready == 0),
            }
        }
    }

    /// Sends `signal`, pidfd_send_signal(2): to the thread, when it was opened as one (Linux 6.9), else to the process.
    ///
    /// # Errors
    /// [`PidfdError::Signal`].
    pub fn signal(&self, signal: Signal) -> Result<(), PidfdError> {
        rustix::process::pidfd_send_signal(&self.fd, signal).map_err(PidfdError::Signal)
    }

    /// A copy of the process's descriptor `number`, pidfd_getfd(2) (Linux 5.6). Close-on-exec.
    ///
    /// # Errors
    /// [`PidfdError::Copy`].
    pub fn copy_descriptor(&self, number: i32) -> Result<OwnedFd, PidfdError> {
        let failed = |source| PidfdError::Copy { number, source };
        if number < 0 {
            return Err(failed(Errno::BADF));
        }
        rustix::process::pidfd_getfd(&self.fd, number, PidfdGetfdFlags::empty()).map_err(failed)
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::raw::child::fork_for_test;

    #[test]
    fn a_process_is_alive_until_it_ends() {
        let child = fork_for_test(|| {
            std::thread::sleep(Duration::from_secs(60));
            0
        });
        let pid = child.pid();
        let process = open(pid).expect("open");
        assert!(process.still_alive().expect("alive"));
        assert!(process.outlives(Duration::from_millis(1)).expect("alive"));
        assert!(process.copy_descriptor(0).is_ok());
        assert!(copy_descriptor_of_thread(pid, 0).is_ok());
        let thread = open_thread(pid).expect("open");
        assert!(thread.still_alive().expect("alive"));
        assert!(matches!(copy_descriptor_of_thread(0, 0), Err(PidfdError::Gone(0))));
        assert!(matches!(process.copy_descriptor(-1), Err(PidfdError::Copy { source: Errno::BADF, .. })));
        child.kill();
        assert!(!process.still_alive().expect("dead"));
        assert!(!thread.still_alive().expect("dead"));
        assert!(matches!(open_thread(pid), Err(PidfdError::Gone(_))));
        assert!(matches!(open(pid), Err(PidfdError::Gone(_))));
        assert!(matches!(open(0), Err(PidfdError::Gone(0))));
    }

    #[test]
    fn a_signal_reaches_the_thread() {
        let child = fork_for_test(|| {
            std::thread::sleep(Duration::from_secs(60));
            0
        });
        open_thread(child.pid()).expect("open").signal(Signal::XFSZ).expect("signal");
        assert_eq!(child.wait(), 128 + Signal::XFSZ.as_raw());
        assert!(matches!(open_thread(0), Err(PidfdError::Gone(0))));
    }
}

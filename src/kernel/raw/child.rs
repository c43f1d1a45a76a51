//! A throw-away child that installs a seccomp filter with a listener and makes two filtered calls, to try the kernel's features on.
//!
//! fork(2) of a process with threads leaves the child with locks that nobody will release; so the child here calls only
//! async-signal-safe system calls (signal-safety(7)), allocates nothing and never returns into Rust code of the caller.

use std::io::IoSliceMut;
use std::mem::offset_of;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;

use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use rustix::io::Errno;

use crate::kernel::fd_passing;
use crate::kernel::raw::last_errno;
use crate::kernel::raw::notify;

/// The call that the child's filter hands to the listener.
pub const PROBE_CALL: i64 = libc::SYS_getppid;
/// What the child expects [`PROBE_CALL`] to return the first time.
pub const EXPECTED_VALUE: i64 = 47_114_711;
/// Exit status when both calls returned what was expected.
pub const EXIT_AS_EXPECTED: i32 = 0;
/// Exit status when the first call did not return [`EXPECTED_VALUE`].
pub const EXIT_WRONG_VALUE: i32 = 11;
/// Exit status when the second call did not return an open descriptor.
pub const EXIT_NO_DESCRIPTOR: i32 = 12;

/// Known bytes at a known address in this process and, after fork, in the child.
static PATTERN: [u8; 16] = *b"acctguard-probe\0";

/// A child that is about to make its first filtered call.
#[derive(Debug)]
pub struct NotifiedChild {
    pid: Pid,
    reaped: bool,
    /// The listener of the child's filter.
    pub listener: OwnedFd,
}

impl NotifiedChild {
    /// Forks a child that installs the filter with `filter_flags`, hands over the listener and calls [`PROBE_CALL`] twice.
    ///
    /// # Errors
    /// The errno of what failed, in the child seccomp(2).
    pub fn spawn(filter_flags: u64) -> Result<Self, Errno> {
        let (ours, theirs) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )?;
        let program = answer_one_call(PROBE_CALL, libc::SECCOMP_RET_USER_NOTIF);
        // SAFETY: the child runs `probe_child` only, which keeps to async-signal-safe calls and ends in _exit(2).
        let pid = match unsafe { libc::fork() } {
            -1 => return Err(last_errno()),
            0 => probe_child(theirs.as_raw_fd(), &program, filter_flags),
            pid => pid,
        };
        drop(theirs);
        let mut child = UnconfirmedChild { pid: Pid::from_raw(pid), confirmed: false };
        let mut reply = [0_u8; 4];
        let (read, mut descriptors) =
            fd_passing::receive(ours.as_fd(), &mut reply).map_err(|error| error.errno().unwrap_or(Errno::PROTO))?;
        match (read, i32::from_ne_bytes(reply), descriptors.pop()) {
            (4, 0, Some(listener)) => {
                child.confirmed = true;
                Ok(Self { pid: child.pid, reaped: false, listener })
            }
            (4, errno, _) if errno > 0 => Err(Errno::from_raw_os_error(errno)),
            _ => Err(Errno::CHILD),
        }
    }

    /// The child's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Address of [`Self::pattern`] in the child.
    #[must_use]
    pub fn pattern_address() -> u64 {
        PATTERN.as_ptr() as u64
    }

    /// The bytes that lie at [`Self::pattern_address`].
    #[must_use]
    pub fn pattern() -> &'static [u8] {
        &PATTERN
    }

    /// Reads the pattern from the child by process_vm_readv(2).
    ///
    /// # Errors
    /// The call's errno.
    pub fn read_pattern(&self) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0_u8; PATTERN.len()];
        let remote = nix::sys::uio::RemoteIoVec { base: PATTERN.as_ptr() as usize, len: PATTERN.len() };
        let read = nix::sys::uio::process_vm_readv(self.pid, &mut [IoSliceMut::new(&mut bytes)], &[remote])
            .map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Waits for the child's end and returns its exit status, `None` when a signal ended it.
    ///
    /// # Errors
    /// waitpid(2)'s.
    pub fn wait(mut self) -> Result<Option<i32>, Errno> {
        let status = loop {
            match nix::sys::wait::waitpid(self.pid, None) {
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(Errno::from_raw_os_error(errno as i32)),
                Ok(status) => break status,
            }
        };
        self.reaped = true;
        Ok(if let WaitStatus::Exited(_, code) = status { Some(code) } else { None })
    }
}

impl Drop for NotifiedChild {
    fn drop(&mut self) {
        if !self.reaped {
            end(self.pid);
        }
    }
}

/// Ends the child when its parent gives up before the listener has arrived.
struct UnconfirmedChild {
    pid: Pid,
    confirmed: bool,
}

impl Drop for UnconfirmedChild {
    fn drop(&mut self) {
        if !self.confirmed {
            end(self.pid);
        }
    }
}

/// Kills and reaps a child that has not been reaped yet, so its pid is still ours.
fn end(pid: Pid) {
    let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
    while nix::sys::wait::waitpid(pid, None) == Err(nix::errno::Errno::EINTR) {}
}

/// A filter that answers one system call with `action` and allows everything else.
fn answer_one_call(call: i64, action: u32) -> [libc::sock_filter; 4] {
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let jump = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    [
        libc::sock_filter { code: load, jt: 0, jf: 0, k: offset_of!(libc::seccomp_data, nr) as u32 },
        libc::sock_filter { code: jump, jt: 0, jf: 1, k: call as u32 },
        libc::sock_filter { code: answer, jt: 0, jf: 0, k: action },
        libc::sock_filter { code: answer, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ]
}

/// What the child does. Async-signal-safe throughout; never returns.
fn probe_child(socket: RawFd, program: &[libc::sock_filter], filter_flags: u64) -> ! {
    // SAFETY: prctl(2), close(2), fcntl(2), syscall(2) and _exit(2) with numbers only; no memory is shared with the parent.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        match notify::install_filter(program, filter_flags) {
            Err(errno) => {
                send_result(socket, errno.raw_os_error(), None);
                libc::_exit(EXIT_WRONG_VALUE);
            }
            Ok(listener) => {
                send_result(socket, 0, Some(listener.as_raw_fd()));
                drop(listener);
            }
        }
        if libc::syscall(PROBE_CALL) != EXPECTED_VALUE {
            libc::_exit(EXIT_WRONG_VALUE);
        }
        let descriptor = libc::syscall(PROBE_CALL);
        let open = i32::try_from(descriptor).is_ok_and(|fd| fd >= 0 && libc::fcntl(fd, libc::F_GETFD) >= 0);
        libc::_exit(if open { EXIT_AS_EXPECTED } else { EXIT_NO_DESCRIPTOR });
    }
}

/// Sends an errno and maybe a descriptor by one sendmsg(2), with stack memory only.
fn send_result(socket: RawFd, errno: i32, descriptor: Option<RawFd>) {
    #[repr(C, align(8))]
    struct Control([u8; 24]);
    let mut payload = errno.to_ne_bytes();
    let mut control = Control([0; 24]);
    let mut part = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    // SAFETY: an all-zero msghdr is a valid empty one; all pointers lead to live locals; CMSG_SPACE(4) is 24 on 64-bit Linux,
    // the size of `control`, so the one header and its descriptor fit.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = std::ptr::from_mut(&mut part);
        message.msg_iovlen = 1;
        if let Some(descriptor) = descriptor {
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = control.0.len();
            let header = libc::CMSG_FIRSTHDR(std::ptr::from_ref(&message));
            if !header.is_null() {
                (*header).cmsg_level = libc::SOL_SOCKET;
                (*header).cmsg_type = libc::SCM_RIGHTS;
                (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
                libc::CMSG_DATA(header).cast::<i32>().write_unaligned(descriptor);
            }
        }
        libc::sendmsg(socket, std::ptr::from_ref(&message), libc::MSG_NOSIGNAL);
    }
}

/// Forks a child for a test. The child runs `work` and exits with what it returns; glibc makes allocation usable after fork.
#[cfg(test)]
pub fn fork_for_test(work: impl FnOnce() -> i32) -> TestChild {
    // SAFETY: tests only; the child calls `work`, which must not touch locks of other threads of the test program (stdout
    // among them), and leaves by _exit(2).
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", last_errno()),
        // SAFETY: as above.
        0 => unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(99);
            libc::_exit(code)
        },
        pid => TestChild { pid: Pid::from_raw(pid), reaped: false },
    }
}

/// A forked child of a test; ended and reaped when dropped.
#[cfg(test)]
#[derive(Debug)]
pub struct TestChild {
    pid: Pid,
    reaped: bool,
}

#[cfg(test)]
impl TestChild {
    /// Process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Sends SIGKILL and reaps.
    pub fn kill(mut self) {
        self.reaped = true;
        end(self.pid);
    }

    /// Waits for its end.
    pub fn wait(mut self) -> i32 {
        self.reaped = true;
        match nix::sys::wait::waitpid(self.pid, None).expect("waitpid") {
            WaitStatus::Exited(_, code) => code,
            WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
            other => panic!("unexpected status {other:?}"),
        }
    }
}

#[cfg(test)]
impl Drop for TestChild {
    fn drop(&mut self) {
        if !self.reaped {
            end(self.pid);
        }
    }
}

/// Borrows a descriptor by its number.
#[cfg(test)]
pub fn borrow_for_test(number: std::os::fd::RawFd) -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: tests only; the caller opened this number and never closes it.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(number) }
}

/// dup2(2): `number` means what `of` does from now on.
#[cfg(test)]
pub fn replace_descriptor_for_test(of: RawFd, number: RawFd) -> Result<(), Errno> {
    // SAFETY: tests only; the caller opened both numbers, and nothing that owns `number` counts on what it means.
    if unsafe { libc::dup2(of, number) } < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Closes what a forked child inherited of other tests' descriptors: all from 3 on but `kept`.
#[cfg(test)]
pub fn close_all_but_for_test(kept: RawFd) {
    let kept = kept.unsigned_abs();
    for (first, last) in [(3, kept.saturating_sub(1)), (kept.saturating_add(1), u32::MAX)] {
        if first <= last {
            // SAFETY: tests only, in a child that uses none of the objects which own these descriptors and leaves by _exit(2).
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
}

/// Forks a child that has mkdirat(2) handed to a listener while it runs `work`; returns the child and the listener.
#[cfg(test)]
pub fn notified_for_test(filter_flags: u64, work: impl FnOnce() -> i32) -> (TestChild, OwnedFd) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("socket pair");
    let child = fork_for_test(move || {
        // SAFETY: numbers only.
        unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        let program = answer_one_call(libc::SYS_mkdirat, libc::SECCOMP_RET_USER_NOTIF);
        let Ok(listener) = notify::install_filter(&program, filter_flags) else { return 98 };
        if fd_passing::send(theirs.as_fd(), b"x", &[listener.as_fd()]).is_err() {
            return 97;
        }
        drop(listener);
        work()
    });
    let (_, mut descriptors) = fd_passing::receive(ours.as_fd(), &mut [0]).expect("listener");
    (child, descriptors.pop().expect("listener"))
}

/// From now on the calling thread gets `ENOSYS` for openat2(2), as on Linux before 5.6. For use in a forked child.
#[cfg(test)]
pub fn forget_openat2_for_test() -> Result<OwnedFd, Errno> {
    let refusal = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    notify::install_filter(&answer_one_call(libc::SYS_openat2, refusal), 0)
}

/// Makes system call `number`, whatever it does. For use in a forked child that ends after it.
#[cfg(test)]
pub fn call_for_test(number: i64, arguments: [u64; 6]) -> Result<i64, Errno> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: tests only; pointers among the arguments are null or lead to live memory, and what the call maps nobody uses.
    super::check(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}

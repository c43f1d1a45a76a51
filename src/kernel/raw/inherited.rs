//! What this process was handed, before Rust's runtime touched it, and how to hand it on.
//!
//! Before `main`, std ignores SIGPIPE and opens `/dev/null` on closed standard descriptors (std::rt). Both would outlive
//! execve(2) (signal(7); open file descriptors), so a program that is only a step on the way to another one must know how it
//! was. Functions in `.init_array` run before std's own start (System V ABI, "Initialization and Termination Functions").

use std::os::fd::RawFd;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use nix::libc;
use rustix::io::Errno;

use crate::kernel::raw::last_errno;

/// The three standard descriptors.
const STANDARD: [RawFd; 3] = [0, 1, 2];
/// In [`AT_START`]: SIGPIPE was ignored. The bits below are descriptors that were closed.
const PIPE_IGNORED: u32 = 1 << 3;
/// What [`look`] saw.
static AT_START: AtomicU32 = AtomicU32::new(0);

// SAFETY: the linker puts one pointer to a function of the right type into the array; the function runs once, on the only
// thread, before `main`, and makes nothing but system calls through libc, which is initialised by then.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    let mut seen = 0;
    for number in STANDARD {
        // SAFETY: F_GETFD reads no memory of ours.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
            seen |= 1 << number;
        }
    }
    // SAFETY: a zeroed sigaction is a valid place for the kernel's answer; a null new action changes nothing.
    let ignored = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGPIPE, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    };
    if ignored {
        seen |= PIPE_IGNORED;
    }
    AT_START.store(seen, Ordering::Relaxed);
}

/// Puts SIGPIPE and the standard descriptors back to what this process was started with: for the moment before it turns
/// into another program. Nothing may use standard descriptors that were closed at the start afterwards.
///
/// # Errors
/// sigaction(2)'s.
pub fn restore() -> Result<(), Errno> {
    let seen = AT_START.load(Ordering::Relaxed);
    let disposition = if seen & PIPE_IGNORED == 0 { libc::SIG_DFL } else { libc::SIG_IGN };
    // SAFETY: neither disposition runs code of ours; changing that of SIGPIPE breaks no memory invariant.
    if unsafe { libc::signal(libc::SIGPIPE, disposition) } == libc::SIG_ERR {
        return Err(last_errno());
    }
    for number in STANDARD.into_iter().filter(|number| seen & (1 << number) != 0) {
        // SAFETY: nobody owns this number: std itself opened it in place of one that was closed, and std's handles for the
        // standard streams do not own their descriptors.
        unsafe { libc::close(number) };
    }
    Ok(())
}

/// Puts a copy of `descriptor` at `number`, without close-on-exec, in place of whatever is there: dup2(2).
///
/// # Errors
/// `EBADF` for a number past RLIMIT_NOFILE.
pub fn place(descriptor: std::os::fd::BorrowedFd<'_>, number: RawFd) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    // SAFETY: the caller is about to turn into another program and uses no descriptor of its own any more; what is closed at
    // `number` was inherited, not owned, or is `descriptor` itself, which stays open under that number.
    let placed = unsafe {
        if descriptor.as_raw_fd() == number {
            libc::fcntl(number, libc::F_SETFD, 0)
        } else {
            libc::dup2(descriptor.as_raw_fd(), number)
        }
    };
    if placed < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Takes descriptor `number`, which whoever started this process left open for it, and sets close-on-exec; `None` when it is not open.
/// Only for numbers that a protocol gives to this process (sd_listen_fds(3)), and once for each.
#[must_use]
pub fn take(number: RawFd) -> Option<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: F_SETFD reads no memory of ours; on a number that is not open it fails.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return None;
    }
    // SAFETY: the descriptor is open, and by the protocol nobody else in this process owns it: it was handed over at the start.
    Some(unsafe { std::os::fd::OwnedFd::from_raw_fd(number) })
}

//! What the static launcher asks of the kernel past rustix, without std and nix. Compiled into the launcher's package alone
//! (`src/launch`), where `start.rs` is a part of the program and not of the library, which tests link, too.
#![allow(unsafe_code)]

pub mod filter;
pub mod landlock;
pub mod process;

use core::ffi::c_int;
use core::ffi::c_long;

use rustix::io::Errno;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn __errno_location() -> *mut c_int;
}

/// Turns what a function of the C library returned into a result: -1 means that `errno` tells why.
fn check(returned: c_long) -> Result<c_long, Errno> {
    // SAFETY: points to the calling thread's errno, as long as the thread lives.
    if returned < 0 { Err(Errno::from_raw_os_error(unsafe { *__errno_location() })) } else { Ok(returned) }
}

/// The descriptor that a system call has just made.
///
/// # Safety
/// `made` came of a call that returns a new descriptor, and nobody else has it.
unsafe fn owned(made: c_long) -> Result<rustix::fd::OwnedFd, Errno> {
    use rustix::fd::FromRawFd;
    let number = c_int::try_from(made).map_err(|_| Errno::BADF)?;
    // SAFETY: by the caller's promise.
    Ok(unsafe { rustix::fd::OwnedFd::from_raw_fd(number) })
}

//! The only `unsafe` of the product: one thin wrapper per system call that neither std, rustix nor nix offers as safe code.
//!
//! Every wrapper takes and gives owned or borrowed descriptors, checks nothing but what memory safety needs, and returns the
//! kernel's errno. Layouts shared with the kernel are `repr(C)` and have size and offset tests. What the static launcher needs, without std
//! and nix, is in `launcher`, which its package alone is compiled of (`src/launch`).
#![allow(unsafe_code)]

pub mod allocator;
pub mod born_elsewhere;
pub mod child;
pub mod fanotify;
pub mod inherited;
pub mod notify;
pub mod questions;
pub mod slot_memory;
#[cfg(test)]
pub mod test_memory;

use rustix::io::Errno;

/// The calling thread's `errno`, for the return value of a system call that failed.
fn last_errno() -> Errno {
    std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

/// Turns a system call's return value into a result: -1 means that `errno` tells why.
fn check(returned: i64) -> Result<i64, Errno> {
    if returned < 0 { Err(last_errno()) } else { Ok(returned) }
}

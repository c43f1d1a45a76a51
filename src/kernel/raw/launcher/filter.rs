//! seccomp(2), for a listener.

use core::ffi::c_long;
use core::ffi::c_uint;
use core::ffi::c_ushort;

use rustix::fd::OwnedFd;
use rustix::io::Errno;

use super::check;
use super::owned;
use super::syscall;

/// `__NR_seccomp` (asm/unistd.h).
#[cfg(target_arch = "x86_64")]
const SECCOMP: c_long = 317;
/// `__NR_seccomp` (asm-generic/unistd.h).
#[cfg(target_arch = "aarch64")]
const SECCOMP: c_long = 277;
/// `SECCOMP_SET_MODE_FILTER`.
const SET_MODE_FILTER: c_uint = 1;

/// `struct sock_fprog` (linux/filter.h).
#[repr(C)]
struct Program {
    length: c_ushort,
    instructions: *const [u8; 8],
}

/// Installs the filter of which `program` are the instructions (`struct sock_filter`, eight bytes each) on the calling thread, with a
/// listener. `flags`: all of seccomp(2)'s, that for the listener among them.
///
/// # Errors
/// seccomp(2)'s: `EBUSY` while another listener is open, `EACCES` without no_new_privs or CAP_SYS_ADMIN, `EINVAL`.
pub fn install(program: &[u8], flags: u64) -> Result<OwnedFd, Errno> {
    let (instructions, rest) = program.as_chunks::<8>();
    let length = c_ushort::try_from(instructions.len()).map_err(|_| Errno::INVAL)?;
    if !rest.is_empty() {
        return Err(Errno::INVAL);
    }
    let header = Program { length, instructions: instructions.as_ptr() };
    // SAFETY: the kernel copies `length` instructions from a live slice, byte by byte, and never writes to it.
    let made = check(unsafe { syscall(SECCOMP, SET_MODE_FILTER, flags, &raw const header) })?;
    // SAFETY: with a flag for a listener, the kernel has just made this descriptor for us.
    unsafe { owned(made) }
}

/// seccomp(2) `SECCOMP_SET_MODE_FILTER` with `flags`, without a filter: what a filter that hands the call over makes of it, and the
/// kernel's own `EFAULT` where none does.
#[must_use]
pub fn ask(flags: u64) -> Errno {
    // SAFETY: the kernel reads from a null pointer and fails with EFAULT; it writes to no memory.
    check(unsafe { syscall(SECCOMP, SET_MODE_FILTER, flags, core::ptr::null::<Program>()) })
        .err()
        .unwrap_or(Errno::FAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_that_of_linux_filter_h() {
        assert_eq!((size_of::<Program>(), core::mem::offset_of!(Program, instructions)), (16, 8));
    }

    #[test]
    fn without_a_filter_the_kernel_says_that_there_is_none() {
        assert_eq!(ask(1 << 3), Errno::FAULT);
        assert_eq!(install(&[0; 7], 0).err(), Some(Errno::INVAL), "no whole instruction");
    }
}

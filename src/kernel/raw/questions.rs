//! Harmless questions to the kernel that no safe wrapper asks, and one harmless promise.

use nix::libc;
use rustix::io::Errno;

use crate::kernel::raw::check;

/// landlock_create_ruleset(2) with `LANDLOCK_CREATE_RULESET_VERSION`: the ABI version. Changes nothing.
///
/// # Errors
/// `ENOSYS` when not built in, `EOPNOTSUPP` when disabled at boot.
pub fn abi_version() -> Result<u32, Errno> {
    // SAFETY: with a null attribute and size 0 the kernel reads and writes no memory.
    let version = check(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0_usize, 1_u32)
    })?;
    u32::try_from(version).map_err(|_| Errno::OVERFLOW)
}

/// Whether the kernel has the x32 convention (`CONFIG_X86_X32_ABI`): getpid(2) is asked for in it. Without it such calls are
/// ENOSYS, whatever they ask.
#[cfg(target_arch = "x86_64")]
pub fn has_x32() -> bool {
    const X32_BIT: libc::c_long = 0x4000_0000;
    // SAFETY: getpid(2) takes no arguments and touches no memory.
    unsafe { libc::syscall(libc::SYS_getpid | X32_BIT) >= 0 }
}

/// There is no x32 elsewhere.
#[cfg(not(target_arch = "x86_64"))]
pub fn has_x32() -> bool {
    false
}

/// Whether io_uring_setup(2) answers at all: the call is made with no parameters and must fail.
///
/// # Errors
/// The kernel's answer: `EFAULT` or `EINVAL` when io_uring is there, `EPERM` when switched off, `ENOSYS` when absent.
pub fn io_uring_answer() -> Errno {
    // SAFETY: a null parameter block makes the kernel fail with EFAULT before it makes anything.
    let returned = unsafe { libc::syscall(libc::SYS_io_uring_setup, 0_u32, std::ptr::null_mut::<libc::c_void>()) };
    check(returned).err().unwrap_or(Errno::INVAL)
}

/// Whether seccomp(2) knows all of `flags` for a new filter: it is asked with no filter to install, and looks at flags first
/// (kernel/seccomp.c, `seccomp_set_mode_filter`). Changes nothing.
pub fn knows_filter_flags(flags: u64) -> bool {
    // SAFETY: a null filter makes the kernel fail with EFAULT before it makes anything.
    let returned = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::null::<libc::c_void>())
    };
    check(returned).err() == Some(Errno::FAULT)
}

/// Whether two threads share a resource of that kind (`KCMP_FILES` …, linux/kcmp.h), kcmp(2). Needs to be allowed to trace both.
///
/// # Errors
/// `ESRCH` for a thread that is gone, `EPERM`, `ENOSYS` from a kernel without `CONFIG_KCMP`.
pub fn share(one: i32, other: i32, kind: i32) -> Result<bool, Errno> {
    // SAFETY: for a kind but KCMP_EPOLL_TFD, which is not asked for, the last two arguments are not looked at: numbers only.
    let order = check(unsafe { libc::syscall(libc::SYS_kcmp, one, other, kind, 0_usize, 0_usize) })?;
    Ok(order == 0)
}

/// From now on this process and its children have no memory that is writable and executable, and none becomes executable:
/// PR_SET_MDWE(2const) with `PR_MDWE_REFUSE_EXEC_GAIN`. For good.
///
/// # Errors
/// `EINVAL` before Linux 6.3.
pub fn refuse_writable_code() -> Result<(), Errno> {
    const PR_SET_MDWE: libc::c_int = 65;
    const PR_MDWE_REFUSE_EXEC_GAIN: libc::c_ulong = 1;
    // SAFETY: numbers only; a restriction of later mmap(2) and mprotect(2) changes no memory that is there.
    check(i64::from(unsafe { libc::prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0_u64, 0_u64, 0_u64) })).map(drop)
}

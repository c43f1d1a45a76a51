//! The ioctls of a seccomp listener, seccomp_unotify(2), and seccomp(2) itself.

use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;

use nix::libc;
use rustix::io::Errno;

use crate::kernel::raw::check;
use crate::kernel::raw::slot_memory::SlotMemory;

/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`, Linux 5.5.
pub const FLAG_CONTINUE: u32 = 1;
/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`, Linux 6.6.
pub const FD_SYNC_WAKE_UP: u64 = 1;
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`, Linux 5.0.
pub const FILTER_NEW_LISTENER: u64 = 1 << 3;
/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`, Linux 5.19.
pub const FILTER_WAIT_KILLABLE_RECV: u64 = 1 << 5;

/// Sizes of the three structures that the running kernel uses, `SECCOMP_GET_NOTIF_SIZES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct NotificationSizes {
    /// `struct seccomp_notif`.
    pub notification: u16,
    /// `struct seccomp_notif_resp`.
    pub response: u16,
    /// `struct seccomp_data`.
    pub data: u16,
}

/// seccomp(2) `SECCOMP_GET_NOTIF_SIZES`.
///
/// # Errors
/// `EINVAL` or `ENOSYS` where the kernel has no user notification.
pub fn notification_sizes() -> Result<NotificationSizes, Errno> {
    let mut sizes = NotificationSizes::default();
    // SAFETY: the kernel writes three u16 (`struct seccomp_notif_sizes`), which is what `sizes` holds (test below).
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_NOTIF_SIZES, 0_u32, std::ptr::from_mut(&mut sizes))
    })?;
    Ok(sizes)
}

/// `SECCOMP_IOCTL_NOTIF_RECV` into `slot`, whose notification must be zero. Blocks when nothing is pending.
///
/// # Errors
/// `ENOENT` when the caller is gone, `EINTR`, `EINVAL` for a slot that is not zero.
pub fn receive(listener: BorrowedFd<'_>, slot: &mut SlotMemory) -> Result<(), Errno> {
    // SAFETY: the kernel writes `struct seccomp_notif` to the pointer; its size was compared with NOTIFICATION_ROOM when the
    // area was made (`shared_area`), and `&mut` keeps others from the slot while it writes.
    check(i64::from(unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, slot.notification_pointer())
    }))?;
    Ok(())
}

/// `SECCOMP_IOCTL_NOTIF_SEND`. `error` is zero or a negative errno.
///
/// # Errors
/// `ENOENT` when the notification is no longer waiting.
pub fn send(listener: BorrowedFd<'_>, id: u64, value: i64, error: i32, flags: u32) -> Result<(), Errno> {
    let mut response = libc::seccomp_notif_resp { id, val: value, error, flags };
    // SAFETY: the kernel reads one `struct seccomp_notif_resp` during the call; `response` outlives it.
    check(i64::from(unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, std::ptr::from_mut(&mut response))
    }))?;
    Ok(())
}

/// `SECCOMP_IOCTL_NOTIF_ID_VALID`: is `id` still waiting for an answer.
///
/// # Errors
/// `ENOENT` when it is not.
pub fn id_valid(listener: BorrowedFd<'_>, id: u64) -> Result<(), Errno> {
    // SAFETY: the kernel reads one u64 during the call.
    check(i64::from(unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, std::ptr::from_ref(&id))
    }))?;
    Ok(())
}

/// `SECCOMP_IOCTL_NOTIF_SET_FLAGS`. The argument is the value itself, not a pointer to it, whatever `_IOW` suggests.
///
/// # Errors
/// `EINVAL` before Linux 6.6 and for unknown flags.
pub fn set_flags(listener: BorrowedFd<'_>, flags: u64) -> Result<(), Errno> {
    // SAFETY: the kernel takes the argument as a number and touches no memory.
    check(i64::from(unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, flags) }))?;
    Ok(())
}

/// `SECCOMP_IOCTL_NOTIF_ADDFD`, Linux 5.9: puts a copy of `source` into the caller's descriptor table and returns its number there.
///
/// # Errors
/// `ENOENT` when the notification is no longer waiting, `EMFILE` for the caller's limit, `EBADF` for an `O_PATH` source.
pub fn add_fd(
    listener: BorrowedFd<'_>,
    id: u64,
    source: BorrowedFd<'_>,
    flags: u32,
    new_fd_flags: u32,
) -> Result<i32, Errno> {
    let request = libc::seccomp_notif_addfd {
        id,
        flags,
        srcfd: u32::try_from(source.as_raw_fd()).map_err(|_| Errno::BADF)?,
        newfd: 0,
        newfd_flags: new_fd_flags,
    };
    // SAFETY: the kernel reads one `struct seccomp_notif_addfd` during the call.
    let number = check(i64::from(unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, std::ptr::from_ref(&request))
    }))?;
    i32::try_from(number).map_err(|_| Errno::OVERFLOW)
}

/// seccomp(2) `SECCOMP_SET_MODE_FILTER` with a new listener, for the calling thread. Async-signal-safe: one system call.
///
/// # Errors
/// `EACCES` without no_new_privs or CAP_SYS_ADMIN, `EINVAL` for flags the kernel lacks, `EBUSY` when a listener exists already.
pub fn install_filter(program: &[libc::sock_filter], flags: u64) -> Result<OwnedFd, Errno> {
    let header = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies `header.len` instructions from a live slice and never writes to it.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            FILTER_NEW_LISTENER | flags,
            std::ptr::from_ref(&header),
        )
    })?;
    let fd = i32::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Installs a filter without a listener on the calling thread.
///
/// # Errors
/// seccomp(2)'s: `EACCES` without no_new_privs or CAP_SYS_ADMIN.
pub fn install_plain_filter(program: &[libc::sock_filter]) -> Result<(), Errno> {
    let header = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies `header.len` instructions from a live slice and never writes to it.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0_u64, std::ptr::from_ref(&header))
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_and_numbers_are_those_of_the_kernel_headers() {
        assert_eq!(size_of::<NotificationSizes>(), 6);
        assert_eq!(size_of::<libc::seccomp_notif_resp>(), 24);
        assert_eq!(size_of::<libc::seccomp_notif_addfd>(), 24);
        assert_eq!(libc::SECCOMP_IOCTL_NOTIF_RECV, 0xc050_2100);
        assert_eq!(libc::SECCOMP_IOCTL_NOTIF_SEND, 0xc018_2101);
        assert_eq!(libc::SECCOMP_IOCTL_NOTIF_ID_VALID, 0x4008_2102);
        assert_eq!(libc::SECCOMP_IOCTL_NOTIF_ADDFD, 0x4018_2103);
        assert_eq!(libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, 0x4008_2104);
    }

    #[test]
    fn the_running_kernel_uses_the_sizes_we_know() {
        let sizes = notification_sizes().expect("seccomp user notification");
        assert_eq!(sizes, NotificationSizes { notification: 80, response: 24, data: 64 });
    }
}

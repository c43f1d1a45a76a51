//! fanotify(7) groups and marks, and file handles: name_to_handle_at(2), open_by_handle_at(2).

use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;

use nix::libc;
use rustix::io::Errno;

use crate::kernel::raw::check;

/// `MAX_HANDLE_SZ` of linux/exportfs: the longest handle a file system makes.
const HANDLE_ROOM: usize = 128;
/// `AT_HANDLE_FID`, Linux 6.5: a handle that need not be good for opening, as fanotify uses.
const AT_HANDLE_FID: i32 = 0x200;

/// `struct file_handle` with room for the longest handle.
#[repr(C)]
struct HandleBuffer {
    bytes: u32,
    kind: i32,
    handle: [u8; HANDLE_ROOM],
}

/// A file handle: its type and its bytes, opaque but equal for the same object of a file system.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileHandle {
    /// `handle_type`.
    pub kind: i32,
    /// `f_handle`.
    pub bytes: Vec<u8>,
}

/// name_to_handle_at(2) of what `object` refers to; with `AT_HANDLE_FID` where the kernel knows it.
///
/// # Errors
/// `EOPNOTSUPP` when the file system has no handles.
pub fn handle_of(object: BorrowedFd<'_>) -> Result<FileHandle, Errno> {
    match name_to_handle(object, libc::AT_EMPTY_PATH | AT_HANDLE_FID) {
        Err(Errno::INVAL) => name_to_handle(object, libc::AT_EMPTY_PATH),
        other => other,
    }
}

fn name_to_handle(object: BorrowedFd<'_>, flags: i32) -> Result<FileHandle, Errno> {
    let mut buffer = HandleBuffer { bytes: HANDLE_ROOM as u32, kind: 0, handle: [0; HANDLE_ROOM] };
    let mut mount_id: libc::c_int = 0;
    // SAFETY: the kernel writes at most `buffer.bytes` bytes of handle behind the 8-byte head, which is the size of `handle`
    // (test below), and one int; the path is a NUL-terminated literal.
    check(unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            object.as_raw_fd(),
            c"".as_ptr(),
            std::ptr::from_mut(&mut buffer),
            std::ptr::from_mut(&mut mount_id),
            flags,
        )
    })?;
    let length = usize::try_from(buffer.bytes).map_err(|_| Errno::OVERFLOW)?;
    let bytes = buffer.handle.get(..length).ok_or(Errno::OVERFLOW)?.to_vec();
    Ok(FileHandle { kind: buffer.kind, bytes })
}

/// open_by_handle_at(2) for nothing but the identity of the object (`O_PATH`). `mount` must not be an `O_PATH` descriptor.
///
/// # Errors
/// `ESTALE` when the handle means nothing on that file system, `EINVAL` for one that is too long, `EBADF`, `EPERM` without
/// CAP_DAC_READ_SEARCH.
pub fn open_by_handle(mount: BorrowedFd<'_>, handle: &FileHandle) -> Result<OwnedFd, Errno> {
    let mut buffer = HandleBuffer { bytes: 0, kind: handle.kind, handle: [0; HANDLE_ROOM] };
    let room = buffer.handle.get_mut(..handle.bytes.len()).ok_or(Errno::INVAL)?;
    room.copy_from_slice(&handle.bytes);
    buffer.bytes = u32::try_from(handle.bytes.len()).map_err(|_| Errno::INVAL)?;
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: the kernel reads the 8-byte head and the `bytes` behind it, which lie within `buffer` (size test below).
    let fd = check(unsafe {
        libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), std::ptr::from_ref(&buffer), flags)
    })?;
    let fd = i32::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `f_fsid` of fstatfs(2), byte for byte: what fanotify names a file system by. rustix and nix keep it to themselves.
///
/// # Errors
/// fstatfs(2)'s.
pub fn file_system_id(object: BorrowedFd<'_>) -> Result<[u8; 8], Errno> {
    // SAFETY: an all-zero `statfs` is a valid value of plain integers, and fstatfs(2) writes exactly one of them.
    let status = unsafe {
        let mut status: libc::statfs = std::mem::zeroed();
        check(i64::from(libc::fstatfs(object.as_raw_fd(), std::ptr::from_mut(&mut status))))?;
        status
    };
    // SAFETY: `fsid_t` is two 32-bit integers without padding (size test below), readable as 8 bytes.
    Ok(unsafe { std::ptr::from_ref(&status.f_fsid).cast::<[u8; 8]>().read_unaligned() })
}

/// fanotify_init(2).
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN, `EINVAL` for flags the kernel lacks, `EMFILE` for too many groups.
pub fn fanotify_init(flags: u32, event_flags: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: two numbers; the kernel touches no memory of ours.
    let fd = check(unsafe { libc::syscall(libc::SYS_fanotify_init, flags, event_flags) })?;
    let fd = i32::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// fanotify_mark(2) on the directory `directory` itself (which may be an `O_PATH` descriptor).
///
/// # Errors
/// `ENODEV`, `EXDEV` or `EOPNOTSUPP` for file systems without usable handles, `ENOSPC` for too many marks, `ENOENT` on removal of no mark.
pub fn fanotify_mark(group: BorrowedFd<'_>, flags: u32, mask: u64, directory: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: numbers and a NUL-terminated literal. libc's own function is used because it passes the 64-bit mask as each
    // architecture wants it.
    check(i64::from(unsafe {
        libc::fanotify_mark(group.as_raw_fd(), flags, mask, directory.as_raw_fd(), c".".as_ptr())
    }))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;
    use std::os::fd::AsFd;

    #[test]
    fn the_layout_is_that_of_struct_file_handle() {
        assert_eq!(offset_of!(HandleBuffer, kind), 4);
        assert_eq!(offset_of!(HandleBuffer, handle), 8);
        assert_eq!(size_of::<HandleBuffer>(), 8 + HANDLE_ROOM);
        assert_eq!(size_of::<libc::fsid_t>(), 8);
    }

    #[test]
    fn equal_objects_have_equal_handles() {
        let folder = tempfile::tempdir().expect("folder");
        let one = std::fs::File::open(folder.path()).expect("open");
        let two = std::fs::File::open(folder.path()).expect("open");
        let other = std::fs::File::open("/proc/self").expect("open");
        let handle = handle_of(one.as_fd()).expect("handle");
        assert_eq!(handle, handle_of(two.as_fd()).expect("handle"));
        assert!(!handle.bytes.is_empty());
        assert_ne!(Some(&handle), handle_of(other.as_fd()).ok().as_ref());
        let opened = open_by_handle(one.as_fd(), &handle).expect("open by handle");
        let identity = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|status| (status.st_dev, status.st_ino));
        assert_eq!(identity(opened.as_fd()), identity(one.as_fd()));
        let stale = FileHandle { bytes: vec![0xFF; handle.bytes.len()], ..handle.clone() };
        assert_eq!(open_by_handle(one.as_fd(), &stale).err(), Some(Errno::STALE));
        let long = FileHandle { bytes: vec![0; HANDLE_ROOM + 1], ..handle };
        assert_eq!(open_by_handle(one.as_fd(), &long).err(), Some(Errno::INVAL));
    }
}

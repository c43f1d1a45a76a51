//! What an `O_PATH` descriptor refers to, statx(2).

use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use rustix::fs::AtFlags;
use rustix::fs::Statx;
use rustix::fs::StatxAttributes;
use rustix::fs::StatxFlags;

use crate::kernel::foreign_root::ResolveError;

/// What the kernel appends to the name of something that has no name any more (proc_pid_fd(5)).
const DELETED: &[u8] = b" (deleted)";

/// An object of a file system, held by an `O_PATH` descriptor so that its identity cannot be reused.
#[derive(Debug)]
pub struct Found {
    /// The object, `O_PATH`.
    pub fd: OwnedFd,
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
    /// `st_mode`: type and permissions.
    pub mode: u32,
    /// Number of hard links.
    pub links: u64,
    /// Mount through which it was reached (`STATX_MNT_ID`, Linux 5.8).
    pub mount_id: u64,
}

impl Found {
    /// Examines `fd`.
    ///
    /// # Errors
    /// [`ResolveError::Unable`].
    pub(super) fn identify(fd: OwnedFd) -> Result<Self, ResolveError> {
        let status = status_of(fd.as_fd())?;
        Ok(Self {
            device: device_of(&status),
            inode: status.stx_ino,
            mode: u32::from(status.stx_mode),
            links: u64::from(status.stx_nlink),
            mount_id: status.stx_mnt_id,
            fd,
        })
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.is_type(rustix::fs::FileType::Directory)
    }

    /// Whether it is a regular file.
    #[must_use]
    pub fn is_regular(&self) -> bool {
        self.is_type(rustix::fs::FileType::RegularFile)
    }

    /// Whether it is a symbolic link.
    #[must_use]
    pub fn is_symbolic_link(&self) -> bool {
        self.is_type(rustix::fs::FileType::Symlink)
    }

    fn is_type(&self, wanted: rustix::fs::FileType) -> bool {
        rustix::fs::FileType::from_raw_mode(self.mode) == wanted
    }
}

/// Which directory of which mount: what the kernel compares when `..` reaches a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub mount_id: u64,
    pub device: u64,
    pub inode: u64,
    /// Whether it is the root of its mount (`STATX_ATTR_MOUNT_ROOT`, Linux 5.8).
    pub is_mount_root: bool,
}

impl Identity {
    pub fn of(object: BorrowedFd<'_>) -> Result<Self, ResolveError> {
        let status = status_of(object)?;
        Ok(Self {
            mount_id: status.stx_mnt_id,
            device: device_of(&status),
            inode: status.stx_ino,
            is_mount_root: status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        })
    }
}

/// `st_dev` as stat(2) gives it.
pub(super) fn device_of(status: &Statx) -> u64 {
    rustix::fs::makedev(status.stx_dev_major, status.stx_dev_minor)
}

fn status_of(object: BorrowedFd<'_>) -> Result<Statx, ResolveError> {
    let wanted = StatxFlags::TYPE | StatxFlags::MODE | StatxFlags::NLINK | StatxFlags::INO | StatxFlags::MNT_ID;
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(object, c"", flags, wanted)
        .map_err(|source| ResolveError::Unable { step: "examine an object with statx", source })
}

/// The kernel's name for an object: from the root of its mount namespace, without the mark of a deleted one. `None` for what
/// has no path.
pub(super) fn kernel_name(object: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let mut text = marked_name(object)?;
    if let Some(length) = text.strip_suffix(DELETED).map(<[u8]>::len) {
        text.truncate(length);
    }
    Some(text)
}

/// The same, and `None` for what was deleted: another object may have the name by now.
pub(super) fn kernel_name_in_force(object: BorrowedFd<'_>) -> Option<Vec<u8>> {
    marked_name(object).filter(|text| !text.ends_with(DELETED))
}

fn marked_name(object: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let link = format!("/proc/self/fd/{}", object.as_raw_fd());
    let text = rustix::fs::readlink(link, Vec::with_capacity(256)).ok()?.into_bytes();
    text.starts_with(b"/").then_some(text)
}

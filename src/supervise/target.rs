//! The process that waits for an answer, as [`crate::supervise::observe`] needs it: its memory, its view of paths, its descriptors.
//!
//! A trait, so that tests can put a process of their own making in its place; the real one is
//! [`crate::supervise::live_target`].

use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::Stat;

use crate::kernel::Errno;
use crate::kernel::foreign_root::Base;
use crate::kernel::foreign_root::Follow;
use crate::kernel::foreign_root::Restrictions;
use crate::model::attempt::ObjectId;

/// Kind of a file, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// Regular file.
    Regular,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Device, FIFO, socket, anything without a place in a file system.
    Other,
}

impl ObjectKind {
    /// From `st_mode` (inode(7)).
    #[must_use]
    pub const fn of(mode: u32) -> Self {
        match mode & 0o170_000 {
            0o100_000 => Self::Regular,
            0o040_000 => Self::Directory,
            0o120_000 => Self::Symlink,
            _ => Self::Other,
        }
    }
}

/// What all hard links of one file show alike. An overlay whose layers lie on different file systems gives two links of one
/// file different device and inode numbers: the name it had in the image keeps those of the lower layer, a new one shows those of
/// the upper (fs/overlayfs/inode.c, `ovl_map_dev_ino`; seen on Linux 6.18). Size, owner, times to the nanosecond and the
/// number of links come from the one real inode in either case. Two files that are not the same and agree in all of it are taken for one: rather
/// an attempt too many than a database behind an alias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Likeness {
    links: u64,
    bytes: i64,
    owner: (u32, u32),
    mode: u32,
    modified: (i64, u64),
    changed: (i64, u64),
}

impl Likeness {
    /// `OVERLAYFS_SUPER_MAGIC` (statfs(2)).
    const OVERLAYFS: u64 = 0x794c_7630;

    /// Of a regular file with more than one name on an overlay; `None` for every other, whose numbers tell.
    #[must_use]
    pub fn of(status: &Stat, file_system: impl FnOnce() -> Option<u64>) -> Option<Self> {
        let candidate = status.st_nlink > 1 && ObjectKind::of(status.st_mode) == ObjectKind::Regular;
        (candidate && file_system() == Some(Self::OVERLAYFS)).then_some(Self {
            links: widened(status.st_nlink),
            bytes: status.st_size,
            owner: (status.st_uid, status.st_gid),
            mode: status.st_mode,
            modified: (status.st_mtime, status.st_mtime_nsec),
            changed: (status.st_ctime, status.st_ctime_nsec),
        })
    }
}

/// A number of links: 64 bits on x86_64, 32 on aarch64 (asm/stat.h).
fn widened(number: impl Into<u64>) -> u64 {
    number.into()
}

/// Magic number of the file system that `descriptor` lies on (statfs(2)).
#[must_use]
pub fn file_system_of(descriptor: impl AsFd) -> Option<u64> {
    rustix::fs::fstatfs(descriptor).ok().map(|status| status.f_type.cast_unsigned())
}

/// An existing file.
#[derive(Debug, Clone)]
pub struct Object {
    /// Which.
    pub id: ObjectId,
    /// What kind.
    pub kind: ObjectKind,
    /// What it shares with its other names, where numbers do not tell them.
    pub likeness: Option<Likeness>,
    /// A handle on it (`O_PATH`), where the file is real.
    pub handle: Option<Arc<OwnedFd>>,
}

/// Where a path leads: a directory entry and what stands there.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// The directory of the last component; `None` where there is none (the root, an object reached by a magic link).
    pub parent: Option<ObjectId>,
    /// A handle on that directory (`O_PATH`), where it is real.
    pub directory: Option<Arc<OwnedFd>>,
    /// Whether the path demanded a directory by a trailing slash.
    pub slash: bool,
    /// Name of the last component, empty where there is none.
    pub name: Vec<u8>,
    /// What stands there; `None` when nothing does.
    pub object: Option<Object>,
    /// Its path from the process's root, as far as known.
    pub path: Option<Vec<u8>>,
}

/// Why something about the process could not be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// An argument that the kernel could not read either; this is the errno it gives.
    #[error("the argument at {address:#x} cannot be read: {errno}")]
    Unreadable {
        /// Where.
        address: u64,
        /// `EFAULT`, `ENAMETOOLONG`.
        errno: Errno,
    },
    /// The path leads nowhere for the process itself; this is the errno that the kernel gives.
    #[error("the path leads nowhere: {0}")]
    Nowhere(Errno),
    /// The process does not wait for an answer any more.
    #[error("the process is gone")]
    Gone,
    /// We cannot tell, though the kernel might.
    #[error("{0}")]
    Unable(String),
}

/// What can be learned about the process while it waits.
pub trait Target {
    /// `length` bytes of its memory.
    ///
    /// # Errors
    /// [`TargetError::Unreadable`] with `EFAULT` when not all of them can be read.
    fn bytes(&self, address: u64, length: usize) -> Result<Vec<u8>, TargetError>;

    /// A path in its memory, without the NUL, at most 4095 bytes.
    ///
    /// # Errors
    /// [`TargetError::Unreadable`] with `EFAULT` or `ENAMETOOLONG`.
    fn path(&self, address: u64) -> Result<Vec<u8>, TargetError>;

    /// Where `path` leads in the process's own view.
    ///
    /// # Errors
    /// [`TargetError::Nowhere`] when it leads nowhere for the process either, [`TargetError::Unable`] when we cannot tell.
    fn resolve(&self, base: Base, path: &[u8], follow: Follow) -> Result<Place, TargetError> {
        self.resolve_restricted(base, path, follow, Restrictions::NONE)
    }

    /// Where `path` leads when it is looked up with `restrictions` (openat2(2)).
    ///
    /// # Errors
    /// As [`Target::resolve`]; [`TargetError::Nowhere`] with `ELOOP` or `EXDEV` where a restriction stops the walk.
    fn resolve_restricted(
        &self,
        base: Base,
        path: &[u8],
        follow: Follow,
        restrictions: Restrictions,
    ) -> Result<Place, TargetError>;

    /// What the base itself is: an open descriptor, or the working directory.
    ///
    /// # Errors
    /// [`TargetError::Nowhere`] with `EBADF` for a descriptor that is not open.
    fn object(&self, base: Base) -> Result<Object, TargetError>;

    /// What a file handle of type `kind` means on the file system of the process's descriptor `mount`.
    ///
    /// # Errors
    /// [`TargetError::Nowhere`] when open_by_handle_at(2) fails for the process too.
    fn by_handle(&self, mount: i32, kind: i32, handle: Vec<u8>) -> Result<Object, TargetError>;

    /// The mount namespace that it is in.
    ///
    /// # Errors
    /// [`TargetError::Gone`], [`TargetError::Unable`].
    fn mount_namespace(&self) -> Result<ObjectId, TargetError>;

    /// Its pid, network, IPC and cgroup namespaces, in this order: what a file system that it mounts may show.
    ///
    /// # Errors
    /// [`TargetError::Gone`], [`TargetError::Unable`].
    fn shown_namespaces(&self) -> Result<[Arc<OwnedFd>; 4], TargetError>;

    /// A copy of the process's descriptor `number`, to act on what it has open.
    ///
    /// # Errors
    /// [`TargetError::Nowhere`] with `EBADF` for a descriptor that is not open.
    fn descriptor(&self, number: i32) -> Result<OwnedFd, TargetError>;

    /// Whether it may open one more file, or its table is full (open(2), `EMFILE`).
    fn has_free_descriptor(&self) -> bool;

    /// To what size it may extend a file; `None`: to any (setrlimit(2), `RLIMIT_FSIZE`).
    fn file_size_limit(&self) -> Option<u64>;

    /// The terminal that `/dev/tty` means to the process (tty(4)).
    ///
    /// # Errors
    /// [`TargetError::Nowhere`] with `ENXIO` when it has none.
    fn controlling_terminal(&self) -> Result<Object, TargetError>;

    /// Whether `directory` is one of the process's own in a procfs (`/proc/self/fd`): it may search it whatever its mode.
    fn is_own_process_directory(&self, directory: &OwnedFd) -> bool;

    /// Whether the object is the root of a mount; `None` when that cannot be told.
    fn is_mount_root(&self, object: &Object) -> Option<bool>;

    /// Content of a regular file, at most `max_bytes` of it; `None` when it has none or cannot be read.
    fn content(&self, object: &Object, max_bytes: usize) -> Option<Vec<u8>>;
}

//! What a file handle means, open_by_handle_at(2).
//!
//! One object has several handles (with and without its parent, `AT_HANDLE_FID`), so handles are never compared: the kernel
//! itself decodes them, for an `O_PATH` descriptor and no more.

use std::os::fd::AsFd;
use std::os::fd::OwnedFd;

use rustix::fs::CWD;
use rustix::fs::Mode;
use rustix::fs::OFlags;

use crate::kernel::Errno;
use crate::kernel::foreign_root::AT_FDCWD;
use crate::kernel::foreign_root::Found;
use crate::kernel::foreign_root::ResolveError;
use crate::kernel::foreign_root::Task;
use crate::kernel::pidfd;
use crate::kernel::pidfd::PidfdError;
use crate::kernel::raw::fanotify;

pub use crate::kernel::raw::fanotify::FileHandle;

/// See [`Task::object_by_handle`].
pub(super) fn object(task: &Task, mount: i32, handle: FileHandle) -> Result<Found, ResolveError> {
    let mount = open_mount(task, mount)?;
    match fanotify::open_by_handle(mount.as_fd(), &handle) {
        Ok(fd) => Found::identify(fd),
        Err(errno @ (Errno::STALE | Errno::BADF | Errno::INVAL)) => Err(ResolveError::Answer(errno)),
        Err(source) => Err(ResolveError::Unable { step: "decode a file handle", source }),
    }
}

/// Numbers below -100 stand for file systems of the kernel's own (`FD_PIDFS_ROOT`, Linux 6.17), where no file lies.
fn open_mount(task: &Task, mount: i32) -> Result<OwnedFd, ResolveError> {
    let step = "open the file system of a file handle";
    if mount == AT_FDCWD {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        return rustix::fs::openat(CWD, format!("/proc/{}/cwd", task.tid()), flags, Mode::empty())
            .map_err(|source| ResolveError::Unable { step, source });
    }
    pidfd::copy_descriptor_of_thread(task.tid(), mount).map_err(|error| match error {
        PidfdError::Copy { source: Errno::BADF, .. } => ResolveError::Answer(Errno::BADF),
        PidfdError::Gone(_) => ResolveError::TaskGone { tid: task.tid() },
        PidfdError::Open { source, .. }
        | PidfdError::Copy { source, .. }
        | PidfdError::Poll(source)
        | PidfdError::Signal(source) => ResolveError::Unable { step, source },
    })
}

//! The restrictions of openat2(2), checked by the kernel itself on the thread's own directories.

use std::os::fd::AsFd;

use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;

use crate::kernel::Errno;
use crate::kernel::foreign_root::AT_FDCWD;
use crate::kernel::foreign_root::Base;
use crate::kernel::foreign_root::Found;
use crate::kernel::foreign_root::ResolveError;
use crate::kernel::foreign_root::Task;

/// See [`Task::check_restrictions`].
pub(super) fn check(task: &Task, base: Base, path: &[u8], resolve: u64) -> Result<Found, ResolveError> {
    let answer = |errno| Err(ResolveError::Answer(errno));
    let Some(mut restrictions) = ResolveFlags::from_bits(resolve) else { return answer(Errno::INVAL) };
    if restrictions.contains(ResolveFlags::BENEATH | ResolveFlags::IN_ROOT) {
        return answer(Errno::INVAL);
    }
    let absolute = path.starts_with(b"/") && !restrictions.contains(ResolveFlags::IN_ROOT);
    if absolute && restrictions.contains(ResolveFlags::BENEATH) {
        return answer(Errno::XDEV);
    }
    let start = match base {
        // our own root is another: below the thread's, the same path leads to the same place
        _ if absolute => None,
        Base::Root => None,
        Base::Descriptor(number) if number != AT_FDCWD => Some(task.open_descriptor(number)?),
        Base::Cwd | Base::Descriptor(_) => Some(task.open_cwd()?),
    };
    if start.is_none() {
        restrictions |= ResolveFlags::IN_ROOT;
    }
    let start = start.as_ref().map_or_else(|| task.root(), AsFd::as_fd);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match rustix::fs::openat2(start, path, flags, Mode::empty(), restrictions) {
        Ok(fd) => Found::identify(fd),
        Err(errno @ (Errno::LOOP | Errno::XDEV | Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::AGAIN)) => {
            answer(errno)
        }
        Err(source) => Err(ResolveError::Unable { step: "look a path up with restrictions", source }),
    }
}

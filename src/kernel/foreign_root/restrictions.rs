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
pub(super) fn check(
    task: &Task,
    base: Base,
    path: &[u8],
    resolve: u64,
    exists: bool,
) -> Result<Option<Found>, ResolveError> {
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
    let path = if exists { path } else { directory_of(path) };
    let start = start.as_ref().map_or_else(|| task.root(), AsFd::as_fd);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match rustix::fs::openat2(start, path, flags, Mode::empty(), restrictions) {
        Ok(fd) => Found::identify(fd).map(|found| exists.then_some(found)),
        Err(errno @ (Errno::LOOP | Errno::XDEV | Errno::NOENT | Errno::NOTDIR | Errno::AGAIN)) => answer(errno),
        Err(source) => Err(ResolveError::Unable { step: "look a path up with restrictions", source }),
    }
}

/// `a/b/c` → `a/b/`, `c` → `.`.
fn directory_of(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last.saturating_add(1));
    let path = path.get(..end).unwrap_or_default();
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => path.get(..slash.saturating_add(1)).unwrap_or(b"."),
        None => b".",
    }
}

//! `..` at and below a root that was mounted over.
//!
//! A lookup that starts at a root is in that directory, though something was mounted over it since; but `..` at the root crosses into
//! what was mounted last, and `..` there stays there (`handle_dots`, `follow_dotdot` and `choose_mountpoint` of fs/namei.c). From our
//! own root, `..` there would lead out of the container: so whatever is mounted over the task's root, its roof, is looked for.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;

use crate::kernel::Errno;
use crate::kernel::foreign_root::ResolveError;
use crate::kernel::foreign_root::Task;
use crate::kernel::foreign_root::object::Identity;
use crate::kernel::foreign_root::walker::Place;

/// How often a lookup that a rename or mount disturbed is tried again (openat2(2), `EAGAIN`).
const ATTEMPTS: u32 = 64;
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Where `..` leads.
pub(super) enum Above {
    /// To the task's root.
    Root,
    /// To what is mounted over the task's root.
    Roof(OwnedFd),
    /// To any other directory.
    Parent(OwnedFd),
}

/// Where `..` leads from `here`.
pub(super) fn above(task: &Task, here: &Place<'_>) -> Result<Above, ResolveError> {
    let root = task.root_identity()?;
    let place = match here {
        Place::Root(_) => root,
        Place::Opened(directory) => Identity::of(directory.as_fd())?,
    };
    if place == root {
        let roof = top_over(task.root())?;
        return Ok(if Identity::of(roof.as_fd())? == root { Above::Root } else { Above::Roof(roof) });
    }
    if place.is_mount_root {
        // only from the root of a mount does `..` go down to another mount, and maybe past the task's root
        let roof = top_over(task.root())?;
        let roof_identity = Identity::of(roof.as_fd())?;
        let is_covered = roof_identity != root;
        if is_covered && (place == roof_identity || Identity::of(top_over(here.as_fd())?.as_fd())? == roof_identity) {
            if place != roof_identity && root.is_mount_root {
                // one of several file systems on one place: whether it is above the root or below cannot be told
                return Err(ResolveError::Unable { step: "order what is mounted over a root", source: Errno::XDEV });
            }
            return Ok(Above::Roof(roof));
        }
    }
    rustix::fs::openat(here.as_fd(), c"..", DIRECTORY, Mode::empty())
        .map(Above::Parent)
        .map_err(|errno| ResolveError::of_lookup("open a parent directory", errno))
}

/// Whether something is mounted over the task's root.
pub(super) fn is_over(task: &Task) -> Result<bool, ResolveError> {
    Ok(Identity::of(top_over(task.root())?.as_fd())? != task.root_identity()?)
}

/// What was mounted last over `directory`; `directory` itself when nothing was. `RESOLVE_IN_ROOT` makes it the root of the
/// lookup, so that `..` crosses what is mounted over it as it does for a task whose root it is.
fn top_over(directory: BorrowedFd<'_>) -> Result<OwnedFd, ResolveError> {
    let mut attempts = 0_u32;
    loop {
        attempts = attempts.saturating_add(1);
        match rustix::fs::openat2(directory, c"..", DIRECTORY, Mode::empty(), ResolveFlags::IN_ROOT) {
            Err(Errno::AGAIN | Errno::INTR) if attempts < ATTEMPTS => {}
            Err(source) => return Err(ResolveError::Unable { step: "look for what is mounted over a root", source }),
            Ok(top) => return Ok(top),
        }
    }
}

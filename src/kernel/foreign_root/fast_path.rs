//! The directory part of a path in one openat2(2) (Linux 5.6), where that is exactly what the walker would find.
//!
//! `RESOLVE_NO_SYMLINKS` makes it exact: no link is followed, neither `/proc/self`, which would mean us, nor any absolute one. What is left
//! are directories, and `..`, which `RESOLVE_IN_ROOT` stops at the task's root. Anything else fails and is walked.

use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;

/// A directory reached in one call.
pub(super) struct Leap {
    pub directory: OwnedFd,
    /// The last component, still to be looked up.
    pub last: Vec<u8>,
    /// Path of `directory` from the start, each component after a slash; `None` when `..` was in it.
    pub path: Option<Vec<u8>>,
}

/// Opens the directory part of `path` below `start`, which is the task's root when `from_root`. `None`: walk.
pub(super) fn leap(start: BorrowedFd<'_>, from_root: bool, path: &[u8]) -> Option<Leap> {
    let slash = path.iter().rposition(|byte| *byte == b'/')?;
    let last = path.get(slash.checked_add(1)?..)?;
    if matches!(last, b"" | b"." | b"..") {
        return None;
    }
    let directory = path.get(..slash)?;
    let mut known = Some(Vec::with_capacity(path.len()));
    let mut components = 0_u32;
    for component in directory.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        components = components.saturating_add(1);
        match (component, &mut known) {
            (b"..", _) if !from_root => return None,
            (b"..", _) => known = None,
            (b".", _) | (_, None) => {}
            (_, Some(known)) => {
                known.push(b'/');
                known.extend_from_slice(component);
            }
        }
    }
    if components < 2 {
        return None;
    }
    let limits = if from_root { ResolveFlags::IN_ROOT } else { ResolveFlags::BENEATH };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory =
        rustix::fs::openat2(start, directory, flags, Mode::empty(), limits | ResolveFlags::NO_SYMLINKS).ok()?;
    Some(Leap { directory, last: last.to_vec(), path: known })
}

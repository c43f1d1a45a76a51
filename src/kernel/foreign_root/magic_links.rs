//! Symbolic links: their text, and those of procfs, where the text is not the whole truth (proc(5)).
//!
//! `self` and `thread-self` name the *reader*: they are translated into the target's numbers in the pid namespace of that procfs mount. The links
//! below `/proc/PID` (`fd/N`, `cwd`, `root`, `exe`, `map_files`, `ns`) are no text at all but lead to an object directly: the
//! kernel follows those for us.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;

use crate::kernel::Errno;
use crate::kernel::foreign_root::ResolveError;
use crate::kernel::foreign_root::Task;
use crate::kernel::foreign_root::object::Identity;
use crate::kernel::process;
use crate::kernel::process::NamespaceIds;

/// `f_type` of procfs, statfs(2).
const PROC_SUPER_MAGIC: u64 = 0x9fa0;
/// `ST_NOSYMFOLLOW` of statfs(2): links on this mount are not followed (Linux 5.10).
const NO_SYMBOLIC_LINKS: u64 = 0x2000;
/// Inode number of a procfs root (`PROC_ROOT_INO`, include/linux/proc_ns.h).
const PROC_ROOT_INODE: u64 = 1;

/// Where a link leads.
pub(super) enum Link {
    /// To be walked from the directory of the link, or from the root when it starts with a slash.
    Text(Vec<u8>),
    /// Straight to this object.
    Object(OwnedFd),
}

/// Reads the link `name` in `parent`, which is open as `link`.
pub(super) fn read(
    task: &Task,
    parent: BorrowedFd<'_>,
    name: &[u8],
    link: BorrowedFd<'_>,
) -> Result<Link, ResolveError> {
    let (file_system, flags) = file_system_of(link)?;
    if flags & NO_SYMBOLIC_LINKS != 0 {
        return Err(ResolveError::Answer(Errno::LOOP));
    }
    if file_system != PROC_SUPER_MAGIC {
        return text_of(link);
    }
    if file_system_of(parent)?.0 != PROC_SUPER_MAGIC {
        // a procfs link mounted somewhere else: whom it means cannot be told from here
        return Err(ResolveError::Unable { step: "follow a procfs link outside procfs", source: Errno::XDEV });
    }
    if Identity::of(parent)?.inode != PROC_ROOT_INODE {
        return follow_in_process_directory(parent, name, link);
    }
    match name {
        b"self" => Ok(Link::Text(own_directory(task, parent)?.0)),
        b"thread-self" => Ok(Link::Text(own_directory(task, parent)?.1)),
        _ => text_of(link),
    }
}

fn file_system_of(object: BorrowedFd<'_>) -> Result<(u64, u64), ResolveError> {
    let status = rustix::fs::fstatfs(object)
        .map_err(|source| ResolveError::Unable { step: "examine a file system with statfs", source })?;
    Ok((u64::try_from(status.f_type).unwrap_or(0), u64::try_from(status.f_flags).unwrap_or(0)))
}

fn text_of(link: BorrowedFd<'_>) -> Result<Link, ResolveError> {
    let text = rustix::fs::readlinkat(link, c"", Vec::with_capacity(256))
        .map_err(|errno| ResolveError::of_lookup("read a symbolic link", errno))?;
    Ok(Link::Text(text.into_bytes()))
}

/// A link below `/proc/PID`, or a textual one of some driver: `RESOLVE_NO_MAGICLINKS` fails with `ELOOP` for the former.
fn follow_in_process_directory(
    parent: BorrowedFd<'_>,
    name: &[u8],
    link: BorrowedFd<'_>,
) -> Result<Link, ResolveError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    if rustix::fs::openat2(parent, name, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS).is_ok() {
        return text_of(link);
    }
    rustix::fs::openat(parent, name, flags, Mode::empty())
        .map(Link::Object)
        .map_err(|errno| ResolveError::of_lookup("follow a procfs link", errno))
}

/// What `self` and `thread-self` mean to the task in the procfs whose root is `procfs`.
fn own_directory(task: &Task, procfs: BorrowedFd<'_>) -> Result<(Vec<u8>, Vec<u8>), ResolveError> {
    let failed = |source| match source {
        Errno::NOENT | Errno::SRCH => ResolveError::TaskGone { tid: task.tid() },
        _ => ResolveError::Unable { step: "tell the pid namespaces of a thread", source },
    };
    let status = process::read_proc_file(CWD, &format!("/proc/{}/status", task.tid())).map_err(failed)?;
    let ids = NamespaceIds::parse(&status).ok_or_else(|| failed(Errno::PROTO))?;
    let namespace =
        rustix::fs::statat(CWD, format!("/proc/{}/ns/pid", task.tid()), AtFlags::empty()).map_err(failed)?;
    let innermost = ids.process.last().copied().ok_or_else(|| failed(Errno::PROTO))?;
    // the procfs of a container most often belongs to the innermost namespace
    for (process, thread) in ids.process.iter().zip(&ids.thread).rev() {
        if is_process(procfs, *process, (namespace.st_dev, namespace.st_ino), innermost)? {
            return Ok((process.to_string().into_bytes(), format!("{process}/task/{thread}").into_bytes()));
        }
    }
    // a procfs of a namespace that the task is not in: the kernel says ENOENT (proc_self_get_link)
    Err(ResolveError::Answer(Errno::NOENT))
}

/// Whether process `number` of `procfs` is the one whose pid namespace is `namespace` and whose number there is `innermost`.
/// Two processes of one namespace have different numbers in it, so this is exact. Mounts upon parts of the procfs are not
/// entered: whoever hides a process from us so is not resolved, rather than said to lead nowhere.
fn is_process(
    procfs: BorrowedFd<'_>,
    number: u32,
    namespace: (u64, u64),
    innermost: u32,
) -> Result<bool, ResolveError> {
    match examine_process(procfs, number, namespace, innermost) {
        Ok(same) => Ok(same),
        // not there, or one that we may not look into: the task itself is one that we may
        Err(Errno::NOENT | Errno::SRCH | Errno::ACCESS | Errno::PERM) => Ok(false),
        Err(source) => Err(ResolveError::Unable { step: "find a process in a foreign procfs", source }),
    }
}

/// Whether `directory` is one of the task's own process in a procfs, its threads' among them: the kernel asks for no permission
/// there (fs/proc/fd.c, `proc_fd_permission`; ptrace(2), "Ptrace access mode checking": the caller's own thread group).
pub(super) fn is_own(task: &Task, directory: BorrowedFd<'_>) -> bool {
    let is_procfs = file_system_of(directory).is_ok_and(|(kind, _)| kind == PROC_SUPER_MAGIC);
    is_procfs && own_ids(task).is_ok_and(|(namespace, ids)| is_of_process(directory, namespace, &ids))
}

fn own_ids(task: &Task) -> Result<((u64, u64), NamespaceIds), Errno> {
    let status = process::read_proc_file(CWD, &format!("/proc/{}/status", task.tid()))?;
    let namespace = rustix::fs::statat(CWD, format!("/proc/{}/ns/pid", task.tid()), AtFlags::empty())?;
    Ok(((namespace.st_dev, namespace.st_ino), NamespaceIds::parse(&status).ok_or(Errno::PROTO)?))
}

/// `/proc/PID`, `/proc/PID/fd`, `/proc/PID/task/TID` and its `fd` are a process's; `/proc/PID/task` is nobody's.
fn is_of_process(directory: BorrowedFd<'_>, namespace: (u64, u64), ids: &NamespaceIds) -> bool {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let above = |path: &str| {
        let limits = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        rustix::fs::openat2(directory, path, flags, Mode::empty(), limits)
    };
    let innermost = ids.process.last().copied().unwrap_or(0);
    [".", ".."]
        .iter()
        .filter_map(|path| above(path).ok())
        .any(|folder| examine_folder(folder.as_fd(), namespace, innermost).unwrap_or(false))
}

fn examine_process(procfs: BorrowedFd<'_>, number: u32, namespace: (u64, u64), innermost: u32) -> Result<bool, Errno> {
    let limits = ResolveFlags::NO_XDEV | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let directory_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::openat2(procfs, number.to_string(), directory_flags, Mode::empty(), limits)?;
    examine_folder(folder.as_fd(), namespace, innermost)
}

/// Whether `folder` is `/proc/PID` of the process whose pid namespace is `namespace` and whose number there is `innermost`.
fn examine_folder(folder: BorrowedFd<'_>, namespace: (u64, u64), innermost: u32) -> Result<bool, Errno> {
    let limits = ResolveFlags::NO_XDEV | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let directory_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let namespaces = rustix::fs::openat2(folder, c"ns", directory_flags, Mode::empty(), limits)?;
    let found = rustix::fs::statat(&namespaces, c"pid", AtFlags::empty())?;
    if (found.st_dev, found.st_ino) != namespace {
        return Ok(false);
    }
    let status_flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let status = rustix::fs::openat2(folder, c"status", status_flags, Mode::empty(), limits)?;
    let text = process::read_bounded(&status, process::MAX_STATUS_BYTES)?;
    let ids = NamespaceIds::parse(&text).ok_or(Errno::PROTO)?;
    Ok(ids.process.last() == Some(&innermost))
}

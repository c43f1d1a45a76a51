//! Which object a path means for another thread: resolved from that thread's own root, working directory and descriptors,
//! across the mounts of its mount namespace, without ever opening anything for data.
//!
//! The result is what path_resolution(7) gives the thread at this moment, with these deliberate limits: permissions are not modelled (we
//! search as root; the kernel itself checks them when it carries out the call), automounts are not triggered, and what a file system
//! shows differently to different callers (FUSE, `/proc/sys/net`) is seen as we see it. Between our look and the kernel's the thread's siblings may change
//! anything: a refusal must not rest on a CONTINUE. Thread ids are recycled: after the last resolution, the caller
//! checks that the notification is still valid before it believes any of it.
//!
//! | file | what |
//! | --- | --- |
//! | `walker` | component by component: symbolic links, `..`, the last component |
//! | `roof` | `..`, also where something is mounted over the root |
//! | `fast_path` | the directory part in one openat2(2), where that is exact |
//! | `magic_links` | procfs: `self`, `thread-self`, and links that are not text |
//! | `object` | what an `O_PATH` descriptor refers to |
//! | `handles` | file handles, open_by_handle_at(2) |
//! | `restrictions` | `RESOLVE_*` of openat2(2) |
//! | `files` | bounded reading of regular files below a container's root |

mod fast_path;
mod files;
mod handles;
mod magic_links;
mod object;
mod restrictions;
mod roof;
mod walker;

#[cfg(test)]
mod agreement_tests;
#[cfg(test)]
mod test_paths;
#[cfg(test)]
mod test_tally;
#[cfg(test)]
mod test_target;
#[cfg(test)]
mod test_world;

use std::cell::OnceCell;
use std::cell::RefCell;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use rustix::fs::CWD;
use rustix::fs::Mode;
use rustix::fs::OFlags;

use crate::kernel::Errno;

pub use files::FileError;
pub use files::RootFile;
pub use files::identify_in_root;
pub use files::list_directory_in_root;
pub use files::read_file_in_root;
pub use handles::FileHandle;
pub use object::Found;
pub use restrictions::Restrictions;

use object::Identity;

/// `AT_FDCWD` of openat(2), as a 32-bit argument.
const AT_FDCWD: i32 = -100;

/// Where a relative path starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The thread's working directory.
    Cwd,
    /// The thread's root.
    Root,
    /// The thread's descriptor of that number; -100 (`AT_FDCWD`) is its working directory.
    Descriptor(i32),
}

/// Whether a symbolic link in the last place is followed. A trailing slash makes it followed but for [`Follow::Entry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// Followed, as open(2) does.
    Last,
    /// The link itself is meant, as for `O_NOFOLLOW`, lchown(2).
    NoLast,
    /// The entry itself is meant whatever stands there, as for unlink(2) and rename(2): not even a trailing slash makes it
    /// followed or demands a directory; the call itself does (fs/namei.c, `filename_parentat`).
    Entry,
}

/// Why a path could not be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// What the kernel would answer the thread itself: `ENOENT` or `ENOTDIR` of a part before the last, `ELOOP`, `ENAMETOOLONG`, `EBADF`.
    #[error("the path leads nowhere")]
    Answer(#[source] Errno),
    /// The thread is gone.
    #[error("thread {tid} is gone")]
    TaskGone {
        /// Which.
        tid: u32,
    },
    /// Our own failure: it is not known what the kernel would answer.
    #[error("cannot {step} to resolve a path of another process")]
    Unable {
        /// What was tried.
        step: &'static str,
        /// The kernel's answer to us.
        #[source]
        source: Errno,
    },
}

impl ResolveError {
    /// Sorts an errno that came while we looked something up for the thread.
    fn of_lookup(step: &'static str, source: Errno) -> Self {
        match source {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG => Self::Answer(source),
            _ => Self::Unable { step, source },
        }
    }
}

/// What a path means.
#[derive(Debug)]
pub struct Resolved {
    /// Directory (`O_PATH`) that holds the last component. `None` when there is no such entry: the path ends in `.`, `..` or
    /// `/`, or a procfs link led straight to the object.
    pub parent: Option<OwnedFd>,
    /// Name of the last component in `parent`, after all links; empty when there is no `parent`.
    pub name: Vec<u8>,
    /// The object; `None` when nothing has that name.
    pub object: Option<Found>,
    /// Device and inode number of `parent`.
    pub parent_id: Option<(u64, u64)>,
    /// Path of the object from the thread's root, as far as it could be told.
    pub path: Option<Vec<u8>>,
    /// Whether the path demanded a directory by a trailing slash.
    pub trailing_slash: bool,
}

/// A directory in which something was looked up for a thread: it must let the thread search it, unless it is one of the thread's
/// own process in a procfs ([`Task::is_own_process_directory`]).
#[derive(Debug)]
pub struct Searched {
    /// The directory, `O_PATH`.
    pub directory: OwnedFd,
    /// A link in it that is no text and was followed: that takes the right to look into the process it is of (proc(5)).
    pub link: Option<Vec<u8>>,
}

/// A thread whose paths are resolved.
#[derive(Debug)]
pub struct Task {
    tid: u32,
    root: OwnedFd,
    root_identity: OnceCell<Identity>,
    root_text: OnceCell<Option<Vec<u8>>>,
    searched: Option<RefCell<Vec<Searched>>>,
    covered: OnceCell<Option<bool>>,
}

impl Task {
    /// Opens the root directory of thread `tid` (a number in our pid namespace).
    ///
    /// # Errors
    /// [`ResolveError::TaskGone`], [`ResolveError::Unable`].
    pub fn open(tid: u32) -> Result<Self, ResolveError> {
        let root = open_of_thread(tid, "root", "open the root directory of a thread")?;
        Ok(Self {
            tid,
            root,
            root_identity: OnceCell::new(),
            root_text: OnceCell::new(),
            covered: OnceCell::new(),
            searched: None,
        })
    }

    /// The same thread with `root` as its root directory, as a scoped look-up has it (fs/namei.c, `path_init`); paths are told
    /// from the thread's own root all the same.
    fn below(&self, root: OwnedFd) -> Self {
        Self {
            tid: self.tid,
            root,
            root_identity: OnceCell::new(),
            root_text: OnceCell::from(self.text_of_root().cloned()),
            covered: OnceCell::from(self.is_covered()),
            searched: self.searched.as_ref().map(|_| RefCell::default()),
        }
    }

    /// Goes component by component from now on and keeps every directory in which something is looked up, so that it can be
    /// asked afterwards whether the thread may search them.
    pub fn keep_searched(&mut self) {
        self.searched.get_or_insert_default();
    }

    /// Hands out what was searched and followed since the last time, in that order.
    #[must_use]
    pub fn take_searched(&self) -> Vec<Searched> {
        self.searched.as_ref().map(RefCell::take).unwrap_or_default()
    }

    /// Notes that something is looked up in `directory`, or that the link `link` in it is followed without being text.
    fn note_search(&self, directory: BorrowedFd<'_>, link: Option<&[u8]>) -> Result<(), ResolveError> {
        let Some(searched) = &self.searched else { return Ok(()) };
        let directory = rustix::io::fcntl_dupfd_cloexec(directory, 0)
            .map_err(|source| ResolveError::Unable { step: "keep a directory", source })?;
        searched.borrow_mut().push(Searched { directory, link: link.map(<[u8]>::to_vec) });
        Ok(())
    }

    /// The thread id it was opened by.
    #[must_use]
    pub fn tid(&self) -> u32 {
        self.tid
    }

    /// The thread's root directory (`O_PATH`).
    #[must_use]
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Which object `path` means to the thread.
    ///
    /// # Errors
    /// [`ResolveError`]. A missing last component is no error but a [`Resolved`] without object.
    pub fn resolve(&self, base: Base, path: &[u8], follow: Follow) -> Result<Resolved, ResolveError> {
        self.resolve_restricted(base, path, follow, Restrictions::NONE)
    }

    /// Which object `path` means to the thread when openat2(2) looks it up with `restrictions`.
    ///
    /// # Errors
    /// As [`Task::resolve`]; [`ResolveError::Answer`] with `ELOOP` or `EXDEV` where a restriction stops the walk.
    pub fn resolve_restricted(
        &self,
        base: Base,
        path: &[u8],
        follow: Follow,
        restrictions: Restrictions,
    ) -> Result<Resolved, ResolveError> {
        if !restrictions.is_scoped() {
            return walker::resolve(self, base, path, follow, restrictions);
        }
        walker::check_length(path)?;
        if path.starts_with(b"/") {
            restrictions.check_absolute()?;
        }
        let start = Found::identify(self.open_base(base)?)?;
        if !start.is_directory() {
            return Err(ResolveError::Answer(Errno::NOTDIR));
        }
        let below = self.below(start.fd);
        let resolved = walker::resolve(&below, Base::Root, path, follow, restrictions);
        if let Some(searched) = &self.searched {
            searched.borrow_mut().append(&mut below.take_searched());
        }
        resolved
    }

    /// What the thread's descriptor `number` refers to.
    ///
    /// # Errors
    /// [`ResolveError::Answer`] with `EBADF` when it has no such descriptor.
    pub fn descriptor(&self, number: i32) -> Result<Found, ResolveError> {
        Found::identify(self.open_descriptor(number)?)
    }

    /// Best known path, from the thread's root, of what its descriptor `number` refers to.
    #[must_use]
    pub fn descriptor_path(&self, number: i32) -> Option<Vec<u8>> {
        let object = self.open_descriptor(number).ok()?;
        self.path_of(object.as_fd())
    }

    /// What file handle `handle` means on the file system of the thread's descriptor `mount` (-100: its working directory).
    ///
    /// # Errors
    /// [`ResolveError::Answer`] with what open_by_handle_at(2) answers the thread too: `ESTALE`, `EBADF`, `EINVAL`.
    pub fn object_by_handle(&self, mount: i32, handle: FileHandle) -> Result<Found, ResolveError> {
        handles::object(self, mount, handle)
    }

    /// Whether `directory` is one of the thread's own process in a procfs, which it may search whatever its mode.
    #[must_use]
    pub fn is_own_process_directory(&self, directory: BorrowedFd<'_>) -> bool {
        magic_links::is_own(self, directory)
    }

    /// Device and inode of the thread's mount namespace (namespaces(7)).
    ///
    /// # Errors
    /// [`ResolveError::TaskGone`], [`ResolveError::Unable`].
    pub fn mount_namespace(&self) -> Result<(u64, u64), ResolveError> {
        match rustix::fs::stat(format!("/proc/{}/ns/mnt", self.tid)) {
            Ok(status) => Ok((status.st_dev, status.st_ino)),
            Err(Errno::NOENT | Errno::SRCH) => Err(ResolveError::TaskGone { tid: self.tid }),
            Err(source) => Err(ResolveError::Unable { step: "ask for the mount namespace of a thread", source }),
        }
    }

    fn open_cwd(&self) -> Result<OwnedFd, ResolveError> {
        open_of_thread(self.tid, "cwd", "open the working directory of a thread")
    }

    /// The directory, or whatever it is, that a relative path starts from.
    fn open_base(&self, base: Base) -> Result<OwnedFd, ResolveError> {
        match base {
            Base::Descriptor(number) if number != AT_FDCWD => self.open_descriptor(number),
            Base::Descriptor(_) | Base::Cwd => self.open_cwd(),
            Base::Root => rustix::io::fcntl_dupfd_cloexec(&self.root, 0)
                .map_err(|source| ResolveError::Unable { step: "copy the root directory of a thread", source }),
        }
    }

    fn open_descriptor(&self, number: i32) -> Result<OwnedFd, ResolveError> {
        if number < 0 {
            return Err(ResolveError::Answer(Errno::BADF));
        }
        match open_of_thread(self.tid, &format!("fd/{number}"), "open a descriptor of a thread") {
            Err(ResolveError::TaskGone { .. }) => {
                // the same ENOENT for a thread that is gone and for a number that is not open
                rustix::fs::statat(CWD, format!("/proc/{}/fd", self.tid), rustix::fs::AtFlags::empty())
                    .map_err(|_| ResolveError::TaskGone { tid: self.tid })?;
                Err(ResolveError::Answer(Errno::BADF))
            }
            other => other,
        }
    }

    /// Identity of the thread's root, asked for once.
    fn root_identity(&self) -> Result<Identity, ResolveError> {
        if let Some(known) = self.root_identity.get() {
            return Ok(*known);
        }
        let identity = Identity::of(self.root.as_fd())?;
        Ok(*self.root_identity.get_or_init(|| identity))
    }

    /// Whether something is mounted over the thread's root; `None` when that cannot be told. Asked for once.
    fn is_covered(&self) -> Option<bool> {
        *self.covered.get_or_init(|| roof::is_over(self).ok())
    }

    /// The kernel's name for the root, asked for once.
    fn text_of_root(&self) -> Option<&Vec<u8>> {
        self.root_text.get_or_init(|| object::kernel_name_in_force(self.root.as_fd())).as_ref()
    }

    /// Best known path of `object` from the thread's root: the kernel's name for it less the kernel's name for the root. `None`
    /// for what lies on another mount when something is mounted over the root: the two have one name.
    fn path_of(&self, object: BorrowedFd<'_>) -> Option<Vec<u8>> {
        let is_elsewhere = || Some(Identity::of(object).ok()?.mount_id != self.root_identity().ok()?.mount_id);
        if is_elsewhere()? && self.is_covered()? {
            return None;
        }
        let text = object::kernel_name(object)?;
        let root = self.text_of_root()?;
        if root.as_slice() == b"/" {
            return Some(text);
        }
        match text.strip_prefix(root.as_slice())? {
            [] => Some(b"/".to_vec()),
            below @ [b'/', ..] => Some(below.to_vec()),
            _ => None,
        }
    }
}

/// Follows a link of `/proc/TID` to an `O_PATH` descriptor.
fn open_of_thread(tid: u32, link: &str, step: &'static str) -> Result<OwnedFd, ResolveError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, format!("/proc/{tid}/{link}"), flags, Mode::empty()) {
        Ok(fd) => Ok(fd),
        Err(Errno::NOENT | Errno::SRCH) => Err(ResolveError::TaskGone { tid }),
        Err(source) => Err(ResolveError::Unable { step, source }),
    }
}

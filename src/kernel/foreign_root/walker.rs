//! The walk itself, one component at a time, as path_resolution(7) and the kernel's fs/namei.c do it.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use rustix::fs::Mode;
use rustix::fs::OFlags;

use crate::kernel::Errno;
use crate::kernel::foreign_root::Base;
use crate::kernel::foreign_root::Follow;
use crate::kernel::foreign_root::Found;
use crate::kernel::foreign_root::ResolveError;
use crate::kernel::foreign_root::Resolved;
use crate::kernel::foreign_root::Restrictions;
use crate::kernel::foreign_root::Task;
use crate::kernel::foreign_root::fast_path;
use crate::kernel::foreign_root::magic_links;
use crate::kernel::foreign_root::magic_links::Link;
use crate::kernel::foreign_root::object::Identity;
use crate::kernel::foreign_root::roof;
use crate::kernel::foreign_root::roof::Above;

/// Most symbolic links in one resolution (`MAXSYMLINKS`, path_resolution(7)).
const MAX_SYMBOLIC_LINKS: u32 = 40;
/// Longest path with its NUL (`PATH_MAX`).
const PATH_MAX: usize = 4096;

/// How a path gets to what is mounted over the root.
const PATH_OF_ROOF: &[u8] = b"/..";

/// A directory on the way: the task's root, or one that was opened.
pub(super) enum Place<'task> {
    /// The task's root.
    Root(BorrowedFd<'task>),
    /// Any other directory.
    Opened(OwnedFd),
}

impl AsFd for Place<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Root(fd) => *fd,
            Self::Opened(fd) => fd.as_fd(),
        }
    }
}

impl Place<'_> {
    fn into_fd(self) -> Result<OwnedFd, ResolveError> {
        match self {
            Self::Opened(fd) => Ok(fd),
            Self::Root(fd) => fd_copy(fd),
        }
    }
}

fn fd_copy(fd: BorrowedFd<'_>) -> Result<OwnedFd, ResolveError> {
    rustix::io::fcntl_dupfd_cloexec(fd, 0).map_err(|source| ResolveError::Unable { step: "copy a descriptor", source })
}

/// Where the walk is. `here` is always a directory.
struct Walk<'task> {
    task: &'task Task,
    here: Place<'task>,
    /// Path of `here` from the task's root without a final slash (empty for the root itself); `None` after a jump.
    known: Option<Vec<u8>>,
    /// What is still to be walked.
    rest: Vec<u8>,
    links: u32,
    restrictions: Restrictions,
    /// Whether the kernel has asked for the root by now (`nd->root`): not before the first `..` or slash at a beginning.
    has_root: bool,
}

/// What a step ended with.
enum Step<'task> {
    Onward(Walk<'task>),
    Done(Resolved),
}

/// See [`Task::resolve_restricted`].
pub(super) fn resolve(
    task: &Task,
    base: Base,
    path: &[u8],
    follow: Follow,
    restrictions: Restrictions,
) -> Result<Resolved, ResolveError> {
    check_length(path)?;
    let absolute = path.starts_with(b"/") || base == Base::Root;
    let here = if absolute { Place::Root(task.root()) } else { Place::Opened(task.open_base(base)?) };
    let known = (absolute && !restrictions.is_scoped()).then(Vec::new);
    let mut walk = Walk { task, here, known, rest: path.to_vec(), links: 0, restrictions, has_root: absolute };
    let may_leap = task.searched.is_none() && restrictions == Restrictions::NONE;
    let leap = if may_leap { fast_path::leap(walk.here.as_fd(), absolute, path) } else { None };
    if let Some(leap) = leap {
        walk.known = walk.known.and(leap.path);
        walk.here = Place::Opened(leap.directory);
        walk.rest = leap.last;
    } else if matches!(base, Base::Descriptor(_)) && !absolute {
        // a working directory is always a directory, a descriptor need not be
        walk.here = must_be_directory(walk.here)?;
    }
    loop {
        match walk.step(follow)? {
            Step::Onward(next) => walk = next,
            Step::Done(resolved) => return Ok(resolved),
        }
    }
}

/// getname(): "ENOENT: path is empty", "ENAMETOOLONG: path is too long" (path_resolution(7)), before anything else.
pub(super) fn check_length(path: &[u8]) -> Result<(), ResolveError> {
    match path.len() {
        0 => Err(ResolveError::Answer(Errno::NOENT)),
        length if length >= PATH_MAX => Err(ResolveError::Answer(Errno::NAMETOOLONG)),
        _ => Ok(()),
    }
}

fn must_be_directory(place: Place<'_>) -> Result<Place<'_>, ResolveError> {
    let found = Found::identify(place.into_fd()?)?;
    if found.is_directory() { Ok(Place::Opened(found.fd)) } else { Err(ResolveError::Answer(Errno::NOTDIR)) }
}

/// The first component of `rest`, and what follows it from the next slash on.
fn split(rest: &[u8]) -> (&[u8], &[u8]) {
    let start = rest.iter().position(|byte| *byte != b'/').unwrap_or(rest.len());
    let rest = rest.get(start..).unwrap_or_default();
    let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    (rest.get(..end).unwrap_or_default(), rest.get(end..).unwrap_or_default())
}

impl<'task> Walk<'task> {
    fn step(mut self, follow: Follow) -> Result<Step<'task>, ResolveError> {
        let rest = std::mem::take(&mut self.rest);
        let (component, tail) = split(&rest);
        let last = tail.iter().all(|byte| *byte == b'/');
        match component {
            b"" => return self.finish_here(false),
            b"." => self.task.note_search(self.here.as_fd(), None)?,
            b".." => self.up()?,
            _ if last => return self.last(component, !tail.is_empty(), follow),
            _ => return self.descend(component, tail),
        }
        if last {
            return self.finish_here(!tail.is_empty());
        }
        self.rest = tail.to_vec();
        Ok(Step::Onward(self))
    }

    /// `..`: up, but never above the task's root.
    fn up(&mut self) -> Result<(), ResolveError> {
        self.task.note_search(self.here.as_fd(), None)?;
        self.has_root = true;
        let above = roof::above(self.task, &self.here)?;
        if matches!(above, Above::Root | Above::Roof(_)) {
            self.restrictions.check_above_root()?;
        }
        let (above, known) = match above {
            Above::Root => (Place::Root(self.task.root()), self.path_of_root()),
            Above::Roof(roof) => (Place::Opened(roof), self.path_of_root().map(|_| PATH_OF_ROOF.to_vec())),
            Above::Parent(parent) => {
                let known = self.known.take().and_then(|mut path| {
                    let slash = path.iter().rposition(|byte| *byte == b'/')?;
                    path.truncate(slash);
                    // what lies above the names that are known may be mounted over the root
                    let is_root = !path.is_empty() || Identity::of(parent.as_fd()) == self.task.root_identity();
                    Some(if is_root { path } else { PATH_OF_ROOF.to_vec() })
                });
                (Place::Opened(parent), known)
            }
        };
        self.check_mount_of(above.as_fd())?;
        self.here = above;
        self.known = known;
        Ok(())
    }

    /// `nd_jump_root`: a link whose text starts with a slash. A root that the kernel did not need before is another mount to it.
    fn jump_to_root(&mut self) -> Result<(), ResolveError> {
        self.restrictions.check_absolute()?;
        if self.restrictions.keeps_to_mount() && !self.has_root {
            return Err(ResolveError::Answer(Errno::XDEV));
        }
        self.check_mount_of(self.task.root())?;
        self.has_root = true;
        self.here = Place::Root(self.task.root());
        self.known = self.path_of_root();
        Ok(())
    }

    /// What is known of the path of the walk's own root: that of a scoped walk lies anywhere.
    fn path_of_root(&self) -> Option<Vec<u8>> {
        (!self.restrictions.is_scoped()).then(Vec::new)
    }

    /// Whether the walk may go on from `here` to `next`, which may lie on another mount.
    fn check_mount_of(&self, next: BorrowedFd<'_>) -> Result<(), ResolveError> {
        if !self.restrictions.keeps_to_mount() {
            return Ok(());
        }
        let (from, to) = (Identity::of(self.here.as_fd())?, Identity::of(next)?);
        self.restrictions.check_mounts(from.mount_id, to.mount_id)
    }

    /// A component that is not the last: a directory, or a link to one.
    fn descend(mut self, component: &[u8], tail: &[u8]) -> Result<Step<'task>, ResolveError> {
        self.task.note_search(self.here.as_fd(), None)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match rustix::fs::openat(self.here.as_fd(), component, flags | OFlags::DIRECTORY, Mode::empty()) {
            Ok(directory) => {
                self.check_mount_of(directory.as_fd())?;
                self.enter(component, directory);
                self.rest = tail.to_vec();
                return Ok(Step::Onward(self));
            }
            Err(Errno::NOTDIR | Errno::LOOP) => rustix::fs::openat(self.here.as_fd(), component, flags, Mode::empty())
                .map_err(|errno| ResolveError::of_lookup("look up a component", errno))
                .and_then(Found::identify)?,
            Err(errno) => return Err(ResolveError::of_lookup("look up a directory", errno)),
        };
        self.check_mount_of(found.fd.as_fd())?;
        if found.is_symbolic_link() {
            return self.follow_link(&found, component, tail);
        }
        if !found.is_directory() {
            return Err(ResolveError::Answer(Errno::NOTDIR));
        }
        self.enter(component, found.fd);
        self.rest = tail.to_vec();
        Ok(Step::Onward(self))
    }

    fn enter(&mut self, component: &[u8], directory: OwnedFd) {
        self.here = Place::Opened(directory);
        if let Some(path) = &mut self.known {
            path.push(b'/');
            path.extend_from_slice(component);
        }
    }

    /// The last component.
    fn last(self, name: &[u8], slash: bool, follow: Follow) -> Result<Step<'task>, ResolveError> {
        self.task.note_search(self.here.as_fd(), None)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match rustix::fs::openat(self.here.as_fd(), name, flags, Mode::empty()) {
            Ok(fd) => Found::identify(fd)?,
            Err(Errno::NOENT) => return self.finish_entry(name, slash, None),
            // the call itself says so, after whatever it looks at before
            Err(Errno::NAMETOOLONG) if follow == Follow::Entry => return self.finish_entry(name, slash, None),
            Err(errno) => return Err(ResolveError::of_lookup("look up the last component", errno)),
        };
        if follow != Follow::Entry {
            self.check_mount_of(found.fd.as_fd())?;
        }
        let follows = match follow {
            Follow::Last => true,
            Follow::NoLast => slash,
            Follow::Entry => false,
        };
        if found.is_symbolic_link() && follows {
            let tail: &[u8] = if slash { b"/" } else { b"" };
            return self.follow_link(&found, name, tail);
        }
        if slash && !found.is_directory() && follow != Follow::Entry {
            return Err(ResolveError::Answer(Errno::NOTDIR));
        }
        self.finish_entry(name, slash, Some(found))
    }

    /// Goes where `link`, named `name` in `here`, leads; `tail` is what follows it in the path.
    fn follow_link(mut self, link: &Found, name: &[u8], tail: &[u8]) -> Result<Step<'task>, ResolveError> {
        if self.links >= MAX_SYMBOLIC_LINKS {
            return Err(ResolveError::Answer(Errno::LOOP));
        }
        self.links = self.links.saturating_add(1);
        self.restrictions.check_link()?;
        match magic_links::read(self.task, self.here.as_fd(), name, link.fd.as_fd())? {
            Link::Text(mut text) => {
                if text.starts_with(b"/") {
                    self.jump_to_root()?;
                }
                text.extend_from_slice(tail);
                self.rest = text;
                Ok(Step::Onward(self))
            }
            Link::Object(fd) => {
                self.task.note_search(self.here.as_fd(), Some(name))?;
                self.restrictions.check_jump()?;
                self.check_mount_of(fd.as_fd())?;
                self.restrictions.check_scoped_jump()?;
                self.jump(fd, tail)
            }
        }
    }

    /// Goes on from an object to which the kernel jumped.
    fn jump(mut self, fd: OwnedFd, tail: &[u8]) -> Result<Step<'task>, ResolveError> {
        let found = Found::identify(fd)?;
        if !tail.is_empty() && !found.is_directory() {
            return Err(ResolveError::Answer(Errno::NOTDIR));
        }
        self.known = None;
        if tail.iter().all(|byte| *byte == b'/') {
            let path = self.task.path_of(found.fd.as_fd());
            return Ok(Step::Done(Resolved {
                parent: None,
                name: Vec::new(),
                object: Some(found),
                parent_id: None,
                path,
                trailing_slash: !tail.is_empty(),
            }));
        }
        self.here = Place::Opened(found.fd);
        self.rest = tail.to_vec();
        Ok(Step::Onward(self))
    }

    /// The path ended at `here` itself.
    fn finish_here(self, trailing_slash: bool) -> Result<Step<'task>, ResolveError> {
        let path = match self.known {
            Some(path) if path.is_empty() => Some(b"/".to_vec()),
            Some(path) => Some(path),
            None => self.task.path_of(self.here.as_fd()),
        };
        let object = Found::identify(self.here.into_fd()?)?;
        Ok(Step::Done(Resolved {
            parent: None,
            name: Vec::new(),
            object: Some(object),
            parent_id: None,
            path,
            trailing_slash,
        }))
    }

    /// The path ended at an entry of `here`, which may be missing.
    fn finish_entry(
        self,
        name: &[u8],
        trailing_slash: bool,
        object: Option<Found>,
    ) -> Result<Step<'task>, ResolveError> {
        let parent = Identity::of(self.here.as_fd())?;
        let directory = self.known.or_else(|| self.task.path_of(self.here.as_fd()));
        let path = directory.map(|mut path| {
            if !path.ends_with(b"/") {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            path
        });
        Ok(Step::Done(Resolved {
            parent: Some(self.here.into_fd()?),
            name: name.to_vec(),
            object,
            parent_id: Some((parent.device, parent.inode)),
            path,
            trailing_slash,
        }))
    }
}

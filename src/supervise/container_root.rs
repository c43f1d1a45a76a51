//! The container's own root directory, held open: where its databases are looked up, whoever asks.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use rustix::fs::AtFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;

use crate::kernel::foreign_root;
use crate::kernel::foreign_root::Follow;
use crate::kernel::foreign_root::Found;
use crate::model::attempt::ObjectId;
use crate::supervise::databases::RootView;
use crate::supervise::live_target::object_of;
use crate::supervise::target::Likeness;
use crate::supervise::target::Object;
use crate::supervise::target::ObjectKind;
use crate::supervise::target::Place;
use crate::supervise::target::file_system_of;

/// How long a directory that was found is taken for the one at its path. A rename or mount in its place that was let go ends
/// it at once ([`ContainerRoot::forget`]); this bounds what comes from outside the container.
const DIRECTORY_LIFETIME: Duration = Duration::from_secs(1);

/// Links followed from a database's path to what it leads to (the kernel's own limit is 40, path_resolution(7)).
const MAX_LINKS: usize = 40;

/// The root directory of a container.
#[derive(Debug)]
pub struct ContainerRoot {
    root: OwnedFd,
    /// Keeps what is mounted below the root where it is after the last process has gone: a database on a mount of its own
    /// would look removed, or replaced by what lies below, when the databases are read for the last time.
    mounts: Option<OwnedFd>,
    directories: Mutex<Directories>,
}

/// Directories found, by path, and when they were last told to be stale.
#[derive(Debug, Default)]
struct Directories {
    found: HashMap<String, (Instant, Arc<Found>)>,
    stale_since: Option<Instant>,
    /// How often they were told to be stale.
    forgotten: u64,
}

impl ContainerRoot {
    /// Takes a root directory (`O_PATH`) as it is seen from here.
    #[must_use]
    pub fn new(root: OwnedFd) -> Self {
        Self { root, mounts: None, directories: Mutex::default() }
    }

    /// The root directory of process `pid`, with the mount namespace it stands in held as long (mount_namespaces(7): its mounts
    /// go with the last reference to it). `None` when the process is gone, and when its root is our own: a runtime that has not
    /// entered the container yet.
    #[must_use]
    pub fn of_process(pid: u32) -> Option<Self> {
        let open = |link: &str, flags| {
            let path = format!("/proc/{pid}/{link}");
            rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).ok()
        };
        let root = open("root", OFlags::PATH | OFlags::DIRECTORY)?;
        let mounts = open("ns/mnt", OFlags::RDONLY)?;
        let theirs = rustix::fs::fstat(&root).ok()?;
        let ours = rustix::fs::stat("/").ok()?;
        let is_ours = (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino);
        (!is_ours).then(|| Self { root, mounts: Some(mounts), directories: Mutex::default() })
    }

    /// The descriptor.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Whether both are one directory of one mount namespace.
    #[must_use]
    pub fn is_same_directory(&self, other: &Self) -> bool {
        let identity = |of: &Self| rustix::fs::fstat(&of.root).ok().map(|status| (status.st_dev, status.st_ino));
        identity(self).is_some()
            && identity(self) == identity(other)
            && self.mount_namespace() == other.mount_namespace()
    }

    fn directories(&self) -> MutexGuard<'_, Directories> {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets which directories were found where, and trusts none for a while: the call that moves one is about to be let go.
    pub fn forget(&self) {
        let mut directories = self.directories();
        directories.found.clear();
        directories.stale_since = Some(Instant::now());
        directories.forgotten = directories.forgotten.wrapping_add(1);
    }

    /// A directory that does not exist is looked for each time: it may come into being by a call that is not intercepted. It is
    /// looked for without the lock: should a file system hang, whoever looks for a directory elsewhere goes on.
    fn directory(&self, path: &str) -> Option<Arc<Found>> {
        let is_young = |moment: &Instant| moment.elapsed() < DIRECTORY_LIFETIME;
        let forgotten = {
            let mut directories = self.directories();
            if let Some((_, found)) = directories.found.get(path).filter(|(found_at, _)| is_young(found_at)) {
                return Some(Arc::clone(found));
            }
            directories.found.remove(path);
            directories.forgotten
        };
        let began = Instant::now();
        let found = Arc::new(foreign_root::identify_in_root(self.root.as_fd(), path.as_bytes()).ok()??);
        let mut directories = self.directories();
        if directories.forgotten == forgotten && !directories.stale_since.as_ref().is_some_and(is_young) {
            directories.found.insert(path.to_owned(), (began, Arc::clone(&found)));
        }
        Some(found)
    }

    /// Text of the link `name` in `directory`.
    fn link(&self, directory: &str, name: &str) -> Option<String> {
        let parent = self.directory(directory)?;
        rustix::fs::readlinkat(&parent.fd, name, Vec::new()).ok()?.into_string().ok()
    }
}

/// The numbers of an open directory now: they may change when an overlay copies it up.
fn numbers_of(directory: &Found) -> Option<ObjectId> {
    let status = rustix::fs::fstat(&directory.fd).ok()?;
    Some(ObjectId { device: status.st_dev, inode: status.st_ino })
}

/// The entry `name` of an open directory, whose numbers are `parent`; a link is not followed.
fn entry_in(directory: &Found, parent: Option<ObjectId>, name: &[u8]) -> Place {
    let status = rustix::fs::statat(&directory.fd, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT).ok();
    Place {
        parent,
        directory: None,
        slash: false,
        name: name.to_vec(),
        object: status.map(|status| Object {
            id: ObjectId { device: status.st_dev, inode: status.st_ino },
            kind: ObjectKind::of(status.st_mode),
            likeness: Likeness::of(&status, || file_system_of(&directory.fd)),
            handle: None,
        }),
        path: None,
    }
}

/// `/a/b` → (`/a`, `b`); `/a` → (`/`, `a`).
fn split(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((directory, name)) => (directory, name),
        None => ("/", path),
    }
}

impl RootView for ContainerRoot {
    fn entry(&self, directory: &str, name: &str) -> Place {
        self.entries(directory, &[name]).pop().unwrap_or_default()
    }

    fn entries(&self, directory: &str, names: &[&str]) -> Vec<Place> {
        let directory = self.directory(directory).map(|directory| (numbers_of(&directory), directory));
        let entry = |name: &&str| match &directory {
            Some((parent, directory)) => entry_in(directory, *parent, name.as_bytes()),
            None => Place::default(),
        };
        names.iter().map(entry).collect()
    }

    fn look_up(&self, path: &str, follow: Follow) -> Place {
        let mut path = path.trim_end_matches('/').to_owned();
        for _ in 0..MAX_LINKS {
            let (directory, name) = split(&path);
            if matches!(name, "" | "." | "..") {
                break;
            }
            let place = self.entry(directory, name);
            let is_link = place.object.as_ref().is_some_and(|object| object.kind == ObjectKind::Symlink);
            if !is_link || follow != Follow::Last {
                return place;
            }
            let Some(text) = self.link(directory, name) else { return place };
            let text = text.trim_end_matches('/');
            path = if text.starts_with('/') { text.to_owned() } else { format!("{directory}/{text}") };
        }
        // the root, or a path whose last part is no name: only the object can be told
        let path = if path.is_empty() { "/" } else { &path };
        let found = foreign_root::identify_in_root(self.root.as_fd(), path.as_bytes()).ok().flatten();
        Place { object: found.map(object_of), ..Place::default() }
    }

    fn mount_namespace(&self) -> Option<ObjectId> {
        let status = rustix::fs::fstat(self.mounts.as_ref()?).ok()?;
        Some(ObjectId { device: status.st_dev, inode: status.st_ino })
    }

    fn names(&self, directory: &str, max: usize) -> Vec<Vec<u8>> {
        foreign_root::list_directory_in_root(self.root.as_fd(), directory.as_bytes(), max).unwrap_or_default()
    }
}

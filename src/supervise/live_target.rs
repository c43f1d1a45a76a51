//! The [`Target`] that is a real thread waiting at a listener.
//!
//! Every answer is checked after it was read: only while the notification is still valid did the thread id mean its caller
//! all the time (`pitfalls.md` 14).

use std::cell::OnceCell;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::StatxAttributes;
use rustix::fs::StatxFlags;

use crate::kernel::Errno;
use crate::kernel::foreign_root::Base;
use crate::kernel::foreign_root::FileHandle;
use crate::kernel::foreign_root::Follow;
use crate::kernel::foreign_root::Found;
use crate::kernel::foreign_root::ResolveError;
use crate::kernel::foreign_root::Resolved;
use crate::kernel::foreign_root::Restrictions;
use crate::kernel::foreign_root::Searched;
use crate::kernel::foreign_root::Task;
use crate::kernel::pidfd;
use crate::kernel::pidfd::PidfdError;
use crate::kernel::remote_memory;
use crate::kernel::remote_memory::ReadError;
use crate::kernel::remote_memory::Unverified;
use crate::kernel::seccomp_notify::Listener;
use crate::kernel::seccomp_notify::Notification;
use crate::kernel::thread;
use crate::kernel::thread::Limit;
use crate::model::attempt::ObjectId;
use crate::supervise::target::Likeness;
use crate::supervise::target::Object;
use crate::supervise::target::ObjectKind;
use crate::supervise::target::Place;
use crate::supervise::target::Target;
use crate::supervise::target::TargetError;
use crate::supervise::target::file_system_of;

/// First major number of `/dev/pts/N` (Documentation/admin-guide/devices.txt, "Unix98 PTY slaves").
const UNIX98_MAJOR: u32 = 136;

/// A thread that waits for an answer.
pub struct LiveTarget<'a> {
    listener: &'a Listener,
    id: u64,
    tid: u32,
    task: OnceCell<Task>,
    keeps_searched: bool,
}

impl<'a> LiveTarget<'a> {
    /// The thread behind `notification`, which `listener` delivered.
    #[must_use]
    pub fn new(listener: &'a Listener, notification: &Notification) -> Self {
        Self { listener, id: notification.id, tid: notification.tid, task: OnceCell::new(), keeps_searched: false }
    }

    /// The same; directories in which something is looked up are kept for [`LiveTarget::take_searched`].
    #[must_use]
    pub fn keeping_searched(self) -> Self {
        Self { keeps_searched: true, ..self }
    }

    /// What was searched since the last time.
    #[must_use]
    pub fn take_searched(&self) -> Vec<Searched> {
        self.task.get().map(Task::take_searched).unwrap_or_default()
    }

    fn task(&self) -> Result<&Task, TargetError> {
        if let Some(task) = self.task.get() {
            return Ok(task);
        }
        let mut task = Task::open(self.tid).map_err(refused)?;
        if self.keeps_searched {
            task.keep_searched();
        }
        Ok(self.task.get_or_init(|| task))
    }

    fn valid<T>(&self, value: T) -> Result<T, TargetError> {
        if self.listener.is_valid(self.id) { Ok(value) } else { Err(TargetError::Gone) }
    }

    fn verified<T>(&self, read: Result<Unverified<T>, ReadError>) -> Result<T, TargetError> {
        let unreadable = |address, errno| Err(TargetError::Unreadable { address, errno });
        match read {
            Ok(value) => value.verify(self.listener, self.id).ok_or(TargetError::Gone),
            // an errno is given to the process, so it must be about the process
            Err(error) => self.valid(error).and_then(|error| match error {
                ReadError::Fault { address, .. } => unreadable(address, Errno::FAULT),
                ReadError::TooLong { address, .. } => unreadable(address, Errno::NAMETOOLONG),
                ReadError::Gone { .. } => Err(TargetError::Gone),
                ReadError::Refused { .. } | ReadError::Hidden { .. } => Err(TargetError::Unable(error.to_string())),
            }),
        }
    }

    fn found(&self, base: Base) -> Result<Found, TargetError> {
        let found = match base {
            Base::Descriptor(fd) => self.task()?.descriptor(fd),
            Base::Cwd | Base::Root => self
                .task()?
                .resolve(base, b".", Follow::Last)
                .and_then(|resolved| resolved.object.ok_or(ResolveError::Answer(Errno::NOENT))),
        };
        found.map_err(refused)
    }
}

fn refused(error: ResolveError) -> TargetError {
    match error {
        ResolveError::Answer(errno) => TargetError::Nowhere(errno),
        ResolveError::TaskGone { .. } => TargetError::Gone,
        ResolveError::Unable { .. } => TargetError::Unable(error.to_string()),
    }
}

/// What the kernel room found, as an object.
#[must_use]
pub fn object_of(found: Found) -> Object {
    let status = || rustix::fs::fstat(&found.fd).ok();
    let likeness = if found.links > 1 { status() } else { None };
    Object {
        id: ObjectId { device: found.device, inode: found.inode },
        kind: ObjectKind::of(found.mode),
        likeness: likeness.and_then(|status| Likeness::of(&status, || file_system_of(&found.fd))),
        handle: Some(Arc::new(found.fd)),
    }
}

fn place_of(resolved: Resolved) -> Place {
    Place {
        parent: resolved.parent_id.map(|(device, inode)| ObjectId { device, inode }),
        directory: resolved.parent.map(Arc::new),
        slash: resolved.trailing_slash,
        name: resolved.name,
        object: resolved.object.map(object_of),
        path: resolved.path,
    }
}

impl Target for LiveTarget<'_> {
    fn bytes(&self, address: u64, length: usize) -> Result<Vec<u8>, TargetError> {
        self.verified(remote_memory::read_bytes(self.tid, address, length))
    }

    fn path(&self, address: u64) -> Result<Vec<u8>, TargetError> {
        self.verified(remote_memory::read_path(self.tid, address))
    }

    fn resolve_restricted(
        &self,
        base: Base,
        path: &[u8],
        follow: Follow,
        restrictions: Restrictions,
    ) -> Result<Place, TargetError> {
        let resolved = self.task()?.resolve_restricted(base, path, follow, restrictions);
        self.valid(resolved)?.map(place_of).map_err(refused)
    }

    fn object(&self, base: Base) -> Result<Object, TargetError> {
        let found = self.found(base);
        self.valid(found)?.map(object_of)
    }

    fn by_handle(&self, mount: i32, kind: i32, handle: Vec<u8>) -> Result<Object, TargetError> {
        let found = self.task()?.object_by_handle(mount, FileHandle { kind, bytes: handle });
        self.valid(found)?.map(object_of).map_err(refused)
    }

    fn mount_namespace(&self) -> Result<ObjectId, TargetError> {
        let namespace = self.task()?.mount_namespace();
        self.valid(namespace)?.map(|(device, inode)| ObjectId { device, inode }).map_err(refused)
    }

    fn shown_namespaces(&self) -> Result<[Arc<OwnedFd>; 4], TargetError> {
        let opened = self.valid(thread::namespaces(self.tid, ["pid", "net", "ipc", "cgroup"]))?;
        opened.map(|all| all.map(Arc::new)).map_err(|error| TargetError::Unable(error.to_string()))
    }

    fn descriptor(&self, number: i32) -> Result<OwnedFd, TargetError> {
        let copied = pidfd::copy_descriptor_of_thread(self.tid, number);
        self.valid(copied)?.map_err(|error| match error {
            PidfdError::Copy { source: Errno::BADF, .. } => TargetError::Nowhere(Errno::BADF),
            error => TargetError::Unable(error.to_string()),
        })
    }

    /// Where it cannot be told, what is given to the process is refused when it is.
    fn has_free_descriptor(&self) -> bool {
        thread::has_free_descriptor(self.tid).unwrap_or(true)
    }

    fn file_size_limit(&self) -> Option<u64> {
        thread::soft_limit(self.tid, Limit::FileBytes).ok().flatten()
    }

    fn controlling_terminal(&self) -> Result<Object, TargetError> {
        let number = self.valid(thread::controlling_terminal(self.tid))?;
        let device = number.map_err(|error| TargetError::Unable(error.to_string()))?;
        let none = || Err(TargetError::Nowhere(Errno::NXIO));
        let Some(device) = device else { return none() };
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let pseudo =
            format!("/dev/pts/{}", major.saturating_sub(UNIX98_MAJOR).saturating_mul(256).saturating_add(minor));
        for path in [pseudo.as_str(), "/dev/console"] {
            let found = self.resolve(Base::Cwd, path.as_bytes(), Follow::Last).ok().and_then(|place| place.object);
            let is_it = |object: &Object| {
                let status = object.handle.as_ref().and_then(|handle| rustix::fs::fstat(handle).ok());
                status.is_some_and(|status| status.st_rdev == device)
            };
            if let Some(terminal) = found.filter(is_it) {
                return Ok(terminal);
            }
        }
        none()
    }

    fn is_own_process_directory(&self, directory: &OwnedFd) -> bool {
        self.task().is_ok_and(|task| task.is_own_process_directory(directory.as_fd()))
    }

    /// `STATX_ATTR_MOUNT_ROOT`, Linux 5.8 (statx(2)).
    fn is_mount_root(&self, object: &Object) -> Option<bool> {
        let handle = object.handle.as_ref()?;
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        let status = rustix::fs::statx(handle.as_ref(), c"", flags, StatxFlags::TYPE).ok()?;
        let known = status.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT);
        known.then(|| status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
    }

    /// Opened anew through our own descriptor of it, which is known to be a regular file: nothing can block or be swapped.
    fn content(&self, object: &Object, max_bytes: usize) -> Option<Vec<u8>> {
        let handle = object.handle.as_ref().filter(|_| object.kind == ObjectKind::Regular)?;
        let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(CWD, path, flags, Mode::empty()).ok()?;
        let mut content = Vec::new();
        std::fs::File::from(file).take(max_bytes as u64).read_to_end(&mut content).ok()?;
        Some(content)
    }
}

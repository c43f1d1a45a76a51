//! The operations themselves. Each takes descriptors and names without another look at the path that led to them.
//!
//! The working directory is the helper's own `/proc/self/fd`: there, the number of a descriptor is a path that leads to its
//! object and nowhere else (proc_pid_fd(5)), for calls that know no other way.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use nix::mount::MsFlags;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use rustix::fs::Access;
use rustix::fs::AtFlags;
use rustix::fs::FileType;
use rustix::fs::Gid;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::RenameFlags;
use rustix::fs::Uid;
use rustix::fs::XattrFlags;
use rustix::mount::MoveMountFlags;
use rustix::mount::OpenTreeFlags;
use rustix::mount::UnmountFlags;
use rustix::process::Resource;
use rustix::process::Rlimit;

use crate::kernel::Errno;
use crate::kernel::broker::configure;
use crate::kernel::broker::file_system::FileSystem;
use crate::kernel::broker::file_system::Namespaces;
use crate::kernel::broker::message::Done;
use crate::kernel::broker::message::Mount;
use crate::kernel::broker::message::Operation;
use crate::kernel::broker::message::Subject;

/// What the helper works with.
pub(super) struct Hands {
    /// Its own `/proc/self/fd`, of the machine's procfs.
    pub own: OwnedFd,
}

type Outcome = Result<Done, Errno>;

const VALUE: Done = Done::Value(0);

impl Hands {
    /// Carries `operation` out with whatever credentials the thread wears.
    ///
    /// # Errors
    /// The errno that the target is to get. `EBADF` also for a message without the descriptors that belong to it.
    pub fn perform(&self, operation: &Operation, descriptors: Vec<OwnedFd>) -> Outcome {
        match operation {
            Operation::Search { links } => search(&descriptors, links),
            Operation::Open { flags, mode } => self.open(first(&descriptors)?, *flags, *mode),
            Operation::OpenEntry { name, flags, mode, existing } => {
                self.open_entry(first(&descriptors)?, name, *flags, *mode, *existing)
            }
            Operation::Rename { old, new, flags } => {
                let (from, to) = both(&descriptors)?;
                let flags = RenameFlags::from_bits_retain(*flags);
                rustix::fs::renameat_with(from, old.as_slice(), to, new.as_slice(), flags).map(|()| VALUE)
            }
            Operation::LinkEntry { old, new } => {
                let (from, to) = both(&descriptors)?;
                rustix::fs::linkat(from, old.as_slice(), to, new.as_slice(), AtFlags::empty()).map(|()| VALUE)
            }
            Operation::LinkObject { new } => {
                let (object, to) = both(&descriptors)?;
                let follow = AtFlags::SYMLINK_FOLLOW;
                rustix::fs::linkat(&self.own, number(object), to, new.as_slice(), follow).map(|()| VALUE)
            }
            Operation::Symlink { text, name } => {
                rustix::fs::symlinkat(text.as_slice(), first(&descriptors)?, name.as_slice()).map(|()| VALUE)
            }
            Operation::MakeNode { name, mode, device } => make_node(first(&descriptors)?, name, *mode, *device),
            Operation::Unlink { name, directory } => {
                let flags = if *directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                rustix::fs::unlinkat(first(&descriptors)?, name.as_slice(), flags).map(|()| VALUE)
            }
            Operation::Truncate { length, limit } => {
                let path = number(first(&descriptors)?);
                within(*limit, || nix::unistd::truncate(path.as_str(), *length).map(|()| VALUE).map_err(errno))
            }
            Operation::ChangeMode { subject, mode } => self.change_mode(first(&descriptors)?, subject, *mode),
            Operation::ChangeOwner { subject, uid, gid } => {
                self.change_owner(first(&descriptors)?, subject, uid.map(Uid::from_raw), gid.map(Gid::from_raw))
            }
            Operation::SetAttribute { subject, name, value, flags } => {
                let flags = XattrFlags::from_bits_retain(*flags);
                let name = name.as_slice();
                self.attribute(first(&descriptors)?, subject, |at| match at {
                    At::Path(path) => rustix::fs::setxattr(path, name, value, flags),
                    At::Entry(path) => rustix::fs::lsetxattr(path, name, value, flags),
                    At::Descriptor(fd) => rustix::fs::fsetxattr(fd, name, value, flags),
                })
            }
            Operation::RemoveAttribute { subject, name } => {
                let name = name.as_slice();
                self.attribute(first(&descriptors)?, subject, |at| match at {
                    At::Path(path) => rustix::fs::removexattr(path, name),
                    At::Entry(path) => rustix::fs::lremovexattr(path, name),
                    At::Descriptor(fd) => rustix::fs::fremovexattr(fd, name),
                })
            }
            Operation::Mount(mount) => self.mount(mount, &descriptors),
        }
    }

    /// The object itself, opened anew: its permissions are checked as for any open(2).
    fn open(&self, object: BorrowedFd<'_>, flags: u32, mode: u32) -> Outcome {
        let asked = OFlags::from_bits_retain(flags);
        if asked.contains(OFlags::TMPFILE) {
            // by the directory itself, so that the descriptor shows all flags that were asked for
            return rustix::fs::openat(object, c".", asked | OFlags::CLOEXEC, Mode::from_raw_mode(mode))
                .map(Done::Descriptor);
        }
        if asked.contains(OFlags::NOFOLLOW) {
            // for the same reason, where the directory may be searched: a path to it most often says so
            match rustix::fs::openat(object, c".", without_making(asked) | OFlags::CLOEXEC, Mode::empty()) {
                Err(Errno::ACCESS | Errno::NOTDIR) => {}
                opened => return opened.map(Done::Descriptor),
            }
        }
        let flags = without_making(asked).difference(OFlags::NOFOLLOW);
        self.open_object(object, flags, mode).map(Done::Descriptor)
    }

    fn open_object(&self, object: BorrowedFd<'_>, flags: OFlags, mode: u32) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.own, number(object), flags | OFlags::CLOEXEC, Mode::from_raw_mode(mode))
    }

    /// open(2) by an entry. What is there is opened without `O_TRUNC` first: it is emptied only once it is known to be what
    /// was decided about. The descriptor shows the flags that were asked for and no others (fcntl(2), F_GETFL).
    fn open_entry(
        &self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        flags: u32,
        mode: u32,
        existing: Option<(u64, u64)>,
    ) -> Outcome {
        let asked = OFlags::from_bits_retain(flags);
        let mode = Mode::from_raw_mode(mode);
        let Some(existing) = existing.filter(|_| !asked.contains(OFlags::CREATE | OFlags::EXCL)) else {
            // with both flags the last component is never followed (open(2), "O_EXCL")
            let fixed = asked | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            return match rustix::fs::openat(directory, name, fixed, mode) {
                Err(Errno::EXIST) if !asked.contains(OFlags::EXCL) => Ok(Done::Again),
                made => made.map(Done::Descriptor),
            };
        };
        let first = asked.difference(OFlags::TRUNC) | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match rustix::fs::openat(directory, name, first, mode) {
            // a link has taken its place
            Err(Errno::LOOP) if !asked.contains(OFlags::NOFOLLOW) => return Ok(Done::Again),
            other => other?,
        };
        let status = rustix::fs::fstat(&opened)?;
        if (status.st_dev, status.st_ino) != existing {
            return Ok(Done::Again);
        }
        if !asked.contains(OFlags::NOFOLLOW) {
            return self.open_object(opened.as_fd(), without_making(asked), 0).map(Done::Descriptor);
        }
        if asked.contains(OFlags::TRUNC) {
            self.open_object(opened.as_fd(), OFlags::WRONLY | OFlags::TRUNC | OFlags::NONBLOCK, 0)?;
        }
        Ok(Done::Descriptor(opened))
    }

    fn change_mode(&self, descriptor: BorrowedFd<'_>, subject: &Subject, mode: u32) -> Outcome {
        let mode = Mode::from_raw_mode(mode);
        match subject {
            Subject::Object => rustix::fs::chmodat(&self.own, number(descriptor), mode, AtFlags::empty()),
            // the only entry that is not followed and has no object of its own is a link: its mode cannot be changed
            Subject::Entry(_) => Err(Errno::OPNOTSUPP),
            Subject::Descriptor => rustix::fs::fchmod(descriptor, mode),
        }
        .map(|()| VALUE)
    }

    fn change_owner(
        &self,
        descriptor: BorrowedFd<'_>,
        subject: &Subject,
        uid: Option<Uid>,
        gid: Option<Gid>,
    ) -> Outcome {
        match subject {
            Subject::Object => rustix::fs::chownat(&self.own, number(descriptor), uid, gid, AtFlags::empty()),
            Subject::Entry(name) => {
                rustix::fs::chownat(descriptor, name.as_slice(), uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            }
            Subject::Descriptor => rustix::fs::fchown(descriptor, uid, gid),
        }
        .map(|()| VALUE)
    }

    fn attribute(
        &self,
        descriptor: BorrowedFd<'_>,
        subject: &Subject,
        act: impl FnOnce(At<'_>) -> Result<(), Errno>,
    ) -> Outcome {
        match subject {
            Subject::Object => act(At::Path(&number(descriptor))),
            Subject::Entry(name) => self.inside(descriptor, || act(At::Entry(name))),
            Subject::Descriptor => act(At::Descriptor(descriptor)),
        }
        .map(|()| VALUE)
    }

    /// Does something with `directory` as working directory.
    fn inside<T>(&self, directory: BorrowedFd<'_>, act: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        rustix::process::fchdir(directory)?;
        let outcome = act();
        rustix::process::fchdir(&self.own)?;
        outcome
    }

    fn mount(&self, mount: &Mount, descriptors: &[OwnedFd]) -> Outcome {
        const EMPTY: OpenTreeFlags = OpenTreeFlags::AT_EMPTY_PATH;
        match mount {
            Mount::New { source, kind, flags, data } => {
                let data = data.as_ref().map(|parts| configure::text(parts, descriptors)).transpose()?;
                let texts = [source.clone(), kind.clone(), data];
                let [source, kind, data] = texts.map(|text| text.map(CString::new).transpose());
                let (source, kind, data) = (text(source)?, text(kind)?, text(data)?);
                let flags = MsFlags::from_bits_retain(*flags);
                let [point, pid, net, ipc, cgroup, ..] = descriptors else { return Err(Errno::BADF) };
                let [pid, net, ipc, cgroup] = [pid, net, ipc, cgroup].map(AsFd::as_fd);
                let namespaces = Namespaces { pid, net, ipc, cgroup };
                let (source, kind, data) = (source.as_deref(), kind.as_deref(), data.as_deref());
                let new = FileSystem { source, kind, flags, data };
                new.mount((point.as_fd(), &number(point.as_fd())), &namespaces, self.own.as_fd())?;
            }
            Mount::Configure { key, configured } => configure::set(key, configured, descriptors)?,
            Mount::Bind { recursive } => {
                let (source, target) = both(descriptors)?;
                let depth = if *recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
                let how = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | EMPTY | depth;
                let tree = rustix::mount::open_tree(source, c"", how)?;
                move_mount(tree.as_fd(), target, 0)?;
            }
            Mount::Move { flags } => {
                let (source, target) = both(descriptors)?;
                move_mount(source, target, *flags)?;
            }
            Mount::OpenTree { flags } => {
                let how = OpenTreeFlags::from_bits_retain(*flags) | EMPTY;
                return rustix::mount::open_tree(first(descriptors)?, c"", how).map(Done::Descriptor);
            }
            Mount::Unmount { name, flags } => {
                let flags = UnmountFlags::from_bits_retain(*flags) | UnmountFlags::NOFOLLOW;
                self.inside(first(descriptors)?, || rustix::mount::unmount(name.as_slice(), flags))?;
            }
        }
        Ok(VALUE)
    }
}

/// Where an attribute is set.
enum At<'a> {
    Path(&'a str),
    Entry(&'a [u8]),
    Descriptor(BorrowedFd<'a>),
}

fn move_mount(source: BorrowedFd<'_>, target: BorrowedFd<'_>, flags: u32) -> Result<(), Errno> {
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(source, c"", target, c"", MoveMountFlags::from_bits_retain(flags) | empty)
}

/// Path of a descriptor's object in `/proc/self/fd`.
pub(super) fn number(descriptor: BorrowedFd<'_>) -> String {
    descriptor.as_raw_fd().to_string()
}

pub(super) fn first(descriptors: &[OwnedFd]) -> Result<BorrowedFd<'_>, Errno> {
    descriptors.first().map(AsFd::as_fd).ok_or(Errno::BADF)
}

pub(super) fn both(descriptors: &[OwnedFd]) -> Result<(BorrowedFd<'_>, BorrowedFd<'_>), Errno> {
    match descriptors {
        [one, two, ..] => Ok((one.as_fd(), two.as_fd())),
        _ => Err(Errno::BADF),
    }
}

/// "EACCES: search permission is denied for a component of the path prefix", in the order in which they were searched. A link
/// into another process takes what ptrace(2) calls PTRACE_MODE_READ_FSCREDS, which reading its text asks for too.
fn search(directories: &[OwnedFd], links: &[Option<Vec<u8>>]) -> Outcome {
    for (directory, link) in directories.iter().zip(links) {
        match link {
            None => rustix::fs::accessat(directory, c".", Access::EXEC_OK, AtFlags::EACCESS)?,
            Some(link) => drop(rustix::fs::readlinkat(directory, link.as_slice(), Vec::new())?),
        }
    }
    Ok(VALUE)
}

/// Does something with `limit` as the largest size to which a file may be extended. The signal that tells of it is blocked here.
fn within<T>(limit: Option<u64>, act: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    if limit.is_none() {
        return act();
    }
    SigSet::from(Signal::SIGXFSZ).thread_block().map_err(errno)?;
    let own = rustix::process::getrlimit(Resource::Fsize);
    rustix::process::setrlimit(Resource::Fsize, Rlimit { current: limit, maximum: own.maximum })?;
    let outcome = act();
    rustix::process::setrlimit(Resource::Fsize, own)?;
    outcome
}

/// mknod(2): "zero file type is equivalent to type S_IFREG".
fn make_node(directory: BorrowedFd<'_>, name: &[u8], mode: u32, device: u32) -> Outcome {
    const TYPE: u32 = 0o170_000;
    let kind = match (mode & TYPE, FileType::from_raw_mode(mode)) {
        (0, _) => FileType::RegularFile,
        (_, FileType::Unknown) => return Err(Errno::INVAL),
        (_, kind) => kind,
    };
    rustix::fs::mknodat(directory, name, kind, Mode::from_raw_mode(mode & !TYPE), u64::from(device)).map(|()| VALUE)
}

fn text(text: Result<Option<CString>, std::ffi::NulError>) -> Result<Option<CString>, Errno> {
    text.map_err(|_| Errno::INVAL)
}

fn errno(errno: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(errno as i32)
}

/// The flags with which what is there is opened. `O_EXCL` is about making only beside `O_CREAT`: a block device is claimed by it (open(2)).
fn without_making(asked: OFlags) -> OFlags {
    if asked.contains(OFlags::CREATE) { asked.difference(OFlags::CREATE | OFlags::EXCL) } else { asked }
}

//! A new file system on a mount point: mount(2) without `MS_BIND`, `MS_MOVE` and `MS_REMOUNT`.
//!
//! Some file systems show a namespace of whoever mounts them: sysfs the network's (fs/sysfs/mount.c), mqueue the IPC's (ipc/mqueue.c),
//! cgroup and cgroup2 the control groups' (kernel/cgroup/cgroup.c), proc the processes' (fs/proc/root.c). So the helper
//! mounts in a thread that has entered the target's. Into a pid namespace no thread can go, and a helper that lived there would be
//! at the mercy of the target's processes, outside of their seccomp filter: there a child is born that may do nothing but
//! fsopen(2), and the rest is done from here.

use std::ffi::CStr;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use nix::mount::MsFlags;
use rustix::fs::AtFlags;
use rustix::fs::StatxAttributes;
use rustix::fs::StatxFlags;
use rustix::mount::FsMountFlags;
use rustix::mount::MountAttrFlags;
use rustix::mount::MoveMountFlags;
use rustix::thread::LinkNameSpaceType;

use crate::kernel::Errno;
use crate::kernel::raw::born_elsewhere;

/// The namespaces of the target that a file system may show. Entered as far as the target's capabilities go.
pub(super) struct Namespaces<'a> {
    pub pid: BorrowedFd<'a>,
    pub net: BorrowedFd<'a>,
    pub ipc: BorrowedFd<'a>,
    pub cgroup: BorrowedFd<'a>,
}

/// What is to be mounted.
pub(super) struct FileSystem<'a> {
    pub source: Option<&'a CStr>,
    pub kind: Option<&'a CStr>,
    pub flags: MsFlags,
    pub data: Option<&'a CStr>,
}

impl FileSystem<'_> {
    /// Mounts it on `point`. `own`: the helper's `/proc/self/fd`, where `point` has its number for a name.
    pub fn mount(
        &self,
        point: (BorrowedFd<'_>, &str),
        namespaces: &Namespaces<'_>,
        own: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        let kind = self.kind.ok_or(Errno::INVAL)?;
        if kind == c"proc" {
            let context = in_a_thread(|| open_in_pid_namespace(kind, namespaces.pid, own))?;
            return self.mount_context(&context, point.0);
        }
        in_a_thread(|| {
            enter(kind, namespaces)?;
            nix::mount::mount(self.source, point.1, Some(kind), self.flags, self.data)
                .map_err(|errno| Errno::from_raw_os_error(errno as i32))
        })
    }

    /// The rest of what mount(2) does after fsopen(2) (fs/namespace.c, `do_new_mount`, `path_mount`).
    fn mount_context(&self, context: &OwnedFd, point: BorrowedFd<'_>) -> Result<(), Errno> {
        if let Some(source) = self.source {
            rustix::mount::fsconfig_set_string(context.as_fd(), c"source", source)?;
        }
        let options = self.data.map(CStr::to_bytes).unwrap_or_default();
        for option in options.split(|byte| *byte == b',').filter(|option| !option.is_empty()) {
            match option.iter().position(|byte| *byte == b'=') {
                Some(0) => {}
                Some(equals) => {
                    let (key, value) = option.split_at(equals);
                    let value = value.get(1..).unwrap_or_default();
                    rustix::mount::fsconfig_set_string(context.as_fd(), key, value)?;
                }
                None => rustix::mount::fsconfig_set_flag(context.as_fd(), option)?,
            }
        }
        for (flag, word) in [
            (MsFlags::MS_RDONLY, c"ro"),
            (MsFlags::MS_SYNCHRONOUS, c"sync"),
            (MsFlags::MS_DIRSYNC, c"dirsync"),
            (MsFlags::MS_MANDLOCK, c"mand"),
            (MsFlags::MS_LAZYTIME, c"lazytime"),
        ] {
            if self.flags.contains(flag) {
                rustix::mount::fsconfig_set_flag(context.as_fd(), word)?;
            }
        }
        rustix::mount::fsconfig_create(context.as_fd())?;
        let tree = rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes(self.flags))?;
        if is_mounted_there(tree.as_fd(), point)? {
            return Err(Errno::BUSY);
        }
        let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(tree.as_fd(), c"", point, c"", empty)
    }
}

/// "The source filesystem is already mounted on target" (mount(2), `EBUSY`).
fn is_mounted_there(tree: BorrowedFd<'_>, point: BorrowedFd<'_>) -> Result<bool, Errno> {
    let of = |descriptor| rustix::fs::statx(descriptor, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
    let (tree, point) = (of(tree)?, of(point)?);
    let is_root = point.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    Ok(is_root && (tree.stx_dev_major, tree.stx_dev_minor) == (point.stx_dev_major, point.stx_dev_minor))
}

/// `MS_NOSYMFOLLOW` (linux/mount.h, Linux 5.10).
const NO_LINKS: MsFlags = MsFlags::from_bits_retain(256);

fn attributes(flags: MsFlags) -> MountAttrFlags {
    let table = [
        (MsFlags::MS_RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (MsFlags::MS_NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (MsFlags::MS_NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
        (MsFlags::MS_NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (MsFlags::MS_NODIRATIME, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
        (NO_LINKS, MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW),
    ];
    let of_times = if flags.contains(MsFlags::MS_STRICTATIME) {
        MountAttrFlags::MOUNT_ATTR_STRICTATIME
    } else if flags.contains(MsFlags::MS_NOATIME) {
        MountAttrFlags::MOUNT_ATTR_NOATIME
    } else {
        MountAttrFlags::MOUNT_ATTR_RELATIME
    };
    let asked = table.into_iter().filter(|(flag, _)| flags.contains(*flag));
    asked.fold(of_times, |all, (_, attribute)| all | attribute)
}

/// Enters what `kind` shows; of the rest what may be entered: it matters to no file system that a target can mount which may not
/// enter it.
fn enter(kind: &CStr, namespaces: &Namespaces<'_>) -> Result<(), Errno> {
    let all = [
        (namespaces.net, LinkNameSpaceType::Network, &[c"sysfs"][..]),
        (namespaces.ipc, LinkNameSpaceType::InterProcessCommunication, &[c"mqueue"]),
        (namespaces.cgroup, LinkNameSpaceType::ControlGroup, &[c"cgroup", c"cgroup2"]),
    ];
    for (namespace, what, shown_by) in all {
        let entered = rustix::thread::move_into_link_name_space(namespace, Some(what));
        if shown_by.contains(&kind) {
            entered?;
        }
    }
    Ok(())
}

fn open_in_pid_namespace(kind: &CStr, pid: BorrowedFd<'_>, own: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    rustix::thread::move_into_link_name_space(pid, Some(LinkNameSpaceType::ProcessID))?;
    born_elsewhere::confine()?;
    let number = born_elsewhere::fsopen_by_child(kind)?;
    // a process of the target's that traces the child (ptrace(2)) may have it say any number
    let link = rustix::fs::readlinkat(own, number.to_string(), Vec::new())?;
    if link.as_bytes() == b"anon_inode:[fscontext]" { born_elsewhere::take_over(number) } else { Err(Errno::PERM) }
}

/// In a thread of its own, which takes with it what it entered and what it gave up.
fn in_a_thread<T: Send>(act: impl FnOnce() -> Result<T, Errno> + Send) -> Result<T, Errno> {
    std::thread::scope(|scope| scope.spawn(act).join().unwrap_or(Err(Errno::IO)))
}

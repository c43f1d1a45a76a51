//! What a helper is asked and what it answers. Paths are bytes. Ids to be set (chown) are those of the target's user namespace.

use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use serde::Deserialize;
use serde::Serialize;

use crate::kernel::Errno;
use crate::kernel::broker::Credentials;

/// The first message: with it come the mount namespace and, when `has_user`, the user namespace to enter.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entrance {
    /// Capabilities that it may ever have.
    pub capabilities: u64,
    /// Whether a user namespace comes too.
    pub has_user: bool,
    /// Ids to take on before entering it.
    pub brings: Option<Credentials>,
    /// Whether the listener comes last.
    pub has_listener: bool,
}

/// Every later message.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// As whom.
    pub credentials: Credentials,
    /// What.
    pub operation: Operation,
    /// Notification that the helper answers with the outcome when it finds nobody to tell it to: an operation that must not be done
    /// twice. The listener came with [`Entrance`].
    pub call: Option<Call>,
}

/// A call that is answered by the helper if need be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Id of the notification.
    pub id: u64,
    /// Whether a descriptor that is opened for it is closed on exec.
    pub close_on_exec: bool,
}

/// What the mode, owner or attributes are of. The one descriptor that comes with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subject {
    /// An object (`O_PATH`), as after following all links.
    Object,
    /// The entry of that name in a directory, not followed.
    Entry(Vec<u8>),
    /// A descriptor that the target has open.
    Descriptor,
}

/// An operation, and the descriptors that come with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Nothing but making sure that the credentials may search all directories that come with it, and look through the link in
    /// each that names one.
    Search {
        /// One for each directory.
        links: Vec<Option<Vec<u8>>>,
    },
    /// open(2) of an object (`O_PATH`), without creating it. An unnamed file, when `flags` have `O_TMPFILE`.
    Open {
        /// `O_*`.
        flags: u32,
        /// Mode of an unnamed file.
        mode: u32,
    },
    /// open(2) of a name in a directory, which is not followed.
    OpenEntry {
        /// The name.
        name: Vec<u8>,
        /// `O_*`.
        flags: u32,
        /// Mode.
        mode: u32,
        /// Device and inode of what must be there; `None`: nothing must be, and it is created. Else the answer is [`Done::Again`].
        existing: Option<(u64, u64)>,
    },
    /// renameat2(2): two directories.
    Rename {
        /// Name in the first.
        old: Vec<u8>,
        /// Name in the second.
        new: Vec<u8>,
        /// `RENAME_*`.
        flags: u32,
    },
    /// linkat(2): two directories.
    LinkEntry {
        /// Name in the first, not followed.
        old: Vec<u8>,
        /// Name in the second.
        new: Vec<u8>,
    },
    /// linkat(2): an object and a directory.
    LinkObject {
        /// Name in the directory.
        new: Vec<u8>,
    },
    /// symlinkat(2): a directory.
    Symlink {
        /// What the link says.
        text: Vec<u8>,
        /// Its name.
        name: Vec<u8>,
    },
    /// mknodat(2): a directory.
    MakeNode {
        /// Its name.
        name: Vec<u8>,
        /// Type and mode.
        mode: u32,
        /// Device number, as the system call takes it.
        device: u32,
    },
    /// unlinkat(2): a directory.
    Unlink {
        /// The name.
        name: Vec<u8>,
        /// As rmdir(2).
        directory: bool,
    },
    /// truncate(2): an object.
    Truncate {
        /// New length.
        length: i64,
        /// To what length a file may be extended, setrlimit(2).
        limit: Option<u64>,
    },
    /// chmod(2) and its kin.
    ChangeMode {
        /// Of what.
        subject: Subject,
        /// Permission bits.
        mode: u32,
    },
    /// chown(2) and its kin.
    ChangeOwner {
        /// Of what.
        subject: Subject,
        /// New owner; `None` leaves it.
        uid: Option<u32>,
        /// New group; `None` leaves it.
        gid: Option<u32>,
    },
    /// setxattr(2) and its kin.
    SetAttribute {
        /// Of what.
        subject: Subject,
        /// Name.
        name: Vec<u8>,
        /// Value.
        value: Vec<u8>,
        /// `XATTR_*`.
        flags: u32,
    },
    /// removexattr(2) and its kin.
    RemoveAttribute {
        /// Of what.
        subject: Subject,
        /// Name.
        name: Vec<u8>,
    },
    /// Mounts.
    Mount(Mount),
}

/// A part of a text in which descriptors are paths, relative to the helper's working directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// As it stands.
    Text(Vec<u8>),
    /// The number that the helper has for the descriptor that comes at this place.
    Number(usize),
}

/// What a setting of a file system to come is set to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Configured {
    /// `FSCONFIG_SET_STRING`.
    Text(Vec<Part>),
    /// `FSCONFIG_SET_STRING` of a path to the second descriptor's object.
    Layer,
    /// `FSCONFIG_SET_PATH` of a path to the second descriptor's object.
    Object,
    /// `FSCONFIG_SET_PATH` of a path to nothing.
    Nowhere,
    /// `FSCONFIG_SET_FD`: the second descriptor.
    Descriptor,
}

/// What happens to mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mount {
    /// A new file system on a directory: mount(2) without `MS_BIND`, `MS_MOVE`, `MS_REMOUNT`. With it come the mount point and the
    /// target's pid, network, IPC and cgroup namespaces.
    New {
        /// Source, as the file system understands it.
        source: Option<Vec<u8>>,
        /// File system.
        kind: Option<Vec<u8>>,
        /// `MS_*`.
        flags: u64,
        /// Options.
        data: Option<Vec<Part>>,
    },
    /// fsconfig(2): the context of a file system to come, and for some values one more.
    Configure {
        /// Name of the setting.
        key: Vec<u8>,
        /// Its value.
        configured: Configured,
    },
    /// A bind mount: the source, and the mount point.
    Bind {
        /// With the mounts below.
        recursive: bool,
    },
    /// move_mount(2), mount(2) with `MS_MOVE`: what is moved, and the mount point.
    Move {
        /// `MOVE_MOUNT_*` but for those about paths.
        flags: u32,
    },
    /// open_tree(2): an object.
    OpenTree {
        /// `OPEN_TREE_*`, `AT_RECURSIVE`.
        flags: u32,
    },
    /// umount2(2): the directory in which the mount point is.
    Unmount {
        /// Its name there.
        name: Vec<u8>,
        /// `MNT_*`.
        flags: u32,
    },
}

/// An answer on its way.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Carried out; with a descriptor for those that open.
    Done(i64),
    /// The errno that the target gets.
    Failed(i32),
    /// What is at the name is not what was decided about.
    Again,
    /// The helper itself could not do its part.
    Refused {
        /// What failed.
        step: String,
        /// The kernel's answer.
        errno: i32,
    },
}

impl Operation {
    /// The flags of an open that makes the file; `None` for anything else.
    pub(super) fn making_flags(&self) -> Option<OFlags> {
        match self {
            Self::OpenEntry { flags, existing: None, .. } => Some(OFlags::from_bits_retain(*flags)),
            _ => None,
        }
    }
}

/// What became of an operation.
#[derive(Debug)]
pub enum Done {
    /// Carried out; the value of the call.
    Value(i64),
    /// Opened.
    Descriptor(OwnedFd),
    /// It failed as it would have for the target.
    Failed(Errno),
    /// Somebody changed what stands at the name: decide again.
    Again,
}

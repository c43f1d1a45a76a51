//! What a process inside a container tried to do, already resolved: the input of [`crate::model::policy`].

use serde::Deserialize;
use serde::Serialize;

use crate::model::database_path::DatabasePath;

/// Device and inode number: which file, whatever it is called (stat(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectId {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
}

/// How an attempt concerns the account databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Would change a database's content or attributes in place (open for writing, truncate, chmod, chown, xattr).
    Writes,
    /// Would create, replace or remove a database's directory entry (rename, link or symlink to it, unlink, mknod).
    Replaces,
    /// Would give a database a second name by which it could be changed (hard link, bind mount).
    Aliases,
    /// Would replace, hide or move a directory above a database (rename of `/etc`, mount over it, unmount).
    ReplacesAncestor,
    /// Runs a program that administers accounts (useradd, adduser, chpasswd …). Evidence; never refused by itself.
    RunsAccountTool,
    /// Opens a way past the interception (io_uring).
    Bypasses,
    /// Asks for a seccomp listener of its own. The kernel refuses it with EBUSY beside acctguard's (seccomp_unotify(2)).
    Listens,
    /// Its arguments could not be read or resolved, so it is not known to be harmless.
    Unresolved,
}

/// One intercepted call after decoding and resolution, as far as it concerns account databases.
/// Calls that concern none never become an `Attempt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Name of the system call, as in syscalls(2): `openat`, `renameat2` …
    pub call: &'static str,
    /// How it concerns the databases.
    pub effect: Effect,
    /// The database concerned; `None` for [`Effect::Bypasses`], [`Effect::Listens`], [`Effect::Unresolved`] and account tools.
    pub database: Option<DatabasePath>,
    /// The path argument that led to the database, byte for byte as the process gave it. `None` for calls by descriptor.
    pub path_as_asked: Option<Vec<u8>>,
    /// Where the object lies, as a path from the container's root, as far as it could be told.
    pub object_path: Option<Vec<u8>>,
    /// The object itself, when it exists.
    pub object: Option<ObjectId>,
    /// Flags in the names of the man page: `O_WRONLY`, `O_APPEND`, `RENAME_EXCHANGE` …
    pub flags: Vec<&'static str>,
}

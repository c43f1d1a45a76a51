//! What a process inside a container tried to do, already resolved: the input of [`crate::model::policy`].

use std::fmt;

use serde::Deserialize;
use serde::Serialize;

/// Absolute, lexically clean path of an account database as seen from the container's own root,
/// for example `/etc/passwd`. A path that ends in `/` names a whole directory (`/etc/userdb/`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DatabasePath(String);

/// Why a text is not a [`DatabasePath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatabasePathError {
    /// Not absolute.
    #[error("database path {0:?} is not absolute; write it from the container's root, as /opt/app/users")]
    NotAbsolute(String),
    /// Empty, `.` or `..` components, NUL, or the root itself.
    #[error("database path {0:?} is not clean; remove empty, '.' and '..' parts and name a file below /")]
    NotClean(String),
}

impl DatabasePath {
    /// The databases that every policy protects (`architecture.md` §7), and the file that says where accounts are looked up. An entry that ends in `/` stands for
    /// every file directly in that directory.
    pub const BUILT_IN: [&'static str; 11] = [
        "/etc/passwd",
        "/etc/shadow",
        "/etc/group",
        "/etc/gshadow",
        "/etc/subuid",
        "/etc/subgid",
        "/etc/security/opasswd",
        "/etc/nsswitch.conf",
        "/var/lib/extrausers/",
        "/etc/userdb/",
        "/run/userdb/",
    ];

    /// Checks `path` and makes a database path of it.
    ///
    /// # Errors
    /// [`DatabasePathError`] when `path` is relative, is `/`, or has empty, `.` or `..` parts or a NUL byte.
    pub fn new(path: &str) -> Result<Self, DatabasePathError> {
        let Some(rest) = path.strip_prefix('/') else {
            return Err(DatabasePathError::NotAbsolute(path.to_owned()));
        };
        let body = rest.strip_suffix('/').unwrap_or(rest);
        let clean =
            !body.is_empty() && !body.contains('\0') && body.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if clean { Ok(Self(path.to_owned())) } else { Err(DatabasePathError::NotClean(path.to_owned())) }
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this entry stands for every file directly in a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.0.ends_with('/')
    }
}

impl fmt::Display for DatabasePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

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

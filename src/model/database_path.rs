//! Names of account databases. The static launcher is compiled of this, too, without std.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;

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

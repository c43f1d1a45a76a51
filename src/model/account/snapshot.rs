//! All account databases of one root file system at one moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::Digest;
use sha2::Sha256;

use crate::model::account::group::GroupEntry;
use crate::model::account::gshadow::GshadowEntry;
use crate::model::account::lookup::LookupEntry;
use crate::model::account::passwd::PasswdEntry;
use crate::model::account::permissions::Permissions;
use crate::model::account::shadow::ShadowEntry;
use crate::model::account::subid::SubidEntry;
use crate::model::account::table::Table;
use crate::model::database_path::DatabasePath;
use crate::model::event::AccountBaseline;
use crate::model::redact::printable;

/// A database longer than this is not parsed: it counts as one whole.
pub const MAX_PARSED_BYTES: usize = 16 * 1024 * 1024;

/// A database of more lines than this is not parsed: it counts as one whole.
pub const MAX_PARSED_LINES: usize = 100_000;

/// Most names a baseline lists.
const MAX_LISTED_NAMES: usize = 1000;

/// What a database holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// passwd(5).
    Passwd(Table<PasswdEntry>),
    /// shadow(5).
    Shadow(Table<ShadowEntry>),
    /// group(5).
    Group(Table<GroupEntry>),
    /// gshadow(5).
    Gshadow(Table<GshadowEntry>),
    /// subuid(5) and subgid(5).
    Subid(Table<SubidEntry>),
    /// nsswitch.conf(5).
    Lookup(Table<LookupEntry>),
    /// Any other format, or a file too large to be parsed.
    Whole,
}

impl Content {
    /// The table, when it is a passwd.
    #[must_use]
    pub fn passwd(&self) -> Option<&Table<PasswdEntry>> {
        if let Self::Passwd(table) = self { Some(table) } else { None }
    }

    /// The table, when it is a shadow.
    #[must_use]
    pub fn shadow(&self) -> Option<&Table<ShadowEntry>> {
        if let Self::Shadow(table) = self { Some(table) } else { None }
    }

    /// The table, when it is a group.
    #[must_use]
    pub fn group(&self) -> Option<&Table<GroupEntry>> {
        if let Self::Group(table) = self { Some(table) } else { None }
    }

    /// The table, when it is a gshadow.
    #[must_use]
    pub fn gshadow(&self) -> Option<&Table<GshadowEntry>> {
        if let Self::Gshadow(table) = self { Some(table) } else { None }
    }

    /// The table, when it is a subid.
    #[must_use]
    pub fn subid(&self) -> Option<&Table<SubidEntry>> {
        if let Self::Subid(table) = self { Some(table) } else { None }
    }

    /// The table, when it is an nsswitch.conf.
    #[must_use]
    pub fn lookup(&self) -> Option<&Table<LookupEntry>> {
        if let Self::Lookup(table) = self { Some(table) } else { None }
    }
}

/// One database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// Length in bytes.
    pub length: u64,
    /// SHA-256 of the bytes.
    pub digest: [u8; 32],
    /// The parsed content.
    pub content: Content,
    /// Whether it is of a known format but too large to be parsed.
    pub too_large: bool,
    /// Why it could not be read; its content and length tell nothing then.
    pub unreadable: Option<String>,
    /// Its permissions; `None` for content that is nowhere yet.
    pub permissions: Option<Permissions>,
}

impl Database {
    pub(super) fn parse(path: &DatabasePath, bytes: &[u8]) -> Self {
        let too_large =
            bytes.len() > MAX_PARSED_BYTES || bytes.iter().filter(|byte| **byte == b'\n').count() > MAX_PARSED_LINES;
        let content = match Format::of(path) {
            Format::Other => Content::Whole,
            _ if too_large => Content::Whole,
            Format::Passwd => Content::Passwd(Table::parse(bytes)),
            Format::Shadow => Content::Shadow(Table::parse(bytes)),
            Format::Group => Content::Group(Table::parse(bytes)),
            Format::Gshadow => Content::Gshadow(Table::parse(bytes)),
            Format::Subid => Content::Subid(Table::parse(bytes)),
            Format::Lookup => Content::Lookup(Table::parse(bytes)),
        };
        Self {
            length: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            digest: Sha256::digest(bytes).into(),
            content,
            too_large: too_large && Format::of(path) != Format::Other,
            unreadable: None,
            permissions: None,
        }
    }

    /// One that is there and cannot be read.
    fn unreadable(reason: &str) -> Self {
        Self {
            length: 0,
            digest: Sha256::digest(reason.as_bytes()).into(),
            content: Content::Whole,
            too_large: false,
            unreadable: Some(reason.to_owned()),
            permissions: None,
        }
    }

    /// The bytes of the file; `None` when it was not parsed.
    #[must_use]
    pub fn print(&self) -> Option<Vec<u8>> {
        match &self.content {
            Content::Passwd(table) => Some(table.print()),
            Content::Shadow(table) => Some(table.print()),
            Content::Group(table) => Some(table.print()),
            Content::Gshadow(table) => Some(table.print()),
            Content::Subid(table) => Some(table.print()),
            Content::Lookup(table) => Some(table.print()),
            Content::Whole => None,
        }
    }
}

/// The format of a database, told by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Passwd,
    Shadow,
    Group,
    Gshadow,
    Subid,
    Lookup,
    Other,
}

impl Format {
    fn of(path: &DatabasePath) -> Self {
        match path.as_str() {
            "/etc/passwd" | "/var/lib/extrausers/passwd" => Self::Passwd,
            "/etc/shadow" | "/var/lib/extrausers/shadow" => Self::Shadow,
            "/etc/group" | "/var/lib/extrausers/group" => Self::Group,
            "/etc/gshadow" | "/var/lib/extrausers/gshadow" => Self::Gshadow,
            "/etc/subuid" | "/etc/subgid" => Self::Subid,
            "/etc/nsswitch.conf" => Self::Lookup,
            _ => Self::Other,
        }
    }
}

/// A snapshot. Cloning is cheap: the parsed files are shared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Databases {
    files: BTreeMap<DatabasePath, Arc<Database>>,
}

impl Databases {
    /// Parses the databases that are present.
    #[must_use]
    pub fn parse(files: BTreeMap<DatabasePath, Vec<u8>>) -> Self {
        let files = files.into_iter().map(|(path, bytes)| {
            let database = Arc::new(Database::parse(&path, &bytes));
            (path, database)
        });
        Self { files: files.collect() }
    }

    /// The databases, in order of their paths.
    pub(super) fn files(&self) -> impl Iterator<Item = (&DatabasePath, &Database)> {
        self.files.iter().map(|(path, database)| (path, database.as_ref()))
    }

    pub(super) fn insert(&mut self, path: DatabasePath, database: Arc<Database>) {
        self.files.insert(path, database);
    }

    /// This snapshot with one database of another content, or without it.
    #[must_use]
    pub fn with(&self, path: &DatabasePath, bytes: Option<&[u8]>) -> Self {
        let mut files = self.files.clone();
        match bytes {
            Some(bytes) => {
                files.insert(path.clone(), Arc::new(Database::parse(path, bytes)));
            }
            None => {
                files.remove(path);
            }
        }
        Self { files }
    }

    /// Adds a database, or a directory of databases, that cannot be read for `reason`.
    pub fn add_unreadable(&mut self, path: &DatabasePath, reason: &str) {
        self.files.insert(path.clone(), Arc::new(Database::unreadable(reason)));
    }

    /// The databases that could not be read, and why.
    pub fn unreadable(&self) -> impl Iterator<Item = (&DatabasePath, &str)> {
        self.files.iter().filter_map(|(path, database)| Some((path, database.unreadable.as_deref()?)))
    }

    /// Notes the permissions of a database that is present.
    pub fn set_permissions(&mut self, path: &DatabasePath, permissions: Permissions) {
        if let Some(database) = self.files.get_mut(path) {
            Arc::make_mut(database).permissions = Some(permissions);
        }
    }

    /// One database, when present.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Database> {
        self.files.iter().find(|(known, _)| known.as_str() == path).map(|(_, database)| database.as_ref())
    }

    /// The databases present, in order of their paths.
    pub fn paths(&self) -> impl Iterator<Item = &DatabasePath> {
        self.files.keys()
    }

    /// The parsed `/etc/passwd`.
    #[must_use]
    pub fn passwd(&self) -> Option<&Table<PasswdEntry>> {
        self.get("/etc/passwd")?.content.passwd()
    }

    /// What the creation record says of the accounts: how many, a digest of all databases, every name with uid 0.
    ///
    /// The digest is SHA-256 over, for each database in order of its path: the path, a NUL, the length as eight
    /// big-endian bytes, and the SHA-256 of the bytes.
    #[must_use]
    pub fn baseline(&self) -> AccountBaseline {
        let mut digest = Sha256::new();
        for (path, database) in &self.files {
            digest.update(path.as_str().as_bytes());
            digest.update([0]);
            digest.update(database.length.to_be_bytes());
            digest.update(database.digest);
        }
        let entries = || self.passwd().into_iter().flat_map(Table::entries);
        let uid_zero = entries().filter(|entry| entry.uid == Some(0)).map(|entry| printable(&entry.name));
        AccountBaseline {
            count: u64::try_from(entries().count()).unwrap_or(u64::MAX),
            digest: crate::model::digest_text(&digest.finalize()),
            uid_zero: uid_zero.take(MAX_LISTED_NAMES).collect(),
            databases: self.files.keys().take(MAX_LISTED_NAMES).map(ToString::to_string).collect(),
        }
    }
}

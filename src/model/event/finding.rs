//! What AN1239 tells of an act: which accounts it changed, and the attempts it was made of.

use serde::Deserialize;
use serde::Serialize;
use uuid::Uuid;

use crate::model::event::EventTime;

/// One account, where accounts are looked up, or the permissions of a database, before or after a change. Password hashes never appear: only whether there is one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountState {
    /// Uid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Gid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Comment field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gecos: Option<String>,
    /// Home directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// Shell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// `[redacted]`, `locked`, `none` or `empty`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Members of a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Vec<String>>,
    /// Where names are looked up, in order, and the actions between: a line of nsswitch.conf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<String>>,
    /// Permission bits of a database in octal, `0640`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// `uid:gid` of a database, as the host numbers them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Access list of a database, as getfacl(1) prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acl: Option<String>,
    /// Hard links of a database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<u64>,
}

/// One change of an account or group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// One of [`crate::model::account::diff::KINDS`].
    pub change: String,
    /// The database.
    pub database: String,
    /// Account or group name, or the line of nsswitch.conf (`passwd`); absent for a change of the database as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Member, for membership changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// Uid after (before, when removed).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Gid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// Shell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// State before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<AccountState>,
    /// State after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<AccountState>,
    /// `uid_zero duplicate_uid duplicate_name no_password alias world_writable …`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// Where the change is known from: `content` (a diff of the databases), `intended` (what a blocked attempt was about
    /// to put in place), `arguments` (the arguments of a blocked account tool).
    pub evidence: String,
}

/// The act that several attempts belong to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// UUIDv7.
    pub id: Uuid,
    /// Attempts so far.
    pub attempts: u64,
    /// Blocked ones among them.
    pub blocked: u64,
    /// First attempt.
    pub first: EventTime,
    /// Last attempt.
    pub last: EventTime,
}

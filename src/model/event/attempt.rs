//! What AN1239 tells of an attempt: the exec session, the process, what it tried, what became of it.

use serde::Deserialize;
use serde::Serialize;

use crate::model::event::creation::Creator;
use crate::model::event::creation::Process;
use crate::model::policy::Ground;

/// An exec session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Exec id: a UUID made when the exec was seen.
    pub id: String,
    /// Arguments, redacted.
    #[serde(default)]
    pub argv: Vec<String>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// `process.user` of the exec, `uid[:gid]` or as given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Who started it; absent when the exec went past the shim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_by: Option<Creator>,
    /// On which ground its processes stand; absent when the exec went past the shim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ground: Option<Ground>,
    /// Why not on the ground that policy asks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// The process that acted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Thread group id on the host.
    pub pid: u32,
    /// Thread group id in the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_pid: Option<u32>,
    /// Executable, in its own root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Arguments, redacted.
    #[serde(default)]
    pub argv: Vec<String>,
    /// Effective uid on the host.
    pub uid: u32,
    /// Effective gid on the host.
    pub gid: u32,
    /// Effective uid in the container's user namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_uid: Option<u32>,
    /// Effective gid in the container's user namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_gid: Option<u32>,
    /// Login uid; absent when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_uid: Option<u32>,
    /// Effective capabilities by name.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Ancestors inside the container, the nearest first.
    #[serde(default)]
    pub ancestry: Vec<Process>,
    /// Id of the exec session it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Id of the container it belongs to, when that is another than the event's: it reached for a neighbour's database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Whether it was gone before it could be looked at: no more is told of it than a witness knew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
}

/// What was tried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// System call.
    pub call: String,
    /// Path as asked, lossy UTF-8 of the bytes given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The object it led to, as a path from the container's root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The account database concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// In what way: `writes`, `replaces`, `aliases`, `replaces_ancestor`, `runs_account_tool`, `bypasses`, `listens`, `unresolved`.
    pub effect: String,
    /// Flags by name.
    #[serde(default)]
    pub flags: Vec<String>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Let go.
    Allowed,
    /// Refused.
    Blocked,
    /// Seen after the fact.
    Observed,
}

/// What became of an attempt or an act, and who says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Result.
    pub result: Outcome,
    /// Witnesses: `notify`, `landlock`, `fanotify`, `content`.
    pub witness: Vec<String>,
    /// Name of the errno given, for example `EPERM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
}

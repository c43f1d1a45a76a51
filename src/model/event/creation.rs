//! The DC0072 record: who created a container, from where, to where, with which parameters, and what it began with.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use crate::model::policy::Ground;

/// One process of an ancestry, the nearest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Pid on the host.
    pub pid: u32,
    /// Pid in the container, inside its own pid namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_pid: Option<u32>,
    /// Path of the executable, in the process's own root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Arguments, redacted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<String>,
    /// Effective uid on the host.
    pub uid: u32,
}

/// Who asked for a container or an exec session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Creator {
    /// Real uid of the process that called the runtime.
    pub uid: u32,
    /// Its name on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Login uid (`/proc/PID/loginuid`); absent when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_uid: Option<u32>,
    /// Name of the login uid on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_user: Option<String>,
    /// Audit session (`/proc/PID/sessionid`); absent when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_session: Option<u32>,
    /// From the runtime's caller up to pid 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestry: Vec<Process>,
    /// Kubernetes service account that the pod runs as, where a token of it is mounted (`system:serviceaccount:<ns>:<name>`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// Control-plane principal, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// What the pod belongs to, where its labels and annotations tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
}

/// What a pod belongs to, as it says itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// `ReplicaSet`, `StatefulSet`, `DaemonSet`, `Job`, or `Node` for a static pod.
    pub kind: String,
    /// Name in the pod's namespace, where that shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which label or annotation tells.
    pub told_by: String,
}

/// Where a creation came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// As [`crate::model::event::Container::engine`].
    pub engine: String,
    /// `kubernetes`, or absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<String>,
}

/// Where a container was put.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreationTarget {
    /// Kubernetes or engine namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Service or pod name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// `sandbox` or `container`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}

/// A mount of the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountParameter {
    /// Where.
    pub destination: String,
    /// What.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// File system type.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Options.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// Which user the container's process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserParameter {
    /// Uid inside.
    pub uid: u32,
    /// Gid inside.
    pub gid: u32,
    /// Supplementary groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
}

/// The parameters a container was created with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters {
    /// `process.args`, redacted.
    #[serde(default)]
    pub args: Vec<String>,
    /// `process.user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserParameter>,
    /// `process.cwd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// `process.terminal`.
    pub terminal: bool,
    /// Capability sets by their runtime-spec names (`bounding`, `effective` …).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub capabilities: BTreeMap<String, Vec<String>>,
    /// Mounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<MountParameter>,
    /// Namespaces shared with the host (`network`, `pid` …).
    #[serde(default)]
    pub host_namespaces: Vec<String>,
    /// Device paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// All capabilities and no device restriction.
    pub privileged: bool,
    /// `root.readonly`.
    pub read_only_root: bool,
    /// `process.noNewPrivileges`.
    pub no_new_privileges: bool,
    /// The workload's own seccomp profile before acctguard's edit: `none` or its default action.
    pub seccomp: String,
    /// AppArmor profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apparmor: Option<String>,
    /// SELinux label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selinux: Option<String>,
    /// `linux.resources` limits and `process.rlimits`, as given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<serde_json::Value>,
    /// Names of the environment's variables; values never leave.
    #[serde(default)]
    pub env_names: Vec<String>,
    /// `hostname`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

/// The accounts of the root file system before the container ran.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountBaseline {
    /// Entries of `/etc/passwd`.
    pub count: u64,
    /// SHA-256 over all databases present, `sha256:<hex>`.
    pub digest: String,
    /// Every name with uid 0.
    pub uid_zero: Vec<String>,
    /// Databases present.
    pub databases: Vec<String>,
}

/// How the container's processes are watched and held.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// Whether the interception is in place.
    pub intercepted: bool,
    /// On which ground the container's own process stands.
    pub ground: Ground,
    /// Who installed the filter by whose listener the container's own process is heard: `runtime`, `launcher` where the runtime cannot
    /// have calls wait killable, or absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installer: Option<String>,
    /// Whether a call that is being answered waits for that, whatever signals come but a deadly one
    /// (`SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`); absent without interception, and where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_killable: Option<bool>,
    /// Why it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_killable: Option<String>,
    /// Why, when protection is missing or less than asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// Whether the creation was expected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreationVerdict {
    /// `expected` or `unexpected`.
    pub result: String,
    /// Why.
    #[serde(default)]
    pub reasons: Vec<String>,
    /// Whether the creation was refused.
    pub refused: bool,
}

/// The DC0072 record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Creation {
    /// By whom.
    pub creator: Creator,
    /// From where.
    pub source: Source,
    /// To where.
    pub target: CreationTarget,
    /// With which parameters.
    pub parameters: Parameters,
    /// The accounts at the start; absent when the root could not be read (then `protection.reasons` says why).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accounts: Option<AccountBaseline>,
    /// Protection.
    pub protection: Protection,
    /// Verdict.
    pub verdict: CreationVerdict,
}

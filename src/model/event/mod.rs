//! The published event: `acctguard.event/1`. One Rust type per object of the contract, field names as published.
//!
//! A field that an engine or the kernel does not tell is absent, never null. Secrets are redacted by whoever fills a
//! field ([`crate::model::redact`]); escaping of control characters is JSON's own, sinks with other formats escape themselves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::workload::ContainerId;

mod attempt;
mod creation;
mod finding;
mod identification;

pub use attempt::Actor;
pub use attempt::Operation;
pub use attempt::Outcome;
pub use attempt::Session;
pub use attempt::Verdict;
pub use creation::AccountBaseline;
pub use creation::Creation;
pub use creation::CreationTarget;
pub use creation::CreationVerdict;
pub use creation::Creator;
pub use creation::MountParameter;
pub use creation::Owner;
pub use creation::Parameters;
pub use creation::Process;
pub use creation::Protection;
pub use creation::Source;
pub use creation::UserParameter;
pub use finding::AccountState;
pub use finding::Change;
pub use finding::Incident;
pub use identification::Identification;

/// Value of [`Event::schema`].
pub const SCHEMA: &str = "acctguard.event/1";

/// A moment in UTC, printed as RFC 3339 with nine digits of the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventTime(pub jiff::Timestamp);

impl std::fmt::Display for EventTime {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:.9}", self.0)
    }
}

impl Serialize for EventTime {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EventTime {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A container was created (DC0072).
    #[serde(rename = "container.created")]
    ContainerCreated,
    /// A process entered a running container by the runtime's `exec`.
    #[serde(rename = "container.exec")]
    ContainerExec,
    /// A container's process ended.
    #[serde(rename = "container.exited")]
    ContainerExited,
    /// The engine told more of a container after its creation (DC0072).
    #[serde(rename = "container.identified")]
    ContainerIdentified,
    /// One call that concerned an account database (AN1239).
    #[serde(rename = "account.attempt")]
    AccountAttempt,
    /// What an act came to: accounts changed, or a blocked act (AN1239).
    #[serde(rename = "account.finding")]
    AccountFinding,
    /// Protection that policy asks for is missing.
    #[serde(rename = "protection.degraded")]
    ProtectionDegraded,
    /// Protection is back.
    #[serde(rename = "protection.restored")]
    ProtectionRestored,
}

impl Kind {
    /// The published name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ContainerCreated => "container.created",
            Self::ContainerExec => "container.exec",
            Self::ContainerExited => "container.exited",
            Self::ContainerIdentified => "container.identified",
            Self::AccountAttempt => "account.attempt",
            Self::AccountFinding => "account.finding",
            Self::ProtectionDegraded => "protection.degraded",
            Self::ProtectionRestored => "protection.restored",
        }
    }
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For the record.
    Info,
    /// Worth a look when something else is wrong.
    Low,
    /// Worth a look.
    Medium,
    /// Someone should look now.
    High,
    /// An account with uid 0, a password, or the like.
    Critical,
}

/// MITRE ATT&CK reference of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Attack {
    /// A data component, as DC0072 (Container Creation).
    DataComponent {
        /// `DC0072`.
        data_component: String,
    },
    /// An analytic and the technique it detects.
    Analytic {
        /// `AN1239`.
        analytic: String,
        /// `T1136.001` (Create Account: Local Account).
        technique: String,
    },
}

impl Attack {
    /// DC0072, Container Creation.
    #[must_use]
    pub fn container_creation() -> Self {
        Self::DataComponent { data_component: "DC0072".to_owned() }
    }

    /// AN1239 on T1136.001, local account creation inside a container.
    #[must_use]
    pub fn account_creation() -> Self {
        Self::Analytic { analytic: "AN1239".to_owned(), technique: "T1136.001".to_owned() }
    }
}

/// The node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// gethostname(2).
    pub name: String,
    /// `/etc/machine-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// `/proc/sys/kernel/random/boot_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// `uname -r`.
    pub kernel: String,
    /// From the node's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// From the node's configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A container image, as far as the engine tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Full reference without tag and digest.
    pub name: String,
    /// Tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Of its manifest, as registries and policies name it: `sha256:…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The engine's own id of it, the digest of its configuration: `sha256:…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// A Kubernetes pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// The container an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// The runtime's id.
    pub id: ContainerId,
    /// The name people gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// `containerd`, `cri-o`, `podman`, `docker`, or `none` when the runtime was started by hand.
    pub engine: String,
    /// Base name of the real OCI runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// The pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// When it was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<EventTime>,
}

/// The policy that decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyReference {
    /// `metadata.name`.
    pub name: String,
    /// `off`, `audit` or `enforce`.
    pub mode: String,
    /// Which of its rules decided, for example `mode` or `allow[0]`.
    pub rule: String,
    /// SHA-256 of the document, `sha256:<hex>`.
    pub digest: String,
}

/// How a container's process ended, as far as the runtime told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Who saw it, one of [`Exit::WITNESSES`].
    pub witness: String,
}

impl Exit {
    /// The poststop hook; a listener that nobody uses any more; the init's process that is gone.
    pub const WITNESSES: [&'static str; 3] = ["poststop", "listener", "process"];
}

/// Protection lost or regained.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectionChange {
    /// What is missing or back.
    pub what: String,
    /// Why.
    pub reason: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// `acctguard.event/1`.
    pub schema: String,
    /// UUIDv7.
    pub id: Uuid,
    /// When.
    pub time: EventTime,
    /// What.
    pub kind: Kind,
    /// How bad.
    pub severity: Severity,
    /// ATT&CK reference.
    pub attack: Attack,
    /// Where.
    pub host: Host,
    /// Which container; absent for events of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// Which policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyReference>,
    /// DC0072 record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation: Option<Box<Creation>>,
    /// Exec session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
    /// Actor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor>,
    /// Operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// Verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Changes; present, perhaps empty, in every finding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<Change>>,
    /// Incident.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<Incident>,
    /// Exit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// What was told late of a creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identification: Option<Identification>,
    /// Protection lost or regained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protection: Option<ProtectionChange>,
    /// How many equal events this one stands for, itself included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// How many events of the same origin were folded away since the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suppressed: Option<u64>,
}

impl Event {
    /// An event with everything that every event has and nothing else. `id` is a UUIDv7 made by the caller, who owns the clock.
    #[must_use]
    pub fn new(id: Uuid, time: EventTime, kind: Kind, severity: Severity, host: Host) -> Self {
        let attack = match kind {
            Kind::AccountAttempt | Kind::AccountFinding => Attack::account_creation(),
            _ => Attack::container_creation(),
        };
        Self {
            schema: SCHEMA.to_owned(),
            id,
            time,
            kind,
            severity,
            attack,
            host,
            container: None,
            policy: None,
            creation: None,
            session: None,
            actor: None,
            operation: None,
            verdict: None,
            changes: None,
            incident: None,
            exit: None,
            identification: None,
            protection: None,
            count: None,
            suppressed: None,
        }
    }
}

//! Messages between the daemon and everything that talks to it: the hook, the shim and the operator's command.
//!
//! One JSON object a line over the Unix stream socket `RUN_DIR/control.sock`; a request gets one or more answers, the last
//! of which is not [`Response::Event`]. Both sides check the peer's uid (SO_PEERCRED, unix(7)); a line is at most
//! [`MAX_LINE_BYTES`] long. `model` types only; the client side is [`client`].

use serde::{Deserialize, Serialize};

use crate::model::event::{Event, EventTime, Kind};
use crate::model::policy::Ground;
use crate::model::workload::{ContainerId, Workload};

pub mod client;
pub mod codec;

/// Longest line either side reads.
pub const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;

/// What a client asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Is the daemon there.
    Ping,
    /// The createRuntime hook: a container is being created. Answered with [`Response::Done`] once the event is durable.
    Register(Box<Registration>),
    /// The shim: an exec session is about to start. Answered once the event is durable.
    Exec(Box<ExecRegistration>),
    /// Record an event as it is (a refusal, a container that started unprotected, an exit). Answered once durable.
    Record(Box<Event>),
    /// The poststop hook: a container is gone. Its `event` is recorded, its state dropped.
    Exited {
        /// Which.
        id: ContainerId,
        /// The `container.exited` event.
        event: Box<Event>,
    },
    /// Containers that the daemon knows.
    Containers,
    /// Stored events.
    Events(EventQuery),
    /// Read policy and configuration again.
    Reload,
    /// Put a worker of the installed program in place of the one that is asked. That one answers only when it is not replaced.
    Upgrade,
}

/// A container as the hook saw it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Registration {
    /// Who it is.
    pub workload: Workload,
    /// Bundle directory, absolute, on the host.
    pub bundle: String,
    /// Pid of the container's init on the host; 0 when the runtime did not tell.
    pub pid: u32,
    /// Root file system on the host, absolute.
    pub root: String,
    /// Whether the bundle's config.json has acctguard's listener in it.
    pub intercepted: bool,
    /// On which ground the container's own process stands.
    pub ground: Ground,
    /// The `container.created` event.
    pub event: Event,
}

/// An exec session as the shim saw it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecRegistration {
    /// Into which container.
    pub id: ContainerId,
    /// Pid of its init, by the runtime's word; 0 from a shim that does not tell.
    #[serde(default)]
    pub init: u32,
    /// Pid of the shim, which stays that of the runtime it turns into.
    pub pid: u32,
    /// Start time of that process in clock ticks (`/proc/PID/stat` field 22), so that a recycled pid is not taken for it.
    pub start_time_ticks: u64,
    /// On which ground its processes stand.
    pub ground: Ground,
    /// Whether its launcher makes a listener of its own.
    #[serde(default)]
    pub launcher_listens: bool,
    /// The `container.exec` event, `session` filled. The daemon fills in `container` and `policy` from its registry.
    pub event: Event,
}

/// Which stored events.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct EventQuery {
    /// Not older than this.
    #[serde(default)]
    pub since: Option<EventTime>,
    /// Of this container (full id or unique prefix).
    #[serde(default)]
    pub container: Option<String>,
    /// Of these kinds; empty for all.
    #[serde(default)]
    pub kinds: Vec<Kind>,
    /// Only events of this analytic or data component (`AN1239`, `DC0072`).
    #[serde(default)]
    pub attack: Option<String>,
    /// Go on with new events until the client goes.
    #[serde(default)]
    pub follow: bool,
}

/// One container in an answer to [`Request::Containers`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Who.
    pub workload: Workload,
    /// Pid of its init on the host.
    pub pid: u32,
    /// Policy's name.
    pub policy: String,
    /// Policy's mode.
    pub mode: String,
    /// Whether its calls are intercepted.
    pub intercepted: bool,
    /// Listeners being served: the container's own and one per exec session.
    pub listeners: u32,
    /// Attempts seen.
    pub attempts: u64,
    /// Attempts blocked.
    pub blocked: u64,
}

/// What the daemon answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "snake_case")]
pub enum Response {
    /// Done and durable.
    Done,
    /// To [`Request::Ping`].
    Pong {
        /// `CARGO_PKG_VERSION` of the daemon.
        version: String,
        /// Pid of the daemon.
        pid: u32,
    },
    /// To [`Request::Containers`].
    Containers {
        /// All of them.
        containers: Vec<ContainerStatus>,
    },
    /// One of many, to [`Request::Events`]; [`Response::Done`] ends them.
    Event(Box<Event>),
    /// It could not be done.
    Failed {
        /// One line: what, where, why, remedy.
        message: String,
    },
}

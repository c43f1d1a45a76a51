//! A listener on its way to the thread that serves it.

use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;
use uuid::Uuid;

use crate::daemon::registry::Guarded;
use crate::kernel::seccomp_notify::Listener;
use crate::kernel::shared_area::Slot;
use crate::model::event::Session;
use crate::model::policy::Ground;
use crate::model::workload::ContainerId;

/// What the next worker needs to know about a listener; the keeper keeps it unread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// Whose.
    pub container: ContainerId,
    /// Pid in the listener's state.
    pub pid: u32,
    /// Id of the exec session, when it is one.
    pub session: Option<String>,
    /// Its recorded `container.exec` event, when it was registered.
    pub exec_event: Option<Uuid>,
    /// On which ground its processes stand.
    #[serde(default)]
    pub ground: Ground,
    /// Which delivery it came by; `None` from a worker that did not tell.
    #[serde(default)]
    pub delivery: Option<Uuid>,
    /// Whether it gives way to the launcher's own listener.
    #[serde(default)]
    pub gives_way: bool,
    /// Whether the workload runs; before, it is the runtime's own init that makes the calls.
    #[serde(default = "runs")]
    pub runs: bool,
}

const fn runs() -> bool {
    true
}

/// A listener ready to be served.
#[derive(Debug)]
pub struct Delivered {
    /// The listener.
    pub listener: Arc<Listener>,
    /// Whose.
    pub guarded: Arc<Guarded>,
    /// The exec session, when it is one.
    pub session: Option<Session>,
    /// For the next worker.
    pub label: Label,
}

/// Where a listener's notifications lie.
#[derive(Debug)]
pub struct Room {
    /// Where they are received.
    pub slot: Slot,
    /// Those that wait for something.
    pub kept: Vec<Slot>,
}

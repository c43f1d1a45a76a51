//! Where events are shipped to: JSON lines and syslog.
//!
//! Uses [`crate::model`] only. A sink knows nothing of the store: the daemon gives each sink a thread and a durable position
//! of its own and asks it for one event after the other, in order; what a sink refused is offered again (at least once).
//! Sinks never answer anybody, and every wait of theirs is bounded, except for a file on a hung file system, which then holds up
//! this sink alone.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use crate::model::event::Event;

pub mod json_lines;
pub mod rendering;
pub mod syslog;

/// Why an event did not get out.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The file cannot be opened or written.
    #[error("cannot {operation} {}; check the [[sinks]] path, its permissions and free space", path.display())]
    File {
        /// What was being done.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The syslog receiver cannot be reached.
    #[error("cannot {operation} syslog receiver {address}; check the [[sinks]] address and that the receiver runs")]
    Receiver {
        /// What was being done.
        operation: &'static str,
        /// Where to.
        address: String,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The event has no textual form.
    #[error("cannot write event {id} as text: {detail}")]
    Render {
        /// Event id.
        id: String,
        /// Cause.
        detail: String,
    },
}

/// A destination of events.
pub trait Sink: Send {
    /// Name that its position in the store is kept under: kind and address.
    fn name(&self) -> &str;

    /// Hands over `event`; when this fails it is offered again later.
    ///
    /// # Errors
    /// [`SinkError`].
    fn send(&mut self, event: &Event) -> Result<(), SinkError>;

    /// Makes what was sent as lasting as this destination can; only then the position moves.
    ///
    /// # Errors
    /// [`SinkError`]; everything since the last flush is then offered again.
    fn flush(&mut self) -> Result<(), SinkError>;

    /// How many of the events that it took last may be lost because its connection broke: they are offered again. Asked after a failure.
    fn take_unconfirmed(&mut self) -> usize {
        0
    }
}

//! From a seccomp notification to an answer and an event: the heart of the product.
//!
//! Floor 2: uses `model`, `kernel` and `metrics`. One notification goes one way:
//! [`decode`] (what was asked) → [`observe`] (which object, through a [`target::Target`]) → `model::policy::decide` →
//! [`supervisor`] (event, then answer) → [`case`] (attempts become incidents, incidents become findings).
//!
//! Invariants: nothing read from a container is believed before the notification is known to be still valid; the record
//! comes before the answer; identity is the object, never the text of a path; what cannot be understood is never taken for harmless.
//! Deliberately absent: any storing or shipping of events (the [`Recorder`] does), any decision (policy's), any clock
//! but [`moment::Moment::now`].
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::arithmetic_side_effects))]

pub mod account_tools;
pub mod actor;
pub mod ancestry;
mod argument;
mod attribution;
pub mod baseline;
pub mod broker;
pub mod case;
pub mod container_root;
pub mod databases;
pub mod decode;
mod finding;
pub mod incident;
mod known_threads;
pub mod layers;
pub mod live_policy;
pub mod live_target;
pub mod moment;
pub mod neighbourhood;
pub mod neighbours;
pub mod observe;
pub mod program_arguments;
pub mod supervisor;
pub mod surroundings;
pub mod target;
pub mod witness;

use crate::model::event::Event;

/// An event could not be made durable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot record an event: {reason}")]
pub struct RecordError {
    /// Why.
    pub reason: String,
}

/// Makes events durable. Implemented by the daemon over the store.
pub trait Recorder: Send + Sync {
    /// Returns once `event` is durable.
    ///
    /// # Errors
    /// [`RecordError`] when it is not: then it is to be kept, or what it tells of refused.
    fn record(&self, event: &Event) -> Result<(), RecordError>;

    /// An attempt was counted, to be told as a number later.
    fn note_counted(&self) {}

    /// Keeps `event`, which could not be made durable for `reason`, until it can: what it tells of goes on, or was refused for other reasons.
    fn keep(&self, event: Event, reason: RecordError);

    /// Records `event`, of something that nothing can or need refuse; keeps it when it cannot be made durable.
    fn record_or_keep(&self, event: Event) {
        if let Err(reason) = self.record(&event) {
            self.keep(event, reason);
        }
    }
}

//! Where a hook's records go: to the daemon, which answers when they are durable, or into the spool while it is away.

use crate::config::Config;
use crate::control::Request;
use crate::control::client::Client;
use crate::control::client::ClientError;
use crate::hook::deadline;
use crate::model::event::Event;
use crate::store::spool;
use crate::store::spool::SpoolError;

/// A record could be kept nowhere.
#[derive(Debug, thiserror::Error)]
#[error("keep a record: {daemon}")]
pub struct RecordError {
    /// Why the daemon did not take it.
    daemon: String,
    /// Why the spool did not.
    #[source]
    spool: SpoolError,
}

/// Connects to the daemon and asks `request`; comes back when what it holds is durable.
///
/// # Errors
/// [`ClientError`].
pub fn tell(config: &Config, request: &Request) -> Result<(), ClientError> {
    deadline::step("waiting for the daemon");
    Client::connect(config)?.order(request)
}

/// Records `event` by way of `request`, which holds it, or else in the spool. Durable when this returns.
///
/// # Errors
/// [`RecordError`] when neither takes it.
pub fn record(config: &Config, request: &Request, event: &Event) -> Result<(), RecordError> {
    match tell(config, request) {
        Ok(()) => Ok(()),
        Err(error) => keep(config, event).map_err(|spool| RecordError { daemon: error.to_string(), spool }),
    }
}

/// Puts `event` into the spool.
///
/// # Errors
/// [`SpoolError`].
pub fn keep(config: &Config, event: &Event) -> Result<(), SpoolError> {
    deadline::step("writing to the spool");
    spool::put(&config.spool_dir(), event)
}

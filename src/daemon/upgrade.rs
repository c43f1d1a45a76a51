//! `acctguard-daemon upgrade`, as whoever calls it sees it.

use std::time::Duration;
use std::time::Instant;

use crate::config::Config;
use crate::control::Request;
use crate::control::Response;
use crate::control::client::Client;
use crate::control::client::ClientError;

/// How long another worker may take to serve.
const LIMIT: Duration = Duration::from_secs(30);
/// How often it is asked whether it does.
const STEP: Duration = Duration::from_millis(10);

/// Why there is no other worker.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The daemon cannot be asked, or says no.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Nobody answers any more.
    #[error("the daemon has not answered for {} s since it was asked for another worker; see its log", LIMIT.as_secs())]
    NotServing,
}

/// Has the running daemon put a worker of the installed program in place of the one that serves, and prints which.
///
/// # Errors
/// [`UpgradeError`]; when the daemon says no, the worker goes on.
pub fn run(config: &Config) -> Result<(), UpgradeError> {
    let (old_version, old_pid) = serving(config)?;
    match Client::connect(config)?.within(LIMIT).call_once(&Request::Upgrade) {
        // the worker that was asked says nothing more when it has been replaced
        Ok(_) | Err(ClientError::Exchange { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        match serving(config) {
            Ok((version, pid)) if pid != old_pid => {
                println!(
                    "worker {pid} of version {version} serves in place of worker {old_pid} of version {old_version}"
                );
                return Ok(());
            }
            Ok(_) | Err(ClientError::Exchange { .. }) => std::thread::sleep(STEP),
            Err(error) => return Err(error.into()),
        }
    }
    Err(UpgradeError::NotServing)
}

fn serving(config: &Config) -> Result<(String, u32), ClientError> {
    match Client::connect(config)?.call(&Request::Ping)? {
        Response::Pong { version, pid } => Ok((version, pid)),
        _ => Err(ClientError::Unexpected { socket: config.control_socket() }),
    }
}

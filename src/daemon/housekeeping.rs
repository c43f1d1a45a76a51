//! What happens every few seconds: records that waited in the spool are taken in, containers that ended unnoticed are
//! concluded.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::daemon::service::Service;
use crate::model::diagnostic::chain;
use crate::store::StoreError;
use crate::store::spool;
use crate::store::spool::SpoolError;

/// How often.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long a container may be registered before its init must be there.
const GRACE: Duration = Duration::from_secs(10);
const STACK_BYTES: usize = 512 * 1024;

#[derive(Debug, thiserror::Error)]
enum IntakeError {
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Runs until the worker ends.
pub fn run(service: &Arc<Service>) {
    while !service.stopping.load(Ordering::Acquire) {
        std::thread::sleep(INTERVAL);
        take_in_spool(service);
        conclude_ended(service);
    }
}

/// Records what was spooled while no daemon was there.
pub fn take_in_spool(service: &Service) {
    let directory = service.config.spool_dir();
    let outcome = spool::take_all(&directory, |event| service.record(&event).map_err(IntakeError::from));
    match outcome {
        Ok(taken) => {
            if taken.events > 0 {
                tracing::info!(events = taken.events, "records made while the daemon was away are in the store");
            }
            for (path, reason) in taken.rejected {
                tracing::error!("a spooled record {reason}; it is kept as {}", path.display());
            }
        }
        Err(error) => tracing::error!("records wait in the spool: {}", chain(&error)),
    }
}

/// A container without listeners whose init is gone, and whose poststop hook did not come, has ended. Each is concluded in a thread of
/// its own: its databases are read once more, and a file system of one that hangs holds up no other.
fn conclude_ended(service: &Arc<Service>) {
    for guarded in service.registry.all() {
        let idle = guarded.listeners() == 0 && guarded.since.elapsed() > GRACE;
        if !idle || !guarded.has_ended() || !guarded.begin_concluding() {
            continue;
        }
        let of_thread = (Arc::clone(service), Arc::clone(&guarded));
        let thread = std::thread::Builder::new().name("concludes".to_owned()).stack_size(STACK_BYTES);
        let spawned = thread.spawn(move || {
            let (service, guarded) = of_thread;
            if let Err(error) = service.ended_unreported(&guarded, "process") {
                tracing::error!(container = guarded.id.as_str(), "its end is not recorded: {}", chain(&error));
            }
            guarded.has_concluded();
        });
        if let Err(error) = spawned {
            guarded.has_concluded();
            tracing::error!("cannot make a thread that concludes a container: {error}");
        }
    }
}

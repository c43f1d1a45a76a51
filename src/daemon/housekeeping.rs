//! What happens every few seconds: records that waited in the spool are taken in, containers that ended unnoticed are
//! concluded, and memory that many containers needed is given back when few are left.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::config::Config;
use crate::daemon::namesakes;
use crate::daemon::service::Service;
use crate::daemon::service::Unstored;
use crate::kernel::allocator;
use crate::model::diagnostic::chain;
use crate::model::event::Event;
use crate::model::event::Kind;
use crate::model::workload::ContainerId;
use crate::store::StoreError;
use crate::store::spool;
use crate::store::spool::SpoolError;
use crate::store::spool::Then;

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
    let mut refuge = Some(refuge(&service.config));
    let mut most = 0;
    while !service.stopping.load(Ordering::Acquire) {
        std::thread::sleep(INTERVAL);
        let is_done = take_in(service, refuge.as_deref(), Unstored::Refused);
        // what comes there later is this worker's own
        refuge = refuge.filter(|_| !is_done);
        // an exit comes after everything else of its container, and what waits may be of one
        if is_done {
            conclude_ended(service);
        }
        most = give_back_memory(service.registry.all().len(), most);
    }
}

/// Gives back what the allocator keeps when `containers` are no more than half of the `most` since it last did. The most since then.
fn give_back_memory(containers: usize, most: usize) -> usize {
    if containers > most / 2 || most == 0 {
        return most.max(containers);
    }
    allocator::give_back();
    containers
}

/// Where a worker puts what the store does not take, for the next one.
#[must_use]
pub fn refuge(config: &Config) -> PathBuf {
    config.run_dir.join("unstored")
}

/// Records what was spooled while no daemon was there, and what the last worker could not store; before anything else, which would go
/// before it where the disk still takes nothing.
pub fn take_in_all(service: &Service) {
    take_in(service, Some(&refuge(&service.config)), Unstored::Kept);
}

/// False when some of it still waits.
fn take_in(service: &Service, refuge: Option<&Path>, unstored: Unstored) -> bool {
    let mut is_done = true;
    let spool = service.config.spool_dir();
    for directory in refuge.into_iter().chain([spool.as_path()]) {
        match spool::take_all(directory, |event| record(service, event, unstored).map_err(IntakeError::from)) {
            Ok(taken) => {
                is_done &= taken.left == 0;
                if taken.events > 0 {
                    tracing::info!(events = taken.events, "records made while the daemon was away are in the store");
                }
                for (path, reason) in taken.rejected {
                    tracing::error!("a spooled record {reason}; it is kept as {}", path.display());
                }
            }
            Err(error) => {
                is_done = false;
                tracing::error!("records wait in {}: {}", directory.display(), chain(&error));
            }
        }
    }
    is_done
}

/// Makes `event` durable, or has it wait where `unstored` says so. An exit that was spooled is the container's only one.
fn record(service: &Service, event: Event, unstored: Unstored) -> Result<Then, StoreError> {
    let ended = event.container.as_ref().filter(|_| event.kind == Kind::ContainerExited).map(|gone| gone.id.clone());
    match ended {
        Some(id) if !runs_anew(service, &id, &event) => service.exited(&id, event, unstored)?,
        _ if unstored == Unstored::Kept => service.journal.record_or_keep(&event),
        _ => service.journal.record(&event)?,
    }
    Ok(if service.journal.is_waiting() { Then::Leave } else { Then::Remove })
}

/// Whether a container of this id runs that is another than the one that `exit` tells of.
fn runs_anew(service: &Service, id: &ContainerId, exit: &Event) -> bool {
    namesakes::that_ended(&service.registry.all_of(id)).is_some_and(|guarded| {
        let started_at = guarded.record().workload.container.started_at;
        guarded.listeners() > 0 || started_at.is_some_and(|started_at| started_at.0 > exit.time.0)
    })
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

//! Asks engines, by a thread of its own, what they had not told of a container when its creation was recorded, and records what they
//! tell as `container.identified`. The creation waits for none of this.
//!
//! - Bounded: one thread; at most 1024 containers wait; an engine is asked five times for each, for a second each time, and no more two
//!   minutes after its creation. An engine that hangs costs its own containers their names, and others some time until they have theirs.
//! - Once: the event's id is made of the creation's ([`Identification::id_for`]), and the store knows ids. It is durable together with
//!   what is kept of the container; a worker that follows asks anew where neither is there.
//! - What policy says of the container it says from then on by what is known: a document that names images may apply, or no more. That is
//!   as when a policy is changed while it runs.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use uuid::Uuid;

use crate::control::client;
use crate::daemon::control_server;
use crate::daemon::registry::Guarded;
use crate::daemon::registry::Record;
use crate::daemon::service::Service;
use crate::daemon::service::now;
use crate::model::diagnostic::chain;
use crate::model::event::Container;
use crate::model::event::Creation;
use crate::model::event::Event;
use crate::model::event::Identification;
use crate::model::event::Kind;
use crate::model::event::Severity;
use crate::model::policy::Applied;
use crate::model::policy::decide::judge_creation;
use crate::model::workload::Workload;
use crate::oci::bundle::BundleError;
use crate::oci::containerd_api;
use crate::oci::containerd_api::ContainerdError;
use crate::oci::identity::later;
use crate::store::Write;

/// Most containers that wait; the oldest give way.
const MAX_WAITING: usize = 1024;
/// How long after each attempt the next is made. The first is made at once: a container may be gone from its engine in a moment.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(15),
    // the last
    Duration::ZERO,
];
/// How long an engine may take for its answer.
const LIMIT: Duration = Duration::from_secs(1);
/// How long a container waits, with others before it that engines do not answer for.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why nothing more is known of a container yet.
#[derive(Debug, thiserror::Error)]
enum LookError {
    /// There is no containerd to be asked.
    #[error("cannot ask containerd on {}", socket.display())]
    Connect {
        /// Its socket.
        socket: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// Somebody else listens there.
    #[error("whoever listens on {} is neither root nor acctguard's own user", socket.display())]
    WrongPeer {
        /// The socket.
        socket: PathBuf,
    },
    /// containerd.
    #[error(transparent)]
    Containerd(#[from] ContainerdError),
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The engine told nothing new.
    #[error("its engine tells nothing more")]
    Nothing,
}

/// A container that its engine may tell more of.
#[derive(Debug)]
struct Waiting {
    guarded: Arc<Guarded>,
    /// Id of its creation's event.
    creation: Uuid,
    since: Instant,
    due: Instant,
    /// What is left of [`PAUSES`].
    pauses: &'static [Duration],
}

/// All of them.
#[derive(Debug, Default)]
pub struct LateIdentities {
    waiting: Mutex<VecDeque<Waiting>>,
    changed: Condvar,
}

impl LateIdentities {
    /// `guarded` is in the registry: where it is incomplete its engine will be asked.
    pub fn expect(&self, guarded: &Arc<Guarded>) {
        let Some(creation) = guarded.record().incomplete else { return };
        let now = Instant::now();
        self.put(Waiting { guarded: Arc::clone(guarded), creation, since: now, due: now, pauses: &PAUSES });
    }

    fn put(&self, waiting: Waiting) {
        let mut all = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_WAITING
            && let Some(oldest) = all.pop_front()
        {
            give_up(&oldest, "too many others wait for theirs");
        }
        all.push_back(waiting);
        self.changed.notify_one();
    }

    /// The next that is due, once it is.
    fn next(&self) -> Waiting {
        let mut all = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let first = all.iter().enumerate().min_by_key(|(_, waiting)| waiting.due);
            let first =
                first.map(|(position, waiting)| (position, waiting.due.saturating_duration_since(Instant::now())));
            all = match first {
                None => self.changed.wait(all).unwrap_or_else(PoisonError::into_inner),
                Some((position, left)) if left.is_zero() => match all.remove(position) {
                    Some(waiting) => return waiting,
                    None => all,
                },
                Some((_, left)) => self.changed.wait_timeout(all, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }
}

fn give_up(waiting: &Waiting, reason: &str) {
    let engine = waiting.guarded.record().workload.container.engine;
    tracing::warn!(
        container = waiting.guarded.id.as_str(),
        "what {engine} did not tell of it at its creation stays unknown: {reason}"
    );
}

/// Asks until the worker ends.
pub fn run(service: &Arc<Service>) {
    loop {
        attempt(service, service.late_identities.next());
    }
}

fn attempt(service: &Service, waiting: Waiting) {
    let Some((pause, pauses)) = waiting.pauses.split_first() else { return };
    let is_last = pauses.is_empty() || waiting.since.elapsed() > PATIENCE;
    let record = waiting.guarded.record();
    let known = record.workload.container.clone();
    let creation = service.store.event(&waiting.creation.to_string()).ok().flatten().and_then(|event| event.creation);
    match look(record, creation.as_deref()) {
        Ok(told) if !later::is_incomplete(&told) || is_last && told != known => {
            tell(service, &waiting, told, creation.as_deref());
        }
        outcome if is_last => {
            let reason = outcome.map_or_else(|error| chain(&error), |_| chain(&LookError::Nothing));
            give_up(&waiting, &reason);
        }
        _ => {
            let due = Instant::now().checked_add(*pause).unwrap_or(waiting.due);
            service.late_identities.put(Waiting { due, pauses, ..waiting });
        }
    }
}

/// What is known of the container now.
fn look(record: Record, creation: Option<&Creation>) -> Result<Container, LookError> {
    let container = record.workload.container;
    let bundle = Path::new(&record.bundle);
    if container.engine != "containerd" {
        return Ok(later::from_files(container, bundle)?);
    }
    let task = later::task(bundle, &container.id).ok_or(LookError::Nothing)?;
    let ancestry = creation.map(|creation| creation.creator.ancestry.as_slice()).unwrap_or_default();
    let stream = open(later::socket(&task, ancestry))?;
    let told = containerd_api::ask(stream, task.namespace, &container.id, LIMIT)?;
    Ok(later::with_image(container, told))
}

/// A connection to an engine that root runs.
fn open(socket: PathBuf) -> Result<UnixStream, LookError> {
    match client::open_within(&socket, LIMIT) {
        Ok(stream) if control_server::is_trusted(&stream) => Ok(stream),
        Ok(_) => Err(LookError::WrongPeer { socket }),
        Err(errno) => Err(LookError::Connect { socket, source: errno.into() }),
    }
}

/// Records what was told, and has policy go by it.
fn tell(service: &Service, waiting: &Waiting, told: Container, creation: Option<&Creation>) {
    // a successor asks anew
    let Some(_busy) = service.retirement.busy() else { return };
    let guarded = &waiting.guarded;
    let workload = Workload { container: told.clone(), ..guarded.record().workload };
    let applied = service.policies().apply(&workload);
    let event = event(service, waiting.creation, &workload, &applied, creation);
    guarded.complete(told.clone(), |kept| match kept {
        Some(record) => service.journal.write_or_keep(&event, &[Write::PutContainer(record.stored())]),
        None => service.journal.record_or_keep(&event),
    });
    if let Some(open) = guarded.open_case() {
        open.case.set_container(told);
    }
    if *guarded.policy.current() != applied {
        tracing::info!(container = guarded.id.as_str(), policy = applied.name, "policy goes by what its engine told");
        service.cases.replace_policy(guarded, applied);
    }
}

fn event(
    service: &Service,
    creation_id: Uuid,
    workload: &Workload,
    applied: &Applied,
    creation: Option<&Creation>,
) -> Event {
    let verdict = creation.map(|creation| {
        let mut verdict = judge_creation(applied, workload, &creation.creator);
        verdict.refused = false;
        verdict
    });
    let is_expected = verdict.as_ref().is_none_or(|verdict| verdict.reasons.is_empty());
    let severity = if is_expected { Severity::Info } else { Severity::Medium };
    let id = Identification::id_for(creation_id);
    let mut event = Event::new(id, now(), Kind::ContainerIdentified, severity, service.host.clone());
    event.container = Some(workload.container.clone());
    event.policy = Some(applied.reference("mode"));
    event.identification = Some(Identification { creation: creation_id, verdict });
    event
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::registry::Registry;
    use crate::model::policy::Ground;
    use crate::model::workload::ContainerId;
    use std::collections::BTreeMap;

    fn guarded(id: &str, incomplete: bool) -> Arc<Guarded> {
        let container = Container {
            id: ContainerId::new(id).unwrap(),
            name: None,
            image: None,
            engine: "containerd".to_owned(),
            runtime: None,
            pod: None,
            started_at: None,
        };
        let record = Record {
            workload: Workload { container, annotations: BTreeMap::new(), cluster: None, privileged: false },
            alias: None,
            bundle: String::new(),
            pid: 0,
            start_time_ticks: None,
            root: String::new(),
            intercepted: true,
            ground: Ground::Notify,
            boot_id: None,
            incomplete: incomplete.then(Uuid::now_v7),
        };
        Registry::default().insert(record, Applied::built_in()).unwrap().0
    }

    #[test]
    fn those_that_wait_are_bounded_and_come_when_they_are_due() {
        let all = LateIdentities::default();
        all.expect(&guarded("complete", false));
        for number in 0..MAX_WAITING + 2 {
            all.expect(&guarded(&format!("c{number}"), true));
        }
        assert_eq!(all.waiting.lock().unwrap().len(), MAX_WAITING);
        let first = all.next();
        assert_eq!(first.guarded.id.as_str(), "c2", "the oldest gave way");
        let due = Instant::now() + Duration::from_millis(50);
        all.waiting.lock().unwrap().clear();
        all.put(Waiting { due: due + Duration::from_secs(60), ..first });
        all.put(Waiting { guarded: guarded("soon", true), creation: Uuid::now_v7(), since: due, due, pauses: &PAUSES });
        assert_eq!(all.next().guarded.id.as_str(), "soon");
        assert!(Instant::now() >= due);
    }

    #[test]
    fn what_is_told_late_is_kept_only_while_the_container_has_its_id_and_runs() {
        let kept = |guarded: &Guarded| {
            let mut kept = None;
            let container = Container { name: Some("web".to_owned()), ..guarded.record().workload.container };
            guarded.complete(container, |record| kept = Some(record));
            assert_eq!(guarded.record().workload.container.name.as_deref(), Some("web"));
            assert_eq!(guarded.record().incomplete, None, "told once");
            kept.expect("told")
        };
        let runs = guarded("c1", true);
        assert_eq!(kept(&runs), Some(runs.record()));
        let ended = guarded("c1", true);
        assert!(ended.claim_exit());
        assert_eq!(kept(&ended), None);
        let replaced = guarded("c1", true);
        replaced.give_place();
        assert_eq!(kept(&replaced), None);
    }

    #[test]
    fn the_id_of_what_completes_a_creation_is_made_of_its_own() {
        let creation = Uuid::now_v7();
        let id = Identification::id_for(creation);
        assert_ne!(id, creation);
        assert_eq!((id.get_version_num(), id.get_variant()), (7, creation.get_variant()));
        assert_eq!(Identification::id_for(creation), id);
    }
}

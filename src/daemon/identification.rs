//! Whose listener it is: the container by its id, the exec session by the runtime process that delivered it.

use std::path::Path;
use std::sync::Arc;

use crate::daemon::delivered::Delivered;
use crate::daemon::delivered::Label;
use crate::daemon::namesakes;
use crate::daemon::registry::Guarded;
use crate::daemon::registry::PendingExec;
use crate::daemon::registry::Record;
use crate::daemon::registry::start_time;
use crate::daemon::service::Service;
use crate::daemon::service::Unstored;
use crate::daemon::service::now;
use crate::daemon::service::unknown;
use crate::kernel::process::Facts;
use crate::kernel::seccomp_notify::Listener;
use crate::model::diagnostic::chain;
use crate::model::event::Creation;
use crate::model::event::CreationTarget;
use crate::model::event::Event;
use crate::model::event::Kind;
use crate::model::event::Protection;
use crate::model::event::Session;
use crate::model::event::Severity;
use crate::model::event::Source;
use crate::model::policy::Ground;
use crate::model::policy::decide::judge_creation;
use crate::model::workload::ContainerId;
use crate::model::workload::ContainerIdError;
use crate::model::workload::Workload;
use crate::oci::bundle::Bundle;
use crate::oci::identity;
use crate::oci::identity::Known;
use crate::oci::launcher_edit;
use crate::oci::listener_state::ListenerState;
use crate::oci::parameters::parameters;
use crate::oci::seccomp_flags;
use crate::supervise::ancestry::creator_of;
use crate::supervise::supervisor::unregistered_session;
use uuid::Uuid;

/// Why nobody can say whose listener it is.
#[derive(Debug, thiserror::Error)]
pub enum IdentificationError {
    /// The state's id is none.
    #[error("the state beside a listener has no usable id")]
    Id(#[from] ContainerIdError),
    /// The container could not be taken in.
    #[error("a container that its hook did not register cannot be registered now")]
    Admission(#[source] crate::daemon::registry::Full),
}

/// Finds the container and, for an exec, the session. `peer` is the pid of the runtime, or of the shim, that connected, `sender` that of
/// who sent the listener: a launcher has a connection of its shim's, and tells no pid of its own.
///
/// # Errors
/// [`IdentificationError`].
pub fn identify(
    service: &Service,
    state: ListenerState,
    listener: Listener,
    peer: u32,
    sender: u32,
) -> Result<Delivered, IdentificationError> {
    let id = ContainerId::new(&state.state.id)?;
    let exec = match state.exec_event() {
        None => service.registry.take_exec(&id, peer).map(Exec::announced),
        Some(event) => Some(recorded(service, &id, event)),
    };
    let announced = exec.as_ref().and_then(|exec| service.registry.get(exec.container.as_ref()?));
    let known = announced.or_else(|| {
        let process = first_known(&[state.state.pid, state.pid, sender, peer]);
        namesakes::with_process(&service.registry.all_of(&id), process)
    });
    let is_exec = exec.is_some() || is_exec(&state, known.as_deref());
    let guarded = match known {
        Some(guarded) => guarded,
        None => admit_unregistered(service, &id, &state, peer, is_exec)?,
    };
    if !is_exec && state.pid != 0 && guarded.record().pid == 0 {
        guarded.set_init(state.pid);
    }
    let gives_way = state.gives_way() && if is_exec { exec.as_ref().is_some_and(|exec| exec.gives_way) } else { true };
    let (session, exec_event, ground) = match exec {
        Some(exec) => (Some(exec.session), exec.event, exec.ground),
        // nobody saw to it that it is sealed
        None if is_exec => (Some(unregistered_session()), None, Ground::Broker),
        None => (None, None, guarded.record().ground),
    };
    // the pid of the process that the listener is about; crun tells none for an exec
    let pid = if is_exec { state.pid } else { first_known(&[state.pid, state.state.pid, guarded.record().pid]) };
    let label = Label {
        container: guarded.id.clone(),
        pid,
        session: session_id(session.as_ref()),
        exec_event,
        ground,
        delivery: None,
        gives_way,
        runs: false,
    };
    Ok(Delivered { listener: Arc::new(listener), guarded, session, label })
}

/// An exec session whose listener has come.
struct Exec {
    /// Into which container it was announced.
    container: Option<ContainerId>,
    session: Session,
    /// Its recorded event.
    event: Option<Uuid>,
    ground: Ground,
    gives_way: bool,
}

impl Exec {
    fn announced(exec: PendingExec) -> Self {
        Self {
            container: Some(exec.container),
            session: exec.session,
            event: Some(exec.event),
            ground: exec.ground,
            gives_way: exec.launcher_listens,
        }
    }
}

/// The exec session whose launcher names its recorded `event`: it is sealed, or its runtime gives exec sessions no listener. The event
/// says which; of one that is not there, the broker does as well.
fn recorded(service: &Service, id: &ContainerId, event: &str) -> Exec {
    let is_of_container = |event: &Event| event.container.as_ref().is_some_and(|container| container.id == *id);
    let event = service.store.event(event).ok().flatten().filter(is_of_container);
    let session = event.as_ref().and_then(|event| event.session.clone());
    let (event, session) = (event.map(|event| event.id), session.unwrap_or_else(unregistered_session));
    let container = event.and_then(|event| service.registry.container_of_exec(event));
    let ground = session.ground.unwrap_or(Ground::Broker);
    Exec { container, session, event, ground, gives_way: false }
}

fn session_id(session: Option<&Session>) -> Option<String> {
    session.map(|session| session.id.clone())
}

fn first_known(pids: &[u32]) -> u32 {
    pids.iter().copied().find(|pid| *pid != 0).unwrap_or(0)
}

/// Whether the state is that of an exec: runc tells the container as running and another pid than its init's, crun
/// neither pid nor bundle.
fn is_exec(state: &ListenerState, known: Option<&Guarded>) -> bool {
    let inner = &state.state;
    let other_process = state.pid != 0 && inner.pid != 0 && state.pid != inner.pid;
    let crun_exec = state.pid == 0 && inner.pid == 0 && inner.bundle == Path::new(".");
    let has_its_own = known.is_some_and(|guarded| guarded.listeners() > 0);
    other_process || crun_exec || (inner.status == "running" && has_its_own)
}

/// The container's creation went past the hook: it is recorded from what the state and the bundle tell.
fn admit_unregistered(
    service: &Service,
    id: &ContainerId,
    state: &ListenerState,
    peer: u32,
    is_exec: bool,
) -> Result<Arc<Guarded>, IdentificationError> {
    let bundle = Bundle::open(&state.state.bundle);
    let started_at = if is_exec { None } else { Some(now()) };
    let known = Known { cluster: service.config.cluster.as_deref(), runtime: None, started_at };
    let workload = match &bundle {
        Ok(bundle) => identity::workload(&launcher_edit::own(bundle.config()), bundle.directory(), id, &known),
        Err(_) => Workload {
            container: unknown(id),
            annotations: state.state.annotations.clone(),
            cluster: service.config.cluster.clone(),
            privileged: false,
        },
    };
    let pid = first_known(&[state.state.pid, if is_exec { 0 } else { state.pid }]);
    let root = match &bundle {
        Ok(bundle) => root_of(bundle),
        Err(error) => {
            tracing::warn!(container = id.as_str(), "its bundle tells nothing: {}", chain(error));
            String::new()
        }
    };
    let event = creation(service, &workload, bundle.as_ref().ok(), peer, is_exec);
    let ground = Ground::of_listener(service.policies().apply(&workload).mode);
    let record = Record {
        workload,
        alias: None,
        bundle: state.state.bundle.display().to_string(),
        pid,
        start_time_ticks: start_time(pid),
        root,
        intercepted: true,
        ground,
        boot_id: service.host.boot_id.clone(),
        incomplete: None,
    };
    tracing::warn!(container = id.as_str(), "the createRuntime hook did not run; the container is recorded now");
    // it runs already, and its calls must be answered even when nothing can be recorded
    match service.admit(record.clone(), &event, Unstored::Kept) {
        Ok(guarded) => Ok(guarded),
        Err(error) => {
            tracing::error!(container = id.as_str(), "its creation is not recorded: {}", chain(&error));
            service.readmit(record).map_err(IdentificationError::Admission)
        }
    }
}

/// `root.path` of the bundle's configuration, absolute.
fn root_of(bundle: &Bundle) -> String {
    let path = bundle.config().get("root").and_then(|root| root.get("path")).and_then(serde_json::Value::as_str);
    bundle.directory().join(path.unwrap_or("rootfs")).display().to_string()
}

fn creation(service: &Service, workload: &Workload, bundle: Option<&Bundle>, peer: u32, is_exec: bool) -> Event {
    let applied = service.policies().apply(workload);
    // the peer is the runtime, its parent who called it; of an exec that says nothing about the container's creator
    let creator = match Facts::read(peer) {
        Ok(runtime) if !is_exec => creator_of(runtime.parent),
        _ => crate::model::event::Creator::default(),
    };
    let mut verdict = judge_creation(&applied, workload, &creator);
    verdict.refused = false;
    let pod = workload.container.pod.as_ref();
    let mut event = service.event(Kind::ContainerCreated, Severity::Medium);
    event.container = Some(workload.container.clone());
    event.policy = Some(applied.reference("mode"));
    event.creation = Some(Box::new(Creation {
        creator,
        source: Source {
            engine: workload.container.engine.clone(),
            control_plane: pod.map(|_| "kubernetes".to_owned()),
        },
        target: CreationTarget {
            namespace: pod.map(|pod| pod.namespace.clone()),
            service: pod.map(|pod| pod.name.clone()),
            role: None,
        },
        parameters: bundle.map(|bundle| parameters(&launcher_edit::own(bundle.config()), None)).unwrap_or_default(),
        accounts: None,
        protection: Protection {
            intercepted: true,
            ground: Ground::of_listener(applied.mode),
            installer: Some("runtime".to_owned()),
            wait_killable: bundle
                .and_then(|bundle| bundle.config().pointer("/linux/seccomp"))
                .map(seccomp_flags::waits_killable),
            not_killable: None,
            reasons: vec!["the createRuntime hook did not run".to_owned()],
        },
        verdict,
    }));
    event
}

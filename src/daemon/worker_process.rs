//! The worker process: takes over what the keeper holds, serves, and does what the keeper says.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use uuid::Uuid;

use crate::config::Config;
use crate::config::SinkConfig;
use crate::daemon::confinement;
use crate::daemon::confinement::Otherwise;
use crate::daemon::confinement::writing;
use crate::daemon::confinement::writing::Places;
use crate::daemon::control_server;
use crate::daemon::delivered::Delivered;
use crate::daemon::delivered::Label;
use crate::daemon::delivered::Room;
use crate::daemon::hand_over;
use crate::daemon::hand_over::HandOverError;
use crate::daemon::hand_over::Message;
use crate::daemon::housekeeping;
use crate::daemon::journal;
use crate::daemon::journal::Journal;
use crate::daemon::keeper;
use crate::daemon::late_identity;
use crate::daemon::lines::Lines;
use crate::daemon::listener_server;
use crate::daemon::listener_server::Accepted;
use crate::daemon::refusal_watch;
use crate::daemon::registry::Full;
use crate::daemon::registry::Guarded;
use crate::daemon::registry::Record;
use crate::daemon::retirement::Retirement;
use crate::daemon::service;
use crate::daemon::service::Parts;
use crate::daemon::service::Service;
use crate::daemon::service::ServiceError;
use crate::daemon::shipper;
use crate::daemon::startup;
use crate::daemon::worker;
use crate::kernel::broker::BrokerError;
use crate::kernel::broker::Starter;
use crate::kernel::seccomp_notify::Listener;
use crate::kernel::seccomp_notify::ListenerError;
use crate::kernel::shared_area::SharedArea;
use crate::kernel::shared_area::SharedAreaError;
use crate::kernel::shared_area::Slot;
use crate::model::diagnostic::chain;
use crate::model::event::Session;
use crate::model::policy::Ground;
use crate::model::workload::Workload;
use crate::sinks::syslog::FacilityError;
use crate::store::Retention;
use crate::store::Store;
use crate::store::StoreError;

/// How long calls that are being answered have when the daemon stops.
const LAST_ANSWERS: Duration = Duration::from_millis(100);
/// How long what was received may take to be answered when a successor waits.
const LAST_DEEDS: Duration = Duration::from_secs(2);
/// How long the databases of containers may take to be read once more.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long events that wait in memory have then to be stored.
const LAST_RECORDS: Duration = Duration::from_secs(1);
/// How often a worker whose keeper is gone looks whether anybody still needs it.
const ORPHAN_CHECK: Duration = Duration::from_secs(1);

/// Why a worker cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The keeper did not hand over what it holds.
    #[error("the keeper's hand-over failed; the worker is started by acctguard-daemon only, not by hand")]
    HandOver(#[source] HandOverError),
    /// Something is missing in it.
    #[error("the keeper's hand-over lacks {0}; the worker is started by acctguard-daemon only, not by hand")]
    Incomplete(&'static str),
    /// The line to the keeper.
    #[error("cannot use the line to the keeper; the worker is started by acctguard-daemon only, not by hand")]
    Line(#[source] std::io::Error),
    /// The memory for notifications.
    #[error(transparent)]
    Area(#[from] SharedAreaError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The policy.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// A sink.
    #[error(transparent)]
    Facility(#[from] FacilityError),
    /// What starts helpers.
    #[error("cannot start what starts the broker's helpers")]
    Starter(#[from] BrokerError),
    /// A thread.
    #[error("cannot make a thread")]
    Thread(#[source] std::io::Error),
}

/// A listener that an earlier worker served, or a runtime's connection.
struct Heirloom {
    slot: u32,
    label: Vec<u8>,
    descriptor: OwnedFd,
}

impl Heirloom {
    fn is_connection(&self) -> bool {
        usize::try_from(self.slot).is_ok_and(|number| number >= keeper::LISTENERS)
    }

    /// By which delivery a listener came.
    fn delivery(&self) -> Option<Uuid> {
        let label: Option<Label> = (!self.is_connection()).then(|| serde_json::from_slice(&self.label).ok()).flatten();
        label?.delivery
    }
}

/// What a worker needs to get ready.
struct Sockets {
    listener_socket: UnixListener,
    control_socket: UnixListener,
    area: SharedArea,
}

/// What it is to serve.
#[derive(Default)]
struct Inheritance {
    heirlooms: Vec<Heirloom>,
    second_keeper: Option<OwnedFd>,
}

/// Serves until the keeper says stop. `stored`: should the keeper be gone, a service manager gives everything to another.
/// `otherwise`: what becomes of system calls that no worker needs.
///
/// # Errors
/// [`WorkerError`] when it cannot begin.
pub fn run(config: Config, stored: bool, otherwise: Otherwise) -> Result<(), WorkerError> {
    let keeper = rustix::io::fcntl_dupfd_cloexec(std::io::stdin().as_fd(), 3)
        .map_err(|errno| WorkerError::Line(errno.into()))?;
    let starter = start_starter(otherwise)?;
    confinement::confine_worker(&config, otherwise);
    let Sockets { listener_socket, control_socket, area } = sockets(&keeper)?;
    let store = Arc::new(open_store(&config)?);
    let policies = service::first_policies(&config)?;
    let journal = start_journal(&config, &store)?;
    let retirement = Retirement::new().map_err(WorkerError::Line)?;
    let lines = Lines::new(keeper);
    let service = Arc::new(Service::new(Parts { config, store, journal, area, lines, retirement, starter, policies }));
    service.lines.tell(&Message::Prepared).map_err(WorkerError::HandOver)?;
    let Inheritance { heirlooms, second_keeper } = inherit(&service.lines)?;
    readmit_all(&service)?;
    // before any call asks for a free one
    let mut slots = slots_of(&service.area, &heirlooms);
    let mut kept = service.area.kept();
    let deliveries: Vec<Uuid> = heirlooms.iter().filter_map(Heirloom::delivery).collect();
    service.cases.grants.retain(&deliveries);
    let mut connections = Vec::new();
    for heirloom in heirlooms {
        let slot = heirloom.slot;
        if heirloom.is_connection() {
            let Heirloom { label, descriptor, .. } = heirloom;
            connections.push(Accepted::note(&service, UnixStream::from(descriptor), slot, label));
        } else if let Err(reason) = adopt(&service, heirloom, &mut slots, &mut kept) {
            tracing::error!(slot, "what the last worker had is not served: {reason}");
        }
    }
    second_keeper.into_iter().for_each(|line| service.lines.set_second_keeper(line));
    connections.into_iter().for_each(|connection| listener_server::go_on(&service, connection, &deliveries));
    housekeeping::take_in_all(&service);
    for sink in &service.config.sinks {
        start_sink(&service, sink)?;
    }
    start(&service, "starter", end_with_starter)?;
    start(&service, "listeners", move |service| listener_server::serve(service, &listener_socket))?;
    start(&service, "clients", move |service| control_server::serve(service, &control_socket))?;
    start(&service, "housekeeping", housekeeping::run)?;
    start(&service, "late identities", late_identity::run)?;
    start(&service, "landlock", |service| refusal_watch::run(service))?;
    service.lines.tell(&Message::Serving).map_err(WorkerError::HandOver)?;
    let containers = service.registry.all().len();
    tracing::info!(containers, policies = service.policies().documents.len(), "acctguard-daemon serves");
    obey(&service, stored);
    Ok(())
}

/// What the worker starts while it is as free as helpers have to be.
fn start_starter(otherwise: Otherwise) -> Result<Starter, WorkerError> {
    let refusing = (otherwise == Otherwise::Refuse).then_some(startup::REFUSING);
    let arguments: Vec<&str> = std::iter::once(startup::BE_A_STARTER).chain(refusing).collect();
    Ok(Starter::apart("/proc/self/exe", &arguments, "acctguard-starter")?)
}

/// The store's threads can write to the daemon's own directories only.
fn open_store(config: &Config) -> Result<Store, WorkerError> {
    let retention = Retention::new(config.retention_days, config.store_max_mib);
    let open = || Store::open(&config.store_file(), retention);
    let opened = writing::confined_to(&Places::of_store(config), open);
    Ok(opened.map_err(|_| WorkerError::Thread(std::io::ErrorKind::Other.into()))??)
}

fn start_journal(config: &Config, store: &Arc<Store>) -> Result<Arc<Journal>, WorkerError> {
    let host = crate::config::node::host(config);
    let refuge = housekeeping::refuge(config);
    let start = || Journal::start(Arc::clone(store), host, refuge, journal::MEMORY_BYTES);
    let started = writing::confined_to(&Places::of_store(config), start);
    started.unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into())).map_err(WorkerError::Thread)
}

/// A sink's thread can write to its own directory, too.
fn start_sink(service: &Arc<Service>, config: &SinkConfig) -> Result<(), WorkerError> {
    let sink = shipper::sink_of(config)?;
    let start = || shipper::start(Arc::clone(&service.journal), sink, Arc::clone(&service.stopping));
    let started = writing::confined_to(&Places::of_sink(&service.config, config), start);
    started.unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into())).map_err(WorkerError::Thread)
}

/// Without what starts helpers no call can be carried out; the next worker has another.
fn end_with_starter(service: &Arc<Service>) {
    service.starter.wait_for_end();
    tracing::error!("the process that starts the broker's helpers is gone, and so is this worker");
    std::process::abort();
}

fn start(
    service: &Arc<Service>,
    name: &str,
    work: impl FnOnce(&Arc<Service>) + Send + 'static,
) -> Result<(), WorkerError> {
    let service = Arc::clone(service);
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || work(&service));
    thread.map(drop).map_err(WorkerError::Thread)
}

fn sockets(keeper: &OwnedFd) -> Result<Sockets, WorkerError> {
    let (message, descriptors) = hand_over::receive(keeper).map_err(WorkerError::HandOver)?;
    match message {
        Message::Sockets { version } if version > hand_over::VERSION => {
            return Err(WorkerError::HandOver(HandOverError::Newer(version)));
        }
        Message::Sockets { .. } => {}
        _ => return Err(WorkerError::HandOver(HandOverError::Malformed)),
    }
    let [listeners, clients, area] =
        <[OwnedFd; 3]>::try_from(descriptors).map_err(|_| WorkerError::Incomplete("its sockets"))?;
    Ok(Sockets {
        listener_socket: UnixListener::from(listeners),
        control_socket: UnixListener::from(clients),
        area: SharedArea::from_fd(area)?,
    })
}

fn inherit(lines: &Lines) -> Result<Inheritance, WorkerError> {
    let mut inheritance = Inheritance::default();
    loop {
        let (message, mut descriptors) = hand_over::receive(lines.keeper()).map_err(WorkerError::HandOver)?;
        match message {
            Message::Adopt { slot, label } => {
                let descriptor = descriptors.pop().ok_or(WorkerError::Incomplete("a listener"))?;
                inheritance.heirlooms.push(Heirloom { slot, label, descriptor });
            }
            Message::Line => inheritance.second_keeper = descriptors.pop(),
            Message::Serve => return Ok(inheritance),
            _ => return Err(WorkerError::HandOver(HandOverError::Malformed)),
        }
    }
}

/// Takes the containers of the store into the registry. Those of an earlier boot have ended.
fn readmit_all(service: &Service) -> Result<(), WorkerError> {
    for stored in service.store.containers()? {
        let record: Record = match serde_json::from_str(&stored.json) {
            Ok(record) => record,
            Err(error) => {
                tracing::error!("what the store has of container {:?} is not understood: {error}", stored.id);
                continue;
            }
        };
        let of_this_boot = record.boot_id == service.host.boot_id;
        // nobody is asked about a container of another boot
        let incomplete = record.incomplete.filter(|_| of_this_boot);
        let guarded = service.readmit(Record { incomplete, ..record }).map_err(ServiceError::from)?;
        if !of_this_boot {
            service.ended_unreported(&guarded, "boot").map_err(ServiceError::from)?;
        }
    }
    Ok(())
}

/// The slots of listeners that an earlier worker served.
fn slots_of(area: &SharedArea, heirlooms: &[Heirloom]) -> BTreeMap<u32, Slot> {
    let numbers = heirlooms.iter().filter(|heirloom| !heirloom.is_connection()).map(|heirloom| heirloom.slot);
    numbers.filter_map(|number| Some((number, area.slot(usize::try_from(number).ok()?)?))).collect()
}

/// Serves a listener of an earlier worker, whose slot is one of `slots`.
/// `kept`: the slots of calls that wait, by the place of their listener's.
fn adopt(
    service: &Arc<Service>,
    heirloom: Heirloom,
    slots: &mut BTreeMap<u32, Slot>,
    kept: &mut BTreeMap<usize, Vec<Slot>>,
) -> Result<(), String> {
    let label: Label = serde_json::from_slice(&heirloom.label).map_err(|error| error.to_string())?;
    let listener = Listener::from_fd(heirloom.descriptor).map_err(|error: ListenerError| chain(&error))?;
    let guarded = match service.registry.get(&label.container) {
        Some(guarded) => guarded,
        None => readmit_unknown(service, &label).map_err(|error| chain(&error))?,
    };
    let session = label.session.as_ref().map(|id| session_of(service, id, &label));
    let slot = slots.remove(&heirloom.slot).ok_or("its slot is taken")?;
    let delivered = Delivered { listener: Arc::new(listener), guarded, session, label };
    let kept = kept.remove(&slot.index()).unwrap_or_default();
    worker::serve_adopted(service, delivered, Room { slot, kept }).map_err(|error| chain(&error))
}

/// What was recorded about the exec session, or no more than its id.
fn session_of(service: &Service, id: &str, label: &Label) -> Session {
    let recorded = label.exec_event.and_then(|event| service.store.event(&event.to_string()).ok().flatten());
    recorded.and_then(|event| event.session).unwrap_or_else(|| Session { id: id.to_owned(), ..Session::default() })
}

/// A container whose registration the store lost: its calls are answered all the same.
fn readmit_unknown(service: &Service, label: &Label) -> Result<Arc<Guarded>, Full> {
    service.readmit(Record {
        workload: Workload {
            container: service::unknown(&label.container),
            annotations: std::collections::BTreeMap::new(),
            cluster: service.config.cluster.clone(),
            privileged: false,
        },
        alias: None,
        bundle: String::new(),
        pid: if label.session.is_none() { label.pid } else { 0 },
        start_time_ticks: None,
        root: String::new(),
        intercepted: true,
        ground: Ground::Notify,
        boot_id: service.host.boot_id.clone(),
        incomplete: None,
    })
}

/// Does what the keeper says until it says stop.
fn obey(service: &Service, stored: bool) {
    loop {
        match hand_over::receive(service.lines.keeper()) {
            Ok((Message::Reload, _)) => {
                if let Err(error) = service.reload() {
                    tracing::error!("{}", chain(&error));
                }
                if let Err(error) = service.lines.tell(&Message::Reloaded) {
                    tracing::warn!("{}", chain(&error));
                }
            }
            Ok((Message::Stop, _)) => return stop(service),
            Ok((Message::Retire, _)) => return retire(service),
            Ok((Message::NotUpgraded { label }, _)) => {
                service.retirement.refuse(String::from_utf8_lossy(&label).into_owned());
            }
            Ok((Message::Line, mut descriptors)) => {
                descriptors.pop().into_iter().for_each(|line| service.lines.set_second_keeper(line));
            }
            Ok((other, _)) => tracing::error!("the keeper said something that only a worker says: {other:?}"),
            Err(HandOverError::Closed) if stored => {
                tracing::error!("the keeper is gone; the service manager starts another");
                std::process::exit(1);
            }
            Err(HandOverError::Closed) if service.lines.has_second_keeper() => {
                tracing::error!("the keeper is gone; the second keeper's worker takes over");
                return retire(service);
            }
            Err(HandOverError::Closed) => return outlive(service),
            Err(error) => {
                tracing::error!("{}", chain(&error));
                std::thread::sleep(ORPHAN_CHECK);
            }
        }
    }
}

fn served(service: &Service) -> (usize, u32) {
    let containers = service.registry.all();
    let listeners = containers.iter().map(|guarded| guarded.listeners());
    listeners.filter(|count| *count > 0).fold((0, 0), |(containers, sum), count| (containers + 1, sum + count))
}

fn stop(service: &Service) {
    let (containers, listeners) = served(service);
    if containers > 0 {
        tracing::warn!(
            "stopping: {containers} containers lose their supervisor ({listeners} listeners); intercepted calls in them fail with ENOSYS until they are restarted"
        );
    } else {
        tracing::info!("stopping: no container is being supervised");
    }
    service.stopping.store(true, Ordering::Release);
    service.store.wake_all();
    std::thread::sleep(LAST_ANSWERS);
    tell_all(service);
    service.journal.stop(LAST_RECORDS);
}

/// Records what the containers' cases have to tell; within [`LAST_WORDS`], because a file system of one may hang.
fn tell_all(service: &Service) {
    let cases: Vec<_> = service.registry.all().iter().filter_map(|guarded| guarded.open_case()).collect();
    let (done, is_done) = std::sync::mpsc::channel();
    let spawned = std::thread::Builder::new().name("last words".to_owned()).spawn(move || {
        cases.iter().for_each(|case| case.tell());
        // nobody waits for it any more when it took long
        let _ = done.send(());
    });
    if spawned.is_err() || is_done.recv_timeout(LAST_WORDS).is_err() {
        tracing::warn!("what some containers' cases know is left to the next worker to say");
    }
}

/// A successor is ready: what was received is answered, then this process makes room for it.
fn retire(service: &Service) {
    let (containers, listeners) = served(service);
    tracing::info!(containers, listeners, "another worker takes over");
    service.stopping.store(true, Ordering::Release);
    service.store.wake_all();
    if !service.retirement.begin(LAST_DEEDS) {
        tracing::warn!("some calls are left to the next worker unanswered");
    }
    tell_all(service);
    service.journal.stop(LAST_RECORDS);
    service.clients.hang_up();
}

/// The keeper is gone. What is served goes on being served; a new daemon takes what is new.
fn outlive(service: &Service) {
    tracing::error!(
        "the keeper is gone; this worker serves on until its last container has ended; start acctguard-daemon again for new containers"
    );
    while served(service).0 > 0 {
        std::thread::sleep(ORPHAN_CHECK);
    }
    tracing::info!("the last container has ended");
    service.stopping.store(true, Ordering::Release);
    service.store.wake_all();
    service.journal.stop(LAST_RECORDS);
}

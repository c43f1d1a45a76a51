//! Takes listeners from runtimes: one connection each, served as soon as the state's JSON is complete (runtime-spec
//! config-linux.md, "The Container Process State"). Never reads to the end of the stream: runc before 1.2 keeps the connection
//! open for as long as it lives. crun connects long before it has anything to send.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use uuid::Uuid;

use crate::daemon::control_server::is_trusted;
use crate::daemon::identification;
use crate::daemon::keeper;
use crate::daemon::namesakes;
use crate::daemon::retirement::Waited;
use crate::daemon::service::Service;
use crate::daemon::worker;
use crate::kernel::Errno;
use crate::kernel::fd_passing;
use crate::kernel::fd_passing::Message;
use crate::kernel::fd_passing::PassingError;
use crate::kernel::seccomp_notify::Listener;
use crate::kernel::seccomp_notify::ListenerError;
use crate::model::diagnostic::chain;
use crate::model::event::Kind;
use crate::model::event::ProtectionChange;
use crate::model::event::Severity;
use crate::model::redact;
use crate::model::workload::ContainerId;
use crate::oci::launcher_words;
use crate::oci::listener_state;
use crate::oci::listener_state::ListenerState;
use crate::oci::listener_state::ListenerStateError;
use crate::oci::listener_state::Progress;

/// Once a message has begun it must be there in this time.
const MESSAGE_LIMIT: Duration = Duration::from_secs(10);
/// Most descriptors with one message.
const MAX_DESCRIPTORS: usize = 8;
const CHUNK_BYTES: usize = 64 * 1024;
const STACK_BYTES: usize = 512 * 1024;

/// Why what came is no listener.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The connection ended in the middle of a message.
    #[error("the connection ended in the middle of the state")]
    Truncated,
    /// The message stopped half-way.
    #[error("the state was not complete after {} seconds", MESSAGE_LIMIT.as_secs())]
    TooSlow,
    /// Too many descriptors.
    #[error("more than {MAX_DESCRIPTORS} descriptors came with the state")]
    TooManyDescriptors,
    /// The state names another number of descriptors than came.
    #[error("the state names {named} descriptors, {received} came")]
    DescriptorCount {
        /// In `fds`.
        named: usize,
        /// With the message.
        received: usize,
    },
    /// None is called `seccompFd`.
    #[error("the state names no descriptor {:?}", launcher_words::SECCOMP_FD_NAME)]
    NoListener,
    /// The socket.
    #[error(transparent)]
    Socket(#[from] PassingError),
    /// The socket's time limit.
    #[error("cannot bound the wait for a state")]
    Limit(#[source] std::io::Error),
    /// Not a state.
    #[error(transparent)]
    State(#[from] ListenerStateError),
    /// Not a listener.
    #[error(transparent)]
    Listener(#[from] ListenerError),
}

/// What the next worker needs to know about a connection whose listener is not served yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// Pid of the runtime.
    peer: u32,
    /// By which a listener that came on it is known: with that, nothing is to come on it any more.
    #[serde(default)]
    pub delivery: Option<Uuid>,
}

/// What came on a connection.
pub enum Received {
    /// A listener.
    Listener(Delivery),
    /// The launcher of a container, which process this is, makes no listener of its own.
    Declined(Box<ListenerState>, u32),
}

/// A message and the listener in it.
pub struct Delivery {
    /// The message.
    pub state: Box<ListenerState>,
    /// The listener.
    pub listener: Listener,
    /// Pid of the process that sent it, which need not have connected; 0 when that is not known.
    pub sender: u32,
    /// Whether it is still in the socket, with the listener: then whoever has the socket can receive it again.
    pub unread: bool,
}

/// Accepts runtimes until the worker retires: those that come then are its successor's.
pub fn serve(service: &Arc<Service>, socket: &UnixListener) {
    if let Err(errno) = fd_passing::ask_for_senders(socket.as_fd()) {
        tracing::error!("launchers of containers with one id cannot be told apart: SO_PASSCRED: {errno}");
    }
    while !matches!(service.retirement.wait(socket.as_fd()), Ok(Waited::Retired)) {
        // until the keepers hold a connection it is lost with this process
        let Some(_busy) = service.retirement.busy() else { return };
        match socket.accept() {
            Ok((stream, _)) => admit(service, stream),
            // another worker was quicker
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::error!("cannot accept a runtime: {error}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn admit(service: &Arc<Service>, stream: UnixStream) {
    if !is_trusted(&stream) {
        return;
    }
    let peer = fd_passing::peer_credentials(stream.as_fd()).map_or(0, |peer| peer.pid);
    let label = Label { peer, delivery: Some(Uuid::now_v7()) };
    let stream = Arc::new(stream);
    // a Label is two numbers, which always have a JSON form
    let text = serde_json::to_vec(&label).unwrap_or_default();
    let Some(number) = service.lines.hold_connection(text, Arc::<UnixStream>::clone(&stream)) else {
        tracing::error!(
            "{} runtimes are connected and have sent nothing yet; another one is turned away",
            keeper::CONNECTIONS
        );
        return;
    };
    start(service, stream, number, label);
}

/// A connection that an earlier worker accepted.
pub struct Accepted {
    stream: Arc<UnixStream>,
    number: u32,
    label: Label,
}

impl Accepted {
    /// Notes that the keepers hold it as `number` and `text`.
    pub fn note(service: &Service, stream: UnixStream, number: u32, text: Vec<u8>) -> Self {
        let label = serde_json::from_slice(&text).unwrap_or(Label { peer: 0, delivery: None });
        let stream = Arc::new(stream);
        service.lines.note(number, text, Arc::<UnixStream>::clone(&stream));
        Self { stream, number, label }
    }
}

/// Goes on with a connection, unless its listener is among those that came by `deliveries`. The second keeper is to know of
/// everything before: what is taken out of a connection is nowhere else.
pub fn go_on(service: &Arc<Service>, Accepted { stream, number, label }: Accepted, deliveries: &[Uuid]) {
    if label.delivery.is_some_and(|delivery| deliveries.contains(&delivery)) {
        service.lines.release(number);
        return;
    }
    start(service, stream, number, label);
}

fn start(service: &Arc<Service>, stream: Arc<UnixStream>, number: u32, label: Label) {
    let of_thread = Arc::clone(service);
    let thread = std::thread::Builder::new().name("delivery".to_owned()).stack_size(STACK_BYTES).spawn(move || {
        if !matches!(of_thread.retirement.wait(stream.as_fd()), Ok(Waited::Retired))
            && let Some(_busy) = of_thread.retirement.busy()
        {
            take(&of_thread, &stream, label);
            of_thread.lines.release(number);
        }
    });
    if let Err(error) = thread {
        service.lines.release(number);
        tracing::error!("cannot make a thread for a runtime: {error}");
    }
}

/// The message stays in the socket until the keeper has the listener: should the worker end before, the next one takes it.
fn take(service: &Arc<Service>, stream: &UnixStream, Label { peer, delivery }: Label) {
    match receive(stream) {
        Ok(None) => {}
        Ok(Some(Received::Declined(state, sender))) => tell_declined(service, &state, peer, sender),
        Ok(Some(Received::Listener(Delivery { state, listener, sender, unread }))) => {
            let container = state.state.id.chars().take(64).collect::<String>().escape_debug().to_string();
            let delivered = identification::identify(service, *state, listener, peer, sender);
            let served = delivered.map(|mut delivered| {
                delivered.label.delivery = delivery;
                worker::serve_new(service, delivered)
            });
            match served {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(container, peer, "a listener is not served: {}", chain(&error)),
                Err(error) => tracing::error!(container, peer, "a listener is not served: {}", chain(&error)),
            }
            if unread {
                // a runtime would see a reset where something is left
                let _ = fd_passing::receive(stream.as_fd(), &mut vec![0; CHUNK_BYTES]);
            }
        }
        Err(error) => tracing::warn!(peer, "what a runtime delivered is no listener: {}", chain(&error)),
    }
}

/// The record says that calls wait killable by the launcher's listener: they do not. Those of an exec session whose runtime has not
/// delivered a listener are not intercepted at all.
fn tell_declined(service: &Service, state: &ListenerState, peer: u32, sender: u32) {
    let Ok(id) = ContainerId::new(&state.state.id) else { return };
    let unseen = service.registry.take_exec(&id, peer).filter(|exec| exec.launcher_listens);
    let guarded = match &unseen {
        Some(exec) => service.registry.get(&exec.container),
        None => namesakes::with_process(&service.registry.all_of(&id), sender),
    };
    let Some(guarded) = guarded else { return };
    let reason = redact::printable(state.declined().unwrap_or_default().as_bytes());
    let (severity, what) = match unseen {
        Some(_) => (Severity::High, "exec session not intercepted"),
        None => (Severity::Low, "signals cancel calls that are being answered"),
    };
    let mut event = service.event(Kind::ProtectionDegraded, severity);
    event.container = Some(guarded.record().workload.container);
    event.protection = Some(ProtectionChange {
        what: what.to_owned(),
        reason: format!("the launcher makes no listener of its own: {reason}"),
        remedy: None,
    });
    service.journal.record_or_keep(&event);
}

/// Waits for a message and the listener in it. `None` when the peer went away without one.
///
/// # Errors
/// [`DeliveryError`]; every descriptor that came is closed then.
pub fn receive(stream: &UnixStream) -> Result<Option<Received>, DeliveryError> {
    let mut chunk = vec![0_u8; CHUNK_BYTES];
    let Message { length, descriptors, sender } = ended_by_reset(fd_passing::peek_message(stream.as_fd(), &mut chunk))?;
    if length == 0 {
        return Ok(None);
    }
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(DeliveryError::TooManyDescriptors);
    }
    if let Progress::Complete(state) = listener_state::parse_prefix(chunk.get(..length).unwrap_or_default())? {
        return outcome_of(state, descriptors, sender, true);
    }
    // a long one comes in pieces: it is taken out of the socket
    drop(descriptors);
    stream.set_read_timeout(Some(MESSAGE_LIMIT)).map_err(DeliveryError::Limit)?;
    let mut text = Vec::new();
    let mut descriptors: Vec<OwnedFd> = Vec::new();
    loop {
        let message = ended_by_reset(fd_passing::receive_message(stream.as_fd(), &mut chunk))?;
        if message.length == 0 {
            return Err(DeliveryError::Truncated);
        }
        text.extend(chunk.iter().take(message.length));
        descriptors.extend(message.descriptors);
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(DeliveryError::TooManyDescriptors);
        }
        if let Progress::Complete(state) = listener_state::parse_prefix(&text)? {
            return outcome_of(state, descriptors, sender, false);
        }
    }
}

fn outcome_of(
    state: Box<ListenerState>,
    descriptors: Vec<OwnedFd>,
    sender: u32,
    unread: bool,
) -> Result<Option<Received>, DeliveryError> {
    Ok(Some(match state.declined() {
        Some(_) => Received::Declined(state, sender),
        None => Received::Listener(Delivery { listener: pick(&state, descriptors)?, state, sender, unread }),
    }))
}

fn ended_by_reset(received: Result<Message, PassingError>) -> Result<Message, DeliveryError> {
    match received {
        Err(error) if matches!(error.errno(), Some(Errno::AGAIN)) => Err(DeliveryError::TooSlow),
        Err(error) if matches!(error.errno(), Some(Errno::CONNRESET)) => Ok(Message::default()),
        other => Ok(other?),
    }
}

/// The descriptor called `seccompFd`; all others are closed.
fn pick(state: &ListenerState, descriptors: Vec<OwnedFd>) -> Result<Listener, DeliveryError> {
    let (named, received) = (state.fds.len(), descriptors.len());
    if named != received {
        return Err(DeliveryError::DescriptorCount { named, received });
    }
    let index = state.seccomp_fd_index().ok_or(DeliveryError::NoListener)?;
    let descriptor = descriptors.into_iter().nth(index).ok_or(DeliveryError::NoListener)?;
    Ok(Listener::from_fd(descriptor)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn state(fds: &str) -> String {
        format!(
            r#"{{"ociVersion":"1.0.2","fds":{fds},"pid":1,"state":{{"id":"c1","bundle":"/b","annotations":{{}}}}}}"#
        )
    }

    /// What the server makes of `bytes`, sent with `descriptors` pipes beside them.
    fn outcome(lent: &std::path::Path, bytes: &[u8], descriptors: usize) -> Result<Option<Received>, DeliveryError> {
        let (here, there) = UnixStream::pair().unwrap();
        let sender = {
            let (bytes, lent) = (bytes.to_vec(), lent.to_owned());
            std::thread::spawn(move || {
                let file = std::fs::File::open(lent).unwrap();
                let lent = vec![file.as_fd(); descriptors];
                let first = bytes.len().min(1000);
                if fd_passing::send(there.as_fd(), &bytes[..first], &lent).is_ok() {
                    let _ = (&there).write_all(&bytes[first..]);
                }
            })
        };
        let outcome = receive(&here);
        drop(here);
        sender.join().unwrap();
        outcome
    }

    #[test]
    fn forged_messages_are_refused_and_leave_no_descriptor() {
        // other tests of this process open and close descriptors too: only this file's count
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lent");
        std::fs::write(&file, "").unwrap();
        let is_open = || {
            let mut links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            links.any(|entry| std::fs::read_link(entry.path()).is_ok_and(|path| path == file))
        };
        let long = format!(r#"{{"fds":["{}"#, "x".repeat(2 * 1024 * 1024));
        type Case = (&'static str, Vec<u8>, usize, fn(&DeliveryError) -> bool);
        let cases: [Case; 7] = [
            ("garbage", b"\x00\xff nonsense".to_vec(), 1, |error| matches!(error, DeliveryError::State(_))),
            ("not a state", b"[1,2]".to_vec(), 1, |error| matches!(error, DeliveryError::State(_))),
            ("oversized", long.into_bytes(), 1, |error| {
                matches!(error, DeliveryError::State(ListenerStateError::TooLong))
            }),
            ("cut off", state(r#"["seccompFd"]"#).as_bytes()[..40].to_vec(), 1, |error| {
                matches!(error, DeliveryError::Truncated)
            }),
            ("no descriptor", state(r#"["seccompFd"]"#).into_bytes(), 0, |error| {
                matches!(error, DeliveryError::DescriptorCount { named: 1, received: 0 })
            }),
            ("another name", state(r#"["other"]"#).into_bytes(), 1, |error| matches!(error, DeliveryError::NoListener)),
            ("too many", state(r#"["seccompFd"]"#).into_bytes(), 12, |error| {
                matches!(error, DeliveryError::TooManyDescriptors)
            }),
        ];
        for (name, bytes, descriptors, expected) in cases {
            let error = outcome(&file, &bytes, descriptors).err().expect(name);
            assert!(expected(&error), "{name}: {error:?}");
            assert!(!is_open(), "{name} leaves a descriptor");
        }
        let error = outcome(&file, state(r#"["seccompFd"]"#).as_bytes(), 1).err().expect("a file is no listener");
        assert!(matches!(error, DeliveryError::Listener(ListenerError::NotAListener { .. })), "{error:?}");
        assert!(outcome(&file, b"", 0).unwrap().is_none());
    }

    #[test]
    fn a_message_that_came_whole_stays_for_the_next_worker() {
        let (here, there) = UnixStream::pair().unwrap();
        let listener = crate::kernel::seccomp_notify::listener_for_test();
        let message = state(r#"["seccompFd"]"#);
        fd_passing::send(there.as_fd(), message.as_bytes(), &[listener.as_fd()]).unwrap();
        for _ in 0..2 {
            let Some(Received::Listener(received)) = receive(&here).unwrap() else { panic!("no listener") };
            assert!(received.unread && received.state.state.id == "c1");
        }
        let (first, rest) = message.split_at(30);
        let (here, there) = UnixStream::pair().unwrap();
        fd_passing::send(there.as_fd(), first.as_bytes(), &[listener.as_fd()]).unwrap();
        (&there).write_all(rest.as_bytes()).unwrap();
        assert!(matches!(receive(&here).unwrap(), Some(Received::Listener(Delivery { unread: false, .. }))));
        drop(there);
        assert!(receive(&here).unwrap().is_none());
    }
}

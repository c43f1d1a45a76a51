//! Answers clients: the hook, the shim and the operator's command. One thread a connection, bounded in number; only root and
//! the daemon's own user are answered.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::Weak;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;

use crate::control::EventQuery;
use crate::control::Request;
use crate::control::Response;
use crate::control::codec;
use crate::control::codec::CodecError;
use crate::control::codec::LineReader;
use crate::daemon::hand_over::Message;
use crate::daemon::retirement::Waited;
use crate::daemon::service::Service;
use crate::daemon::service::ServiceError;
use crate::daemon::service::Unstored;
use crate::kernel::fd_passing;
use crate::model::diagnostic::chain;
use crate::store::Filter;

/// Most connections at one time.
const MAX_CONNECTIONS: usize = 256;
/// Of them, most that follow events; the others are left to hooks and shims.
const MAX_FOLLOWERS: usize = 128;
/// How long a client may take for a request, and for taking an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a follower may take for an event: it may be a person who paused the output.
const FOLLOWER_TIMEOUT: Duration = Duration::from_secs(300);
/// How often a follower's connection is looked at while nothing happens.
const FOLLOWER_CHECK: Duration = Duration::from_secs(2);
const STACK_BYTES: usize = 512 * 1024;
/// Events read at a time.
const BATCH: usize = 200;

static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);
static FOLLOWERS: AtomicUsize = AtomicUsize::new(0);

/// One of a bounded number; given back when dropped.
struct Place(&'static AtomicUsize);

impl Place {
    fn take(counter: &'static AtomicUsize, most: usize) -> Option<Self> {
        if counter.fetch_add(1, Ordering::AcqRel) < most {
            return Some(Self(counter));
        }
        counter.fetch_sub(1, Ordering::AcqRel);
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Those that are connected.
#[derive(Debug, Default)]
pub struct Clients(Mutex<Vec<Weak<UnixStream>>>);

impl Clients {
    fn connected(&self) -> MutexGuard<'_, Vec<Weak<UnixStream>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, stream: &Arc<UnixStream>) {
        let mut connected = self.connected();
        connected.retain(|known| known.strong_count() > 0);
        connected.push(Arc::downgrade(stream));
    }

    /// Ends every connection, even if a thread that does not end keeps this process, and with it the descriptors.
    pub fn hang_up(&self) {
        for stream in self.connected().iter().filter_map(Weak::upgrade) {
            // one that has gone by itself needs no end
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Accepts clients until the worker retires: those that come then are its successor's.
pub fn serve(service: &Arc<Service>, socket: &UnixListener) {
    while !matches!(service.retirement.wait(socket.as_fd()), Ok(Waited::Retired)) {
        match socket.accept() {
            Ok((stream, _)) => admit(service, stream),
            // another worker was quicker
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::error!("cannot accept a client: {error}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn admit(service: &Arc<Service>, stream: UnixStream) {
    if !is_trusted(&stream) {
        return;
    }
    let Some(place) = Place::take(&CONNECTIONS, MAX_CONNECTIONS) else {
        let message = format!("{MAX_CONNECTIONS} clients are connected already; end some of them");
        let _ = codec::send(&stream, &Response::Failed { message }, Duration::from_millis(100));
        return;
    };
    let (service, stream) = (Arc::clone(service), Arc::new(stream));
    service.clients.add(&stream);
    let thread = std::thread::Builder::new().name("control".to_owned()).stack_size(STACK_BYTES).spawn(move || {
        let _place = place;
        converse(&service, &stream);
    });
    if let Err(error) = thread {
        tracing::error!("cannot make a thread for a client: {error}");
    }
}

/// Whether the peer is root or our own user.
#[must_use]
pub fn is_trusted(stream: &UnixStream) -> bool {
    match fd_passing::peer_credentials(stream.as_fd()) {
        Ok(peer) if peer.uid == 0 || peer.uid == rustix::process::geteuid().as_raw() => true,
        Ok(peer) => {
            tracing::warn!(pid = peer.pid, uid = peer.uid, "a connection of another user was refused");
            false
        }
        Err(error) => {
            tracing::warn!("a connection was refused: {}", chain(&error));
            false
        }
    }
}

fn converse(service: &Service, stream: &UnixStream) {
    let mut reader = LineReader::default();
    loop {
        let request = match reader.receive::<Request>(stream, Some(TIMEOUT)) {
            Ok(request) => request,
            Err(CodecError::Closed | CodecError::TimedOut { .. }) => return,
            Err(error) => {
                let message = format!("cannot understand the request: {error}");
                tracing::warn!("{message}");
                let _ = codec::send(stream, &Response::Failed { message }, TIMEOUT);
                return;
            }
        };
        // who is being answered is not left without an answer, but for one who follows or asks for a successor
        let is_short = !matches!(request, Request::Events(_) | Request::Upgrade);
        let busy = is_short.then(|| service.retirement.busy());
        if matches!(busy, Some(None)) {
            // who asks again, as every client does, is answered by the successor
            return;
        }
        let sent = match request {
            Request::Events(query) => stream_events(service, stream, &query),
            other => codec::send(stream, &answer(service, other), TIMEOUT),
        };
        if sent.is_err() {
            return;
        }
    }
}

fn answer(service: &Service, request: Request) -> Response {
    let outcome = match request {
        Request::Ping => {
            let version = env!("CARGO_PKG_VERSION").to_owned();
            return Response::Pong { version, pid: std::process::id() };
        }
        Request::Containers => {
            let containers = service.registry.all().iter().map(|guarded| guarded.status()).collect();
            return Response::Containers { containers };
        }
        Request::Events(_) => return Response::Done,
        Request::Register(registration) => service.register(*registration),
        Request::Exec(registration) => {
            service.register_exec(*registration);
            Ok(())
        }
        // what these tell has happened: nothing is to be refused for want of a record
        Request::Record(event) => {
            service.journal.record_or_keep(&event);
            Ok(())
        }
        Request::Exited { id, event } => service.exited(&id, *event, Unstored::Kept).map_err(ServiceError::from),
        Request::Reload => service.reload(),
        Request::Upgrade => return upgrade(service),
    };
    match outcome {
        Ok(()) => Response::Done,
        Err(error) => {
            let message = chain(&error);
            tracing::error!("{message}");
            Response::Failed { message }
        }
    }
}

/// How long a successor may take to get ready, and a little more.
const UPGRADE_LIMIT: Duration = Duration::from_secs(25);

/// Answers only when there is no successor: otherwise this process ends meanwhile.
fn upgrade(service: &Service) -> Response {
    let refusal = match service.lines.tell(&Message::Upgrade) {
        Ok(()) => service.retirement.wait_for_refusal(UPGRADE_LIMIT),
        Err(error) => Some(chain(&error)),
    };
    let message = refusal.unwrap_or_else(|| "the keeper does not say whether there is a successor".to_owned());
    Response::Failed { message: format!("the worker is not replaced: {message}") }
}

fn stream_events(service: &Service, stream: &UnixStream, query: &EventQuery) -> Result<(), CodecError> {
    let _place = if query.follow {
        let Some(place) = Place::take(&FOLLOWERS, MAX_FOLLOWERS) else {
            let message = format!("{MAX_FOLLOWERS} clients follow events already; end some of them");
            return codec::send(stream, &Response::Failed { message }, TIMEOUT);
        };
        Some(place)
    } else {
        None
    };
    let limit = if query.follow { FOLLOWER_TIMEOUT } else { TIMEOUT };
    let mut filter = Filter {
        after: 0,
        since: query.since,
        container: query.container.clone(),
        kinds: query.kinds.clone(),
        attack: query.attack.clone(),
        limit: BATCH,
    };
    // a follower goes on where it is; what else there was before is not read again and again
    let mut seen = service.store.latest();
    loop {
        let page = match service.store.events(&filter) {
            Ok(page) => page,
            Err(error) => return codec::send(stream, &Response::Failed { message: chain(&error) }, limit),
        };
        for stored in page.events {
            codec::send(stream, &Response::Event(Box::new(stored.event)), limit)?;
        }
        if let Some(last) = page.last_seq {
            filter.after = last;
            continue;
        }
        if !query.follow {
            return codec::send(stream, &Response::Done, limit);
        }
        filter.after = filter.after.max(seen);
        while !service.store.wait_after(filter.after, FOLLOWER_CHECK) {
            if service.stopping.load(Ordering::Acquire) || has_left(stream) {
                return Err(CodecError::Closed);
            }
        }
        seen = service.store.latest();
    }
}

/// Whether a follower, which has nothing more to say, closed its end.
fn has_left(stream: &UnixStream) -> bool {
    let mut polled = [PollFd::new(stream, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut polled, Some(&now)).is_ok_and(|count| count > 0)
}

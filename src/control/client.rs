//! The client's side: connect, ask, and give up in time when the daemon does not answer.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::AddressFamily;
use rustix::net::SocketAddrUnix;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use rustix::net::sockopt;

use crate::config::Config;
use crate::control::EventQuery;
use crate::control::Request;
use crate::control::Response;
use crate::control::codec;
use crate::control::codec::CodecError;
use crate::control::codec::LineReader;
use crate::model::event::Event;

/// How long a client waits for a connection, and for an answer.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon: the socket is missing, or nobody listens on it.
    #[error("the acctguard daemon is not there: nobody listens on {}; start acctguard-daemon with the same configuration", socket.display())]
    Absent {
        /// The control socket.
        socket: PathBuf,
    },
    /// The socket may not be used by this user.
    #[error("no permission to connect to {}; only root and the daemon's own user may", socket.display())]
    Permission {
        /// The control socket.
        socket: PathBuf,
    },
    /// Somebody else listens there.
    #[error("the process that listens on {} runs as uid {uid}, not as root or this user; remove the socket and start acctguard-daemon", socket.display())]
    WrongPeer {
        /// The control socket.
        socket: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// Connecting failed in another way.
    #[error("cannot connect to the acctguard daemon on {}", socket.display())]
    Connect {
        /// The control socket.
        socket: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke or the daemon did not answer in time.
    #[error("the acctguard daemon on {} did not answer; look at its log", socket.display())]
    Exchange {
        /// The control socket.
        socket: PathBuf,
        /// Cause.
        #[source]
        source: CodecError,
    },
    /// The daemon said no.
    #[error("the acctguard daemon: {message}")]
    Refused {
        /// Its one line.
        message: String,
    },
    /// An answer that does not fit the question.
    #[error("the acctguard daemon on {} gave an answer that does not fit the question; are both of one version", socket.display())]
    Unexpected {
        /// The control socket.
        socket: PathBuf,
    },
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    socket: PathBuf,
    reader: RefCell<LineReader>,
    limit: Duration,
}

/// How often a request is put again to a daemon whose worker ended before it answered.
const REPETITIONS: usize = 5;

impl Client {
    /// Connects to the daemon of `config`, within [`TIMEOUT`].
    ///
    /// # Errors
    /// [`ClientError::Absent`], [`ClientError::Permission`], [`ClientError::WrongPeer`], [`ClientError::Connect`].
    pub fn connect(config: &Config) -> Result<Self, ClientError> {
        Self::connect_to(&config.control_socket())
    }

    /// As [`Client::connect`], to a socket by its path.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_to(socket: &Path) -> Result<Self, ClientError> {
        let stream = open(socket).map_err(|errno| connect_error(socket, errno))?;
        let peer = sockopt::socket_peercred(&stream).map_err(|errno| connect_error(socket, errno))?;
        let uid = peer.uid.as_raw();
        if uid != 0 && uid != rustix::process::geteuid().as_raw() {
            return Err(ClientError::WrongPeer { socket: socket.to_owned(), uid });
        }
        Ok(Self { stream, socket: socket.to_owned(), reader: RefCell::new(LineReader::default()), limit: TIMEOUT })
    }

    /// The same, which waits so long for an answer.
    #[must_use]
    pub fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Asks `request` and returns the answer; [`Response::Failed`] becomes [`ClientError::Refused`]. A worker that ends before it has
    /// answered is followed by another, which is asked again: what is recorded is recorded once, by its event's id.
    /// [`Request::Events`] is for [`Client::events`].
    ///
    /// # Errors
    /// [`ClientError::Exchange`] after [`TIMEOUT`] or when the connection breaks again and again, [`ClientError::Refused`].
    pub fn call(&self, request: &Request) -> Result<Response, ClientError> {
        let mut outcome = self.call_once(request);
        for _ in 0..REPETITIONS {
            let Err(ClientError::Exchange { source, .. }) = &outcome else { break };
            if !source.is_broken_off() {
                break;
            }
            outcome = Self::connect_to(&self.socket)?.call_once(request);
        }
        outcome
    }

    /// As [`Client::call`], of this worker only.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn call_once(&self, request: &Request) -> Result<Response, ClientError> {
        self.send(request)?;
        match self.receive(Some(self.limit))? {
            Response::Failed { message } => Err(ClientError::Refused { message }),
            response => Ok(response),
        }
    }

    /// Asks `request` and expects [`Response::Done`].
    ///
    /// # Errors
    /// As [`Client::call`], and [`ClientError::Unexpected`].
    pub fn order(&self, request: &Request) -> Result<(), ClientError> {
        match self.call(request)? {
            Response::Done => Ok(()),
            _ => Err(ClientError::Unexpected { socket: self.socket.clone() }),
        }
    }

    /// Hands every event that `query` names to `take`, until there are no more or `take` breaks off.
    /// With `query.follow` there is no end and no time limit between events.
    ///
    /// # Errors
    /// As [`Client::call`]; with `follow` also [`ClientError::Exchange`] when the daemon stops.
    pub fn events(self, query: EventQuery, mut take: impl FnMut(Event) -> ControlFlow<()>) -> Result<(), ClientError> {
        let limit = if query.follow { None } else { Some(TIMEOUT) };
        self.send(&Request::Events(query))?;
        loop {
            match self.receive(limit)? {
                Response::Event(event) => {
                    if take(*event).is_break() {
                        return Ok(());
                    }
                }
                Response::Done => return Ok(()),
                Response::Failed { message } => return Err(ClientError::Refused { message }),
                Response::Pong { .. } | Response::Containers { .. } => {
                    return Err(ClientError::Unexpected { socket: self.socket.clone() });
                }
            }
        }
    }

    fn send(&self, request: &Request) -> Result<(), ClientError> {
        codec::send(&self.stream, request, TIMEOUT).map_err(|source| self.exchange(source))
    }

    fn receive(&self, limit: Option<Duration>) -> Result<Response, ClientError> {
        self.reader.borrow_mut().receive(&self.stream, limit).map_err(|source| self.exchange(source))
    }

    fn exchange(&self, source: CodecError) -> ClientError {
        ClientError::Exchange { socket: self.socket.clone(), source }
    }
}

/// A connection on which nothing is sent yet. SO_SNDTIMEO bounds connect(2) too, which otherwise waits for ever when a daemon stopped
/// accepting (unix(7), socket(7)).
///
/// # Errors
/// Those of connect(2); `EAGAIN` when nobody accepts within 5 s.
pub fn open(socket: &Path) -> rustix::io::Result<UnixStream> {
    open_within(socket, TIMEOUT)
}

/// As [`open`], but no longer than `limit`.
///
/// # Errors
/// As [`open`].
pub fn open_within(socket: &Path, limit: Duration) -> rustix::io::Result<UnixStream> {
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&fd, sockopt::Timeout::Send, Some(limit))?;
    rustix::net::connect(&fd, &SocketAddrUnix::new(socket)?)?;
    Ok(UnixStream::from(fd))
}

fn connect_error(socket: &Path, errno: Errno) -> ClientError {
    let socket = socket.to_owned();
    match errno {
        Errno::NOENT | Errno::CONNREFUSED | Errno::NOTDIR => ClientError::Absent { socket },
        Errno::ACCESS | Errno::PERM => ClientError::Permission { socket },
        Errno::AGAIN => ClientError::Exchange { socket, source: CodecError::TimedOut { limit: TIMEOUT } },
        other => ClientError::Connect { socket, source: other.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::time::Instant;

    #[test]
    fn no_socket_and_nobody_listening_are_absent() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        assert!(matches!(Client::connect_to(&socket), Err(ClientError::Absent { .. })));
        drop(UnixListener::bind(&socket).unwrap());
        let error = Client::connect_to(&socket).unwrap_err();
        assert!(matches!(error, ClientError::Absent { .. }), "{error}");
        assert!(!error.to_string().contains('\n'));
    }

    #[test]
    fn a_daemon_that_never_accepts_nor_answers_costs_no_more_than_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        let started = Instant::now();
        let client = Client::connect_to(&socket).unwrap();
        let error = client.call(&Request::Ping).unwrap_err();
        assert!(matches!(error, ClientError::Exchange { source: CodecError::TimedOut { .. }, .. }), "{error:?}");
        assert!(started.elapsed() < TIMEOUT + Duration::from_secs(2));
    }

    #[test]
    fn a_refusal_is_an_error_and_events_end_with_done() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let daemon = std::thread::spawn(move || {
            for answer in [Response::Failed { message: "no".to_owned() }, Response::Done] {
                let (stream, _) = listener.accept().unwrap();
                let _: Request = LineReader::default().receive(&stream, Some(TIMEOUT)).unwrap();
                codec::send(&stream, &answer, TIMEOUT).unwrap();
            }
        });
        let refused = Client::connect_to(&socket).unwrap().order(&Request::Reload);
        assert!(matches!(refused, Err(ClientError::Refused { message }) if message == "no"));
        let client = Client::connect_to(&socket).unwrap();
        client.events(EventQuery::default(), |_| ControlFlow::Continue(())).unwrap();
        daemon.join().unwrap();
    }
}

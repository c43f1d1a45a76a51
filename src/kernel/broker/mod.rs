//! A process that carries out file operations as another thread would: in its mount and user namespace, with its ids, groups,
//! capabilities and umask, on descriptors that it is handed.
//!
//! Names are looked up before, by [`crate::kernel::foreign_root`]; what arrives here is a directory and a name in it, or an
//! object. So between the decision and the deed nothing can be exchanged: an entry is of *this* directory, an object is *this*
//! object, whatever their paths lead to by now.
//!
//! | file | what |
//! | --- | --- |
//! | `message` | what is asked and answered |
//! | `credentials` | reading a thread's credentials, putting them on |
//! | `open_flags` | which flags of open(2) go together |
//! | `perform` | the operations |
//! | `configure` | fsconfig, and text with descriptors in it |
//! | `file_system` | new file systems, in the target's namespaces |
//! | `serve` | the helper's own loop |
//! | `last_deed` | answering for a supervisor that has ended |
//! | `starter` | who starts helpers |
//!
//! Invariants: the helper has no descriptor of the supervisor's but its socket and the listener of the container that it serves; it enters the namespaces and gives up what
//! capabilities the target's bounding set lacks before it takes the first request; it ends with its socket. The last
//! component of a path is never followed by the helper.
//! Deliberately absent: any decision; any memory of the target; LSM domains (SELinux, AppArmor) and cgroups of the target: an
//! operation is accounted to the supervisor.

mod configure;
mod credentials;
mod file_system;
mod last_deed;
mod message;
mod open_flags;
mod perform;
mod serve;
mod starter;

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::net::AddressFamily;
use rustix::net::SocketFlags;
use rustix::net::SocketType;

use crate::kernel::Errno;
use crate::kernel::fd_passing;
use crate::kernel::fd_passing::PassingError;
use crate::kernel::foreign_root::Searched;
use crate::kernel::leftovers::Held;
use crate::kernel::pidfd::Process;

pub use crate::kernel::raw::questions::has_x32;
pub use credentials::CredentialError;
pub use credentials::Credentials;
pub use credentials::Home;
pub use last_deed::word_left;
pub use message::Call;
pub use message::Configured;
pub use message::Done;
pub use message::Mount;
pub use message::Operation;
pub use message::Part;
pub use message::Subject;
pub use open_flags::check_open_flags;
pub use open_flags::check_open_how;
pub use serve::ANSWER_SIGNAL;
pub use serve::LAST_DEED_LIMIT;
pub use serve::WORK_LIMIT;
pub use serve::serve;
pub use starter::Starter;
pub use starter::serve_starts;

use message::Entrance;
use message::Reply;
use message::Request;
use starter::Started;

/// Longest message in either direction: an extended attribute's value (64 KiB, xattr(7)) as text, and room.
const MAX_MESSAGE_BYTES: usize = 512 * 1024;

/// What a helper is called in its command line.
pub const HELPER_NAME: &str = "acctguard-broker";

/// How long a helper may take to close what it has handed over, and to end.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// How long it may take to search directories.
const SEARCH_LIMIT: Duration = WORK_LIMIT;

/// Why a helper did not carry something out. The target's own failures are no errors: they are a [`Done::Failed`].
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// It could not be started.
    #[error("cannot start a broker helper")]
    Start(#[source] std::io::Error),
    /// It could not enter the namespaces of the target.
    #[error("a broker helper cannot {step}")]
    Enter {
        /// What failed.
        step: String,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// The namespaces of the target.
    #[error(transparent)]
    Home(#[from] CredentialError),
    /// It did not answer in time.
    #[error("a broker helper did not answer in {} ms", .0.as_millis())]
    Slow(Duration),
    /// It died, or answered nonsense.
    #[error("a broker helper is gone")]
    Gone,
    /// Its socket.
    #[error(transparent)]
    Socket(#[from] PassingError),
    /// A request that has no form as a message.
    #[error("a broker request cannot be written")]
    Message(#[source] serde_json::Error),
}

/// A running helper. Dropping it ends it.
#[derive(Debug)]
pub struct Helper {
    socket: OwnedFd,
    started: Started,
    held: Option<Held>,
    home: Home,
}

impl Helper {
    /// Has `starter` start one, for threads that live in `home`. With a `listener` it answers calls by itself when this process has
    /// ended before it could ([`Call`]).
    ///
    /// # Errors
    /// [`BrokerError::Start`], [`BrokerError::Enter`].
    pub fn start(
        starter: &Starter,
        home: Home,
        listener: Option<BorrowedFd<'_>>,
        limit: Duration,
    ) -> Result<Self, BrokerError> {
        let start = |errno: Errno| BrokerError::Start(errno.into());
        let (socket, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(start)?;
        for end in [&socket, &theirs] {
            rustix::net::sockopt::set_socket_send_buffer_size(end, 2 * MAX_MESSAGE_BYTES).map_err(start)?;
        }
        let started = starter.start(theirs)?;
        let helper = Self { socket, started, held: None, home };
        let entrance = Entrance {
            capabilities: helper.home.capabilities,
            has_user: helper.home.has_user,
            brings: helper.home.brings.clone(),
            has_listener: listener.is_some(),
        };
        let namespaces = helper.home.open()?;
        helper.send(&entrance, &namespaces.iter().map(AsFd::as_fd).chain(listener).collect::<Vec<_>>())?;
        match helper.receive(limit)? {
            (Reply::Done(0), _) => Ok(helper),
            (Reply::Refused { step, errno }, _) => {
                Err(BrokerError::Enter { step, source: Errno::from_raw_os_error(errno) })
            }
            _ => Err(BrokerError::Gone),
        }
    }

    /// The same, with something that is dropped when its process is gone: later than the helper where a file system that hangs keeps
    /// the process.
    #[must_use]
    pub fn holding(mut self, held: Held) -> Self {
        self.held = Some(held);
        self
    }

    /// Its process, to end it while somebody else waits for its answer.
    #[must_use]
    pub fn process(&self) -> &Arc<Process> {
        self.started.process()
    }

    /// Its pid, as this process sees it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.started.pid()
    }

    /// Where it lives.
    #[must_use]
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Has `operation` carried out with `credentials`, on `descriptors` in the order that [`Operation`] says. First, each of
    /// `searched` must let the credentials search it, path_resolution(7).
    ///
    /// # Errors
    /// [`BrokerError`]. After [`BrokerError::Slow`] the answer can still come: [`Helper::wait`].
    pub fn perform(
        &self,
        credentials: &Credentials,
        operation: Operation,
        descriptors: &[BorrowedFd<'_>],
        searched: &[&Searched],
        call: Option<Call>,
        limit: Duration,
    ) -> Result<Done, BrokerError> {
        // most descriptors of one message are bounded; a search that nothing follows needs none of the others
        for part in searched.chunks(fd_passing::MAX_DESCRIPTORS) {
            let links = part.iter().map(|searched| searched.link.clone()).collect();
            let directories: Vec<BorrowedFd<'_>> = part.iter().map(|searched| searched.directory.as_fd()).collect();
            let operation = Operation::Search { links };
            self.send(&Request { credentials: credentials.clone(), operation, call: None }, &directories)?;
            match self.wait(SEARCH_LIMIT) {
                Ok(Done::Value(_)) => {}
                // its late answer must not be taken for the operation's
                Err(BrokerError::Slow(_)) => return Err(BrokerError::Gone),
                failed => return failed,
            }
        }
        self.send(&Request { credentials: credentials.clone(), operation, call }, descriptors)?;
        self.wait(limit)
    }

    /// Waits for the answer to what was asked last.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub fn wait(&self, limit: Duration) -> Result<Done, BrokerError> {
        match self.receive(limit)? {
            (Reply::Done(value), None) => Ok(Done::Value(value)),
            (Reply::Done(_), Some(descriptor)) => {
                self.receive(CLOSE_LIMIT)?;
                Ok(Done::Descriptor(descriptor))
            }
            (Reply::Failed(errno), _) => Ok(Done::Failed(Errno::from_raw_os_error(errno))),
            (Reply::Again, _) => Ok(Done::Again),
            (Reply::Refused { step, errno }, _) => {
                Err(BrokerError::Enter { step, source: Errno::from_raw_os_error(errno) })
            }
        }
    }

    fn send<T: serde::Serialize>(&self, message: &T, descriptors: &[BorrowedFd<'_>]) -> Result<(), BrokerError> {
        let bytes = serde_json::to_vec(message).map_err(BrokerError::Message)?;
        Ok(fd_passing::send(self.socket.as_fd(), &bytes, descriptors)?)
    }

    fn receive(&self, limit: Duration) -> Result<(Reply, Option<OwnedFd>), BrokerError> {
        let timeout = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        let mut polled = [PollFd::new(&self.socket, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => return Err(BrokerError::Slow(limit)),
            Ok(_) => {}
            Err(_) => return Err(BrokerError::Gone),
        }
        let mut buffer = [0_u8; 4096];
        let (length, mut descriptors) = fd_passing::receive(self.socket.as_fd(), &mut buffer)?;
        let reply = serde_json::from_slice(buffer.get(..length).unwrap_or_default()).map_err(|_| BrokerError::Gone)?;
        Ok((reply, descriptors.pop()))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.started.end(self.held.take());
    }
}

#[cfg(test)]
mod overlay_tests;
#[cfg(test)]
mod tests;

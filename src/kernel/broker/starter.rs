//! Who starts helpers. A process that confined itself cannot: what it starts has its Landlock domain, its seccomp filter and no more
//! capabilities than it (landlock(7), seccomp(2), capabilities(7)), and a helper must mount, and act with what its target has. So a
//! process apart, started before the confinement, does nothing but start helpers.
//!
//! A request carries two sockets, the helper's end of its own and one for the reply, which carries the helper's process
//! descriptor and its number. Nothing is kept between requests; so a reply that nobody waits for any more is nobody else's.
//!
//! A helper's life is tied to its socket alone, not to this process: when whoever asked for it has ended, both go on until each
//! has seen its own socket close, and the helper answers what it did last (`last_deed`).

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::net::AddressFamily;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use rustix::net::sockopt;

use crate::kernel::Errno;
use crate::kernel::broker::BrokerError;
use crate::kernel::broker::HELPER_NAME;
use crate::kernel::fd_passing;
use crate::kernel::fd_passing::PassingError;
use crate::kernel::leftovers;
use crate::kernel::leftovers::Held;
use crate::kernel::leftovers::Leftover;
use crate::kernel::pidfd;
use crate::kernel::pidfd::Process;

/// The one request.
const START: &[u8] = b"start";
/// A reply is a number: beside a process descriptor the process's, else an errno.
const REPLY_BYTES: usize = 4;
/// How long the process apart may take for one helper: it starts one at a time, on a machine that may be busy.
const REPLY_LIMIT: Duration = Duration::from_secs(30);

/// What starts helpers.
#[derive(Debug, Clone)]
pub enum Starter {
    /// This process itself, as free as a helper has to be.
    Here {
        /// Program.
        program: String,
        /// Arguments by which it calls [`crate::kernel::broker::serve()`].
        arguments: Vec<String>,
    },
    /// A process apart.
    Apart(Arc<Apart>),
}

/// A process that calls [`serve_starts`]. It ends when this is dropped.
#[derive(Debug)]
pub struct Apart {
    line: OwnedFd,
}

/// A helper that was just started, and its end.
#[derive(Debug)]
pub(super) struct Started {
    process: Arc<Process>,
    pid: u32,
    /// To be waited for, when it is a child of this process.
    child: Option<Child>,
}

impl Starter {
    /// Starts `program` with `arguments`, by which it calls [`serve_starts`], called `name` in lists of processes. It has no
    /// environment, and this process's standard error.
    ///
    /// # Errors
    /// [`BrokerError::Start`].
    pub fn apart(program: &str, arguments: &[&str], name: &str) -> Result<Self, BrokerError> {
        let (line, theirs) = socket_pair()?;
        let mut command = Command::new(program);
        command.arg0(name).args(arguments).env_clear().stdin(Stdio::from(theirs)).stdout(Stdio::null());
        // never waited for: it lives as long as this process
        command.spawn().map(drop).map_err(BrokerError::Start)?;
        Ok(Self::Apart(Arc::new(Apart { line })))
    }

    /// Returns when no helper can be started any more: the process apart is gone. Never, where helpers are started here.
    pub fn wait_for_end(&self) {
        loop {
            match self {
                Self::Here { .. } => std::thread::park(),
                Self::Apart(apart) => {
                    let mut polled = [PollFd::new(&apart.line, PollFlags::empty())];
                    match rustix::event::poll(&mut polled, None) {
                        Err(Errno::INTR) => {}
                        _ => return,
                    }
                }
            }
        }
    }

    /// Starts a helper with `socket` for its standard input.
    pub(super) fn start(&self, socket: OwnedFd) -> Result<Started, BrokerError> {
        match self {
            Self::Here { program, arguments } => {
                let mut child = spawn(program, arguments, socket).map_err(BrokerError::Start)?;
                match pidfd::open(child.id()) {
                    Ok(process) => Ok(Started { process: Arc::new(process), pid: child.id(), child: Some(child) }),
                    Err(error) => {
                        let _ = child.kill();
                        let _ = child.wait();
                        Err(BrokerError::Start(std::io::Error::other(error)))
                    }
                }
            }
            Self::Apart(apart) => apart.ask(&socket),
        }
    }
}

impl Apart {
    fn ask(&self, socket: &OwnedFd) -> Result<Started, BrokerError> {
        let (reply, theirs) = socket_pair()?;
        sockopt::set_socket_timeout(&reply, sockopt::Timeout::Recv, Some(REPLY_LIMIT)).map_err(not_started)?;
        fd_passing::send(self.line.as_fd(), START, &[socket.as_fd(), theirs.as_fd()])?;
        drop(theirs);
        let mut said = [0_u8; REPLY_BYTES];
        match fd_passing::receive(reply.as_fd(), &mut said) {
            Ok((REPLY_BYTES, mut descriptors)) => match descriptors.pop() {
                Some(process) => {
                    let process = Arc::new(Process::from_fd(process));
                    Ok(Started { process, pid: u32::from_ne_bytes(said), child: None })
                }
                None => Err(not_started(Errno::from_raw_os_error(i32::from_ne_bytes(said)))),
            },
            Ok(_) => Err(BrokerError::Gone),
            Err(error) if error.errno() == Some(Errno::AGAIN) => Err(BrokerError::Slow(REPLY_LIMIT)),
            Err(error) => Err(error.into()),
        }
    }
}

impl Started {
    /// Its process.
    pub(super) const fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Its number, as whoever started it sees it: both processes are of one pid namespace.
    pub(super) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends it; `held` is dropped when it is gone, which may be long after this.
    pub(super) fn end(&mut self, held: Option<Held>) {
        let process = Arc::clone(&self.process);
        leftovers::end(self.child.take().map_or(Leftover::Process(process), Leftover::Child), held);
    }
}

fn not_started(errno: Errno) -> BrokerError {
    BrokerError::Start(errno.into())
}

fn socket_pair() -> Result<(OwnedFd, OwnedFd), BrokerError> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(not_started)
}

fn spawn(program: &str, arguments: &[impl AsRef<std::ffi::OsStr>], socket: OwnedFd) -> std::io::Result<Child> {
    Command::new(program)
        .arg0(HELPER_NAME)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .spawn()
}

/// Starts `program` with `arguments` as a helper for each request on `line`, until it closes. `ended` is told how each ended.
pub fn serve_starts(line: BorrowedFd<'_>, program: &str, arguments: &[&str], ended: impl Fn(ExitStatus)) {
    let mut helpers: Vec<(Child, Process)> = Vec::new();
    loop {
        helpers.retain_mut(|(child, _)| match child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => {
                ended(status);
                false
            }
            Err(_) => false,
        });
        let mut polled = vec![PollFd::from_borrowed_fd(line, PollFlags::IN)];
        polled.extend(helpers.iter().map(|(_, process)| PollFd::new(process, PollFlags::IN)));
        match rustix::event::poll(&mut polled, None) {
            Err(Errno::INTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        if polled.first().is_none_or(|first| first.revents().is_empty()) {
            continue;
        }
        match take_request(line) {
            Ok(Some((socket, reply))) => helpers.extend(start_and_tell(program, arguments, socket, &reply)),
            Ok(None) => {}
            Err(()) => return,
        }
    }
}

/// A helper's socket and one for the reply; `None` for anything else. An error ends the service.
fn take_request(line: BorrowedFd<'_>) -> Result<Option<(OwnedFd, OwnedFd)>, ()> {
    let mut said = [0_u8; START.len()];
    match fd_passing::receive(line, &mut said) {
        Ok((0, _)) => Err(()),
        Ok((_, descriptors)) if said == START => {
            Ok(<[OwnedFd; 2]>::try_from(descriptors).ok().map(|[socket, reply]| (socket, reply)))
        }
        Ok(_) | Err(PassingError::TooManyDescriptors) => Ok(None),
        Err(_) => Err(()),
    }
}

/// The helper, unless it could not be started or told of: then nobody would end it.
fn start_and_tell(program: &str, arguments: &[&str], socket: OwnedFd, reply: &OwnedFd) -> Option<(Child, Process)> {
    let started = spawn(program, arguments, socket);
    let opened = started.and_then(|child| match pidfd::open(child.id()) {
        Ok(process) => Ok((child, process)),
        Err(error) => Err(std::io::Error::other(error)),
    });
    match opened {
        Ok((child, process)) => {
            // whoever asked may be gone; the helper's socket is closed then, and it ends by itself
            let _ = fd_passing::send(reply.as_fd(), &child.id().to_ne_bytes(), &[process.as_fd()]);
            Some((child, process))
        }
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or_else(|| Errno::CHILD.raw_os_error());
            let _ = fd_passing::send(reply.as_fd(), &errno.to_ne_bytes(), &[]);
            None
        }
    }
}

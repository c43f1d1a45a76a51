//! The keeper: the process that `acctguard-daemon` is. It holds the two sockets, the shared area and a duplicate of every
//! listener, starts the worker and starts it again when it dies, handing over everything it holds.
//!
//! It reads nothing that a container or a client wrote: labels are opaque to it, clients talk to the worker.
//! Its end is the end of supervision; so it does as little as it can.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::net::AddressFamily;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use rustix::net::sockopt;

use crate::daemon::confinement;
use crate::daemon::hand_over;
use crate::daemon::hand_over::HandOverError;
use crate::daemon::hand_over::Message;
use crate::daemon::service_manager;
use crate::daemon::service_manager::ServiceManager;
use crate::kernel::shared_area::SharedArea;

/// First pause before a dead worker's successor; doubled with each quick death, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Calls of containers wait while there is no worker, so the pause stays short.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A worker that served so long died of something new.
const LONG_LIFE: Duration = Duration::from_secs(10);
/// How long a worker may take to end when asked.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How long the hand-over may stand still.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(10);

/// Why the keeper cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// A system call of its own failed.
    #[error("the keeper cannot {operation}")]
    System {
        /// What.
        operation: &'static str,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
}

fn failed<E: Into<std::io::Error>>(operation: &'static str) -> impl FnOnce(E) -> KeeperError {
    move |error| KeeperError::System { operation, source: error.into() }
}

/// What the keeper holds for its workers.
#[derive(Debug)]
pub struct Holdings {
    /// Where runtimes deliver listeners.
    pub listener_socket: UnixListener,
    /// Where clients talk.
    pub control_socket: UnixListener,
    /// Notifications in flight.
    pub area: SharedArea,
    /// What the worker is to be started with.
    pub configuration: PathBuf,
}

#[derive(Debug)]
struct Held {
    listener: OwnedFd,
    label: Vec<u8>,
}

/// A worker and the line to it.
#[derive(Debug)]
struct Worker {
    child: Child,
    socket: OwnedFd,
    started: Instant,
}

/// What waiting brought.
enum Wakening {
    Signals,
    Packet,
    TimeOut,
}

/// The keeper at work.
#[derive(Debug)]
pub struct Keeper {
    holdings: Holdings,
    held: BTreeMap<u32, Held>,
    manager: ServiceManager,
    signals: SignalFd,
    pause: Duration,
    has_served: bool,
    stop_asked: Option<Instant>,
}

impl Keeper {
    /// A keeper of `holdings`. `signals` delivers SIGTERM, SIGINT, SIGHUP and SIGCHLD, blocked in the whole process.
    #[must_use]
    pub const fn new(holdings: Holdings, manager: ServiceManager, signals: SignalFd) -> Self {
        Self {
            holdings,
            held: BTreeMap::new(),
            manager,
            signals,
            pause: FIRST_PAUSE,
            has_served: false,
            stop_asked: None,
        }
    }

    /// Keeps a worker running until a signal ends it, or until the first worker ends without ever having served.
    /// Returns the exit code of the program.
    ///
    /// # Errors
    /// [`KeeperError`] when the keeper's own system calls fail.
    pub fn run(mut self) -> Result<u8, KeeperError> {
        loop {
            let (mut child, socket) = self.start_worker()?;
            let status = match self.hand_over(&socket) {
                Ok(()) => self.attend(Worker { child, socket, started: Instant::now() })?,
                Err(error) => {
                    tracing::error!("cannot hand over to the worker: {error}");
                    let _ = child.kill();
                    child.wait().map_err(failed("wait for the worker"))?
                }
            };
            if self.stop_asked.is_some() {
                return Ok(0);
            }
            if !self.has_served {
                return Ok(status
                    .code()
                    .and_then(|code| u8::try_from(code).ok())
                    .filter(|code| *code != 0)
                    .unwrap_or(1));
            }
            confinement::explain(status);
            tracing::error!(
                "the worker ended ({status}); its successor gets {} listeners in {} ms",
                self.held.len(),
                self.pause.as_millis()
            );
            self.manager.status("the worker died and is being started again");
            std::thread::sleep(self.pause);
            self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    /// The worker is this same program; its end of the socket pair is its standard input.
    fn start_worker(&self) -> Result<(Child, OwnedFd), KeeperError> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(failed("make a socket pair"))?;
        sockopt::set_socket_timeout(&ours, sockopt::Timeout::Send, Some(HAND_OVER_LIMIT))
            .map_err(failed("bound the hand-over"))?;
        let child = Command::new("/proc/self/exe")
            .arg0("acctguard-daemon")
            .args(["--worker", "--config"])
            .arg(&self.holdings.configuration)
            .env_remove(service_manager::VARIABLE)
            .stdin(Stdio::from(theirs))
            .spawn()
            .map_err(failed("start the worker"))?;
        Ok((child, ours))
    }

    fn hand_over(&self, socket: &OwnedFd) -> Result<(), HandOverError> {
        let holdings = &self.holdings;
        let descriptors = [holdings.listener_socket.as_fd(), holdings.control_socket.as_fd(), holdings.area.as_fd()];
        hand_over::send(socket, &Message::Sockets, &descriptors)?;
        for (slot, held) in &self.held {
            let message = Message::Adopt { slot: *slot, label: held.label.clone() };
            hand_over::send(socket, &message, &[held.listener.as_fd()])?;
        }
        hand_over::send(socket, &Message::Serve, &[])
    }

    /// Listens to worker and signals until the worker has ended.
    fn attend(&mut self, mut worker: Worker) -> Result<ExitStatus, KeeperError> {
        let mut connected = true;
        loop {
            match self.wait(connected.then_some(&worker.socket))? {
                Wakening::Packet => connected = self.take_packet(&worker.socket),
                Wakening::Signals => self.take_signals(&worker.socket)?,
                Wakening::TimeOut => {}
            }
            if self.stop_asked.is_some_and(|asked| asked.elapsed() > STOP_LIMIT) {
                tracing::warn!("the worker did not end within {} s and is killed", STOP_LIMIT.as_secs());
                let _ = worker.child.kill();
            }
            if let Some(status) = worker.child.try_wait().map_err(failed("wait for the worker"))? {
                // what it sent before it died counts
                while connected && self.packet_is_waiting(&worker.socket)? {
                    connected = self.take_packet(&worker.socket);
                }
                if worker.started.elapsed() > LONG_LIFE {
                    self.pause = FIRST_PAUSE;
                }
                return Ok(status);
            }
        }
    }

    fn wait(&self, socket: Option<&OwnedFd>) -> Result<Wakening, KeeperError> {
        let mut polled = vec![PollFd::new(&self.signals, PollFlags::IN)];
        polled.extend(socket.map(|socket| PollFd::new(socket, PollFlags::IN)));
        let limit = Timespec { tv_sec: 1, tv_nsec: 0 };
        let timeout = if self.stop_asked.is_some() || socket.is_none() { Some(&limit) } else { None };
        match rustix::event::poll(&mut polled, timeout) {
            Err(rustix::io::Errno::INTR) | Ok(0) => return Ok(Wakening::TimeOut),
            Err(errno) => return Err(failed("wait for its worker")(errno)),
            Ok(_) => {}
        }
        // packets first: what a worker sent before its death precedes the SIGCHLD
        let packet = polled.get(1).is_some_and(|worker| !worker.revents().is_empty());
        Ok(if packet { Wakening::Packet } else { Wakening::Signals })
    }

    fn packet_is_waiting(&self, socket: &OwnedFd) -> Result<bool, KeeperError> {
        let mut polled = [PollFd::new(socket, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = rustix::event::poll(&mut polled, Some(&now)).map_err(failed("look for packets"))?;
        Ok(count > 0 && polled.first().is_some_and(|worker| worker.revents().contains(PollFlags::IN)))
    }

    /// Whether the worker still is at the other end.
    fn take_packet(&mut self, socket: &OwnedFd) -> bool {
        match hand_over::receive(socket) {
            Ok((Message::Hold { slot, label }, mut descriptors)) => {
                if let Some(listener) = descriptors.pop() {
                    self.held.insert(slot, Held { listener, label });
                }
            }
            Ok((Message::Release { slot }, _)) => {
                self.held.remove(&slot);
            }
            Ok((Message::Serving | Message::Reloaded, _)) => {
                self.has_served = true;
                self.manager.ready(&format!("serving {} listeners", self.held.len()));
            }
            Ok((other, _)) => tracing::error!("the worker sent a packet that only the keeper sends: {other:?}"),
            Err(HandOverError::Closed) => return false,
            Err(error) => tracing::error!("a packet of the worker is lost: {error}"),
        }
        true
    }

    fn take_signals(&mut self, socket: &OwnedFd) -> Result<(), KeeperError> {
        while let Some(signal) = self.signals.read_signal().map_err(failed("read signals"))? {
            match i32::try_from(signal.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok()) {
                Some(Signal::SIGHUP) => {
                    self.manager.reloading();
                    self.order(socket, &Message::Reload);
                }
                Some(Signal::SIGTERM | Signal::SIGINT) if self.stop_asked.is_none() => {
                    self.stop_asked = Some(Instant::now());
                    self.manager.stopping();
                    self.order(socket, &Message::Stop);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn order(&self, socket: &OwnedFd, message: &Message) {
        if let Err(error) = hand_over::send(socket, message, &[]) {
            tracing::warn!("cannot tell the worker ({message:?}): {error}");
        }
    }
}

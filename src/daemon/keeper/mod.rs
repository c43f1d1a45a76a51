//! The keeper: the process that `acctguard-daemon` is. It holds the two sockets, the shared area and a duplicate of every
//! listener, starts the worker and starts it again when it dies, handing over everything it holds.
//!
//! | file | what |
//! | --- | --- |
//! | `table` | what it holds, in room made at the start |
//! | `worker_line` | starting a worker, handing over to it, what it says |
//! | `standby` | a second keeper that sleeps until the first is gone |
//! | `successor` | another worker in place of one that serves (`acctguard-daemon upgrade`) |
//! | `descriptor_store` | what systemd holds for the next keeper |
//!
//! It reads nothing that a container or a client wrote: labels are opaque to it, clients talk to the worker.
//! Its end is the end of supervision where nobody holds duplicates; so it does as little as it can.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;

use crate::daemon::confinement;
use crate::daemon::confinement::Otherwise;
use crate::daemon::hand_over;
use crate::daemon::hand_over::Message;
use crate::daemon::keeper::standby::Standby;
use crate::daemon::keeper::table::Table;
use crate::daemon::keeper::worker_line::Taken;
use crate::daemon::keeper::worker_line::Worker;
use crate::daemon::last_good::write_private;
use crate::daemon::service_manager::ServiceManager;
use crate::kernel::shared_area::SharedArea;

pub mod descriptor_store;
pub mod standby;
mod successor;
pub mod table;
mod worker_line;

/// Listeners that can be served at one time; each has the slot of its number in the shared area.
pub const LISTENERS: usize = 16_384;
/// Runtimes that can be connected before they have a listener to deliver: their numbers come after those.
pub const CONNECTIONS: usize = 2048;
/// Places in the table.
pub const PLACES: usize = LISTENERS + CONNECTIONS;

/// First pause before a dead worker's successor; doubled with each quick death, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Calls of containers wait while there is no worker, so the pause stays short.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// A worker that served so long died of something new.
const LONG_LIFE: Duration = Duration::from_secs(1);
/// How often it is looked whether the worker still lives.
const LOOK: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// How long a worker may take to end when asked.
const STOP_LIMIT: Duration = Duration::from_secs(10);

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
    /// Listeners, and connections of runtimes that have not delivered theirs.
    pub table: Table,
    /// What workers are started from (`O_PATH`).
    pub program: OwnedFd,
    /// Where the program is installed: what an upgrade takes.
    pub installed: PathBuf,
    /// What the worker is to be started with.
    pub configuration: PathBuf,
    /// Where the keeper's pid is to be read.
    pub pid_file: PathBuf,
    /// Held as long as anybody has them: no other daemon uses the directories.
    pub locks: [OwnedFd; 2],
}

/// What waiting brought.
enum Wakening {
    Signals,
    Packet,
    Standby,
    TimeOut,
}

/// The keeper at work.
#[derive(Debug)]
pub struct Keeper {
    holdings: Holdings,
    manager: ServiceManager,
    signals: SignalFd,
    pause: Duration,
    has_served: bool,
    /// What becomes of calls that the next worker does not need.
    otherwise: Otherwise,
    stop_asked: Option<Instant>,
    wants_standby: bool,
    standby: Option<Standby>,
    /// What workers were started from before the last upgrade, until its worker has served.
    previous_program: Option<OwnedFd>,
}

impl Keeper {
    /// A keeper of `holdings`. `signals` delivers SIGTERM, SIGINT, SIGHUP and SIGCHLD, blocked in the whole process.
    #[must_use]
    pub const fn new(holdings: Holdings, manager: ServiceManager, signals: SignalFd, wants_standby: bool) -> Self {
        Self {
            holdings,
            manager,
            signals,
            pause: FIRST_PAUSE,
            has_served: false,
            otherwise: Otherwise::End,
            stop_asked: None,
            wants_standby,
            standby: None,
            previous_program: None,
        }
    }

    /// The same, after another keeper: a worker that does not come up is no mistake of the person who started the daemon.
    #[must_use]
    pub fn after_another(self) -> Self {
        Self { has_served: true, ..self }
    }

    /// Keeps a worker running until a signal ends it, or until the first worker ends without ever having served.
    /// Returns the exit code of the program.
    ///
    /// # Errors
    /// [`KeeperError`] when the keeper's own system calls fail.
    pub fn run(mut self) -> Result<u8, KeeperError> {
        self.store_all();
        // whoever ends the keeper by its pid finds that another holds everything
        self.renew_standby(None);
        let pid = format!("{}\n", std::process::id());
        let (file, fresh) = (&self.holdings.pid_file, self.holdings.pid_file.with_extension("new"));
        write_private(&fresh, pid.as_bytes())
            .and_then(|()| std::fs::rename(&fresh, file))
            .map_err(failed("write its pid"))?;
        let outcome = self.keep();
        self.dismiss_standby();
        let _ = std::fs::remove_file(&self.holdings.pid_file);
        outcome
    }

    fn keep(&mut self) -> Result<u8, KeeperError> {
        loop {
            self.renew_standby(None);
            let mut worker = self.start_worker()?;
            let status = match self.hand_over(&worker) {
                Ok(()) => self.attend(worker)?,
                Err(error) => {
                    tracing::error!("cannot hand over to the worker: {error}");
                    worker.end().map_err(failed("wait for the worker"))?
                }
            };
            if self.stop_asked.is_some() {
                return Ok(0);
            }
            confinement::explain("the worker", status);
            let otherwise = confinement::after(status, self.otherwise);
            // the first worker is tried again where a call was forbidden to it
            if !self.has_served && otherwise == self.otherwise {
                return Ok(status
                    .code()
                    .and_then(|code| u8::try_from(code).ok())
                    .filter(|code| *code != 0)
                    .unwrap_or(1));
            }
            self.otherwise = otherwise;
            if let Some(program) = self.previous_program.take() {
                tracing::error!("the new program's worker ended before it served; the one before it is started again");
                self.holdings.program = program;
                self.otherwise = Otherwise::End;
            }
            tracing::error!(
                "the worker ended ({status}); its successor gets {} listeners in {} ms",
                self.holdings.table.len(),
                self.pause.as_millis()
            );
            self.manager.status("the worker died and is being started again");
            std::thread::sleep(self.pause);
            self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    /// Listens to worker and signals until the worker has ended.
    fn attend(&mut self, mut worker: Worker) -> Result<ExitStatus, KeeperError> {
        let mut connected = true;
        loop {
            match self.wait(connected.then_some(&worker))? {
                Wakening::Packet => match self.take_packet(&worker) {
                    Taken::Something => {}
                    Taken::Closed => connected = false,
                    Taken::Upgrade => worker = self.replace(worker)?,
                },
                Wakening::Signals => self.take_signals(&worker)?,
                Wakening::Standby => self.bury_standby(),
                Wakening::TimeOut => {}
            }
            if self.stop_asked.is_some_and(|asked| asked.elapsed() > STOP_LIMIT) {
                tracing::warn!("the worker did not end within {} s and is killed", STOP_LIMIT.as_secs());
                worker.kill();
            }
            if let Some(status) = worker.ended().map_err(failed("wait for the worker"))? {
                // what it sent before it died counts
                while connected && self.packet_is_waiting(&worker)? {
                    connected = !matches!(self.take_packet(&worker), Taken::Closed);
                }
                if worker.age() > LONG_LIFE {
                    self.pause = FIRST_PAUSE;
                }
                return Ok(status);
            }
            if self.stop_asked.is_none() {
                self.renew_standby(Some(&worker));
            }
        }
    }

    fn wait(&self, worker: Option<&Worker>) -> Result<Wakening, KeeperError> {
        let standby = self.standby.as_ref();
        let sockets = [worker.map(Worker::socket), standby.map(Standby::socket)];
        // packets first: what a worker sent before its death precedes the SIGCHLD
        let polled = sockets.iter().flatten().map(|socket| PollFd::new(socket, PollFlags::IN));
        let mut polled: Vec<_> = polled.chain([PollFd::new(&self.signals, PollFlags::IN)]).collect();
        // nobody tells of a worker that is dead and cannot go
        match rustix::event::poll(&mut polled, Some(&LOOK)) {
            Err(rustix::io::Errno::INTR) | Ok(0) => return Ok(Wakening::TimeOut),
            Err(errno) => return Err(failed("wait for its worker")(errno)),
            Ok(_) => {}
        }
        let first = polled.iter().position(|polled| !polled.revents().is_empty());
        Ok(match (first, worker, standby) {
            (Some(0), Some(_), _) => Wakening::Packet,
            (Some(0), None, Some(_)) | (Some(1), Some(_), Some(_)) => Wakening::Standby,
            _ => Wakening::Signals,
        })
    }

    fn take_signals(&mut self, worker: &Worker) -> Result<(), KeeperError> {
        while let Some(signal) = self.signals.read_signal().map_err(failed("read signals"))? {
            match i32::try_from(signal.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok()) {
                Some(Signal::SIGHUP) => {
                    self.manager.reloading();
                    order(worker, &Message::Reload);
                }
                Some(Signal::SIGTERM | Signal::SIGINT) if self.stop_asked.is_none() => {
                    self.stop_asked = Some(Instant::now());
                    self.manager.stopping();
                    order(worker, &Message::Stop);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn order(worker: &Worker, message: &Message) {
    if let Err(error) = hand_over::send(worker.socket(), message, &[]) {
        tracing::warn!("cannot tell the worker ({message:?}): {error}");
    }
}

//! The second keeper: a process that holds duplicates of everything and sleeps until the first keeper is gone. Then the
//! worker retires, or is ended, and this is the keeper.
//!
//! The first keeper tells it what there is when it starts, and of each worker: by a descriptor of its process, and by a line on
//! which that worker tells what it holds, beside telling the first keeper. So a listener is in two sockets' buffers, in the kernel,
//! before its first call is answered, and no keeper's death loses it. Workers' lines are read to their end in the order
//! in which the workers came: a worker's successor is started when it has ended.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signalfd::SignalFd;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::process::Signal;

use crate::daemon::hand_over;
use crate::daemon::hand_over::HandOverError;
use crate::daemon::hand_over::Message;
use crate::daemon::keeper::Holdings;
use crate::daemon::keeper::Keeper;
use crate::daemon::keeper::PLACES;
use crate::daemon::keeper::table::Table;
use crate::daemon::keeper::worker_line::Worker;
use crate::daemon::keeper::worker_line::program_as;
use crate::daemon::service_manager::ServiceManager;
use crate::kernel::pidfd;
use crate::kernel::pidfd::Process;
use crate::kernel::shared_area::SharedArea;
use crate::kernel::shared_area::SharedAreaError;
use crate::model::diagnostic::chain;

/// The argument that makes this program a second keeper.
pub const ROLE: &str = "--standby";
/// How long anybody waits for room on a line.
const LINE_LIMIT: Duration = Duration::from_secs(1);
/// How long a second keeper may take to end when asked, and a worker when killed.
const END_LIMIT: Duration = Duration::from_secs(10);
/// How long a worker has to retire when its keeper is gone: nobody else knows of a connection that it accepts at that moment.
const RETIREMENT: Duration = Duration::from_millis(500);
/// A second keeper that ends sooner is not started again before.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// The second keeper, as the first sees it.
#[derive(Debug)]
pub struct Standby {
    child: Child,
    socket: OwnedFd,
    started: Instant,
}

impl Standby {
    /// The line to it; it says nothing on it.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Why there is no second keeper.
#[derive(Debug, thiserror::Error)]
pub enum StandbyError {
    /// The hand-over.
    #[error("the keeper's hand-over failed; the second keeper is started by acctguard-daemon only, not by hand")]
    HandOver(#[from] HandOverError),
    /// Something is missing in it.
    #[error("the keeper's hand-over lacks {0}")]
    Incomplete(&'static str),
    /// The memory of notifications.
    #[error(transparent)]
    Area(#[from] SharedAreaError),
    /// A system call.
    #[error("cannot {0}")]
    System(&'static str, #[source] std::io::Error),
}

fn failed<E: Into<std::io::Error>>(operation: &'static str) -> impl FnOnce(E) -> StandbyError {
    move |error| StandbyError::System(operation, error.into())
}

impl Keeper {
    /// Starts a second keeper where one is wanted and missing, and makes it known to `worker`. Without one, the daemon goes on.
    pub(super) fn renew_standby(&mut self, worker: Option<&Worker>) {
        if !self.wants_standby || self.standby.is_some() {
            return;
        }
        match self.start_standby() {
            Ok(standby) => {
                self.standby = Some(standby);
                if let Some(worker) = worker {
                    self.introduce(worker);
                }
            }
            Err(error) => tracing::error!("there is no second keeper: {}", chain(&error)),
        }
    }

    fn start_standby(&mut self) -> Result<Standby, StandbyError> {
        let (socket, theirs) = hand_over::pair(LINE_LIMIT).map_err(failed("make a socket pair"))?;
        let holdings = &mut self.holdings;
        let child = program_as(&holdings.program, ROLE, theirs)
            .arg("--config")
            .arg(&holdings.configuration)
            .arg("--installed")
            .arg(&holdings.installed)
            .spawn()
            .map_err(failed("start it"))?;
        let standby = Standby { child, socket, started: Instant::now() };
        let descriptors = [
            holdings.listener_socket.as_fd(),
            holdings.control_socket.as_fd(),
            holdings.area.as_fd(),
            holdings.program.as_fd(),
            holdings.locks[0].as_fd(),
            holdings.locks[1].as_fd(),
        ];
        hand_over::send(&standby.socket, &Message::Sockets { version: hand_over::VERSION }, &descriptors)?;
        holdings.table.each(|slot, descriptor, label| {
            hand_over::send(&standby.socket, &Message::Adopt { slot, label: label.to_vec() }, &[descriptor])
        })?;
        hand_over::send(&standby.socket, &Message::Serve, &[])?;
        Ok(standby)
    }

    /// Makes the second keeper and `worker` known to each other.
    pub(super) fn introduce(&self, worker: &Worker) {
        let Some(standby) = &self.standby else { return };
        let introduced = || -> Result<(), StandbyError> {
            let process = pidfd::watch_thread(worker.pid())
                .map_err(|error| failed("open the worker")(std::io::Error::other(error)))?;
            let (theirs, workers) = hand_over::pair(LINE_LIMIT).map_err(failed("make a socket pair"))?;
            hand_over::send(&standby.socket, &Message::Worker, &[process.as_fd(), theirs.as_fd()])?;
            Ok(hand_over::send(worker.socket(), &Message::Line, &[workers.as_fd()])?)
        };
        if let Err(error) = introduced() {
            tracing::error!("the second keeper does not know the worker: {}", chain(&error));
        }
    }

    /// The second keeper has ended. Another is started in its place, in a while when it had hardly begun.
    pub(super) fn bury_standby(&mut self) {
        let Some(mut standby) = self.standby.take() else { return };
        let _ = standby.child.kill();
        let status = standby.child.wait();
        tracing::error!("the second keeper ended ({status:?}); another is started");
        std::thread::sleep(RESTART_PAUSE.saturating_sub(standby.started.elapsed()));
    }

    /// Ends the second keeper: this one ends in order.
    pub(super) fn dismiss_standby(&mut self) {
        let Some(mut standby) = self.standby.take() else { return };
        let told = hand_over::send(&standby.socket, &Message::Stop, &[]);
        let deadline = Instant::now() + END_LIMIT;
        while told.is_ok() && Instant::now() < deadline && matches!(standby.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = standby.child.kill();
        let _ = standby.child.wait();
    }
}

/// A worker, as the second keeper sees it.
struct KnownWorker {
    process: Process,
    /// `None` when it was read to its end.
    line: Option<OwnedFd>,
}

/// The second keeper at work.
struct Sleeper {
    keeper: OwnedFd,
    holdings: Holdings,
    workers: Vec<KnownWorker>,
}

/// What the second keeper is started with.
#[derive(Debug)]
pub struct Start {
    /// The configuration that workers are started with.
    pub configuration: PathBuf,
    /// Where the program is installed.
    pub installed: PathBuf,
    /// Where the keeper's pid is to be read.
    pub pid_file: PathBuf,
}

/// Sleeps until the keeper at the other end of `keeper` is gone and comes back with a keeper in its place; `None` when it ended
/// in order. `signals` as for [`Keeper::new`].
///
/// # Errors
/// [`StandbyError`].
pub fn sleep(keeper: OwnedFd, start: Start, signals: SignalFd) -> Result<Option<Keeper>, StandbyError> {
    let holdings = inherit(&keeper, start)?;
    let mut sleeper = Sleeper { keeper, holdings, workers: Vec::new() };
    if sleeper.attend()? == Ending::InOrder {
        return Ok(None);
    }
    tracing::error!("the keeper is gone; the second keeper takes over");
    sleeper.end_workers();
    // what was sent to this process while it slept was not for it
    while let Ok(Some(_)) = signals.read_signal() {}
    Ok(Some(Keeper::new(sleeper.holdings, ServiceManager::none(), signals, true).after_another()))
}

fn inherit(keeper: &OwnedFd, start: Start) -> Result<Holdings, StandbyError> {
    let Start { configuration, installed, pid_file } = start;
    let (Message::Sockets { .. }, descriptors) = hand_over::receive(keeper)? else {
        return Err(StandbyError::HandOver(HandOverError::Malformed));
    };
    let [listeners, clients, area, program, first, second] =
        <[OwnedFd; 6]>::try_from(descriptors).map_err(|_| StandbyError::Incomplete("its sockets"))?;
    let mut table = Table::new(PLACES).map_err(failed("make room"))?;
    loop {
        match hand_over::receive(keeper)? {
            (Message::Adopt { slot, label }, mut descriptors) => {
                let descriptor = descriptors.pop().ok_or(StandbyError::Incomplete("a listener"))?;
                table.hold(slot, descriptor, &label).map_err(failed("hold a listener"))?;
            }
            (Message::Serve, _) => break,
            _ => return Err(StandbyError::HandOver(HandOverError::Malformed)),
        }
    }
    Ok(Holdings {
        listener_socket: UnixListener::from(listeners),
        control_socket: UnixListener::from(clients),
        area: SharedArea::from_fd(area)?,
        table,
        program,
        installed,
        configuration,
        pid_file,
        locks: [first, second],
    })
}

/// How the first keeper ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    InOrder,
    Sudden,
}

impl Sleeper {
    fn attend(&mut self) -> Result<Ending, StandbyError> {
        loop {
            let line = self.workers.iter().find_map(|worker| worker.line.as_ref());
            let mut polled: Vec<_> =
                [Some(&self.keeper), line].into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            match rustix::event::poll(&mut polled, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(failed("wait")(errno)),
            }
            let is_ready = |index: usize| polled.get(index).is_some_and(|polled| !polled.revents().is_empty());
            if is_ready(1) {
                self.take_from_worker();
            } else if is_ready(0) {
                match hand_over::receive(&self.keeper) {
                    Ok((Message::Worker, descriptors)) => self.meet(descriptors),
                    Ok((Message::Stop, _)) => return Ok(Ending::InOrder),
                    Err(HandOverError::Closed) => return Ok(Ending::Sudden),
                    Ok(_) | Err(_) => tracing::error!("a packet of the keeper is not understood"),
                }
            }
        }
    }

    fn meet(&mut self, descriptors: Vec<OwnedFd>) {
        let Ok([process, line]) = <[OwnedFd; 2]>::try_from(descriptors) else {
            tracing::error!("a worker is not known: its descriptors are missing");
            return;
        };
        // the ones before have ended, but for threads that hang in the kernel and keep their lines open
        self.read_to_the_end();
        self.workers.retain(|worker| worker.process.still_alive().unwrap_or(true));
        self.workers.iter_mut().for_each(|worker| worker.line = None);
        self.workers.push(KnownWorker { process: Process::from_fd(process), line: Some(line) });
    }

    /// One packet of the oldest worker that still has a line.
    fn take_from_worker(&mut self) {
        let Some(worker) = self.workers.iter_mut().find(|worker| worker.line.is_some()) else { return };
        let Some(line) = &worker.line else { return };
        let table = &mut self.holdings.table;
        match hand_over::receive(line) {
            Ok((Message::Begin, _)) => table.clear(),
            Ok((Message::Hold { slot, label }, mut descriptors)) => {
                let held = descriptors.pop().map(|descriptor| table.hold(slot, descriptor, &label));
                if !matches!(held, Some(Ok(()))) {
                    tracing::error!(slot, "a listener would be lost with its keeper: {held:?}");
                }
            }
            Ok((Message::Release { slot }, _)) => table.release(slot),
            Ok((other, _)) => tracing::error!("a worker said {other:?} to the second keeper"),
            Err(HandOverError::Closed) => worker.line = None,
            Err(error) => {
                tracing::error!("a packet of the worker is lost: {error}");
                worker.line = None;
            }
        }
    }

    /// Has all workers end and reads to the end what they said.
    fn end_workers(&mut self) {
        for worker in &self.workers {
            if !worker.process.outlives(RETIREMENT).unwrap_or(true) {
                continue;
            }
            let _ = worker.process.signal(Signal::KILL);
            if worker.process.outlives(END_LIMIT).unwrap_or(false) {
                tracing::error!("a worker does not end; what it serves is served twice");
            }
        }
        self.read_to_the_end();
    }

    /// Reads what the workers have said, and no further.
    fn read_to_the_end(&mut self) {
        while let Some(line) = self.workers.iter().find_map(|worker| worker.line.as_ref()) {
            let mut polled = [PollFd::new(line, PollFlags::IN)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            if !matches!(rustix::event::poll(&mut polled, Some(&now)), Ok(1..)) {
                // it has not ended, and will not be heard any more
                break;
            }
            self.take_from_worker();
        }
    }
}

//! A worker and the line to it.

use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;

use crate::daemon::confinement::Otherwise;
use crate::daemon::hand_over;
use crate::daemon::hand_over::HandOverError;
use crate::daemon::hand_over::Message;
use crate::daemon::keeper::Keeper;
use crate::daemon::keeper::KeeperError;
use crate::daemon::keeper::failed;
use crate::daemon::service_manager;
use crate::daemon::startup;
use crate::kernel::leftovers;
use crate::kernel::leftovers::Leftover;

/// How long the hand-over may stand still.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(10);
/// How long a worker that was killed may take to let its last threads go.
const HELD_PATIENCE: Duration = Duration::from_millis(500);
/// How often it is looked meanwhile.
const END_STEP: Duration = Duration::from_millis(5);

/// A worker and the line to it.
#[derive(Debug)]
pub struct Worker {
    /// `None` once it is left to the kernel.
    child: Option<Child>,
    pid: u32,
    socket: OwnedFd,
    started: Instant,
    held_since: Option<Instant>,
}

impl Worker {
    /// The line.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How long it runs.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.child.as_mut().map(Child::kill);
    }

    /// How it ended, if it has. One that was killed and whose last threads a file system of a container's keeps from dying has ended,
    /// too: nothing of it will run again.
    pub fn ended(&mut self) -> std::io::Result<Option<ExitStatus>> {
        let killed = Some(ExitStatus::from_raw(Signal::SIGKILL as i32));
        let Some(child) = &mut self.child else { return Ok(killed) };
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if !leftovers::is_held(self.pid) {
            self.held_since = None;
            return Ok(None);
        }
        // what it writes to a disk of ours ends soon
        if self.held_since.get_or_insert_with(Instant::now).elapsed() < HELD_PATIENCE {
            return Ok(None);
        }
        tracing::error!(pid = self.pid, "the worker is dead, and a file system that hangs keeps its threads");
        self.child.take().into_iter().for_each(|child| leftovers::end(Leftover::Child(child), None));
        Ok(killed)
    }

    /// Kills it and waits for its end.
    pub fn end(&mut self) -> std::io::Result<ExitStatus> {
        loop {
            self.kill();
            match self.ended()? {
                Some(status) => return Ok(status),
                None => std::thread::sleep(END_STEP),
            }
        }
    }
}

/// What a packet of the worker was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Seen to.
    Something,
    /// The worker is not there any more.
    Closed,
    /// Somebody asks it for a successor.
    Upgrade,
}

/// A program of ours in a `role`, started from an open file: whatever the path leads to by now. Its end of the socket pair is
/// its standard input.
pub fn program_as(program: &OwnedFd, role: &str, socket: OwnedFd) -> Command {
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.arg0("acctguard-daemon").arg(role).env_remove(service_manager::VARIABLE).stdin(Stdio::from(socket));
    command
}

impl Keeper {
    /// A worker that has been told nothing yet.
    pub(super) fn start_worker(&self) -> Result<Worker, KeeperError> {
        self.start_worker_from(&self.holdings.program, self.otherwise)
    }

    pub(super) fn start_worker_from(&self, program: &OwnedFd, otherwise: Otherwise) -> Result<Worker, KeeperError> {
        let (socket, theirs) = hand_over::pair(HAND_OVER_LIMIT).map_err(failed("make a socket pair"))?;
        let child = program_as(program, "--worker", theirs)
            .args(self.manager.is_there().then_some("--stored"))
            .args((otherwise == Otherwise::Refuse).then_some(startup::REFUSING))
            .arg("--config")
            .arg(&self.holdings.configuration)
            .spawn()
            .map_err(failed("start the worker"))?;
        leftovers::reap();
        Ok(Worker { pid: child.id(), child: Some(child), socket, started: Instant::now(), held_since: None })
    }

    /// Everything that a worker needs to serve.
    pub(super) fn hand_over(&mut self, worker: &Worker) -> Result<(), HandOverError> {
        self.hand_over_sockets(worker)?;
        self.hand_over_listeners(worker)
    }

    /// What a worker needs to prepare itself.
    pub(super) fn hand_over_sockets(&self, worker: &Worker) -> Result<(), HandOverError> {
        let holdings = &self.holdings;
        let descriptors = [holdings.listener_socket.as_fd(), holdings.control_socket.as_fd(), holdings.area.as_fd()];
        hand_over::send(worker.socket(), &Message::Sockets { version: hand_over::VERSION }, &descriptors)
    }

    /// What it is to serve.
    pub(super) fn hand_over_listeners(&mut self, worker: &Worker) -> Result<(), HandOverError> {
        self.introduce(worker);
        self.holdings.table.each(|slot, descriptor, label| {
            hand_over::send(worker.socket(), &Message::Adopt { slot, label: label.to_vec() }, &[descriptor])
        })?;
        hand_over::send(worker.socket(), &Message::Serve, &[])
    }

    /// Does what the worker's next packet says.
    pub(super) fn take_packet(&mut self, worker: &Worker) -> Taken {
        match hand_over::receive(worker.socket()) {
            Ok((Message::Hold { slot, label }, mut descriptors)) => {
                if let Some(descriptor) = descriptors.pop() {
                    self.hold(slot, descriptor, &label);
                }
            }
            Ok((Message::Release { slot }, _)) => self.release(slot),
            Ok((Message::Serving | Message::Reloaded, _)) => {
                self.has_served = true;
                self.previous_program = None;
                self.manager.ready(&format!("serving {} listeners", self.holdings.table.len()));
            }
            Ok((Message::Prepared, _)) => {}
            Ok((Message::Upgrade, _)) => return Taken::Upgrade,
            Ok((other, _)) => tracing::error!("the worker sent a packet that only the keeper sends: {other:?}"),
            Err(HandOverError::Closed) => return Taken::Closed,
            Err(error) => tracing::error!("a packet of the worker is lost: {error}"),
        }
        Taken::Something
    }

    fn hold(&mut self, slot: u32, descriptor: OwnedFd, label: &[u8]) {
        self.store(slot, descriptor.as_fd());
        if let Err(errno) = self.holdings.table.hold(slot, descriptor, label) {
            tracing::error!(slot, "a listener would be lost with its worker, there is no place for it: {errno}");
        }
    }

    fn release(&mut self, slot: u32) {
        self.holdings.table.release(slot);
        self.forget(slot);
    }

    pub(super) fn packet_is_waiting(&self, worker: &Worker) -> Result<bool, KeeperError> {
        let socket = worker.socket();
        let mut polled = [PollFd::new(&socket, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = rustix::event::poll(&mut polled, Some(&now)).map_err(failed("look for packets"))?;
        Ok(count > 0 && polled.first().is_some_and(|worker| worker.revents().contains(PollFlags::IN)))
    }
}

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

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::process::Signal;

use crate::daemon::hand_over;
use crate::daemon::hand_over::HandOverError;
use crate::daemon::hand_over::Message;
use crate::daemon::keeper::Keeper;
use crate::daemon::keeper::KeeperError;
use crate::daemon::keeper::failed;
use crate::daemon::service_manager;
use crate::kernel::pidfd;
use crate::kernel::pidfd::Process;

/// How long a worker whose first thread has ended may take to end as a whole, before it counts as ended.
const LEFT_LIMIT: Duration = Duration::from_secs(1);
const END_STEP: Duration = Duration::from_millis(5);

/// How long the hand-over may stand still.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(10);

/// A worker and the line to it.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    socket: OwnedFd,
    started: Instant,
    /// Its first thread, which ends with it but for threads that hang in the kernel (before Linux 6.9 the whole process).
    first_thread: Option<Process>,
    /// When that was seen to have ended.
    left: Option<Instant>,
}

impl Worker {
    /// The line.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How long it runs.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// Readable when its first thread has ended; `None` when that is known, or cannot be.
    pub fn first_thread(&self) -> Option<BorrowedFd<'_>> {
        self.first_thread.as_ref().filter(|_| self.left.is_none()).map(AsFd::as_fd)
    }

    /// Whether it is about to end, and may hang.
    pub fn has_left(&self) -> bool {
        self.left.is_some()
    }

    /// How it ended, if it has. One that was killed while a thread hangs in the kernel (`D`, a hung FUSE or NFS server) cannot be
    /// waited for, nor will that thread ever run again outside the kernel: it counts as ended after [`LEFT_LIMIT`].
    pub fn ended(&mut self) -> std::io::Result<Option<ExitStatus>> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(Some(status));
        }
        let is_there = self.first_thread.as_ref().is_none_or(|thread| thread.still_alive().unwrap_or(true));
        if is_there {
            return Ok(None);
        }
        let left = self.left.get_or_insert_with(Instant::now);
        Ok((left.elapsed() > LEFT_LIMIT).then(|| ExitStatus::from_raw(Signal::KILL.as_raw())))
    }

    /// Kills it and waits for its end.
    pub fn end(&mut self) -> std::io::Result<ExitStatus> {
        self.kill();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            std::thread::sleep(END_STEP);
        }
    }

    /// Its process, to be waited for when it has ended as a whole.
    pub fn into_child(self) -> Child {
        self.child
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
        self.start_worker_from(&self.holdings.program)
    }

    pub(super) fn start_worker_from(&self, program: &OwnedFd) -> Result<Worker, KeeperError> {
        let (socket, theirs) = hand_over::pair(HAND_OVER_LIMIT).map_err(failed("make a socket pair"))?;
        let child = program_as(program, "--worker", theirs)
            .args(self.manager.is_there().then_some("--stored"))
            .arg("--config")
            .arg(&self.holdings.configuration)
            .spawn()
            .map_err(failed("start the worker"))?;
        let first_thread = pidfd::watch_thread(child.id());
        if let Err(error) = &first_thread {
            tracing::warn!("a worker that hangs when it is killed would not be replaced: {error}");
        }
        Ok(Worker { child, socket, started: Instant::now(), first_thread: first_thread.ok(), left: None })
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

    /// Takes leave of a worker that has ended, or hangs.
    pub(super) fn bury(&mut self, worker: Worker) {
        self.unreaped.push(worker.into_child());
        self.reap();
    }

    /// Lets go of workers that have ended as a whole since.
    pub(super) fn reap(&mut self) {
        self.unreaped.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
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

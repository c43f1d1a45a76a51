//! `acctguard-daemon upgrade`: another worker, from the program that is installed now, in place of one that serves.
//!
//! The successor opens the store and reads the policy beside the old worker. When it is ready, the old one answers what it has
//! received, receives nothing more and ends; what calls are made meanwhile wait in the kernel. Then the successor is given
//! everything. One that does not get ready changes nothing.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::fs::Mode;
use rustix::fs::OFlags;

use crate::daemon::confinement;
use crate::daemon::confinement::Otherwise;
use crate::daemon::hand_over;
use crate::daemon::hand_over::MAX_LABEL_BYTES;
use crate::daemon::hand_over::Message;
use crate::daemon::keeper::Keeper;
use crate::daemon::keeper::KeeperError;
use crate::daemon::keeper::failed;
use crate::daemon::keeper::order;
use crate::daemon::keeper::worker_line::Taken;
use crate::daemon::keeper::worker_line::Worker;
use crate::model::diagnostic::chain;

/// How long a successor may take to open the store and read the policy.
const PREPARATION_LIMIT: Duration = Duration::from_secs(20);
/// How long the old worker may take for what it has received.
const RETIREMENT_LIMIT: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(100);

impl Keeper {
    /// The worker in `old`'s place, or `old` when it goes on.
    pub(super) fn replace(&mut self, old: Worker) -> Result<Worker, KeeperError> {
        match self.prepare(&old) {
            Ok((program, successor)) => self.swap(old, program, successor),
            Err(reason) => {
                tracing::error!("the worker is not replaced: {reason}");
                let label = reason.bytes().take(MAX_LABEL_BYTES).collect();
                order(&old, &Message::NotUpgraded { label });
                Ok(old)
            }
        }
    }

    /// A successor that is ready to serve.
    fn prepare(&mut self, old: &Worker) -> Result<(OwnedFd, Worker), String> {
        let program = open_trusted(&self.holdings.installed)?;
        // what was forbidden to another program says nothing about this one
        let mut successor = self.start_worker_from(&program, Otherwise::End).map_err(|error| chain(&error))?;
        let outcome = self.hand_over_sockets(&successor).map_err(|error| chain(&error));
        match outcome.and_then(|()| self.wait_until_prepared(old, &mut successor)) {
            Ok(()) => Ok((program, successor)),
            Err(reason) => {
                let reason = match successor.ended() {
                    Ok(Some(status)) => {
                        confinement::explain("the new worker", status);
                        format!("its worker ended ({status}); see its log")
                    }
                    _ => reason,
                };
                let _ = successor.end();
                Err(format!("{}: {reason}", self.holdings.installed.display()))
            }
        }
    }

    fn wait_until_prepared(&mut self, old: &Worker, successor: &mut Worker) -> Result<(), String> {
        let deadline = Instant::now() + PREPARATION_LIMIT;
        while Instant::now() < deadline {
            match self.wait_for_packet([old, successor])? {
                Some(0) if self.take_packet(old) == Taken::Closed => return Ok(()),
                Some(1) => match hand_over::receive(successor.socket()) {
                    Ok((Message::Prepared, _)) => return Ok(()),
                    Ok((other, _)) => return Err(format!("its worker began with {other:?}")),
                    Err(error) => {
                        let _ = successor.end();
                        return Err(chain(&error));
                    }
                },
                _ => {}
            }
        }
        Err(format!("its worker was not ready after {} s", PREPARATION_LIMIT.as_secs()))
    }

    /// Which of the workers has said something within [`STEP`].
    fn wait_for_packet(&self, workers: [&Worker; 2]) -> Result<Option<usize>, String> {
        let sockets = workers.map(Worker::socket);
        let mut polled = sockets.each_ref().map(|socket| PollFd::new(socket, PollFlags::IN));
        let step = Timespec { tv_sec: 0, tv_nsec: STEP.subsec_nanos().into() };
        match rustix::event::poll(&mut polled, Some(&step)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(format!("cannot wait for it: {errno}")),
        }
        Ok(polled.iter().position(|polled| !polled.revents().is_empty()))
    }

    fn swap(&mut self, mut old: Worker, program: OwnedFd, mut successor: Worker) -> Result<Worker, KeeperError> {
        order(&old, &Message::Retire);
        let deadline = Instant::now() + RETIREMENT_LIMIT;
        let mut connected = true;
        while old.ended().map_err(failed("wait for the old worker"))?.is_none() {
            if Instant::now() > deadline {
                tracing::warn!("the old worker did not end within {} s and is killed", RETIREMENT_LIMIT.as_secs());
                old.end().map_err(failed("wait for the old worker"))?;
            } else if !connected {
                std::thread::sleep(Duration::from_millis(1));
            } else if self.wait_for_packet([&old, &successor]).ok().flatten() == Some(0) {
                connected = self.take_packet(&old) != Taken::Closed;
            }
        }
        // what it sent before it ended counts
        while connected && self.packet_is_waiting(&old)? {
            connected = self.take_packet(&old) != Taken::Closed;
        }
        self.previous_program = Some(std::mem::replace(&mut self.holdings.program, program));
        self.otherwise = Otherwise::End;
        if let Err(error) = self.hand_over_listeners(&successor) {
            // its end is seen as any worker's
            tracing::error!("cannot hand over to the new worker: {error}");
            successor.kill();
        }
        Ok(successor)
    }
}

/// The program at `path`, which nobody but root and this process's user can have written.
fn open_trusted(path: &Path) -> Result<OwnedFd, String> {
    let describe = |error: std::io::Error| format!("cannot open {}: {error}", path.display());
    let program = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let program = std::fs::File::from(program.map_err(|errno| describe(errno.into()))?);
    let metadata = program.metadata().map_err(describe)?;
    let ours = rustix::process::geteuid().as_raw();
    if !metadata.is_file() || (metadata.uid() != 0 && metadata.uid() != ours) || metadata.mode() & 0o022 != 0 {
        return Err(format!("{} can be written by others; chown it to root and chmod go-w it", path.display()));
    }
    Ok(program.into())
}

//! A listener of the launcher's own in place of the runtime's, whose calls wait killable ([`crate::oci::launcher_listener`]).
//!
//! 1. It tries to make one, of a filter that allows all: the kernel judges the flags and the right to do so before it looks for another
//!    listener (kernel/seccomp.c, `seccomp_set_mode_filter`), and translates a filter of one instruction in a tenth of the time. EBUSY
//!    says that the runtime's is open and that nothing else is in the way; after anything else it goes on with the runtime's.
//! 2. It asks for a listener by other flags, which the runtime's filter hands over: the daemon gives up the runtime's listener
//!    instead of answering, and with its last descriptor the kernel answers ENOSYS (`seccomp_notify_detach`). After any other answer
//!    it goes on with the runtime's.
//! 3. It makes its own and sends it. Nothing of the image has run, and the next call that is handed over is the execve(2) of the program.
//!
//! Between 2 and 3 intercepted calls fail, and the launcher makes none. Should it not come to 3, it ends, and the container with it:
//! a workload whose calls fail is not started. A daemon that dies meanwhile changes nothing: the keeper has the line's other end, and
//! gives up what the worker gave up.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::time::Duration;
use std::time::Instant;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;

use crate::kernel::Errno;
use crate::kernel::fd_passing;
use crate::kernel::fd_passing::PassingError;
use crate::kernel::inherited;
use crate::kernel::seccomp_notify;
use crate::oci::launcher_listener;
use crate::oci::listener_state;

/// Largest filter: BPF_MAXINSNS instructions (linux/bpf_common.h) of eight bytes.
const MAX_FILTER_BYTES: u64 = 4096 * 8;
/// How long after ENOSYS the kernel may take to forget the runtime's listener: it wakes the caller first.
const PATIENCE: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_micros(100);

/// With what the launcher makes a listener.
#[derive(Debug, Clone)]
pub struct Means {
    /// Descriptor of the connection to the daemon.
    pub line: RawFd,
    /// Descriptor of the filter's instructions.
    pub filter: RawFd,
    /// The container's id.
    pub container: String,
    /// Id of the recorded event of the exec session that this is.
    pub exec: Option<String>,
}

/// The runtime's listener was given up and the launcher's is not in its place: nothing may be started.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// It could not be made.
    #[error("cannot install a seccomp filter in place of the runtime's")]
    Install(#[source] Errno),
    /// Nobody took it.
    #[error("cannot hand the seccomp listener to acctguard-daemon; see whether it runs")]
    Send(#[source] PassingError),
}

/// Replaces the runtime's listener, or says on the line why that stays.
///
/// # Errors
/// [`ListenError`].
pub fn listen(means: &Means) -> Result<(), ListenError> {
    let (line, filter) = (inherited::by_number(means.line), inherited::by_number(means.filter));
    // a shim of another version hands over other things: the runtime's listener does
    let Some(line) = line else { return Ok(()) };
    match replace(&line, filter) {
        Ok(listener) => {
            let message = listener_state::of_launcher(&means.container, means.exec.as_deref());
            fd_passing::send(line.as_fd(), message.as_bytes(), &[listener.as_fd()]).map_err(ListenError::Send)
        }
        Err(Stays::Because(reason)) => {
            // a daemon that is gone has nothing to record
            let _ = fd_passing::send(line.as_fd(), listener_state::declined(&means.container, &reason).as_bytes(), &[]);
            Ok(())
        }
        Err(Stays::Gone(errno)) => Err(ListenError::Install(errno)),
    }
}

/// Why there is no listener of the launcher's.
enum Stays {
    /// The runtime's is there.
    Because(String),
    /// The runtime's is given up.
    Gone(Errno),
}

fn replace(line: &OwnedFd, filter: Option<OwnedFd>) -> Result<OwnedFd, Stays> {
    let because = |reason: String| Stays::Because(reason);
    let filter = filter.ok_or_else(|| because("the shim handed no filter to the launcher".to_owned()))?;
    let mut program = Vec::new();
    let read = File::from(filter).take(MAX_FILTER_BYTES).read_to_end(&mut program);
    read.map_err(|error| because(format!("the filter that the shim made cannot be read: {error}")))?;
    if has_hung_up(line) {
        return Err(because("the daemon closed the launcher's line".to_owned()));
    }
    match seccomp_notify::install(&seccomp_notify::ALLOW_ALL, launcher_listener::FLAGS) {
        Err(Errno::BUSY) => {}
        Err(errno) => return Err(because(format!("seccomp(2) lets the launcher install no filter: {errno}"))),
        // nobody has the runtime's any more
        Ok(unused) => {
            drop(unused);
            return seccomp_notify::install(&program, launcher_listener::FLAGS).map_err(Stays::Gone);
        }
    }
    match seccomp_notify::ask_for_listener() {
        Errno::NOSYS => {}
        errno => return Err(because(format!("the daemon does not give up the runtime's listener ({errno})"))),
    }
    let begun = Instant::now();
    loop {
        match seccomp_notify::install(&program, launcher_listener::FLAGS) {
            Err(Errno::BUSY) if begun.elapsed() < PATIENCE => std::thread::sleep(STEP),
            outcome => return outcome.map_err(Stays::Gone),
        }
    }
}

fn has_hung_up(line: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(line, PollFlags::IN)];
    let ended = PollFlags::HUP | PollFlags::ERR;
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut polled, Some(&now)).is_err()
        || polled.first().is_none_or(|polled| polled.revents().intersects(ended))
}

//! A listener of the launcher's own in place of the runtime's, whose calls wait killable (`acctguard::oci::launcher_listener`).
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

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::fd::AsFd;
use rustix::fd::BorrowedFd;
use rustix::fd::OwnedFd;
use rustix::fd::RawFd;
use rustix::io::Errno;
use rustix::io::IoSlice;
use rustix::net::SendAncillaryBuffer;
use rustix::net::SendAncillaryMessage;
use rustix::net::SendFlags;
use rustix::thread::ClockId;

use crate::calls::filter;
use crate::calls::process;
use crate::calls::process::Reason;
use crate::files;
use crate::launcher_words;

/// Largest filter: BPF_MAXINSNS instructions (linux/bpf_common.h) of eight bytes.
const MAX_FILTER_BYTES: usize = 4096 * 8;
/// How long after ENOSYS the kernel may take to forget the runtime's listener, for it wakes the caller first: so many times [`STEP`]. By
/// count: to read a clock takes the vDSO, which has to be found first.
const PATIENCE: u32 = 20_000;
/// A tenth of a millisecond.
const STEP: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000 };
/// The instructions of a filter that allows all: `BPF_RET | BPF_K` of `SECCOMP_RET_ALLOW` (linux/bpf_common.h, linux/seccomp.h).
const ALLOW_ALL: [u8; 8] = {
    let [a, b] = 0x06_u16.to_ne_bytes();
    let [c, d, e, f] = 0x7fff_0000_u32.to_ne_bytes();
    [a, b, 0, 0, c, d, e, f]
};

/// With what the launcher makes a listener.
#[derive(Debug, Clone)]
pub struct Means {
    /// Descriptor of the connection to the daemon.
    pub line: RawFd,
    /// Descriptor of the filter's instructions.
    pub filter: RawFd,
    /// Whether nothing may be started without it.
    pub must: bool,
    /// The container's id.
    pub container: String,
    /// Id of the recorded event of the exec session that this is.
    pub exec: Option<String>,
}

/// There is no listener, neither the runtime's nor the launcher's: nothing may be started.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// It could not be made.
    #[error("cannot install a seccomp filter in place of the runtime's: {}", Reason(*_0))]
    Install(Errno),
    /// Nobody took it.
    #[error("cannot hand the seccomp listener to acctguard-daemon; see whether it runs: {}", Reason(*_0))]
    Send(Errno),
    /// The runtime makes none.
    #[error("{0}, and no other listener is there; see whether acctguard-daemon runs")]
    Must(String),
}

/// Replaces the runtime's listener, or says on the line why that stays.
///
/// # Errors
/// [`ListenError`].
pub fn listen(means: &Means) -> Result<(), ListenError> {
    let (line, filter) = (process::take(means.line), process::take(means.filter));
    // a shim of another version hands over other things: the runtime's listener does
    let Some(line) = line else {
        return stays("the shim handed no line to the launcher".to_owned(), means.must);
    };
    match replace(&line, filter) {
        Ok(listener) => {
            let message = launcher_words::of_launcher(&means.container, means.exec.as_deref());
            send(&line, message.as_bytes(), &[listener.as_fd()]).map_err(ListenError::Send)
        }
        Err(Stays::Because(reason)) => {
            // a daemon that is gone has nothing to record
            let _ = send(&line, launcher_words::declined(&means.container, &reason).as_bytes(), &[]);
            stays(reason, means.must)
        }
        Err(Stays::Gone(errno)) => Err(ListenError::Install(errno)),
    }
}

/// What becomes of a launcher that makes no listener.
fn stays(reason: String, must: bool) -> Result<(), ListenError> {
    if must { Err(ListenError::Must(reason)) } else { Ok(()) }
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
    let program = files::read(&filter, MAX_FILTER_BYTES)
        .map_err(|errno| because(format!("the filter that the shim made cannot be read: {}", Reason(errno))))?;
    if has_hung_up(line) {
        return Err(because("the daemon closed the launcher's line".to_owned()));
    }
    match filter::install(&ALLOW_ALL, launcher_words::FLAGS) {
        Err(Errno::BUSY) => {}
        Err(errno) => {
            return Err(because(format!("seccomp(2) lets the launcher install no filter: {}", Reason(errno))));
        }
        // nobody has the runtime's any more
        Ok(unused) => {
            drop(unused);
            return filter::install(&program, launcher_words::FLAGS).map_err(Stays::Gone);
        }
    }
    match filter::ask(launcher_words::NEW_LISTENER) {
        Errno::NOSYS => {}
        errno => {
            return Err(because(format!("the daemon does not give up the runtime's listener ({})", Reason(errno))));
        }
    }
    let mut waited = 0;
    loop {
        match filter::install(&program, launcher_words::FLAGS) {
            Err(Errno::BUSY) if waited < PATIENCE => {
                waited += 1;
                let _ = rustix::thread::clock_nanosleep_relative(ClockId::Monotonic, &STEP);
            }
            outcome => return outcome.map_err(Stays::Gone),
        }
    }
}

/// Sends all of `bytes`, the descriptors with the first part of it. A closed peer is `EPIPE`, never a signal.
fn send(line: &OwnedFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [core::mem::MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::INVAL);
    }
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::net::sendmsg(line, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
            Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
        }
        control.clear();
    }
    Ok(())
}

fn has_hung_up(line: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(line, PollFlags::IN)];
    let ended = PollFlags::HUP | PollFlags::ERR;
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut polled, Some(&now)).is_err()
        || polled.first().is_none_or(|polled| polled.revents().intersects(ended))
}

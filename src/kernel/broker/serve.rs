//! The helper: enters the target's namespaces, then does what it is asked, one thing at a time, until its socket closes.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::signal::SigSet;
use nix::sys::signalfd::SfdFlags;
use nix::sys::signalfd::SignalFd;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::net::Shutdown;
use rustix::process::Signal;
use rustix::thread::CapabilitiesSecureBits;
use rustix::thread::CapabilitySet;
use rustix::thread::LinkNameSpaceType;

use crate::kernel::Errno;
use crate::kernel::broker::MAX_MESSAGE_BYTES;
use crate::kernel::broker::credentials::CHANGE_IDS;
use crate::kernel::broker::credentials::set_capabilities;
use crate::kernel::broker::last_deed::LastDeed;
use crate::kernel::broker::message::Done;
use crate::kernel::broker::message::Entrance;
use crate::kernel::broker::message::Reply;
use crate::kernel::broker::message::Request;
use crate::kernel::broker::perform::Hands;
use crate::kernel::fd_passing;
use crate::kernel::progress::Progress;
use crate::kernel::seccomp_notify::Listener;

const WATCH_STACK_BYTES: usize = 64 * 1024;
/// How long an operation may wait for somebody when nobody waits for it but its caller.
pub const LAST_DEED_LIMIT: Duration = Duration::from_secs(5);
/// How long it may take while it gets on ([`crate::kernel::progress`]): a call of a slow file system is waited for, as it would be
/// without us.
pub const WORK_LIMIT: Duration = Duration::from_secs(120);
/// How often it is looked whether it does.
const LOOK_STEP: Duration = Duration::from_millis(250);
/// How long a next supervisor may take to say that a file that was made is to be opened for the caller, who may have a descriptor of it
/// already. After that nobody is left who could know better. Longer than a few supervisors take of which each dies while it begins, on
/// a machine that is busy.
const SUPERVISOR_LIMIT: Duration = Duration::from_secs(15);
/// How long word of what a call returned is left for it.
const WORD_LIMIT: Duration = Duration::from_secs(3);
/// By which it says so.
pub const ANSWER_SIGNAL: Signal = Signal::TERM;

/// A step of the helper's own that failed.
type Refusal = (&'static str, Errno);

/// Serves the other end of `socket` until it closes. The process must have one thread. When the other end is gone, what is being done
/// is finished and answered; a call that gets nowhere for [`LAST_DEED_LIMIT`], or takes longer than [`WORK_LIMIT`], is not waited for.
pub fn serve(socket: BorrowedFd<'_>) {
    let mut buffer = vec![0_u8; MAX_MESSAGE_BYTES];
    let Some((entrance, mut namespaces)) = receive::<Entrance>(socket, &mut buffer) else { return };
    let listener = entrance.has_listener.then(|| namespaces.pop()).flatten().and_then(|fd| Listener::from_fd(fd).ok());
    let (hands, ceiling) = match enter(&entrance, namespaces) {
        Ok(entered) => entered,
        Err(refusal) => return answer(socket, &refused(refusal), None),
    };
    // before there is a second thread
    let told = signal_descriptor().ok();
    end_with(socket, told.as_ref(), &hands);
    answer(socket, &Reply::Done(0), None);
    let mut worn = None;
    let mut last = None;
    while let Some((request, descriptors)) = receive::<Request>(socket, &mut buffer) {
        last = None;
        if worn.as_ref() != Some(&request.credentials) {
            worn = None;
            if let Err(refusal) = request.credentials.wear(ceiling) {
                answer(socket, &refused(refusal), None);
                continue;
            }
            worn = Some(request.credentials);
        }
        let done = hands.perform(&request.operation, descriptors);
        last = LastDeed::of(request.call, &request.operation, &done, &hands);
        match done {
            Ok(Done::Value(value)) => answer(socket, &Reply::Done(value), None),
            Ok(Done::Descriptor(opened)) => {
                answer(socket, &Reply::Done(0), Some(&opened));
                drop(opened);
                // no copy is left here: a file open for writing somewhere cannot be executed (execve(2), ETXTBSY)
                answer(socket, &Reply::Done(0), None);
            }
            Ok(Done::Again) => answer(socket, &Reply::Again, None),
            Ok(Done::Failed(errno)) | Err(errno) => answer(socket, &Reply::Failed(errno.raw_os_error()), None),
        }
    }
    if let (Some(last), Some(listener)) = (last, listener) {
        if let Some(told) = told.filter(|_| last.may_be_placed()) {
            wait_until_told(&told, || last.is_waited_for(&listener));
        }
        if last.answer(&listener, &hands) {
            // whoever has taken the word ends this process
            std::thread::sleep(WORD_LIMIT);
        }
    }
}

/// Ends the process when the other end of `socket` is gone, or when it is `told` so: what is left of a supervisor that was killed may
/// keep its end (a thread that hangs in the kernel). Not before the namespaces are entered: a process with several threads cannot
/// change its user namespace (setns(2)).
fn end_with(socket: BorrowedFd<'_>, told: Option<&SignalFd>, hands: &Hands) {
    let (Ok(watched), Ok(own)) = (socket.try_clone_to_owned(), hands.own.try_clone()) else { return };
    let told = told.and_then(|told| told.as_fd().try_clone_to_owned().ok());
    let watch = move || {
        loop {
            let mut polled = vec![PollFd::new(&watched, PollFlags::empty())];
            polled.extend(told.iter().map(|told| PollFd::new(told, PollFlags::IN)));
            match rustix::event::poll(&mut polled, None) {
                Err(Errno::INTR) => {}
                _ => {
                    // nothing more comes; what is being done is finished
                    let _ = rustix::net::shutdown(&watched, Shutdown::Both);
                    // the other thread answers, and ends the process, before
                    wait_while_it_gets_on(&own);
                    std::process::exit(0);
                }
            }
        }
    };
    // without the thread a helper may outlive a supervisor that was killed, in a call that hangs
    let _ = std::thread::Builder::new().name("socket".to_owned()).stack_size(WATCH_STACK_BYTES).spawn(watch);
}

/// Until the first thread has got nowhere for [`LAST_DEED_LIMIT`], or for [`WORK_LIMIT`].
fn wait_while_it_gets_on(own: &OwnedFd) {
    let (mut progress, mut waited, mut idle) = (Progress::default(), Duration::ZERO, Duration::ZERO);
    while waited < WORK_LIMIT && idle < LAST_DEED_LIMIT {
        std::thread::sleep(LOOK_STEP);
        waited = waited.saturating_add(LOOK_STEP);
        idle = if progress.look_at_self(own.as_fd()) { Duration::ZERO } else { idle.saturating_add(LOOK_STEP) };
    }
}

/// Where [`ANSWER_SIGNAL`] arrives from now on.
fn signal_descriptor() -> nix::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(nix::sys::signal::Signal::SIGTERM);
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)
}

/// Not longer than somebody `waits` for the answer, nor than [`SUPERVISOR_LIMIT`]. In steps, so that it is seen to get on.
fn wait_until_told(told: &SignalFd, waits: impl Fn() -> bool) {
    let step = Timespec { tv_sec: 0, tv_nsec: LOOK_STEP.subsec_nanos().into() };
    let mut waited = Duration::ZERO;
    while waited < SUPERVISOR_LIMIT && waits() {
        match rustix::event::poll(&mut [PollFd::new(told, PollFlags::IN)], Some(&step)) {
            Ok(0) | Err(Errno::INTR) => waited = waited.saturating_add(LOOK_STEP),
            // whatever ends the wait, the caller gets its answer
            _ => return,
        }
    }
}

fn refused((step, errno): Refusal) -> Reply {
    Reply::Refused { step: step.to_owned(), errno: errno.raw_os_error() }
}

/// The next message; `None` ends the helper.
fn receive<T: serde::de::DeserializeOwned>(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Option<(T, Vec<OwnedFd>)> {
    let (length, descriptors) = fd_passing::receive(socket, buffer).ok()?;
    let message = serde_json::from_slice(buffer.get(..length)?).ok()?;
    Some((message, descriptors))
}

/// An answer that nobody takes any more ends the helper with its next message.
fn answer(socket: BorrowedFd<'_>, reply: &Reply, descriptor: Option<&OwnedFd>) {
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().map(AsFd::as_fd).collect();
    if let Ok(bytes) = serde_json::to_vec(reply) {
        let _ = fd_passing::send(socket, &bytes, &descriptors);
    }
}

/// The mount namespace first: we may enter it while we still have our own user namespace's capabilities (setns(2)).
fn enter(entrance: &Entrance, namespaces: Vec<OwnedFd>) -> Result<(Hands, CapabilitySet), Refusal> {
    let of = |step: &'static str| move |errno: Errno| (step, errno);
    let own = rustix::fs::open("/proc/self/fd", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(of("open /proc/self/fd"))?;
    let mut namespaces = namespaces.into_iter();
    let mount = namespaces.next().ok_or(("find the mount namespace that it was sent", Errno::BADF))?;
    rustix::thread::move_into_link_name_space(mount.as_fd(), Some(LinkNameSpaceType::Mount))
        .map_err(of("enter the mount namespace"))?;
    // from here on capabilities change only where it is said (capabilities(7), SECBIT_NO_SETUID_FIXUP)
    rustix::thread::set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)
        .map_err(of("keep its capabilities"))?;
    if let Some(ids) = &entrance.brings {
        ids.take_ids_on(false)?;
    }
    if entrance.has_user {
        let user = namespaces.next().ok_or(("find the user namespace that it was sent", Errno::BADF))?;
        rustix::thread::move_into_link_name_space(user.as_fd(), Some(LinkNameSpaceType::User))
            .map_err(of("enter the user namespace"))?;
    }
    rustix::process::fchdir(&own).map_err(of("change to /proc/self/fd"))?;
    // entering a user namespace sets them anew (user_namespaces(7), "Capabilities")
    rustix::thread::set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)
        .map_err(of("keep its capabilities"))?;
    rustix::thread::set_no_new_privs(true).map_err(of("renounce new privileges"))?;
    let held = rustix::thread::capabilities(None).map_err(of("ask for its capabilities"))?.permitted;
    let wanted = CapabilitySet::from_bits_retain(entrance.capabilities).union(CHANGE_IDS);
    let ceiling = wanted.intersection(held);
    set_capabilities(ceiling, ceiling).map_err(of("give capabilities up"))?;
    Ok((Hands { own }, ceiling))
}

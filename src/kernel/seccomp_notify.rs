//! A seccomp listener: wait, receive, check, answer (seccomp_unotify(2), Linux 5.0; CONTINUE 5.5).
//!
//! Invariants: a notification is received only after poll(2) said there is one (before Linux 6.11 a receive on a filter
//! without users would never return); the receive buffer is zeroed each time; an error goes to the kernel negative; a
//! CONTINUE needs a [`ContinueReason`], for it lets the kernel read the arguments again, which another thread may have changed:
//! it cannot refuse anything.

use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::time::Duration;
use std::time::Instant;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;

use crate::kernel::Errno;
use crate::kernel::raw::notify;
use crate::kernel::raw::slot_memory::RawNotification;
use crate::kernel::shared_area::Slot;

/// Text of the link in `/proc/self/fd` of every seccomp listener (kernel/seccomp.c, `anon_inode_getfile`).
const LISTENER_LINK: &[u8] = b"anon_inode:seccomp notify";

/// What went wrong with a listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// Something else was handed over.
    #[error("descriptor {fd} is {found:?}, not a seccomp listener; only the runtime's listener may be sent here")]
    NotAListener {
        /// Its number here.
        fd: i32,
        /// What `/proc/self/fd` says, bounded and escaped when printed.
        found: String,
    },
    /// `/proc/self/fd` did not tell what it is.
    #[error("cannot examine descriptor {fd}; /proc must be mounted")]
    Examine {
        /// Its number here.
        fd: i32,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// poll(2) failed.
    #[error("cannot wait for seccomp notifications")]
    Wait(#[source] Errno),
    /// `SECCOMP_IOCTL_NOTIF_RECV` failed for another reason than a caller that is gone.
    #[error("cannot receive a seccomp notification")]
    Receive(#[source] Errno),
    /// `SECCOMP_IOCTL_NOTIF_SEND` failed for another reason than a caller that is gone.
    #[error("cannot answer seccomp notification {id:#x}")]
    Answer {
        /// Its id.
        id: u64,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// `SECCOMP_IOCTL_NOTIF_SET_FLAGS` failed for another reason than a kernel that lacks it.
    #[error("cannot set the listener's wake-up policy")]
    SetFlags(#[source] Errno),
}

/// What waiting ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// A notification can be received.
    Ready,
    /// No process has the filter any more: close the listener.
    HungUp,
    /// The time was over.
    TimedOut,
    /// Another descriptor than the listener's became readable.
    Woken,
}

/// One intercepted call, as the kernel tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification {
    /// Cookie by which it is answered.
    pub id: u64,
    /// Thread that made the call, in our pid namespace; 0 when it is not visible there.
    pub tid: u32,
    /// `AUDIT_ARCH_` value: which table `nr` belongs to.
    pub arch: u32,
    /// System call number.
    pub nr: i32,
    /// The six arguments, all 64 bits as they were in the registers. Upper halves of int arguments are the caller's to choose.
    pub args: [u64; 6],
}

impl Notification {
    /// Takes over what the kernel wrote.
    pub(in crate::kernel) fn from_raw(raw: &RawNotification) -> Self {
        Self { id: raw.id, tid: raw.pid, arch: raw.arch, nr: raw.nr, args: raw.args }
    }

    /// What the kernel would write.
    pub(in crate::kernel) fn to_raw(self) -> RawNotification {
        let Self { id, tid, arch, nr, args } = self;
        RawNotification { id, pid: tid, arch, nr, args, ..RawNotification::default() }
    }
}

/// Why the kernel may carry out a call as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContinueReason {
    /// The runtime's own init, before the workload's first execve.
    RuntimeInit,
    /// The call concerns no account database, or could not change one.
    NotAnAccountDatabase,
    /// The policy allows it by an exception.
    AllowedByPolicy,
    /// The workload is audited, not enforced: behaviour never changes.
    AuditOnly,
    /// Landlock refuses in the kernel whatever a race could slip through.
    Sealed,
    /// It starts a program; that is evidence and never refused by itself.
    StartsProgram,
    /// The kernel itself refuses it, on nothing that could be exchanged meanwhile.
    RefusedByKernel,
    /// A call or architecture that this version does not decode.
    NotDecoded,
    /// Something of ours failed, and the policy fails open there.
    OwnFailure,
}

/// What the kernel is to do with the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Carry it out. Never a decision: see the module's head.
    Continue(ContinueReason),
    /// Fail with this error.
    Errno(Errno),
    /// Return this value.
    Value(i64),
    /// Be interrupted: the kernel restarts it after the signal or the freezer that its caller has to attend to, or gives it
    /// EINTR where the handler was set without `SA_RESTART` (signal(7)). Only when that is certain to wait for the caller: the
    /// kernel acts upon it on the way to user space and nowhere else.
    Interrupted,
}

/// `ERESTARTSYS` (include/linux/errno.h), which never reaches user space while a signal waits.
const RESTART: i32 = -512;

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The caller has it.
    Delivered,
    /// Nobody waits for it any more: the caller is gone, a signal cancelled its call, or it was answered before.
    TargetGone,
}

/// What became of a descriptor for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It has this number there.
    Number(i32),
    /// There is no room for it in the caller's table (`EMFILE`): what the call is to fail with.
    Refused(Errno),
    /// Nobody waits for it any more.
    TargetGone,
}

/// A seccomp listener descriptor.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
}

impl Listener {
    /// Takes `fd` after making sure that it is a seccomp listener.
    ///
    /// # Errors
    /// [`ListenerError::NotAListener`] for any other descriptor, which is closed then.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, ListenerError> {
        let number = fd.as_raw_fd();
        let link = rustix::fs::readlink(format!("/proc/self/fd/{number}"), Vec::new())
            .map_err(|source| ListenerError::Examine { fd: number, source })?;
        if link.as_bytes() != LISTENER_LINK {
            let found = String::from_utf8_lossy(link.as_bytes()).chars().take(80).collect();
            return Err(ListenerError::NotAListener { fd: number, found });
        }
        Ok(Self { fd })
    }

    /// Asks the kernel to wake caller and listener on the same processor (`SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`, Linux 6.6).
    /// False when the kernel lacks it.
    ///
    /// # Errors
    /// [`ListenerError::SetFlags`].
    pub fn set_sync_wake_up(&self) -> Result<bool, ListenerError> {
        match notify::set_flags(self.fd.as_fd(), notify::FD_SYNC_WAKE_UP) {
            Ok(()) => Ok(true),
            Err(Errno::INVAL | Errno::NOTTY) => Ok(false),
            Err(errno) => Err(ListenerError::SetFlags(errno)),
        }
    }

    /// Waits until a notification is there, nobody has the filter any more, or `timeout` is over (`None`: for ever).
    ///
    /// # Errors
    /// [`ListenerError::Wait`].
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Readiness, ListenerError> {
        self.wait_unless(None, timeout)
    }

    /// As [`Listener::wait`], but no longer than until `wake` can be read: that comes first.
    ///
    /// # Errors
    /// [`ListenerError::Wait`].
    pub fn wait_unless(
        &self,
        wake: Option<BorrowedFd<'_>>,
        timeout: Option<Duration>,
    ) -> Result<Readiness, ListenerError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let is_woken_by_another = wake.is_some();
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let left = left.map(|left| Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            });
            let wake = wake.as_ref().map_or_else(|| self.fd.as_fd(), AsFd::as_fd);
            let mut polled = [PollFd::new(&self.fd, PollFlags::IN), PollFd::new(&wake, PollFlags::IN)];
            let count = if is_woken_by_another { 2 } else { 1 };
            match rustix::event::poll(polled.get_mut(..count).unwrap_or_default(), left.as_ref()) {
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(ListenerError::Wait(errno)),
                Ok(0) => return Ok(Readiness::TimedOut),
                Ok(_) => {}
            }
            if is_woken_by_another && polled.get(1).is_some_and(|wake| !wake.revents().is_empty()) {
                return Ok(Readiness::Woken);
            }
            let seen = polled.first().map_or(PollFlags::empty(), PollFd::revents);
            if seen.contains(PollFlags::IN) {
                return Ok(Readiness::Ready);
            }
            if seen.intersects(PollFlags::HUP | PollFlags::ERR) {
                return Ok(Readiness::HungUp);
            }
            if seen.contains(PollFlags::NVAL) {
                return Err(ListenerError::Wait(Errno::BADF));
            }
        }
    }

    /// Receives one notification straight into `slot`. Call it only after [`Readiness::Ready`]. `None` when the caller
    /// went away meanwhile: wait again.
    ///
    /// # Errors
    /// [`ListenerError::Receive`].
    pub fn receive(&self, slot: &mut Slot) -> Result<Option<Notification>, ListenerError> {
        match slot.receive(self.fd.as_fd()) {
            Ok(notification) => Ok(Some(notification)),
            Err(Errno::NOENT | Errno::INTR) => Ok(None),
            Err(errno) => Err(ListenerError::Receive(errno)),
        }
    }

    /// Whether notification `id` still waits for an answer, so that its thread id still means the same thread.
    #[must_use]
    pub fn is_valid(&self, id: u64) -> bool {
        notify::id_valid(self.fd.as_fd(), id).is_ok()
    }

    /// Answers notification `id`. Works from any process that has the listener.
    ///
    /// # Errors
    /// [`ListenerError::Answer`].
    pub fn answer(&self, id: u64, answer: Answer) -> Result<Delivery, ListenerError> {
        let (value, error, flags) = match answer {
            Answer::Continue(_) => (0, 0, notify::FLAG_CONTINUE),
            Answer::Errno(errno) => (0, errno.raw_os_error().saturating_abs().saturating_neg(), 0),
            Answer::Value(value) => (value, 0, 0),
            Answer::Interrupted => (0, RESTART, 0),
        };
        loop {
            match notify::send(self.fd.as_fd(), id, value, error, flags) {
                Ok(()) => return Ok(Delivery::Delivered),
                // EINPROGRESS: answered already, the caller has not run since
                Err(Errno::NOENT | Errno::INPROGRESS) => return Ok(Delivery::TargetGone),
                Err(Errno::INTR) => {}
                Err(source) => return Err(ListenerError::Answer { id, source }),
            }
        }
    }

    /// Puts a copy of `file` into the table of the caller of notification `id`, who still waits for an answer: the number there is
    /// to be it. In two steps, not one (`SECCOMP_ADDFD_FLAG_SEND`, Linux 5.14), so that `file` can be closed between them.
    ///
    /// # Errors
    /// [`ListenerError::Answer`].
    pub fn add_descriptor(&self, id: u64, file: &OwnedFd, close_on_exec: bool) -> Result<Added, ListenerError> {
        const O_CLOEXEC: u32 = 0o2_000_000;
        let flags = if close_on_exec { O_CLOEXEC } else { 0 };
        loop {
            match notify::add_fd(self.fd.as_fd(), id, file.as_fd(), 0, flags) {
                Ok(number) => return Ok(Added::Number(number)),
                Err(Errno::NOENT | Errno::INPROGRESS) => return Ok(Added::TargetGone),
                Err(Errno::INTR) => {}
                Err(errno @ (Errno::MFILE | Errno::NFILE)) => return Ok(Added::Refused(errno)),
                Err(source) => return Err(ListenerError::Answer { id, source }),
            }
        }
    }

    /// Gives the descriptor away (to a keeper).
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A listener of a process that calls nothing.
#[cfg(test)]
pub fn listener_for_test() -> OwnedFd {
    crate::kernel::raw::child::notified_for_test(0, || 0).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::raw::child::TestChild;
    use crate::kernel::raw::child::notified_for_test;
    use crate::kernel::remote_memory;
    use crate::kernel::shared_area::SharedArea;

    const PATH: &str = "/no-such-folder/acctguard";
    const SOON: Option<Duration> = Some(Duration::from_secs(5));

    /// A child that calls mkdirat(2) `calls` times and exits with the last errno, 0 for success.
    fn start(calls: u32) -> (TestChild, Listener) {
        let (child, listener) = notified_for_test(0, move || {
            let mut last = 0;
            for _ in 0..calls {
                let made = rustix::fs::mkdirat(rustix::fs::CWD, PATH, rustix::fs::Mode::RWXU);
                last = made.map_or_else(Errno::raw_os_error, |()| 0);
            }
            last
        });
        (child, Listener::from_fd(listener).expect("listener"))
    }

    fn next(listener: &Listener, slot: &mut Slot) -> Notification {
        assert_eq!(listener.wait(SOON).expect("wait"), Readiness::Ready);
        listener.receive(slot).expect("receive").expect("notification")
    }

    #[test]
    fn each_answer_is_what_the_caller_sees() {
        let reason = ContinueReason::NotAnAccountDatabase;
        let cases = [
            (Answer::Errno(Errno::PERM), Errno::PERM.raw_os_error()),
            (Answer::Value(0), 0),
            (Answer::Continue(reason), Errno::NOENT.raw_os_error()),
        ];
        let area = SharedArea::create(1).expect("area");
        for (answer, exit) in cases {
            let (child, listener) = start(1);
            let mut slot = area.free_slot().expect("slot");
            assert!(listener.set_sync_wake_up().expect("flags"));
            let call = next(&listener, &mut slot);
            assert_eq!(call.tid, child.pid());
            assert_eq!(i64::from(call.nr), nix::libc::SYS_mkdirat);
            assert_eq!(call.args[0] as u32 as i32, nix::libc::AT_FDCWD);
            let path = remote_memory::read_path(call.tid, call.args[1]).expect("path");
            assert_eq!(path.verify(&listener, call.id).as_deref(), Some(PATH.as_bytes()));
            assert_eq!(listener.answer(call.id, answer).expect("answer"), Delivery::Delivered);
            slot.clear();
            assert!(!listener.is_valid(call.id));
            assert_eq!(listener.answer(call.id, answer).expect("answer"), Delivery::TargetGone);
            assert_eq!(child.wait(), exit, "{answer:?}");
            assert_eq!(listener.wait(SOON).expect("wait"), Readiness::HungUp);
        }
    }

    #[test]
    fn a_caller_that_dies_invalidates_what_was_read() {
        let (child, listener) = start(1);
        let area = SharedArea::create(1).expect("area");
        let mut slot = area.slot(0).expect("slot");
        let call = next(&listener, &mut slot);
        let path = remote_memory::read_path(call.tid, call.args[1]).expect("path");
        child.kill();
        assert!(path.verify(&listener, call.id).is_none());
        assert_eq!(listener.answer(call.id, Answer::Value(0)).expect("answer"), Delivery::TargetGone);
        assert_eq!(listener.wait(SOON).expect("wait"), Readiness::HungUp);
        // pitfall 1: a receive on a filter without users says ENOENT at once on this kernel
        assert_eq!(listener.receive(&mut slot).expect("receive"), None);
        assert_eq!(slot.in_flight(), None);
    }

    #[test]
    fn nothing_to_receive_times_out() {
        let (child, listener) = notified_for_test(0, || {
            std::thread::sleep(Duration::from_secs(60));
            0
        });
        let listener = Listener::from_fd(listener).expect("listener");
        assert_eq!(listener.wait(Some(Duration::from_millis(20))).expect("wait"), Readiness::TimedOut);
        assert_eq!(listener.wait(Some(Duration::ZERO)).expect("wait"), Readiness::TimedOut);
        child.kill();
    }

    #[test]
    fn a_later_worker_finds_and_answers_what_is_in_flight() {
        let (child, listener) = start(2);
        let area = SharedArea::create(4).expect("area");
        let keeper = area.as_fd().try_clone_to_owned().expect("dup");
        let kept_listener = listener.as_fd().try_clone_to_owned().expect("dup");
        let mut slot = area.slot(2).expect("slot");
        let call = next(&listener, &mut slot);
        slot.ledger().begin(77, false, 1);
        drop((slot, area, listener));

        let listener = Listener::from_fd(kept_listener).expect("listener");
        let area = SharedArea::from_fd(keeper).expect("adopt");
        let in_flight: Vec<_> = (0..area.slot_count())
            .filter_map(|index| area.slot(index))
            .filter_map(|slot| slot.in_flight().map(|call| (slot.ledger().entry().helper, call)))
            .collect();
        assert_eq!(in_flight, [(77, call)]);
        let mut slot = area.slot(2).expect("slot");
        assert_eq!(listener.answer(call.id, Answer::Errno(Errno::IO)).expect("answer"), Delivery::Delivered);
        // a slot that was not cleared is received into all the same: the buffer is zeroed each time
        let second = next(&listener, &mut slot);
        assert_ne!(second.id, call.id);
        assert_eq!(slot.in_flight(), Some(second));
        listener.answer(second.id, Answer::Errno(Errno::ACCESS)).expect("answer");
        slot.clear();
        assert_eq!(slot.in_flight(), None);
        assert_eq!(child.wait(), Errno::ACCESS.raw_os_error());
    }

    #[test]
    fn only_a_listener_is_taken_for_one() {
        let folder = tempfile::tempdir().expect("folder");
        let disguised = folder.path().join("anon_inode:seccomp notify");
        std::fs::write(&disguised, b"").expect("write");
        let others: [OwnedFd; 3] = [
            std::fs::File::open("/dev/null").expect("open").into(),
            std::fs::File::open(disguised).expect("open").into(),
            rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("eventfd"),
        ];
        for other in others {
            assert!(matches!(Listener::from_fd(other), Err(ListenerError::NotAListener { .. })));
        }
    }
}

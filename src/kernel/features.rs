//! Which kernel features are really there, found by trying them: a feature bit is no proof (agents met kernels that accept a flag
//! and misbehave, and security modules that refuse at use).
//!
//! | feature | minimum Linux | use | without it |
//! | --- | --- | --- | --- |
//! | seccomp user notification | 5.0, CONTINUE 5.5 | every interception | nothing works |
//! | `SYNC_WAKE_UP` | 6.6 | caller and listener on one processor | intercepted calls cost 25 µs and more instead of 13 |
//! | `WAIT_KILLABLE_RECV` | 5.19 | signals do not restart a call that is being answered | calls may be seen twice; doubles are folded |
//! | `ADDFD` | 5.9, with SEND 5.14 | the broker hands over what it opened | no broker |
//! | process_vm_readv(2) | 3.2 | paths of intercepted calls | attempts stay unresolved |
//! | pidfd_open(2) | 5.3 | a process that cannot be taken for another | start times only |
//! | pidfd_getfd(2) | 5.6 | descriptors of other processes | `/proc/PID/fd` |
//! | openat2(2) | 5.6 | reading below a container's root | databases cannot be read |
//! | statx(2) mount id | 5.8 | `..` stops at a container's root | paths cannot be resolved |
//! | Landlock | 6.2 (ABI 3) | the seal of enforce | enforce rests on the broker |
//! | Landlock refusals in the audit log | 6.15 | the witness of what the seal refused | the seal refuses, untold |
//! | audit log multicast | 3.16 | reading that log beside an audit daemon | the seal refuses, untold |
//! | fanotify `REPORT_DFID_NAME` | 5.9; overlayfs 6.6 | the witness of what really changed | content comparison only |
//! | io_uring | 5.1 | informational: opens files past seccomp | nothing to watch |
//!
//! What could disturb this process is done in a throw-away child ([`crate::kernel::raw::child`]); the rest are questions that change nothing.

use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;
use rustix::fs::StatxFlags;

use crate::kernel::Errno;
use crate::kernel::audit_netlink::AuditLog;
use crate::kernel::fanotify::Watcher;
use crate::kernel::pidfd;
use crate::kernel::raw::child;
use crate::kernel::raw::child::NotifiedChild;
use crate::kernel::raw::notify;
use crate::kernel::raw::questions;
use crate::kernel::seccomp_notify::Answer;
use crate::kernel::seccomp_notify::Delivery;
use crate::kernel::seccomp_notify::Listener;
use crate::kernel::seccomp_notify::Readiness;
use crate::kernel::shared_area::SharedArea;

/// How long the child may take for one call.
const PATIENCE: Duration = Duration::from_secs(5);
/// The first Landlock ABI with all rights to change files: ABI 3 brought truncation (landlock(7)).
pub const LEAST_LANDLOCK_ABI: u32 = 3;
/// `SECCOMP_ADDFD_FLAG_SEND`, Linux 5.14.
const ADDFD_SEND: u32 = 2;

/// One feature, tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// What acctguard uses it for.
    pub needed_for: &'static str,
    /// First Linux that has it.
    pub minimum_linux: &'static str,
    /// Whether it works here.
    pub present: bool,
    /// What was seen: a version, or the kernel's answer.
    pub detail: String,
    /// What to do when it is not there.
    pub remedy: &'static str,
}

/// Tries every feature. Takes some milliseconds; leaves nothing behind.
#[must_use]
pub fn probe_all() -> Vec<Feature> {
    let round_trip = RoundTrip::try_on_child();
    let mut features = round_trip.features();
    features.extend([
        feature(
            "pidfd_open",
            "telling a process from a later one with its number",
            "5.3",
            pidfd::open(std::process::id()).map(|_| String::new()).map_err(|error| described(&error)),
            "use Linux 5.3 or later",
        ),
        feature(
            "openat2",
            "reading account databases below a container's root",
            "5.6",
            try_openat2().map(|()| String::new()).map_err(|errno| errno.to_string()),
            "use Linux 5.6 or later; a seccomp profile around acctguard itself must allow openat2",
        ),
        feature("statx mount id", "stopping at a container's root", "5.8", try_mount_id(), "use Linux 5.8 or later"),
        landlock(),
        landlock_log(),
        feature(
            "audit log",
            "seeing what the seal refused",
            "3.16",
            AuditLog::join().map(|_| String::new()).map_err(|error| described(&error)),
            "run as root with CAP_AUDIT_READ in the host's own pid and network namespaces; the seal refuses without it too",
        ),
        feature(
            "fanotify directory events",
            "seeing what really changed, whoever did it",
            "5.9, on overlayfs 6.6",
            try_fanotify(),
            "run as root with CAP_SYS_ADMIN on Linux 5.9 or later with CONFIG_FANOTIFY",
        ),
        io_uring(),
    ]);
    features
}

fn feature(
    name: &'static str,
    needed_for: &'static str,
    minimum_linux: &'static str,
    outcome: Result<String, String>,
    remedy: &'static str,
) -> Feature {
    let present = outcome.is_ok();
    let detail = match outcome {
        Ok(detail) if detail.is_empty() => "works".to_owned(),
        Ok(detail) | Err(detail) => detail,
    };
    Feature { name, needed_for, minimum_linux, present, detail, remedy }
}

/// An error and its causes in one line.
fn described(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// What a full round trip with a throw-away child showed.
struct RoundTrip {
    notification: Result<String, String>,
    sync_wake_up: Result<String, String>,
    wait_killable: Result<String, String>,
    add_fd: Result<String, String>,
    read_memory: Result<String, String>,
    copy_descriptor: Result<String, String>,
}

impl RoundTrip {
    fn try_on_child() -> Self {
        let (child, wait_killable) = match NotifiedChild::spawn(notify::FILTER_WAIT_KILLABLE_RECV) {
            Ok(child) => (Ok(child), Ok(String::new())),
            Err(errno) => (NotifiedChild::spawn(0), Err(errno.to_string())),
        };
        let mut trip = Self {
            notification: Err("no notification arrived".to_owned()),
            sync_wake_up: Err("not tried".to_owned()),
            wait_killable,
            add_fd: Err("not tried".to_owned()),
            read_memory: Err("not tried".to_owned()),
            copy_descriptor: Err("not tried".to_owned()),
        };
        match child {
            Ok(child) => trip.notification = trip.serve(child),
            Err(errno) => trip.notification = Err(errno.to_string()),
        }
        trip
    }

    /// Answers both calls of `child` and checks what it saw.
    fn serve(&mut self, child: NotifiedChild) -> Result<String, String> {
        let listener = child.listener.try_clone().map_err(|error| error.to_string())?;
        let listener = Listener::from_fd(listener).map_err(|error| described(&error))?;
        self.sync_wake_up = match listener.set_sync_wake_up() {
            Ok(true) => Ok(String::new()),
            Ok(false) => Err("the kernel lacks it".to_owned()),
            Err(error) => Err(described(&error)),
        };
        let area = SharedArea::create(1).map_err(|error| described(&error))?;
        let mut slot = area.free_slot().ok_or("no slot")?;
        let mut receive = || -> Result<u64, String> {
            if listener.wait(Some(PATIENCE)).map_err(|error| described(&error))? != Readiness::Ready {
                return Err("no notification arrived".to_owned());
            }
            let received = listener.receive(&mut slot).map_err(|error| described(&error))?;
            received.map(|notification| notification.id).ok_or("the caller went away".to_owned())
        };
        let first = receive()?;
        self.read_memory = match child.read_pattern() {
            Ok(bytes) if bytes == NotifiedChild::pattern() => Ok(String::new()),
            Ok(_) => Err("it read something else than is there".to_owned()),
            Err(errno) => Err(errno.to_string()),
        };
        self.copy_descriptor = try_copy_descriptor(child.pid());
        let delivery =
            listener.answer(first, Answer::Value(child::EXPECTED_VALUE)).map_err(|error| described(&error))?;
        if delivery != Delivery::Delivered {
            return Err("the answer was not delivered".to_owned());
        }
        let second = receive()?;
        let source = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let added = source.and_then(|source: OwnedFd| {
            notify::add_fd(listener.as_fd(), second, source.as_fd(), ADDFD_SEND, OFlags::CLOEXEC.bits())
        });
        if added.is_err() {
            let _ = listener.answer(second, Answer::Errno(Errno::NOSYS));
        }
        let status = child.wait().map_err(|errno| errno.to_string())?;
        self.add_fd = match (added, status) {
            (Ok(_), Some(child::EXIT_AS_EXPECTED)) => Ok(String::new()),
            (Ok(_), _) => Err("the descriptor did not arrive".to_owned()),
            (Err(errno), _) => Err(errno.to_string()),
        };
        match status {
            Some(child::EXIT_AS_EXPECTED | child::EXIT_NO_DESCRIPTOR) => Ok("full round trip".to_owned()),
            _ => Err("the caller did not get the answer".to_owned()),
        }
    }

    fn features(self) -> Vec<Feature> {
        vec![
            feature(
                "seccomp user notification",
                "every interception",
                "5.5",
                self.notification,
                "use Linux 5.5 or later with CONFIG_SECCOMP_FILTER; run as root outside any seccomp profile",
            ),
            feature(
                "seccomp synchronous wake-up",
                "cheap interception: caller and supervisor on one processor",
                "6.6",
                self.sync_wake_up,
                "optional: use Linux 6.6 or later to halve the cost of intercepted calls",
            ),
            feature(
                "seccomp killable wait",
                "enforce: signals do not restart a call that is being answered",
                "5.19",
                self.wait_killable,
                "use Linux 5.19 or later for enforce; audit works without",
            ),
            feature(
                "seccomp descriptor injection",
                "the broker: handing over what it opened",
                "5.14",
                self.add_fd,
                "use Linux 5.14 or later for enforce by broker; audit works without",
            ),
            feature(
                "process_vm_readv",
                "reading the paths of intercepted calls",
                "3.2",
                self.read_memory,
                "run as root with CAP_SYS_PTRACE; CONFIG_CROSS_MEMORY_ATTACH must be on",
            ),
            feature(
                "pidfd_getfd",
                "copying descriptors of other processes",
                "5.6",
                self.copy_descriptor,
                "use Linux 5.6 or later and run as root with CAP_SYS_PTRACE",
            ),
        ]
    }
}

fn try_copy_descriptor(pid: u32) -> Result<String, String> {
    let process = pidfd::open(pid).map_err(|error| described(&error))?;
    // the child inherited at least the descriptors 0 to 2 that Rust's runtime sees to
    process.copy_descriptor(0).map(|_| String::new()).map_err(|error| described(&error))
}

fn try_openat2() -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let limits = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(CWD, c".", flags, Mode::empty(), limits).map(drop)
}

fn try_mount_id() -> Result<String, String> {
    let status =
        rustix::fs::statx(CWD, c"/", AtFlags::empty(), StatxFlags::MNT_ID).map_err(|errno| errno.to_string())?;
    if status.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Err("the kernel does not tell it".to_owned());
    }
    Ok(String::new())
}

/// Landlock ABI of the running kernel, or the kernel's answer in words.
///
/// # Errors
/// There is none: `ENOSYS` when it is not built in, `EOPNOTSUPP` when it is off at boot (landlock_create_ruleset(2)).
pub fn landlock_abi() -> Result<u32, String> {
    questions::abi_version().map_err(|errno| errno.to_string())
}

/// Whether calls that are being answered can wait killable (`SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`): a question that costs one call;
/// [`probe_all`] tries it.
#[must_use]
pub fn can_wait_killable() -> bool {
    questions::knows_filter_flags(notify::FILTER_NEW_LISTENER | notify::FILTER_WAIT_KILLABLE_RECV)
}

fn landlock() -> Feature {
    feature(
        "Landlock",
        "the seal of enforce",
        "6.2",
        landlock_abi().and_then(|version| {
            let told = format!("ABI {version}");
            if version < LEAST_LANDLOCK_ABI { Err(format!("{told}, which cannot tell truncation")) } else { Ok(told) }
        }),
        "boot with lsm= that names landlock on Linux 6.2 or later; without, enforce rests on the broker alone",
    )
}

/// The first ABI whose domains can have refusals logged (landlock(7), `LANDLOCK_RESTRICT_SELF_LOG_NEW_EXEC_ON`).
const LOGGING_ABI: u32 = 7;

fn landlock_log() -> Feature {
    let outcome = match questions::abi_version() {
        Ok(version) if version >= LOGGING_ABI => Ok(format!("ABI {version}")),
        Ok(version) => Err(format!("ABI {version} refuses without telling")),
        Err(errno) => Err(errno.to_string()),
    };
    feature(
        "Landlock refusals in the audit log",
        "seeing what the seal refused, raced attempts too",
        "6.15",
        outcome,
        "use Linux 6.15 or later; on older kernels the seal refuses all the same",
    )
}

/// Marks the system's folder for temporary files and removes the mark again.
fn try_fanotify() -> Result<String, String> {
    let watcher = Watcher::new().map_err(|error| described(&error))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open("/tmp", flags, Mode::empty()).map_err(|errno| errno.to_string())?;
    watcher.watch_directory(folder.as_fd()).map_err(|error| described(&error))?;
    watcher.unwatch(folder.as_fd()).map_err(|error| described(&error))?;
    Ok(String::new())
}

/// Informational: `present` says that processes can use io_uring, unless their seccomp profile forbids it.
fn io_uring() -> Feature {
    let outcome = match questions::io_uring_answer() {
        Errno::FAULT | Errno::INVAL => Ok("available to processes; opens files past seccomp".to_owned()),
        errno => Err(errno.to_string()),
    };
    feature(
        "io_uring",
        "nothing: informational, calls made through it are not intercepted",
        "5.1",
        outcome,
        "nothing to do: without io_uring there is one way less past the interception",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_that_is_not_there_is_told_with_its_remedy() {
        let child = child::fork_for_test(|| {
            let Ok(_listener) = child::forget_openat2_for_test() else { return 90 };
            let features = probe_all();
            let Some(openat2) = features.iter().find(|feature| feature.name == "openat2") else { return 91 };
            // a process that already has a listener cannot give a child another one: EBUSY is told, not hidden
            let Some(notification) = features.first() else { return 92 };
            let told = !openat2.present && openat2.detail.contains("not implemented") && !notification.present;
            i32::from(!told)
        });
        assert_eq!(child.wait(), 0);
    }

    #[test]
    fn every_feature_of_this_machine_works_and_none_is_named_twice() {
        let features = probe_all();
        assert!(can_wait_killable() && !questions::knows_filter_flags(1 << 31));
        let missing: Vec<_> =
            features.iter().filter(|feature| !feature.present && feature.name != "io_uring").collect();
        assert!(missing.is_empty(), "missing kernel features: {missing:#?}");
        let mut names: Vec<_> = features.iter().map(|feature| feature.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), features.len());
        assert!(features.iter().all(|feature| !feature.remedy.is_empty() && !feature.detail.is_empty()));
    }
}

//! What is known of one thread for acting in its place: its credentials and its terminal.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::AtFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;

use crate::kernel::Errno;
use crate::kernel::process::MAX_STATUS_BYTES;
use crate::kernel::process::ProcessError;
use crate::kernel::process::field;
use crate::kernel::process::numbers;
use crate::kernel::process::open_process;
use crate::kernel::process::read_file;
use crate::kernel::raw::questions;

/// `KCMP_VM`, `KCMP_FILES` and `KCMP_FS` (linux/kcmp.h).
const SHARED_BY_THREADS: [i32; 3] = [1, 2, 3];

/// What file operations of a thread are checked against, credentials(7). Ids as our user namespace numbers them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadCredentials {
    /// Effective uid.
    pub effective_uid: u32,
    /// Effective gid.
    pub effective_gid: u32,
    /// File system uid.
    pub fs_uid: u32,
    /// File system gid.
    pub fs_gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Effective capabilities, one bit each.
    pub effective_capabilities: u64,
    /// Bounding set.
    pub bounding_capabilities: u64,
    /// File mode creation mask.
    pub umask: u32,
}

/// How long thread `tid` has run on a processor: the first field of `/proc/TID/schedstat` (sched-stats.rst), nanoseconds. `None` where
/// the kernel keeps no account of it.
#[must_use]
pub fn time_run(tid: u32) -> Option<Duration> {
    let text = read_file(&open_process(tid).ok()?, tid, "schedstat", MAX_STATUS_BYTES).ok()?;
    std::str::from_utf8(&text).ok()?.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

/// `/proc/TID/status` of a thread, kept open. It is of that one thread, whoever has the number later (fs/proc/base.c,
/// `proc_single_show`: ESRCH), and tells anew each time it is read.
#[derive(Debug)]
pub struct StatusFile {
    tid: u32,
    file: OwnedFd,
}

impl StatusFile {
    /// Opens that of thread `tid`.
    ///
    /// # Errors
    /// [`ProcessError`].
    pub fn open(tid: u32) -> Result<Self, ProcessError> {
        let folder = open_process(tid)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = rustix::fs::openat(folder, "status", flags, Mode::empty()).map_err(|source| refused(tid, source))?;
        Ok(Self { tid, file })
    }

    /// Whose it is.
    #[must_use]
    pub fn tid(&self) -> u32 {
        self.tid
    }

    /// The thread's credentials now (proc_pid_status(5)).
    ///
    /// # Errors
    /// [`ProcessError`]; [`ProcessError::Gone`] once the thread has ended.
    pub fn credentials(&self) -> Result<ThreadCredentials, ProcessError> {
        let mut text = [0_u8; MAX_STATUS_BYTES];
        // one read gives all of it: the kernel writes it to memory first (seq_read)
        let length = loop {
            match rustix::io::pread(&self.file, text.as_mut_slice(), 0) {
                Ok(length) => break length,
                Err(Errno::INTR) => {}
                Err(source) => return Err(refused(self.tid, source)),
            }
        };
        let credentials = parse_credentials(text.get(..length).unwrap_or_default());
        credentials.ok_or(ProcessError::Format { pid: self.tid, file: "status" })
    }
}

fn refused(tid: u32, source: Errno) -> ProcessError {
    match source {
        Errno::SRCH => ProcessError::Gone(tid),
        _ => ProcessError::Read { pid: tid, file: "status", source },
    }
}

fn parse_credentials(text: &[u8]) -> Option<ThreadCredentials> {
    let ids = |name: &[u8]| match numbers(field(text, name)?, 10)?.as_slice() {
        [_, effective, _, of_files] => Some((*effective, *of_files)),
        _ => None,
    };
    let set = |name: &[u8]| u64::from_str_radix(std::str::from_utf8(field(text, name)?).ok()?.trim(), 16).ok();
    let ((effective_uid, fs_uid), (effective_gid, fs_gid)) = (ids(b"Uid:")?, ids(b"Gid:")?);
    Some(ThreadCredentials {
        effective_uid,
        effective_gid,
        fs_uid,
        fs_gid,
        groups: numbers(field(text, b"Groups:")?, 10)?,
        effective_capabilities: set(b"CapEff:")?,
        bounding_capabilities: set(b"CapBnd:")?,
        umask: numbers(field(text, b"Umask:")?, 8)?.first().copied()?,
    })
}

/// Whether a file operation means and may the same, whichever of two threads makes it: they share memory, descriptors, root and working
/// directory (kcmp(2)), and have the same credentials. False where it cannot be told.
#[must_use]
pub fn are_alike(one: u32, other: u32) -> bool {
    let (Ok(first), Ok(second)) = (i32::try_from(one), i32::try_from(other)) else { return false };
    let credentials = |tid| StatusFile::open(tid).and_then(|file| file.credentials());
    let shares = |kind| questions::share(first, second, kind) == Ok(true);
    SHARED_BY_THREADS.into_iter().all(shares)
        && credentials(one).is_ok_and(|first| credentials(other).is_ok_and(|second| first == second))
}

/// The namespaces of thread `tid` of these kinds, as `/proc/TID/ns` names them (namespaces(7)).
///
/// # Errors
/// The kernel's answer for the first that cannot be opened.
pub fn namespaces<const N: usize>(tid: u32, kinds: [&str; N]) -> Result<[OwnedFd; N], Errno> {
    let open = |kind: &str| {
        let path = format!("/proc/{tid}/ns/{kind}");
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    };
    let opened: Vec<OwnedFd> = kinds.into_iter().map(open).collect::<Result<_, Errno>>()?;
    opened.try_into().map_err(|_| Errno::INVAL)
}

/// Device number of the terminal that controls thread `tid`'s session; `None` when none does (`tty_nr`, proc_pid_stat(5)).
///
/// # Errors
/// [`ProcessError`].
pub fn controlling_terminal(tid: u32) -> Result<Option<u64>, ProcessError> {
    let folder = open_process(tid)?;
    let text = read_file(&folder, tid, "stat", MAX_STATUS_BYTES)?;
    parse_terminal(&text).ok_or(ProcessError::Format { pid: tid, file: "stat" })
}

/// A limit on what a process may use, setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// `RLIMIT_NOFILE`.
    OpenFiles,
    /// `RLIMIT_FSIZE`.
    FileBytes,
}

impl Limit {
    const fn name(self) -> &'static str {
        match self {
            Self::OpenFiles => "Max open files",
            Self::FileBytes => "Max file size",
        }
    }
}

/// The soft `limit` of thread `tid` (proc_pid_limits(5)); `None`: unlimited.
///
/// # Errors
/// [`ProcessError`].
pub fn soft_limit(tid: u32, limit: Limit) -> Result<Option<u64>, ProcessError> {
    let folder = open_process(tid)?;
    let text = read_file(&folder, tid, "limits", MAX_STATUS_BYTES)?;
    parse_limit(&text, limit).ok_or(ProcessError::Format { pid: tid, file: "limits" })
}

/// `Max open files            1024                 4096                 files`: name, soft limit, hard limit, unit.
fn parse_limit(text: &[u8], limit: Limit) -> Option<Option<u64>> {
    let line = std::str::from_utf8(text).ok()?.lines().find_map(|line| line.strip_prefix(limit.name()))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    }
}

/// Whether thread `tid` may open one more file, or open(2) fails with `EMFILE`. Before Linux 6.2, whose `/proc/TID/fd` does
/// not tell how many are open (proc_pid_fd(5)), it always may: what it is given is then refused.
///
/// # Errors
/// [`ProcessError`].
pub fn has_free_descriptor(tid: u32) -> Result<bool, ProcessError> {
    let Some(limit) = soft_limit(tid, Limit::OpenFiles)? else { return Ok(true) };
    let folder = open_process(tid)?;
    let failed = |source| ProcessError::Read { pid: tid, file: "fd", source };
    let count = rustix::fs::statat(&folder, c"fd", AtFlags::empty()).map_err(failed)?.st_size;
    if u64::try_from(count).is_ok_and(|count| count < limit) {
        return Ok(true);
    }
    // those beyond a limit that was lowered later take no number away
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listing = rustix::fs::openat(&folder, c"fd", flags, Mode::empty()).map_err(failed)?;
    let entries = rustix::fs::Dir::new(listing).map_err(failed)?;
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str().ok()?.parse::<u64>().ok());
    Ok(numbers.filter(|number| *number < limit).count() < usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Field 7: the minor number in bits 31 to 20 and 7 to 0, the major in 15 to 8.
fn parse_terminal(text: &[u8]) -> Option<Option<u64>> {
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let after = std::str::from_utf8(text.get(close.checked_add(1)?..)?).ok()?;
    let number: i32 = after.split_ascii_whitespace().nth(4)?.parse().ok()?;
    let number = number.cast_unsigned();
    let (major, minor) = ((number >> 8) & 0xFF, (number & 0xFF) | ((number >> 12) & 0xFFF00));
    Some((number != 0).then(|| rustix::fs::makedev(major, minor)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::raw::child::fork_for_test;
    use rustix::process::Resource;
    use rustix::process::Rlimit;

    #[test]
    fn limits_are_read_as_the_kernel_prints_them() {
        let text = b"Limit                     Soft Limit           Hard Limit           Units     \n\
            Max file size             unlimited            unlimited            bytes     \n\
            Max open files            1024                 4096                 files     \n";
        assert_eq!(parse_limit(text, Limit::OpenFiles), Some(Some(1024)));
        assert_eq!(parse_limit(text, Limit::FileBytes), Some(None));
        assert_eq!(parse_limit(b"Max open files  many", Limit::OpenFiles), None);
        assert_eq!(parse_limit(b"", Limit::FileBytes), None);
    }

    #[test]
    fn threads_of_a_process_are_alike_until_one_has_a_working_directory_of_its_own() {
        let own = std::process::id();
        let (asks, asked) = std::sync::mpsc::channel::<()>();
        let (tells, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            tells.send(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()).expect("send");
            asked.recv().expect("go on");
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).expect("unshare");
            tells.send(0).expect("send");
            asked.recv().unwrap_or(());
        });
        let other = told.recv().expect("tid");
        assert!(are_alike(own, other) && are_alike(own, own));
        asks.send(()).expect("send");
        told.recv().expect("done");
        assert!(!are_alike(own, other));
        drop(asks);
        thread.join().expect("thread");
        assert!(!are_alike(own, other), "one that has ended");
        let child = fork_for_test(|| {
            std::thread::sleep(std::time::Duration::from_secs(60));
            0
        });
        assert!(!are_alike(own, child.pid()), "another process");
        child.kill();
    }

    /// "EMFILE: the per-process limit on the number of open file descriptors has been reached" (open(2)).
    #[test]
    fn a_full_table_is_told_from_one_with_a_gap() {
        let child = fork_for_test(|| {
            std::thread::sleep(std::time::Duration::from_secs(60));
            0
        });
        let pid = child.pid();
        let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("list");
        let used: Vec<u64> = entries
            .map(|entry| entry.expect("entry").file_name().to_string_lossy().parse().expect("a number"))
            .collect();
        let free = (0..).find(|number| !used.contains(number)).expect("a free number");
        let limited = |current| {
            let number = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
            let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
            rustix::process::prlimit(number, Resource::Nofile, Rlimit { current: Some(current), maximum })
                .expect("set");
            has_free_descriptor(pid).expect("tell")
        };
        assert_eq!([limited(0), limited(free), limited(free + 1), limited(1024)], [false, false, true, true]);
        child.kill();
        assert!(matches!(has_free_descriptor(0), Err(ProcessError::Gone(0))));
    }
}

//! What is known of one thread for acting in its place: its credentials and its terminal.

use std::os::fd::OwnedFd;

use rustix::fs::Mode;
use rustix::fs::OFlags;

use crate::kernel::Errno;
use crate::kernel::process::MAX_STATUS_BYTES;
use crate::kernel::process::ProcessError;
use crate::kernel::process::field;
use crate::kernel::process::numbers;
use crate::kernel::process::open_process;
use crate::kernel::process::read_file;

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

/// The credentials of thread `tid`, out of `/proc/TID/status` (proc_pid_status(5)).
///
/// # Errors
/// [`ProcessError`].
pub fn thread_credentials(tid: u32) -> Result<ThreadCredentials, ProcessError> {
    let folder = open_process(tid)?;
    let text = read_file(&folder, tid, "status", MAX_STATUS_BYTES)?;
    let parse = || {
        let ids = |name: &[u8]| match numbers(field(&text, name)?, 10)?.as_slice() {
            [_, effective, _, of_files] => Some((*effective, *of_files)),
            _ => None,
        };
        let set = |name: &[u8]| u64::from_str_radix(std::str::from_utf8(field(&text, name)?).ok()?.trim(), 16).ok();
        let ((effective_uid, fs_uid), (effective_gid, fs_gid)) = (ids(b"Uid:")?, ids(b"Gid:")?);
        Some(ThreadCredentials {
            effective_uid,
            effective_gid,
            fs_uid,
            fs_gid,
            groups: numbers(field(&text, b"Groups:")?, 10)?,
            effective_capabilities: set(b"CapEff:")?,
            bounding_capabilities: set(b"CapBnd:")?,
            umask: numbers(field(&text, b"Umask:")?, 8)?.first().copied()?,
        })
    };
    parse().ok_or(ProcessError::Format { pid: tid, file: "status" })
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

/// Field 7: the minor number in bits 31 to 20 and 7 to 0, the major in 15 to 8.
fn parse_terminal(text: &[u8]) -> Option<Option<u64>> {
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let after = std::str::from_utf8(text.get(close.checked_add(1)?..)?).ok()?;
    let number: i32 = after.split_ascii_whitespace().nth(4)?.parse().ok()?;
    let number = number.cast_unsigned();
    let (major, minor) = ((number >> 8) & 0xFF, (number & 0xFF) | ((number >> 12) & 0xFFF00));
    Some((number != 0).then(|| rustix::fs::makedev(major, minor)))
}

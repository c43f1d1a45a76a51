//! What `/proc` tells about a process, proc(5): who runs it, which program, with what powers, and who started it.
//!
//! All reads are bounded; nothing here comes from the process's own memory except its arguments. A process may end between two reads:
//! each file is opened below one descriptor of `/proc/PID`, so the facts are those of one process or an error.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use rustix::fs::CWD;
use rustix::fs::Mode;
use rustix::fs::OFlags;

use crate::kernel::Errno;

/// Most bytes of a `/proc/PID/status` or `stat`.
pub const MAX_STATUS_BYTES: usize = 16_384;
/// Most bytes of arguments that are kept.
pub const MAX_ARGUMENT_BYTES: usize = 32_768;
/// Most bytes of an id map: 340 lines (user_namespaces(7)).
const MAX_MAP_BYTES: usize = 32_768;
/// What the kernel shows for a login uid or audit session that was never set.
const UNSET_AUDIT_ID: u32 = u32::MAX;

/// Why a process's facts could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// No such process, or it ended while we looked.
    #[error("process {0} is gone")]
    Gone(u32),
    /// A file of `/proc/PID` could not be read.
    #[error("cannot read {file} of process {pid}; /proc must be mounted for our own pid namespace")]
    Read {
        /// Whose.
        pid: u32,
        /// Which file.
        file: &'static str,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// A file of `/proc/PID` was not as proc(5) describes it.
    #[error("cannot understand {file} of process {pid}")]
    Format {
        /// Whose.
        pid: u32,
        /// Which file.
        file: &'static str,
    },
}

/// A process at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Thread group id, what user space calls the pid, in our namespace.
    pub pid: u32,
    /// Parent's pid in our namespace; 0 when it has none there.
    pub parent: u32,
    /// Real uid, in our user namespace (as all ids here).
    pub real_uid: u32,
    /// Effective uid.
    pub effective_uid: u32,
    /// Real gid.
    pub real_gid: u32,
    /// Effective gid.
    pub effective_gid: u32,
    /// Effective capabilities of the thread asked about, one bit each (capabilities(7)).
    pub effective_capabilities: u64,
    /// The thread's numbers from our pid namespace inwards (`NSpid`).
    pub namespace_pids: Vec<u32>,
    /// The process's numbers from our pid namespace inwards (`NStgid`).
    pub namespace_process_ids: Vec<u32>,
    /// Path of the program as the kernel names it, from the root of its mount namespace; `None` for a kernel thread.
    pub exe: Option<Vec<u8>>,
    /// Arguments, at most [`MAX_ARGUMENT_BYTES`] in all. The process itself may have overwritten them.
    pub argv: Vec<Vec<u8>>,
    /// Whether arguments were cut off.
    pub argv_truncated: bool,
    /// Login uid that audit keeps over su and sudo; `None` when unset or the kernel has no audit.
    pub loginuid: Option<u32>,
    /// Audit session; `None` as for the login uid.
    pub sessionid: Option<u32>,
    /// When it started, in clock ticks after boot: with the pid it names one process.
    pub start_time_ticks: u64,
    /// Command name (`comm`), at most 15 bytes.
    pub comm: Vec<u8>,
    /// File mode creation mask of the thread asked about, umask(2).
    pub umask: u32,
}

impl Facts {
    /// Reads the facts of process or thread `id`. Of a thread, capabilities, uids and numbers are its own, the rest its process's.
    ///
    /// # Errors
    /// [`ProcessError`].
    pub fn read(id: u32) -> Result<Self, ProcessError> {
        let folder = open_process(id)?;
        let status = read_file(&folder, id, "status", MAX_STATUS_BYTES)?;
        let status = Status::parse(&status).ok_or(ProcessError::Format { pid: id, file: "status" })?;
        let folder = if status.pid == id { folder } else { open_process(status.pid)? };
        let pid = status.pid;
        let stat = read_file(&folder, pid, "stat", MAX_STATUS_BYTES)?;
        let (comm, start_time_ticks) = parse_stat(&stat).ok_or(ProcessError::Format { pid, file: "stat" })?;
        let mut arguments = read_file(&folder, pid, "cmdline", MAX_ARGUMENT_BYTES.saturating_add(1))?;
        let argv_truncated = arguments.len() > MAX_ARGUMENT_BYTES;
        arguments.truncate(MAX_ARGUMENT_BYTES);
        Ok(Self {
            pid,
            parent: status.parent,
            real_uid: status.uids.0,
            effective_uid: status.uids.1,
            real_gid: status.gids.0,
            effective_gid: status.gids.1,
            effective_capabilities: status.effective_capabilities,
            namespace_pids: status.ids.thread,
            namespace_process_ids: status.ids.process,
            exe: rustix::fs::readlinkat(&folder, c"exe", Vec::new()).ok().map(std::ffi::CString::into_bytes),
            argv: split_arguments(&arguments),
            argv_truncated,
            loginuid: read_audit_id(&folder, pid, "loginuid"),
            sessionid: read_audit_id(&folder, pid, "sessionid"),
            start_time_ticks,
            comm,
            umask: status.umask,
        })
    }
}

/// Process `pid` and the processes it descends from, nearest first, at most `limit`. Ends early where one is gone.
#[must_use]
pub fn ancestry(pid: u32, limit: usize) -> Vec<Facts> {
    let mut found: Vec<Facts> = Vec::new();
    let mut next = pid;
    while next != 0 && found.len() < limit {
        let Ok(facts) = Facts::read(next) else { break };
        // a parent that started after its child is another process with a recycled number
        if found.last().is_some_and(|child| child.start_time_ticks < facts.start_time_ticks) {
            break;
        }
        next = facts.parent;
        found.push(facts);
    }
    found
}

/// A process's numbers in the pid namespaces it is in, outermost (ours) first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceIds {
    /// `NStgid`.
    pub process: Vec<u32>,
    /// `NSpid`.
    pub thread: Vec<u32>,
}

impl NamespaceIds {
    /// Finds them in the text of a `/proc/PID/status` (Linux 4.1).
    #[must_use]
    pub fn parse(status: &[u8]) -> Option<Self> {
        let process = numbers(field(status, b"NStgid:")?, 10)?;
        let thread = numbers(field(status, b"NSpid:")?, 10)?;
        (!process.is_empty() && process.len() == thread.len()).then_some(Self { process, thread })
    }
}

/// What `/proc/PID/status` holds of interest.
struct Status {
    pid: u32,
    parent: u32,
    uids: (u32, u32),
    gids: (u32, u32),
    effective_capabilities: u64,
    umask: u32,
    ids: NamespaceIds,
}

impl Status {
    fn parse(text: &[u8]) -> Option<Self> {
        let one = |name: &[u8]| numbers(field(text, name)?, 10)?.first().copied();
        let two = |name: &[u8]| match numbers(field(text, name)?, 10)?.as_slice() {
            [real, effective, ..] => Some((*real, *effective)),
            _ => None,
        };
        let capabilities = std::str::from_utf8(field(text, b"CapEff:")?).ok()?.trim();
        Some(Self {
            pid: one(b"Tgid:")?,
            parent: one(b"PPid:")?,
            uids: two(b"Uid:")?,
            gids: two(b"Gid:")?,
            effective_capabilities: u64::from_str_radix(capabilities, 16).ok()?,
            // a zombie has none
            umask: field(text, b"Umask:").and_then(|mask| numbers(mask, 8)?.first().copied()).unwrap_or(0o022),
            ids: NamespaceIds::parse(text)?,
        })
    }
}

/// The value of the line that starts with `name`.
pub(in crate::kernel) fn field<'text>(text: &'text [u8], name: &[u8]) -> Option<&'text [u8]> {
    text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name))
}

pub(in crate::kernel) fn numbers(text: &[u8], radix: u32) -> Option<Vec<u32>> {
    let text = std::str::from_utf8(text).ok()?;
    text.split_ascii_whitespace().map(|number| u32::from_str_radix(number, radix).ok()).collect()
}

/// Command name and start time (field 22) of a `/proc/PID/stat`. The name may itself contain `)` and spaces.
fn parse_stat(text: &[u8]) -> Option<(Vec<u8>, u64)> {
    let open = text.iter().position(|byte| *byte == b'(')?;
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let comm = text.get(open.checked_add(1)?..close)?.to_vec();
    let after = std::str::from_utf8(text.get(close.checked_add(1)?..)?).ok()?;
    // the first field after the name is number 3
    let start = after.split_ascii_whitespace().nth(19)?.parse().ok()?;
    Some((comm, start))
}

fn split_arguments(bytes: &[u8]) -> Vec<Vec<u8>> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

fn read_audit_id(folder: &OwnedFd, pid: u32, file: &'static str) -> Option<u32> {
    let text = read_file(folder, pid, file, 64).ok()?;
    let id = numbers(&text, 10)?.first().copied()?;
    (id != UNSET_AUDIT_ID).then_some(id)
}

pub(in crate::kernel) fn open_process(pid: u32) -> Result<OwnedFd, ProcessError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, format!("/proc/{pid}"), flags, Mode::empty()).map_err(|source| match source {
        Errno::NOENT | Errno::SRCH => ProcessError::Gone(pid),
        _ => ProcessError::Read { pid, file: "directory", source },
    })
}

pub(in crate::kernel) fn read_file(
    folder: &OwnedFd,
    pid: u32,
    file: &'static str,
    limit: usize,
) -> Result<Vec<u8>, ProcessError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::openat(folder, file, flags, Mode::empty()).and_then(|file| read_bounded(&file, limit)).map_err(
        |source| match source {
            Errno::SRCH => ProcessError::Gone(pid),
            _ => ProcessError::Read { pid, file, source },
        },
    )
}

/// Reads a file of our own `/proc`, at most [`MAX_STATUS_BYTES`].
pub(in crate::kernel) fn read_proc_file(folder: BorrowedFd<'_>, path: &str) -> Result<Vec<u8>, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    read_bounded(&rustix::fs::openat(folder, path, flags, Mode::empty())?, MAX_STATUS_BYTES)
}

/// Reads to the end of `file`, at most `limit` bytes.
pub(in crate::kernel) fn read_bounded(file: &OwnedFd, limit: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    let mut chunk = [0_u8; 4096];
    while bytes.len() < limit {
        let want = chunk.len().min(limit.saturating_sub(bytes.len()));
        match rustix::io::read(file.as_fd(), chunk.get_mut(..want).unwrap_or_default()) {
            Ok(0) => break,
            Ok(read) => bytes.extend_from_slice(chunk.get(..read).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(bytes)
}

/// How a user namespace's ids lie in ours, user_namespaces(7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    /// First id inside, first id in our namespace, how many.
    ranges: Vec<(u32, u32, u32)>,
}

/// The uid map of process `pid`.
///
/// # Errors
/// [`ProcessError`].
pub fn uid_map(pid: u32) -> Result<IdMap, ProcessError> {
    IdMap::read(pid, "uid_map")
}

/// The gid map of process `pid`.
///
/// # Errors
/// [`ProcessError`].
pub fn gid_map(pid: u32) -> Result<IdMap, ProcessError> {
    IdMap::read(pid, "gid_map")
}

impl IdMap {
    fn read(pid: u32, file: &'static str) -> Result<Self, ProcessError> {
        let text = read_file(&open_process(pid)?, pid, file, MAX_MAP_BYTES)?;
        Self::parse(&text).ok_or(ProcessError::Format { pid, file })
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let ranges = lines.map(|line| match numbers(line, 10)?.as_slice() {
            [inside, outside, count] => Some((*inside, *outside, *count)),
            _ => None,
        });
        Some(Self { ranges: ranges.collect::<Option<Vec<_>>>()? })
    }

    /// What the process itself calls our id `host`; `None` when it is not mapped (shown inside as 65534).
    #[must_use]
    pub fn inside(&self, host: u32) -> Option<u32> {
        self.ranges.iter().find_map(|(inside, outside, count)| {
            let offset = host.checked_sub(*outside).filter(|offset| offset < count)?;
            inside.checked_add(offset)
        })
    }
}

/// Names of the capabilities in `set`, lowest bit first, as capabilities(7) writes them; `CAP_41` for one not known here.
#[must_use]
pub fn capability_names(set: u64) -> Vec<String> {
    (0..u64::BITS)
        .filter(|bit| set.checked_shr(*bit).unwrap_or(0) & 1 == 1)
        .map(|bit| {
            let known = usize::try_from(bit).ok().and_then(|index| CAPABILITIES.get(index));
            known.map_or_else(|| format!("CAP_{bit}"), |name| format!("CAP_{name}"))
        })
        .collect()
}

/// By number, include/uapi/linux/capability.h up to Linux 6.18.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Device and inode number of the namespace of that kind (`mnt`, `pid`, … as in `/proc/PID/ns`) that process `pid` is in: two processes
/// with the same are in the same one (namespaces(7), "The /proc/pid/ns/ directory"). `None` when it cannot be told.
#[must_use]
pub fn namespace(pid: u32, kind: &str) -> Option<(u64, u64)> {
    let status = rustix::fs::stat(format!("/proc/{pid}/ns/{kind}")).ok()?;
    Some((status.st_dev, status.st_ino))
}

/// Inode number of the pid namespace that the machine started with (include/linux/proc_ns.h, `PROC_PID_INIT_INO`).
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Whether this process is in the pid namespace that all others are below of.
#[must_use]
pub fn sees_every_process() -> bool {
    namespace(std::process::id(), "pid").is_some_and(|(_, inode)| inode == FIRST_PID_NAMESPACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_ourselves_are_what_we_know() {
        let facts = Facts::read(std::process::id()).expect("own facts");
        assert_eq!(facts.pid, std::process::id());
        assert_eq!(facts.parent, std::os::unix::process::parent_id());
        assert_eq!(facts.effective_uid, rustix::process::geteuid().as_raw());
        assert_eq!(facts.namespace_process_ids.first(), Some(&facts.pid));
        assert!(!facts.argv.is_empty() && !facts.argv_truncated);
        let exe = std::env::current_exe().expect("exe");
        assert_eq!(facts.exe.as_deref(), Some(exe.as_os_str().as_encoded_bytes()));
        assert!(facts.start_time_ticks > 0);
    }

    #[test]
    fn facts_of_a_thread_name_its_process() {
        let tid = std::thread::spawn(|| {
            let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
            (tid, Facts::read(tid).expect("facts"))
        });
        let (tid, facts) = tid.join().expect("thread");
        assert_ne!(tid, facts.pid);
        assert_eq!(facts.pid, std::process::id());
        assert_eq!(facts.namespace_pids.first(), Some(&tid));
    }

    #[test]
    fn ancestry_begins_with_the_process_and_ends_at_the_limit() {
        let tree = ancestry(std::process::id(), 2);
        let pids: Vec<u32> = tree.iter().map(|facts| facts.pid).collect();
        assert_eq!(pids, [std::process::id(), std::os::unix::process::parent_id()]);
        assert!(matches!(Facts::read(0x7fff_fff0), Err(ProcessError::Gone(_))));
    }

    #[test]
    fn stat_with_a_hostile_name_is_understood() {
        let fields: Vec<String> = (4..=30).map(|number| number.to_string()).collect();
        let text = format!("7 (a) S) b() R {}\n", fields.join(" "));
        assert_eq!(parse_stat(text.as_bytes()), Some((b"a) S) b(".to_vec(), 22)));
        for broken in ["", "7", "7 )(", "7 (a) R 1 2"] {
            assert_eq!(parse_stat(broken.as_bytes()), None, "{broken}");
        }
    }

    #[test]
    fn arguments_are_split_at_nul_and_empty_ones_kept() {
        let cases: [(&[u8], &[&[u8]]); 4] =
            [(b"", &[]), (b"a\0", &[b"a"]), (b"a\0\0b\0", &[b"a", b"", b"b"]), (b"a\0b", &[b"a", b"b"])];
        for (text, wanted) in cases {
            assert_eq!(split_arguments(text), wanted);
        }
    }

    #[test]
    fn id_maps_translate_into_the_namespace() {
        let map = IdMap::parse(b"         0     100000      65536\n     70000          5          1\n").expect("map");
        assert_eq!(map.inside(100_000), Some(0));
        assert_eq!(map.inside(165_535), Some(65_535));
        assert_eq!(map.inside(165_536), None);
        assert_eq!(map.inside(5), Some(70_000));
        assert_eq!(map.inside(0), None);
        assert_eq!(uid_map(std::process::id()).expect("own map").inside(0), Some(0));
        assert_eq!(IdMap::parse(b"0 0\n"), None);
    }

    #[test]
    fn capabilities_are_named_by_bit() {
        assert_eq!(capability_names(0), Vec::<String>::new());
        assert_eq!(
            capability_names(1 | 1 << 21 | 1 << 40 | 1 << 41),
            ["CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE", "CAP_41"]
        );
    }
}

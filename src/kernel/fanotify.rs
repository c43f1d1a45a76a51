//! The kernel's word on what really changed in watched directories, fanotify(7): one group for all containers.
//!
//! `FAN_REPORT_DFID_NAME` (Linux 5.9) names the directory by its file handle and the entry by its name, and never hands
//! out descriptors of a container's files. The group may queue 16,384 events; when it lost some, [`Watcher::read`] says so once.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;

use crate::kernel::Errno;
use crate::kernel::raw::fanotify as raw;
use crate::kernel::raw::fanotify::FileHandle;

/// A file's content was changed by a descriptor (`FAN_MODIFY`); changes through a memory mapping are told by [`CLOSED_AFTER_WRITE`]
/// only (fanotify(7), "Limitations and caveats").
pub const MODIFIED: u64 = 0x2;
/// Attributes of an entry were changed (`FAN_ATTRIB`).
pub const ATTRIBUTES: u64 = 0x4;
/// A file that was open for writing was closed (`FAN_CLOSE_WRITE`).
pub const CLOSED_AFTER_WRITE: u64 = 0x8;
/// An entry was renamed away (`FAN_MOVED_FROM`).
pub const MOVED_FROM: u64 = 0x40;
/// An entry was renamed to this name (`FAN_MOVED_TO`).
pub const MOVED_TO: u64 = 0x80;
/// An entry was made (`FAN_CREATE`), a hard link too.
pub const CREATED: u64 = 0x100;
/// An entry was removed (`FAN_DELETE`).
pub const DELETED: u64 = 0x200;
/// The entry is a directory (`FAN_ONDIR`).
pub const DIRECTORY: u64 = 0x4000_0000;

/// `FAN_Q_OVERFLOW`.
const QUEUE_OVERFLOW: u64 = 0x4000;
/// `FAN_EVENT_ON_CHILD`: of the entries, not only of the directory itself.
const EVENT_ON_CHILD: u64 = 0x0800_0000;
const WATCHED: u64 =
    MODIFIED | ATTRIBUTES | CLOSED_AFTER_WRITE | MOVED_FROM | MOVED_TO | CREATED | DELETED | DIRECTORY | EVENT_ON_CHILD;
/// New names only.
const AWAITED: u64 = MOVED_TO | CREATED | DIRECTORY;

/// `FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_MARKS | FAN_REPORT_DFID_NAME`.
const GROUP_FLAGS: u32 = 0x1 | 0x2 | 0x20 | 0xc00;
/// `FAN_MARK_ADD | FAN_MARK_ONLYDIR`.
const MARK_ADD: u32 = 0x1 | 0x8;
/// `FAN_MARK_REMOVE | FAN_MARK_ONLYDIR`.
const MARK_REMOVE: u32 = 0x2 | 0x8;

/// `FAN_EVENT_INFO_TYPE_DFID_NAME`.
const INFO_DIRECTORY_AND_NAME: u8 = 2;
/// `sizeof(struct fanotify_event_metadata)`.
const METADATA_BYTES: usize = 24;
/// `sizeof(struct fanotify_event_info_fid)` with the head of its `struct file_handle`.
const INFO_HEAD_BYTES: usize = 20;
/// Read at a time.
const BUFFER_BYTES: usize = 65_536;

/// What went wrong while watching.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// fanotify_init(2) failed.
    #[error("cannot watch files with fanotify; CAP_SYS_ADMIN and Linux 5.9 or later are needed")]
    Init(#[source] Errno),
    /// A mark could not be set.
    #[error("cannot watch a directory with fanotify; its file system may lack file handles")]
    Watch(#[source] Errno),
    /// A mark could not be removed.
    #[error("cannot stop watching a directory with fanotify")]
    Unwatch(#[source] Errno),
    /// poll(2) or read(2) failed.
    #[error("cannot read what fanotify saw")]
    Read(#[source] Errno),
    /// The kernel wrote something else than fanotify(7) describes.
    #[error("cannot understand what fanotify wrote; this kernel speaks another version")]
    Format,
    /// Changes were lost because nobody read in time: look at everything that is watched.
    #[error("fanotify lost changes because its queue was full; every watched directory must be looked at again")]
    Overflow,
}

/// Names a directory over all mounts of its file system.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DirectoryKey {
    file_system: [u8; 8],
    handle: FileHandle,
}

/// Something changed in a watched directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which directory.
    pub directory: DirectoryKey,
    /// Which entry; `.` for the directory itself.
    pub name: Vec<u8>,
    /// What happened: bits of this module; one event may have several.
    pub mask: u64,
    /// Process (thread group) that did it, in our pid namespace; 0 when it is not visible there.
    pub pid: u32,
}

/// A fanotify group.
#[derive(Debug)]
pub struct Watcher {
    group: OwnedFd,
    overflowed: std::sync::atomic::AtomicBool,
}

impl Watcher {
    /// Makes a group.
    ///
    /// # Errors
    /// [`WatchError::Init`].
    pub fn new() -> Result<Self, WatchError> {
        let event_flags = rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::RDONLY;
        let group = raw::fanotify_init(GROUP_FLAGS, event_flags.bits()).map_err(WatchError::Init)?;
        Ok(Self { group, overflowed: std::sync::atomic::AtomicBool::new(false) })
    }

    /// Watches the entries of `directory` (an `O_PATH` descriptor will do) until [`Watcher::unwatch`] or until it is deleted.
    ///
    /// # Errors
    /// [`WatchError::Watch`].
    pub fn watch_directory(&self, directory: BorrowedFd<'_>) -> Result<DirectoryKey, WatchError> {
        self.mark(directory, WATCHED)
    }

    /// Watches `directory` for new names, made or moved there, likewise. What is watched of it besides stays watched.
    ///
    /// # Errors
    /// [`WatchError::Watch`].
    pub fn await_names(&self, directory: BorrowedFd<'_>) -> Result<DirectoryKey, WatchError> {
        self.mark(directory, AWAITED)
    }

    fn mark(&self, directory: BorrowedFd<'_>, mask: u64) -> Result<DirectoryKey, WatchError> {
        let handle = raw::handle_of(directory).map_err(WatchError::Watch)?;
        let file_system = raw::file_system_id(directory).map_err(WatchError::Watch)?;
        raw::fanotify_mark(self.group.as_fd(), MARK_ADD, mask, directory).map_err(WatchError::Watch)?;
        Ok(DirectoryKey { file_system, handle })
    }

    /// Stops watching `directory`. No error when it was not watched.
    ///
    /// # Errors
    /// [`WatchError::Unwatch`].
    pub fn unwatch(&self, directory: BorrowedFd<'_>) -> Result<(), WatchError> {
        match raw::fanotify_mark(self.group.as_fd(), MARK_REMOVE, WATCHED, directory) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(WatchError::Unwatch(errno)),
        }
    }

    /// Waits until something changed or `timeout` is over (`None`: for ever), and returns what there is; empty after a timeout.
    ///
    /// # Errors
    /// [`WatchError::Overflow`] once after changes were lost; the group goes on working.
    pub fn read(&self, timeout: Option<Duration>) -> Result<Vec<Change>, WatchError> {
        if self.overflowed.swap(false, std::sync::atomic::Ordering::AcqRel) {
            return Err(WatchError::Overflow);
        }
        let limit = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        match rustix::event::poll(&mut [PollFd::new(&self.group, PollFlags::IN)], limit.as_ref()) {
            Ok(0) | Err(Errno::INTR) => return Ok(Vec::new()),
            Ok(_) => {}
            Err(errno) => return Err(WatchError::Read(errno)),
        }
        let mut buffer = vec![0_u8; BUFFER_BYTES];
        let length = match rustix::io::read(&self.group, buffer.as_mut_slice()) {
            Ok(length) => length,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(errno) => return Err(WatchError::Read(errno)),
        };
        let events = parse(buffer.get(..length).unwrap_or_default()).ok_or(WatchError::Format)?;
        let mut changes = Vec::with_capacity(events.len());
        for event in events {
            match event {
                Event::Change(change) => changes.push(change),
                Event::Overflow => self.overflowed.store(true, std::sync::atomic::Ordering::Release),
            }
        }
        if changes.is_empty() && self.overflowed.swap(false, std::sync::atomic::Ordering::AcqRel) {
            return Err(WatchError::Overflow);
        }
        Ok(changes)
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.group.as_fd()
    }
}

/// What read(2) tells of.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A change.
    Change(Change),
    /// Changes were lost.
    Overflow,
}

/// Which entry an event is about.
struct Entry {
    directory: DirectoryKey,
    name: Vec<u8>,
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Splits what read(2) returned into events (fanotify(7), "Reading fanotify events"); `None` when it is not whole.
#[must_use]
pub fn parse(mut bytes: &[u8]) -> Option<VecDeque<Event>> {
    let mut events = VecDeque::new();
    while !bytes.is_empty() {
        let length = usize::try_from(u32::from_ne_bytes(take(bytes, 0)?)).ok()?;
        let version = u8::from_ne_bytes(take(bytes, 4)?);
        if version != nix::libc::FANOTIFY_METADATA_VERSION || length < METADATA_BYTES {
            return None;
        }
        let event = bytes.get(..length)?;
        bytes = bytes.get(length..)?;
        let metadata = usize::from(u16::from_ne_bytes(take(event, 6)?));
        let mask = u64::from_ne_bytes(take(event, 8)?);
        let pid = u32::try_from(i32::from_ne_bytes(take(event, 20)?)).unwrap_or(0);
        if mask & QUEUE_OVERFLOW != 0 {
            events.push_back(Event::Overflow);
        } else if let Some(Entry { directory, name }) = parse_records(event.get(metadata..)?)? {
            events.push_back(Event::Change(Change { directory, name, mask, pid }));
        }
    }
    Some(events)
}

/// Finds the directory and name among an event's information records; `Some(None)` when it has none.
fn parse_records(mut records: &[u8]) -> Option<Option<Entry>> {
    while !records.is_empty() {
        let kind = u8::from_ne_bytes(take(records, 0)?);
        let length = usize::from(u16::from_ne_bytes(take(records, 2)?));
        let record = records.get(..length).filter(|record| record.len() >= 4)?;
        records = records.get(length..)?;
        if kind != INFO_DIRECTORY_AND_NAME {
            continue;
        }
        let file_system = take(record, 4)?;
        let handle_length = usize::try_from(u32::from_ne_bytes(take(record, 12)?)).ok()?;
        let handle_kind = i32::from_ne_bytes(take(record, 16)?);
        let name_at = INFO_HEAD_BYTES.checked_add(handle_length)?;
        let handle = record.get(INFO_HEAD_BYTES..name_at)?.to_vec();
        let name = record.get(name_at..)?.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        let handle = FileHandle { kind: handle_kind, bytes: handle };
        return Some(Some(Entry { directory: DirectoryKey { file_system, handle }, name }));
    }
    Some(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const SECOND: Option<Duration> = Some(Duration::from_secs(1));

    fn all(watcher: &Watcher) -> Vec<Change> {
        let mut changes = Vec::new();
        loop {
            match watcher.read(Some(Duration::from_millis(50))).expect("read") {
                more if more.is_empty() => return changes,
                more => changes.extend(more),
            }
        }
    }

    #[test]
    fn changes_name_directory_entry_and_process() {
        let folder = tempfile::tempdir().expect("folder");
        let other = tempfile::tempdir().expect("folder");
        let one = fs::File::open(folder.path()).expect("open");
        let two = rustix::fs::open(other.path(), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).expect("open");
        let watcher = Watcher::new().expect("fanotify");
        let key = watcher.watch_directory(one.as_fd()).expect("watch");
        let other_key = watcher.watch_directory(two.as_fd()).expect("watch");
        assert_ne!(key, other_key);
        fs::write(folder.path().join("passwd+"), b"x").expect("write");
        fs::rename(folder.path().join("passwd+"), folder.path().join("passwd")).expect("rename");
        fs::write(other.path().join("b"), b"x").expect("write");
        fs::remove_file(other.path().join("b")).expect("remove");
        let changes = all(&watcher);
        let seen = |key: &DirectoryKey, name: &[u8], bit: u64| {
            changes.iter().any(|change| {
                change.directory == *key
                    && change.name == name
                    && change.mask & bit != 0
                    && change.pid == std::process::id()
            })
        };
        assert!(seen(&key, b"passwd+", CREATED), "{changes:?}");
        assert!(seen(&key, b"passwd+", MODIFIED), "{changes:?}");
        assert!(seen(&key, b"passwd+", CLOSED_AFTER_WRITE), "{changes:?}");
        assert!(seen(&key, b"passwd+", MOVED_FROM), "{changes:?}");
        assert!(seen(&key, b"passwd", MOVED_TO), "{changes:?}");
        assert!(seen(&other_key, b"b", DELETED), "{changes:?}");
        assert!(!seen(&other_key, b"passwd", MOVED_TO), "{changes:?}");
        watcher.unwatch(one.as_fd()).expect("unwatch");
        watcher.unwatch(one.as_fd()).expect("unwatch twice");
        fs::write(folder.path().join("later"), b"x").expect("write");
        assert!(watcher.read(SECOND).expect("read").is_empty());
    }

    #[test]
    fn new_names_are_told_and_nothing_else_where_only_they_are_awaited() {
        let folder = tempfile::tempdir().expect("folder");
        let directory = fs::File::open(folder.path()).expect("open");
        let watcher = Watcher::new().expect("fanotify");
        let key = watcher.await_names(directory.as_fd()).expect("watch");
        fs::create_dir(folder.path().join("made")).expect("directory");
        fs::write(folder.path().join("file"), b"x").expect("write");
        fs::rename(folder.path().join("file"), folder.path().join("moved")).expect("rename");
        fs::remove_dir(folder.path().join("made")).expect("remove");
        let changes = all(&watcher);
        let mut names: Vec<(&[u8], u64)> = Vec::new();
        for change in &changes {
            assert_eq!(change.directory, key);
            names.push((&change.name, change.mask & !DIRECTORY));
        }
        names.sort_unstable();
        assert_eq!(names, [(&b"file"[..], CREATED), (b"made", CREATED), (b"moved", MOVED_TO)], "{changes:?}");
        // awaited and watched: both
        watcher.watch_directory(directory.as_fd()).expect("watch");
        watcher.await_names(directory.as_fd()).expect("watch");
        fs::remove_file(folder.path().join("moved")).expect("remove");
        assert!(all(&watcher).iter().any(|change| change.mask & DELETED != 0));
    }

    /// What a container is: an overlay in a mount namespace of its own, watched from outside through `/proc/PID/root`.
    #[test]
    fn an_overlay_in_another_mount_namespace_is_watched_from_outside() {
        let folder = tempfile::tempdir().expect("folder");
        let top = folder.path().to_owned();
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().expect("pair");
        let child = crate::kernel::raw::child::fork_for_test(move || {
            let work = || -> std::io::Result<()> {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
                let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
                nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
                let nothing = nix::mount::MsFlags::empty();
                nix::mount::mount(Some("tmpfs"), &top, Some("tmpfs"), nothing, None::<&str>)?;
                for part in ["lower/etc", "upper", "work", "root"] {
                    fs::create_dir_all(top.join(part))?;
                }
                fs::write(top.join("lower/etc/passwd"), b"root")?;
                let at = |part: &str| top.join(part).display().to_string();
                let options = format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
                let root = top.join("root");
                nix::mount::mount(Some("overlay"), &root, Some("overlay"), nothing, Some(options.as_str()))?;
                std::os::unix::fs::chroot(&root)?;
                std::env::set_current_dir("/")?;
                let mut socket = &theirs;
                std::io::Write::write_all(&mut socket, b"x")?;
                std::io::Read::read_exact(&mut socket, &mut [0])?;
                let mut passwd = fs::OpenOptions::new().append(true).open("/etc/passwd")?;
                std::io::Write::write_all(&mut passwd, b"mallory")?;
                drop(passwd);
                fs::write("/etc/passwd+", b"x")?;
                fs::rename("/etc/passwd+", "/etc/passwd")
            };
            i32::from(work().is_err())
        });
        std::io::Read::read_exact(&mut ours, &mut [0]).expect("ready");
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
        let etc = format!("/proc/{}/root/etc", child.pid());
        let etc = rustix::fs::open(etc, flags, rustix::fs::Mode::empty()).expect("etc");
        let watcher = Watcher::new().expect("fanotify");
        let key = watcher.watch_directory(etc.as_fd()).expect("watch an overlay");
        std::io::Write::write_all(&mut ours, b"x").expect("go");
        let pid = child.pid();
        assert_eq!(child.wait(), 0);
        let changes = all(&watcher);
        for (name, bit) in [(&b"passwd"[..], CLOSED_AFTER_WRITE), (b"passwd+", MOVED_FROM), (b"passwd", MOVED_TO)] {
            let seen = changes.iter().any(|change| change.name == name && change.mask & bit != 0 && change.pid == pid);
            assert!(seen, "{bit:#x} in {changes:?}");
        }
        assert!(changes.iter().all(|change| change.directory == key), "{key:?} {changes:?}");
    }

    #[test]
    fn lost_changes_are_told_once() {
        let folder = tempfile::tempdir().expect("folder");
        let directory = fs::File::open(folder.path()).expect("open");
        let watcher = Watcher::new().expect("fanotify");
        watcher.watch_directory(directory.as_fd()).expect("watch");
        let limit: usize = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events")
            .map_or(16_384, |text| text.trim().parse().expect("number"));
        for number in 0..limit + 10 {
            fs::File::create(folder.path().join(number.to_string())).expect("create");
        }
        let mut overflows = 0;
        loop {
            match watcher.read(Some(Duration::from_millis(50))) {
                Ok(changes) if changes.is_empty() => break,
                Ok(_) => {}
                Err(WatchError::Overflow) => overflows += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(overflows, 1);
    }

    #[test]
    fn broken_records_are_refused_and_never_panic() {
        let mut event = vec![0_u8; METADATA_BYTES];
        event[..4].copy_from_slice(&(METADATA_BYTES as u32).to_ne_bytes());
        event[4] = nix::libc::FANOTIFY_METADATA_VERSION;
        event[6..8].copy_from_slice(&(METADATA_BYTES as u16).to_ne_bytes());
        assert_eq!(parse(&event), Some(VecDeque::new()));
        for length in 0..METADATA_BYTES {
            assert_eq!(parse(&event[..length]).is_some(), length == 0, "{length}");
        }
        event[0] = 3;
        assert_eq!(parse(&event), None);
    }
}

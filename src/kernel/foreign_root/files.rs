//! Reading below a container's root: regular files only, bounded, never following a magic link, never waiting for a FIFO.

use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::Dir;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;
use rustix::fs::StatxFlags;
use rustix::fs::StatxTimestamp;

use crate::kernel::Errno;
use crate::kernel::foreign_root::Found;
use crate::kernel::foreign_root::object::device_of;

/// How often a resolution that a rename disturbed is tried again (openat2(2), `EAGAIN`).
const ATTEMPTS: u32 = 64;
/// Longest access list that is read; a longer one counts as none.
const MAX_ACL_BYTES: usize = 4096;
/// How much is read at a time.
const CHUNK_BYTES: usize = 65_536;

/// Why a file or directory below a root could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Not a regular file: never opened.
    #[error("{path:?} in the container is not a regular file; it is not read")]
    NotRegular {
        /// Path from the root, lossy.
        path: String,
    },
    /// Larger than the caller takes.
    #[error("{path:?} in the container is larger than {limit} bytes; it is not read")]
    TooLarge {
        /// Path from the root, lossy.
        path: String,
        /// The limit.
        limit: usize,
    },
    /// More entries than the caller takes.
    #[error("directory {path:?} in the container has more than {limit} entries; it is not read")]
    TooManyEntries {
        /// Path from the root, lossy.
        path: String,
        /// The limit.
        limit: usize,
    },
    /// The kernel refused.
    #[error("cannot {step} {path:?} in the container")]
    Kernel {
        /// What was tried.
        step: &'static str,
        /// Path from the root, lossy.
        path: String,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
}

/// A regular file as it was while it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootFile {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
    /// Size when it was opened; `bytes` may differ when somebody was writing.
    pub size: u64,
    /// `st_mode`: type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of hard links.
    pub links: u64,
    /// Value of `system.posix_acl_access` (acl(5)), when there is one.
    pub acl: Option<Vec<u8>>,
    /// Last change of the content, nanoseconds since 1970.
    pub modified_ns: i64,
    /// Last change of content or attributes, nanoseconds since 1970.
    pub changed_ns: i64,
    /// The content.
    pub bytes: Vec<u8>,
}

/// Reads the regular file `path` below `root`, following symbolic links inside `root` only. `None` when there is no such file.
///
/// # Errors
/// [`FileError`]; anything but a regular file is [`FileError::NotRegular`] and never opened.
pub fn read_file_in_root(root: BorrowedFd<'_>, path: &[u8], max_bytes: usize) -> Result<Option<RootFile>, FileError> {
    let Some(found) = identify_in_root(root, path)? else { return Ok(None) };
    if !found.is_regular() {
        return Err(FileError::NotRegular { path: shown(path) });
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = rustix::fs::openat(CWD, format!("/proc/self/fd/{}", found.fd.as_raw_fd()), flags, Mode::empty())
        .map_err(|source| kernel("open", path, source))?;
    let wanted = StatxFlags::BASIC_STATS;
    let status =
        rustix::fs::statx(&file, c"", AtFlags::EMPTY_PATH, wanted).map_err(|source| kernel("examine", path, source))?;
    let bytes = read_limited(&file, path, max_bytes, status.stx_size)?;
    Ok(Some(RootFile {
        device: device_of(&status),
        inode: status.stx_ino,
        size: status.stx_size,
        mode: u32::from(status.stx_mode),
        uid: status.stx_uid,
        gid: status.stx_gid,
        links: u64::from(status.stx_nlink),
        acl: access_list(&file),
        modified_ns: nanoseconds(&status.stx_mtime),
        changed_ns: nanoseconds(&status.stx_ctime),
        bytes,
    }))
}

/// The access list of `file`; `None` when it has none, or its file system knows none.
fn access_list(file: &OwnedFd) -> Option<Vec<u8>> {
    let mut value = Vec::with_capacity(MAX_ACL_BYTES);
    rustix::fs::fgetxattr(file, c"system.posix_acl_access", rustix::buffer::spare_capacity(&mut value)).ok()?;
    Some(value)
}

/// Names in the directory `path` below `root`, without `.` and `..`, sorted. Empty when there is no such directory.
///
/// # Errors
/// [`FileError`].
pub fn list_directory_in_root(root: BorrowedFd<'_>, path: &[u8], max: usize) -> Result<Vec<Vec<u8>>, FileError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let Some(directory) = open_in_root(root, path, flags)? else { return Ok(Vec::new()) };
    let entries = Dir::new(directory).map_err(|source| kernel("read directory", path, source))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| kernel("read directory", path, source))?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        if names.len() >= max {
            return Err(FileError::TooManyEntries { path: shown(path), limit: max });
        }
        names.push(name.to_vec());
    }
    names.sort_unstable();
    Ok(names)
}

/// What `path` means below `root`, following symbolic links inside `root` only. `None` when there is nothing.
///
/// # Errors
/// [`FileError::Kernel`].
pub fn identify_in_root(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<Found>, FileError> {
    let Some(fd) = open_in_root(root, path, OFlags::PATH | OFlags::CLOEXEC)? else { return Ok(None) };
    let failed = || kernel("examine", path, Errno::IO);
    Found::identify(fd).map(Some).map_err(|_| failed())
}

fn open_in_root(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<Option<OwnedFd>, FileError> {
    let limits = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut attempts = 0_u32;
    loop {
        attempts = attempts.saturating_add(1);
        match rustix::fs::openat2(root, path, flags, Mode::empty(), limits) {
            Ok(fd) => return Ok(Some(fd)),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(Errno::AGAIN | Errno::INTR) if attempts < ATTEMPTS => {}
            Err(source) => return Err(kernel("find", path, source)),
        }
    }
}

fn read_limited(file: &OwnedFd, path: &[u8], limit: usize, size: u64) -> Result<Vec<u8>, FileError> {
    let too_large = || FileError::TooLarge { path: shown(path), limit };
    let expected = usize::try_from(size).map_err(|_| too_large())?;
    if expected > limit {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(expected);
    let mut chunk = vec![0_u8; CHUNK_BYTES.min(expected.saturating_add(1))];
    loop {
        match rustix::io::read(file, chunk.as_mut_slice()) {
            Ok(0) => return Ok(bytes),
            Ok(read) => bytes.extend_from_slice(chunk.get(..read).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(source) => return Err(kernel("read", path, source)),
        }
        if bytes.len() > limit {
            return Err(too_large());
        }
    }
}

fn nanoseconds(time: &StatxTimestamp) -> i64 {
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.tv_nsec))
}

fn kernel(step: &'static str, path: &[u8], source: Errno) -> FileError {
    FileError::Kernel { step, path: shown(path), source }
}

/// A path for an error message: lossy, bounded; `{:?}` escapes it.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(256).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, File) {
        let folder = tempfile::tempdir().expect("folder");
        let at = folder.path();
        fs::create_dir_all(at.join("etc/userdb")).expect("etc");
        fs::write(at.join("etc/passwd"), b"root:x:0:0::/:/bin/sh\n").expect("passwd");
        fs::write(at.join("etc/userdb/b.user"), b"{}").expect("user");
        fs::write(at.join("etc/userdb/a.user"), b"{}").expect("user");
        symlink("/etc/passwd", at.join("absolute")).expect("link");
        symlink("../../../../../../etc/passwd", at.join("etc/climbing")).expect("link");
        symlink("/etc/hostname", at.join("etc/outside")).expect("link");
        symlink("loop", at.join("loop")).expect("link");
        nix::unistd::mkfifo(&at.join("etc/fifo"), nix::sys::stat::Mode::S_IRWXU).expect("fifo");
        let root = File::open(at).expect("root");
        (folder, root)
    }

    #[test]
    fn files_are_found_below_the_root_and_nowhere_else() {
        let (folder, root) = root();
        let passwd = folder.path().join("etc/passwd").metadata().expect("metadata");
        for path in ["/etc/passwd", "etc/passwd", "/../etc/passwd", "absolute", "/etc/climbing"] {
            let file = read_file_in_root(root.as_fd(), path.as_bytes(), 100).expect(path).expect(path);
            assert_eq!(file.bytes, b"root:x:0:0::/:/bin/sh\n", "{path}");
            assert_eq!((file.device, file.inode, file.size), (passwd.dev(), passwd.ino(), 22), "{path}");
            assert_eq!(file.modified_ns, passwd.mtime() * 1_000_000_000 + passwd.mtime_nsec());
            let found = identify_in_root(root.as_fd(), path.as_bytes()).expect(path).expect(path);
            assert_eq!((found.device, found.inode, found.links), (passwd.dev(), passwd.ino(), 1), "{path}");
        }
        for path in ["/etc/shadow", "/etc/outside", "/etc/passwd/x", "/nowhere/passwd"] {
            assert_eq!(read_file_in_root(root.as_fd(), path.as_bytes(), 100).expect(path), None, "{path}");
            assert!(identify_in_root(root.as_fd(), path.as_bytes()).expect(path).is_none(), "{path}");
        }
    }

    #[test]
    fn what_is_not_a_regular_file_or_too_large_is_never_read() {
        let (_folder, root) = root();
        for path in ["/etc/fifo", "/etc", "/"] {
            let refused = read_file_in_root(root.as_fd(), path.as_bytes(), 100);
            assert!(matches!(refused, Err(FileError::NotRegular { .. })), "{path}: {refused:?}");
        }
        assert!(matches!(read_file_in_root(root.as_fd(), b"/loop", 100), Err(FileError::Kernel { .. })));
        assert!(read_file_in_root(root.as_fd(), b"/etc/passwd", 22).is_ok());
        assert!(matches!(read_file_in_root(root.as_fd(), b"/etc/passwd", 21), Err(FileError::TooLarge { .. })));
        let host = File::open("/").expect("root");
        let magic = read_file_in_root(host.as_fd(), b"/proc/self/exe", 100);
        assert!(matches!(magic, Err(FileError::Kernel { source: Errno::LOOP, .. })), "{magic:?}");
        // a file that says it is empty is bounded all the same
        let endless = read_file_in_root(host.as_fd(), b"/proc/kallsyms", 1000);
        assert!(matches!(endless, Err(FileError::TooLarge { .. })), "{endless:?}");
    }

    #[test]
    fn directories_are_listed_up_to_the_limit() {
        let (_folder, root) = root();
        let names = list_directory_in_root(root.as_fd(), b"/etc/userdb/", 2).expect("list");
        assert_eq!(names, [b"a.user".to_vec(), b"b.user".to_vec()]);
        assert_eq!(list_directory_in_root(root.as_fd(), b"/run/userdb", 2).expect("list"), Vec::<Vec<u8>>::new());
        let many = list_directory_in_root(root.as_fd(), b"/etc/userdb", 1);
        assert!(matches!(many, Err(FileError::TooManyEntries { .. })));
        assert_eq!(list_directory_in_root(root.as_fd(), b"/etc/fifo", 1).expect("list"), Vec::<Vec<u8>>::new());
    }
}

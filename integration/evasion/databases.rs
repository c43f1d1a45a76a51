//! The databases of a running container as the host sees them: through the root of its first process, mounts and all.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Every built-in database, and the one that policy adds.
const FILES: [&str; 9] = [
    "/etc/passwd",
    "/etc/shadow",
    "/etc/group",
    "/etc/gshadow",
    "/etc/subuid",
    "/etc/subgid",
    "/etc/security/opasswd",
    "/etc/nsswitch.conf",
    "/srv/accounts/new",
];
const FOLDERS: [&str; 3] = ["/var/lib/extrausers", "/etc/userdb", "/run/userdb"];

/// One database: its bytes, and who may write to it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    bytes: Vec<u8>,
    mode: u32,
    owner: (u32, u32),
    access_list: Vec<u8>,
}

/// All of them by path. What is not there is not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Databases(BTreeMap<String, State>);

impl Databases {
    /// As process `pid` has them, and the file `also` with them.
    ///
    /// # Errors
    /// The process is gone, or its root cannot be read.
    pub fn of_process(pid: u32, also: &str) -> Result<Self, String> {
        let root = rustix::fs::open(format!("/proc/{pid}/root"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| format!("root of process {pid}: {error}"))?;
        let mut found = BTreeMap::new();
        for path in FILES.into_iter().chain((!FILES.contains(&also)).then_some(also)) {
            found.extend(read(&root, path)?.map(|state| (path.to_owned(), state)));
        }
        for folder in FOLDERS {
            for name in names(&root, folder) {
                let path = format!("{folder}/{name}");
                let state = read(&root, &path)?;
                found.extend(state.map(|state| (path, state)));
            }
        }
        Ok(Self(found))
    }

    /// What is different in `later`.
    pub fn difference(&self, later: &Self) -> Difference {
        let paths: BTreeSet<&String> = self.0.keys().chain(later.0.keys()).collect();
        let (before, after) = (|path: &String| self.0.get(path), |path: &String| later.0.get(path));
        let differing = paths.into_iter().filter(|path| before(path) != after(path));
        let (bytes, rights) = differing
            .cloned()
            .partition(|path| before(path).map(|state| &state.bytes) != after(path).map(|state| &state.bytes));
        Difference { bytes, rights }
    }
}

/// Paths of databases that are not as they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Other bytes, made, or gone.
    pub bytes: Vec<String>,
    /// The same bytes, but another mode, owner or access list.
    pub rights: Vec<String>,
}

impl Difference {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.rights.is_empty()
    }
}

/// Links are followed within the container's root only.
fn open(root: &OwnedFd, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)
}

/// `None` when nothing, or nothing that can be read, is there: a device, a socket.
fn read(root: &OwnedFd, path: &str) -> Result<Option<State>, String> {
    let failed = |error: std::io::Error| format!("read {path} of the container: {error}");
    let mut file = match open(root, path, OFlags::RDONLY) {
        Ok(fd) => std::fs::File::from(fd),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NXIO | rustix::io::Errno::ACCESS) => return Ok(None),
        Err(error) => return Err(failed(error.into())),
    };
    let status = file.metadata().map_err(failed)?;
    if !status.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(failed)?;
    let mut access_list = vec![0; 1024];
    let length = rustix::fs::fgetxattr(&file, c"system.posix_acl_access", &mut access_list[..]).unwrap_or(0);
    access_list.truncate(length);
    Ok(Some(State { bytes, mode: status.mode(), owner: (status.uid(), status.gid()), access_list }))
}

fn names(root: &OwnedFd, folder: &str) -> Vec<String> {
    let Ok(fd) = open(root, folder, OFlags::RDONLY | OFlags::DIRECTORY) else { return Vec::new() };
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let entries = std::fs::read_dir(link).into_iter().flatten().flatten();
    entries.map(|entry| String::from_utf8_lossy(entry.file_name().as_bytes()).into_owned()).collect()
}

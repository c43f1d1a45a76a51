//! A process whose paths are resolved in tests: a forked child in a mount namespace of its own, with a random tree of links and mounts,
//! that answers what the kernel itself makes of a path. It makes the paths as well, and answers many at a time.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::IntoRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::mount::MsFlags;
use nix::mount::mount;
use nix::sched::CloneFlags;
use nix::sched::unshare;
use rustix::fs::AtFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;

use crate::kernel::Errno;
use crate::kernel::foreign_root::test_paths::Asked;
use crate::kernel::foreign_root::test_paths::PathMaker;
use crate::kernel::foreign_root::test_world;
use crate::kernel::foreign_root::test_world::Random;
use crate::kernel::raw::child::TestChild;
use crate::kernel::raw::child::borrow_for_test;
use crate::kernel::raw::child::close_all_but_for_test;
use crate::kernel::raw::child::fork_for_test;
use crate::kernel::raw::child::replace_descriptor_for_test;

/// Ask: open with `O_PATH`.
pub const LOOK_UP_FOLLOWING: u8 = 0;
/// Ask: open with `O_PATH | O_NOFOLLOW`.
pub const LOOK_UP_LINK: u8 = 1;
/// Ask: what the base itself is, `AT_EMPTY_PATH`.
pub const LOOK_UP_BASE: u8 = 2;
/// Ask: open with `O_CREAT`.
pub const CREATE: u8 = 3;
/// Ask: change root, working directory and overlays, and make that many paths and answers.
const BATCH: u8 = 4;

/// Ask, together with `RESOLVE_*` (at most [`ALL_RESTRICTIONS`]): open with `O_PATH` by openat2(2).
pub const LOOK_UP_RESTRICTED: u8 = 0x40;
/// `RESOLVE_*` that can be asked for, but `RESOLVE_CACHED`.
pub const ALL_RESTRICTIONS: u8 = 0x1f;

/// A descriptor that no target holds.
pub const CLOSED_DESCRIPTOR: i32 = 777;

/// The working directory of a batch was deleted.
pub const IN_DELETED: u8 = 1;
/// The root of a batch is not the target's usual one.
pub const OTHER_ROOT: u8 = 2;

/// Device, inode and mode, or the errno.
pub type Word = Result<(u64, u64, u32), Errno>;

/// How the target lives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A chrooted process.
    Process,
    /// A chrooted process, the first of its own pid namespace.
    PidNamespace,
    /// The second process of a pid namespace inside another one, where the first has the number 2: only names of its own count.
    NestedPidNamespaces,
    /// A thread with a root and working directory of its own.
    Thread,
    /// A thread with root, working directory and descriptors of its own.
    ThreadWithDescriptors,
    /// A chrooted process with file systems mounted over its root.
    CoveredRoot,
    /// Not chrooted: the root of its mount namespace is the host's.
    HostRoot,
}

/// The child and the way to ask it.
pub struct Target {
    /// How it lives.
    pub kind: Kind,
    socket: UnixStream,
    /// Its thread id.
    pub tid: u32,
    /// Descriptors that it holds.
    pub descriptors: Vec<i32>,
    _child: TestChild,
    _folder: tempfile::TempDir,
}

impl Target {
    /// Forks and sets up a target.
    pub fn start(kind: Kind, seed: u64) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let root = folder.path().to_owned();
        let (mut socket, theirs) = UnixStream::pair().expect("socket pair");
        let child = fork_for_test(move || match live(kind, &root, &theirs, seed) {
            Ok(()) => 0,
            Err(error) => {
                let _ = (&theirs).write_all(&0_u32.to_ne_bytes());
                let _ = write!(&theirs, "{error}");
                1
            }
        });
        let mut word = [0_u8; 4];
        socket.read_exact(&mut word).expect("hello");
        let tid = u32::from_ne_bytes(word);
        if tid == 0 {
            let _ = socket.shutdown(std::net::Shutdown::Write);
            let mut reason = String::new();
            let _ = socket.set_read_timeout(Some(std::time::Duration::from_millis(200)));
            let _ = socket.read_to_string(&mut reason);
            panic!("target could not be set up: {reason}");
        }
        socket.read_exact(&mut word).expect("count");
        let mut descriptors = Vec::new();
        for _ in 0..u32::from_ne_bytes(word) {
            socket.read_exact(&mut word).expect("descriptor");
            descriptors.push(i32::from_ne_bytes(word));
        }
        Self { kind, socket, tid, descriptors, _child: child, _folder: folder }
    }

    /// What the kernel makes of `path` in the target.
    pub fn ask(&mut self, what: u8, base: i32, path: &[u8]) -> Word {
        self.send(what, base, path);
        let mut reply = [0_u8; 24];
        self.socket.read_exact(&mut reply).expect("reply");
        word(&reply)
    }

    /// Has the target change where it is and make `count` paths: how it is now, and the paths with the kernel's word on each.
    pub fn ask_many(&mut self, count: i32) -> (u8, Vec<(Asked, Word)>) {
        self.send(BATCH, count, &[]);
        let mut head = [0_u8; 5];
        self.socket.read_exact(&mut head).expect("head of a batch");
        let mut body = vec![0; u32::from_ne_bytes(head[1..].try_into().expect("4")) as usize];
        self.socket.read_exact(&mut body).expect("batch");
        let mut rest = body.as_slice();
        let mut cases = Vec::new();
        while let [what, after @ ..] = rest {
            let number = |at: usize| i32::from_ne_bytes(after[at..at + 4].try_into().expect("4"));
            let end = 8 + number(4) as usize;
            let asked = Asked { what: *what, base: number(0), path: after[8..end].to_vec() };
            cases.push((asked, word(after[end..end + 24].try_into().expect("24"))));
            rest = &after[end + 24..];
        }
        (head[0], cases)
    }

    fn send(&mut self, what: u8, base: i32, path: &[u8]) {
        let mut request = vec![what];
        request.extend_from_slice(&base.to_ne_bytes());
        request.extend_from_slice(&(path.len() as u32).to_ne_bytes());
        request.extend_from_slice(path);
        self.socket.write_all(&request).expect("ask");
    }
}

fn word(reply: &[u8; 24]) -> Word {
    match i32::from_ne_bytes(reply[..4].try_into().expect("4")) {
        0 => Ok((
            u64::from_ne_bytes(reply[8..16].try_into().expect("8")),
            u64::from_ne_bytes(reply[16..24].try_into().expect("8")),
            u32::from_ne_bytes(reply[4..8].try_into().expect("4")),
        )),
        errno => Err(Errno::from_raw_os_error(errno)),
    }
}

/// What the child needs to set itself up.
struct Setting<'a> {
    kind: Kind,
    folder: &'a Path,
    socket: &'a UnixStream,
    seed: u64,
}

/// The child: sets itself up, says hello, serves until the socket closes.
fn live(kind: Kind, folder: &Path, socket: &UnixStream, seed: u64) -> std::io::Result<()> {
    // what other tests have open they may also remove
    close_all_but_for_test(socket.as_raw_fd());
    let setting = Setting { kind, folder, socket, seed };
    private_mounts()?;
    mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    fs::create_dir(folder.join("hostproc"))?;
    test_world::bind(Path::new("/proc"), &folder.join("hostproc"))?;
    test_world::build_tree(folder, &mut Random(seed))?;
    match kind {
        Kind::Process | Kind::HostRoot => {
            mount_all_procfs(folder)?;
            setting.enter(folder)
        }
        Kind::CoveredRoot => {
            mount_all_procfs(folder)?;
            // a root that is the root of a mount, and one that is not
            setting.enter(&if seed.is_multiple_of(2) { folder.to_owned() } else { folder.join("a") })
        }
        Kind::PidNamespace => in_pid_namespace(|| {
            mount_all_procfs(folder)?;
            setting.enter(folder)
        }),
        Kind::NestedPidNamespaces => in_pid_namespace(|| {
            test_world::mount_procfs(folder, "outerproc")?;
            in_pid_namespace(|| {
                mount_all_procfs(folder)?;
                wait_for(fork_for_test(|| i32::from(setting.enter(folder).is_err())))
            })
        }),
        Kind::Thread | Kind::ThreadWithDescriptors => {
            mount_all_procfs(folder)?;
            std::thread::scope(|scope| {
                let served = scope.spawn(|| {
                    unshare(CloneFlags::CLONE_FS)?;
                    setting.enter(&folder.join("a"))
                });
                served.join().map_err(|_| std::io::Error::other("thread"))?
            })
        }
    }
}

fn private_mounts() -> std::io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    Ok(())
}

/// The procfs of this pid namespace, also in directories that may be a root.
fn mount_all_procfs(root: &Path) -> std::io::Result<()> {
    ["proc", "a/proc", "b/proc", "o/proc"].iter().try_for_each(|name| test_world::mount_procfs(root, name))
}

/// Runs `work` in a child that is the first process of a new pid namespace.
fn in_pid_namespace(work: impl FnOnce() -> std::io::Result<()>) -> std::io::Result<()> {
    unshare(CloneFlags::CLONE_NEWPID)?;
    wait_for(fork_for_test(|| i32::from(work().is_err())))
}

fn wait_for(child: TestChild) -> std::io::Result<()> {
    if child.wait() == 0 { Ok(()) } else { Err(std::io::Error::other("inner process")) }
}

/// The calling thread's number in the pid namespace of the test, whose procfs is still in place.
fn own_tid() -> std::io::Result<u32> {
    let link = fs::read_link("/proc/thread-self")?;
    let number = link.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
    number.ok_or_else(|| std::io::Error::other("thread-self"))
}

/// Another process: its own mount namespace, chrooted to `root`, in a directory that was deleted. Its numbers in both pid namespaces.
fn start_neighbour(root: &Path) -> std::io::Result<(TestChild, [u32; 2])> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let root = root.to_owned();
    let child = fork_for_test(move || {
        let settle = || -> std::io::Result<()> {
            private_mounts()?;
            let tid = own_tid()?;
            std::os::unix::fs::chroot(&root)?;
            fs::create_dir("/gone")?;
            std::env::set_current_dir("/gone")?;
            fs::remove_dir("/gone")?;
            (&theirs).write_all(&tid.to_ne_bytes())?;
            (&theirs).read_exact(&mut [0])
        };
        i32::from(settle().is_err())
    });
    let mut word = [0; 4];
    ours.read_exact(&mut word)?;
    // it lives for as long as this socket
    let _ = ours.into_raw_fd();
    let inner = child.pid();
    Ok((child, [u32::from_ne_bytes(word), inner]))
}

impl Setting<'_> {
    /// Makes `root` the root, unless the target keeps the host's, and serves.
    fn enter(&self, root: &Path) -> std::io::Result<()> {
        let tid = own_tid()?;
        let (_neighbour, neighbours) = start_neighbour(&root.join("a"))?;
        let mut descriptors = open_descriptors(root)?;
        // a directory above the root to come: an escape that `..` must follow like the kernel does
        descriptors.push(fs::File::open(root.join(".."))?.into_raw_fd());
        let family = [tid, std::process::id()].into_iter().chain(neighbours).collect();
        let seed = self.seed ^ 0x9e37_79b9_7f4a_7c15;
        let mut paths = PathMaker::new(seed, self.folder, family)?;
        if self.kind == Kind::ThreadWithDescriptors {
            unshare(CloneFlags::CLONE_FILES)?;
            // from now on these numbers mean something else to the other threads
            replace_descriptor_for_test(descriptors[2], descriptors[1])?;
            replace_descriptor_for_test(descriptors[0], descriptors[3])?;
        }
        if self.kind == Kind::HostRoot {
            std::env::set_current_dir(root)?;
        } else {
            std::os::unix::fs::chroot(root)?;
            std::env::set_current_dir("/")?;
        }
        if self.kind == Kind::CoveredRoot {
            descriptors.extend(test_world::cover_root()?.into_iter().map(IntoRawFd::into_raw_fd));
        }
        paths.set_descriptors(&descriptors);
        let places = descriptors.iter().copied().filter(|fd| is_directory(*fd)).collect();
        Server { kind: self.kind, home: descriptors[0], places, paths }.serve(self.socket, tid, &descriptors)
    }
}

fn is_directory(fd: i32) -> bool {
    rustix::fs::openat(borrow_for_test(fd), ".", OFlags::PATH, Mode::empty()).is_ok()
}

fn open_descriptors(root: &Path) -> std::io::Result<Vec<i32>> {
    let gone = root.join("gone");
    fs::create_dir(&gone)?;
    let deleted = fs::File::open(&gone)?;
    fs::remove_dir(&gone)?;
    let link_flags = OFlags::PATH | OFlags::NOFOLLOW;
    let links: Vec<_> = fs::read_dir(root)?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()))
        .take(2)
        .map(|entry| rustix::fs::open(entry.path(), link_flags, Mode::empty()))
        .collect::<Result<_, _>>()?;
    let (pipe, _) = std::io::pipe()?;
    let mut descriptors = vec![
        fs::File::open(root)?.into_raw_fd(),
        fs::File::open(root.join("a"))?.into_raw_fd(),
        fs::File::open(root.join("b")).or_else(|_| fs::File::open(root.join("a/a")))?.into_raw_fd(),
        fs::File::open(root.join("f")).or_else(|_| fs::File::open(root.join("a/f")))?.into_raw_fd(),
        deleted.into_raw_fd(),
        pipe.into_raw_fd(),
    ];
    descriptors.extend(links.into_iter().map(IntoRawFd::into_raw_fd));
    Ok(descriptors)
}

/// What the child is while it serves.
struct Server {
    kind: Kind,
    /// Its usual root.
    home: i32,
    /// Its descriptors of directories.
    places: Vec<i32>,
    paths: PathMaker,
}

impl Server {
    fn serve(&mut self, mut socket: &UnixStream, tid: u32, descriptors: &[i32]) -> std::io::Result<()> {
        socket.write_all(&tid.to_ne_bytes())?;
        socket.write_all(&(descriptors.len() as u32).to_ne_bytes())?;
        for descriptor in descriptors {
            socket.write_all(&descriptor.to_ne_bytes())?;
        }
        let mut head = [0_u8; 9];
        while socket.read_exact(&mut head).is_ok() {
            let base = i32::from_ne_bytes(head[1..5].try_into().unwrap_or_default());
            let mut path = vec![0; u32::from_ne_bytes(head[5..].try_into().unwrap_or_default()) as usize];
            socket.read_exact(&mut path)?;
            if head[0] == BATCH {
                let state = self.stir()?;
                let body = self.answers(base);
                socket.write_all(&[state])?;
                socket.write_all(&(body.len() as u32).to_ne_bytes())?;
                socket.write_all(&body)?;
            } else {
                socket.write_all(&act(head[0], base, &path))?;
            }
        }
        Ok(())
    }

    fn answers(&mut self, count: i32) -> Vec<u8> {
        let mut body = Vec::new();
        for _ in 0..count {
            let Asked { what, base, path } = self.paths.next();
            body.push(what);
            body.extend_from_slice(&base.to_ne_bytes());
            body.extend_from_slice(&(path.len() as u32).to_ne_bytes());
            body.extend_from_slice(&path);
            body.extend_from_slice(&act(what, base, &path));
        }
        body
    }

    /// Goes somewhere else, sometimes under another root, and has an overlay copy a file up.
    fn stir(&mut self) -> std::io::Result<u8> {
        let mut state = 0;
        if !matches!(self.kind, Kind::HostRoot | Kind::CoveredRoot) {
            rustix::process::fchdir(borrow_for_test(self.home))?;
            std::os::unix::fs::chroot(".")?;
            if self.paths.random.one_in(4) {
                let root = self.paths.random.pick(&["a", "b", "c", "a/a/b", "b/a", "o", "gone"]);
                if root == "gone" {
                    fs::create_dir(root)?;
                }
                if std::os::unix::fs::chroot(root).is_ok() {
                    state |= OTHER_ROOT;
                }
                if root == "gone" {
                    fs::remove_dir(root)?;
                }
            }
            let file = self.paths.random.pick(&test_world::OVERLAY_FILES);
            // a thread has other files below its root
            let _ = fs::OpenOptions::new().append(true).open(file).map(|mut file| file.write_all(b"x"));
        }
        let place = self.places[self.paths.random.next(self.places.len())];
        rustix::process::fchdir(borrow_for_test(place))?;
        let deeper = self.paths.random.pick(&[".", "a", "b/a", "o/a", "a/a/b", "proc/self", ".."]);
        let _ = std::env::set_current_dir(deeper);
        let here = rustix::fs::open(".", OFlags::PATH, Mode::empty())?;
        if self.paths.random.one_in(6) && fs::create_dir("gone").is_ok() {
            std::env::set_current_dir("gone")?;
            rustix::fs::unlinkat(&here, "gone", AtFlags::REMOVEDIR)?;
        }
        if rustix::fs::stat(".")?.st_nlink == 0 {
            state |= IN_DELETED;
        }
        Ok(state)
    }
}

/// One request in the target: the kernel's own word.
fn act(what: u8, base: i32, path: &[u8]) -> [u8; 24] {
    let mut reply = [0_u8; 24];
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let examined = rustix_base(base, |base| {
        let flags = match what {
            LOOK_UP_BASE => return rustix::fs::statat(base, c"", AtFlags::EMPTY_PATH),
            LOOK_UP_FOLLOWING => OFlags::PATH,
            LOOK_UP_LINK => OFlags::PATH | OFlags::NOFOLLOW,
            restricted if restricted & LOOK_UP_RESTRICTED != 0 => {
                let resolve = ResolveFlags::from_bits_retain(u64::from(restricted & ALL_RESTRICTIONS));
                return open_restricted(base, path, resolve).and_then(rustix::fs::fstat);
            }
            _ => OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK,
        };
        rustix::fs::fstat(rustix::fs::openat(base, path, flags, Mode::RWXU)?)
    });
    match examined {
        Ok(status) => {
            reply[4..8].copy_from_slice(&status.st_mode.to_ne_bytes());
            reply[8..16].copy_from_slice(&status.st_dev.to_ne_bytes());
            reply[16..].copy_from_slice(&status.st_ino.to_ne_bytes());
        }
        Err(errno) => reply[..4].copy_from_slice(&errno.raw_os_error().to_ne_bytes()),
    }
    reply
}

/// "-EAGAIN": some rename or mount anywhere on the machine came between (fs/namei.c, `handle_dots`).
fn open_restricted(base: BorrowedFd<'_>, path: &Path, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let open = || rustix::fs::openat2(base, path, OFlags::PATH, Mode::empty(), resolve);
    (0..10_000).map(|_| open()).find(|opened| !matches!(opened, Err(Errno::AGAIN))).unwrap_or(Err(Errno::AGAIN))
}

/// Uses a descriptor that this process is known to hold, or the working directory.
pub fn rustix_base<T>(base: i32, work: impl FnOnce(BorrowedFd<'_>) -> Result<T, Errno>) -> Result<T, Errno> {
    if base == -100 {
        return work(rustix::fs::CWD);
    }
    work(borrow_for_test(base))
}

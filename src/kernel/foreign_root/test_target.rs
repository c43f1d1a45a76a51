//! A process whose paths are resolved in tests: a forked child in a mount namespace of its own, with a random tree of links and mounts,
//! that answers what the kernel itself makes of a path.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::os::fd::BorrowedFd;
use std::os::fd::IntoRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::mount::MsFlags;
use nix::mount::mount;
use nix::sched::CloneFlags;
use nix::sched::unshare;
use rustix::fs::Mode;
use rustix::fs::OFlags;

use crate::kernel::Errno;
use crate::kernel::raw::child::TestChild;
use crate::kernel::raw::child::borrow_for_test;
use crate::kernel::raw::child::fork_for_test;

/// Ask: open with `O_PATH`.
pub const LOOK_UP_FOLLOWING: u8 = 0;
/// Ask: open with `O_PATH | O_NOFOLLOW`.
pub const LOOK_UP_LINK: u8 = 1;
/// Ask: open with `O_CREAT`.
pub const CREATE: u8 = 2;
/// Ask: make it the working directory.
pub const CHANGE_DIRECTORY: u8 = 3;

/// xorshift64*: the same paths on every run, and a seed to name in a report.
pub struct Random(pub u64);

impl Random {
    /// A number below `below`.
    pub fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
    }

    fn pick<'list>(&mut self, list: &[&'list str]) -> &'list str {
        list[self.next(list.len())]
    }
}

const DIRECTORIES: [&str; 10] = ["a", "b", "c", "a/a", "a/b", "b/a", "c/c", "a/a/b", "b/a/c", "m"];
const FILES: [&str; 6] = ["f", "a/f", "b/g", "a/b/f", "b/a/f", "c/c/f"];
const NAMES: [&str; 13] = ["a", "a", "b", "c", "f", "f", "h", "m", "p", "etc", "missing", "proc", "stiff"];
const STARTS: [&str; 28] = [
    "proc/self/root",
    "proc/self/cwd",
    "proc/self/exe",
    "proc/self/fd",
    "proc/thread-self/cwd",
    "proc/thread-self/root",
    "proc/self/ns/mnt",
    "proc/mounts",
    "proc/net",
    "proc/self/task",
    "proc/self",
    "proc/thread-self",
    "proc/self/status",
    "hostproc/self/root",
    "hostproc/self",
    "hostproc/thread-self/cwd",
    "hostproc/self/cwd",
    "hostproc/mounts",
    "proc/1",
    "proc/self/../self/root",
    "proc/self/fdinfo/..",
    "a/../proc/self/root/a",
    "proc/self/root/proc/self/root",
    "proc/selfish",
    "outerproc/self",
    "outerproc/self/root",
    "outerproc/self/fd",
    "outerproc/thread-self/cwd",
];

/// A path of up to five parts, some of them real.
pub fn random_path(random: &mut Random, descriptors: &[i32]) -> String {
    let mut path = String::new();
    if random.next(2) == 0 {
        path.push('/');
    }
    match random.next(10) {
        0 | 1 => path.push_str(random.pick(&STARTS)),
        2 => {
            let number = descriptors.get(random.next(descriptors.len() + 1)).copied().unwrap_or(999);
            path.push_str(&format!(
                "{}/{number}",
                random.pick(&["proc/self/fd", "proc/thread-self/fd", "hostproc/self/fd"])
            ));
        }
        3 => path.push_str(&format!("k{}", random.next(46))),
        _ => path.push_str(&random_component(random)),
    }
    for _ in 0..random.next(4) {
        path.push_str(random.pick(&["/", "/", "/", "/", "//", "/./"]));
        path.push_str(&random_component(random));
    }
    if random.next(7) == 0 {
        path.push_str(random.pick(&["/", "//", "/.", "/.."]));
    }
    path
}

fn random_component(random: &mut Random) -> String {
    match random.next(20) {
        0..=3 => "..".to_owned(),
        4 => ".".to_owned(),
        5..=10 => format!("l{}", random.next(40)),
        11 if random.next(4) == 0 => "x".repeat(254 + random.next(3)),
        _ => random.pick(&NAMES).to_owned(),
    }
}

/// Fills `root` with directories, files and links.
fn build_tree(root: &Path, random: &mut Random) -> std::io::Result<()> {
    for directory in DIRECTORIES {
        fs::create_dir_all(root.join(directory))?;
    }
    for file in FILES {
        fs::write(root.join(file), file)?;
    }
    for directory in DIRECTORIES {
        fs::write(root.join(directory).join("etc"), directory)?;
    }
    fs::write(root.join("x".repeat(255)), b"")?;
    fs::hard_link(root.join("a/f"), root.join("b/h"))?;
    nix::unistd::mkfifo(&root.join("p"), nix::sys::stat::Mode::S_IRWXU)?;
    for number in 0..40 {
        let folder = if random.next(3) == 0 { "." } else { DIRECTORIES[random.next(DIRECTORIES.len())] };
        let text = match random.next(3) {
            0 => format!("/{}", DIRECTORIES[random.next(DIRECTORIES.len())]),
            1 => format!("/{}", FILES[random.next(FILES.len())]),
            _ => random_path(random, &[]),
        };
        std::os::unix::fs::symlink(text, root.join(folder).join(format!("l{number}")))?;
    }
    std::os::unix::fs::symlink("a", root.join("k0"))?;
    for number in 1..46 {
        std::os::unix::fs::symlink(format!("k{}", number - 1), root.join(format!("k{number}")))?;
    }
    bind(&root.join("c"), &root.join("a/b"))?;
    bind(&root.join("a"), &root.join("m"))?;
    bind(&root.join("a/f"), &root.join("b/g"))?;
    bind(root, &root.join("c/c"))?;
    // links on this mount are not followed (Linux 5.10)
    let stiff = root.join("stiff");
    fs::create_dir(&stiff)?;
    bind(root, &stiff)?;
    let no_symbolic_links = MsFlags::from_bits_retain(0x100);
    let remount = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | no_symbolic_links;
    mount(None::<&str>, &stiff, None::<&str>, remount, None::<&str>)?;
    Ok(())
}

fn bind(from: &Path, to: &Path) -> nix::Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
}

fn mount_procfs(root: &Path, name: &str) -> std::io::Result<()> {
    fs::create_dir_all(root.join(name))?;
    mount(Some("proc"), &root.join(name), Some("proc"), MsFlags::empty(), None::<&str>)?;
    Ok(())
}

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

    /// What the kernel makes of `path` in the target: device, inode and mode, or its errno.
    pub fn ask(&mut self, what: u8, base: i32, path: &[u8]) -> Result<(u64, u64, u32), Errno> {
        let mut request = vec![what];
        request.extend_from_slice(&base.to_ne_bytes());
        request.extend_from_slice(&(path.len() as u32).to_ne_bytes());
        request.extend_from_slice(path);
        self.socket.write_all(&request).expect("ask");
        let mut reply = [0_u8; 24];
        self.socket.read_exact(&mut reply).expect("reply");
        match i32::from_ne_bytes(reply[..4].try_into().expect("4")) {
            0 => Ok((
                u64::from_ne_bytes(reply[8..16].try_into().expect("8")),
                u64::from_ne_bytes(reply[16..24].try_into().expect("8")),
                u32::from_ne_bytes(reply[4..8].try_into().expect("4")),
            )),
            errno => Err(Errno::from_raw_os_error(errno)),
        }
    }
}

/// The child: sets itself up, says hello, serves until the socket closes.
fn live(kind: Kind, root: &Path, socket: &UnixStream, seed: u64) -> std::io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    mount(Some("tmpfs"), root, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    fs::create_dir(root.join("hostproc"))?;
    bind(Path::new("/proc"), &root.join("hostproc"))?;
    build_tree(root, &mut Random(seed))?;
    match kind {
        Kind::Process => {
            mount_procfs(root, "proc")?;
            enter(root, socket)
        }
        Kind::HostRoot => {
            std::env::set_current_dir(root)?;
            serve(socket, own_tid()?, open_descriptors(Path::new("."))?)
        }
        Kind::PidNamespace => in_pid_namespace(|| {
            mount_procfs(root, "proc")?;
            enter(root, socket)
        }),
        Kind::NestedPidNamespaces => in_pid_namespace(|| {
            mount_procfs(root, "outerproc")?;
            in_pid_namespace(|| {
                mount_procfs(root, "proc")?;
                wait_for(fork_for_test(|| i32::from(enter(root, socket).is_err())))
            })
        }),
        Kind::Thread => {
            mount_procfs(root, "proc")?;
            let jail = root.join("a");
            mount_procfs(&jail, "proc")?;
            std::thread::scope(|scope| {
                let served = scope.spawn(|| {
                    unshare(CloneFlags::CLONE_FS)?;
                    enter(&jail, socket)
                });
                served.join().map_err(|_| std::io::Error::other("thread"))?
            })
        }
    }
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

fn enter(root: &Path, socket: &UnixStream) -> std::io::Result<()> {
    let tid = own_tid()?;
    let mut descriptors = open_descriptors(root)?;
    // a directory above the root to come: an escape that `..` must follow like the kernel does
    descriptors.push(fs::File::open(root.join(".."))?.into_raw_fd());
    std::os::unix::fs::chroot(root)?;
    std::env::set_current_dir("/")?;
    serve(socket, tid, descriptors)
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
        fs::File::open(root.join("f"))?.into_raw_fd(),
        deleted.into_raw_fd(),
        pipe.into_raw_fd(),
    ];
    descriptors.extend(links.into_iter().map(IntoRawFd::into_raw_fd));
    Ok(descriptors)
}

fn serve(mut socket: &UnixStream, tid: u32, descriptors: Vec<i32>) -> std::io::Result<()> {
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
        socket.write_all(&act(head[0], base, &path))?;
    }
    Ok(())
}

/// One request in the target: the kernel's own word.
fn act(what: u8, base: i32, path: &[u8]) -> [u8; 24] {
    let mut reply = [0_u8; 24];
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let opened = rustix_base(base, |base| {
        let flags = match what {
            LOOK_UP_FOLLOWING => OFlags::PATH,
            LOOK_UP_LINK => OFlags::PATH | OFlags::NOFOLLOW,
            CREATE => OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK,
            _ => OFlags::PATH | OFlags::DIRECTORY,
        };
        let fd = rustix::fs::openat(base, path, flags, Mode::RWXU)?;
        if what == CHANGE_DIRECTORY {
            rustix::process::fchdir(&fd)?;
        }
        rustix::fs::fstat(&fd)
    });
    match opened {
        Ok(status) => {
            reply[4..8].copy_from_slice(&status.st_mode.to_ne_bytes());
            reply[8..16].copy_from_slice(&status.st_dev.to_ne_bytes());
            reply[16..].copy_from_slice(&status.st_ino.to_ne_bytes());
        }
        Err(errno) => reply[..4].copy_from_slice(&errno.raw_os_error().to_ne_bytes()),
    }
    reply
}

/// Uses a descriptor that this process is known to hold, or the working directory.
fn rustix_base<T>(base: i32, work: impl FnOnce(BorrowedFd<'_>) -> Result<T, Errno>) -> Result<T, Errno> {
    if base == -100 {
        return work(rustix::fs::CWD);
    }
    work(borrow_for_test(base))
}

//! What a test needs of the machine: root, a mount namespace of its own, scratch space, root file systems, fixtures.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

pub use super::built::{launcher, program, repository, target_folder};

/// A folder on a tmpfs in a mount namespace of this thread's own.
pub struct Scratch {
    folder: TempDir,
}

impl Scratch {
    /// Gives this thread, and what it starts, a mount namespace of its own and a tmpfs in it.
    ///
    /// # Panics
    /// Without root.
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "root is needed to start containers: run integration/test with sudo");
        unshare(CloneFlags::CLONE_NEWNS).expect("unshare a mount namespace: CAP_SYS_ADMIN is needed");
        remount("/", MsFlags::MS_REC | MsFlags::MS_PRIVATE).expect("make mounts private");
        leave_hybrid_cgroups();
        let folder = tempfile::Builder::new().prefix("scratch-").tempdir().expect("temporary folder");
        tmpfs(folder.path(), "mode=755");
        Self { folder }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A new folder in it.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(&path).expect("create folder");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.folder.path(), MntFlags::MNT_DETACH) {
            eprintln!("unmount {}: {error}", self.folder.path().display());
        }
    }
}

fn remount(path: &str, flags: MsFlags) -> nix::Result<()> {
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
}

/// Mounts a tmpfs on `folder`.
pub fn tmpfs(folder: &Path, options: &str) {
    mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some(options)).expect("mount a tmpfs");
}

/// crun refuses a v2 hierarchy beside v1 controllers; here it is taken out of this namespace.
fn leave_hybrid_cgroups() {
    let mounts = std::fs::read_to_string("/proc/thread-self/mounts").expect("read the mounts");
    let has = |kind: &str| mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind));
    if has("cgroup") {
        for line in mounts.lines() {
            let mut fields = line.split(' ').skip(1);
            if let (Some(place), Some("cgroup2")) = (fields.next(), fields.next()) {
                umount2(place, MntFlags::MNT_DETACH).expect("unmount the v2 cgroup hierarchy");
            }
        }
    }
}

/// The root file system `small` or `large`, made when it is not there yet. Never written to: bundles lay an overlay on it.
pub fn rootfs(size: &str) -> PathBuf {
    static SMALL: OnceLock<PathBuf> = OnceLock::new();
    static LARGE: OnceLock<PathBuf> = OnceLock::new();
    let place = if size == "large" { &LARGE } else { &SMALL };
    place
        .get_or_init(|| {
            let output = Command::new(repository().join("integration/rootfs"))
                .arg(size)
                .env("CARGO_TARGET_DIR", target_folder())
                .stderr(Stdio::inherit())
                .output()
                .expect("start integration/rootfs");
            assert!(output.status.success(), "integration/rootfs {size} failed: see its lines above");
            PathBuf::from(String::from_utf8(output.stdout).expect("path").trim_end())
        })
        .clone()
}

/// The static program of `fixtures/calls.c`.
pub fn calls_program() -> &'static [u8] {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| compiled("calls.c"))
}

/// The static program of a C source in `fixtures`, or of all those in a folder there.
pub fn compiled(source: &str) -> Vec<u8> {
    compiled_c(&fixture(source))
}

/// The static program of a C source, or of all those in a folder.
pub fn compiled_c(source: &Path) -> Vec<u8> {
    let mut compiler = Command::new("gcc");
    compiler.args(["-static", "-O1", "-Wall", "-Wextra", "-Werror"]);
    compiled_by(compiler, &sources(source), "gcc and libc6-dev")
}

/// The static program of a Go source.
pub fn compiled_go(source: &Path) -> Vec<u8> {
    let mut compiler = Command::new("go");
    // its caches go with this program's folder
    let cache = tempfile::tempdir().expect("temporary folder");
    compiler.env("CGO_ENABLED", "0").env("GOCACHE", cache.path()).env("GOFLAGS", "").arg("build");
    compiled_by(compiler, &[source.to_owned()], "golang-go")
}

/// A source of those in `fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    repository().join("integration/fixtures").join(name)
}

fn compiled_by(mut compiler: Command, sources: &[PathBuf], packages: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("temporary folder");
    let output = folder.path().join("program");
    let status = compiler.arg("-o").arg(&output).args(sources).current_dir(folder.path()).status();
    let status =
        status.unwrap_or_else(|error| panic!("start {compiler:?}: {error}; install the Debian packages {packages}"));
    assert!(status.success(), "{sources:?} could not be compiled: see the lines above");
    std::fs::read(output).expect("read the compiled program")
}

fn sources(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let entries = std::fs::read_dir(path).expect("list the fixture").map(|entry| entry.expect("entry").path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|ending| ending == "c")).collect();
    found.sort();
    found
}

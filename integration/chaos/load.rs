//! Containers under load: programs of several languages that check themselves, on both runtimes, in every way of guarding, below
//! one daemon.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use acctguard::model::policy::Ground;

use super::outcome::Outcome;
use super::starts::Starts;
use crate::harness::bundle::{Bundle, Spec};
use crate::harness::machine::{compiled_c, compiled_go, repository, rootfs};
use crate::harness::node::{Node, Runtime};

/// How long all programs together may take to begin, or to end.
const PATIENCE: Duration = Duration::from_secs(90);

/// How a container is guarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Audit.
    Audit,
    /// Enforce, on the seal.
    Sealed,
    /// Enforce, on the broker alone.
    Brokered,
}

impl Guard {
    /// All.
    pub const ALL: [Self; 3] = [Self::Audit, Self::Sealed, Self::Brokered];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Sealed => "sealed",
            Self::Brokered => "brokered",
        }
    }

    /// The mode of its policy.
    pub const fn mode(self) -> &'static str {
        if matches!(self, Self::Audit) { "audit" } else { "enforce" }
    }

    /// What its creation must say.
    pub const fn ground(self) -> Ground {
        match self {
            Self::Audit => Ground::Notify,
            Self::Sealed => Ground::Seal,
            Self::Brokered => Ground::Broker,
        }
    }

    fn policy(self) -> String {
        let landlock = if self == Self::Brokered { "  landlock: off\n" } else { "" };
        format!(
            "---\napiVersion: acctguard.io/v1alpha1\nkind: AccountPolicy\nmetadata: {{name: {0}}}\n\
             spec:\n  match: {{annotations: {{guard: {0}}}}}\n  mode: {1}\n{landlock}",
            self.name(),
            self.mode()
        )
    }
}

/// What makes the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Static C: the most kinds of calls, at the highest rate.
    C,
    /// A script in a root file system with nothing but busybox.
    Shell,
    /// Python, with threads.
    Python,
    /// Go, static.
    Go,
}

/// One container to be.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// What runs in it.
    pub program: Program,
    /// How it is guarded.
    pub guard: Guard,
    /// By which runtime.
    pub runtime: Runtime,
}

/// So many containers, of all `programs`, ways of guarding and runtimes in turns.
pub fn parts(programs: &[Program], count: usize) -> Vec<Part> {
    let programs = programs.iter().copied().cycle();
    let guards = Guard::ALL.into_iter().cycle();
    let runtimes = Runtime::ALL.into_iter().flat_map(|runtime| [runtime; 3]).cycle();
    let all = programs.zip(guards).zip(runtimes);
    all.take(count).map(|((program, guard), runtime)| Part { program, guard, runtime }).collect()
}

struct Running {
    part: Part,
    bundle: Bundle,
    /// Its root file system, as the host sees it.
    root: PathBuf,
    /// Its database before.
    before: Vec<u8>,
    child: Child,
}

/// The containers of one run. They are deleted when it is dropped.
pub struct Load {
    /// The node they run on.
    pub node: Node,
    /// Containers that are started meanwhile.
    pub starts: Starts,
    running: Vec<Running>,
}

impl Load {
    /// A node whose daemon is yet to be started; `more` goes to the end of its configuration.
    pub fn prepare(more: &str) -> Self {
        let policies: String = Guard::ALL.map(Guard::policy).concat();
        let node = Node::prepare(Runtime::Runc, &policies, more);
        // one daemon for both: the runtime is a matter of the shim's configuration
        let text = fs::read_to_string(node.config()).expect("read the configuration");
        let other = text.replace(&quoted(&Runtime::Runc.path()), &quoted(&Runtime::Crun.path()));
        fs::write(configuration(&node, Runtime::Crun), other).expect("write the configuration");
        Self { node, starts: Starts::default(), running: Vec::new() }
    }

    /// Starts a container for each of `parts`, and waits until their programs are at work.
    ///
    /// # Panics
    /// When one does not begin.
    pub fn start(&mut self, parts: &[Part]) {
        for (index, part) in parts.iter().enumerate() {
            let running = self.run(*part, index);
            self.running.push(running);
        }
        let deadline = Instant::now() + PATIENCE;
        for running in &mut self.running {
            while !output(&running.bundle).lines().any(|line| line == "ready") {
                let ended = running.child.try_wait().expect("wait");
                let text = output(&running.bundle);
                assert!(ended.is_none() && Instant::now() < deadline, "{:?} did not begin: {text}", running.part);
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    fn run(&self, part: Part, index: usize) -> Running {
        let tag = format!("load{index}");
        let mut spec = Spec::new(&[]);
        spec.args = words(part, &tag);
        spec.annotations.push(("guard".to_owned(), part.guard.name().to_owned()));
        spec.rootfs = if part.program == Program::Python { "large" } else { "small" };
        let bundle = self.node.bundle(&spec);
        let mut root = bundle.path("/");
        if part.program == Program::Shell {
            root = bundle.folder.join("busybox");
            make_busybox_root(&root);
            let mut config = bundle.config();
            config["root"]["path"] = "busybox".into();
            bundle.write_config(&config);
        }
        let (name, bytes) = file_of(part.program);
        let path = root.join(name);
        fs::write(&path, bytes).expect("write the program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set mode");
        let before = fs::read(root.join("etc/passwd")).expect("read the database");
        let output = File::create(bundle.folder.join("output")).expect("create the output");
        let mut command = shim(&self.node, part.runtime);
        command.args(["run", "--bundle"]).arg(&bundle.folder).arg(&bundle.id);
        command.stderr(output.try_clone().expect("dup")).stdout(output);
        let child = command.spawn().expect("start the shim");
        Running { part, bundle, root, before, child }
    }

    /// Starts another short container when the last one has ended.
    pub fn start_another(&mut self) {
        self.starts.go_on(&self.node);
    }

    /// Tells all programs to end, waits until their containers have, and gives what became of each.
    pub fn stop(&mut self) -> Vec<Outcome> {
        for running in &self.running {
            fs::write(running.root.join("stop"), "").expect("write the file to stop at");
        }
        let deadline = Instant::now() + PATIENCE;
        let mut outcomes = Vec::new();
        for running in &mut self.running {
            let mut status = running.child.try_wait().expect("wait");
            while status.is_none() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
                status = running.child.try_wait().expect("wait");
            }
            let after = fs::read(running.root.join("etc/passwd")).expect("read the database");
            let ended = match status {
                None => Err(format!("it did not end within {} s: {}", PATIENCE.as_secs(), waiting(&running.bundle.id))),
                Some(status) if !status.success() => Err(format!("it ended with {status}")),
                Some(_) => Ok(()),
            };
            let text = output(&running.bundle);
            outcomes.push(Outcome::new(&running.bundle.id, running.part, &text, ended, (&running.before, &after)));
        }
        outcomes
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for running in &mut self.running {
            if matches!(running.child.try_wait(), Ok(Some(_))) {
                continue;
            }
            let mut command = Command::new(running.part.runtime.path());
            command.arg("--root").arg(state_of(&self.node, running.part.runtime));
            command.args(["delete", "--force", &running.bundle.id]).stdout(Stdio::null()).stderr(Stdio::null());
            let ended = command.status().and_then(|_| running.child.kill()).and_then(|()| running.child.wait());
            if let Err(error) = ended {
                eprintln!("delete {}: {error}", running.bundle.id);
            }
        }
    }
}

/// The shim over `runtime`.
pub fn shim(node: &Node, runtime: Runtime) -> Command {
    let mut command = node.program("acctguard-runtime");
    command.env("ACCTGUARD_CONFIG", configuration(node, runtime));
    command.arg("--root").arg(state_of(node, runtime));
    command
}

fn state_of(node: &Node, runtime: Runtime) -> PathBuf {
    node.scratch.folder(&format!("state-of-{}", runtime.name()))
}

/// Where the threads of a container wait.
fn waiting(id: &str) -> String {
    let group = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let processes = fs::read_dir("/proc").expect("list processes").flatten();
    let pids = processes.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut found = Vec::new();
    for pid in pids.filter(|pid| group(pid).contains(id)) {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        found.extend(threads.map(|thread| {
            let read = |name: &str| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
            let (name, call, place) = (read("comm"), read("syscall"), read("wchan"));
            format!("{} in {} ({})", name.trim(), call.split(' ').next().unwrap_or_default().trim(), place.trim())
        }));
    }
    found.join(", ")
}

fn quoted(path: &Path) -> String {
    format!("path = \"{}\"", path.display())
}

fn configuration(node: &Node, runtime: Runtime) -> PathBuf {
    match runtime {
        Runtime::Runc => node.config(),
        Runtime::Crun | Runtime::Youki => node.scratch.path().join("crun.toml"),
    }
}

/// What the container has printed.
pub fn output(bundle: &Bundle) -> String {
    String::from_utf8_lossy(&fs::read(bundle.folder.join("output")).unwrap_or_default()).into_owned()
}

fn words(part: Part, tag: &str) -> Vec<String> {
    let start: &[&str] = match part.program {
        Program::C | Program::Go => &["/load"],
        Program::Shell => &["/bin/sh", "/load.sh"],
        Program::Python => &["/usr/bin/python3", "/load.py"],
    };
    start.iter().copied().chain([part.guard.mode(), tag]).map(str::to_owned).collect()
}

fn file_of(program: Program) -> (&'static str, Vec<u8>) {
    let source = |name: &str| fs::read(sources().join(name)).expect("read the program");
    match program {
        Program::C => ("load", c_program().to_owned()),
        Program::Go => ("load", go_program().to_owned()),
        Program::Shell => ("load.sh", source("load.sh")),
        Program::Python => ("load.py", source("load.py")),
    }
}

fn sources() -> PathBuf {
    repository().join("integration/chaos/load")
}

/// The static program of `load.c`.
pub fn c_program() -> &'static [u8] {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| compiled_c(&sources().join("load.c")))
}

fn go_program() -> &'static [u8] {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| compiled_go(&sources().join("load.go")))
}

/// CLOCK_MONOTONIC as the programs print it, in nanoseconds, and when it was that.
pub fn clock() -> (Instant, i64) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("load");
    fs::write(&path, c_program()).expect("write the program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set mode");
    let printed = Command::new(&path).arg0("load").arg("clock").output().expect("run the program").stdout;
    let now = Instant::now();
    (now, String::from_utf8_lossy(&printed).trim().parse().expect("a number of nanoseconds"))
}

/// A root file system with busybox, its links, and account databases.
fn make_busybox_root(root: &Path) {
    for folder in ["bin", "dev", "etc", "proc", "root", "run", "srv", "sys", "tmp", "usr", "var"] {
        fs::create_dir_all(root.join(folder)).expect("create folder");
    }
    let small = rootfs("small");
    for file in ["bin/busybox", "etc/passwd", "etc/group", "etc/shadow", "etc/gshadow"] {
        fs::copy(small.join(file), root.join(file)).expect("copy");
    }
    let listed = Command::new(root.join("bin/busybox")).arg("--list").output().expect("list what busybox can").stdout;
    for name in String::from_utf8_lossy(&listed).lines().filter(|name| *name != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).expect("link");
    }
}

//! A node: configuration, policies, daemon, the shim over a real runtime, and the containers it started.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use acctguard::model::event::Event;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::bundle::{Bundle, Spec};
use super::command::{Done, finish};
use super::events;
use super::machine::{Scratch, launcher, program, target_folder};

/// How long an event may take to be there.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A real OCI runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// runc.
    Runc,
    /// crun.
    Crun,
    /// youki, which `integration/engines/run youki` builds.
    Youki,
}

impl Runtime {
    /// Those that Debian has.
    pub const ALL: [Self; 2] = [Self::Runc, Self::Crun];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Youki => "youki",
        }
    }

    /// Where it lies.
    ///
    /// # Panics
    /// When it is not installed.
    pub fn path(self) -> PathBuf {
        if self == Self::Youki {
            let path = target_folder().join("youki/bin/youki");
            assert!(path.exists(), "{} is missing: integration/engines/run youki builds it", path.display());
            return path;
        }
        let folders = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];
        let mut paths = folders.iter().map(|folder| Path::new(folder).join(self.name()));
        paths
            .find(|path| path.exists())
            .unwrap_or_else(|| panic!("{0} is missing: install the Debian package {0}", self.name()))
    }
}

/// What is in `mutex`, also after a thread that held it panicked: what is there is ended all the same.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A policy that has `mode` for every container and one more database.
pub fn policy(mode: &str) -> String {
    format!(
        "apiVersion: acctguard.io/v1alpha1\nkind: AccountPolicy\nmetadata: {{name: test-{mode}}}\n\
         spec:\n  mode: {mode}\n  databases: [\"/srv/accounts/new\"]\n"
    )
}

/// A node. Its containers are deleted and its daemon is stopped when it is dropped. Threads may share it, but the one that made it
/// starts its daemon, which dies with that thread.
pub struct Node {
    /// Where everything of it lies.
    pub scratch: Scratch,
    /// The real runtime below the shim.
    pub runtime: Runtime,
    daemon: Mutex<Option<Child>>,
    containers: Mutex<Vec<String>>,
    count: AtomicU32,
}

impl Node {
    /// A node with a running daemon and one policy document.
    pub fn start(runtime: Runtime, policy: &str) -> Self {
        let node = Self::prepare(runtime, policy, "");
        node.start_daemon();
        node
    }

    /// A node without a running daemon; `more` goes to the end of its configuration.
    pub fn prepare(runtime: Runtime, policy: &str, more: &str) -> Self {
        let node = Self {
            scratch: Scratch::new(),
            runtime,
            daemon: Mutex::new(None),
            containers: Mutex::new(Vec::new()),
            count: AtomicU32::new(0),
        };
        for folder in ["state", "policy.d", "runtime"] {
            node.scratch.folder(folder);
        }
        node.write_policy(policy);
        node.write_config(more);
        node
    }

    /// Writes the configuration, `more` at its end.
    pub fn write_config(&self, more: &str) {
        let base = self.scratch.path().display();
        // a second keeper outlives a test that is killed; those that are about it ask for one
        let more =
            if more.contains("[daemon]") { more.to_owned() } else { format!("{more}\n[daemon]\nstandby = false\n") };
        let text = format!(
            "run_dir = \"{base}/run\"\nstate_dir = \"{base}/state\"\npolicy_dir = \"{base}/policy.d\"\n\n\
             [runtime]\npath = \"{}\"\nlauncher = \"{}\"\n\n[node]\ncluster = \"test\"\n\n{more}",
            self.runtime.path().display(),
            launcher().display()
        );
        fs::write(self.config(), text).expect("write config.toml");
        fs::set_permissions(self.config(), fs::Permissions::from_mode(0o644)).expect("set mode");
    }

    /// The configuration.
    pub fn config(&self) -> PathBuf {
        self.scratch.path().join("config.toml")
    }

    /// Replaces the policy document.
    pub fn write_policy(&self, text: &str) {
        fs::write(self.scratch.path().join("policy.d/10-test.yaml"), text).expect("write the policy");
    }

    /// A program of this package, set up for this node.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        self.set_up(&mut command);
        command
    }

    fn set_up(&self, command: &mut Command) {
        command.env("ACCTGUARD_CONFIG", self.config()).current_dir(self.scratch.path()).stdin(Stdio::null());
    }

    /// Starts the daemon and waits until it answers. It dies with the thread that started it.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_daemon(&self) {
        self.start_daemon_at(&program("acctguard-daemon"));
    }

    /// The same, of the program that is installed at `path`.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_daemon_at(&self, path: &Path) {
        let log = fs::File::options().create(true).append(true).open(self.log()).expect("open the log");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(path);
        self.set_up(&mut command);
        command.stdout(log.try_clone().expect("dup")).stderr(log);
        let mut child = command.spawn().expect("start the daemon");
        let deadline = Instant::now() + PATIENCE;
        while !self.answers() {
            let ended = child.try_wait().expect("wait");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the daemon did not come up ({ended:?}):\n{}",
                self.log_text()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        *locked(&self.daemon) = Some(child);
    }

    /// Whether the daemon answers questions, not only listens.
    pub fn answers(&self) -> bool {
        let listens = UnixStream::connect(self.control_socket()).is_ok();
        listens && finish(self.program("acctguard").arg("containers")).status.success()
    }

    /// Where the daemon is spoken to.
    pub fn control_socket(&self) -> PathBuf {
        self.scratch.path().join("run/control.sock")
    }

    /// Where the daemon logs.
    pub fn log(&self) -> PathBuf {
        self.scratch.path().join("daemon.log")
    }

    /// What the daemon has logged.
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Pid of the daemon.
    ///
    /// # Panics
    /// When it does not run.
    pub fn daemon_pid(&self) -> Pid {
        let daemon = locked(&self.daemon);
        let id = daemon.as_ref().expect("a running daemon").id();
        Pid::from_raw(i32::try_from(id).expect("pid"))
    }

    /// Pid of whoever is the daemon's keeper now.
    ///
    /// # Panics
    /// When it is not to be read.
    pub fn keeper_pid(&self) -> Pid {
        self.running_keeper().expect("read the pid file")
    }

    /// The same, if there is one.
    pub fn running_keeper(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.scratch.path().join("run/daemon.pid")).ok()?;
        text.trim().parse().ok().map(Pid::from_raw)
    }

    /// Pids of the processes that the keeper has in this role (`--worker`, `--standby`).
    pub fn children_as(&self, role: &str) -> Vec<Pid> {
        let keeper = self.keeper_pid();
        let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap_or_default();
        let has_role = |pid: &&str| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == role.as_bytes()))
        };
        children.split_whitespace().filter(has_role).filter_map(|pid| pid.parse().ok().map(Pid::from_raw)).collect()
    }

    /// Pid of the daemon's worker: the child of the process that was started.
    ///
    /// # Panics
    /// When there is none within [`PATIENCE`].
    pub fn worker_pid(&self) -> Pid {
        let keeper = self.daemon_pid();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap_or_default();
            // one that is dead and cannot go has no command line
            let lives = |pid: &&str| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
            if let Some(pid) = children.split_whitespace().find(lives).and_then(|word| word.parse().ok()) {
                return Pid::from_raw(pid);
            }
            assert!(Instant::now() < deadline, "the daemon has no worker:\n{}", self.log_text());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Pid of the worker that follows `before`, which was killed.
    ///
    /// # Panics
    /// When there is none within [`PATIENCE`].
    pub fn worker_after(&self, before: Pid) -> Pid {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let worker = self.children_as("--worker").into_iter().find(|pid| *pid != before);
            if let Some(worker) = worker {
                return worker;
            }
            assert!(Instant::now() < deadline, "no worker follows {before}:\n{}", self.log_text());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends `signal` to the daemon.
    pub fn signal_daemon(&self, signal: Signal) {
        kill(self.daemon_pid(), signal).expect("signal the daemon");
    }

    /// Ends the daemon and returns its exit code (128 and the signal's number when that ended it).
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop_daemon(&self, signal: Signal) -> i32 {
        use std::os::unix::process::ExitStatusExt as _;
        self.signal_daemon(signal);
        let mut child = locked(&self.daemon).take().expect("a running daemon");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("wait") {
                return status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            }
            if Instant::now() > deadline {
                child.kill().expect("kill");
                child.wait().expect("wait");
                panic!("the daemon did not end after {signal}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs `acctguard` with `arguments`.
    #[track_caller]
    pub fn acctguard(&self, arguments: &[&str]) -> Done {
        finish(self.program("acctguard").args(arguments))
    }

    /// `acctguard-runtime`, its state in a folder of this node.
    pub fn shim(&self) -> Command {
        let mut command = self.program("acctguard-runtime");
        command.arg("--root").arg(self.runtime_root());
        command
    }

    /// The real runtime by itself, its state in the same folder.
    pub fn bare(&self) -> Command {
        let mut command = Command::new(self.runtime.path());
        command.arg("--root").arg(self.runtime_root());
        self.set_up(&mut command);
        command
    }

    /// Where the runtime keeps its state.
    pub fn runtime_root(&self) -> PathBuf {
        self.scratch.path().join("runtime")
    }

    /// A new bundle. Container ids are unique on the machine, as their control groups are.
    pub fn bundle(&self, spec: &Spec) -> Bundle {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let folder = self.scratch.path().file_name().expect("name").to_string_lossy().replace("scratch-", "");
        let id = format!("acctguard-{}-{folder}-{count}", std::process::id());
        locked(&self.containers).push(id.clone());
        Bundle::new(&self.scratch, &id, spec)
    }

    /// Runs a container to its end through the shim.
    #[track_caller]
    pub fn run(&self, bundle: &Bundle) -> Done {
        finish(self.shim().args(["run", "--bundle"]).arg(&bundle.folder).arg(&bundle.id))
    }

    /// Runs a container to its end by the real runtime alone.
    #[track_caller]
    pub fn run_bare(&self, bundle: &Bundle) -> Done {
        finish(self.bare().args(["run", "--bundle"]).arg(&bundle.folder).arg(&bundle.id))
    }

    /// Creates a container through the shim.
    #[track_caller]
    pub fn create(&self, bundle: &Bundle) -> Done {
        finish(self.shim().args(["create", "--bundle"]).arg(&bundle.folder).arg(&bundle.id))
    }

    /// Creates and starts a container through the shim.
    #[track_caller]
    pub fn launch(&self, spec: &Spec) -> Bundle {
        let bundle = self.bundle(spec);
        self.create(&bundle).ok();
        finish(self.shim().arg("start").arg(&bundle.id)).ok();
        bundle
    }

    /// Runs `arguments` in a container through the shim.
    #[track_caller]
    pub fn exec(&self, bundle: &Bundle, arguments: &[&str]) -> Done {
        finish(self.shim().arg("exec").arg(&bundle.id).args(arguments))
    }

    /// Kills and deletes a container through the shim.
    pub fn delete(&self, bundle: &Bundle) -> Done {
        finish(self.shim().args(["delete", "--force"]).arg(&bundle.id))
    }

    /// Every stored event, oldest first.
    #[track_caller]
    pub fn events(&self) -> Vec<Event> {
        events::parse(&self.acctguard(&["events", "--json"]).ok().stdout)
    }

    /// Asks for the events again and again until `found` finds what it looks for in them.
    ///
    /// # Panics
    /// When it is not there within [`PATIENCE`].
    #[track_caller]
    pub fn wait_for<T>(&self, what: &str, found: impl Fn(&[Event]) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let events = self.events();
            if let Some(found) = found(&events) {
                return found;
            }
            if Instant::now() > deadline {
                let lines: Vec<String> =
                    events.iter().map(|event| serde_json::to_string(event).expect("print")).collect();
                panic!("{what} did not come; there are\n{}", lines.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Node {
    /// Ends whoever became the keeper after the process that was started.
    fn end_second_keeper(&self) {
        let Some(pid) = self.running_keeper() else { return };
        let deadline = Instant::now() + Duration::from_secs(5);
        while kill(pid, Signal::SIGTERM).is_ok() {
            if Instant::now() > deadline {
                eprintln!("the second keeper {pid} did not end:\n{}", self.log_text());
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for id in locked(&self.containers).iter() {
            let deleted =
                self.bare().args(["delete", "--force", id]).stdout(Stdio::null()).stderr(Stdio::null()).status();
            if let Err(error) = deleted {
                eprintln!("delete {id}: {error}");
            }
        }
        if std::thread::panicking() {
            eprintln!("--- log of the daemon ---\n{}--- end ---", self.log_text());
        }
        if let Some(mut child) = locked(&self.daemon).take() {
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
            let asked = kill(pid, Signal::SIGTERM);
            let deadline = Instant::now() + Duration::from_secs(3);
            while asked.is_ok() && matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            let killed = child.kill().and_then(|()| child.wait());
            if let Err(error) = killed {
                eprintln!("end the daemon: {error}");
            }
        }
        self.end_second_keeper();
    }
}

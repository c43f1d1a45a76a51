//! Where an engine runs: a node with a mount namespace of its own, in which nothing that the engine writes outside its own
//! folders stays, and a control group by which everything of it is found.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::command::{Done, finish};
use crate::harness::machine::{Scratch, program, tmpfs};
use crate::harness::node::{Node, PATIENCE, Runtime, locked, policy};

/// A node and the daemons of an engine on it.
pub struct Place {
    /// The node.
    pub node: Node,
    /// Name of the control group of all containers of the engine.
    pub group: String,
    daemons: Mutex<Vec<(String, Child)>>,
    left: AtomicBool,
}

impl Place {
    /// A place for `engine`, whose shim runs `runtime`; acctguard's daemon runs, in audit.
    pub fn new(engine: &str, runtime: Runtime) -> Self {
        Self::on(Node::prepare(runtime, &policy("audit"), ""), engine)
    }

    /// A place for engines that have a runtime each, of which acctguard's configuration names none: podman's is crun.
    pub fn of_many(name: &str) -> Self {
        let node = Node::prepare(Runtime::Crun, &policy("audit"), "");
        let text = fs::read_to_string(node.config()).expect("read the configuration");
        let text = text.replace(&format!("path = \"{}\"\n", node.runtime.path().display()), "");
        fs::write(node.config(), text).expect("write the configuration");
        Self::on(node, name)
    }

    fn on(node: Node, engine: &str) -> Self {
        // what an engine reads and writes at fixed places: seen and kept by nobody else
        for folder in ["/etc", "/var", "/opt"] {
            cover(&node.scratch, folder);
        }
        tmpfs(Path::new("/run"), "mode=755");
        // monitors scrub the environment that names a configuration
        fs::create_dir_all("/etc/acctguard").expect("make /etc/acctguard");
        fs::copy(node.config(), "/etc/acctguard/config.toml").expect("copy the configuration");
        let place = Self {
            node,
            group: format!("acctguard-{}-{engine}", std::process::id()),
            daemons: Mutex::new(Vec::new()),
            left: AtomicBool::new(false),
        };
        place.node.start_daemon();
        place
    }

    /// A path in the node's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.node.scratch.path().join(name)
    }

    /// Has policy say `mode` from now on.
    pub fn set_mode(&self, mode: &str) {
        self.set_policy(&policy(mode));
    }

    /// Has policy say this from now on.
    pub fn set_policy(&self, text: &str) {
        self.node.write_policy(text);
        self.restart_daemon();
    }

    /// Ends acctguard's daemon and starts it again.
    pub fn restart_daemon(&self) {
        self.node.stop_daemon(Signal::SIGTERM);
        self.node.start_daemon();
    }

    /// `acctguard install`, of the shim as it is built here: in a folder of this place, for the links that are made beside it.
    pub fn install(&self, engine: &str) -> Command {
        let mut command = self.node.program("acctguard");
        command.args(["install", "--engine", engine, "--shim"]).arg(self.shim_as("acctguard-runtime"));
        command
    }

    /// A link to the shim by another name, as engines that look at a runtime's name need it.
    pub fn shim_as(&self, name: &str) -> PathBuf {
        let link = self.node.scratch.folder("shims").join(name);
        if !link.exists() {
            std::os::unix::fs::symlink(program("acctguard-runtime"), &link).expect("link the shim");
        }
        link
    }

    /// A command with the environment of an operator who knows nothing of acctguard.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.env_remove("ACCTGUARD_CONFIG").current_dir(self.node.scratch.path()).stdin(Stdio::null());
        command.env("HOME", self.node.scratch.folder("home"));
        command
    }

    /// Starts a daemon of the engine and waits until `answers`. It ends with this place.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn serve(&self, name: &str, command: &Command, answers: impl Fn() -> bool) {
        let log = fs::File::create(self.path(&format!("{name}.log"))).expect("make a log");
        let mut setpriv = self.command("setpriv");
        setpriv.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
        let mut child =
            setpriv.stdout(log.try_clone().expect("dup")).stderr(log).spawn().expect("start a daemon of an engine");
        let deadline = Instant::now() + PATIENCE;
        while !answers() {
            let ended = child.try_wait().expect("wait");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{name} did not come up ({ended:?}):\n{}",
                self.log(name)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        locked(&self.daemons).push((name.to_owned(), child));
    }

    /// Pid of a daemon of the engine.
    ///
    /// # Panics
    /// When none was started by that name.
    pub fn daemon_pid(&self, name: &str) -> Pid {
        let daemons = locked(&self.daemons);
        let daemon = daemons.iter().find(|(known, _)| known == name).expect("a daemon by that name");
        Pid::from_raw(i32::try_from(daemon.1.id()).expect("pid"))
    }

    /// Ends a daemon of the engine before its time.
    ///
    /// # Panics
    /// When it does not end.
    pub fn end_daemon(&self, name: &str, signal: Signal) {
        let pid = self.daemon_pid(name);
        let mut daemons = locked(&self.daemons);
        let at = daemons.iter().position(|(known, _)| known == name).expect("a daemon by that name");
        let (_, mut child) = daemons.remove(at);
        kill(pid, signal).expect("signal a daemon");
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().expect("wait").is_none() {
            assert!(Instant::now() < deadline, "{name} did not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The end of what a daemon of the engine logged.
    pub fn log(&self, name: &str) -> String {
        let text = fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Ends the engine's daemons, the last first, and acctguard's; a line for everything that was left behind, which is ended too.
    pub fn leave(&self) -> Vec<String> {
        self.left.store(true, Ordering::Relaxed);
        let mut left = Vec::new();
        for (name, mut child) in locked(&self.daemons).drain(..).rev() {
            left.extend(end(&name, &mut child));
        }
        if self.node.answers() {
            self.node.stop_daemon(Signal::SIGTERM);
        } else {
            left.push("acctguard's daemon did not answer any more".to_owned());
        }
        left.extend(end_leftovers());
        let scratch =
            self.node.scratch.path().file_name().unwrap_or_default().to_string_lossy().replace("scratch-", "");
        left.extend(remove_groups(&self.group, &format!("acctguard-{}-{scratch}-", std::process::id())));
        left
    }
}

impl Drop for Place {
    /// After a failure: nothing stays behind all the same.
    fn drop(&mut self) {
        if !self.left.load(Ordering::Relaxed) {
            for line in self.leave() {
                eprintln!("{line}");
            }
        }
    }
}

/// Lays an overlay over `folder`, so that what is written there is seen here only.
fn cover(scratch: &Scratch, folder: &str) {
    let upper = scratch.folder(&format!("cover{folder}/upper"));
    let work = scratch.folder(&format!("cover{folder}/work"));
    let options = format!("lowerdir={folder},upperdir={},workdir={}", upper.display(), work.display());
    mount(Some("overlay"), folder, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .unwrap_or_else(|error| panic!("mount an overlay on {folder}: {error}"));
}

fn end(name: &str, child: &mut Child) -> Option<String> {
    let pid = Pid::from_raw(i32::try_from(child.id()).ok()?);
    // it may have ended by itself, which its status tells
    let _ = kill(pid, Signal::SIGTERM);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.signal().is_some_and(|signal| signal != Signal::SIGTERM as i32) => {
                return Some(format!("{name} ended with {status}"));
            }
            Ok(Some(_)) => return None,
            _ if Instant::now() > deadline => {
                let killed = child.kill().and_then(|()| child.wait());
                return Some(format!("{name} did not end when it was told to ({killed:?})"));
            }
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Kills every process in this thread's mount namespace: all of them were started from here.
fn end_leftovers() -> Vec<String> {
    let own = fs::read_link("/proc/thread-self/ns/mnt").expect("read the mount namespace");
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let processes: Vec<u32> = fs::read_dir("/proc")
            .expect("list processes")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| *pid != std::process::id())
            .filter(|pid| fs::read_link(format!("/proc/{pid}/ns/mnt")).is_ok_and(|namespace| namespace == own))
            .collect();
        if processes.is_empty() {
            return Vec::new();
        }
        // what was told to end may need a moment
        if Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        }
        let described = processes.iter().map(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            // gone by itself in this moment is as good
            let _ = kill(Pid::from_raw(i32::try_from(*pid).expect("pid")), Signal::SIGKILL);
            format!("process {pid} was left behind: {}", String::from_utf8_lossy(&line).replace('\0', " "))
        });
        return described.collect();
    }
}

/// Removes the control group and those below it, in every hierarchy; kills what is in them. `prefix` begins the names of those
/// that bundles of the node have.
fn remove_groups(name: &str, prefix: &str) -> Vec<String> {
    let mut left = Vec::new();
    for hierarchy in fs::read_dir("/sys/fs/cgroup").expect("list control groups").flatten() {
        // where the v2 hierarchy was taken out of this namespace, crun finds a folder and makes folders in it
        if hierarchy.file_name() == "unified" {
            remove_folders(&hierarchy.path(), &[name, prefix]);
        } else {
            remove_group(&hierarchy.path().join(name), &mut left);
        }
    }
    left
}

fn remove_folders(folder: &Path, prefixes: &[&str]) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
            // a folder like any other, which nothing waits for
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn remove_group(group: &Path, left: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(group) else { return };
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        remove_group(&entry.path(), left);
    }
    for pid in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
        left.push(format!("process {pid} was left behind in {}", group.display()));
        if let Ok(pid) = pid.parse() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    let deadline = Instant::now() + Duration::from_secs(2);
    while fs::remove_dir(group).is_err() {
        if Instant::now() > deadline {
            left.push(format!("control group {} was left behind", group.display()));
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a command to its end; an error that says what it said when it did not end with 0.
pub fn run(command: &mut Command) -> Result<Done, String> {
    let done = finish(command);
    if done.code() == 0 { Ok(done) } else { Err(said(&done)) }
}

/// The exit code and the last lines of a program's output.
pub fn said(done: &Done) -> String {
    let lines: Vec<&str> = done.stdout.lines().chain(done.stderr.lines()).collect();
    format!("ended with {}: {}", done.code(), lines[lines.len().saturating_sub(4)..].join(" | "))
}

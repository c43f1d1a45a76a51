//! One technique carried out once: a container of its own, its databases before and after as the host sees them.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::json;

use super::databases::{Databases, Difference};
use super::technique::{Cast, Technique, techniques_program};
use crate::harness::bundle::{Bundle, Capabilities, Spec};
use crate::harness::node::Node;

/// Longest that a technique may take.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a container is kept after its technique. Mounts of its own are gone with it, and with them what they showed.
const KEPT: Duration = Duration::from_secs(4);
/// Most containers kept at a time.
const MOST_KEPT: usize = 16;

/// How the technique comes into the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// In the container's own process tree.
    Container,
    /// By an exec session.
    Exec,
}

impl Entry {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Container, Self::Exec];

    /// As the table says it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Container => "own",
            Self::Exec => "exec",
        }
    }
}

/// Which program starts the containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// The real runtime alone.
    None,
    /// The shim.
    Shim,
}

/// What became of a technique, before anybody has looked into the record.
#[derive(Debug, Clone)]
pub struct Trial {
    /// The technique.
    pub technique: Technique,
    /// By which way.
    pub entry: Entry,
    /// The container whose databases are at stake.
    pub victim: String,
    /// The container that the technique ran in.
    pub acting: String,
    /// The databases that differ from before, or why nobody knows.
    pub changed: Result<Difference, String>,
    /// When the container was told to end.
    pub ended: Option<Timestamp>,
    /// Exit status and output of the technique, for whoever looks into a miss.
    pub output: String,
}

/// The containers of one node, the last ones still there.
pub struct Stage<'a> {
    node: &'a Node,
    guard: Guard,
    kept: VecDeque<(Instant, Vec<Bundle>)>,
    volumes: Cell<u32>,
    ended: HashMap<String, Timestamp>,
}

/// A container that runs, and where its output goes.
struct Running {
    bundle: Bundle,
    pid: u32,
    output: PathBuf,
}

impl<'a> Stage<'a> {
    /// Containers of `node`, started by the shim or the bare runtime.
    pub fn new(node: &'a Node, guard: Guard) -> Self {
        Self { node, guard, kept: VecDeque::new(), volumes: Cell::new(0), ended: HashMap::new() }
    }

    /// Carries `technique` out.
    pub fn carry_out(&mut self, technique: Technique, entry: Entry) -> Trial {
        let mut bundles = Vec::new();
        let mut trial = Trial {
            technique,
            entry,
            victim: String::new(),
            acting: String::new(),
            changed: Err("not begun".to_owned()),
            ended: None,
            output: String::new(),
        };
        trial.changed = self.change(&mut trial, &mut bundles);
        self.kept.push_back((Instant::now(), bundles));
        while self.kept.len() > MOST_KEPT || self.kept.front().is_some_and(|(at, _)| at.elapsed() > KEPT) {
            self.delete_oldest();
        }
        trial
    }

    /// Deletes what is left, none before its time, and tells `trials` when their containers ended.
    pub fn clear(mut self, trials: &mut [Trial]) {
        while !self.kept.is_empty() {
            self.delete_oldest();
        }
        for trial in trials {
            trial.ended = self.ended.get(&trial.victim).copied();
        }
    }

    fn delete_oldest(&mut self) {
        let Some((at, bundles)) = self.kept.pop_front() else { return };
        std::thread::sleep(KEPT.saturating_sub(at.elapsed()));
        // The one that came last may live in the pid namespace of the first.
        for bundle in bundles.iter().rev() {
            self.ended.insert(bundle.id.clone(), Timestamp::now());
            let mut command = self.runtime(Guard::Shim);
            let output = bundle.folder.join("delete.log");
            let deleted = run(command.args(["delete", "--force"]).arg(&bundle.id), &output);
            if deleted != Ok(0) {
                let said = std::fs::read_to_string(&output).unwrap_or_default();
                eprintln!("delete {}: {deleted:?}: {said}", bundle.id);
            }
            let _ = nix::mount::umount2(&bundle.path("/"), nix::mount::MntFlags::MNT_DETACH);
            let _ = std::fs::remove_dir_all(&bundle.folder);
        }
    }

    fn runtime(&self, guard: Guard) -> Command {
        match (guard, self.guard) {
            (Guard::Shim, Guard::Shim) => self.node.shim(),
            _ => self.node.bare(),
        }
    }

    /// Starts the containers, runs the technique, compares the databases.
    fn change(&self, trial: &mut Trial, bundles: &mut Vec<Bundle>) -> Result<Difference, String> {
        let volume = self.volume();
        let words = trial.technique.words();
        let idle: &[&str] = &["/evasion", "stage", "/evasion", "names"];
        let own: Vec<&str> = ["/evasion", "stage"].into_iter().chain(words.iter().copied()).collect();
        let accomplice = match trial.technique.cast {
            Cast::Unguarded(part) => Some(self.accomplice(part, &volume)?),
            _ => None,
        };
        let mut victim = None;
        if trial.technique.cast == Cast::SharedPids {
            victim = Some(self.create(trial, idle, &volume, None)?);
            self.start(victim.as_ref().expect("just made"), self.guard)?;
        }
        let arguments = if trial.entry == Entry::Container { &own[..] } else { idle };
        let acting = self.create(trial, arguments, &volume, victim.as_ref().map(|running| running.pid))?;
        let at_stake = victim.as_ref().unwrap_or(&acting);
        trial.victim.clone_from(&at_stake.bundle.id);
        trial.acting.clone_from(&acting.bundle.id);
        let pid = at_stake.pid;
        let also = trial.technique.changes;
        let compared = Databases::of_process(pid, also).and_then(|before| {
            self.start(&acting, self.guard)?;
            trial.output = self.wait_or_exec(&acting, trial.entry, &trial.technique, &words)?;
            let after = Databases::of_process(pid, also)?;
            Ok(before.difference(&after))
        });
        bundles.extend(accomplice.into_iter().chain(victim).chain([acting]).map(|running| running.bundle));
        compared
    }

    fn wait_or_exec(
        &self,
        acting: &Running,
        entry: Entry,
        technique: &Technique,
        words: &[&str],
    ) -> Result<String, String> {
        let staged = wait_for_end(&acting.output)?;
        if entry == Entry::Container {
            return Ok(staged);
        }
        let mut command = self.runtime(self.guard);
        command.arg("exec");
        if technique.cast == Cast::EngineLeavesDescriptor {
            command.args(["--preserve-fds", "1"]);
            command = with_database_at_3(&command, &acting.bundle);
        }
        command.arg(&acting.bundle.id).args(words);
        let output = acting.bundle.folder.join("exec.log");
        let status = run(&mut command, &output)?;
        Ok(format!("{}ended {status}\n", std::fs::read_to_string(output).unwrap_or_default()))
    }

    /// Folder that the containers share: `accounts/passwd` in it is the database.
    fn volume(&self) -> PathBuf {
        self.volumes.set(self.volumes.get() + 1);
        let folder = self.node.scratch.folder(&format!("volumes/{}", self.volumes.get()));
        std::fs::create_dir_all(folder.join("accounts")).expect("create folder");
        std::fs::write(folder.join("accounts/passwd"), "extra:x:5000:5000::/:/bin/sh\n").expect("write");
        folder
    }

    fn bundle(
        &self,
        technique: &Technique,
        entry: Entry,
        arguments: &[&str],
        volume: &Path,
        pids_of: Option<u32>,
    ) -> Bundle {
        let mut spec = Spec::new(arguments);
        spec.rootfs = technique.rootfs;
        spec.overlay_options = ",redirect_dir=on";
        if technique.all_capabilities {
            spec.capabilities = Capabilities::All;
        }
        // The other way in goes without, so that each is seen on its own.
        spec.engine_seccomp = entry == Entry::Container && !technique.all_capabilities && !technique.unconfined;
        if technique.linked_image {
            spec.links.push(("/etc/passwd", "/jail/passwd"));
        }
        spec.binds.push((volume.to_owned(), "/shared".to_owned()));
        spec.binds.push((volume.join("accounts"), "/var/lib/extrausers".to_owned()));
        let bundle = self.node.bundle(&spec);
        bundle.put("/evasion", techniques_program(), 0o755);
        std::fs::create_dir_all(bundle.path("/srv/accounts")).expect("create folder");
        if let Some(pid) = pids_of {
            let mut config = bundle.config();
            let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
            namespaces.retain(|namespace| namespace["type"] != "pid");
            namespaces.push(json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")}));
            bundle.write_config(&config);
        }
        bundle
    }

    fn create(
        &self,
        trial: &Trial,
        arguments: &[&str],
        volume: &Path,
        pids_of: Option<u32>,
    ) -> Result<Running, String> {
        let bundle = self.bundle(&trial.technique, trial.entry, arguments, volume, pids_of);
        let holds = trial.technique.cast == Cast::EngineLeavesDescriptor && trial.entry == Entry::Container;
        self.create_bundle(bundle, self.guard, holds)
    }

    fn create_bundle(&self, bundle: Bundle, guard: Guard, holds: bool) -> Result<Running, String> {
        let (pid_file, output) = (bundle.folder.join("pid"), bundle.folder.join("output"));
        let mut command = self.runtime(guard);
        command.args(["create", "--bundle"]).arg(&bundle.folder).arg("--pid-file").arg(&pid_file);
        if holds {
            command.args(["--preserve-fds", "1"]);
            command = with_database_at_3(&command, &bundle);
        }
        let status = run(command.arg(&bundle.id), &output)?;
        let text = std::fs::read_to_string(&pid_file).unwrap_or_default();
        match text.trim().parse() {
            Ok(pid) if status == 0 => Ok(Running { bundle, pid, output }),
            _ => Err(format!("create: {status}: {}", std::fs::read_to_string(output).unwrap_or_default())),
        }
    }

    fn start(&self, running: &Running, guard: Guard) -> Result<(), String> {
        let output = running.bundle.folder.join("start.log");
        match run(self.runtime(guard).arg("start").arg(&running.bundle.id), &output)? {
            0 => Ok(()),
            status => Err(format!("start: {status}: {}", std::fs::read_to_string(output).unwrap_or_default())),
        }
    }

    /// The container that nobody guards, running.
    fn accomplice(&self, part: &'static str, volume: &Path) -> Result<Running, String> {
        let bundle =
            self.bundle(&Technique::program(part), Entry::Exec, &["/evasion", "stage", "/evasion", part], volume, None);
        let running = self.create_bundle(bundle, Guard::None, false)?;
        self.start(&running, Guard::None)?;
        Ok(running)
    }
}

/// `command`, but with the database open for appending at number 3.
fn with_database_at_3(command: &Command, bundle: &Bundle) -> Command {
    let mut wrapped = Command::new("/bin/sh");
    wrapped.args(["-c", "exec 3>>\"$0\"; exec \"$@\""]).arg(bundle.path("/etc/passwd"));
    wrapped.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        wrapped.env(name, value.unwrap_or_default());
    }
    wrapped
}

/// Runs `command` with its output in a file, which a container that stays behind keeps open. Gives its exit status.
fn run(command: &mut Command, output: &Path) -> Result<i32, String> {
    let file = File::create(output).map_err(|error| format!("{}: {error}", output.display()))?;
    let again = file.try_clone().map_err(|error| format!("dup: {error}"))?;
    let child = command.stdin(Stdio::null()).stdout(file).stderr(again).spawn();
    let mut child = child.map_err(|error| format!("start {command:?}: {error}"))?;
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait().map_err(|error| format!("wait: {error}"))? {
            return Ok(status.code().unwrap_or(255));
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("{:?} took longer than {LIMIT:?}", command.get_program()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until the stage says that the technique has ended; gives what was printed.
fn wait_for_end(output: &Path) -> Result<String, String> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let text = String::from_utf8_lossy(&std::fs::read(output).unwrap_or_default()).into_owned();
        if text.lines().any(|line| line.starts_with("ended ")) {
            return Ok(text);
        }
        if Instant::now() > deadline {
            return Err(format!("the technique did not end: {text}"));
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

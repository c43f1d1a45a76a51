//! A container whose program (`chaos.c`) does what it is told, and a file system in it that hangs.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::bundle::{Bundle, Spec};
use crate::harness::command::finish;
use crate::harness::machine::compiled;
use crate::harness::node::{Node, PATIENCE};

/// The program, compiled once.
pub fn program() -> &'static [u8] {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| compiled("../chaos/chaos.c"))
}

fn lines_of(child: &mut Child) -> Receiver<String> {
    let output = child.stdout.take().expect("a pipe");
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The container. It ends when it is dropped, unless something holds it.
pub struct Obedient {
    /// Its bundle.
    pub bundle: Bundle,
    child: Child,
    /// Open for as long as it is to run.
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Obedient {
    /// Starts one; `edit` may change its configuration.
    pub fn start(node: &Node, edit: impl FnOnce(&mut Value)) -> Self {
        let bundle = node.bundle(&Spec::new(&["/chaos", "obey"]));
        bundle.put("/chaos", program(), 0o755);
        for folder in ["tmp", "srv/accounts", "hangs"] {
            std::fs::create_dir_all(bundle.path(folder)).expect("create folder");
        }
        let mut config = bundle.config();
        edit(&mut config);
        bundle.write_config(&config);
        let mut command = node.shim();
        command.args(["run", "--bundle"]).arg(&bundle.folder).arg(&bundle.id);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start the shim");
        let input = child.stdin.take();
        let lines = lines_of(&mut child);
        let obedient = Self { bundle, child, input, lines };
        assert_eq!(obedient.line(PATIENCE).as_deref(), Some("ready"), "{}", node.log_text());
        obedient
    }

    /// Says a line to it.
    pub fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("an open input");
        writeln!(input, "{line}").expect("speak to the container");
    }

    /// The next line it says, if it says one in time.
    pub fn line(&self, limit: Duration) -> Option<String> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("the container {} has ended", self.bundle.id),
        }
    }

    /// Says a line and gives the answer.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.line(Duration::from_secs(60)).unwrap_or_else(|| panic!("{} did not answer to {line:?}", self.bundle.id))
    }

    /// Nanoseconds of each of `count` opens.
    #[track_caller]
    pub fn measure(&mut self, count: u32) -> Vec<f64> {
        self.ask(&format!("measure {count}")).split_whitespace().map(|word| word.parse().expect("a number")).collect()
    }

    /// Pid of its init.
    pub fn pid(&self, node: &Node) -> u64 {
        let state = finish(node.bare().arg("state").arg(&self.bundle.id)).ok().stdout;
        let state: Value = serde_json::from_str(&state).expect("state");
        state["pid"].as_u64().expect("pid")
    }
}

impl Drop for Obedient {
    fn drop(&mut self) {
        // its program ends with its input, and runc run with that; the node deletes what is left
        self.input = None;
        let deadline = Instant::now() + Duration::from_secs(1);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
                    eprintln!("end runc run: {error}");
                }
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A FUSE file system in a container that takes every request and answers none. It goes when it is dropped.
pub struct Hanging(Child);

impl Hanging {
    /// Mounts it on `path` of the container.
    pub fn mount(node: &Node, container: &Obedient, path: &str) -> Self {
        let program: PathBuf = node.scratch.path().join("chaos");
        if !program.exists() {
            std::fs::write(&program, self::program()).expect("write the program");
            finish(Command::new("chmod").arg("755").arg(&program)).ok();
        }
        let mut command = Command::new(&program);
        command.arg("hang").arg(container.pid(node).to_string()).arg(path).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("start the FUSE server");
        let lines = lines_of(&mut child);
        assert_eq!(lines.recv_timeout(PATIENCE).as_deref(), Ok("hangs"), "the FUSE file system is not mounted");
        Self(child)
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        // with its last descriptor the kernel ends every request (fs/fuse/dev.c, `fuse_dev_release`)
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("end the FUSE server: {error}");
        }
    }
}

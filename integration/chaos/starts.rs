//! Containers that begin and end while things go wrong: one after another, in every way of guarding, on both runtimes.

use std::fs::File;
use std::process::Child;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};

use super::load::{Guard, Part, Program, output, parts, shim};
use crate::harness::bundle::{Bundle, Spec};
use crate::harness::node::Node;

/// How long one may take, on a machine that is busy with everything else.
const PATIENCE: Duration = Duration::from_secs(60);
/// Makes a file where the seal leaves it to the kernel, and one where it does not.
const SCRIPT: &str = "echo x > /tmp/x && echo x > /etc/x && mv /etc/x /tmp/y && echo fine";

struct Starting {
    part: Part,
    bundle: Bundle,
    child: Child,
    since: Instant,
}

/// What became of them.
#[derive(Default)]
pub struct Starts {
    now: Option<Starting>,
    /// How many ended.
    pub ended: usize,
    /// Those that did not begin, or did not do what they are for.
    pub failed: Vec<String>,
    /// The longest time from start to end.
    pub longest: Duration,
}

impl Starts {
    /// Sees whether the last one has ended, and starts the next.
    pub fn go_on(&mut self, node: &Node) {
        if self.has_ended() {
            self.now = Some(start(node, self.ended));
        }
    }

    /// Waits for the last one.
    pub fn finish(&mut self) {
        while !self.has_ended() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn has_ended(&mut self) -> bool {
        let Some(mut starting) = self.now.take() else { return true };
        let took = starting.since.elapsed();
        let status = starting.child.try_wait().expect("wait");
        if status.is_none() && took < PATIENCE {
            self.now = Some(starting);
            return false;
        }
        self.ended += 1;
        self.longest = self.longest.max(took);
        let text = output(&starting.bundle);
        if !status.is_some_and(|status| status.success()) || text.trim() != "fine" {
            let Part { guard, runtime, .. } = starting.part;
            let how = status.map_or("it did not end".to_owned(), |status| status.to_string());
            self.failed.push(format!("a start, {} on {}: {how}: {}", guard.name(), runtime.name(), text.trim()));
        }
        if status.is_none() {
            // its container is ended by its control group in the end
            let ended = starting.child.kill().and_then(|()| starting.child.wait());
            ended.expect("end the shim");
        } else if let Err(error) = umount2(&starting.bundle.path("/"), MntFlags::MNT_DETACH) {
            eprintln!("unmount the root of {}: {error}", starting.bundle.id);
        }
        true
    }
}

fn start(node: &Node, index: usize) -> Starting {
    // of all kinds in turns
    let kinds = parts(&[Program::Shell], 2 * Guard::ALL.len());
    let part = kinds[index % kinds.len()];
    let mut spec = Spec::shell(SCRIPT);
    spec.annotations.push(("guard".to_owned(), part.guard.name().to_owned()));
    let bundle = node.bundle(&spec);
    let output = File::create(bundle.folder.join("output")).expect("create the output");
    let mut command = shim(node, part.runtime);
    command.args(["run", "--bundle"]).arg(&bundle.folder).arg(&bundle.id);
    command.stderr(output.try_clone().expect("dup")).stdout(output);
    Starting { part, child: command.spawn().expect("start the shim"), bundle, since: Instant::now() }
}

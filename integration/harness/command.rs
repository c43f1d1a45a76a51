//! Running a program to its end within a bound of time.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// Longest that any single program of a test may take.
pub const LIMIT: Duration = Duration::from_secs(120);

/// What a program left when it ended.
#[derive(Debug)]
pub struct Done {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, lossy.
    pub stdout: String,
    /// Its standard error, lossy.
    pub stderr: String,
}

impl Done {
    /// The exit code; 128 and the signal's number when a signal ended it, as shells count.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Itself, when the program ended with 0.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.status.success(), "ended with {}\nstdout: {}\nstderr: {}", self.code(), self.stdout, self.stderr);
        self
    }
}

/// Runs `command` to its end. Its output goes to unnamed files, not pipes: a container that stays behind may keep them open.
///
/// # Panics
/// When it cannot be started or takes longer than [`LIMIT`].
#[track_caller]
pub fn finish(command: &mut Command) -> Done {
    let mut stdout = tempfile::tempfile().expect("unnamed file");
    let mut stderr = tempfile::tempfile().expect("unnamed file");
    command.stdout(stdout.try_clone().expect("dup")).stderr(stderr.try_clone().expect("dup"));
    let mut child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().expect("kill");
            child.wait().expect("wait");
            panic!("{command:?} took longer than {LIMIT:?}\nstderr: {}", text(&mut stderr));
        }
        std::thread::sleep(Duration::from_millis(4));
    };
    Done { status, stdout: text(&mut stdout), stderr: text(&mut stderr) }
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("read output");
    String::from_utf8_lossy(&bytes).into_owned()
}

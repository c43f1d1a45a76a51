//! Programs of this node: where they are, and what they answer within a bound of time.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use crate::engines::Engine;

/// Where engines and runtimes lie, in front of what PATH says: sudo and cron leave some out.
const FOLDERS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long a program may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether it did.
const PAUSE: Duration = Duration::from_millis(5);
/// Most that is read of an answer.
const MAX_ANSWER_BYTES: u64 = 8 * 1024 * 1024;

/// What a program answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Whether it ended with 0.
    pub is_success: bool,
    /// Its standard output.
    pub output: String,
    /// Its standard error.
    pub error: String,
}

impl Answer {
    /// What it had to say last, for a message of one line.
    #[must_use]
    pub fn last_words(&self) -> String {
        let told = if self.error.trim().is_empty() { &self.output } else { &self.error };
        let line = told.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it said nothing");
        crate::model::redact::printable(line.as_bytes())
    }
}

/// The first executable file of that name in PATH or a folder where programs usually are.
#[must_use]
pub fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain(std::env::split_paths(FOLDERS)).filter(|folder| folder.is_absolute());
    folders.map(|folder| folder.join(name)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// The file behind all links; the path itself where there is none.
#[must_use]
pub fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Runs a program to its end, without input, and reads what it says.
///
/// # Errors
/// One line: it cannot be run, or did not answer within 30 seconds.
pub fn ask(program: &Path, arguments: &[&str]) -> Result<Answer, String> {
    let failed = |error: std::io::Error| format!("{} cannot be run: {error}", program.display());
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (output, error) = (child.stdout.take(), child.stderr.take());
    let output = std::thread::spawn(move || read(output));
    let error = std::thread::spawn(move || read(error));
    let deadline = Instant::now().checked_add(PATIENCE);
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if deadline.is_none_or(|deadline| Instant::now() > deadline) {
            // it may have ended meanwhile
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("{} did not answer within {} s", program.display(), PATIENCE.as_secs()));
        }
        std::thread::sleep(PAUSE);
    };
    let text = |thread: std::thread::JoinHandle<String>| thread.join().unwrap_or_default();
    Ok(Answer { is_success: status.success(), output: text(output), error: text(error) })
}

fn read(stream: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        // what was read until an error is what there is
        let _ = stream.take(MAX_ANSWER_BYTES).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An engine's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Where it is.
    pub path: PathBuf,
    /// Its version as it tells it; empty when it does not.
    pub version: String,
}

impl Installed {
    /// Major and minor number.
    #[must_use]
    pub fn numbers(&self) -> Option<(u32, u32)> {
        let mut parts = self.version.split(['.', '~', '-', '+']);
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

/// The program of an engine, when it is installed.
#[must_use]
pub fn find(engine: Engine) -> Option<Installed> {
    let path = in_path(engine.program())?;
    let told = ask(&path, &["--version"]).map(|answer| answer.output).unwrap_or_default();
    Some(Installed { path, version: version_in(&told).unwrap_or_default() })
}

/// `containerd github.com/containerd/containerd v1.7.24 …`, `crio version 1.36.3`, `podman version 4.3.1`,
/// `Docker version 20.10.24+dfsg1, build 297e128`.
fn version_in(text: &str) -> Option<String> {
    let words = text.lines().next()?.split_whitespace();
    let mut numbers = words.map(|word| word.trim_start_matches('v').trim_end_matches(','));
    numbers.find(|word| word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.')).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_engines_tell_them() {
        for (text, version, numbers) in [
            (
                "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1\n",
                "1.6.20~ds1",
                Some((1, 6)),
            ),
            ("containerd github.com/containerd/containerd/v2 v2.1.4 75cb2b7193e4\n", "2.1.4", Some((2, 1))),
            ("crio version 1.36.3\nVersion: 1.36.3\n", "1.36.3", Some((1, 36))),
            ("podman version 4.3.1\n", "4.3.1", Some((4, 3))),
            ("Docker version 20.10.24+dfsg1, build 297e128\n", "20.10.24+dfsg1", Some((20, 10))),
            ("hello\n", "", None),
        ] {
            let found = Installed { path: "/x".into(), version: version_in(text).unwrap_or_default() };
            assert_eq!((found.version.as_str(), found.numbers()), (version, numbers), "{text}");
        }
    }

    #[test]
    fn an_answer_is_read_whole_and_its_last_line_told() {
        let answer = ask(Path::new("/bin/sh"), &["-c", "echo out; echo why >&2; echo >&2; exit 3"]).unwrap();
        assert_eq!((answer.is_success, answer.output.as_str()), (false, "out\n"));
        assert_eq!(answer.last_words(), "why");
        assert!(ask(Path::new("/no/such"), &[]).unwrap_err().contains("cannot be run"));
    }
}

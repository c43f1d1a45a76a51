//! What a signal does to a call that is being answered: whether the real runtime can have it wait, as said by itself. And whether it
//! is youki, whatever its file is called.
//!
//! It is asked once and the answer is kept in `run_dir` for the program that was asked, because every creation wants it. Invariant: a
//! creation waits no longer than [`PATIENCE`] for it, and whatever goes wrong here means that calls do not wait killable.

use std::fs;
use std::fs::Metadata;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::io::Errno;
use serde::Deserialize;
use serde::Serialize;

use crate::kernel::features;
use crate::oci::exec_words::Flavour;
use crate::oci::runtime_features;
use crate::runtime_shim::Call;

/// Longest that a runtime may take to say what it can do.
const PATIENCE: Duration = Duration::from_millis(500);
/// An answer is asked for again after this time: the runtime's libseccomp may have been exchanged beside it.
const KEPT: Duration = Duration::from_secs(300);
/// Most bytes of an answer.
const MAX_BYTES: usize = 256 * 1024;

/// Which program was asked, and what it said.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// Why calls cannot wait killable; absent when they can.
    reason: Option<String>,
    /// Version of its libseccomp, where it told.
    #[serde(default)]
    libseccomp: Option<[u32; 3]>,
    /// Its version where it says that it is youki.
    #[serde(default)]
    youki: Option<[u32; 3]>,
}

/// What a runtime says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    killable: Result<(), Cannot>,
    youki: Option<[u32; 3]>,
}

/// What a runtime that cannot have calls wait killable said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cannot {
    /// One line.
    pub reason: String,
    /// Version of its libseccomp, where it told.
    pub libseccomp: Option<[u32; 3]>,
}

impl From<String> for Cannot {
    fn from(reason: String) -> Self {
        Self { reason, libseccomp: None }
    }
}

impl Answer {
    fn of(program: &Metadata, said: Said) -> Self {
        let (reason, libseccomp) = said.killable.err().map(|cannot| (cannot.reason, cannot.libseccomp)).unzip();

        Self {
            device: program.dev(),
            inode: program.ino(),
            bytes: program.size(),
            modified: (program.mtime(), program.mtime_nsec()),
            changed: (program.ctime(), program.ctime_nsec()),
            reason,
            libseccomp: libseccomp.flatten(),
            youki: said.youki,
        }
    }

    fn said(&self) -> Said {
        let cannot = self.reason.clone().map(|reason| Cannot { reason, libseccomp: self.libseccomp });
        Said { killable: cannot.map_or(Ok(()), Err), youki: self.youki }
    }
}

/// Whether calls wait killable under the real runtime of `call`.
///
/// # Errors
/// [`Cannot`].
pub fn wait_killable(call: &Call) -> Result<(), Cannot> {
    if !features::can_wait_killable() {
        return Err("the kernel cannot: it needs Linux 5.19".to_owned().into());
    }
    asked(call)?.killable
}

/// The version of the real runtime of `call` where that is youki, by its own word or its file's name; zeros where it is not told.
pub fn youki(call: &Call) -> Option<[u32; 3]> {
    let by_name = || (Flavour::of(&call.real.name()) == Some(Flavour::Youki)).then_some([0; 3]);
    asked(call).ok().and_then(|said| said.youki).or_else(by_name)
}

/// What the real runtime of `call` says of itself, now or lately.
fn asked(call: &Call) -> Result<Said, String> {
    let path = call.real.path();
    let program = fs::metadata(path).map_err(|error| format!("the runtime cannot be looked at: {error}"))?;
    let file = kept_in(call, &program);
    if let Some(known) = kept(&file, &program) {
        return Ok(known.said());
    }
    let said = ask(path);
    keep(&file, &Answer::of(&program, said.clone()));
    Ok(said)
}

/// Asks the runtime itself.
fn ask(path: &Path) -> Said {
    let silent = |error: String| Said {
        killable: Err(format!("the runtime does not tell its features: {error}").into()),
        youki: None,
    };
    let features = match output(path, "features") {
        Ok(features) => features,
        Err(error) => return silent(error),
    };
    let killable = runtime_features::waits_killable(&features);
    // runc and crun say in them who they are
    if killable.is_ok() && runtime_features::has_annotations(&features) {
        return Said { killable: Ok(()), youki: None };
    }
    let version = match output(path, "--version") {
        Ok(version) => version,
        Err(error) => return silent(error),
    };
    let youki = runtime_features::youki_version(&version);
    let killable = killable.or_else(|reason| {
        let libseccomp = runtime_features::libseccomp_version(&features)
            .or_else(|| runtime_features::libseccomp_version_of_youki(&version));
        runtime_features::version_waits_killable(&version).map_err(|_| Cannot { reason, libseccomp })
    });
    Said { killable, youki }
}

/// What the runtime prints for `argument`, within [`PATIENCE`].
fn output(path: &Path, argument: &str) -> Result<String, String> {
    let mut command = Command::new(path);
    command.arg(argument).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let answer = child.stdout.take().ok_or_else(|| "it has no output".to_owned()).and_then(read);
    // one that has answered is done; one that has not is not waited for
    child.kill().and_then(|()| child.wait()).map_err(|error| error.to_string())?;
    answer
}

/// All that comes within [`PATIENCE`]. Without a thread: with the first one, glibc handles a signal of its own, and what it was before
/// would not be handed on to the container's process (nptl, `SIGSETXID`).
fn read(mut stdout: ChildStdout) -> Result<String, String> {
    let deadline = Instant::now() + PATIENCE;
    let mut text = Vec::new();
    let mut chunk = [0_u8; 4096];
    while text.len() < MAX_BYTES {
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
        let mut polled = [PollFd::new(&stdout, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&limit)) {
            Ok(0) => return Err(format!("it did not answer within {} ms", PATIENCE.as_millis())),
            Err(Errno::INTR) => continue,
            other => other.map_err(|errno| errno.to_string())?,
        };
        match stdout.read(&mut chunk).map_err(|error| error.to_string())? {
            0 => break,
            count => text.extend(chunk.iter().take(count)),
        }
    }
    String::from_utf8(text).map_err(|error| error.to_string())
}

fn kept_in(call: &Call, program: &Metadata) -> PathBuf {
    call.config.run_dir.join(format!("runtime-{:x}-{:x}.json", program.dev(), program.ino()))
}

/// What `program` said lately.
fn kept(file: &Path, program: &Metadata) -> Option<Answer> {
    let age = SystemTime::now().duration_since(fs::metadata(file).ok()?.modified().ok()?).ok()?;
    let known: Answer = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    (age < KEPT && known == Answer::of(program, known.said())).then_some(known)
}

/// Keeps an answer; where that fails the runtime is asked again next time.
fn keep(file: &Path, answer: &Answer) {
    let fresh = file.with_extension(format!("{}.new", std::process::id()));
    let written = serde_json::to_vec(answer).map_err(Into::into).and_then(|bytes| fs::write(&fresh, bytes));
    if written.and_then(|()| fs::rename(&fresh, file)).is_err() {
        // there may be nothing to remove
        let _ = fs::remove_file(&fresh);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const SUPPORTED: &str =
        r#"echo '{"linux":{"seccomp":{"supportedFlags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}}}'"#;

    fn runtime(folder: &Path, script: &str) -> PathBuf {
        let path = folder.join("runtime");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
        path
    }

    #[test]
    fn a_runtime_is_asked_and_not_waited_for() {
        let folder = tempfile::tempdir().expect("folder");
        for (script, expected) in [
            (SUPPORTED, Ok(())),
            ("[ $1 = --version ] && echo crun version 1.8.1", Ok(())),
            ("echo '{}'", Err("list no seccomp flags")),
            ("exit 1", Err("not JSON")),
            ("exec sleep 60", Err("did not answer within")),
            ("sleep 60 & exit 1", Err("did not answer within")),
        ] {
            let begun = std::time::Instant::now();
            let found = ask(&runtime(folder.path(), script)).killable;
            assert!(begun.elapsed() < Duration::from_secs(10), "{script}");
            match (&found, expected) {
                (Ok(()), Ok(())) => {}
                (Err(cannot), Err(words)) => assert!(cannot.reason.contains(words), "{script}: {cannot:?}"),
                _ => panic!("{script}: {found:?}"),
            }
        }
        assert!(ask(Path::new("/no/such/runtime")).killable.is_err());
        for (script, youki) in [
            (r"[ $1 = --version ] && printf 'youki version: 0.7.1\nlibseccomp: 2.5.4\n' || echo '{}'", Some([0, 7, 1])),
            ("[ $1 = --version ] && echo runc version 1.1.5 || echo '{}'", None),
            (SUPPORTED, None),
        ] {
            let said = ask(&runtime(folder.path(), script));
            assert_eq!(said.youki, youki, "{script}");
            let told = said.killable.err().and_then(|cannot| cannot.libseccomp);
            assert_eq!(told, youki.map(|_| [2, 5, 4]), "{script}");
        }
    }

    #[test]
    fn an_answer_is_kept_for_the_program_that_gave_it() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("runtime-1-2.json");
        let path = runtime(folder.path(), "exit 0");
        let program = fs::metadata(&path).expect("metadata");
        assert_eq!(kept(&file, &program), None);
        let cannot = Cannot { reason: "why".to_owned(), libseccomp: Some([2, 5, 4]) };
        for cannot in [None, Some(cannot)] {
            let said = Said { youki: cannot.as_ref().map(|_| [0, 7, 0]), killable: cannot.map_or(Ok(()), Err) };
            keep(&file, &Answer::of(&program, said.clone()));
            assert_eq!(kept(&file, &program).expect("kept").said(), said);
        }
        let old = SystemTime::now().checked_sub(KEPT).expect("time");
        fs::File::options().write(true).open(&file).expect("open").set_modified(old).expect("set time");
        assert_eq!(kept(&file, &program), None, "asked again after a while");
        keep(&file, &Answer::of(&program, Said { killable: Ok(()), youki: None }));
        let exchanged = fs::metadata(runtime(folder.path(), "exit 1 # another")).expect("metadata");
        assert_eq!(kept(&file, &exchanged), None, "another program");
        keep(Path::new("/no/such/folder/file"), &Answer::of(&program, Said { killable: Ok(()), youki: None }));
    }
}

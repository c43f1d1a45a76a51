//! What the real runtime is handed: its command line, and the descriptors that it is to keep open for the container.
//!
//! The launcher is a sealed memfd behind all that the caller preserves, and behind it what it makes its own listener with: runtimes hand on the descriptors of LISTEN_FDS
//! (sd_listen_fds(3)) from 3, after them as many as `--preserve-fds` says.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use memchr::memmem;
use serde_json::Value;

use crate::kernel::Errno;
use crate::kernel::program_format::ProgramFormat;
use crate::kernel::sealed_memory;
use crate::kernel::sealed_memory::Purpose;
use crate::kernel::sealed_memory::SealedMemoryError;
use crate::oci::launcher_edit::Listening as Listens;
use crate::oci::launcher_words::OPTIONS;
use crate::runtime_shim::Call;
use crate::runtime_shim::listening::Listening;

/// Base name of the launcher, beside the shim.
const LAUNCHER_NAME: &str = "acctguard-launch";
/// Largest launcher that is taken.
const MAX_LAUNCHER_BYTES: u64 = 64 * 1024 * 1024;
/// First descriptor behind the standard ones.
const FIRST_PRESERVED: u32 = 3;
/// More than this are no real descriptors.
const MAX_PRESERVED: u32 = 1 << 20;

/// Why there is no launcher to hand in.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    /// It cannot be read.
    #[error("the launcher {} cannot be read; install acctguard-launch beside acctguard-runtime, or name it as [runtime] launcher", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Others may change it.
    #[error("the launcher {} can be written by others; chmod o-w it", path.display())]
    Untrusted {
        /// Which.
        path: PathBuf,
    },
    /// It is not a static program.
    #[error("the launcher {} is not a static ELF program, and would need the container's own libraries; build it with -Ctarget-feature=+crt-static", path.display())]
    NotStatic {
        /// Which.
        path: PathBuf,
    },
    /// It is another version's.
    #[error("the launcher {} is of another version than acctguard-runtime; install both of one", path.display())]
    Version {
        /// Which.
        path: PathBuf,
    },
    /// Sealed memory.
    #[error(transparent)]
    Memory(#[from] SealedMemoryError),
    /// `--preserve-fds` of the caller.
    #[error("--preserve-fds {0:?} is not a number of descriptors")]
    PreserveFds(OsString),
    /// No room.
    #[error("descriptor {number} for the launcher is past the limit of {limit} open files")]
    Limit {
        /// Which.
        number: u32,
        /// RLIMIT_NOFILE.
        limit: u64,
    },
}

/// A descriptor and the number under which the real runtime is to have it.
#[derive(Debug)]
struct Descriptor {
    own: OwnedFd,
    number: i32,
}

/// What the real runtime is handed.
#[derive(Debug)]
pub struct Handover {
    /// Its command line, `argv[0]` included.
    pub argv: Vec<OsString>,
    descriptors: Vec<Descriptor>,
}

impl Handover {
    /// The caller's own command line and nothing else.
    #[must_use]
    pub fn unchanged(call: &Call) -> Self {
        Self { argv: call.line.forwarded.clone(), descriptors: Vec::new() }
    }

    /// The command line that preserves `seat`, the launcher on it, and what that makes its own listener with; for an exec also its
    /// process.
    ///
    /// # Errors
    /// The process has no room in memory.
    pub fn with_launcher(
        call: &Call,
        seat: Seat,
        listening: Option<Listening>,
        process: Option<&Value>,
    ) -> Result<Self, LauncherError> {
        let Listens { line, filter, .. } = seat.listening("", None);
        let mut descriptors = vec![Descriptor { number: seat.number(), own: seat.launcher }];
        if let Some(listening) = listening {
            descriptors.push(Descriptor { own: listening.line, number: line });
            descriptors.push(Descriptor { own: listening.filter, number: filter });
        }
        let preserved = seat.preserved.by_option.saturating_add(u32::try_from(descriptors.len()).unwrap_or(u32::MAX));
        // not preserved: the runtime alone reads it
        let file =
            process.map(|process| add_process(&mut descriptors, filter.saturating_add(1), process)).transpose()?;
        Ok(Self { argv: call.line.with(Some(preserved), file.as_deref()), descriptors })
    }

    /// The command line with `process` in the place of its process file, without the launcher.
    ///
    /// # Errors
    /// [`LauncherError`].
    pub fn with_process(call: &Call, process: &Value) -> Result<Self, LauncherError> {
        let mut descriptors = Vec::new();
        let number = Preserved::of(call)?.first_free();
        let file = add_process(&mut descriptors, number, process)?;
        Ok(Self { argv: call.line.with(None, Some(&file)), descriptors })
    }

    /// Puts the descriptors where the real runtime expects them. Nothing may use another descriptor of this process
    /// afterwards but the standard ones.
    ///
    /// # Errors
    /// The number that could not be taken.
    pub fn place(&self) -> Result<(), (i32, Errno)> {
        let above = self.descriptors.iter().map(|descriptor| descriptor.number.saturating_add(1)).max().unwrap_or(0);
        // out of the way first: one may lie where another is to go
        let moved = self.descriptors.iter().map(|descriptor| {
            let moved = rustix::io::fcntl_dupfd_cloexec(&descriptor.own, above);
            moved.map(|moved| (moved, descriptor.number)).map_err(|errno| (descriptor.number, errno))
        });
        for (own, number) in moved.collect::<Result<Vec<_>, _>>()? {
            sealed_memory::place(&own, number).map_err(|errno| (number, errno))?;
        }
        Ok(())
    }
}

/// A process file in memory, which the runtime reads by its own descriptor and hands on to nobody.
fn add_process(descriptors: &mut Vec<Descriptor>, number: i32, process: &Value) -> Result<PathBuf, SealedMemoryError> {
    let memory = sealed_memory::make("acctguard-process", process.to_string().as_bytes(), Purpose::Text)?;
    descriptors.push(Descriptor { own: memory, number });
    Ok(PathBuf::from(format!("/proc/self/fd/{number}")))
}

/// How many descriptors the caller wants preserved.
#[derive(Debug, Clone, Copy)]
struct Preserved {
    by_option: u32,
    listening: u32,
}

impl Preserved {
    fn of(call: &Call) -> Result<Self, LauncherError> {
        let by_option = match &call.line.options.preserve_fds {
            None => 0,
            Some(text) => {
                let number = text.to_str().and_then(|text| text.parse().ok()).filter(|number| *number < MAX_PRESERVED);
                number.ok_or_else(|| LauncherError::PreserveFds(text.clone()))?
            }
        };
        let variable = |name: &str| std::env::var(name).ok();
        let listening = listening(variable("LISTEN_PID"), variable("LISTEN_FDS"), std::process::id());
        let number = FIRST_PRESERVED + by_option + listening;
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        // room for the launcher, its line and filter, a process file, and for moving all of them out of the way
        if u64::from(number) + 8 > limit {
            return Err(LauncherError::Limit { number, limit });
        }
        Ok(Self { by_option, listening })
    }

    /// The first descriptor behind them.
    fn first_free(self) -> i32 {
        // bounded when they were counted
        i32::try_from(FIRST_PRESERVED + self.by_option + self.listening).unwrap_or(i32::MAX)
    }
}

/// The launcher and the place where it will sit.
#[derive(Debug)]
pub struct Seat {
    launcher: OwnedFd,
    preserved: Preserved,
}

impl Seat {
    /// The launcher in sealed memory, behind all that the caller preserves.
    ///
    /// # Errors
    /// [`LauncherError`].
    pub fn take(call: &Call) -> Result<Self, LauncherError> {
        let preserved = Preserved::of(call)?;
        let path = call.config.launcher.clone().unwrap_or_else(beside_the_shim);
        let launcher = sealed_memory::make(LAUNCHER_NAME, &read(&path)?, Purpose::Program)?;
        Ok(Self { launcher, preserved })
    }

    /// The launcher's descriptor in the container.
    #[must_use]
    pub fn number(&self) -> i32 {
        self.preserved.first_free()
    }

    /// The descriptors with which it makes its own listener in `container`, for the exec session of which `exec` is the recorded event.
    #[must_use]
    pub fn listening<'a>(&self, container: &'a str, exec: Option<&'a str>) -> Listens<'a> {
        let number = self.number();
        Listens { line: number.saturating_add(1), filter: number.saturating_add(2), must: false, container, exec }
    }
}

/// How many descriptors are passed to process `own` by sd_listen_fds(3).
fn listening(pid: Option<String>, count: Option<String>, own: u32) -> u32 {
    let ours = pid.and_then(|pid| pid.parse().ok()) == Some(own);
    let count = count.and_then(|count| count.parse().ok()).filter(|count| *count < MAX_PRESERVED);
    if ours { count.unwrap_or(0) } else { 0 }
}

fn beside_the_shim() -> PathBuf {
    let own = fs::read_link("/proc/self/exe").unwrap_or_default();
    own.with_file_name(LAUNCHER_NAME)
}

/// A static program that nobody else may change.
fn read(path: &Path) -> Result<Vec<u8>, LauncherError> {
    let failed = |source| LauncherError::Read { path: path.to_owned(), source };
    let file = fs::File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.mode() & 0o002 != 0 {
        return Err(LauncherError::Untrusted { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    file.take(MAX_LAUNCHER_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    match ProgramFormat::of(&bytes) {
        ProgramFormat::Static if memmem::find(&bytes, OPTIONS.as_bytes()).is_none() => {
            Err(LauncherError::Version { path: path.to_owned() })
        }
        ProgramFormat::Static => Ok(bytes),
        _ => Err(LauncherError::NotStatic { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn listening_descriptors_count_when_they_are_ours() {
        let text = |text: &str| Some(text.to_owned());
        for (pid, count, expected) in [
            (None, None, 0),
            (text("7"), text("2"), 2),
            (text("8"), text("2"), 0),
            (text("7"), text("x"), 0),
            (text("7"), None, 0),
            (None, text("2"), 0),
        ] {
            assert_eq!(listening(pid.clone(), count.clone(), 7), expected, "{pid:?} {count:?}");
        }
    }

    /// An ELF header without segments, and `words` behind it.
    fn static_program(words: &str) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        bytes.extend(words.as_bytes());
        bytes
    }

    #[test]
    fn only_a_static_program_that_others_cannot_change_is_a_launcher() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("launcher");
        assert!(matches!(read(&path), Err(LauncherError::Read { .. })));
        fs::copy("/proc/self/exe", &path).expect("copy");
        assert!(matches!(read(&path), Err(LauncherError::NotStatic { .. })));
        let of_another_version = static_program("of another version");
        fs::write(&path, &of_another_version).expect("write");
        assert!(matches!(read(&path), Err(LauncherError::Version { .. })));
        let of_this = static_program(OPTIONS);
        fs::write(&path, &of_this).expect("write");
        assert_eq!(read(&path).expect("a launcher"), of_this);
        fs::write(&path, "#!/bin/sh").expect("write");
        assert!(matches!(read(&path), Err(LauncherError::NotStatic { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o757)).expect("mode");
        assert!(matches!(read(&path), Err(LauncherError::Untrusted { .. })));
    }
}

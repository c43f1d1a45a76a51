//! Which program the real runtime is, and never acctguard itself.
//!
//! The configuration names it, by the name the shim was called by or for all; else a link beside the path that the shim was called
//! by does (`acctguard install` puts `crun.real` beside its `crun`); otherwise it is the first `runc` or `crun` in PATH that is not
//! this program. A wrapper script that leads back here is found by a mark in the environment.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use crate::config::Config;
use crate::engines::behind::REAL_SUFFIX;
use crate::kernel::exec;
use crate::kernel::exec::ExecError;

/// Holds the pid of the shim that called the real runtime, which has the same pid then.
const MARK: &str = "ACCTGUARD_RUNTIME_PID";
/// Where a program is looked for when PATH is not set (the value of systemd and of most shells).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Runtimes that are looked for, unless the shim is called by one of these names.
const NAMES: [&str; 2] = ["runc", "crun"];

/// The real runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RealRuntime {
    path: PathBuf,
}

/// Why there is no real runtime to call.
#[derive(Debug, thiserror::Error)]
pub enum RealRuntimeError {
    /// The configured one.
    #[error("the real runtime {} cannot be used; correct [runtime] in acctguard's configuration", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The configured one is no program.
    #[error("the real runtime {} is not an executable file; correct [runtime] in acctguard's configuration", path.display())]
    NotExecutable {
        /// Which.
        path: PathBuf,
    },
    /// The configured one is this program.
    #[error("the real runtime {} is acctguard-runtime itself; name runc or crun under [runtime] in acctguard's configuration", path.display())]
    Itself {
        /// Which.
        path: PathBuf,
    },
    /// None in PATH.
    #[error(
        "no real runtime: neither runc nor crun other than acctguard-runtime is in PATH {path:?}; install one, or name it under [runtime] in acctguard's configuration"
    )]
    NotFound {
        /// PATH.
        path: OsString,
    },
    /// The real runtime called the shim.
    #[error(
        "acctguard-runtime is called by the program that it just called as the real runtime; name the runtime itself, not a script that leads back here, under [runtime] in acctguard's configuration"
    )]
    Loop,
    /// The shim does not know itself.
    #[error("look at /proc/self/exe; the shim needs /proc to know that it does not call itself")]
    Own(#[source] io::Error),
}

/// Finds the real runtime for a shim called by `name` (`argv[0]`).
///
/// # Errors
/// [`RealRuntimeError`].
pub fn find(config: &Config, name: Option<&OsString>) -> Result<RealRuntime, RealRuntimeError> {
    let own = fs::metadata("/proc/self/exe").map_err(RealRuntimeError::Own)?;
    let base = name.and_then(|name| Path::new(name).file_name()).and_then(OsStr::to_str).unwrap_or("");
    let beside = name.and_then(|name| beside(Path::new(name)));
    match config.runtime_paths.get(base).or(config.runtime_path.as_ref()).or(beside.as_ref()) {
        Some(path) => configured(path, &own),
        None => in_path(base, &own, std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into())),
    }
}

/// The link to the real runtime beside the whole path that the shim was called by, also where it leads nowhere: then nothing else
/// may take its place.
fn beside(called: &Path) -> Option<PathBuf> {
    let mut link = called.as_os_str().to_owned();
    link.push(REAL_SUFFIX);
    let is_there = called.is_absolute() && fs::symlink_metadata(&link).is_ok();
    is_there.then(|| PathBuf::from(link))
}

fn is_same(left: &Metadata, right: &Metadata) -> bool {
    (left.dev(), left.ino()) == (right.dev(), right.ino())
}

fn is_program(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
}

fn configured(path: &Path, own: &Metadata) -> Result<RealRuntime, RealRuntimeError> {
    let path = path.to_owned();
    match fs::metadata(&path) {
        Err(source) => Err(RealRuntimeError::Unusable { path, source }),
        Ok(metadata) if is_same(&metadata, own) => Err(RealRuntimeError::Itself { path }),
        Ok(metadata) if !is_program(&metadata) => Err(RealRuntimeError::NotExecutable { path }),
        Ok(_) => Ok(RealRuntime { path }),
    }
}

fn in_path(base: &str, own: &Metadata, path: OsString) -> Result<RealRuntime, RealRuntimeError> {
    let wanted: Vec<&str> = NAMES.into_iter().filter(|name| *name == base).collect();
    let names = if wanted.is_empty() { NAMES.to_vec() } else { wanted };
    let folders: Vec<PathBuf> = std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect();
    let candidates = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    let usable = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| is_program(&found) && !is_same(&found, own));
    let found = candidates.into_iter().find(usable);
    found.map(|path| RealRuntime { path }).ok_or(RealRuntimeError::NotFound { path })
}

/// This process's environment with the mark in it.
///
/// # Errors
/// [`RealRuntimeError::Loop`] when the mark of this process or its parent is already there: then the real runtime is a
/// script that leads back here.
pub fn marked_environment() -> Result<Vec<OsString>, RealRuntimeError> {
    let own = std::process::id();
    let marked_by = std::env::var(MARK).ok().and_then(|pid| pid.parse::<u32>().ok());
    if marked_by.is_some_and(|pid| pid == own || pid == std::os::unix::process::parent_id()) {
        return Err(RealRuntimeError::Loop);
    }
    let mut environment: Vec<OsString> =
        std::env::vars_os().filter(|(name, _)| name != MARK).map(|(name, value)| variable(&name, &value)).collect();
    environment.push(variable(OsStr::new(MARK), OsStr::new(&own.to_string())));
    Ok(environment)
}

fn variable(name: &OsStr, value: &OsStr) -> OsString {
    let mut text = name.to_owned();
    text.push("=");
    text.push(value);
    text
}

impl RealRuntime {
    /// Its base name, as events say it.
    #[must_use]
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        crate::model::redact::printable(name.as_bytes())
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Turns this process into it. Returns only if that failed.
    #[must_use]
    pub fn become_it(&self, argv: &[OsString], environment: Vec<OsString>) -> ExecError {
        exec::replace(&self.path, argv, &environment)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn own() -> Metadata {
        fs::metadata("/proc/self/exe").expect("proc")
    }

    #[test]
    fn a_configured_runtime_is_checked() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let link = folder.path().join("runc");
        symlink("/proc/self/exe", &link).expect("links");
        assert!(matches!(configured(&link, &own()), Err(RealRuntimeError::Itself { .. })));
        assert!(matches!(configured(Path::new("/nonexistent"), &own()), Err(RealRuntimeError::Unusable { .. })));
        assert!(matches!(configured(folder.path(), &own()), Err(RealRuntimeError::NotExecutable { .. })));
        assert!(configured(Path::new("/bin/sh"), &own()).is_ok());
    }

    #[test]
    fn a_link_beside_the_called_path_names_the_real_runtime() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let called = folder.path().join("crun");
        assert_eq!(beside(&called), None);
        symlink("/no/such/runtime", folder.path().join("crun.real")).expect("links");
        assert_eq!(beside(&called), Some(folder.path().join("crun.real")), "also where it leads nowhere");
        assert_eq!(beside(Path::new("crun")), None, "a name found in PATH is no place");
        let found = |config: &Config| find(config, Some(&called.clone().into_os_string()));
        assert!(matches!(found(&Config::defaults()), Err(RealRuntimeError::Unusable { .. })));
        let config = Config { runtime_path: Some("/bin/sh".into()), ..Config::defaults() };
        assert_eq!(found(&config).expect("the configuration wins").path(), Path::new("/bin/sh"));
    }

    #[test]
    fn path_search_passes_over_itself() {
        let first = tempfile::tempdir().expect("temporary folder");
        let second = tempfile::tempdir().expect("temporary folder");
        let executable = std::env::current_exe().expect("known");
        symlink(executable, first.path().join("runc")).expect("links");
        for name in NAMES {
            symlink("/bin/sh", second.path().join(name)).expect("links");
        }
        let path = std::env::join_paths([first.path(), second.path()]).expect("joins");
        for (base, expected) in [("acctguard-runtime", "runc"), ("runc", "runc"), ("crun", "crun")] {
            let found = in_path(base, &own(), path.clone()).expect("finds");
            assert_eq!(found.path(), second.path().join(expected));
        }
        let nothing = in_path("runc", &own(), first.path().as_os_str().to_owned());
        assert!(matches!(nothing, Err(RealRuntimeError::NotFound { .. })));
    }
}

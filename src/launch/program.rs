//! Finding a program as OCI runtimes do and becoming it.
//!
//! A name with a slash is taken as it is, any other is looked for in the PATH of the environment. As in runc and crun there is
//! no fall-back to a shell for a file without a known format: execve(2), never execvp(3).

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use nix::unistd::AccessFlags;

use crate::kernel::Errno;
use crate::kernel::exec;
use crate::kernel::exec::ExecError;

/// Why the program did not start.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// Nothing of that name in PATH. The words are those that engines look for in a runtime's message.
    #[error("exec {0:?}: executable file not found in $PATH")]
    NotInPath(OsString),
    /// It was found and could not be run.
    #[error(transparent)]
    Exec(ExecError),
}

impl ProgramError {
    /// The exit code shells and `env`(1) give: 127 not found, 126 found and not executable.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::NotInPath(_) | Self::Exec(ExecError::Execve { source: Errno::NOENT | Errno::NOTDIR, .. }) => 127,
            Self::Exec(_) => 126,
        }
    }
}

/// Becomes `command` with this process's environment; comes back only with the reason why not.
#[must_use]
pub fn replace(command: &[OsString]) -> ProgramError {
    let name = command.first().map(OsString::as_os_str).unwrap_or_default();
    let path = match find(name, std::env::var_os("PATH").as_deref()) {
        Ok(path) => path,
        Err(error) => return error,
    };
    ProgramError::Exec(exec::replace(&path, command, &exec::environment()))
}

/// The file that `name` means: itself when it holds a slash, else the first executable file of that name in `search`.
/// Relative parts of `search` are skipped (CVE-2022-41716's lesson in Go's LookPath, which runc uses). A file that is there
/// and not executable is answered when nothing better is found, so that execve(2) tells the reason.
fn find(name: &OsStr, search: Option<&OsStr>) -> Result<PathBuf, ProgramError> {
    if name.as_bytes().contains(&b'/') {
        return Ok(PathBuf::from(name));
    }
    let mut second_best = None;
    for directory in search.map(std::env::split_paths).into_iter().flatten().filter(|path| path.is_absolute()) {
        let candidate = directory.join(name);
        if name.is_empty() || !Path::is_file(&candidate) {
            continue;
        }
        // the real ids equal the effective ones here, so access(2) tells what execve(2) will check
        if nix::unistd::access(&candidate, AccessFlags::X_OK).is_ok() {
            return Ok(candidate);
        }
        second_best.get_or_insert(candidate);
    }
    second_best.ok_or_else(|| ProgramError::NotInPath(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn programs_are_found_as_runtimes_find_them() {
        let folder = tempfile::tempdir().expect("folder");
        let base = folder.path();
        for (file, mode) in [("a/tool", 0o644), ("b/tool", 0o755), ("a/data", 0o644)] {
            let path = base.join(file);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("directory");
            std::fs::write(&path, "").expect("file");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode");
        }
        let search = format!("relative::{0}/a:{0}/b:{0}/a/tool", base.display());
        let find = |name: &str| find(OsStr::new(name), Some(OsStr::new(&search))).ok();
        assert_eq!(find("tool"), Some(base.join("b/tool")), "the first that may be executed");
        assert_eq!(find("data"), Some(base.join("a/data")), "there, not executable: execve tells why");
        assert_eq!(find("./x"), Some(PathBuf::from("./x")), "a slash means itself");
        assert_eq!(find("missing"), None);
        assert_eq!(find(""), None);
        assert!(super::find(OsStr::new("tool"), None).is_err(), "no PATH, nothing found");
    }

    #[test]
    fn exit_codes_tell_missing_from_not_executable() {
        for (source, expected) in
            [(Errno::NOENT, 127), (Errno::NOTDIR, 127), (Errno::ACCESS, 126), (Errno::NOEXEC, 126), (Errno::ISDIR, 126)]
        {
            assert_eq!(ProgramError::Exec(ExecError::Execve { path: "/x".into(), source }).exit_code(), expected);
        }
    }
}

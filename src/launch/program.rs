//! Finding a program as OCI runtimes do and becoming it.
//!
//! A name with a slash is taken as it is, any other is looked for in the PATH of the environment. As in runc and crun there is
//! no fall-back to a shell for a file without a known format: execve(2), never execvp(3).

use alloc::borrow::ToOwned;
use alloc::ffi::CString;
use alloc::string::String;
use core::ffi::CStr;

use rustix::fs::Access;
use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::calls::process;
use crate::calls::process::Reason;
use crate::calls::process::Strings;
use crate::paths;

/// Why the program did not start.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// Nothing of that name in PATH. The words are those that engines look for in a runtime's message.
    #[error("exec {:?}: executable file not found in $PATH", String::from_utf8_lossy(_0.to_bytes()))]
    NotInPath(CString),
    /// It was found and could not be run.
    #[error("cannot run {}: {}", String::from_utf8_lossy(path.to_bytes()), Reason(*reason))]
    Exec {
        /// The program.
        path: CString,
        /// execve(2)'s.
        reason: Errno,
    },
}

impl ProgramError {
    /// The exit code shells and `env`(1) give: 127 not found, 126 found and not executable.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::NotInPath(_) | Self::Exec { reason: Errno::NOENT | Errno::NOTDIR, .. } => 127,
            Self::Exec { .. } => 126,
        }
    }
}

/// Becomes the program that the first of `command` names; comes back only with the reason why not.
#[must_use]
pub fn replace(command: Strings, environment: Strings) -> ProgramError {
    let name = command.iter().next().unwrap_or_default();
    let search = environment.iter().find_map(|variable| variable.to_bytes().strip_prefix(b"PATH="));
    match find(name, search) {
        Ok(path) => ProgramError::Exec { reason: process::replace(&path, command, environment), path },
        Err(error) => error,
    }
}

/// The file that `name` means: itself when it holds a slash, else the first executable file of that name in `search`.
/// Relative parts of `search` are skipped (CVE-2022-41716's lesson in Go's LookPath, which runc uses). A file that is there
/// and not executable is answered when nothing better is found, so that execve(2) tells the reason.
fn find(name: &CStr, search: Option<&[u8]>) -> Result<CString, ProgramError> {
    if name.to_bytes().contains(&b'/') {
        return Ok(name.to_owned());
    }
    let mut second_best = None;
    let folders = search.into_iter().flat_map(|search| search.split(|byte| *byte == b':'));
    for folder in folders.filter(|folder| folder.starts_with(b"/")) {
        let Ok(candidate) = CString::new(paths::join(folder, name.to_bytes())) else { continue };
        if name.is_empty() || !is_file(&candidate) {
            continue;
        }
        // the real ids equal the effective ones here, so faccessat(2) tells what execve(2) will check
        if rustix::fs::accessat(CWD, &candidate, Access::EXEC_OK, AtFlags::empty()).is_ok() {
            return Ok(candidate);
        }
        second_best.get_or_insert(candidate);
    }
    second_best.ok_or_else(|| ProgramError::NotInPath(name.to_owned()))
}

fn is_file(path: &CStr) -> bool {
    let status = rustix::fs::statat(CWD, path, AtFlags::empty());
    status.is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::RegularFile)
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
        let find = |name: &CStr| find(name, Some(search.as_bytes())).ok();
        let there = |name: &str| CString::new(base.join(name).to_str().expect("text")).ok();
        assert_eq!(find(c"tool"), there("b/tool"), "the first that may be executed");
        assert_eq!(find(c"data"), there("a/data"), "there, not executable: execve tells why");
        assert_eq!(find(c"./x"), Some(c"./x".to_owned()), "a slash means itself");
        assert_eq!(find(c"missing"), None);
        assert_eq!(find(c""), None);
        assert!(super::find(c"tool", None).is_err(), "no PATH, nothing found");
    }

    #[test]
    fn exit_codes_tell_missing_from_not_executable() {
        for (reason, expected) in
            [(Errno::NOENT, 127), (Errno::NOTDIR, 127), (Errno::ACCESS, 126), (Errno::NOEXEC, 126), (Errno::ISDIR, 126)]
        {
            assert_eq!(ProgramError::Exec { path: c"/x".to_owned(), reason }.exit_code(), expected);
        }
    }
}

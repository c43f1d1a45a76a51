//! Turning into another program, execve(2).

use std::convert::Infallible;
use std::ffi::CString;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use crate::kernel::Errno;
use crate::kernel::raw::inherited;

/// Why this process is still itself.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// A NUL byte in the path, an argument or a variable.
    #[error("cannot run {}: {what} contains a NUL byte", path.display())]
    Nul {
        /// The program.
        path: PathBuf,
        /// Where the NUL is.
        what: &'static str,
    },
    /// execve(2) failed.
    #[error("cannot run {}", path.display())]
    Execve {
        /// The program.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
}

/// Replaces this process by `path` with exactly `argv` (`argv[0]` included) and `environment` (`NAME=value`, in order).
/// Descriptors without close-on-exec are inherited; SIGPIPE and closed standard descriptors are put back to what this process
/// itself was started with. Returns only when that failed, and then nothing can be written to a standard error that was closed.
#[must_use]
pub fn replace(path: &Path, argv: &[OsString], environment: &[OsString]) -> ExecError {
    match try_replace(path, argv, environment) {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

fn try_replace(path: &Path, argv: &[OsString], environment: &[OsString]) -> Result<Infallible, ExecError> {
    let nul = |what| ExecError::Nul { path: path.to_owned(), what };
    let program = c_string(path.as_os_str()).ok_or_else(|| nul("its path"))?;
    let arguments = c_strings(argv).ok_or_else(|| nul("an argument"))?;
    let variables = c_strings(environment).ok_or_else(|| nul("an environment variable"))?;
    let failed = |source| ExecError::Execve { path: path.to_owned(), source };
    inherited::restore().map_err(failed)?;
    nix::unistd::execve(&program, &arguments, &variables)
        .map_err(|errno| failed(Errno::from_raw_os_error(errno as i32)))
}

fn c_string(text: &OsStr) -> Option<CString> {
    CString::new(text.as_bytes()).ok()
}

fn c_strings(texts: &[OsString]) -> Option<Vec<CString>> {
    texts.iter().map(|text| c_string(text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::raw::child::fork_for_test;
    use std::error::Error;

    #[test]
    fn the_program_gets_its_arguments_environment_and_signals() {
        let folder = tempfile::tempdir().expect("folder");
        let output = folder.path().join("output");
        // SigIgn is a hex mask; bit 12 is SIGPIPE (13)
        let script = "printf '%s|%s|' \"$0\" \"$*\" > \"$OUTPUT\"; env | grep -c . >> \"$OUTPUT\"; \
                      grep SigIgn /proc/self/status >> \"$OUTPUT\"; exit 7";
        let variables = [OsString::from(format!("OUTPUT={}", output.display()))];
        let argv = ["strange name", "-c", script, "zero", "a b", ""].map(OsString::from);
        let child = fork_for_test(move || {
            let _error = replace(Path::new("/bin/sh"), &argv, &variables);
            1
        });
        assert_eq!(child.wait(), 7);
        let text = std::fs::read_to_string(output).expect("output");
        assert!(text.starts_with("zero|a b |"), "{text}");
        let ignored = u64::from_str_radix(text.split_whitespace().last().expect("mask"), 16).expect("hex");
        assert_eq!(ignored & 1 << 12, 0, "SIGPIPE is still ignored");
    }

    #[test]
    fn failures_name_the_program() {
        // in a process of its own: SIGPIPE ends this one afterwards
        let child = fork_for_test(|| {
            let missing = replace(Path::new("/no/such/program"), &[OsString::from("x")], &[]);
            let nul = replace(Path::new("/bin/sh"), &[OsString::from("a\0b")], &[]);
            let because = missing.source().is_some_and(|cause| cause.to_string().contains("No such file"));
            let named = missing.to_string() == "cannot run /no/such/program";
            let bounded = nul.to_string() == "cannot run /bin/sh: an argument contains a NUL byte";
            i32::from(!(because && named && bounded))
        });
        assert_eq!(child.wait(), 0);
    }
}

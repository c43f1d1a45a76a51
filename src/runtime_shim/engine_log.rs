//! Tells people and engines of an error: one line on standard error, and one line in the file that `--log` names, in the
//! form of `--log-format`. containerd shows its user nothing but the last line with `level=error` of that file.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use serde_json::json;

use crate::model::diagnostic::chain;
use crate::model::redact;
use crate::oci::runtime_args::CommandLine;

/// Reports `error` with its causes. Nothing can be done about a log that cannot be written; the line on standard error stands.
pub fn report(line: &CommandLine, error: &dyn Error) {
    let message = format!("acctguard: {}", redact::printable(chain(error).as_bytes()));
    eprintln!("{message}");
    if let Some(path) = line.log.as_deref().and_then(log_file) {
        let json = line.log_format.as_deref().is_some_and(|format| format == "json");
        let _ = append(&path, &entry(&message, json));
    }
}

/// The file of `--log`. crun also takes `file:PATH`, and `journald:` and `syslog:`, which are no files.
fn log_file(log: &Path) -> Option<PathBuf> {
    let bytes = log.as_os_str().as_bytes();
    if let Some(path) = bytes.strip_prefix(b"file:") {
        return Some(PathBuf::from(std::ffi::OsStr::from_bytes(path)));
    }
    let elsewhere = bytes.starts_with(b"journald:") || bytes.starts_with(b"syslog:");
    let standard = matches!(bytes, b"" | b"/dev/stderr" | b"/dev/fd/2" | b"/proc/self/fd/2");
    (!elsewhere && !standard).then(|| log.to_owned())
}

/// A line as logrus writes it for runc.
fn entry(message: &str, json: bool) -> String {
    let time = format!("{:.0}", jiff::Timestamp::now());
    if json {
        format!("{}\n", json!({"level": "error", "msg": message, "time": time}))
    } else {
        format!("time=\"{time}\" level=error msg={}\n", json!(message))
    }
}

/// The log may be a fifo nobody reads or that is full: opened and written without waiting.
fn append(path: &Path, line: &str) -> std::io::Result<()> {
    let flags = nix::fcntl::OFlag::O_NONBLOCK.bits() | nix::fcntl::OFlag::O_NOCTTY.bits();
    let mut file = File::options().append(true).create(true).mode(0o644).custom_flags(flags).open(path)?;
    file.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    fn line(path: &Path, format: Option<&str>) -> CommandLine {
        CommandLine { log: Some(path.to_owned()), log_format: format.map(Into::into), ..CommandLine::default() }
    }

    #[test]
    fn one_line_in_the_asked_format() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("log.json");
        let error = Outer(std::io::Error::other("in\"ner\n"));
        report(&line(&path, Some("json")), &error);
        report(&line(&path, None), &error);
        let text = std::fs::read_to_string(&path).expect("written");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        let first: serde_json::Value = serde_json::from_str(lines[0]).expect("JSON");
        assert_eq!(first["level"], "error");
        let message = first["msg"].as_str().expect("text");
        assert!(message.starts_with("acctguard: outer: in\"ner") && !message.contains('\n'), "{message}");
        assert!(lines[1].contains("level=error msg=\"acctguard: outer"), "{}", lines[1]);
    }

    #[test]
    fn never_hangs_on_a_fifo() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        report(&line(&path, Some("json")), &Outer(std::io::Error::other("x")));
        for elsewhere in ["journald:x", "syslog:x", "/dev/stderr", ""] {
            assert_eq!(log_file(Path::new(elsewhere)), None);
        }
        assert_eq!(log_file(Path::new("file:/a")), Some(PathBuf::from("/a")));
    }
}

//! `acctguard doctor`: everything this node needs, tried and not assumed; one line each, with the remedy.
//!
//! Looks and changes nothing. What only makes acctguard less good is a note; only what keeps it from doing its job is missing,
//! and only that makes the command fail.

use std::io::Write;

use crate::cli::CommandError;
use crate::cli::Outcome;
use crate::cli::readable;
use crate::config::Config;
use crate::config::file::ConfigError;
use crate::config::findings;
use crate::config::node;
use crate::kernel::features;
use crate::kernel::features::Feature;

mod daemon;
mod engines;
mod machine;
mod runtimes;

/// How one thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Fine,
    /// Works, and could be better.
    Note,
    /// Keeps acctguard from its job.
    Missing,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Check {
    standing: Standing,
    what: String,
    detail: String,
    remedy: Option<String>,
}

impl Check {
    fn fine(what: &str, detail: impl Into<String>) -> Self {
        Self { standing: Standing::Fine, what: what.to_owned(), detail: detail.into(), remedy: None }
    }

    fn note(what: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { standing: Standing::Note, what: what.to_owned(), detail: detail.into(), remedy: Some(remedy.into()) }
    }

    fn missing(what: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { standing: Standing::Missing, ..Self::note(what, detail, remedy) }
    }

    fn line(&self) -> String {
        let word = match self.standing {
            Standing::Fine => "ok      ",
            Standing::Note => "note    ",
            Standing::Missing => "MISSING ",
        };
        let remedy = self.remedy.as_deref().map(|remedy| format!("; remedy: {remedy}")).unwrap_or_default();
        let line = format!("{}: {}{remedy}", self.what, self.detail);
        format!("{word}{}", readable::sentence(&line))
    }
}

/// Kernel features without which the product of this version still does its job.
const OPTIONAL_FEATURES: [&str; 9] = [
    "seccomp synchronous wake-up",
    "seccomp killable wait",
    "seccomp descriptor injection",
    "pidfd_getfd",
    "Landlock",
    "Landlock refusals in the audit log",
    "audit log",
    "fanotify directory events",
    "io_uring",
];

/// Checks the node and writes a line for each check to `output`.
///
/// # Errors
/// [`CommandError::Output`].
pub fn run(config: Result<Config, ConfigError>, mut output: impl Write) -> Result<Outcome, CommandError> {
    let mut missing = false;
    let mut show = |checks: Vec<Check>| -> Result<(), CommandError> {
        for check in checks {
            missing |= check.standing == Standing::Missing;
            writeln!(output, "{}", check.line())?;
        }
        Ok(())
    };
    show(user(rustix::process::geteuid().is_root()))?;
    let features = features::probe_all();
    show(features.iter().map(feature).collect())?;
    show(configuration(&config))?;
    if let Ok(config) = &config {
        let found = runtimes::find(config);
        show(runtimes::checks(&found))?;
        let has_landlock = features.iter().any(|feature| feature.name == "Landlock" && feature.present);
        show(engines::checks(config, has_landlock))?;
        show(machine::checks(config, found.iter().any(runtimes::Runtime::is_crun)))?;
        show(policies(config))?;
        show(daemon::checks(config))?;
        show(host(config))?;
    }
    output.flush()?;
    Ok(if missing { Outcome::Findings } else { Outcome::Done })
}

/// Most of what follows cannot be seen by others.
fn user(is_root: bool) -> Vec<Check> {
    if is_root {
        return Vec::new();
    }
    vec![Check::missing("user", "not root, so much of what follows cannot be tried", "run this command as root")]
}

/// A file error in a few words.
fn unreadable(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "is not there".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

fn feature(feature: &Feature) -> Check {
    let what = format!("kernel: {}", feature.name);
    if feature.present {
        return Check::fine(&what, feature.detail.clone());
    }
    let detail = format!("{} (for {}, Linux {})", feature.detail, feature.needed_for, feature.minimum_linux);
    if OPTIONAL_FEATURES.contains(&feature.name) {
        Check::note(&what, detail, feature.remedy)
    } else {
        Check::missing(&what, detail, feature.remedy)
    }
}

fn configuration(config: &Result<Config, ConfigError>) -> Vec<Check> {
    match config {
        Ok(Config { file: Some(file), .. }) => vec![Check::fine("configuration", file.display().to_string())],
        Ok(_) => vec![Check::fine("configuration", "no file, the defaults hold")],
        Err(error) => vec![Check::missing("configuration", error.to_string(), "correct the file")],
    }
}

fn policies(config: &Config) -> Vec<Check> {
    let checked = findings::check(config);
    let folder = config.policy_dir.display();
    let mut checks: Vec<Check> = checked
        .findings
        .iter()
        .map(|finding| {
            if finding.is_error() {
                Check::missing("policies", finding.to_string(), "correct the file, then run acctguard policy check")
            } else {
                Check::note("policies", finding.to_string(), "acctguard policy check tells more")
            }
        })
        .collect();
    if checked.is_usable() {
        let count = checked.policies.documents.len();
        let detail = match count {
            0 => format!("none in {folder}; the built-in audit default holds"),
            _ => format!("{count} in {folder}"),
        };
        checks.insert(0, Check::fine("policies", detail));
    }
    checks
}

/// What every event says of the host, as far as it can be told.
fn host(config: &Config) -> Vec<Check> {
    let host = node::host(config);
    let mut checks = Vec::new();
    if host.name.is_empty() {
        checks.push(Check::note("host", "has no name", "set one with hostnamectl hostname"));
    }
    if host.machine_id.is_none() {
        checks.push(Check::note("host", "/etc/machine-id is missing or empty", "run systemd-machine-id-setup"));
    }
    if host.boot_id.is_none() {
        let remedy = "mount /proc with the kernel's own files";
        checks.push(Check::note("host", "/proc/sys/kernel/random/boot_id cannot be read", remedy));
    }
    if host.cluster.is_none() {
        checks.push(Check::note("host", "events will name no cluster", "set [node] cluster where there is one"));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_standing_thing_and_remedy() {
        assert_eq!(Check::fine("a", "b").line(), "ok      a: b");
        assert_eq!(Check::note("a", "b", "c").line(), "note    a: b; remedy: c");
        assert_eq!(Check::missing("a", "b", "c").line(), "MISSING a: b; remedy: c");
        assert!(!Check::missing("a", "b\u{1b}[2J", "c").line().contains('\u{1b}'));
    }

    #[test]
    fn only_features_that_exist_are_called_optional() {
        let known: Vec<&str> = features::probe_all().iter().map(|feature| feature.name).collect();
        for name in OPTIONAL_FEATURES {
            assert!(known.contains(&name), "{name} is no feature");
        }
    }

    #[test]
    fn the_lack_of_a_needed_feature_is_missing_and_of_another_a_note() {
        let lacking = |name| Feature {
            name,
            needed_for: "x",
            minimum_linux: "9.9",
            present: false,
            detail: "no".to_owned(),
            remedy: "r",
        };
        assert_eq!(feature(&lacking("openat2")).standing, Standing::Missing);
        assert_eq!(feature(&lacking("Landlock")).standing, Standing::Note);
    }
}

//! Which real runtimes there are, and whether they can hand over a seccomp listener.
//!
//! runc has `listenerPath` since 1.1.0 and crun since 0.20 (their change logs). `runc features` (1.1) and `crun features`
//! (1.10) tell it by the action SCMP_ACT_NOTIFY; a runtime without that command is judged by its version.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use crate::cli::doctor::Check;
use crate::cli::doctor::Standing;
use crate::config::Config;
use crate::oci::runtime_features;

/// How long a runtime may take to tell its version.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most that is read of an answer.
const MAX_ANSWER_BYTES: u64 = 1024 * 1024;
/// Runtimes that are looked for where the configuration names none, and the first version that hands over a listener.
const KNOWN: [(&str, [u32; 2]); 2] = [("runc", [1, 1]), ("crun", [0, 20])];
/// The release of youki that acctguard-runtime knows.
const KNOWN_YOUKI: [u32; 2] = [0, 7];
/// What is ours and not a real runtime.
const SHIM: &str = "acctguard-runtime";

/// A real runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    path: PathBuf,
    version: Result<Version, String>,
    features: Option<Value>,
    /// Whether calls that are being answered can wait killable under it; why not, where not.
    wait_killable: Result<(), String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    name: String,
    numbers: [u32; 2],
    text: String,
}

impl Runtime {
    /// Whether it is a crun.
    pub fn is_crun(&self) -> bool {
        self.version.as_ref().is_ok_and(|version| version.name == "crun")
    }

    /// Whether calls that are being answered can wait killable under it; why not, where not.
    pub fn waits_killable(&self) -> Result<(), &str> {
        self.wait_killable.as_ref().copied().map_err(String::as_str)
    }
}

/// The runtimes that the configuration names; when it names none, those in PATH.
pub fn find(config: &Config) -> Vec<Runtime> {
    let mut paths: BTreeSet<PathBuf> =
        config.runtime_path.iter().chain(config.runtime_paths.values()).cloned().collect();
    if paths.is_empty() {
        paths.extend(KNOWN.iter().filter_map(|(name, _)| in_path(name)));
    }
    paths.into_iter().map(ask).collect()
}

/// The first real runtime of that name in PATH.
pub fn in_path(name: &str) -> Option<PathBuf> {
    let search = std::env::var_os("PATH")?;
    let executable = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&search).map(|folder| folder.join(name)).find(|path| executable(path) && !is_shim(path))
}

/// The shim may be installed under a runtime's name (podman needs that, `integration.md` §5).
fn is_shim(path: &Path) -> bool {
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let ours = std::env::current_exe()
        .ok()
        .and_then(|own| std::fs::canonicalize(own).ok())
        .map(|own| own.with_file_name(SHIM));
    real.file_name().is_some_and(|name| name == SHIM) || Some(real) == ours
}

/// Asks a runtime for its version and features.
pub fn ask(path: PathBuf) -> Runtime {
    let (version, features) = (answer(&path, "--version"), answer(&path, "features"));
    let wait_killable = match (&features, &version) {
        (Ok(text), _) if serde_json::from_str::<Value>(text).is_ok() => runtime_features::waits_killable(text),
        (_, Ok(text)) => runtime_features::version_waits_killable(text),
        (_, Err(reason)) => Err(reason.clone()),
    };
    let version = version.and_then(|text| {
        parse_version(&text).ok_or_else(|| "does not tell its version as runc and crun do".to_owned())
    });
    let features = features.ok().and_then(|text| serde_json::from_str(&text).ok());
    Runtime { path, version, features, wait_killable }
}

/// The first line of `runc --version` is `runc version 1.1.5+ds1`, of crun's `crun version 1.8.1`.
fn parse_version(text: &str) -> Option<Version> {
    let mut words = text.lines().next()?.split_whitespace();
    let (name, number) = (words.next()?, words.find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?);
    let mut numbers = number.split(|character: char| !character.is_ascii_digit()).map(str::parse);
    let numbers = [numbers.next()?.ok()?, numbers.next()?.ok()?];
    Some(Version { name: name.to_owned(), numbers, text: number.to_owned() })
}

/// What `path argument` writes to standard output, within [`PATIENCE`].
fn answer(path: &Path, argument: &str) -> Result<String, String> {
    let mut child = Command::new(path)
        .arg(argument)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot be run: {error}"))?;
    let output = child.stdout.take();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = output.map(|output| output.take(MAX_ANSWER_BYTES).read_to_string(&mut text));
        // nobody listens any more after the time is up
        let _ = sender.send(matches!(read, Some(Ok(_))).then_some(text));
    });
    let answer = receiver.recv_timeout(PATIENCE);
    if answer.is_err() {
        // it may have ended meanwhile
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    match answer {
        Ok(Some(text)) if status.success() => Ok(text),
        Ok(_) => Err(format!("{argument} failed ({status})")),
        Err(_) => Err(format!("{argument} did not answer within {} s", PATIENCE.as_secs())),
    }
}

/// A line for each runtime, or one that there is none.
pub fn checks(found: &[Runtime]) -> Vec<Check> {
    if found.is_empty() {
        let remedy = "install runc 1.1 or crun 0.20 or later, or name yours as [runtime] path";
        return vec![Check::missing("runtime", "neither runc nor crun in PATH", remedy)];
    }
    found.iter().flat_map(|runtime| [Some(check(runtime)), signals(runtime)]).flatten().collect()
}

/// A note where signals cancel calls that are being answered (seccomp_unotify(2)).
fn signals(runtime: &Runtime) -> Option<Check> {
    let reason = runtime.wait_killable.as_ref().err().filter(|_| check(runtime).standing != Standing::Missing)?;
    let detail = format!(
        "a signal can cancel a call that is being answered, which then comes again, but in enforced workloads that let acctguard-launch listen: {reason}"
    );
    let remedy = "use crun 1.8.1 or later, or runc 1.5.1 or later with libseccomp 2.6, where programs depend on it";
    Some(Check::note(&format!("runtime {}", runtime.path.display()), detail, remedy))
}

fn check(runtime: &Runtime) -> Check {
    let what = format!("runtime {}", runtime.path.display());
    if is_shim(&runtime.path) {
        let remedy = "name the real runtime as [runtime] path";
        return Check::missing(&what, "is acctguard-runtime itself and would call itself", remedy);
    }
    let version = match &runtime.version {
        Ok(version) => version,
        Err(reason) => return Check::missing(&what, reason.clone(), "correct [runtime] path"),
    };
    let told = format!("{} {}", version.name, version.text);
    let minimum = KNOWN.iter().find(|(name, _)| *name == version.name).map(|(_, minimum)| *minimum);
    if let Some([major, minor]) = minimum.filter(|minimum| version.numbers < *minimum) {
        let remedy = format!("install {} {major}.{minor} or later", version.name);
        return Check::missing(&what, format!("{told} cannot hand over a seccomp listener"), remedy);
    }
    if version.name == "youki" {
        return youki(&what, &told, version.numbers);
    }
    match (&runtime.features, minimum) {
        (Some(features), _) if !lists(features, "/linux/seccomp/actions", "SCMP_ACT_NOTIFY") => {
            let remedy = "install one that is built with libseccomp 2.5 or later";
            Check::missing(&what, format!("{told} does not know SCMP_ACT_NOTIFY"), remedy)
        }
        (Some(_), Some(_)) => Check::fine(&what, format!("{told}, hands over seccomp listeners")),
        (None, Some(_)) => Check::fine(
            &what,
            format!("{told}, hands over seccomp listeners (by its version; it has no features command)"),
        ),
        (_, None) => {
            let detail =
                format!("{told} is neither runc nor crun: exec sessions may be neither told nor refused under it");
            Check::note(&what, detail, "use runc or crun")
        }
    }
}

/// youki tells no seccomp features; what matters is whether its ways are known to acctguard-runtime.
fn youki(what: &str, told: &str, numbers: [u32; 2]) -> Check {
    if numbers == KNOWN_YOUKI {
        let detail = format!(
            "{told} gives exec sessions no seccomp filter: those that acctguard-runtime starts are intercepted, others are not"
        );
        return Check::note(what, detail, "use runc or crun where an exec may go past acctguard-runtime");
    }
    let detail = format!("how {told} reads a seccomp profile is not known, so nothing is intercepted under it");
    Check::missing(what, detail, "use youki 0.7, runc or crun")
}

fn lists(features: &Value, pointer: &str, word: &str) -> bool {
    features.pointer(pointer).and_then(Value::as_array).is_some_and(|list| list.iter().any(|item| item == word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn runtime(version: &str, features: Option<Value>) -> Runtime {
        Runtime {
            path: "/usr/sbin/x".into(),
            version: parse_version(version).ok_or_else(|| "odd".to_owned()),
            features,
            wait_killable: Err("it says so".to_owned()),
        }
    }

    #[test]
    fn old_runtimes_are_found_out() {
        let notify = json!({"linux": {"seccomp": {"actions": ["SCMP_ACT_NOTIFY"]}}});
        for (version, features, expected) in [
            ("runc version 1.1.5+ds1\ncommit: x", Some(notify.clone()), Standing::Fine),
            ("runc version 1.0.3", None, Standing::Missing),
            ("runc version 1.1.5", Some(json!({"linux": {"seccomp": {"actions": []}}})), Standing::Missing),
            ("runc version 10.0.0-rc1", None, Standing::Fine),
            ("crun version 1.8.1\n", None, Standing::Fine),
            ("crun version 0.19", None, Standing::Missing),
            ("youki version: 0.3", None, Standing::Missing),
            ("youki version: 0.8.1", Some(notify.clone()), Standing::Missing),
            ("youki version: 0.7.0\ncommit: x", Some(json!({"linux": {}})), Standing::Note),
            ("kata version 3.1", Some(notify), Standing::Note),
            ("hello", None, Standing::Missing),
            ("", None, Standing::Missing),
        ] {
            assert_eq!(check(&runtime(version, features)).standing, expected, "{version:?}");
        }
        assert_eq!(checks(&[])[0].standing, Standing::Missing);
    }

    #[test]
    fn where_signals_cancel_calls_is_noted_with_the_reason() {
        let cancels = runtime("runc version 1.1.5", None);
        let [fine, note] = &checks(std::slice::from_ref(&cancels))[..] else { panic!("two lines") };
        assert_eq!((fine.standing, note.standing), (Standing::Fine, Standing::Note));
        assert!(note.detail.ends_with("it says so") && note.remedy.is_some(), "{note:?}");
        assert_eq!(checks(&[Runtime { wait_killable: Ok(()), ..cancels }]).len(), 1);
        assert_eq!(checks(&[runtime("runc version 1.0.3", None)]).len(), 1, "it cannot be used at all");
    }

    #[test]
    fn a_runtime_that_hangs_or_fails_is_told() {
        let folder = tempfile::tempdir().expect("folder");
        let script = folder.path().join("runc");
        std::fs::write(&script, "#!/bin/sh\nexit 3\n").expect("script");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("mode");
        let found = ask(script);
        assert!(found.version.as_ref().is_err_and(|reason| reason.contains("exit status: 3")), "{found:?}");
        assert!(ask("/no/such/runtime".into()).version.is_err());
    }
}

//! What an engine itself makes of its configuration: `containerd config dump`, `crio config`, `podman info`, `dockerd --validate`.
//!
//! None of them starts the engine's daemon. containerd tells its whole configuration, so that it is also seen whether anything else in
//! it became another: asked before and after a change.

use std::path::Path;
use std::path::PathBuf;

use toml::Table;

use crate::engines::Engine;
use crate::engines::Registration;
use crate::engines::containerd;
use crate::engines::program;
use crate::engines::program::Answer;
use crate::engines::program::Installed;
use crate::engines::toml_text;
use crate::engines::view::View;

/// What an engine said.
#[derive(Debug, Clone, PartialEq)]
pub enum Judgement {
    /// It takes the configuration; how it was asked.
    Takes {
        /// The command.
        by: String,
        /// What it told of its configuration, where it tells that.
        told: Option<Table>,
    },
    /// It cannot be asked; why.
    Unasked(String),
}

/// Why a configuration is not good.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The engine refuses it.
    #[error("{by} says: {words}")]
    Refused {
        /// The command.
        by: String,
        /// The engine's words.
        words: String,
    },
    /// The engine takes it, and acctguard is not what it would call.
    #[error("{by} does not tell that acctguard is registered: {what}")]
    NotInForce {
        /// The command.
        by: String,
        /// What it tells instead.
        what: String,
    },
    /// Something else of the configuration became another.
    #[error("{by} tells that {key} became another, which nobody asked for")]
    Lost {
        /// The command.
        by: String,
        /// Which key.
        key: String,
    },
}

/// Asks an engine about its configuration at `main`; about `registration`, when that should be in force.
///
/// # Errors
/// [`CheckError`].
pub fn ask(
    engine: Engine,
    installed: Option<&Installed>,
    main: &Path,
    registration: Option<&Registration>,
) -> Result<Judgement, CheckError> {
    let Some(installed) = installed else {
        return Ok(Judgement::Unasked(format!("{} is not installed, so that nobody could check it", engine.program())));
    };
    match engine {
        Engine::Containerd => containerd(&installed.path, main, registration),
        Engine::Crio => crio(&installed.path, main, registration),
        Engine::Podman => podman(&installed.path, main, registration),
        Engine::Docker => docker(&installed.path, main),
    }
}

/// The answer of an engine that took its configuration.
fn answered(program: &Path, arguments: &[&str]) -> Result<(String, Answer), CheckError> {
    let by = format!("{} {}", program.display(), arguments.join(" "));
    match program::ask(program, arguments) {
        Ok(answer) if answer.is_success => Ok((by, answer)),
        Ok(answer) => Err(CheckError::Refused { by, words: answer.last_words() }),
        Err(words) => Err(CheckError::Refused { by, words }),
    }
}

fn containerd(program: &Path, main: &Path, registration: Option<&Registration>) -> Result<Judgement, CheckError> {
    // without a file the defaults hold
    let file = main.display().to_string();
    let arguments = if main.exists() { vec!["--config", &file, "config", "dump"] } else { vec!["config", "default"] };
    let (by, answer) = answered(program, &arguments)?;
    let refused = |words: String| CheckError::Refused { by: by.clone(), words };
    let told: Table = toml::from_str(&answer.output).map_err(|error| refused(error.message().to_owned()))?;
    if let Some(registration) = registration {
        let told_at = Path::new("config dump");
        let view = View::of_texts([("config dump", answer.output.as_str())]);
        let runtimes = containerd::read(&view, told_at, None).and_then(|read| read.runtimes());
        let runtimes = runtimes.map_err(|error| refused(error.to_string()))?;
        let called = runtimes.known.get(&registration.name).map(|program| program.shown()).unwrap_or_default();
        if called != registration.program.display().to_string() {
            return Err(CheckError::NotInForce { by, what: format!("runtime {} is {called:?}", registration.name) });
        }
        if registration.is_default && runtimes.default != registration.name {
            return Err(CheckError::NotInForce { by, what: format!("the default runtime is {}", runtimes.default) });
        }
    }
    Ok(Judgement::Takes { by, told: Some(told) })
}

fn crio(program: &Path, main: &Path, registration: Option<&Registration>) -> Result<Judgement, CheckError> {
    let (main, folder) = (main.display().to_string(), format!("{}.d", main.display()));
    let (by, answer) = answered(program, &["--config", &main, "--config-dir", &folder, "config"])?;
    if let Some(registration) = registration
        && !answer.output.contains(&registration.program.display().to_string())
    {
        return Err(CheckError::NotInForce {
            by,
            what: format!("it does not name {}", registration.program.display()),
        });
    }
    Ok(Judgement::Takes { by, told: None })
}

/// podman reads the node's files only; another main file is for CONTAINERS_CONF, under which it reads no drop-ins.
fn podman(program: &Path, main: &Path, registration: Option<&Registration>) -> Result<Judgement, CheckError> {
    if main != Path::new(Engine::Podman.main_file()) {
        return Ok(Judgement::Unasked(format!(
            "podman does not read {}, so that it could not check it",
            main.display()
        )));
    }
    let name = registration.map(|registration| registration.name.clone()).unwrap_or_default();
    let runtime = match registration {
        Some(registration) if !registration.is_default => vec!["--runtime", name.as_str()],
        _ => Vec::new(),
    };
    let arguments: Vec<&str> = runtime.into_iter().chain(["info", "--format", "{{.Host.OCIRuntime.Path}}"]).collect();
    let (by, answer) = answered(program, &arguments)?;
    let called = PathBuf::from(answer.output.trim());
    match registration {
        Some(registration) if registration.program != called => {
            let what = format!("its runtime is {}", called.display());
            Err(CheckError::NotInForce { by, what })
        }
        _ => Ok(Judgement::Takes { by, told: None }),
    }
}

fn docker(program: &Path, main: &Path) -> Result<Judgement, CheckError> {
    if !main.exists() {
        return Ok(Judgement::Unasked(format!("{} is not there", main.display())));
    }
    match answered(program, &["--validate", "--config-file", &main.display().to_string()]) {
        Ok((by, _)) => Ok(Judgement::Takes { by, told: None }),
        Err(CheckError::Refused { words, .. })
            if words.contains("unknown flag: --validate") || words.contains("--help") =>
        {
            let why = format!(
                "{} is older than 23.0 and has no --validate, so that it could not check it",
                program.display()
            );
            Ok(Judgement::Unasked(why))
        }
        Err(error) => Err(error),
    }
}

/// Refuses when anything but what was registered became another.
///
/// # Errors
/// [`CheckError::Lost`].
pub fn compare(before: &Judgement, after: &Judgement, registration: &Registration) -> Result<(), CheckError> {
    let (Judgement::Takes { told: Some(before), .. }, Judgement::Takes { told: Some(after), by }) = (before, after)
    else {
        return Ok(());
    };
    let is_ours = |keys: &[String]| {
        let last = keys.last().map(String::as_str).unwrap_or_default();
        let is_default = registration.is_default && last == "default_runtime_name";
        let runtime = keys.iter().position(|key| key == "runtimes").and_then(|at| keys.get(at.saturating_add(1)));
        is_default
            || runtime == Some(&registration.name)
            || keys.first().is_some_and(|key| key == "imports" || key == "version")
    };
    for (keys, value) in toml_text::settings(&[], before).iter().filter(|(keys, _)| !is_ours(keys)) {
        let path: Vec<&str> = keys.iter().map(String::as_str).collect();
        if toml_text::get(after, &path).map_or(!toml_text::is_empty(value), |now| now != value) {
            return Err(CheckError::Lost { by: by.clone(), key: keys.join(".") });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(text: &str) -> Judgement {
        Judgement::Takes { by: "x".into(), told: Some(toml::from_str(text).unwrap()) }
    }

    #[test]
    fn what_became_another_is_found() {
        let registration = Registration { name: "acctguard".into(), is_default: true, program: "/p".into() };
        let before = takes(
            "imports = ['a']\n[p.runtimes.runc]\nx = 1\nempty = ''\n[p]\ndefault_runtime_name = 'runc'\nsandbox = 's'\n",
        );
        for (after, lost) in [
            (
                "imports = ['b']\n[p.runtimes]\nrunc = {x = 1}\nacctguard = {y = 2}\n[p]\ndefault_runtime_name = 'acctguard'\nsandbox = 's'\n",
                None,
            ),
            ("[p.runtimes.acctguard]\ny = 1\n[p]\nsandbox = 's'\n", Some("p.runtimes.runc.x")),
            ("[p.runtimes.runc]\nx = 1\n[p]\nsandbox = 't'\n", Some("p.sandbox")),
        ] {
            let found = compare(&before, &takes(after), &registration).err().map(|error| error.to_string());
            assert_eq!(found.is_some(), lost.is_some(), "{found:?}");
            assert!(lost.is_none_or(|key| found.unwrap().contains(key)));
        }
        let beside = Registration { is_default: false, ..registration };
        assert!(
            compare(
                &before,
                &takes("[p.runtimes.runc]\nx = 1\n[p]\ndefault_runtime_name = 'a'\nsandbox = 's'\n"),
                &beside
            )
            .is_err()
        );
        assert!(compare(&Judgement::Unasked(String::new()), &takes(""), &beside).is_ok());
    }

    #[test]
    fn an_engine_that_is_not_there_is_told() {
        let judged = ask(Engine::Crio, None, Path::new("/etc/crio/crio.conf"), None).unwrap();
        assert!(matches!(judged, Judgement::Unasked(why) if why.contains("crio is not installed")));
    }
}

//! podman: `containers.conf`, and the files in `containers.conf.d`, which lie over it in the order of their names
//! (containers.conf(5)).
//!
//! podman passes `--log` only to a runtime whose name, or the base name of whose path, is in `runtime_supports_json` (podman
//! `libpod/oci_conmon_*.go`). So the default runtime is named by a path that ends with `crun` or `runc`; a container keeps the name that
//! it was created with, and those that are there keep theirs.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use toml::Table;
use toml::Value;

use crate::engines::Edit;
use crate::engines::EngineError;
use crate::engines::OWN_FILE;
use crate::engines::OWN_HEADER;
use crate::engines::Registration;
use crate::engines::behind::Program;
use crate::engines::behind::Runtimes;
use crate::engines::program;
use crate::engines::toml_text;
use crate::engines::toml_text::setting;
use crate::engines::view::View;

/// What distributions install, below the administrator's file.
const DISTRIBUTION_FILE: &str = "/usr/share/containers/containers.conf";
/// Runtimes that podman asks for JSON in their log where nobody says otherwise (containers.conf(5), `runtime_supports_json`, of
/// podman 4 and 5).
const SUPPORTS_JSON: [&str; 8] = ["crun", "crun-vm", "kata", "krun", "ocijail", "runc", "runsc", "youki"];

/// The configuration as podman reads it, of the whole node.
#[derive(Debug)]
pub struct Configuration {
    own: PathBuf,
    /// `engine` as it holds.
    effective: Table,
    /// A file after acctguard's that sets the default runtime.
    later: Option<PathBuf>,
}

/// Reads `main`, what the distribution has below it, and its drop-ins.
///
/// # Errors
/// [`EngineError`].
pub fn read(view: &View, main: &Path) -> Result<Configuration, EngineError> {
    let mut folder = main.to_owned().into_os_string();
    folder.push(".d");
    let folder = PathBuf::from(folder);
    let own = folder.join(format!("{OWN_FILE}.conf"));
    let mut effective = Table::new();
    let mut later = None;
    let below = [PathBuf::from(DISTRIBUTION_FILE), main.to_owned()];
    for path in below.into_iter().chain(view.files(&folder, ".conf")?) {
        let Some(text) = view.text(&path)? else { continue };
        let table = toml_text::parse(&path, &text)?;
        let Some(engine) = toml_text::table(&table, &["engine"]) else { continue };
        if path.parent() == own.parent() && path > own && engine.contains_key("runtime") {
            later = Some(path.clone());
        }
        toml_text::merge(&mut effective, engine);
    }
    Ok(Configuration { own, effective, later })
}

impl Configuration {
    /// The runtimes that it names, and the default one: crun where nobody says otherwise, runc where there is no crun.
    #[must_use]
    pub fn runtimes(&self) -> Runtimes {
        let built_in = || if program::in_path("crun").is_some() { "crun" } else { "runc" };
        let default = toml_text::text(&self.effective, &["runtime"]).unwrap_or_else(built_in);
        let mut known = BTreeMap::new();
        for (name, paths) in toml_text::table(&self.effective, &["runtimes"]).into_iter().flatten() {
            let paths = paths.as_array().into_iter().flatten().filter_map(Value::as_str).map(PathBuf::from);
            let there = paths.filter(|path| path.is_file()).map(Program::Path).next();
            known.insert(name.clone(), there.unwrap_or_else(|| Program::Search(name.clone())));
        }
        Runtimes { default: default.to_owned(), known }
    }

    /// The text that registers acctguard.
    ///
    /// # Errors
    /// [`EngineError::ReadLater`].
    pub fn edits(&self, registration: &Registration) -> Result<Vec<Edit>, EngineError> {
        if let (true, Some(later)) = (registration.is_default, &self.later) {
            let key = "[engine] runtime";
            return Err(EngineError::ReadLater { later: later.clone(), own: self.own.clone(), key });
        }
        let program = registration.program.display().to_string();
        let mut settings = Vec::new();
        if registration.is_default {
            settings.push(setting(&["engine", "runtime"], program.as_str()));
        }
        let built_in = || SUPPORTS_JSON.map(Value::from).to_vec();
        let mut supports: Vec<Value> =
            self.effective.get("runtime_supports_json").and_then(Value::as_array).cloned().unwrap_or_else(built_in);
        if !supports.iter().any(|known| known.as_str() == Some(&registration.name)) {
            supports.push(Value::from(registration.name.as_str()));
        }
        settings.push(setting(&["engine", "runtime_supports_json"], supports));
        settings.push(setting(&["engine", "runtimes", &registration.name], vec![program.as_str()]));
        let text = format!("{OWN_HEADER}{}", toml_text::edit(&self.own, "", &settings)?);
        Ok(vec![Edit { path: self.own.clone(), text, is_own: true }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: &str = "/etc/containers/containers.conf";

    fn read(texts: &[(&str, &str)]) -> Result<Configuration, EngineError> {
        super::read(&View::of_texts(texts.iter().copied()), Path::new(MAIN))
    }

    fn registration(is_default: bool) -> Registration {
        Registration { name: "acctguard".into(), is_default, program: "/l/podman/crun".into() }
    }

    #[test]
    fn the_default_is_named_by_a_path_that_ends_with_the_runtimes_name() {
        let edits = read(&[]).unwrap().edits(&registration(true)).unwrap();
        assert_eq!(edits[0].path, Path::new("/etc/containers/containers.conf.d/99-acctguard.conf"));
        let text = &edits[0].text;
        assert!(text.contains("[engine]\nruntime = \"/l/podman/crun\"\n"), "{text}");
        assert!(text.contains("[engine.runtimes]\nacctguard = [\"/l/podman/crun\"]\n"), "{text}");
        assert!(text.contains("\"youki\", \"acctguard\"]"), "{text}");
        let after = read(&[(edits[0].path.to_str().unwrap(), text)]).unwrap();
        assert_eq!(after.runtimes().default, "/l/podman/crun");
        assert_eq!(after.edits(&registration(true)).unwrap(), edits, "the same again");
        let beside = read(&[]).unwrap().edits(&registration(false)).unwrap();
        assert!(!beside[0].text.contains("runtime = "), "{}", beside[0].text);
    }

    #[test]
    fn files_lie_over_one_another_in_order() {
        let texts = [
            (DISTRIBUTION_FILE, "[engine]\nruntime = \"runc\"\nruntime_supports_json = [\"a\"]\n"),
            (MAIN, "[engine.runtimes]\nsh = [\"/no/such\", \"/bin/sh\"]\nlost = [\"/no/such\"]\n"),
            ("/etc/containers/containers.conf.d/10-x.conf", "[engine]\nruntime = \"sh\"\n"),
            ("/etc/containers/containers.conf.d/20-y.txt", "["),
        ];
        let configuration = read(&texts).unwrap();
        let runtimes = configuration.runtimes();
        assert_eq!(runtimes.default, "sh");
        assert_eq!(runtimes.program("sh"), Program::Path("/bin/sh".into()));
        assert_eq!(runtimes.program("lost"), Program::Search("lost".into()));
        let text = &configuration.edits(&registration(true)).unwrap()[0].text;
        assert!(text.contains("runtime_supports_json = [\"a\", \"acctguard\"]"), "{text}");
    }

    #[test]
    fn mistakes_and_later_files_are_told() {
        let error = read(&[(MAIN, "[engine]\nruntime = \n")]).unwrap_err().to_string();
        assert!(error.starts_with("/etc/containers/containers.conf:2:"), "{error}");
        let later = read(&[("/etc/containers/containers.conf.d/zz.conf", "[engine]\nruntime = \"runc\"\n")]).unwrap();
        let error = later.edits(&registration(true)).unwrap_err().to_string();
        assert!(error.contains("is read after"), "{error}");
        assert!(later.edits(&registration(false)).is_ok());
    }
}

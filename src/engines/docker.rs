//! Docker Engine: `daemon.json` (the reference page of dockerd, "Daemon configuration file").

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::engines::Edit;
use crate::engines::EngineError;
use crate::engines::Registration;
use crate::engines::behind::Program;
use crate::engines::behind::Runtimes;
use crate::engines::json_text;
use crate::engines::view::View;

/// Names under which dockerd knows its own runc.
const BUILT_IN: [&str; 3] = ["runc", "io.containerd.runc.v2", "io.containerd.runtime.v1.linux"];

/// The configuration.
#[derive(Debug)]
pub struct Configuration {
    main: PathBuf,
    text: String,
    object: Map<String, Value>,
}

/// Reads `main`.
///
/// # Errors
/// [`EngineError`].
pub fn read(view: &View, main: &Path) -> Result<Configuration, EngineError> {
    let text = view.text(main)?.unwrap_or_default();
    let object = json_text::parse(main, &text)?;
    Ok(Configuration { main: main.to_owned(), text, object })
}

impl Configuration {
    /// The runtimes that it names, and the default one.
    #[must_use]
    pub fn runtimes(&self) -> Runtimes {
        let default = self.object.get("default-runtime").and_then(Value::as_str).filter(|name| !name.is_empty());
        let mut known: BTreeMap<String, Program> =
            BUILT_IN.into_iter().map(|name| (name.to_owned(), Program::Search("runc".to_owned()))).collect();
        for (name, runtime) in self.object.get("runtimes").and_then(Value::as_object).into_iter().flatten() {
            let text = |key: &str| runtime.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
            let program = match (text("path"), text("runtimeType")) {
                (Some(path), None) if path.starts_with('/') => Program::Path(PathBuf::from(path)),
                (Some(name), None) => Program::Search(name.to_owned()),
                (_, Some(other)) => Program::Other(other.to_owned()),
                (None, None) => Program::Other("without a path".to_owned()),
            };
            known.insert(name.clone(), program);
        }
        Runtimes { default: default.unwrap_or("runc").to_owned(), known }
    }

    /// The value, for its header.
    #[must_use]
    pub fn value(&self) -> Value {
        Value::Object(self.object.clone())
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text that registers acctguard in front of the runtime `behind`.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`].
    pub fn edits(&self, behind: &str, registration: &Registration) -> Result<Vec<Edit>, EngineError> {
        let mut settings = Vec::new();
        let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
        let name = registration.name.as_str();
        settings.push((keys(&["runtimes", name, "path"]), json!(registration.program.display().to_string())));
        let arguments = self.object.get("runtimes").and_then(|runtimes| runtimes.get(behind)?.get("runtimeArgs"));
        if let Some(arguments) = arguments.filter(|arguments| arguments.as_array().is_some_and(|list| !list.is_empty()))
        {
            settings.push((keys(&["runtimes", name, "runtimeArgs"]), arguments.clone()));
        }
        if registration.is_default {
            settings.push((keys(&["default-runtime"]), json!(name)));
        }
        let text = json_text::edit(&self.main, &self.text, &settings)?;
        Ok(vec![Edit { path: self.main.clone(), text, is_own: false }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: &str = "/etc/docker/daemon.json";

    fn read(text: &str) -> Configuration {
        super::read(&View::of_texts([(MAIN, text)]), Path::new(MAIN)).expect("reads")
    }

    fn registration(is_default: bool) -> Registration {
        Registration { name: "acctguard".into(), is_default, program: "/s/acctguard-runtime".into() }
    }

    #[test]
    fn nothing_is_lost_and_a_second_time_changes_nothing() {
        for text in ["", "{}\n", "{\n    \"live-restore\": true,\n    \"log-opts\": { \"max-size\": \"10m\" }\n}\n"] {
            for is_default in [true, false] {
                let before = read(text);
                let edits = before.edits("runc", &registration(is_default)).unwrap();
                let after = read(&edits[0].text);
                assert_eq!(after.runtimes().program("acctguard"), Program::Path("/s/acctguard-runtime".into()));
                assert_eq!(after.runtimes().default == "acctguard", is_default);
                assert!(before.object.iter().all(|(key, value)| after.object.get(key) == Some(value)));
                assert_eq!(after.edits("acctguard", &registration(is_default)).unwrap(), edits);
            }
        }
    }

    #[test]
    fn the_arguments_of_the_runtime_in_front_of_which_it_stands_are_carried_over() {
        let text = "{\"runtimes\":{\"nvidia\":{\"path\":\"nvidia-container-runtime\",\"runtimeArgs\":[\"--x\"]}},\"default-runtime\":\"nvidia\"}";
        let configuration = read(text);
        let runtimes = configuration.runtimes();
        assert_eq!(
            (runtimes.default.as_str(), runtimes.program("nvidia")),
            ("nvidia", Program::Search("nvidia-container-runtime".into()))
        );
        let edits = configuration.edits("nvidia", &registration(true)).unwrap();
        let after = read(&edits[0].text).object;
        assert_eq!(after["runtimes"]["acctguard"]["runtimeArgs"], json!(["--x"]));
        assert_eq!(after["runtimes"]["nvidia"], configuration.object["runtimes"]["nvidia"]);
        let kata = read("{\"runtimes\":{\"k\":{\"runtimeType\":\"io.containerd.kata.v2\"}}}").runtimes();
        assert_eq!(kata.program("k"), Program::Other("io.containerd.kata.v2".into()));
        assert_eq!(kata.program("runc"), Program::Search("runc".into()));
    }
}

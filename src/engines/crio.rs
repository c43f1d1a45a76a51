//! CRI-O: `crio.conf`, and the files in `crio.conf.d`, which lie over it in the order of their names (crio.conf(5), crio.conf.d(5)).
//!
//! Every file in that folder is read, whatever its name ends with.

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
use crate::engines::toml_text;
use crate::engines::toml_text::setting;
use crate::engines::view::View;

/// The configuration as CRI-O reads it.
#[derive(Debug)]
pub struct Configuration {
    own: PathBuf,
    /// `crio.runtime` as it holds.
    effective: Table,
    /// A file after acctguard's that sets the default runtime.
    later: Option<PathBuf>,
    built_in: &'static str,
}

/// Reads `main` and its drop-ins. `numbers` are those of CRI-O's version, when it is known.
///
/// # Errors
/// [`EngineError`].
pub fn read(view: &View, main: &Path, numbers: Option<(u32, u32)>) -> Result<Configuration, EngineError> {
    let mut folder = main.to_owned().into_os_string();
    folder.push(".d");
    let folder = PathBuf::from(folder);
    let own = folder.join(format!("{OWN_FILE}.conf"));
    let mut effective = Table::new();
    let mut later = None;
    for path in std::iter::once(main.to_owned()).chain(view.files(&folder, "")?) {
        let Some(text) = view.text(&path)? else { continue };
        let table = toml_text::parse(&path, &text)?;
        let Some(runtime) = toml_text::table(&table, &["crio", "runtime"]) else { continue };
        if path > own && path != *main && runtime.contains_key("default_runtime") {
            later = Some(path.clone());
        }
        merge(&mut effective, runtime);
    }
    // crun is the default one from 1.31 on (its release notes)
    let built_in = if numbers.is_some_and(|numbers| numbers < (1, 31)) { "runc" } else { "crun" };
    Ok(Configuration { own, effective, later, built_in })
}

/// A runtime's table replaces one of the same name in an earlier file.
fn merge(lower: &mut Table, upper: &Table) {
    for (key, value) in upper {
        match (key.as_str(), lower.get_mut(key), value) {
            ("runtimes", Some(Value::Table(below)), Value::Table(above)) => {
                below.extend(above.iter().map(|(name, table)| (name.clone(), table.clone())));
            }
            _ => {
                lower.insert(key.clone(), value.clone());
            }
        }
    }
}

impl Configuration {
    /// The runtimes that it names, and the default one.
    #[must_use]
    pub fn runtimes(&self) -> Runtimes {
        let default = toml_text::text(&self.effective, &["default_runtime"]).unwrap_or(self.built_in);
        let mut known = BTreeMap::new();
        for (name, runtime) in toml_text::table(&self.effective, &["runtimes"]).into_iter().flatten() {
            let text = |key| runtime.as_table().and_then(|table| toml_text::text(table, &[key]));
            let program = match (text("runtime_type").unwrap_or("oci"), text("runtime_path")) {
                ("oci", Some(path)) => Program::Path(PathBuf::from(path)),
                ("oci", None) => Program::Search(name.clone()),
                (other, _) => Program::Other(format!("runtime_type {other}")),
            };
            known.insert(name.clone(), program);
        }
        Runtimes { default: default.to_owned(), known }
    }

    /// The text that registers acctguard in front of the runtime `behind`, whose base name is `base`.
    ///
    /// # Errors
    /// [`EngineError::ReadLater`].
    pub fn edits(&self, behind: &str, base: &str, registration: &Registration) -> Result<Vec<Edit>, EngineError> {
        if let (true, Some(later)) = (registration.is_default, &self.later) {
            let key = "default_runtime";
            return Err(EngineError::ReadLater { later: later.clone(), own: self.own.clone(), key });
        }
        let mut runtime = toml_text::table(&self.effective, &["runtimes", behind]).cloned().unwrap_or_default();
        runtime.insert("runtime_path".to_owned(), Value::String(registration.program.display().to_string()));
        for (key, value) in [("runtime_type", "oci".to_owned()), ("runtime_root", format!("/run/{base}"))] {
            if toml_text::text(&runtime, &[key]).is_none() {
                runtime.insert(key.to_owned(), Value::String(value));
            }
        }
        let mut settings = Vec::new();
        if registration.is_default {
            settings.push(setting(&["crio", "runtime", "default_runtime"], registration.name.as_str()));
        }
        settings.extend(toml_text::settings(&["crio", "runtime", "runtimes", &registration.name], &runtime));
        let text = format!("{OWN_HEADER}{}", toml_text::edit(&self.own, "", &settings)?);
        Ok(vec![Edit { path: self.own.clone(), text, is_own: true }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: &str = "/etc/crio/crio.conf";
    const OWN: &str = "/etc/crio/crio.conf.d/99-acctguard.conf";
    /// What CRI-O's own packages install.
    const PACKAGE: &str = "[crio.image]\nsignature_policy = \"/etc/crio/policy.json\"\n\n[crio.runtime]\ndefault_runtime = \"crun\"\n\n[crio.runtime.runtimes.crun]\nruntime_path = \"/usr/libexec/crio/crun\"\nruntime_root = \"/run/crun\"\nmonitor_path = \"/usr/libexec/crio/conmon\"\nallowed_annotations = [\n    \"io.containers.trace-syscall\",\n]\n\n[crio.runtime.runtimes.runc]\nruntime_path = \"/usr/libexec/crio/runc\"\nruntime_root = \"/run/runc\"\nmonitor_path = \"/usr/libexec/crio/conmon\"\n";

    fn registration(is_default: bool) -> Registration {
        Registration { name: "acctguard".into(), is_default, program: "/l/crio/crun".into() }
    }

    fn read(texts: &[(&str, &str)], numbers: Option<(u32, u32)>) -> Configuration {
        super::read(&View::of_texts(texts.iter().copied()), Path::new(MAIN), numbers).expect("reads")
    }

    #[test]
    fn what_the_runtime_in_use_has_is_carried_over() {
        let texts = [("/etc/crio/crio.conf.d/10-crio.conf", PACKAGE)];
        let configuration = read(&texts, None);
        let runtimes = configuration.runtimes();
        assert_eq!(runtimes.default, "crun");
        assert_eq!(runtimes.program("crun"), Program::Path("/usr/libexec/crio/crun".into()));
        let edits = configuration.edits("crun", "crun", &registration(true)).unwrap();
        let expected = format!(
            "{OWN_HEADER}[crio.runtime]\ndefault_runtime = \"acctguard\"\n\n[crio.runtime.runtimes.acctguard]\nallowed_annotations = [\"io.containers.trace-syscall\"]\nmonitor_path = \"/usr/libexec/crio/conmon\"\nruntime_path = \"/l/crio/crun\"\nruntime_root = \"/run/crun\"\nruntime_type = \"oci\"\n"
        );
        assert_eq!((edits[0].path.to_str().unwrap(), &edits[0].text), (OWN, &expected));
        let after = read(&[texts[0], (OWN, &edits[0].text)], None);
        assert_eq!(after.runtimes().default, "acctguard");
        assert_eq!(after.runtimes().program("acctguard"), Program::Path("/l/crio/crun".into()));
        assert_eq!(after.edits("acctguard", "crun", &registration(true)).unwrap()[0].text, expected, "the same again");
        let beside = configuration.edits("crun", "crun", &registration(false)).unwrap();
        assert!(!beside[0].text.contains("default_runtime"), "{}", beside[0].text);
    }

    #[test]
    fn without_any_file_the_defaults_of_the_version_hold() {
        for (numbers, expected) in [(Some((1, 30)), "runc"), (Some((1, 31)), "crun"), (None, "crun")] {
            let runtimes = read(&[], numbers).runtimes();
            assert_eq!(runtimes.default, expected);
            assert_eq!(runtimes.program(expected), Program::Search(expected.into()));
        }
        let edits = read(&[], None).edits("crun", "crun", &registration(false)).unwrap();
        assert!(edits[0].text.contains("runtime_root = \"/run/crun\"\nruntime_type = \"oci\"\n"), "{}", edits[0].text);
    }

    #[test]
    fn a_later_table_replaces_an_earlier_one_and_a_later_default_is_refused() {
        let kata = "[crio.runtime]\ndefault_runtime = \"kata\"\n[crio.runtime.runtimes.kata]\nruntime_path = \"/k\"\nruntime_type = \"vm\"\n";
        let texts = [(MAIN, PACKAGE), ("/etc/crio/crio.conf.d/99-kata", kata)];
        let configuration = read(&texts, None);
        assert_eq!(configuration.runtimes().program("kata"), Program::Other("runtime_type vm".into()));
        let error = configuration.edits("crun", "crun", &registration(true)).unwrap_err().to_string();
        assert!(
            error.starts_with("/etc/crio/crio.conf.d/99-kata is read after /etc/crio/crio.conf.d/99-acctguard.conf"),
            "{error}"
        );
        let short = "[crio.runtime.runtimes.crun]\nruntime_path = \"/c\"\n";
        let merged = read(&[(MAIN, PACKAGE), ("/etc/crio/crio.conf.d/20", short)], None);
        let table = toml_text::table(&merged.effective, &["runtimes", "crun"]).unwrap();
        assert_eq!(table.len(), 1, "the whole table is another");
        let odd = super::read(&View::of_texts([("/etc/crio/crio.conf.d/x", "a = \n")]), Path::new(MAIN), None);
        assert!(odd.unwrap_err().to_string().starts_with("/etc/crio/crio.conf.d/x:1:"));
    }
}

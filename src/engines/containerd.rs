//! containerd: `config.toml` in its versions 1 to 4, and the files that it imports.
//!
//! Which key the CRI plugin has follows the version (containerd `docs/cri/config.md`): 1 `cri`, 2 `io.containerd.grpc.v1.cri`, 3 and
//! later `io.containerd.cri.v1.runtime`. A file without a version is one of version 1, of whose plugins containerd 2 takes nothing about
//! CRI; it refuses an imported file of a later version than the main one's, when that has one. Imported files lie over the main one. containerd 2 merges their tables; containerd 1 replaces a
//! plugin's whole section by the imported one (`mergeConfig` of both), so that there a drop-in would lose what the main file says of
//! CRI: where any file has such a section under containerd 1, that section itself is edited.

use std::collections::BTreeMap;
use std::collections::VecDeque;
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
use crate::engines::toml_text::Setting;
use crate::engines::toml_text::setting;
use crate::engines::view::View;

/// Keys of the CRI plugin's section, newest first.
const SECTIONS: [&str; 3] = ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "cri"];
/// What containerd runs for a runtime that says no more (`DefaultConfig` of its CRI plugin).
const DEFAULT_RUNTIME: &str = "runc";
/// The shims that run a program with runc's command line, and the option that names it.
const SHIMS_OF_RUNC: [&str; 2] = ["io.containerd.runc.v2", "io.containerd.runc.v1"];
/// What of a pod's annotations runtimes are handed: policy's words, and by which the kubelet tells a static pod.
const ANNOTATIONS: [&str; 2] = ["acctguard.io/*", "kubernetes.io/config.*"];
/// Most files that are followed.
const MAX_FILES: usize = 256;

/// One file.
#[derive(Debug)]
struct Document {
    path: PathBuf,
    text: String,
    table: Table,
}

/// The configuration as containerd reads it.
#[derive(Debug)]
pub struct Configuration {
    main: PathBuf,
    /// The main file, when there is one, then what is imported.
    documents: Vec<Document>,
    /// Whether imported tables are merged (containerd 2), not replaced.
    merges: bool,
    /// The containerd section of the CRI plugin as it holds.
    effective: Table,
    /// What imports name, in the main file.
    imports: Vec<String>,
    /// The runtime runc as containerd has it without any file.
    built_in: Table,
}

/// Reads `main` and what it imports. `major` is that of containerd's version, when it is known.
///
/// # Errors
/// [`EngineError`].
pub fn read(view: &View, main: &Path, major: Option<u32>) -> Result<Configuration, EngineError> {
    let mut pending = VecDeque::from([main.to_owned()]);
    let mut documents: Vec<Document> = Vec::new();
    let mut imports = Vec::new();
    while let Some(path) = pending.pop_front() {
        if documents.len() >= MAX_FILES || documents.iter().any(|known| known.path == path) {
            continue;
        }
        let Some(text) = view.text(&path)? else { continue };
        let table = toml_text::parse(&path, &text)?;
        let named: Vec<String> = match table.get("imports") {
            Some(Value::Array(named)) => named.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        for import in &named {
            pending.extend(imported(view, &path, import)?);
        }
        if documents.is_empty() {
            imports = named;
        }
        documents.push(Document { path, text, table });
    }
    let version = documents.first().and_then(|main| version(&main.table));
    let merges = major.map_or(version.is_some_and(|version| version >= 3), |major| major >= 2);
    let mut effective = Table::new();
    for document in &documents {
        let Some(section) =
            section(&document.table).and_then(|key| toml_text::table(&document.table, &["plugins", key]))
        else {
            continue;
        };
        if !merges {
            effective = Table::new();
        }
        toml_text::merge(&mut effective, section.get("containerd").and_then(Value::as_table).unwrap_or(&Table::new()));
    }
    let built_in = Table::from_iter([("runtime_type".to_owned(), Value::String(SHIMS_OF_RUNC[0].to_owned()))]);
    Ok(Configuration { main: main.to_owned(), documents, merges, effective, imports, built_in })
}

/// A pattern (`*` only, as Go's filepath.Glob has it in the last part) or a file, relative to the file that imports it.
fn imported(view: &View, from: &Path, import: &str) -> Result<Vec<PathBuf>, EngineError> {
    let path = from.parent().unwrap_or_else(|| Path::new("/")).join(import);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((start, end)) = name.split_once('*') else { return Ok(vec![path]) };
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    let mut files = view.files(folder, end)?;
    files.retain(|file| {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(start) && name.len() >= start.len().saturating_add(end.len())
    });
    Ok(files)
}

fn version(table: &Table) -> Option<i64> {
    table.get("version").and_then(Value::as_integer)
}

fn section(table: &Table) -> Option<&'static str> {
    SECTIONS.into_iter().find(|key| toml_text::table(table, &["plugins", key]).is_some())
}

impl Configuration {
    /// The runtimes that it names, and the default one.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`]: a table that containerd itself gave up.
    pub fn runtimes(&self) -> Result<Runtimes, EngineError> {
        // `containerd config default` of containerd 1 has the table, empty
        if toml_text::text(&self.effective, &["default_runtime", "runtime_type"]).is_some() {
            return Err(EngineError::Unsupported {
                path: self.section_file().unwrap_or(&self.main).to_owned(),
                what: "it sets the default runtime by the table default_runtime, which containerd 2 does not know"
                    .to_owned(),
                remedy: "make it a table of runtimes and name that as default_runtime_name",
            });
        }
        let default = toml_text::text(&self.effective, &["default_runtime_name"]).unwrap_or(DEFAULT_RUNTIME);
        let mut known = BTreeMap::new();
        for (name, runtime) in toml_text::table(&self.effective, &["runtimes"]).into_iter().flatten() {
            known.insert(name.clone(), program(runtime));
        }
        Ok(Runtimes { default: default.to_owned(), known })
    }

    /// Whether its own runc has to be written down: containerd 1 forgets it when a file names any runtime.
    #[must_use]
    pub fn forgets_built_in(&self) -> bool {
        !self.merges && toml_text::table(&self.effective, &["runtimes"]).is_none_or(Table::is_empty)
    }

    /// With containerd's own runc as `told`, the answer of `containerd config default`, has it.
    #[must_use]
    pub fn with_built_in(mut self, told: &str) -> Self {
        let told: Table = toml::from_str(told).unwrap_or_default();
        let runtime = section(&told)
            .and_then(|key| toml_text::table(&told, &["plugins", key, "containerd", "runtimes", DEFAULT_RUNTIME]));
        for (key, value) in runtime.into_iter().flatten() {
            if !value.is_table() && !toml_text::is_empty(value) {
                self.built_in.insert(key.clone(), value.clone());
            }
        }
        self
    }

    /// The file whose section holds.
    fn section_file(&self) -> Option<&Path> {
        let mut with_section = self.documents.iter().rev().filter(|document| section(&document.table).is_some());
        with_section.next().map(|document| document.path.as_path())
    }

    /// Whether CRI is switched off, which Docker's own packages do.
    #[must_use]
    pub fn has_no_cri(&self) -> bool {
        let lists = self.documents.iter().filter_map(|document| document.table.get("disabled_plugins")?.as_array());
        lists.flatten().filter_map(Value::as_str).any(|plugin| SECTIONS.contains(&plugin))
    }

    /// The texts that register acctguard in front of the runtime `behind`.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn edits(&self, behind: &str, registration: &Registration) -> Result<Vec<Edit>, EngineError> {
        let Some(main) = self.documents.first() else {
            return self.new_main(behind, registration);
        };
        if let (false, Some(path)) = (self.merges, self.section_file()) {
            let document = self.documents.iter().find(|document| document.path == path).unwrap_or(main);
            let key = section(&document.table).unwrap_or(SECTIONS[1]);
            let text = toml_text::edit(path, &document.text, &self.settings(key, behind, registration))?;
            return Ok(vec![Edit { path: path.to_owned(), text, is_own: false }]);
        }
        let (own, is_imported) = self.own_file();
        self.is_last(&own, registration)?;
        let number = version(&main.table).or(self.merges.then_some(3));
        if self.merges && number < Some(2) {
            return Err(EngineError::Unsupported {
                path: main.path.clone(),
                what: "it is of version 1, of which containerd 2 takes nothing about CRI".to_owned(),
                remedy: "rewrite it with containerd config migrate of containerd 1.7",
            });
        }
        let mut settings: Vec<Setting> = number.map(|number| setting(&["version"], number)).into_iter().collect();
        settings.extend(self.settings(self.key_of(main), behind, registration));
        let mut edits = Vec::new();
        if !is_imported {
            let mut imports: Vec<Value> = self.imports.iter().cloned().map(Value::String).collect();
            imports.push(Value::String(own.display().to_string()));
            let text = toml_text::edit(&main.path, &main.text, &[setting(&["imports"], imports)])?;
            edits.push(Edit { path: main.path.clone(), text, is_own: false });
        }
        let text = format!("{OWN_HEADER}{}", toml_text::edit(&own, "", &settings)?);
        edits.insert(0, Edit { path: own, text, is_own: true });
        Ok(edits)
    }

    fn new_main(&self, behind: &str, registration: &Registration) -> Result<Vec<Edit>, EngineError> {
        let (number, key) = if self.merges { (3, SECTIONS[0]) } else { (2, SECTIONS[1]) };
        let mut settings = vec![setting(&["version"], number)];
        settings.extend(self.settings(key, behind, registration));
        let text = format!("{OWN_HEADER}{}", toml_text::edit(&self.main, "", &settings)?);
        Ok(vec![Edit { path: self.main.clone(), text, is_own: true }])
    }

    /// The key of the section in a file of the main file's version.
    fn key_of(&self, main: &Document) -> &'static str {
        match version(&main.table) {
            Some(3..) => SECTIONS[0],
            None if self.merges => SECTIONS[0],
            Some(2) => SECTIONS[1],
            _ => SECTIONS[2],
        }
    }

    /// Where acctguard's own file goes, and whether the main file imports what lies there.
    fn own_file(&self) -> (PathBuf, bool) {
        let folder = self.main.parent().unwrap_or_else(|| Path::new("/"));
        let mut all = self.imports.iter().filter_map(|import| Some(folder.join(import.strip_suffix("/*.toml")?)));
        match all.next_back() {
            Some(imported) => (imported.join(format!("{OWN_FILE}.toml")), true),
            None => (folder.join("conf.d").join(format!("{OWN_FILE}.toml")), false),
        }
    }

    /// Refuses where another file that is read after acctguard's sets the default.
    fn is_last(&self, own: &Path, registration: &Registration) -> Result<(), EngineError> {
        if !registration.is_default {
            return Ok(());
        }
        let sets = |document: &&Document| {
            section(&document.table).is_some_and(|key| {
                toml_text::get(&document.table, &["plugins", key, "containerd", "default_runtime_name"]).is_some()
            })
        };
        let same_folder =
            |document: &&Document| document.path.parent() == own.parent() && document.path.as_path() > own;
        let later = self.documents.iter().skip(1).filter(same_folder).find(sets);
        later.map_or(Ok(()), |later| {
            let key = "default_runtime_name";
            Err(EngineError::ReadLater { later: later.path.clone(), own: own.to_owned(), key })
        })
    }

    fn settings(&self, key: &str, behind: &str, registration: &Registration) -> Vec<Setting> {
        let known = toml_text::table(&self.effective, &["runtimes", behind]);
        let mut runtime = known.unwrap_or(&self.built_in).clone();
        if toml_text::text(&runtime, &["runtime_type"]).is_none() {
            runtime.insert("runtime_type".to_owned(), Value::String(SHIMS_OF_RUNC[0].to_owned()));
        }
        for list in ["pod_annotations", "container_annotations"] {
            let mut annotations = runtime.get(list).and_then(Value::as_array).cloned().unwrap_or_default();
            for pattern in ANNOTATIONS {
                if !annotations.iter().any(|known| known.as_str() == Some(pattern)) {
                    annotations.push(Value::String(pattern.to_owned()));
                }
            }
            runtime.insert(list.to_owned(), Value::Array(annotations));
        }
        let options = runtime.entry("options").or_insert_with(|| Value::Table(Table::new()));
        if let Some(options) = options.as_table_mut() {
            options.insert("BinaryName".to_owned(), Value::String(registration.program.display().to_string()));
        }
        let section = ["plugins", key, "containerd"];
        let mut settings = Vec::new();
        if registration.is_default {
            let keys: Vec<&str> = section.into_iter().chain(["default_runtime_name"]).collect();
            settings.push(setting(&keys, registration.name.as_str()));
        }
        if self.forgets_built_in() {
            let keys: Vec<&str> = section.into_iter().chain(["runtimes", DEFAULT_RUNTIME]).collect();
            settings.extend(toml_text::settings(&keys, &self.built_in));
        }
        let keys: Vec<&str> = section.into_iter().chain(["runtimes", registration.name.as_str()]).collect();
        settings.extend(toml_text::settings(&keys, &runtime));
        settings
    }
}

fn program(runtime: &Value) -> Program {
    let text = |keys: &[&str]| runtime.as_table().and_then(|table| toml_text::text(table, keys));
    let shim = text(&["runtime_type"]).unwrap_or(SHIMS_OF_RUNC[0]);
    if !SHIMS_OF_RUNC.contains(&shim) {
        return Program::Other(shim.to_owned());
    }
    match text(&["options", "BinaryName"]) {
        Some(path) if path.starts_with('/') => Program::Path(PathBuf::from(path)),
        Some(name) => Program::Search(name.to_owned()),
        None => Program::Search(DEFAULT_RUNTIME.to_owned()),
    }
}

#[cfg(test)]
#[path = "containerd_tests.rs"]
mod tests;

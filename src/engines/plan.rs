//! What is to change for acctguard to be registered with an engine: from the engine's configuration to a list of changes. Changes
//! nothing itself.

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use crate::config::Config;
use crate::engines::Edit;
use crate::engines::Engine;
use crate::engines::EngineError;
use crate::engines::Registration;
use crate::engines::behind;
use crate::engines::behind::Behind;
use crate::engines::behind::Runtimes;
use crate::engines::change::Change;
use crate::engines::containerd;
use crate::engines::crio;
use crate::engines::docker;
use crate::engines::header;
use crate::engines::podman;
use crate::engines::program;
use crate::engines::program::Installed;
use crate::engines::view::State;
use crate::engines::view::View;

/// Name of the runtime in an engine, when nobody says otherwise.
pub const NAME: &str = "acctguard";

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Beside the default runtime, under this name.
    pub class: Option<String>,
    /// In front of a default runtime that is neither runc nor crun.
    pub chain: bool,
    /// Also in files that somebody else writes.
    pub edit_managed: bool,
    /// The engine's main file, when it is another than usual.
    pub main: Option<PathBuf>,
    /// Nothing is changed.
    pub dry_run: bool,
}

/// A node: where the shim is, and acctguard's own configuration.
#[derive(Debug)]
pub struct Node<'a> {
    /// The node's configuration.
    pub config: &'a Config,
    /// The shim that engines are to call.
    pub shim: PathBuf,
}

/// An engine's configuration, read.
enum Configuration {
    Containerd(containerd::Configuration),
    Crio(crio::Configuration),
    Podman(podman::Configuration),
    Docker(docker::Configuration),
}

impl Configuration {
    fn read(engine: Engine, view: &View, main: &Path, installed: Option<&Installed>) -> Result<Self, EngineError> {
        let numbers = installed.and_then(Installed::numbers);
        Ok(match engine {
            Engine::Containerd => {
                let read = containerd::read(view, main, numbers.map(|(major, _)| major))?;
                let asked = installed.filter(|_| read.forgets_built_in());
                let told = asked.and_then(|installed| program::ask(&installed.path, &["config", "default"]).ok());
                Self::Containerd(match told {
                    Some(answer) if answer.is_success => read.with_built_in(&answer.output),
                    _ => read,
                })
            }
            Engine::Crio => Self::Crio(crio::read(view, main, numbers)?),
            Engine::Podman => Self::Podman(podman::read(view, main)?),
            Engine::Docker => Self::Docker(docker::read(view, main)?),
        })
    }

    fn runtimes(&self) -> Result<Runtimes, EngineError> {
        Ok(match self {
            Self::Containerd(configuration) => configuration.runtimes()?,
            Self::Crio(configuration) => configuration.runtimes(),
            Self::Podman(configuration) => configuration.runtimes(),
            Self::Docker(configuration) => configuration.runtimes(),
        })
    }

    fn edits(&self, behind: &Behind, registration: &Registration) -> Result<Vec<Edit>, EngineError> {
        match self {
            Self::Containerd(configuration) => configuration.edits(&behind.name, registration),
            Self::Crio(configuration) => configuration.edits(&behind.name, &behind.base, registration),
            Self::Podman(configuration) => configuration.edits(registration),
            Self::Docker(configuration) => configuration.edits(&behind.name, registration),
        }
    }

    fn notes(&self) -> Vec<String> {
        match self {
            Self::Containerd(configuration) if configuration.has_no_cri() => vec![
                "disabled_plugins switches CRI off, so that Kubernetes does not use this containerd; Docker's containers come by --engine docker".to_owned(),
            ],
            Self::Podman(_) => vec![
                "podman without root reads this file, too: such users set [engine] runtime in their own ~/.config/containers/containers.conf".to_owned(),
            ],
            _ => Vec::new(),
        }
    }
}

/// An engine of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Which.
    pub engine: Engine,
    /// Its program.
    pub installed: Option<Installed>,
    /// Its main file.
    pub main: PathBuf,
}

/// Finds an engine: its program, or at least its folder of configuration.
///
/// # Errors
/// [`EngineError::NotFound`].
pub fn find(engine: Engine, main: Option<&Path>) -> Result<Found, EngineError> {
    let installed = program::find(engine);
    let usual = PathBuf::from(engine.main_file());
    let folder = usual.parent().unwrap_or_else(|| Path::new("/")).to_owned();
    // podman's folder is there without podman: image tools share it
    let is_there = installed.is_some() || main.is_some() || (engine != Engine::Podman && folder.is_dir());
    if !is_there {
        return Err(EngineError::NotFound { engine: engine.name(), program: engine.program(), folder });
    }
    Ok(Found { engine, installed, main: main.map_or(usual, Path::to_owned) })
}

/// The runtimes of an engine as its configuration is now.
///
/// # Errors
/// [`EngineError`].
pub fn runtimes(found: &Found) -> Result<Runtimes, EngineError> {
    Configuration::read(found.engine, &View::of_disk(), &found.main, found.installed.as_ref())?.runtimes()
}

/// Whether a program is the shim `shim`, by whatever link.
#[must_use]
pub fn is_shim(shim: &Path, program: &Path) -> bool {
    program::real(program) == program::real(shim)
}

/// What is to be done.
#[derive(Debug)]
pub struct Plan {
    /// As what acctguard is to be registered.
    pub registration: Registration,
    /// What it is to stand in front of.
    pub behind: Behind,
    /// The changes, in order.
    pub changes: Vec<Change>,
    /// What else there is to know.
    pub notes: Vec<String>,
}

/// Plans the registration from what `view` shows.
///
/// # Errors
/// [`EngineError`].
pub fn plan(node: &Node<'_>, found: &Found, request: &Request, view: &View) -> Result<Plan, EngineError> {
    let engine = found.engine;
    let name = request.class.clone().unwrap_or_else(|| NAME.to_owned());
    usable(&name)?;
    let configuration = Configuration::read(engine, view, &found.main, found.installed.as_ref())?;
    let runtimes = configuration.runtimes()?;
    let ours = |path: &Path| is_shim(&node.shim, path);
    if runtimes.known.get(&name).is_some_and(|known| !matches!(known, behind::Program::Path(path) if ours(path))) {
        return Err(EngineError::NameTaken { engine: engine.name(), name });
    }
    let behind = behind::choose(engine, &runtimes, request.class.is_some(), request.chain, &ours)?;
    let entry = behind::entry(engine, &node.shim, &behind);
    behind::agrees(engine, node.config, &behind, &entry.program)?;
    let registration = Registration { name, is_default: request.class.is_none(), program: entry.program.clone() };
    let edits = configuration.edits(&behind, &registration)?;
    let mut wanted: Vec<(PathBuf, State)> =
        entry.links.into_iter().map(|(path, target)| (path, State::Link { target })).collect();
    for edit in edits {
        let path = view.real(&edit.path);
        if !request.edit_managed && !edit.is_own {
            refuse_managed(engine, view, &path)?;
        }
        wanted.push((path, State::new_file(edit.text)));
    }
    Ok(Plan { registration, behind, changes: changes(view, wanted)?, notes: configuration.notes() })
}

/// What is to change for every path to be as wanted, with the folders that are missing.
fn changes(view: &View, wanted: Vec<(PathBuf, State)>) -> Result<Vec<Change>, EngineError> {
    let mut changes: Vec<Change> = Vec::new();
    let mut made = BTreeSet::new();
    for (path, after) in wanted {
        let before = view.state(&path)?;
        if before.reads_like(&after) {
            continue;
        }
        let mut folders = Vec::new();
        for folder in path.ancestors().skip(1).take_while(|folder| !folder.exists() && !made.contains(*folder)) {
            folders.push(folder.to_owned());
        }
        // a folder that acctguard made is acctguard's also when it is there
        for folder in path.ancestors().skip(1) {
            if view.state(folder)? == State::Absent && !folders.contains(&folder.to_owned()) && !made.contains(folder) {
                folders.push(folder.to_owned());
            }
        }
        folders.sort();
        for folder in folders {
            made.insert(folder.clone());
            changes.push(Change { path: folder, before: State::Absent, after: State::Folder });
        }
        changes.push(Change { path, before, after });
    }
    Ok(changes)
}

fn refuse_managed(engine: Engine, view: &View, path: &Path) -> Result<(), EngineError> {
    let Some(text) = view.text(path)? else { return Ok(()) };
    let found = match engine {
        Engine::Docker => header::of_json(&text, &docker::read(view, path)?.value()),
        _ => header::of_text(&text),
    };
    found.map_or(Ok(()), |(line, header)| Err(EngineError::Managed { path: path.to_owned(), line, header }))
}

/// As Kubernetes wants the handler of a RuntimeClass: a label of DNS (RFC 1123).
fn usable(name: &str) -> Result<(), EngineError> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_fine = name.len() <= 63
        && name.bytes().all(is_plain)
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-');
    if is_fine { Ok(()) } else { Err(EngineError::Name { name: name.to_owned() }) }
}

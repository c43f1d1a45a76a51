//! Registering acctguard with an engine, and taking that back.
//!
//! Order of a registration: an unfinished earlier one is taken back; the change is planned from the configuration as it is without
//! acctguard; the engine is asked about that; the record is written; the paths are changed; the engine is asked again; the record is
//! closed. What fails after the record was written is taken back at once; what a power cut leaves, by the next run.

use std::path::Path;
use std::path::PathBuf;

use crate::engines::Engine;
use crate::engines::EngineError;
use crate::engines::Registration;
use crate::engines::apply::ApplyError;
use crate::engines::behind;
use crate::engines::change::Change;
use crate::engines::engine_check;
use crate::engines::engine_check::CheckError;
use crate::engines::engine_check::Judgement;
use crate::engines::journal;
use crate::engines::journal::Journal;
use crate::engines::journal::JournalError;
use crate::engines::journal::Lock;
use crate::engines::journal::Phase;
use crate::engines::plan;
use crate::engines::plan::Found;
use crate::engines::plan::Node;
use crate::engines::plan::Plan;
use crate::engines::plan::Request;
use crate::engines::program::Installed;
use crate::engines::view::State;
use crate::engines::view::View;

/// Why acctguard is not registered, or still is.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// Nothing could be planned.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The record.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A path could not be changed.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The engine does not take its configuration as it is.
    #[error("{engine} does not take its configuration as it is now, so that nothing was changed; put that right first")]
    CheckBefore {
        /// Which engine.
        engine: &'static str,
        /// What it says.
        #[source]
        source: CheckError,
    },
    /// The engine does not take the changed configuration.
    #[error("{engine} does not take the changed configuration, so that it is as it was before")]
    CheckAfter {
        /// Which engine.
        engine: &'static str,
        /// What it says.
        #[source]
        source: CheckError,
    },
    /// Somebody changed what acctguard wrote.
    #[error("{} was changed by somebody since acctguard install, who would lose that; take {name} out of it by hand, then run acctguard uninstall --engine {engine} again", path.display())]
    ChangedSince {
        /// Which file.
        path: PathBuf,
        /// The runtime's name in it.
        name: String,
        /// Which engine.
        engine: &'static str,
    },
    /// The shim is not where it is to be called.
    #[error("find the shim {}; install acctguard-runtime there, or name it with --shim", path.display())]
    NoShim {
        /// Where it was looked for.
        path: PathBuf,
    },
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The engine's program and version.
    pub installed: Option<Installed>,
    /// What was done, or would be, in order; empty when there was nothing to do.
    pub changes: Vec<Change>,
    /// As what acctguard is registered.
    pub registration: Option<Registration>,
    /// The runtime behind it.
    pub behind: String,
    /// Whether an earlier run that was cut off was taken back first.
    pub recovered: bool,
    /// How the engine was asked.
    pub judgement: Option<Judgement>,
    /// What else there is to know.
    pub notes: Vec<String>,
}

/// Registers acctguard with an engine.
///
/// # Errors
/// [`RegistrationError`]; then the engine's configuration is as it was, unless the message says otherwise.
pub fn install(node: &Node<'_>, engine: Engine, request: &Request) -> Result<Outcome, RegistrationError> {
    let state_dir = &node.config.state_dir;
    if !node.shim.is_file() {
        return Err(RegistrationError::NoShim { path: node.shim.clone() });
    }
    let found = plan::find(engine, request.main.as_deref())?;
    let _lock = if request.dry_run { None } else { Some(Lock::take(state_dir)?) };
    let mut earlier = journal::load(state_dir, engine)?;
    let mut recovered = false;
    if let Some(cut_off) = earlier.take_if(|earlier| earlier.phase != Phase::Applied) {
        recovered = true;
        if request.dry_run {
            earlier = Some(cut_off);
        } else {
            take_back(state_dir, cut_off)?;
        }
    }
    let mut view = View::of_disk();
    if let Some(earlier) = &earlier {
        earlier.hide_from(&mut view)?;
    }
    let planned = plan::plan(node, &found, request, &view);
    let nothing = |registration: Registration, behind: String| Outcome {
        installed: found.installed.clone(),
        changes: Vec::new(),
        registration: Some(registration),
        behind,
        recovered,
        judgement: None,
        notes: Vec::new(),
    };
    if let Some(registration) = in_force(node, &found, request)? {
        let is_planned =
            planned.as_ref().is_ok_and(|plan| earlier.as_ref().is_none_or(|earlier| earlier.changes == plan.changes));
        let is_changed =
            earlier.as_ref().is_some_and(|earlier| !earlier.changed_since().unwrap_or_default().is_empty());
        if is_planned || is_changed || earlier.is_none() {
            let behind = earlier.map(|earlier| earlier.behind).unwrap_or_default();
            return Ok(nothing(registration, behind));
        }
    }
    let plan = planned?;
    let mut outcome = Outcome {
        changes: plan.changes.clone(),
        notes: plan.notes.clone(),
        ..nothing(plan.registration.clone(), plan.behind.name.clone())
    };
    if request.dry_run {
        return Ok(outcome);
    }
    if let Some(earlier) = earlier {
        refuse_changed(&earlier)?;
        take_back(state_dir, earlier)?;
    }
    outcome.judgement = Some(put_in_force(node, &found, plan)?);
    Ok(outcome)
}

/// As what acctguard is registered already, as the request has it: a link or the shim itself is called, as default or by that name.
fn in_force(node: &Node<'_>, found: &Found, request: &Request) -> Result<Option<Registration>, EngineError> {
    let runtimes = plan::runtimes(found)?;
    let ours = |path: &Path| plan::is_shim(&node.shim, path);
    let name = request.class.clone().unwrap_or_else(|| runtimes.default.clone());
    Ok(match runtimes.program(&name) {
        behind::Program::Path(program) if ours(&program) => {
            let is_default = request.class.is_none();
            // another default than asked for beside is another registration
            let is_other = !is_default && runtimes.default == name;
            (!is_other).then_some(Registration { name, is_default, program })
        }
        _ => None,
    })
}

fn put_in_force(node: &Node<'_>, found: &Found, plan: Plan) -> Result<Judgement, RegistrationError> {
    let (engine, state_dir) = (found.engine, &node.config.state_dir);
    let (name, installed) = (engine.name(), found.installed.as_ref());
    let before = engine_check::ask(engine, installed, &found.main, None)
        .map_err(|source| RegistrationError::CheckBefore { engine: name, source })?;
    let registration = plan.registration;
    let mut journal = Journal::new(
        engine,
        registration.name.clone(),
        registration.is_default,
        registration.program.clone(),
        plan.behind.name,
        plan.changes,
    );
    journal.store(state_dir, Phase::Applying)?;
    if let Err(error) = journal.make() {
        take_back(state_dir, journal)?;
        return Err(error.into());
    }
    let judged = engine_check::ask(engine, installed, &found.main, Some(&registration))
        .and_then(|after| engine_check::compare(&before, &after, &registration).map(|()| after));
    match judged {
        Ok(judgement) => {
            journal.store(state_dir, Phase::Applied)?;
            Ok(judgement)
        }
        Err(source) => {
            take_back(state_dir, journal)?;
            Err(RegistrationError::CheckAfter { engine: name, source })
        }
    }
}

/// Takes back a registration, or finishes taking it back, and forgets it. Links that containers still need stay, and are returned.
fn take_back(state_dir: &Path, mut journal: Journal) -> Result<Vec<PathBuf>, RegistrationError> {
    refuse_changed(&journal)?;
    let engine = journal.engine;
    let was_applied = journal.phase == Phase::Applied;
    journal.store(state_dir, Phase::Removing)?;
    let mut keep: Vec<PathBuf> = journal.changed_since()?.into_iter().map(|change| change.path.clone()).collect();
    let mut kept_links = Vec::new();
    if was_applied {
        let links = journal.changes.iter().filter(|change| matches!(change.after, State::Link { .. }));
        kept_links = links.map(|change| change.path.clone()).filter(|_| is_called(&journal.program)).collect();
        keep.extend(kept_links.iter().cloned());
    }
    journal.take_back(&keep)?;
    journal::forget(state_dir, engine)?;
    Ok(kept_links)
}

/// Refuses where somebody changed a file that still names what acctguard registered.
fn refuse_changed(journal: &Journal) -> Result<(), RegistrationError> {
    for change in journal.changed_since()? {
        let names_us = match State::at(&change.path)? {
            State::File { text, .. } => {
                text.contains(&journal.program.display().to_string()) || text.contains(&format!("\"{}\"", journal.name))
            }
            _ => false,
        };
        if names_us {
            let (path, name, engine) = (change.path.clone(), journal.name.clone(), journal.engine.name());
            return Err(RegistrationError::ChangedSince { path, name, engine });
        }
    }
    Ok(())
}

/// Whether a container that runs will be called for by this path again: conmon has it as an argument, containerd's shims in the
/// options beside their bundles.
fn is_called(program: &Path) -> bool {
    let name = program.as_os_str().as_encoded_bytes();
    // the first word is what runs itself, and a runtime ends soon
    let has_it = |line: Vec<u8>| line.split(|byte| *byte == 0).skip(1).any(|argument| argument == name);
    let mut processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    if processes.any(|entry| std::fs::read(entry.path().join("cmdline")).is_ok_and(has_it)) {
        return true;
    }
    let named_in = |bytes: Vec<u8>| bytes.windows(name.len().max(1)).any(|window| window == name);
    let tasks = ["/run/containerd", "/run/docker/containerd/daemon"]
        .map(|folder| Path::new(folder).join("io.containerd.runtime.v2.task"));
    let namespaces = tasks.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let bundles = namespaces.filter_map(|namespace| std::fs::read_dir(namespace.path()).ok()).flatten().flatten();
    bundles.map(|bundle| bundle.path().join("options.json")).any(|file| std::fs::read(file).is_ok_and(named_in))
}

/// Takes acctguard out of an engine: what `install` changed is as it was before, byte for byte.
///
/// # Errors
/// [`RegistrationError`].
pub fn uninstall(node: &Node<'_>, engine: Engine, dry_run: bool) -> Result<Outcome, RegistrationError> {
    let state_dir = &node.config.state_dir;
    let _lock = if dry_run { None } else { Some(Lock::take(state_dir)?) };
    let mut outcome = Outcome {
        installed: None,
        changes: Vec::new(),
        registration: None,
        behind: String::new(),
        recovered: false,
        judgement: None,
        notes: Vec::new(),
    };
    let Some(journal) = journal::load(state_dir, engine)? else { return Ok(outcome) };
    refuse_changed(&journal)?;
    let gone: Vec<PathBuf> = journal.changed_since()?.into_iter().map(|change| change.path.clone()).collect();
    outcome
        .notes
        .extend(gone.iter().map(|path| format!("{} no longer names acctguard and stays as it is", path.display())));
    outcome.changes =
        journal.changes.iter().rev().filter(|change| !gone.contains(&change.path)).map(Change::backwards).collect();
    outcome.recovered = journal.phase != Phase::Applied;
    outcome.behind.clone_from(&journal.behind);
    if !dry_run {
        let kept = take_back(state_dir, journal)?;
        outcome.changes.retain(|change| !kept.contains(&change.path));
        outcome.notes.extend(kept.iter().map(|path| {
            format!(
                "{} stays, because containers that run are stopped through it; remove it when they are gone",
                path.display()
            )
        }));
    }
    Ok(outcome)
}

#[cfg(test)]
#[path = "registration_tests.rs"]
mod tests;

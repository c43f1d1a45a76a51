//! What acctguard changed for an engine, on disk before anything is changed: what was before, what is to be, how far it came.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::engines::Engine;
use crate::engines::EngineError;
use crate::engines::apply;
use crate::engines::apply::ApplyError;
use crate::engines::change::Change;
use crate::engines::view::State;
use crate::engines::view::View;

/// Version of the record.
const FORMAT: u32 = 1;

/// How far a change of an engine came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Being made; when found so, it was cut off and is taken back.
    Applying,
    /// Made, and the engine takes it.
    Applied,
    /// Being taken back; when found so, that is finished.
    Removing,
}

/// The record of an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    format: u32,
    /// Whose.
    pub engine: Engine,
    /// How far.
    pub phase: Phase,
    /// Name of the runtime.
    pub name: String,
    /// Whether it is the default one.
    pub is_default: bool,
    /// What the engine calls.
    pub program: PathBuf,
    /// The runtime behind it, by its name in the engine.
    pub behind: String,
    /// In the order in which they are made.
    pub changes: Vec<Change>,
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It cannot be read.
    #[error("read the record of changes {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// It is no record.
    #[error("read the record of changes {}: it is damaged or of another version; put the engine's files right by hand, then remove it", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] ApplyError),
    /// Another run is at work.
    #[error("another acctguard install or uninstall is at work on this node (it holds {}); try again when it is done", path.display())]
    Busy {
        /// The lock.
        path: PathBuf,
    },
}

/// Holds off other runs while it lives.
#[derive(Debug)]
pub struct Lock {
    _file: fs::File,
}

impl Lock {
    /// Takes the lock of this node.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn take(state_dir: &Path) -> Result<Self, JournalError> {
        let folder = folder(state_dir);
        let failed = |source| JournalError::Read { path: folder.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed)?;
        let path = folder.join("lock");
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(JournalError::Busy { path }),
            Err(errno) => Err(failed(errno.into())),
        }
    }
}

fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("install")
}

/// Where the record of an engine lies.
#[must_use]
pub fn file(state_dir: &Path, engine: Engine) -> PathBuf {
    folder(state_dir).join(format!("{}.json", engine.name()))
}

/// The record of an engine, when there is one.
///
/// # Errors
/// [`JournalError`].
pub fn load(state_dir: &Path, engine: Engine) -> Result<Option<Journal>, JournalError> {
    let path = file(state_dir, engine);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(JournalError::Read { path, source }),
    };
    let damaged = |source| JournalError::Damaged { path: path.clone(), source };
    let journal: Journal = serde_json::from_str(&text).map_err(damaged)?;
    if journal.format != FORMAT || journal.engine != engine {
        return Err(damaged(serde::de::Error::custom(format!("format {} of {:?}", journal.format, journal.engine))));
    }
    Ok(Some(journal))
}

/// Forgets the record of an engine.
///
/// # Errors
/// [`JournalError::Write`].
pub fn forget(state_dir: &Path, engine: Engine) -> Result<(), JournalError> {
    let path = file(state_dir, engine);
    apply::clear(&path)?;
    Ok(apply::apply(&path, &State::Absent)?)
}

impl Journal {
    /// A record of what is about to be done.
    #[must_use]
    pub fn new(
        engine: Engine,
        name: String,
        is_default: bool,
        program: PathBuf,
        behind: String,
        changes: Vec<Change>,
    ) -> Self {
        Self { format: FORMAT, engine, phase: Phase::Applying, name, is_default, program, behind, changes }
    }

    /// Puts it on disk, with `phase`.
    ///
    /// # Errors
    /// [`JournalError::Write`].
    pub fn store(&mut self, state_dir: &Path, phase: Phase) -> Result<(), JournalError> {
        self.phase = phase;
        let text = serde_json::to_string(self).unwrap_or_default();
        let state = State::File { text, mode: 0o600, uid: 0, gid: 0 };
        Ok(apply::apply(&file(state_dir, self.engine), &state)?)
    }

    /// Makes every change, in order.
    ///
    /// # Errors
    /// [`ApplyError`] of the first that failed.
    pub fn make(&self) -> Result<(), ApplyError> {
        self.changes.iter().try_for_each(|change| apply::apply(&change.path, &change.after))
    }

    /// Takes every change back, last first, but those of `keep`.
    ///
    /// # Errors
    /// [`ApplyError`] of the first that failed.
    pub fn take_back(&self, keep: &[PathBuf]) -> Result<(), ApplyError> {
        for change in self.changes.iter().rev().filter(|change| !keep.contains(&change.path)) {
            apply::clear(&change.path)?;
            apply::apply(&change.path, &change.before)?;
        }
        Ok(())
    }

    /// Shows in `view` what was before, wherever the change is still as it was made.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn hide_from(&self, view: &mut View) -> Result<(), EngineError> {
        for change in &self.changes {
            if State::at(&change.path)?.reads_like(&change.after) {
                view.show(change.path.clone(), change.before.clone());
            }
        }
        Ok(())
    }

    /// Paths that are neither as they were before nor as they were made: somebody changed them since.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn changed_since(&self) -> Result<Vec<&Change>, EngineError> {
        let mut found = Vec::new();
        for change in &self.changes {
            let now = State::at(&change.path)?;
            if !now.reads_like(&change.after) && !now.reads_like(&change.before) {
                found.push(change);
            }
        }
        Ok(found)
    }

    /// Whether everything is as it was made.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn is_in_force(&self) -> Result<bool, EngineError> {
        for change in &self.changes {
            if !State::at(&change.path)?.reads_like(&change.after) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(folder: &Path) -> Journal {
        let file = |text: &str| State::File { text: text.to_owned(), mode: 0o644, uid: 0, gid: 0 };
        let changes = vec![
            Change { path: folder.join("new"), before: State::Absent, after: State::Folder },
            Change { path: folder.join("new/f"), before: State::Absent, after: file("x") },
            Change { path: folder.join("old"), before: file("before\r\nü"), after: file("after") },
        ];
        Journal::new(Engine::Crio, "a".into(), true, "/p".into(), "crun".into(), changes)
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_another_one_refused() {
        let state = tempfile::tempdir().expect("folder");
        assert!(matches!(load(state.path(), Engine::Crio), Ok(None)));
        let lock = Lock::take(state.path()).expect("locks");
        assert!(matches!(Lock::take(state.path()), Err(JournalError::Busy { .. })));
        drop(lock);
        let mut written = journal(state.path());
        written.store(state.path(), Phase::Applied).expect("stores");
        assert_eq!(load(state.path(), Engine::Crio).expect("loads"), Some(written));
        fs::copy(file(state.path(), Engine::Crio), file(state.path(), Engine::Podman)).expect("copies");
        assert!(matches!(load(state.path(), Engine::Podman), Err(JournalError::Damaged { .. })));
        fs::write(file(state.path(), Engine::Docker), "{").expect("writes");
        assert!(matches!(load(state.path(), Engine::Docker), Err(JournalError::Damaged { .. })));
        forget(state.path(), Engine::Crio).expect("forgets");
        assert!(matches!(load(state.path(), Engine::Crio), Ok(None)));
    }

    #[test]
    fn changes_are_made_seen_through_and_taken_back() {
        let folder = tempfile::tempdir().expect("folder");
        fs::write(folder.path().join("old"), "before\r\nü").expect("writes");
        let journal = journal(folder.path());
        assert_eq!((journal.is_in_force().unwrap(), journal.changed_since().unwrap().len()), (false, 0));
        journal.make().expect("makes");
        assert_eq!((journal.is_in_force().unwrap(), journal.changed_since().unwrap().len()), (true, 0));
        let mut view = View::of_disk();
        journal.hide_from(&mut view).expect("reads");
        assert_eq!(view.text(&folder.path().join("old")).unwrap().as_deref(), Some("before\r\nü"));
        assert_eq!(view.text(&folder.path().join("new/f")).unwrap(), None);
        fs::write(folder.path().join("old"), "other").expect("writes");
        assert_eq!(journal.changed_since().unwrap()[0].path, folder.path().join("old"));
        journal.take_back(&[folder.path().join("old")]).expect("takes back");
        assert_eq!(fs::read_to_string(folder.path().join("old")).unwrap(), "other");
        assert!(!folder.path().join("new").exists());
    }
}

//! What lies at the paths of a configuration: on disk, and as it was before acctguard changed it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::engines::EngineError;

/// Largest configuration file that is read.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// What lies at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum State {
    /// Nothing.
    Absent,
    /// A file with a text.
    File {
        /// Its content.
        text: String,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// A symbolic link.
    Link {
        /// Where to.
        target: PathBuf,
    },
    /// A folder.
    Folder,
}

impl State {
    /// A file of root's that others may read.
    #[must_use]
    pub const fn new_file(text: String) -> Self {
        Self::File { text, mode: 0o644, uid: 0, gid: 0 }
    }

    /// What lies at `path` now; a link is not followed.
    ///
    /// # Errors
    /// [`EngineError::Read`], [`EngineError::NotText`].
    pub fn at(path: &Path) -> Result<Self, EngineError> {
        let read = |source| EngineError::Read { path: path.to_owned(), source };
        let found = match fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::Absent),
            Err(error) => return Err(read(error)),
        };
        if found.is_symlink() {
            return Ok(Self::Link { target: fs::read_link(path).map_err(read)? });
        }
        if found.is_dir() {
            return Ok(Self::Folder);
        }
        let text = text_of(path, &found)?;
        Ok(Self::File { text, mode: found.mode() & 0o7777, uid: found.uid(), gid: found.gid() })
    }

    /// Whether both are the same to whoever reads them: owner and permissions are not compared.
    #[must_use]
    pub fn reads_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File { text: left, .. }, Self::File { text: right, .. }) => left == right,
            (left, right) => left == right,
        }
    }
}

fn text_of(path: &Path, found: &fs::Metadata) -> Result<String, EngineError> {
    let refuse = |kind, why: &str| EngineError::Read { path: path.to_owned(), source: io::Error::new(kind, why) };
    if !found.is_file() {
        return Err(refuse(io::ErrorKind::InvalidInput, "it is no file"));
    }
    if found.len() > MAX_BYTES {
        return Err(refuse(io::ErrorKind::FileTooLarge, "it is larger than 4 MiB"));
    }
    let bytes = fs::read(path).map_err(|source| EngineError::Read { path: path.to_owned(), source })?;
    String::from_utf8(bytes).map_err(|_| EngineError::NotText { path: path.to_owned() })
}

/// Files as they are, or as they would be.
#[derive(Debug, Default)]
pub struct View {
    instead: BTreeMap<PathBuf, State>,
    is_apart: bool,
}

impl View {
    /// The files of this node.
    #[must_use]
    pub fn of_disk() -> Self {
        Self::default()
    }

    /// These files and no others.
    #[must_use]
    pub fn of_texts<'a>(texts: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let files = texts.into_iter().map(|(path, text)| (PathBuf::from(path), State::new_file(text.to_owned())));
        Self { instead: files.collect(), is_apart: true }
    }

    /// Shows `state` at `path`, whatever lies there.
    pub fn show(&mut self, path: PathBuf, state: State) {
        self.instead.insert(path, state);
    }

    /// What lies at `path`.
    ///
    /// # Errors
    /// As [`State::at`].
    pub fn state(&self, path: &Path) -> Result<State, EngineError> {
        match self.instead.get(path) {
            Some(state) => Ok(state.clone()),
            None if self.is_apart => Ok(State::Absent),
            None => State::at(path),
        }
    }

    /// Where a file that is named `path` really is: its own directory entry is what has to be replaced.
    #[must_use]
    pub fn real(&self, path: &Path) -> PathBuf {
        let real = if self.is_apart { None } else { fs::canonicalize(path).ok() };
        real.unwrap_or_else(|| path.to_owned())
    }

    /// The text at `path`, links followed; `None` where there is nothing.
    ///
    /// # Errors
    /// As [`State::at`].
    pub fn text(&self, path: &Path) -> Result<Option<String>, EngineError> {
        match self.state(&self.real(path))? {
            State::File { text, .. } => Ok(Some(text)),
            State::Absent => Ok(None),
            State::Link { .. } | State::Folder => {
                let source = io::Error::new(io::ErrorKind::InvalidInput, "it is no file");
                Err(EngineError::Read { path: path.to_owned(), source })
            }
        }
    }

    /// The files in `folder` whose names end with `ending`, sorted as engines sort them: by bytes.
    ///
    /// # Errors
    /// [`EngineError::Read`].
    pub fn files(&self, folder: &Path, ending: &str) -> Result<Vec<PathBuf>, EngineError> {
        let read = |source| EngineError::Read { path: folder.to_owned(), source };
        let mut found: Vec<PathBuf> =
            self.instead.keys().filter(|path| path.parent() == Some(folder)).cloned().collect();
        match fs::read_dir(folder) {
            _ if self.is_apart => {}
            Ok(entries) => {
                for entry in entries {
                    found.push(entry.map_err(read)?.path());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(read(error)),
        }
        found.sort();
        found.dedup();
        found.retain(|path| path.as_os_str().as_encoded_bytes().ends_with(ending.as_bytes()));
        let mut files = Vec::new();
        for path in found {
            if matches!(self.state(&path)?, State::File { .. } | State::Link { .. }) {
                files.push(path);
            }
        }
        Ok(files)
    }
}

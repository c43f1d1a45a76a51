//! A bundle on disk: its `config.json` is read bounded, and replaced by a finished file or not at all.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Value;

/// Largest `config.json` that is read.
pub const MAX_CONFIG_BYTES: u64 = 64 * 1024 * 1024;

/// `O_NOFOLLOW` is not wanted (engines may link the file), `O_NONBLOCK` is: a fifo in its place must not hang us.
const OPEN_FLAGS: i32 = nix::fcntl::OFlag::O_NONBLOCK.bits() | nix::fcntl::OFlag::O_CLOEXEC.bits();

/// Why a bundle cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The folder.
    #[error("open bundle {path:?}; give the folder that holds config.json with --bundle")]
    Open {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Not a folder.
    #[error("bundle {path:?} is not a directory; give the folder that holds config.json with --bundle")]
    NotADirectory {
        /// Which.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("read {path:?}; a bundle needs a readable config.json, make it anew")]
    Read {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Something else than a file.
    #[error("{path:?} is not a regular file; a bundle needs a config.json, make it anew")]
    NotAFile {
        /// Which.
        path: PathBuf,
    },
    /// Too large.
    #[error("{path:?} is larger than {} MiB; no runtime needs that, make the bundle anew", MAX_CONFIG_BYTES / 1024 / 1024)]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
    /// No JSON.
    #[error("{path:?} is not valid JSON; make the bundle anew")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Where and what.
        #[source]
        source: serde_json::Error,
    },
    /// The new file cannot be put in place; the old one is intact.
    #[error("replace {path:?} ({step}); the original is unchanged, make the bundle's folder writable for the runtime")]
    Replace {
        /// Which.
        path: PathBuf,
        /// What failed.
        step: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// An open bundle.
#[derive(Debug)]
pub struct Bundle {
    directory: PathBuf,
    file: PathBuf,
    config: Value,
}

/// Removes a temporary file unless it was renamed away.
struct Temporary {
    path: PathBuf,
    kept: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            // Nothing can be done about a failure here; the caller already has the error that led here.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Bundle {
    /// Opens the bundle at `path` (a symbolic link is followed) and reads its `config.json`.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn open(path: &Path) -> Result<Self, BundleError> {
        Self::open_with(path, None)
    }

    /// The same with another file in the place of `config.json`, as crun's `--config FILE` has it.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn open_with(path: &Path, config_file: Option<&Path>) -> Result<Self, BundleError> {
        let open = |source| BundleError::Open { path: path.to_owned(), source };
        let directory = fs::canonicalize(path).map_err(open)?;
        if !fs::metadata(&directory).map_err(open)?.is_dir() {
            return Err(BundleError::NotADirectory { path: path.to_owned() });
        }
        let file = config_file.map_or_else(|| directory.join("config.json"), Path::to_owned);
        let config = read(&file)?;
        Ok(Self { directory, file, config })
    }

    /// The bundle's folder, absolute, without symbolic links.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The document.
    #[must_use]
    pub const fn config(&self) -> &Value {
        &self.config
    }

    /// Path of `config.json`.
    #[must_use]
    pub fn config_file(&self) -> &Path {
        &self.file
    }

    /// Replaces `config.json` by `config`: a new file beside it, written and synced, renamed over it, the folder synced.
    /// Owner and mode stay. Nothing is written when nothing changed.
    ///
    /// # Errors
    /// [`BundleError::Replace`]; the original is then unchanged.
    pub fn replace(&mut self, config: Value) -> Result<(), BundleError> {
        if config == self.config {
            return Ok(());
        }
        // A link leads to the file that is to be replaced, not to be replaced itself.
        let path = fs::canonicalize(&self.file).unwrap_or_else(|_| self.file.clone());
        let failed = |step| move |source| (step, source);
        replace_file(&path, &config, &failed).map_err(|(step, source)| BundleError::Replace {
            path: path.clone(),
            step,
            source,
        })?;
        self.config = config;
        Ok(())
    }
}

fn read(path: &Path) -> Result<Value, BundleError> {
    let failed = |source| BundleError::Read { path: path.to_owned(), source };
    let file = File::options().read(true).custom_flags(OPEN_FLAGS).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(BundleError::NotAFile { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_CONFIG_BYTES {
        return Err(BundleError::TooLarge { path: path.to_owned() });
    }
    serde_json::from_slice(&bytes).map_err(|source| BundleError::Malformed { path: path.to_owned(), source })
}

type StepError = (&'static str, io::Error);

fn replace_file<F>(path: &Path, config: &Value, failed: &impl Fn(&'static str) -> F) -> Result<(), StepError>
where
    F: FnOnce(io::Error) -> StepError,
{
    let parent = path.parent().unwrap_or(Path::new("/"));
    let before = fs::metadata(path).map_err(failed("look at the original"))?;
    let name = format!(".config.json.acctguard.{}", std::process::id());
    let mut temporary = Temporary { path: parent.join(name), kept: false };
    // One left behind by a killed process that had our pid.
    if let Err(source) = fs::remove_file(&temporary.path)
        && source.kind() != io::ErrorKind::NotFound
    {
        temporary.kept = true;
        return Err(("remove a stale temporary file", source));
    }
    let created = File::options().write(true).create_new(true).mode(0o600).open(&temporary.path);
    let mut file = match created {
        Ok(file) => file,
        Err(source) => {
            temporary.kept = true;
            return Err(("create a temporary file beside it", source));
        }
    };
    let bytes = serde_json::to_vec(config).map_err(|source| ("print it", source.into()))?;
    file.write_all(&bytes).map_err(failed("write the temporary file"))?;
    std::os::unix::fs::fchown(&file, Some(before.uid()), Some(before.gid())).map_err(failed("keep its owner"))?;
    let mode = fs::Permissions::from_mode(before.mode() & 0o7777);
    file.set_permissions(mode).map_err(failed("keep its mode"))?;
    file.sync_all().map_err(failed("sync the temporary file"))?;
    fs::rename(&temporary.path, path).map_err(failed("rename the temporary file over it"))?;
    temporary.kept = true;
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(failed("sync its folder"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::model::diagnostic::chain;

    fn bundle(text: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("temporary folder");
        fs::write(folder.path().join("config.json"), text).expect("writes");
        folder
    }

    #[test]
    fn replaces_and_keeps_owner_and_mode() {
        let folder = bundle(r#"{"a":1}"#);
        let file = folder.path().join("config.json");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("chmod");
        std::os::unix::fs::chown(&file, Some(1234), Some(4321)).expect("chown; run as root");
        let mut bundle = Bundle::open(folder.path()).expect("opens");
        let unchanged = fs::metadata(&file).expect("stat").ino();
        bundle.replace(serde_json::json!({"a": 1})).expect("nothing to do");
        assert_eq!(fs::metadata(&file).expect("stat").ino(), unchanged);
        bundle.replace(serde_json::json!({"a": 2})).expect("replaces");
        let after = fs::metadata(&file).expect("stat");
        assert_eq!((after.uid(), after.gid(), after.mode() & 0o7777), (1234, 4321, 0o640));
        assert_eq!(fs::read_to_string(&file).expect("reads"), r#"{"a":2}"#);
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 1);
    }

    #[test]
    fn follows_a_symbolic_link() {
        let folder = bundle(r#"{"a":1}"#);
        let elsewhere = tempfile::tempdir().expect("temporary folder");
        let link = elsewhere.path().join("link");
        symlink(folder.path(), &link).expect("links");
        let mut bundle = Bundle::open(&link).expect("opens");
        assert_eq!(bundle.directory(), fs::canonicalize(folder.path()).expect("exists"));
        bundle.replace(serde_json::json!({})).expect("replaces");
        assert_eq!(fs::read_to_string(folder.path().join("config.json")).expect("reads"), "{}");
    }

    #[test]
    fn broken_bundles_are_one_line_errors() {
        let folder = bundle(r#"{"a": tru}"#);
        let missing = tempfile::tempdir().expect("temporary folder");
        let fifo = tempfile::tempdir().expect("temporary folder");
        nix::unistd::mkfifo(&fifo.path().join("config.json"), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        let large = bundle("");
        File::options()
            .write(true)
            .open(large.path().join("config.json"))
            .and_then(|file| file.set_len(MAX_CONFIG_BYTES + 1))
            .expect("grows");
        for (path, expected) in [
            (folder.path().to_owned(), "line 1 column 10"),
            (missing.path().to_owned(), "No such file"),
            (missing.path().join("none"), "open bundle"),
            (folder.path().join("config.json"), "not a directory"),
            (fifo.path().to_owned(), "not a regular file"),
            (large.path().to_owned(), "larger than 64 MiB"),
        ] {
            let error = chain(&Bundle::open(&path).expect_err("is broken"));
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        }
    }
}

//! Records made while the daemon is away: one JSON event a file, taken in by the daemon when it is back.
//!
//! A file appears whole or not at all (temporary file, fsync, rename, fsync of the directory) and is removed only after
//! its event was stored; the store knows event ids, so an event is recorded exactly once whenever something stops half-way. A removal
//! that a power cut undoes is one of these cases, so removals are not synchronised.

use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::OFlags;

use super::Row;
use crate::model::event::Event;

/// Longest file taken in.
pub const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;
/// Most files taken in at one time; the others wait for the next.
const MAX_FILES: usize = 4096;

/// Why a record could not be spooled or taken in.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// A file operation.
    #[error("cannot {operation} {}; check owner, mode and free space of the spool directory", path.display())]
    File {
        /// What.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// No JSON form.
    #[error("cannot write event {id} as JSON")]
    Encode {
        /// Event id.
        id: String,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
}

/// What becomes of the file of an event that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It is recorded.
    Remove,
    /// It is for the next time.
    Leave,
}

/// What one intake came to.
#[derive(Debug, Default)]
pub struct Taken {
    /// Events that are recorded.
    pub events: usize,
    /// Events whose files were left.
    pub left: usize,
    /// Files that hold no event: renamed to `<name>.rejected`, with the reason.
    pub rejected: Vec<(PathBuf, String)>,
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> SpoolError {
    let path = path.to_owned();
    move |source| SpoolError::File { operation, path, source }
}

/// Puts `event` into the spool directory `dir`, which is made (0700) when missing. On disk when this returns.
///
/// # Errors
/// [`SpoolError`]; then nothing but perhaps a temporary file is left, which the next intake removes.
pub fn put(dir: &Path, event: &Event) -> Result<(), SpoolError> {
    let text = serde_json::to_vec(event).map_err(|source| SpoolError::Encode { id: event.id.to_string(), source })?;
    put_text(dir, &event.id.to_string(), &text).map(drop)
}

/// Puts the event of `row`, as [`put`] does, and returns its file.
///
/// # Errors
/// As [`put`].
pub fn put_row(dir: &Path, row: &Row) -> Result<PathBuf, SpoolError> {
    put_text(dir, &row.id, row.json.as_bytes())
}

fn put_text(dir: &Path, id: &str, text: &[u8]) -> Result<PathBuf, SpoolError> {
    make_directory(dir).map_err(failed("create spool directory", dir))?;
    let temporary = dir.join(format!(".{id}.{}.tmp", std::process::id()));
    let path = dir.join(format!("{id}.json"));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(&temporary)
        .map_err(failed("create", &temporary))?;
    let written = file.write_all(text).and_then(|()| file.sync_all());
    if let Err(error) = written {
        let _ = std::fs::remove_file(&temporary);
        return Err(failed("write", &temporary)(error));
    }
    std::fs::rename(&temporary, &path).map_err(failed("rename to", &path))?;
    File::open(dir).and_then(|directory| directory.sync_all()).map_err(failed("sync", dir))?;
    Ok(path)
}

/// Its own name is made durable too: a power cut must not take the directory with what is in it.
fn make_directory(dir: &Path) -> std::io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    match dir.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Hands every spooled event, oldest first, to `record` and removes its file when that says so.
/// Stops at the first event that `record` refuses; it stays for the next time. A missing directory is an empty one.
///
/// # Errors
/// The error of `record`, or [`SpoolError`] (through `E`) when the directory cannot be read.
pub fn take_all<E: From<SpoolError>>(dir: &Path, mut record: impl FnMut(Event) -> Result<Then, E>) -> Result<Taken, E> {
    let mut taken = Taken::default();
    for path in spooled_files(dir)? {
        match read_event(&path) {
            Ok(event) => match record(event)? {
                Then::Leave => taken.left = taken.left.saturating_add(1),
                Then::Remove => {
                    std::fs::remove_file(&path).map_err(failed("remove", &path))?;
                    taken.events = taken.events.saturating_add(1);
                }
            },
            Err(reason) => {
                let aside = path.with_extension("json.rejected");
                std::fs::rename(&path, &aside).map_err(failed("rename to", &aside))?;
                taken.rejected.push((aside, reason));
            }
        }
    }
    Ok(taken)
}

/// The oldest, at most [`MAX_FILES`]: names are UUIDv7, so their order is that of their making.
fn spooled_files(dir: &Path) -> Result<Vec<PathBuf>, SpoolError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("read spool directory", dir)(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed("read spool directory", dir))?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        } else if path.extension().is_some_and(|extension| extension == "tmp") {
            remove_stale(&path);
        }
        // a directory is read in no order: the oldest are known only when all were seen
        if files.len() >= MAX_FILES.saturating_mul(2) {
            keep_oldest(&mut files);
        }
    }
    keep_oldest(&mut files);
    Ok(files)
}

fn keep_oldest(files: &mut Vec<PathBuf>) {
    files.sort();
    files.truncate(MAX_FILES);
}

/// A temporary file older than an hour belongs to nobody: its writer was killed.
fn remove_stale(path: &Path) {
    let age =
        path.symlink_metadata().and_then(|metadata| metadata.modified()).ok().and_then(|time| time.elapsed().ok());
    if age.is_some_and(|age| age.as_secs() > 3600) {
        let _ = std::fs::remove_file(path);
    }
}

fn read_event(path: &Path) -> Result<Event, String> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path)
        .map_err(|error| format!("cannot be opened: {error}"))?;
    let metadata = file.metadata().map_err(|error| format!("cannot be examined: {error}"))?;
    if !metadata.is_file() {
        return Err("is no regular file".to_owned());
    }
    let mut text = Vec::new();
    let limit = MAX_FILE_BYTES.saturating_add(1);
    file.take(limit).read_to_end(&mut text).map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 >= limit {
        return Err(format!("is longer than {MAX_FILE_BYTES} bytes"));
    }
    serde_json::from_slice(&text).map_err(|error| format!("holds no event: {error}"))
}

//! The durable event store: one SQLite file with the events, the containers the daemon knows, and how far each sink has read.
//!
//! Uses [`crate::model`] only. Invariants:
//! - What [`Store::write`] and [`Store::append`] answer with `Ok` is on disk: WAL with `synchronous=FULL`
//!   (<https://sqlite.org/pragma.html#pragma_synchronous>). Callers that come together share one commit.
//! - An event is stored once however often it is appended: its id is unique.
//! - Sequence numbers have no gaps but those that retention made: a reader can tell from them what it missed.
//! - One thread writes, readers have a connection of their own, so a slow query never holds up a record.
//! - Sequence numbers only grow (AUTOINCREMENT), so a cursor stays valid when retention removes what it points at.
//!
//! Deliberately absent: interpretation of what is stored about containers (the daemon's JSON, kept as text).
#![forbid(unsafe_code)]

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use crate::model::event::Event;

mod backlog;
mod query;
mod retention;
mod schema;
pub mod spool;
mod writer;

pub use backlog::Backlog;
pub use query::Filter;
pub use query::Page;
pub use query::Stored;
pub use query::StoredContainer;
pub use retention::Retention;
use writer::Command;

/// Longest queue of writes before callers wait for a place in it.
const QUEUE_LENGTH: usize = 1024;

/// Why the store could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or created.
    #[error("cannot open event store {}; check that its directory exists, is writable and not on a full disk", file.display())]
    Open {
        /// The store.
        file: PathBuf,
        /// Cause.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// Written by a newer acctguard.
    #[error("event store {} has schema version {found}, this acctguard knows up to {supported}; install the newer acctguard again or move the file away", file.display())]
    Newer {
        /// The store.
        file: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        supported: i64,
    },
    /// Not a database, or a damaged one.
    #[error("event store {} is damaged ({detail}); move it away and start the daemon again, or restore a copy", file.display())]
    Corrupt {
        /// The store.
        file: PathBuf,
        /// What SQLite found.
        detail: String,
    },
    /// No space left.
    #[error("cannot {operation} in event store {}: the disk or its quota is full; free space or lower [store] max_mib", file.display())]
    Full {
        /// What was being done.
        operation: &'static str,
        /// The store.
        file: PathBuf,
    },
    /// Any other failure of SQLite.
    #[error("cannot {operation} in event store {}", file.display())]
    Sql {
        /// What was being done.
        operation: &'static str,
        /// The store.
        file: PathBuf,
        /// Cause.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// Not done within the time that the caller has. It may still be done.
    #[error("cannot {operation} in event store {} within {} s: its disk hangs or is far too slow", file.display(), limit.as_secs())]
    Slow {
        /// What was being done.
        operation: &'static str,
        /// The store.
        file: PathBuf,
        /// The caller's time.
        limit: Duration,
    },
    /// Earlier writes wait in memory, and none goes before them.
    #[error("cannot write in event store {}: earlier events wait for its disk ({reason})", file.display())]
    Waiting {
        /// The store.
        file: PathBuf,
        /// Why they wait.
        reason: String,
    },
    /// A value that has no JSON form.
    #[error("cannot write event {id} as JSON: {detail}")]
    Encode {
        /// Event id.
        id: String,
        /// Cause.
        detail: String,
    },
    /// The store is being closed.
    #[error("event store {} is closed", file.display())]
    Closed {
        /// The store.
        file: PathBuf,
    },
}

impl StoreError {
    /// Sorts a failure of SQLite by what a person has to do about it.
    fn from_sql(operation: &'static str, file: &Path, error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        let file = file.to_owned();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full { operation, file },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt { file, detail: error.to_string() }
            }
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
                Self::Open { file, source: Arc::new(error) }
            }
            _ => Self::Sql { operation, file, source: Arc::new(error) },
        }
    }
}

/// One change of the store. Several given to [`Store::write`] together happen together or not at all.
#[derive(Debug, Clone)]
pub enum Write {
    /// Adds an event; nothing happens when its id is already there.
    Event(Row),
    /// Adds or replaces what is known of a container.
    PutContainer(StoredContainer),
    /// Forgets a container.
    RemoveContainer(String),
    /// A sink has everything up to and including `seq`.
    Cursor {
        /// The sink's name.
        sink: String,
        /// Sequence number.
        seq: u64,
    },
}

/// An event ready to be stored.
#[derive(Debug, Clone)]
pub struct Row {
    id: String,
    time_ns: i64,
    kind: &'static str,
    container: Option<String>,
    attack: String,
    json: String,
}

impl Row {
    /// Length of its JSON form.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.json.len()
    }

    /// Makes a row of `event`.
    ///
    /// # Errors
    /// [`StoreError::Encode`] when it has no JSON form.
    pub fn new(event: &Event) -> Result<Self, StoreError> {
        let json = serde_json::to_string(event)
            .map_err(|error| StoreError::Encode { id: event.id.to_string(), detail: error.to_string() })?;
        Ok(Self {
            id: event.id.to_string(),
            time_ns: query::nanoseconds(event.time),
            kind: event.kind.as_str(),
            container: event.container.as_ref().map(|container| container.id.as_str().to_owned()),
            attack: query::attack_name(&event.attack).to_owned(),
            json,
        })
    }
}

/// What readers and the writer share.
struct Shared {
    file: PathBuf,
    /// Highest sequence number committed, and whether the store is closing.
    latest: Mutex<Latest>,
    grown: Condvar,
    reader: Mutex<rusqlite::Connection>,
}

#[derive(Clone, Copy)]
struct Latest {
    seq: u64,
    closing: bool,
}

/// An open event store. Share it by `Arc`.
pub struct Store {
    shared: Arc<Shared>,
    commands: Option<mpsc::SyncSender<Command>>,
    writer: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Store").field("file", &self.shared.file).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in `file`, which is created (mode 0600) with its directory (0700) when it is not there.
    ///
    /// # Errors
    /// [`StoreError::Open`], [`StoreError::Newer`], [`StoreError::Corrupt`], [`StoreError::Full`].
    pub fn open(file: &Path, retention: Retention) -> Result<Self, StoreError> {
        let connection = schema::open_writer(file)?;
        let reader = schema::open_reader(file)?;
        let seq = query::latest(&connection).map_err(|error| StoreError::from_sql("read", file, error))?;
        let shared = Arc::new(Shared {
            file: file.to_owned(),
            latest: Mutex::new(Latest { seq, closing: false }),
            grown: Condvar::new(),
            reader: Mutex::new(reader),
        });
        let (commands, queue) = mpsc::sync_channel(QUEUE_LENGTH);
        let of_writer = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer::run(&connection, &queue, &of_writer, retention))
            .map_err(|error| StoreError::Open { file: file.to_owned(), source: Arc::new(error) })?;
        Ok(Self { shared, commands: Some(commands), writer: Some(writer) })
    }

    /// Stores `event` and returns when it is on disk. Storing the same event again is no error and changes nothing.
    ///
    /// # Errors
    /// [`StoreError`]; then the event is not stored.
    pub fn append(&self, event: &Event) -> Result<(), StoreError> {
        self.write(vec![Write::Event(Row::new(event)?)])
    }

    /// Does all of `writes` or none, and returns when it is on disk.
    ///
    /// # Errors
    /// [`StoreError`]; then none is done.
    pub fn write(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let (done, answer) = mpsc::sync_channel(1);
        let commands = self.commands.as_ref().ok_or_else(|| self.closed())?;
        commands.send(Command { writes, done }).map_err(|_| self.closed())?;
        answer.recv().map_err(|_| self.closed())?
    }

    /// As [`Store::write`], but waits no longer than `limit`.
    ///
    /// # Errors
    /// [`StoreError`]; then none is done, except that after [`StoreError::Slow`] they may still be done, all of them.
    pub fn write_within(&self, writes: Vec<Write>, limit: Duration) -> Result<(), StoreError> {
        let slow = || StoreError::Slow { operation: "write", file: self.shared.file.clone(), limit };
        let deadline = Instant::now() + limit;
        let (done, answer) = mpsc::sync_channel(1);
        let commands = self.commands.as_ref().ok_or_else(|| self.closed())?;
        let mut command = Command { writes, done };
        while let Err(refused) = commands.try_send(command) {
            command = match refused {
                mpsc::TrySendError::Full(command) if Instant::now() < deadline => command,
                mpsc::TrySendError::Full(_) => return Err(slow()),
                mpsc::TrySendError::Disconnected(_) => return Err(self.closed()),
            };
            std::thread::sleep(Duration::from_millis(1));
        }
        match answer.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(outcome) => outcome,
            Err(mpsc::RecvTimeoutError::Timeout) => Err(slow()),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(self.closed()),
        }
    }

    /// Stored events that pass `filter`, oldest first, at most `filter.limit`.
    ///
    /// # Errors
    /// [`StoreError`] when the file cannot be read.
    pub fn events(&self, filter: &Filter) -> Result<Page, StoreError> {
        let reader = self.reader();
        query::events(&reader, filter).map_err(|error| self.failed("read events", error))
    }

    /// The event with this id.
    ///
    /// # Errors
    /// [`StoreError`] when the file cannot be read.
    pub fn event(&self, id: &str) -> Result<Option<Event>, StoreError> {
        let reader = self.reader();
        query::event(&reader, id).map_err(|error| self.failed("read an event", error))
    }

    /// Lowest sequence number still there; `None` for an empty store. A cursor below it has lost events to retention.
    ///
    /// # Errors
    /// [`StoreError`] when the file cannot be read.
    pub fn oldest(&self) -> Result<Option<u64>, StoreError> {
        let reader = self.reader();
        query::oldest(&reader).map_err(|error| self.failed("read events", error))
    }

    /// Everything known of containers.
    ///
    /// # Errors
    /// [`StoreError`] when the file cannot be read.
    pub fn containers(&self) -> Result<Vec<StoredContainer>, StoreError> {
        let reader = self.reader();
        query::containers(&reader).map_err(|error| self.failed("read containers", error))
    }

    /// Up to where `sink` has read; `None` for a sink never seen.
    ///
    /// # Errors
    /// [`StoreError`] when the file cannot be read.
    pub fn cursor(&self, sink: &str) -> Result<Option<u64>, StoreError> {
        let reader = self.reader();
        query::cursor(&reader, sink).map_err(|error| self.failed("read a sink's position", error))
    }

    /// Highest sequence number committed.
    #[must_use]
    pub fn latest(&self) -> u64 {
        self.shared.latest.lock().unwrap_or_else(PoisonError::into_inner).seq
    }

    /// Waits until there is an event after `seq`, `timeout` has passed, or [`Store::wake_all`] was called.
    /// Returns whether there is such an event.
    #[must_use]
    pub fn wait_after(&self, seq: u64, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut latest = self.shared.latest.lock().unwrap_or_else(PoisonError::into_inner);
        while latest.seq <= seq && !latest.closing {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            latest = self.shared.grown.wait_timeout(latest, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        latest.seq > seq
    }

    /// Ends every [`Store::wait_after`], now and from now on: the program is stopping.
    pub fn wake_all(&self) {
        self.shared.latest.lock().unwrap_or_else(PoisonError::into_inner).closing = true;
        self.shared.grown.notify_all();
    }

    /// Where it lies.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.shared.file
    }

    fn closed(&self) -> StoreError {
        StoreError::Closed { file: self.shared.file.clone() }
    }

    fn reader(&self) -> std::sync::MutexGuard<'_, rusqlite::Connection> {
        self.shared.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, operation: &'static str, error: rusqlite::Error) -> StoreError {
        StoreError::from_sql(operation, &self.shared.file, error)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.wake_all();
        self.commands = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

#[cfg(test)]
mod tests;

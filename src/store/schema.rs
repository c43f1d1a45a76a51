//! Opening the file: pragmas, tables, and the version of both (`PRAGMA user_version`).

use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::OpenFlags;

use super::StoreError;

/// Version of the tables below. A change of the tables is a new version and a step from the one before it.
pub const VERSION: i64 = 1;

/// How long one connection waits for another's lock: the two of ours collide only at a checkpoint.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const TABLES: &str = "
CREATE TABLE events (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    id        TEXT NOT NULL UNIQUE,
    time_ns   INTEGER NOT NULL,
    kind      TEXT NOT NULL,
    container TEXT,
    attack    TEXT NOT NULL,
    json      TEXT NOT NULL
);
CREATE INDEX events_time ON events (time_ns);
CREATE INDEX events_container ON events (container, seq);
CREATE TABLE containers (id TEXT PRIMARY KEY, json TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE cursors (sink TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
";

/// Opens the one connection that writes, after making the file and its tables where they are missing.
pub fn open_writer(file: &Path) -> Result<Connection, StoreError> {
    make_file(file).map_err(|source| StoreError::Open { file: file.to_owned(), source: Arc::new(source) })?;
    let connection = connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    prepare(&connection, file)?;
    Ok(connection)
}

/// Opens a connection that only reads.
pub fn open_reader(file: &Path) -> Result<Connection, StoreError> {
    let connection = connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection
        .pragma_update(None, "query_only", true)
        .map_err(|error| StoreError::from_sql("prepare reading", file, error))?;
    Ok(connection)
}

/// SQLite would create the file with the umask's mode; the record is nobody's to read but root's.
fn make_file(file: &Path) -> std::io::Result<()> {
    if let Some(directory) = file.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(file).map(drop)
}

fn connect(file: &Path, access: OpenFlags) -> Result<Connection, StoreError> {
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection =
        Connection::open_with_flags(file, flags).map_err(|error| StoreError::from_sql("open", file, error))?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(|error| StoreError::from_sql("open", file, error))?;
    // no file in /tmp, which the daemon's threads that write may not write to (https://sqlite.org/tempfiles.html)
    connection
        .pragma_update(None, "temp_store", "MEMORY")
        .map_err(|error| StoreError::from_sql("open", file, error))?;
    Ok(connection)
}

fn prepare(connection: &Connection, file: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::from_sql("prepare tables", file, error);
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    if version > VERSION {
        return Err(StoreError::Newer { file: file.to_owned(), found: version, supported: VERSION });
    }
    if version == 0 {
        // only before the first table can it be set (https://sqlite.org/pragma.html#pragma_auto_vacuum)
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(failed)?;
    }
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    connection.pragma_update(None, "journal_size_limit", 16 * 1024 * 1024).map_err(failed)?;
    if version == 0 {
        let batch = format!("BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;");
        connection.execute_batch(&batch).map_err(failed)?;
    }
    Ok(())
}

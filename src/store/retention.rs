//! Retention by age and by size: the oldest events go first, a bounded number at a time so that records never wait for it. Sinks are not
//! waited for either, or one that is away would fill the disk; sequence numbers tell a sink what it missed.

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use rusqlite::Connection;

/// Most rows deleted in one step.
const ROWS_A_STEP: i64 = 500;
/// Most pages given back to the file system in one step.
const PAGES_A_STEP: i64 = 2000;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Nothing older.
    pub max_age: Duration,
    /// No more bytes in use.
    pub max_bytes: u64,
}

impl Retention {
    /// As the node's configuration says it.
    #[must_use]
    pub const fn new(days: u32, max_mib: u64) -> Self {
        Self {
            max_age: Duration::from_secs(days as u64 * 24 * 60 * 60),
            max_bytes: max_mib.saturating_mul(1024 * 1024),
        }
    }
}

/// Deletes some of what is too old or too much. Returns whether there may be more.
pub fn step(connection: &Connection, retention: Retention) -> rusqlite::Result<bool> {
    let aged = delete_aged(connection, retention.max_age)?;
    let surplus =
        if aged == 0 && used_bytes(connection)? > retention.max_bytes { delete_oldest(connection)? } else { 0 };
    let free: i64 = connection.query_row("PRAGMA freelist_count", [], |row| row.get(0))?;
    if free > 0 {
        // the statement gives back one page a row: it must be run to its end
        let mut vacuum = connection.prepare_cached(&format!("PRAGMA incremental_vacuum({PAGES_A_STEP})"))?;
        let mut rows = vacuum.query([])?;
        while rows.next()?.is_some() {}
    }
    Ok(aged > 0 || surplus > 0 || free > PAGES_A_STEP)
}

fn delete_aged(connection: &Connection, max_age: Duration) -> rusqlite::Result<usize> {
    let cutoff = SystemTime::now().checked_sub(max_age).and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let Some(cutoff_ns) = cutoff.and_then(|age| i64::try_from(age.as_nanos()).ok()) else { return Ok(0) };
    connection
        .prepare_cached(
            "DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE time_ns < ? ORDER BY time_ns LIMIT ?)",
        )?
        .execute((cutoff_ns, ROWS_A_STEP))
}

fn delete_oldest(connection: &Connection) -> rusqlite::Result<usize> {
    // a tenth of what is there, so that a small store is not emptied
    connection
        .prepare_cached(
            "DELETE FROM events WHERE seq IN
             (SELECT seq FROM events ORDER BY seq LIMIT min(?, 1 + (SELECT count(*) FROM events) / 10))",
        )?
        .execute([ROWS_A_STEP])
}

fn used_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    let pages = pragma("page_count")?.saturating_sub(pragma("freelist_count")?);
    Ok(u64::try_from(pages.saturating_mul(pragma("page_size")?)).unwrap_or(0))
}

//! The one thread that writes. Commands that wait together are committed together: one fsync for all of them.

use std::sync::PoisonError;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use rusqlite::Connection;

use super::Retention;
use super::Shared;
use super::StoreError;
use super::Write;
use super::query;
use super::retention;

/// Most commands in one commit.
const GROUP_LENGTH: usize = 256;
/// How often old events are looked for.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(60);
/// After so many commits they are looked for at once.
const MAINTENANCE_COMMITS: u32 = 500;

/// What a caller waits for.
pub struct Command {
    /// All or none.
    pub writes: Vec<Write>,
    /// Where the outcome goes.
    pub done: SyncSender<Result<(), StoreError>>,
}

/// Serves `queue` until every sender is gone.
pub fn run(connection: &Connection, queue: &Receiver<Command>, shared: &Shared, retention: Retention) {
    let mut commits = 0;
    let mut more_to_delete = true;
    loop {
        let wait = if more_to_delete { Duration::ZERO } else { MAINTENANCE_INTERVAL };
        match queue.recv_timeout(wait) {
            Ok(first) => {
                let mut group = vec![first];
                while group.len() < GROUP_LENGTH {
                    let Ok(next) = queue.try_recv() else { break };
                    group.push(next);
                }
                commit(connection, group, shared);
                commits += 1;
                if commits >= MAINTENANCE_COMMITS {
                    commits = 0;
                    more_to_delete = true;
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                // a failure here is met again, and reported, by the next write
                more_to_delete = retention::step(connection, retention).unwrap_or(false);
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
}

/// Tries the group as one; when that fails, each command alone, so that one cannot spoil the others.
fn commit(connection: &Connection, group: Vec<Command>, shared: &Shared) {
    let whole = transact(connection, group.iter().map(|command| command.writes.as_slice()));
    if whole.is_ok() || group.len() == 1 {
        announce(connection, shared);
        let outcome = whole.map_err(|error| StoreError::from_sql("write", &shared.file, error));
        for command in group {
            let _ = command.done.send(outcome.clone());
        }
        return;
    }
    for command in group {
        let outcome = transact(connection, std::iter::once(command.writes.as_slice()))
            .map_err(|error| StoreError::from_sql("write", &shared.file, error));
        announce(connection, shared);
        let _ = command.done.send(outcome);
    }
}

fn transact<'a>(connection: &Connection, groups: impl Iterator<Item = &'a [Write]>) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    for write in groups.flatten() {
        apply(&transaction, write)?;
    }
    transaction.commit()
}

fn apply(connection: &Connection, write: &Write) -> rusqlite::Result<()> {
    match write {
        // an INSERT that meets a conflict uses up a sequence number all the same, and a reader would miss an event
        Write::Event(row) => connection
            .prepare_cached(
                "INSERT INTO events (id, time_ns, kind, container, attack, json) SELECT ?1, ?2, ?3, ?4, ?5, ?6
                 WHERE NOT EXISTS (SELECT 1 FROM events WHERE id = ?1)",
            )?
            .execute((&row.id, row.time_ns, row.kind, &row.container, &row.attack, &row.json))
            .map(drop),
        Write::PutContainer(container) => connection
            .prepare_cached(
                "INSERT INTO containers (id, json) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET json = ?2",
            )?
            .execute((&container.id, &container.json))
            .map(drop),
        Write::RemoveContainer(id) => {
            connection.prepare_cached("DELETE FROM containers WHERE id = ?")?.execute([id]).map(drop)
        }
        Write::Cursor { sink, seq } => query::set_cursor(connection, sink, *seq),
    }
}

fn announce(connection: &Connection, shared: &Shared) {
    if let Ok(seq) = query::latest(connection) {
        let mut latest = shared.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if seq > latest.seq {
            latest.seq = seq;
            shared.grown.notify_all();
        }
    }
}

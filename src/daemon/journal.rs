//! The way of every record to the store, and what becomes of it while the disk takes none.
//!
//! - [`Journal::write`] is durable or fails. Who asks decides what a failure means: an enforcing policy refuses what it could not record.
//! - [`Journal::keep`] takes what must go on, or has happened, whatever becomes of its record. It waits in bounded memory, is written in
//!   order as soon as the disk takes it, and exactly once, for the store knows event ids. What finds no room is counted for its container.
//!   It waits in files in the run directory, too, which is memory as a rule (tmpfs): a worker that follows a killed one takes it in. That
//!   is bounded, for the directory is the host's: what is beyond the bound waits in this process alone.
//! - While something waits nothing goes before it, so a write fails at once then: no workload waits twice for a broken disk.
//! - `protection.degraded` goes ahead of what waits, `protection.degraded` with the number of lost events of each container follows it, then
//!   `protection.restored`. The daemon's log tells both at once.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use crate::daemon::lost::Lost;
use crate::model::diagnostic::chain;
use crate::model::event::Event;
use crate::model::event::Host;
use crate::model::event::Kind;
use crate::model::event::ProtectionChange;
use crate::model::event::Severity;
use crate::store::Backlog;
use crate::store::Row;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::Write;
use crate::store::spool;

/// Most of the memory that waiting events take.
pub const MEMORY_BYTES: usize = 32 * 1024 * 1024;
/// Most of the run directory's memory that waiting events take besides, in whole pages: others need room there.
const REFUGE_BYTES: usize = 16 * 1024 * 1024;
/// What the smallest file takes of a tmpfs.
const PAGE_BYTES: usize = 4096;
/// How long a record may take: less than a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a failing store is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// Groups written in one commit.
const GROUPS_A_COMMIT: usize = 64;
const STACK_BYTES: usize = 512 * 1024;

#[derive(Debug)]
struct State {
    backlog: Backlog,
    outage: Option<Outage>,
    stopping: bool,
    /// Whether a write of the backlog is under way.
    writing: bool,
}

/// A time during which the store takes nothing.
#[derive(Debug)]
struct Outage {
    since: Instant,
    reason: String,
    kept: u64,
    /// Files of events that wait in the refuge, too.
    in_refuge: Vec<PathBuf>,
    /// How much they take.
    refuge_bytes: usize,
    /// Whether the refuge takes no more.
    refuge_fails: bool,
    lost: BTreeMap<Option<String>, Lost>,
}

/// The way to the store. Share it by `Arc`.
#[derive(Debug)]
pub struct Journal {
    store: Arc<Store>,
    host: Host,
    /// Where what waits is for the next worker: another file system than the store's, as a rule.
    refuge: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

impl Journal {
    /// Starts the thread that writes what waits. At most `max_bytes` do.
    ///
    /// # Errors
    /// No thread could be made.
    pub fn start(store: Arc<Store>, host: Host, refuge: PathBuf, max_bytes: usize) -> std::io::Result<Arc<Self>> {
        let state = State { backlog: Backlog::new(max_bytes), outage: None, stopping: false, writing: false };
        let journal = Arc::new(Self { store, host, refuge, state: Mutex::new(state), changed: Condvar::new() });
        let of_thread = Arc::clone(&journal);
        let builder = std::thread::Builder::new().name("journal".to_owned()).stack_size(STACK_BYTES);
        builder.spawn(move || of_thread.run())?;
        Ok(journal)
    }

    /// Does all of `writes` or none, and returns when it is on disk.
    ///
    /// # Errors
    /// [`StoreError`]: the disk takes nothing, or earlier writes still wait for it.
    pub fn write(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        {
            let state = self.state();
            if !state.backlog.is_empty() {
                let reason = state.outage.as_ref().map(|outage| outage.reason.clone());
                let reason = reason.unwrap_or_else(|| "they are being written".to_owned());
                return Err(StoreError::Waiting { file: self.store.file().to_owned(), reason });
            }
        }
        self.store.write_within(writes, PATIENCE)
    }

    /// Records `event`; durable when this returns `Ok`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn record(&self, event: &Event) -> Result<(), StoreError> {
        self.write(vec![Write::Event(Row::new(event)?)])
    }

    /// Records `event`, in memory when the disk does not take it.
    pub fn record_or_keep(&self, event: &Event) {
        if let Err(error) = self.record(event) {
            self.keep(event, &[], &chain(&error));
        }
    }

    /// Records `event` together with `more`, in memory when the disk does not take it.
    pub fn write_or_keep(&self, event: &Event, more: &[Write]) {
        let outcome = Row::new(event).and_then(|row| {
            let writes = std::iter::once(Write::Event(row)).chain(more.iter().cloned());
            self.write(writes.collect())
        });
        if let Err(error) = outcome {
            self.keep(event, more, &chain(&error));
        }
    }

    /// Keeps `event` and `more`, which the store did not take for `reason`, until it does.
    pub fn keep(&self, event: &Event, more: &[Write], reason: &str) {
        let row = match Row::new(event) {
            Ok(row) => row,
            Err(error) => return tracing::error!("an event is lost: {}", chain(&error)),
        };
        let container = event.container.as_ref().map(|container| container.id.as_str().to_owned());
        let writes = std::iter::once(Write::Event(row.clone())).chain(more.iter().cloned()).collect();
        let mut state = self.state();
        if state.outage.is_none() {
            state.outage = Some(self.begin_outage(&mut state.backlog, reason));
        }
        let has_room = state.backlog.keep(writes, container.as_deref());
        if let Some(outage) = &mut state.outage {
            outage.note(event, container, has_room);
            if has_room {
                outage.save(&self.refuge, &row);
            }
        }
        self.changed.notify_all();
    }

    fn begin_outage(&self, backlog: &mut Backlog, reason: &str) -> Outage {
        tracing::error!(
            "events cannot be stored and wait in memory; enforcing policies refuse changes that cannot be recorded: {reason}"
        );
        let mut event = self.node_event(Kind::ProtectionDegraded, Severity::High);
        event.protection = Some(ProtectionChange {
            what: "events cannot be stored".to_owned(),
            reason: format!("{reason}; they wait in memory, and enforcing policies refuse what cannot be recorded"),
            remedy: Some("see that the event store's file system has room and can be written to".to_owned()),
        });
        let mut outage = Outage {
            since: Instant::now(),
            reason: reason.to_owned(),
            kept: 0,
            in_refuge: Vec::new(),
            refuge_bytes: 0,
            refuge_fails: false,
            lost: BTreeMap::new(),
        };
        match Row::new(&event) {
            Ok(row) => {
                backlog.keep_always(row.clone());
                outage.save(&self.refuge, &row);
            }
            Err(error) => tracing::error!("{}", chain(&error)),
        }
        outage
    }

    /// Writes what waits until the daemon stops.
    fn run(&self) {
        loop {
            let (count, writes) = {
                let mut state = self.state();
                while state.backlog.is_empty() && !state.stopping {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                if state.backlog.is_empty() {
                    return;
                }
                state.writing = true;
                state.backlog.oldest(GROUPS_A_COMMIT)
            };
            // waits for the outcome however long it takes: given again and again, the same writes would fill the store's queue
            let outcome = self.store.write(writes);
            let mut state = self.state();
            state.writing = false;
            match outcome {
                Ok(()) => {
                    state.backlog.forget(count);
                    self.conclude_outage(&mut state);
                    self.changed.notify_all();
                }
                Err(error) => {
                    if let Some(outage) = &mut state.outage {
                        outage.reason = chain(&error);
                    }
                    if state.stopping {
                        return self.changed.notify_all();
                    }
                    let _ = self.changed.wait_timeout_while(state, RETRY, |state| !state.stopping);
                }
            }
        }
    }

    /// When everything that waited is written: what was lost meanwhile, and that it is over.
    fn conclude_outage(&self, state: &mut State) {
        if !state.backlog.is_empty() {
            return;
        }
        let Some(outage) = state.outage.take() else { return };
        // should one stay, the store knows its event when the next worker takes it in
        outage.in_refuge.iter().for_each(|file| drop(std::fs::remove_file(file)));
        let seconds = outage.since.elapsed().as_secs();
        let lost: u64 = outage.lost.values().map(|lost| lost.count).sum();
        tracing::warn!(kept = outage.kept, lost, seconds, "events are stored again, those that waited in memory too");
        for lost in outage.lost.into_values() {
            let event = lost.event(self.node_event(Kind::ProtectionDegraded, Severity::High), &outage.reason);
            put(&mut state.backlog, &event);
        }
        let mut event = self.node_event(Kind::ProtectionRestored, Severity::Info);
        event.protection = Some(ProtectionChange {
            what: "events are stored again".to_owned(),
            reason: format!("{} events that waited in memory for {seconds} s are stored, {lost} are lost", outage.kept),
            remedy: None,
        });
        put(&mut state.backlog, &event);
    }

    /// Writes what still waits, to the refuge where the store takes nothing. Takes no longer than `limit` and some.
    pub fn stop(&self, limit: Duration) {
        let mut state = self.state();
        state.stopping = true;
        self.changed.notify_all();
        let waiting = |state: &mut State| !state.backlog.is_empty() && state.writing;
        // the thread tries once more, if it does not hang in a write already
        state.writing |= !state.backlog.is_empty();
        state = self.changed.wait_timeout_while(state, limit, waiting).unwrap_or_else(PoisonError::into_inner).0;
        if state.backlog.is_empty() {
            return;
        }
        let (_, writes) = state.backlog.oldest(usize::MAX);
        let mut saved: u64 = 0;
        for write in &writes {
            let Write::Event(row) = write else { continue };
            match spool::put_row(&self.refuge, row) {
                Ok(_) => saved = saved.saturating_add(1),
                Err(error) => {
                    let lost = (state.backlog.events() as u64).saturating_sub(saved);
                    tracing::error!("{lost} events that waited in memory are lost: {}", chain(&error));
                    return;
                }
            }
        }
        tracing::warn!("{saved} events that the store did not take wait in {}", self.refuge.display());
    }

    /// Whether something waits for the disk.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.state().backlog.is_empty()
    }

    /// The store, for reading and for what is no record.
    #[must_use]
    pub const fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// A new event of this node, with nothing but what every event has.
    #[must_use]
    pub fn node_event(&self, kind: Kind, severity: Severity) -> Event {
        let now = crate::daemon::service::now();
        Event::new(uuid::Uuid::now_v7(), now, kind, severity, self.host.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outage {
    /// Saves an event for the worker that follows should this one be killed.
    fn save(&mut self, refuge: &Path, row: &Row) {
        if self.refuge_fails {
            return;
        }
        self.refuge_bytes = self.refuge_bytes.saturating_add(row.bytes().next_multiple_of(PAGE_BYTES));
        if self.refuge_bytes > REFUGE_BYTES {
            self.refuge_fails = true;
            return tracing::error!("events that wait from now on would be lost with this worker: too many do");
        }
        match spool::put_row(refuge, row) {
            Ok(file) => self.in_refuge.push(file),
            Err(error) => {
                self.refuge_fails = true;
                tracing::error!("events that wait would be lost with this worker: {}", chain(&error));
            }
        }
    }

    fn note(&mut self, event: &Event, container: Option<String>, has_room: bool) {
        if has_room {
            self.kept = self.kept.saturating_add(1);
            return;
        }
        if self.lost.is_empty() {
            tracing::error!("events are being lost, the memory for those that cannot be stored is full");
        }
        self.lost.entry(container).or_insert_with(|| Lost::first(event)).count_one();
    }
}

fn put(backlog: &mut Backlog, event: &Event) {
    match Row::new(event) {
        Ok(row) => backlog.keep_always(row),
        Err(error) => tracing::error!("{}", chain(&error)),
    }
}

#[cfg(test)]
mod tests;

//! A thread for each sink: reads the store from the sink's own durable position and offers one event after the other.
//! What a sink refuses is offered again after a pause; nobody waits for a sink, retention neither: what it deletes unsent is told by an
//! event of its own (`protection.degraded`, with the number in `suppressed`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::config::SinkConfig;
use crate::config::SyslogAddress;
use crate::daemon::journal::Journal;
use crate::model::diagnostic::chain;
use crate::model::event::Kind;
use crate::model::event::ProtectionChange;
use crate::model::event::Severity;
use crate::sinks::Sink;
use crate::sinks::SinkError;
use crate::sinks::json_lines::JsonLines;
use crate::sinks::syslog;
use crate::sinks::syslog::Syslog;
use crate::store::Filter;
use crate::store::Page;
use crate::store::StoreError;
use crate::store::Write;

/// Events read at a time.
const BATCH: usize = 200;
/// First pause after a failure, doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long a thread with nothing to do sleeps before it looks again.
const IDLE: Duration = Duration::from_secs(3600);
const STACK_BYTES: usize = 512 * 1024;
/// Most events that are sent again after a connection broke.
const MOST_REPEATED: usize = 16 * 1024;

/// The sink of one `[[sinks]]` table.
///
/// # Errors
/// A facility that does not exist.
pub fn sink_of(config: &SinkConfig) -> Result<Box<dyn Sink>, syslog::FacilityError> {
    match config {
        SinkConfig::JsonLines { path } => Ok(Box::new(JsonLines::new(path))),
        SinkConfig::Syslog { address, facility } => {
            let address = match address {
                SyslogAddress::Unix(path) => syslog::Address::Unix(path.clone()),
                SyslogAddress::Udp(receiver) => syslog::Address::Udp(receiver.clone()),
                SyslogAddress::Tcp(receiver) => syslog::Address::Tcp(receiver.clone()),
            };
            Ok(Box::new(Syslog::new(address, facility)?))
        }
    }
}

/// Why shipping paused.
#[derive(Debug, thiserror::Error)]
enum ShipError {
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Starts the thread of `sink`. It ends when `stopping` is set and the store's waiters are woken; nobody waits for it.
///
/// # Errors
/// No thread could be made.
pub fn start(journal: Arc<Journal>, sink: Box<dyn Sink>, stopping: Arc<AtomicBool>) -> std::io::Result<()> {
    let shipper = Shipper { journal, sink, stopping, position: None, sent: VecDeque::new(), keeps_position: true };
    std::thread::Builder::new().name("sink".to_owned()).stack_size(STACK_BYTES).spawn(move || shipper.run()).map(drop)
}

struct Shipper {
    journal: Arc<Journal>,
    sink: Box<dyn Sink>,
    stopping: Arc<AtomicBool>,
    /// Up to where everything is out. The store has the same, or less while its disk takes nothing.
    position: Option<u64>,
    /// Sequence numbers of what was sent last: what a broken connection may have lost.
    sent: VecDeque<u64>,
    /// Whether the position could be stored the last time.
    keeps_position: bool,
}

impl Shipper {
    fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut failing = false;
        while !self.stopping.load(Ordering::Acquire) {
            match self.ship() {
                Ok(position) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!(sink = self.sink.name(), "events are being shipped again");
                    }
                    pause = FIRST_PAUSE;
                    let _ = self.journal.store().wait_after(position, IDLE);
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(sink = self.sink.name(), "events wait in the store: {}", chain(&error));
                    }
                    self.rest(pause);
                    pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Ships until nothing is left; the position reached.
    fn ship(&mut self) -> Result<u64, ShipError> {
        let mut position = self.begin()?;
        loop {
            let filter = Filter { after: position, limit: BATCH, ..Filter::default() };
            let page = self.journal.store().events(&filter)?;
            let Some(first) = first_of(&page) else { return Ok(position) };
            if first > position.saturating_add(1) {
                self.tell_gap(position, first);
                position = first.saturating_sub(1);
            }
            let (reached, outcome) = self.send(&page, end_of_run(&page, first));
            position = reached.unwrap_or(position);
            if outcome.is_err() {
                position = self.step_back(position);
            }
            if self.position != Some(position) {
                self.move_to(position);
            }
            outcome?;
            if self.stopping.load(Ordering::Acquire) {
                return Ok(position);
            }
        }
    }

    /// Where to go on. A sink never seen before begins with the oldest event that is still there.
    fn begin(&mut self) -> Result<u64, ShipError> {
        if let Some(position) = self.position {
            return Ok(position);
        }
        let store = self.journal.store();
        let position = match (store.cursor(self.sink.name())?, store.oldest()?) {
            (Some(position), _) => position,
            (None, Some(oldest)) => oldest.saturating_sub(1),
            (None, None) => store.latest(),
        };
        // stored even before anything is sent: what retention deletes from now on was this sink's to have
        self.move_to(position);
        Ok(position)
    }

    /// Moves the position. Where the store does not take it, as much is sent again after a restart.
    fn move_to(&mut self, position: u64) {
        self.position = Some(position);
        let moved = Write::Cursor { sink: self.sink.name().to_owned(), seq: position };
        let outcome = self.journal.store().write(vec![moved]);
        if let Err(error) = &outcome
            && self.keeps_position
        {
            tracing::warn!(sink = self.sink.name(), "its position is not stored: {}", chain(error));
        }
        self.keeps_position = outcome.is_ok();
    }

    /// Sends the events of `page` up to `last`. How far it is safely out, and what stopped it.
    fn send(&mut self, page: &Page, last: u64) -> (Option<u64>, Result<(), ShipError>) {
        let unreadable = page.unreadable.iter().filter(|seq| **seq <= last).count();
        if unreadable > 0 {
            tracing::error!(sink = self.sink.name(), "{unreadable} stored events are not readable by this version");
        }
        let mut sent = None;
        for stored in page.events.iter().take_while(|stored| stored.seq <= last) {
            if let Err(error) = self.sink.send(&stored.event) {
                let flushed = self.sink.flush().is_ok();
                return (sent.filter(|_| flushed), Err(error.into()));
            }
            sent = Some(stored.seq);
            self.sent.push_back(stored.seq);
            if self.sent.len() > MOST_REPEATED {
                self.sent.pop_front();
            }
        }
        match self.sink.flush() {
            Ok(()) => (Some(last), Ok(())),
            Err(error) => (None, Err(error.into())),
        }
    }

    /// The position before the first event that a broken connection may have lost.
    fn step_back(&mut self, position: u64) -> u64 {
        let kept = self.sent.len().saturating_sub(self.sink.take_unconfirmed());
        let again = self.sent.split_off(kept);
        again.front().map_or(position, |first| position.min(first.saturating_sub(1)))
    }

    /// Events between `position` and `first` were deleted unsent: an event says so, stored together with the position behind them.
    fn tell_gap(&mut self, position: u64, first: u64) {
        let gone = first.saturating_sub(position).saturating_sub(1);
        let name = self.sink.name().to_owned();
        tracing::error!(sink = name, "retention deleted {gone} events before this sink took them");
        let mut event = self.journal.node_event(Kind::ProtectionDegraded, Severity::High);
        event.protection = Some(ProtectionChange {
            what: "events were deleted before a sink took them".to_owned(),
            reason: format!("sink {name} did not take {gone} events in the time and space that [store] gives them"),
            remedy: Some("see why the sink took none, and raise [store] retention_days or max_mib".to_owned()),
        });
        event.suppressed = Some(gone);
        let seq = first.saturating_sub(1);
        self.position = Some(seq);
        self.journal.write_or_keep(&event, &[Write::Cursor { sink: name, seq }]);
    }

    fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while Instant::now() < until && !self.stopping.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn rows(page: &Page) -> std::collections::BTreeSet<u64> {
    page.events.iter().map(|stored| stored.seq).chain(page.unreadable.iter().copied()).collect()
}

fn first_of(page: &Page) -> Option<u64> {
    rows(page).first().copied()
}

/// The last row of those that follow `first` without a gap.
fn end_of_run(page: &Page, first: u64) -> u64 {
    let run = rows(page).into_iter().zip(first..).take_while(|(seq, expected)| seq == expected);
    run.last().map_or(first, |(seq, _)| seq)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::Event;
    use crate::model::event::EventTime;
    use crate::model::event::Host;
    use crate::store::Retention;
    use crate::store::Store;
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Memory {
        taken: Arc<Mutex<Vec<uuid::Uuid>>>,
        refuse: Arc<AtomicBool>,
        hang: Arc<AtomicBool>,
    }

    impl Sink for Memory {
        fn name(&self) -> &str {
            "memory"
        }

        fn send(&mut self, event: &Event) -> Result<(), SinkError> {
            while self.hang.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(5));
            }
            if self.refuse.load(Ordering::Acquire) {
                return Err(SinkError::Render { id: event.id.to_string(), detail: "refused".to_owned() });
            }
            self.taken.lock().unwrap().push(event.id);
            Ok(())
        }

        fn flush(&mut self) -> Result<(), SinkError> {
            Ok(())
        }
    }

    fn journal_in(dir: &std::path::Path, retention: Retention) -> (Arc<Store>, Arc<Journal>) {
        let store = Arc::new(Store::open(&dir.join("events.db"), retention).unwrap());
        let journal = Journal::start(Arc::clone(&store), Host::default(), dir.join("refuge"), 1024 * 1024).unwrap();
        (store, journal)
    }

    fn event() -> Event {
        let time = EventTime(jiff::Timestamp::now());
        Event::new(uuid::Uuid::now_v7(), time, Kind::AccountFinding, Severity::High, Host::default())
    }

    fn until(what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < deadline, "{what} did not happen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn in_order_at_least_once_over_refusals_and_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let (store, journal) = journal_in(dir.path(), Retention::new(30, 1024));
        let memory = Memory::default();
        memory.refuse.store(true, Ordering::Release);
        let stopping = Arc::new(AtomicBool::new(false));
        start(Arc::clone(&journal), Box::new(memory.clone()), Arc::clone(&stopping)).unwrap();
        let events = [event(), event(), event()];
        store.append(&events[0]).unwrap();
        store.append(&events[1]).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        memory.refuse.store(false, Ordering::Release);
        until("the cursor moves", || store.cursor("memory").unwrap() == Some(2));
        stopping.store(true, Ordering::Release);
        store.wake_all();
        store.append(&events[2]).unwrap();
        let stopping = Arc::new(AtomicBool::new(false));
        start(Arc::clone(&journal), Box::new(memory.clone()), stopping).unwrap();
        until("the third event is shipped", || store.cursor("memory").unwrap() == Some(3));
        assert_eq!(*memory.taken.lock().unwrap(), events.each_ref().map(|event| event.id));
    }

    #[test]
    fn a_sink_that_hangs_holds_up_neither_the_store_nor_another_sink() {
        let dir = tempfile::tempdir().unwrap();
        let (store, journal) = journal_in(dir.path(), Retention::new(30, 1024));
        let memory = Memory::default();
        memory.hang.store(true, Ordering::Release);
        let stopping = Arc::new(AtomicBool::new(false));
        start(Arc::clone(&journal), Box::new(memory.clone()), Arc::clone(&stopping)).unwrap();
        let path = dir.path().join("events.json");
        let json = sink_of(&SinkConfig::JsonLines { path: path.clone() }).unwrap();
        start(Arc::clone(&journal), json, stopping).unwrap();
        for _ in 0..20 {
            store.append(&event()).unwrap();
        }
        until("the file has all", || std::fs::read_to_string(&path).is_ok_and(|text| text.lines().count() == 20));
        assert!(memory.taken.lock().unwrap().is_empty());
        memory.hang.store(false, Ordering::Release);
        until("the other sink catches up", || memory.taken.lock().unwrap().len() == 20);
    }

    /// A receiver that hangs holds up no retention: old events go, and an event says how many.
    #[test]
    fn what_retention_deletes_before_a_sink_took_it_is_told_once_and_exactly() {
        let dir = tempfile::tempdir().unwrap();
        let (store, journal) = journal_in(dir.path(), Retention::new(30, 1024));
        let memory = Memory::default();
        memory.refuse.store(true, Ordering::Release);
        let stopping = Arc::new(AtomicBool::new(false));
        start(Arc::clone(&journal), Box::new(memory.clone()), Arc::clone(&stopping)).unwrap();
        until("the sink has a position", || store.cursor("memory").unwrap() == Some(0));
        let mut old = event();
        for _ in 0..7 {
            old = event();
            old.time = EventTime(jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24 * 40));
            store.append(&old).unwrap();
        }
        store.append(&old).unwrap();
        // two that stay, with old ones between them
        let kept = [event(), event()];
        store.append(&kept[0]).unwrap();
        for _ in 0..2 {
            let mut old = event();
            old.time = EventTime(jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24 * 40));
            store.append(&old).unwrap();
        }
        store.append(&kept[1]).unwrap();
        until("retention deletes", || {
            // maintenance comes by itself once a minute, or after many commits
            for _ in 0..100 {
                store.write(vec![Write::RemoveContainer("none".to_owned())]).unwrap();
            }
            store.events(&Filter::default()).unwrap().events.len() == 2
        });
        memory.refuse.store(false, Ordering::Release);
        until("the sink has the telling events", || memory.taken.lock().unwrap().len() >= 4);
        let all = store.events(&Filter::default()).unwrap().events;
        let told: Vec<u64> = all.iter().filter_map(|stored| stored.event.suppressed).collect();
        assert_eq!(told, [7, 2]);
        let ids: Vec<uuid::Uuid> = all.iter().map(|stored| stored.event.id).collect();
        assert_eq!(*memory.taken.lock().unwrap(), ids);
        assert_eq!(&ids[..2], kept.each_ref().map(|event| event.id));
    }
}

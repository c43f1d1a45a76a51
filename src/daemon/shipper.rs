//! A thread for each sink: reads the store from the sink's own durable position and offers one event after the other.
//! What a sink refuses is offered again after a pause; nobody waits for a sink.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::config::SinkConfig;
use crate::config::SyslogAddress;
use crate::model::diagnostic::chain;
use crate::sinks::Sink;
use crate::sinks::SinkError;
use crate::sinks::json_lines::JsonLines;
use crate::sinks::syslog;
use crate::sinks::syslog::Syslog;
use crate::store::Filter;
use crate::store::Page;
use crate::store::Store;
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

/// Starts the thread of `sink`. It ends when `stopping` is set and the store's waiters are woken.
///
/// # Errors
/// No thread could be made.
pub fn start(store: Arc<Store>, sink: Box<dyn Sink>, stopping: Arc<AtomicBool>) -> std::io::Result<()> {
    let shipper = Shipper { store, sink, stopping };
    std::thread::Builder::new().name("sink".to_owned()).stack_size(STACK_BYTES).spawn(move || shipper.run()).map(drop)
}

struct Shipper {
    store: Arc<Store>,
    sink: Box<dyn Sink>,
    stopping: Arc<AtomicBool>,
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
                    let _ = self.store.wait_after(position, IDLE);
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
        let mut position = self.store.cursor(self.sink.name())?;
        loop {
            let page = self.store.events(&Filter { after: position, limit: BATCH, ..Filter::default() })?;
            let Some(last) = page.last_seq else { return Ok(position) };
            self.report_gaps(position, &page);
            let reached = self.send(&page, last);
            if let Some(seq) = reached.0.filter(|seq| *seq > position) {
                self.store.write(vec![Write::Cursor { sink: self.sink.name().to_owned(), seq }])?;
                position = seq;
            }
            reached.1?;
            if self.stopping.load(Ordering::Acquire) {
                return Ok(position);
            }
        }
    }

    /// Sends a page. How far it is safely out, and what stopped it.
    fn send(&mut self, page: &Page, last: u64) -> (Option<u64>, Result<(), ShipError>) {
        let mut sent = None;
        for stored in &page.events {
            if let Err(error) = self.sink.send(&stored.event) {
                let flushed = self.sink.flush().is_ok();
                return (sent.filter(|_| flushed), Err(error.into()));
            }
            sent = Some(stored.seq);
        }
        match self.sink.flush() {
            Ok(()) => (Some(last), Ok(())),
            Err(error) => (None, Err(error.into())),
        }
    }

    fn report_gaps(&self, position: u64, page: &Page) {
        if page.unreadable > 0 {
            tracing::error!(
                sink = self.sink.name(),
                "{} stored events are not readable by this version",
                page.unreadable
            );
        }
        let first = page.events.first().map_or(position, |stored| stored.seq);
        let gone = first.saturating_sub(position).saturating_sub(1).saturating_sub(page.unreadable);
        // a sink that is new begins with what is still there
        if position > 0 && gone > 0 {
            tracing::error!(
                sink = self.sink.name(),
                "retention deleted {gone} events before this sink took them; raise [store] retention_days or max_mib"
            );
        }
    }

    fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while Instant::now() < until && !self.stopping.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::Event;
    use crate::model::event::EventTime;
    use crate::model::event::Host;
    use crate::model::event::Kind;
    use crate::model::event::Severity;
    use crate::store::Retention;
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
        let store = Arc::new(Store::open(&dir.path().join("events.db"), Retention::new(30, 1024)).unwrap());
        let memory = Memory::default();
        memory.refuse.store(true, Ordering::Release);
        let stopping = Arc::new(AtomicBool::new(false));
        start(Arc::clone(&store), Box::new(memory.clone()), Arc::clone(&stopping)).unwrap();
        let events = [event(), event(), event()];
        store.append(&events[0]).unwrap();
        store.append(&events[1]).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        memory.refuse.store(false, Ordering::Release);
        until("the cursor moves", || store.cursor("memory").unwrap() == 2);
        stopping.store(true, Ordering::Release);
        store.wake_all();
        store.append(&events[2]).unwrap();
        let stopping = Arc::new(AtomicBool::new(false));
        start(Arc::clone(&store), Box::new(memory.clone()), stopping).unwrap();
        until("the third event is shipped", || store.cursor("memory").unwrap() == 3);
        assert_eq!(*memory.taken.lock().unwrap(), events.each_ref().map(|event| event.id));
    }

    #[test]
    fn a_sink_that_hangs_holds_up_neither_the_store_nor_another_sink() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("events.db"), Retention::new(30, 1024)).unwrap());
        let memory = Memory::default();
        memory.hang.store(true, Ordering::Release);
        let stopping = Arc::new(AtomicBool::new(false));
        start(Arc::clone(&store), Box::new(memory.clone()), Arc::clone(&stopping)).unwrap();
        let path = dir.path().join("events.json");
        let json = sink_of(&SinkConfig::JsonLines { path: path.clone() }).unwrap();
        start(Arc::clone(&store), json, stopping).unwrap();
        for _ in 0..20 {
            store.append(&event()).unwrap();
        }
        until("the file has all", || std::fs::read_to_string(&path).is_ok_and(|text| text.lines().count() == 20));
        assert!(memory.taken.lock().unwrap().is_empty());
        memory.hang.store(false, Ordering::Release);
        until("the other sink catches up", || memory.taken.lock().unwrap().len() == 20);
    }
}

//! A thread for each container that tells its case the time. It sleeps while nothing is in progress.

use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use crate::daemon::baselines::Place;
use crate::daemon::journal::Journal;
use crate::model::account::kept::Told;
use crate::model::diagnostic::chain;
use crate::model::event::Event;
use crate::supervise::RecordError;
use crate::supervise::Recorder;
use crate::supervise::case::Case;
use crate::supervise::moment::Moment;

const STACK_BYTES: usize = 512 * 1024;
/// Shortest sleep, should a case ask again and again for now.
const SHORTEST_SLEEP: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
struct Tick {
    poked: bool,
    ended: bool,
}

/// A case in progress, with its thread.
pub struct OpenCase {
    /// The case.
    pub case: Arc<Case>,
    journal: Arc<Journal>,
    tick: Mutex<Tick>,
    changed: Condvar,
    watching: Mutex<Watching>,
    /// Where its databases are kept for the next worker; `None`: nowhere.
    place: Option<Place>,
    /// What is kept there. Locked from the reading of the databases until what changed is recorded: only then may it be kept as told.
    kept: Mutex<Option<Told>>,
}

/// Whether somebody sets the case's watches anew, and whether that is to be done once more.
#[derive(Debug, Default)]
struct Watching {
    busy: bool,
    again: bool,
}

impl std::fmt::Debug for OpenCase {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("OpenCase").field("counts", &self.case.counts()).finish_non_exhaustive()
    }
}

impl OpenCase {
    /// Starts the thread of `case`, whose databases are kept at `place` for the next worker.
    ///
    /// # Errors
    /// No thread could be made.
    pub fn start(
        case: Case,
        journal: Arc<Journal>,
        container: &str,
        place: Option<Place>,
    ) -> std::io::Result<Arc<Self>> {
        let case = Arc::new(case);
        let open = Arc::new(Self {
            case,
            journal,
            tick: Mutex::default(),
            changed: Condvar::new(),
            watching: Mutex::default(),
            place,
            kept: Mutex::default(),
        });
        let of_thread = Arc::clone(&open);
        // the kernel keeps 15 bytes of a thread's name
        let name: String = "case ".chars().chain(container.chars().take(10)).collect();
        std::thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(move || of_thread.run())?;
        Ok(open)
    }

    /// Something happened: the case may be due earlier than it was.
    pub fn poke(&self) {
        self.tick().poked = true;
        self.changed.notify_all();
    }

    /// The caller wants to set the case's watches anew. False when somebody is at it, who will then do it once more.
    pub fn begin_watching(&self) -> bool {
        let mut watching = self.watching.lock().unwrap_or_else(PoisonError::into_inner);
        watching.again = watching.busy;
        !std::mem::replace(&mut watching.busy, true)
    }

    /// The caller has set them. False when it is to do so once more.
    pub fn has_watched(&self) -> bool {
        let mut watching = self.watching.lock().unwrap_or_else(PoisonError::into_inner);
        watching.busy = std::mem::take(&mut watching.again);
        !watching.busy
    }

    /// Whether it was ended.
    pub fn has_ended(&self) -> bool {
        self.tick().ended
    }

    /// Ends the thread and concludes the case. Everything that it still had to tell is recorded, or kept, when this returns.
    pub fn end(&self) {
        self.tick().ended = true;
        self.changed.notify_all();
        let _until_recorded = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        self.record_all(self.case.finish(Moment::now()));
    }

    /// Records everything that it has to tell, and goes on: whoever follows begins with what is told here.
    pub fn tell(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        self.record_all(self.case.hand_over(Moment::now()));
        self.keep_untold();
        self.keep(&mut kept);
    }

    fn run(&self) {
        while self.sleep() {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            self.record_all(self.case.due(Moment::now()));
            self.keep_untold();
            self.keep(&mut kept);
        }
    }

    /// Keeps the databases as they were last told, unless they are about to be told: the case's thread keeps them then.
    pub fn keep_databases(&self) {
        if let Ok(mut kept) = self.kept.try_lock() {
            self.keep(&mut kept);
        }
    }

    /// A failure is logged: what a worker that is killed leaves untold is lost then.
    fn keep(&self, kept: &mut Option<Told>) {
        let (Some(place), Some(told)) = (&self.place, self.case.told()) else { return };
        if kept.as_ref() == Some(&told) {
            return;
        }
        match place.write(&told) {
            Ok(()) => *kept = Some(told),
            Err(error) => tracing::warn!("the databases are not kept for the next worker: {error}"),
        }
    }

    /// Keeps for the next worker how much is not told yet.
    fn keep_untold(&self) {
        let kept = self.place.as_ref().map_or(Ok(()), |place| place.write_untold(|| self.case.untold()));
        if let Err(error) = kept {
            tracing::warn!("how much is not told yet is not kept for the next worker: {error}");
        }
    }

    /// Until the case is due. False when the case was ended.
    fn sleep(&self) -> bool {
        loop {
            let wait = self.case.wait(Moment::now());
            let mut tick = self.tick();
            if tick.ended {
                return false;
            }
            if std::mem::take(&mut tick.poked) {
                continue;
            }
            let Some(wait) = wait else {
                drop(self.changed.wait(tick).unwrap_or_else(PoisonError::into_inner));
                continue;
            };
            let limit = wait.max(SHORTEST_SLEEP);
            let (tick, timeout) = self.changed.wait_timeout(tick, limit).unwrap_or_else(PoisonError::into_inner);
            if tick.ended {
                return false;
            }
            if timeout.timed_out() {
                return true;
            }
        }
    }

    fn record_all(&self, events: Vec<Event>) {
        for event in events {
            self.journal.record_or_keep(&event);
        }
    }

    fn tick(&self) -> std::sync::MutexGuard<'_, Tick> {
        self.tick.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorder for OpenCase {
    fn record(&self, event: &Event) -> Result<(), RecordError> {
        let outcome = self.journal.record(event).map_err(|error| RecordError { reason: chain(&error) });
        self.keep_untold();
        self.poke();
        outcome
    }

    fn note_counted(&self) {
        self.keep_untold();
    }

    fn keep(&self, event: Event, reason: RecordError) {
        self.journal.keep(&event, &[], &reason.reason);
    }
}

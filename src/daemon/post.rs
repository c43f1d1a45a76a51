//! A listener's post: who serves it now, since when its call in flight waits, and the slot that the call was received into. The
//! serving thread and the watch (`deadline_watch`) share it; whoever does not have the turn receives nothing.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::time::Instant;

use crate::daemon::case_thread::OpenCase;
use crate::daemon::registry::Guarded;
use crate::daemon::service::Service;
use crate::kernel::seccomp_notify::Listener;
use crate::kernel::seccomp_notify::ListenerError;
use crate::kernel::seccomp_notify::Notification;
use crate::kernel::shared_area::Slot;
use crate::supervise::broker::hand::Hand;
use crate::supervise::supervisor::Origin;

/// What the thread that serves is at.
#[derive(Debug)]
pub struct Busy {
    /// Since when.
    pub since: Instant,
    /// The call in flight; `None` while the container's databases are looked at for the first time.
    pub notification: Option<Notification>,
}

/// Who serves.
#[derive(Debug)]
pub struct Seat {
    /// Where calls are received.
    pub slot: Slot,
    /// Number of the thread whose turn it is.
    pub turn: u64,
    /// What it is at; `None` while it waits for a call.
    pub busy: Option<Busy>,
    /// Threads that were relieved and have not come back.
    pub stuck: usize,
    /// Whether the watch answers, because nobody else is left to.
    pub by_policy: bool,
    /// By which the broker of the thread whose turn it is can be stopped.
    pub hand: Option<Arc<Hand>>,
    /// Answers by policy that were not told yet, and when the last ones were.
    pub untold: u64,
    /// When something was told last; `None` when nothing is to be taken back.
    pub told: Option<Instant>,
}

/// What an exec session sees.
#[derive(Debug, Default)]
pub struct Sight {
    /// Whether that is known.
    pub looked: bool,
    /// Its case, where it sees other databases than the container.
    pub view: Option<Arc<OpenCase>>,
}

/// One listener, from its delivery until nobody has its filter any more.
#[derive(Debug)]
pub struct Post {
    /// The worker's shared state.
    pub service: Arc<Service>,
    /// Whose.
    pub guarded: Arc<Guarded>,
    /// The listener.
    pub listener: Arc<Listener>,
    /// Where it came from.
    pub origin: Origin,
    /// Whether a worker before this one served it.
    pub adopted: bool,
    /// The container's case, once it is open.
    pub open: OnceLock<Arc<OpenCase>>,
    /// What an exec session sees.
    pub sight: Mutex<Sight>,
    seat: Mutex<Seat>,
}

/// What came of receiving.
#[derive(Debug)]
pub enum Received {
    /// A call.
    Call(Notification),
    /// Its caller went away: wait again.
    Nothing,
    /// Somebody else serves by now.
    Relieved,
}

/// What a [`Post`] is made of.
#[derive(Debug)]
pub struct Parts {
    /// The worker's shared state.
    pub service: Arc<Service>,
    /// Whose.
    pub guarded: Arc<Guarded>,
    /// The listener.
    pub listener: Listener,
    /// Where it came from.
    pub origin: Origin,
    /// Whether a worker before this one served it.
    pub adopted: bool,
}

impl Post {
    /// A post that nobody serves yet: what an earlier worker left in `slot` waits from now on.
    #[must_use]
    pub fn new(parts: Parts, slot: Slot) -> Arc<Self> {
        let busy = Busy { since: Instant::now(), notification: slot.in_flight() };
        let Parts { service, guarded, listener, origin, adopted } = parts;
        let seat =
            Seat { slot, turn: 0, busy: Some(busy), stuck: 0, by_policy: false, hand: None, untold: 0, told: None };
        // the container's own process sees what the container sees
        let sight = Sight { looked: origin.session.is_none(), view: None };
        let listener = Arc::new(listener);
        let (sight, seat) = (Mutex::new(sight), Mutex::new(seat));
        Arc::new(Self { service, guarded, listener, origin, adopted, open: OnceLock::new(), sight, seat })
    }

    /// The seat.
    pub fn seat(&self) -> MutexGuard<'_, Seat> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The seat, unless somebody has it at this moment.
    pub fn try_seat(&self) -> Option<MutexGuard<'_, Seat>> {
        match self.seat.try_lock() {
            Ok(seat) => Some(seat),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }

    /// The sight.
    pub fn sight(&self) -> MutexGuard<'_, Sight> {
        self.sight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread of `turn` begins, with `hand`: what was in flight before is its to answer. False when it was relieved.
    pub fn begins(&self, turn: u64, hand: Option<Arc<Hand>>) -> (bool, Option<Notification>) {
        let mut seat = self.seat();
        if seat.turn != turn {
            return (false, None);
        }
        seat.hand = hand;
        let left = seat.busy.take().and_then(|busy| busy.notification);
        seat.busy = left.map(|notification| Busy { since: Instant::now(), notification: Some(notification) });
        (true, left)
    }

    /// Receives a call for the thread of `turn`, after poll(2) said that there is one.
    ///
    /// # Errors
    /// [`ListenerError::Receive`].
    pub fn receive(&self, turn: u64) -> Result<Received, ListenerError> {
        let mut seat = self.seat();
        if seat.turn != turn {
            return Ok(Received::Relieved);
        }
        let Some(notification) = self.listener.receive(&mut seat.slot)? else { return Ok(Received::Nothing) };
        seat.busy = Some(Busy { since: Instant::now(), notification: Some(notification) });
        Ok(Received::Call(notification))
    }

    /// The thread of `turn` has answered. False when it was relieved meanwhile.
    pub fn is_done(&self, turn: u64) -> bool {
        let mut seat = self.seat();
        let has_turn = seat.turn == turn;
        if has_turn {
            seat.slot.clear();
            seat.busy = None;
        }
        has_turn
    }

    /// Nobody has the turn from now on. Gives the number of its slot.
    pub fn close(&self) -> usize {
        let mut seat = self.seat();
        seat.turn = u64::MAX;
        seat.by_policy = false;
        seat.busy = None;
        seat.slot.index()
    }

    /// Whether it was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.seat().turn == u64::MAX
    }

    /// Gives the thread of `turn` another broker's hand.
    pub fn set_hand(&self, turn: u64, hand: Option<Arc<Hand>>) {
        let mut seat = self.seat();
        if seat.turn == turn {
            seat.hand = hand;
        } else if let Some(hand) = hand {
            hand.withdraw();
        }
    }
}

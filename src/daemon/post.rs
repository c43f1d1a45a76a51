//! A listener's post: who serves it now, since when its call in flight waits, and the slot that the call was received into. The
//! serving thread and the watch (`deadline_watch`) share it; whoever does not have the turn receives nothing.
//!
//! A call stays in its slot, where the next worker would find it, until it is answered, by whomever: then the slot and what stands
//! beside it are cleared under the same lock, and whoever was at work on it can neither begin anything for it nor note anything there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::time::Instant;

use crate::daemon::case_thread::OpenCase;
use crate::daemon::delivered::Delivered;
use crate::daemon::delivered::Label;
use crate::daemon::delivered::Room;
use crate::daemon::registry::Guarded;
use crate::daemon::retirement;
use crate::daemon::service::Service;
use crate::daemon::set_aside::SetAside;
use crate::kernel::progress::Progress;
use crate::kernel::seccomp_notify::Listener;
use crate::kernel::seccomp_notify::ListenerError;
use crate::kernel::seccomp_notify::Notification;
use crate::kernel::shared_area::Entry;
use crate::kernel::shared_area::Ledger;
use crate::kernel::shared_area::Slot;
use crate::supervise::broker::InFlight;
use crate::supervise::broker::hand::Hand;
use crate::supervise::supervisor::Granted;
use crate::supervise::supervisor::Origin;
use crate::supervise::supervisor::Unsettled;

/// A call that waits for its answer.
#[derive(Debug)]
pub struct Call {
    /// The call.
    pub notification: Notification,
    /// Who was at work on it, when an earlier worker received it.
    pub entry: Entry,
    /// The slot of its own in which an earlier worker kept it; `None`: the listener's.
    kept: Option<Slot>,
}

impl Call {
    /// One that was received just now.
    #[must_use]
    pub fn received(notification: Notification) -> Self {
        Self { notification, entry: Entry::default(), kept: None }
    }

    /// What stands beside it; `slot` is the listener's.
    #[must_use]
    pub fn ledger(&self, slot: &Slot) -> Ledger {
        self.kept.as_ref().unwrap_or(slot).ledger()
    }

    /// No worker after this one finds it; `slot` is the listener's.
    fn clear(self, slot: &mut Slot) {
        match self.kept {
            Some(mut kept) => kept.clear(),
            None => slot.clear(),
        }
    }

    /// Before it is served: one that waits in a slot of its own comes into the listener's, `slot`, where what is begun for it is noted. Not
    /// one that is done: nothing is begun for that, and it may go before the call that is in the listener's.
    fn bring_in(self, slot: &mut Slot) -> Self {
        match self.kept {
            Some(mut kept) if self.entry.done.is_none() && slot.in_flight().is_none() => {
                let entry = Entry { listener: None, ..self.entry };
                slot.keep(&self.notification, entry);
                kept.clear();
                Self { entry, kept: None, ..self }
            }
            kept => Self { kept, ..self },
        }
    }

    /// Each of `left` once: a worker that is killed while it puts a call into another slot leaves it in both.
    fn each_once(left: Vec<Self>, slot: &mut Slot) -> VecDeque<Self> {
        let mut once = VecDeque::<Self>::new();
        for call in left {
            if once.iter().any(|known| known.notification.id == call.notification.id) {
                call.clear(slot);
            } else {
                once.push_back(call);
            }
        }
        once
    }
}

/// What the thread that serves is at.
#[derive(Debug)]
pub struct Busy {
    /// Since when.
    pub since: Instant,
    /// The call in flight; `None` while the container's databases are looked at for the first time.
    pub call: Option<Call>,
    /// Of whoever is at work on it.
    pub progress: Progress,
}

impl Busy {
    fn with(call: Option<Call>) -> Self {
        Self { since: Instant::now(), call, progress: Progress::default() }
    }
}

/// Who serves.
#[derive(Debug)]
pub struct Seat {
    /// Where calls are received.
    pub slot: Slot,
    /// Calls that an earlier worker left and that nobody has begun to answer.
    left: VecDeque<Call>,
    /// Number of the thread whose turn it is.
    pub turn: u64,
    /// What it is at; `None` while it waits for a call.
    pub busy: Option<Busy>,
    /// Keeps a retirement waiting for whoever has the turn. Not for one who lost it: what that one waits for may never come.
    at_work: Option<retirement::Busy>,
    /// Slow calls, each with a thread that waits for what comes of it.
    pub aside: Vec<SetAside>,
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

impl Seat {
    /// The thread that has the turn loses it, and what it was about to do is not done.
    pub fn take_turn(&mut self) -> Option<Busy> {
        if let Some(hand) = &self.hand {
            hand.withdraw();
        }
        self.pass_turn()
    }

    /// The thread that has the turn loses it.
    pub fn pass_turn(&mut self) -> Option<Busy> {
        self.turn = self.turn.saturating_add(1);
        self.at_work = None;
        self.hand = None;
        self.busy.take()
    }

    /// The next call that an earlier worker left.
    pub fn take_left(&mut self) -> Option<Call> {
        self.left.pop_front()
    }

    /// `call` is answered: no worker after this one finds it.
    pub fn clear(&mut self, call: Call) {
        call.clear(&mut self.slot);
    }
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
    /// Its number at the keepers: that of its slot.
    pub number: u32,
    /// For the broker of the thread that has the turn.
    pub in_flight: InFlight,
    /// For the supervisors of all its threads.
    pub unsettled: Arc<Unsettled>,
    /// The container's case, once it is open.
    pub open: OnceLock<Arc<OpenCase>>,
    /// What an exec session sees.
    pub sight: Mutex<Sight>,
    label: Mutex<Label>,
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

/// What came of beginning to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// The turn is the caller's.
    Serves,
    /// It is somebody else's by now.
    Relieved,
    /// The worker retires.
    Retired,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Post {
    /// A post that nobody serves yet: what an earlier worker left in `room` waits from now on.
    #[must_use]
    pub fn new(service: &Arc<Service>, delivered: Delivered, room: Room) -> Arc<Self> {
        let Delivered { listener, guarded, session, label } = delivered;
        let Room { mut slot, kept } = room;
        let number = u32::try_from(slot.index()).unwrap_or(u32::MAX);
        let own = slot.in_flight().map(|notification| (notification, slot.ledger().entry(), None));
        let kept = kept.into_iter().filter_map(|kept| Some((kept.in_flight()?, kept.ledger().entry(), Some(kept))));
        let left = own.into_iter().chain(kept);
        let mut left: Vec<Call> = left.map(|(notification, entry, kept)| Call { notification, entry, kept }).collect();
        // what is done already may be what another asks for, which came again
        left.sort_by_key(|call| call.entry.done.is_none());
        let mut left = Call::each_once(left, &mut slot);
        let area = Arc::clone(&service.area);
        let in_flight = InFlight { area, slot: slot.index(), ledger: Arc::new(slot.ledger()) };
        let busy = Some(Busy::with(left.pop_front()));
        let seat = Seat {
            slot,
            left,
            turn: 0,
            busy,
            at_work: None,
            aside: Vec::new(),
            stuck: 0,
            by_policy: false,
            hand: None,
            untold: 0,
            told: None,
        };
        let origin = Origin { pid: label.pid, session, ground: label.ground, gives_way: label.gives_way };
        // the container's own process sees what the container sees
        let sight = Mutex::new(Sight { looked: origin.session.is_none(), view: None });
        let (label, seat) = (Mutex::new(label), Mutex::new(seat));
        let (service, open) = (Arc::clone(service), OnceLock::new());
        let unsettled = Arc::default();
        Arc::new(Self { service, guarded, listener, origin, number, in_flight, unsettled, open, sight, label, seat })
    }

    /// The seat.
    pub fn seat(&self) -> MutexGuard<'_, Seat> {
        lock(&self.seat)
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
        lock(&self.sight)
    }

    /// What the next worker needs to know.
    pub fn label(&self) -> MutexGuard<'_, Label> {
        lock(&self.label)
    }

    /// What a sealed workload was granted, where that was kept.
    #[must_use]
    pub fn granted(&self) -> Option<Granted> {
        let delivery = self.label().delivery?;
        self.service.cases.grants.read(delivery)
    }

    /// Keeps what a sealed workload was granted.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn keep_granted(&self, granted: &Granted) -> std::io::Result<()> {
        let delivery = self.label().delivery;
        delivery.map_or(Ok(()), |delivery| self.service.cases.grants.write(delivery, granted))
    }

    /// The thread of `turn` begins, with `hand`: what was in flight before is its to answer ([`Post::next_left`]).
    pub fn begins(&self, turn: u64, hand: Option<Arc<Hand>>) -> Begun {
        let mut seat = self.seat();
        if seat.turn != turn {
            return Begun::Relieved;
        }
        let Some(at_work) = self.service.retirement.busy() else { return Begun::Retired };
        seat.at_work = Some(at_work);
        seat.hand = hand;
        if let Some(call) = seat.busy.take().and_then(|busy| busy.call) {
            seat.left.push_front(call);
        }
        Begun::Serves
    }

    /// The next call that an earlier worker left, for the thread of `turn`, and who was at work on it.
    #[must_use]
    pub fn next_left(&self, turn: u64) -> Option<(Notification, Entry)> {
        let mut seat = self.seat();
        let call = if seat.turn == turn { seat.take_left() } else { None }?;
        let call = call.bring_in(&mut seat.slot);
        let left = (call.notification, call.entry);
        seat.busy = Some(Busy::with(Some(call)));
        Some(left)
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
        seat.busy = Some(Busy::with(Some(Call::received(notification))));
        Ok(Received::Call(notification))
    }

    /// The thread of `turn` has answered. False when it was relieved meanwhile.
    pub fn is_done(&self, turn: u64) -> bool {
        let mut seat = self.seat();
        let has_turn = seat.turn == turn;
        if has_turn && let Some(call) = seat.busy.take().and_then(|busy| busy.call) {
            seat.clear(call);
        }
        has_turn
    }

    /// Whoever has the turn goes, and the worker too: it retires.
    pub fn rests(&self) {
        self.seat().at_work = None;
    }

    /// Nobody has the turn from now on. Keeps a retirement waiting until what is returned is dropped.
    pub fn close(&self) -> Option<retirement::Busy> {
        let mut seat = self.seat();
        let at_work = seat.at_work.take();
        seat.take_turn();
        seat.turn = u64::MAX;
        seat.by_policy = false;
        seat.give_up_aside();
        while let Some(call) = seat.take_left() {
            seat.clear(call);
        }
        seat.slot.clear();
        at_work
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::shared_area::SharedArea;
    use std::os::fd::AsFd as _;

    fn notification(id: u64) -> Notification {
        Notification { id, tid: 3, arch: 1, nr: 2, args: [0; 6] }
    }

    fn left(slot: Slot) -> Call {
        let (notification, entry) = (slot.in_flight().expect("a call"), slot.ledger().entry());
        Call { notification, entry, kept: Some(slot) }
    }

    /// What a worker finds that has the area next: the places, the calls and who is at work on each.
    fn found(area: &SharedArea) -> Vec<(usize, u64, u32, Option<usize>)> {
        let next = SharedArea::from_fd(area.as_fd().try_clone_to_owned().expect("dup")).expect("adopt");
        let slots = (0..next.slot_count()).filter_map(|index| next.slot(index));
        slots
            .filter_map(|slot| Some((slot.index(), slot.in_flight()?.id, slot.ledger().entry())))
            .map(|(index, id, entry)| (index, id, entry.helper, entry.listener))
            .collect()
    }

    #[test]
    fn what_is_begun_for_a_call_is_noted_where_the_next_worker_finds_the_call() {
        let area = SharedArea::create(3).expect("area");
        let (mut own, mut other) = (area.slot(0).expect("slot"), area.slot(1).expect("slot"));
        other.keep(&notification(7), Entry { helper: 9, listener: Some(0), ..Entry::default() });
        let call = left(other).bring_in(&mut own);
        // as the broker does, which knows the listener's slot alone
        own.ledger().begin(10, false, 7);
        assert_eq!(found(&area), [(0, 7, 10, None)]);
        call.clear(&mut own);
        assert_eq!(found(&area), []);
    }

    #[test]
    fn a_call_that_is_done_goes_before_the_one_in_the_listeners_slot_and_leaves_it_alone() {
        let area = SharedArea::create(2).expect("area");
        let (mut own, mut other) = (area.slot(0).expect("slot"), area.slot(1).expect("slot"));
        own.keep(&notification(8), Entry { helper: 9, ..Entry::default() });
        other.keep(&notification(7), Entry { done: Some(0), listener: Some(0), ..Entry::default() });
        let call = left(other).bring_in(&mut own);
        assert_eq!(found(&area), [(0, 8, 9, None), (1, 7, 0, Some(0))]);
        call.clear(&mut own);
        assert_eq!(found(&area), [(0, 8, 9, None)]);
    }

    #[test]
    fn a_call_in_two_slots_is_one() {
        let area = SharedArea::create(3).expect("area");
        let mut own = area.slot(0).expect("slot");
        own.keep(&notification(7), Entry::default());
        let mut calls = vec![Call::received(notification(7))];
        for (index, id) in [(1, 7), (2, 8)] {
            let mut slot = area.slot(index).expect("slot");
            slot.keep(&notification(id), Entry { listener: Some(0), ..Entry::default() });
            calls.push(left(slot));
        }
        calls.rotate_left(1);
        let once = Call::each_once(calls, &mut own);
        assert_eq!(once.iter().map(|call| call.notification.id).collect::<Vec<_>>(), [7, 8]);
        assert_eq!(found(&area), [(1, 7, 0, Some(0)), (2, 8, 0, Some(0))], "the first of them is kept");
    }
}

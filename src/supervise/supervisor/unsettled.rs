//! Calls of one listener that were begun and whose caller has no reply yet, for all threads that serve it: a signal cancels a call
//! (where calls do not wait killable) and it comes again under another id, perhaps to another thread than the one that is at it
//! ([`crate::supervise::broker::hand`]). What was begun for it is not begun again.
//!
//! A worker that dies leaves as much as its successor needs: beside a call in its slot a digest of what it means, and of a deed whose
//! reply did not arrive the outcome, in a slot of its own ([`crate::kernel::shared_area::Entry`]).
//!
//! Invariant: whether a reply arrived is noted under the lock under which it was given, so that a call that comes again finds what
//! was done for it, or who is at it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::kernel::seccomp_notify::Notification;
use crate::supervise::broker::hand::Hand;
use crate::supervise::broker::remembering::Memory;
use crate::supervise::moment::Moment;
use crate::supervise::supervisor::reply::Kept;
use crate::supervise::supervisor::reply::Meant;

/// Most deeds remembered whose reply did not arrive.
const MAX_UNDELIVERED: usize = 32;

/// Those calls.
#[derive(Default)]
pub struct Unsettled(Mutex<Calls>);

/// Somebody is at a call.
struct Begun {
    hand: Arc<Hand>,
    meant: Meant,
    /// As it came last.
    call: Notification,
}

/// What [`Unsettled`] holds.
#[derive(Default)]
pub(super) struct Calls {
    /// Deeds whose reply did not reach the caller: a signal cancelled its call, and it comes again.
    undelivered: VecDeque<Kept>,
    begun: Vec<Begun>,
}

impl std::fmt::Debug for Unsettled {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let calls = self.calls();
        write!(formatter, "Unsettled({} begun, {} undelivered)", calls.begun.len(), calls.undelivered.len())
    }
}

impl Unsettled {
    pub(super) fn calls(&self) -> MutexGuard<'_, Calls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Calls {
    /// The thread of `notification` makes that call.
    pub(super) fn note_call(&mut self, notification: &Notification) {
        self.undelivered.iter_mut().for_each(|kept| kept.note_call(notification));
    }

    /// Whoever has `hand` begins with `call`.
    pub(super) fn begins(&mut self, hand: &Arc<Hand>, meant: Meant, call: Notification) {
        self.ends(hand);
        self.begun.push(Begun { hand: Arc::clone(hand), meant, call });
    }

    /// The call that whoever has `hand` is at, as it came last; `None` when nothing was begun.
    pub(super) fn as_it_came_last(&self, hand: &Arc<Hand>) -> Option<Notification> {
        self.begun.iter().find(|begun| Arc::ptr_eq(&begun.hand, hand)).map(|begun| begun.call)
    }

    /// Whoever has `hand` is done.
    pub(super) fn ends(&mut self, hand: &Arc<Hand>) {
        self.begun.retain(|begun| !Arc::ptr_eq(&begun.hand, hand));
    }

    /// Whether another than whoever has `hand` is at the call that came again as `notification`, its arguments lying in `memory`, and answers it.
    /// `waits` tells whether whoever made the call of an id still does: of two threads that ask for the same each gets its own.
    pub(super) fn is_begun(
        &mut self,
        hand: Option<&Arc<Hand>>,
        notification: &Notification,
        memory: &dyn Memory,
        waits: impl Fn(u64) -> bool,
    ) -> bool {
        let others = self.begun.iter_mut().filter(|begun| hand.is_none_or(|hand| !Arc::ptr_eq(&begun.hand, hand)));
        let is_over = |call: &Notification| call.tid == notification.tid || !waits(call.id);
        let is_same = |meant: &Meant| meant.is(notification, memory) || meant.is_again(notification, memory);
        let mut same = others.filter(|begun| is_same(&begun.meant) && is_over(&begun.call));
        same.any(|begun| {
            let waits = begun.hand.comes_again(notification);
            if waits {
                begun.call = *notification;
            }
            waits
        })
    }

    /// What was done for the same call on the same arguments, if it was.
    pub(super) fn take(&mut self, notification: &Notification, memory: &dyn Memory, now: Moment) -> Option<Kept> {
        let position = self.undelivered.iter().position(|kept| kept.is_of(notification, memory, now))?;
        Some(self.undelivered.remove(position)?.came_again(notification, memory, now))
    }

    /// The reply to it did not arrive.
    pub(super) fn keep(&mut self, kept: Kept, now: Moment) {
        self.undelivered.retain(|kept| !kept.is_over(now));
        if self.undelivered.len() >= MAX_UNDELIVERED {
            self.undelivered.pop_front();
        }
        self.undelivered.push_back(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::shared_area::SharedArea;
    use crate::supervise::broker::InFlight;
    use crate::supervise::supervisor::reply::tests::Texts;

    #[test]
    fn a_call_that_comes_again_is_left_to_whoever_is_at_it() {
        // beyond any thread there is (PID_MAX_LIMIT)
        let number = |tid: u32| tid + (1 << 30);
        let call = |id, tid, address| Notification {
            id,
            tid: number(tid),
            arch: 0xc000_003e,
            nr: 87,
            args: [address, 0, 0, 0, 0, 0],
        };
        let area = Arc::new(SharedArea::create(2).expect("area"));
        let own = area.slot(0).expect("slot");
        let in_flight = InFlight { area: Arc::clone(&area), slot: 0, ledger: Arc::new(own.ledger()) };
        let (first, second) = (Arc::<Hand>::default(), Arc::<Hand>::default());
        let path = Texts(1, &[(64, "/big")]);
        let mut calls = Calls::default();
        calls.begins(&first, Meant::new(&call(1, 5, 64), path.read_so_far()), call(1, 5, 64));
        let comes =
            |calls: &mut Calls, hand, call, memory: &dyn Memory| calls.is_begun(Some(hand), &call, memory, |_| false);
        assert!(!comes(&mut calls, &second, call(2, 5, 64), &path), "its thread was not relieved");
        assert!(first.set_aside(&call(1, 5, 64), &own.ledger(), &in_flight));
        assert!(!comes(&mut calls, &first, call(2, 5, 64), &path), "itself");
        assert!(!comes(&mut calls, &second, call(2, 6, 64), &path), "another thread");
        assert!(!comes(&mut calls, &second, call(2, 5, 65), &path), "another argument");
        assert!(!comes(&mut calls, &second, call(2, 5, 64), &Texts(1, &[(64, "/other")])), "another file");
        assert!(
            comes(&mut calls, &second, call(2, 5, 65), &Texts(1, &[(65, "/big")])),
            "the same path elsewhere in memory"
        );
        assert!(comes(&mut calls, &second, call(2, 5, 64), &path));
        assert_eq!(calls.as_it_came_last(&first), Some(call(2, 5, 64)));
        assert_eq!(first.aside(), Some(call(2, 5, 64)));
        assert_eq!(calls.as_it_came_last(&second), None);
        assert!(first.give_up().is_some());
        assert!(!comes(&mut calls, &second, call(3, 5, 64), &path), "answered for want of time");
        calls.ends(&first);
        assert_eq!(calls.as_it_came_last(&first), None);
    }
}

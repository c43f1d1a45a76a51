//! Calls that are slow, not stuck: their helper gets on ([`crate::kernel::progress`]), as the kernel would without us, so their callers
//! wait for what really comes of them. The thread that waits for the helper has lost its turn, and another serves the listener.
//!
//! Until somebody is at work on a call nothing was begun, and an answer by policy is true; so only a call with a helper at work is set
//! aside, be it one of this worker's or one that an earlier worker left. How many there may be is bounded for the container
//! ([`crate::supervise::broker::quota`]): one more is answered by policy at its deadline. What the thread itself does before, looking
//! paths up, has the deadline whatever its state: behind a lookup that waits for a FUSE server others wait as for a disk
//! (fs/dcache.c, `d_wait_lookup`).
//!
//! Invariants: a call is either with the seat or here, and has a slot either way; whoever takes one from here puts it away or answers
//! it. What is given up is stopped first, so that a helper that has not begun does not.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::daemon::deadline_watch::DEADLINE;
use crate::daemon::post::Call;
use crate::daemon::post::Post;
use crate::daemon::post::Seat;
use crate::daemon::worker;
use crate::kernel::broker::WORK_LIMIT;
use crate::kernel::progress::Progress;
use crate::kernel::shared_area::Entry;
use crate::supervise::broker::hand::Hand;
use crate::supervise::broker::quota::Place;

/// A call that takes longer, and whose helper gets on, holds up no other.
pub const SLOW: Duration = Duration::from_secs(1);
/// The same while another call of the listener is slow: what is slow for one may be for many.
const SLOW_TOO: Duration = Duration::from_millis(100);

/// A call that was set aside.
#[derive(Debug)]
pub struct SetAside {
    /// The turn that its thread had.
    turn: u64,
    hand: Arc<Hand>,
    /// Who was at work on it, when an earlier worker received it.
    entry: Entry,
    since: Instant,
    progress: Progress,
    /// When somebody was last seen getting on with it.
    seen: Instant,
    _place: Place,
}

/// The process that is at work for `hand`, or that an earlier worker left at work.
fn at_work(hand: &Hand, entry: Entry) -> Option<u32> {
    hand.at_work().or_else(|| worker::helper_of(entry).map(|_| entry.helper))
}

impl Seat {
    /// Whether what whoever has the turn is at has taken longer than a call takes that is not slow.
    fn takes_long(&self) -> bool {
        let limit = if self.aside.is_empty() { SLOW } else { SLOW_TOO };
        self.busy.as_ref().is_some_and(|busy| busy.since.elapsed() >= limit)
    }
}

/// Sets aside what whoever has the turn is at when it is slow, who loses the turn. False when nobody gets on with it, or when the
/// container has its share.
pub fn set_aside(post: &Post, seat: &mut Seat) -> bool {
    if !seat.takes_long() {
        return false;
    }
    let (Some(hand), Some(busy)) = (seat.hand.clone(), seat.busy.as_mut()) else { return false };
    let Some(call) = &busy.call else { return false };
    let (entry, since) = (call.entry, busy.since);
    if !at_work(&hand, entry).is_some_and(|pid| busy.progress.look(pid)) {
        return false;
    }
    let Some(place) = post.guarded.quota.slow() else { return false };
    if !hand.set_aside(&call.notification, &call.ledger(&seat.slot), &post.in_flight) {
        return false;
    }
    let progress = std::mem::take(&mut busy.progress);
    let turn = seat.turn;
    if let Some(call) = seat.pass_turn().and_then(|busy| busy.call) {
        // it stands in its own slot by now
        seat.clear(call);
    }
    seat.aside.push(SetAside { turn, hand, entry, since, progress, seen: Instant::now(), _place: place });
    true
}

impl Seat {
    /// What was set aside and is to be answered by policy: nobody got on with it for the deadline, or it took too long. Whoever was at
    /// work on it is stopped. Beside each, how long it took.
    pub fn overdue(&mut self) -> Vec<(Call, Duration)> {
        let now = Instant::now();
        let is_overdue = |aside: &mut SetAside| {
            if at_work(&aside.hand, aside.entry).is_some_and(|pid| aside.progress.look(pid)) {
                aside.seen = now;
            }
            now.duration_since(aside.seen) >= DEADLINE || now.duration_since(aside.since) >= WORK_LIMIT
        };
        let overdue: Vec<SetAside> = self.aside.extract_if(.., is_overdue).collect();
        // whoever is at each is stuck from now on
        self.stuck = self.stuck.saturating_add(overdue.len());
        let given_up = overdue.into_iter().filter_map(|aside| {
            worker::end_helper_of(aside.entry);
            Some((Call::received(aside.hand.give_up()?), now.duration_since(aside.since)))
        });
        given_up.collect()
    }

    /// The thread that had `turn` is done with what was set aside. False when it was at nothing that was.
    pub fn is_done_aside(&mut self, turn: u64) -> bool {
        let done = self.aside.extract_if(.., |aside| aside.turn == turn);
        done.map(|aside| aside.hand.put_away()).count() > 0
    }

    /// Nobody waits for what was set aside any more.
    pub fn give_up_aside(&mut self) {
        for aside in self.aside.drain(..) {
            // the callers are gone
            let _ = aside.hand.give_up();
        }
    }
}

//! The one helper that is at work for a listener's thread, for whoever watches over that thread. A call that is answered in the thread's
//! place is not carried out after that. One whose helper gets on, but slowly, is set aside: the thread goes on waiting for it, while
//! another serves the listener, and it has a slot of its own, where the next worker finds it.
//!
//! A signal may cancel a call that is set aside, where calls do not wait killable, and it comes again under another id, to the thread
//! that serves now. Then it is answered under that one ([`Hand::comes_again`]).

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use rustix::process::Signal;

use crate::kernel::pidfd::Process;
use crate::kernel::seccomp_notify::Notification;
use crate::kernel::shared_area::Entry;
use crate::kernel::shared_area::Ledger;
use crate::kernel::shared_area::Slot;
use crate::supervise::broker::InFlight;

#[derive(Debug, Default)]
struct State {
    withdrawn: bool,
    /// And its number.
    at_work: Option<(Arc<Process>, u32)>,
    aside: Option<Aside>,
}

/// A call that was set aside.
#[derive(Debug)]
struct Aside {
    slot: Slot,
    call: Notification,
}

impl State {
    /// The call that was set aside, which nobody finds any more.
    fn put_away(&mut self) -> Option<Notification> {
        let mut aside = self.aside.take()?;
        aside.slot.clear();
        Some(aside.call)
    }

    fn withdraw(&mut self) {
        self.withdrawn = true;
        if let Some((helper, _)) = self.at_work.take() {
            // one that is gone by now needs no end
            let _ = helper.signal(Signal::KILL);
        }
    }
}

/// Shared by a broker and whoever watches over its thread.
#[derive(Debug, Default)]
pub struct Hand(Mutex<State>);

/// Until it is dropped a helper may be at work.
pub(super) struct Work(Arc<Hand>);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.ends();
    }
}

impl Hand {
    /// Whoever begins has ended when what this gives is dropped.
    pub(super) fn work(self: &Arc<Self>) -> Work {
        Work(Arc::clone(self))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `helper`, process `pid`, is about to be asked, which `note` puts down, where the call was set aside in the ledger that it is
    /// given. False when nothing may be carried out any more: then it is not put down either, for the place where it would be is
    /// another call's by now.
    #[must_use]
    pub(super) fn begins(&self, helper: &Arc<Process>, pid: u32, note: impl FnOnce(Option<Ledger>)) -> bool {
        let mut state = self.state();
        if !state.withdrawn {
            state.at_work = Some((Arc::clone(helper), pid));
            note(state.aside.as_ref().map(|aside| aside.slot.ledger()));
        }
        !state.withdrawn
    }

    /// Puts something down beside the call, unless the place where it would be is another call's by now.
    pub(super) fn notes(&self, note: impl FnOnce(Option<Ledger>)) {
        let state = self.state();
        if !state.withdrawn {
            note(state.aside.as_ref().map(|aside| aside.slot.ledger()));
        }
    }

    /// The process that is at work.
    #[must_use]
    pub fn at_work(&self) -> Option<u32> {
        self.state().at_work.as_ref().map(|(_, pid)| *pid)
    }

    /// Gives `call`, beside which stands what `ledger` says, a slot of its own among those of `in_flight`. False when there is none.
    #[must_use]
    pub fn set_aside(&self, call: &Notification, ledger: &Ledger, in_flight: &InFlight) -> bool {
        let mut state = self.state();
        let slot = if state.withdrawn { None } else { in_flight.keep_as(call, ledger.entry()) };
        state.aside = slot.map(|slot| Aside { slot, call: *call });
        state.aside.is_some()
    }

    /// The call that was set aside came again as `call`. False when it is not waited for any more.
    #[must_use]
    pub fn comes_again(&self, call: &Notification) -> bool {
        let mut state = self.state();
        let Some(aside) = state.aside.as_mut() else { return false };
        let entry = Entry { placed: None, ..aside.slot.ledger().entry() };
        aside.slot.keep(call, entry);
        aside.call = *call;
        true
    }

    /// The call that was set aside is over: no worker after this one finds it.
    pub fn put_away(&self) {
        self.state().put_away();
    }

    /// The call that was set aside, as it came last.
    #[must_use]
    pub fn aside(&self) -> Option<Notification> {
        self.state().aside.as_ref().map(|aside| aside.call)
    }

    /// The call that was set aside is answered by whoever asks: it is put away, and whoever is at work is stopped.
    #[must_use]
    pub fn give_up(&self) -> Option<Notification> {
        let mut state = self.state();
        state.withdraw();
        state.put_away()
    }

    /// The helper has answered, or waits in an open of its own.
    fn ends(&self) {
        self.state().at_work = None;
    }

    /// From now on nothing is carried out: whoever is at work is killed. A system call that it is in may still come to its end.
    pub fn withdraw(&self) {
        self.state().withdraw();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::pidfd;
    use crate::kernel::shared_area::SharedArea;
    use std::os::fd::AsFd as _;
    use std::time::Duration;

    #[test]
    fn whoever_is_at_work_is_killed_and_nobody_begins_after_that() {
        let hand = Hand::default();
        let mut children: Vec<_> =
            (0..2).map(|_| std::process::Command::new("sleep").arg("60").spawn().expect("child")).collect();
        let [idle, at_work] = [0, 1].map(|at| Arc::new(pidfd::open(children[at].id()).expect("pidfd")));
        let mut noted = 0;
        assert!(hand.begins(&idle, 1, |_| noted += 1));
        hand.ends();
        assert!(hand.begins(&at_work, 2, |_| noted += 1));
        assert_eq!(hand.at_work(), Some(2));
        hand.withdraw();
        assert!(!at_work.outlives(Duration::from_secs(5)).expect("poll"), "it goes on");
        assert!(idle.still_alive().expect("poll"), "one that had answered was killed");
        assert!(!hand.begins(&idle, 1, |_| noted += 1), "carried out after it was withdrawn");
        hand.notes(|_| noted += 1);
        assert_eq!(noted, 2);
        for child in &mut children {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }

    #[test]
    fn a_call_that_is_set_aside_is_found_as_it_came_last_until_it_is_over() {
        let area = Arc::new(SharedArea::create(3).expect("area"));
        let mut own = area.slot(1).expect("slot");
        let call = |id| Notification { id, tid: 3, arch: 1, nr: 2, args: [0; 6] };
        own.keep(&call(7), Entry { helper: 9, ..Entry::default() });
        let in_flight = InFlight { area: Arc::clone(&area), slot: 1, ledger: Arc::new(own.ledger()) };
        let (hand, myself) = (Hand::default(), Arc::new(pidfd::open(std::process::id()).expect("pidfd")));
        assert!(!hand.comes_again(&call(8)), "nothing was set aside");
        assert!(hand.set_aside(&call(7), &own.ledger(), &in_flight));
        own.clear();
        assert!(area.kept().is_empty(), "who has a slot in this process is not asked for it");
        assert!(hand.comes_again(&call(8)));
        assert!(hand.begins(&myself, 10, |ledger| ledger.expect("its own").begin(10, false, 7)));
        hand.ends();
        let next = SharedArea::from_fd(area.as_fd().try_clone_to_owned().expect("dup")).expect("adopt");
        let mut kept = next.kept();
        let found = kept.remove(&1).and_then(|mut slots| slots.pop()).expect("slot");
        assert!(kept.is_empty());
        assert!(next.free_slot().is_some_and(|free| free.index() != found.index()));
        assert_eq!(found.index(), 0);
        assert_eq!(found.in_flight(), Some(call(8)));
        let entry = Entry { helper: 10, listener: Some(1), begun_as: 7, ..Entry::default() };
        assert_eq!(found.ledger().entry(), entry);
        assert_eq!((hand.aside(), hand.give_up()), (Some(call(8)), Some(call(8))));
        assert_eq!((found.in_flight(), hand.aside()), (None, None));
        assert!(!hand.comes_again(&call(9)), "it was given up");
        assert!(!hand.set_aside(&call(9), &own.ledger(), &in_flight), "it was given up");
    }
}

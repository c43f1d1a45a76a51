//! The one helper that is at work for a listener's thread, for whoever must stop it: a call that was answered in the thread's place is
//! not carried out after that.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use rustix::process::Signal;

use crate::kernel::pidfd::Process;

#[derive(Debug, Default)]
struct State {
    withdrawn: bool,
    at_work: Option<Arc<Process>>,
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

    /// `helper` is about to be asked, which `note` puts down. False when nothing may be carried out any more: then it is not put down
    /// either, for the place where it would be is another call's by now.
    #[must_use]
    pub(super) fn begins(&self, helper: &Arc<Process>, note: impl FnOnce()) -> bool {
        let mut state = self.state();
        if !state.withdrawn {
            state.at_work = Some(Arc::clone(helper));
            note();
        }
        !state.withdrawn
    }

    /// Puts something down beside the call, unless the place where it would be is another call's by now.
    pub(super) fn notes(&self, note: impl FnOnce()) {
        let state = self.state();
        if !state.withdrawn {
            note();
        }
    }

    /// The helper has answered, or waits in an open of its own.
    fn ends(&self) {
        self.state().at_work = None;
    }

    /// From now on nothing is carried out: whoever is at work is killed. A system call that it is in may still come to its end.
    pub fn withdraw(&self) {
        let mut state = self.state();
        state.withdrawn = true;
        if let Some(helper) = state.at_work.take() {
            // one that is gone by now needs no end
            let _ = helper.signal(Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::pidfd;
    use std::time::Duration;

    #[test]
    fn whoever_is_at_work_is_killed_and_nobody_begins_after_that() {
        let hand = Hand::default();
        let mut children: Vec<_> =
            (0..2).map(|_| std::process::Command::new("sleep").arg("60").spawn().expect("child")).collect();
        let [idle, at_work] = [0, 1].map(|at| Arc::new(pidfd::open(children[at].id()).expect("pidfd")));
        let mut noted = 0;
        assert!(hand.begins(&idle, || noted += 1));
        hand.ends();
        assert!(hand.begins(&at_work, || noted += 1));
        hand.withdraw();
        assert!(!at_work.outlives(Duration::from_secs(5)).expect("poll"), "it goes on");
        assert!(idle.still_alive().expect("poll"), "one that had answered was killed");
        assert!(!hand.begins(&idle, || noted += 1), "carried out after it was withdrawn");
        hand.notes(|| noted += 1);
        assert_eq!(noted, 2);
        for child in &mut children {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }
}

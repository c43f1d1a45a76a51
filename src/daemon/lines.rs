//! The worker's lines to both keepers: what one is told, the other is told at once.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;

use crate::daemon::hand_over;
use crate::daemon::hand_over::HandOverError;
use crate::daemon::hand_over::Message;
use crate::daemon::keeper;

/// Something that the keepers hold duplicates of.
pub type Holdable = Arc<dyn AsFd + Send + Sync>;

/// The lines, and everything that the keepers hold for this worker's successor.
pub struct Lines {
    keeper: OwnedFd,
    state: Mutex<State>,
}

struct State {
    second_keeper: Option<OwnedFd>,
    held: BTreeMap<u32, (Vec<u8>, Holdable)>,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let held: Vec<u32> = self.state().held.keys().copied().collect();
        formatter.debug_struct("Lines").field("held", &held).finish_non_exhaustive()
    }
}

impl Lines {
    /// Lines of a worker whose keeper is at the other end of `keeper`.
    #[must_use]
    pub const fn new(keeper: OwnedFd) -> Self {
        Self { keeper, state: Mutex::new(State { second_keeper: None, held: BTreeMap::new() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The line to the keeper, to hear what it says.
    pub fn keeper(&self) -> BorrowedFd<'_> {
        self.keeper.as_fd()
    }

    /// Whether the keeper is there. Without it another worker may serve what this one does: the second keeper's.
    #[must_use]
    pub fn has_keeper(&self) -> bool {
        is_there(&self.keeper)
    }

    /// Whether the second keeper is there, and was told of everything.
    #[must_use]
    pub fn has_second_keeper(&self) -> bool {
        self.state().second_keeper.as_ref().is_some_and(is_there)
    }

    /// Tells the keeper something that does not concern the second one.
    ///
    /// # Errors
    /// [`HandOverError`].
    pub fn tell(&self, message: &Message) -> Result<(), HandOverError> {
        hand_over::send(&self.keeper, message, &[])
    }

    /// Notes what an earlier worker gave to the keepers.
    pub fn note(&self, slot: u32, label: Vec<u8>, held: Holdable) {
        self.state().held.insert(slot, (label, held));
    }

    /// Gives the keepers a duplicate of `held`. It is in both sockets' buffers when this returns.
    ///
    /// # Errors
    /// [`HandOverError`] when neither keeper gets it.
    pub fn hold(&self, slot: u32, label: Vec<u8>, held: Holdable) -> Result<(), HandOverError> {
        let mut state = self.state();
        self.hold_at(&mut state, slot, label, held)
    }

    fn hold_at(&self, state: &mut State, slot: u32, label: Vec<u8>, held: Holdable) -> Result<(), HandOverError> {
        let message = Message::Hold { slot, label: label.clone() };
        let outcome = hand_over::send(&self.keeper, &message, &[(*held).as_fd()]);
        let is_told = state.tell_second(&message, &[(*held).as_fd()]);
        state.held.insert(slot, (label, held));
        if is_told { Ok(()) } else { outcome }
    }

    /// As [`Lines::hold`], for the connection of a runtime that has yet to deliver its listener: under a number of its own, which is
    /// returned. `None` when there is no number left.
    #[must_use]
    pub fn hold_connection(&self, label: Vec<u8>, held: Holdable) -> Option<u32> {
        let mut state = self.state();
        let numbers = keeper::LISTENERS..keeper::PLACES;
        let mut numbers = numbers.filter_map(|number| u32::try_from(number).ok());
        let number = numbers.find(|number| !state.held.contains_key(number))?;
        if let Err(error) = self.hold_at(&mut state, number, label, held) {
            tracing::error!("a runtime's connection would be lost with this worker: {error}");
        }
        Some(number)
    }

    /// The keepers need not hold it any more.
    pub fn release(&self, slot: u32) {
        let mut state = self.state();
        if state.held.remove(&slot).is_none() {
            return;
        }
        let message = Message::Release { slot };
        if let Err(error) = self.tell(&message) {
            tracing::debug!("the keeper is not told of a listener's end: {error}");
        }
        state.tell_second(&message, &[]);
    }

    /// There is a second keeper at the other end of `line`: it is told of everything.
    pub fn set_second_keeper(&self, line: OwnedFd) {
        let mut state = self.state();
        state.second_keeper = Some(line);
        state.tell_second(&Message::Begin, &[]);
        let held: Vec<_> = state.held.iter().map(|(slot, held)| (*slot, held.clone())).collect();
        for (slot, (label, held)) in held {
            state.tell_second(&Message::Hold { slot, label }, &[(*held).as_fd()]);
        }
    }
}

impl State {
    /// Whether there is a second keeper, and it was told.
    fn tell_second(&mut self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> bool {
        let Some(line) = &self.second_keeper else { return false };
        let sent = hand_over::send(line, message, descriptors);
        if let Err(error) = &sent {
            if !matches!(error, HandOverError::Closed) {
                tracing::error!("the second keeper does not listen: {error}");
            }
            self.second_keeper = None;
        }
        sent.is_ok()
    }
}

fn is_there(line: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(line, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut polled, Some(&now)).is_ok_and(|count| count == 0)
}

//! The end of a worker that has a successor: whoever waits for calls, runtimes or clients stops waiting, and what was received is
//! still answered.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use rustix::event::EventfdFlags;
use rustix::event::PollFd;
use rustix::event::PollFlags;

/// Becomes readable for everybody when the worker retires.
#[derive(Debug)]
pub struct Retirement {
    event: OwnedFd,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    busy: usize,
    begun: bool,
    /// Who asked for a successor is told why there is none.
    refusal: Option<String>,
}

/// Somebody who must be done before the worker ends.
#[derive(Debug)]
pub struct Busy(Arc<Shared>);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.busy = state.busy.saturating_sub(1);
        self.0.changed.notify_all();
    }
}

/// What waiting brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// What was waited for.
    Ready,
    /// The worker retires.
    Retired,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Retirement {
    /// Of a worker that does not retire yet.
    ///
    /// # Errors
    /// eventfd(2)'s.
    pub fn new() -> std::io::Result<Self> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event, shared: Arc::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    /// Counts the caller as busy until what is returned is dropped. `None` once the worker retires: what there is to do is its
    /// successor's.
    #[must_use]
    pub fn busy(&self) -> Option<Busy> {
        let mut state = self.state();
        if state.begun {
            return None;
        }
        state.busy = state.busy.saturating_add(1);
        Some(Busy(Arc::clone(&self.shared)))
    }

    /// Waits until `descriptor` can be read (or has ended), or the worker retires.
    ///
    /// # Errors
    /// poll(2)'s.
    pub fn wait(&self, descriptor: BorrowedFd<'_>) -> std::io::Result<Waited> {
        loop {
            let mut polled = [PollFd::new(&self.event, PollFlags::IN), PollFd::new(&descriptor, PollFlags::IN)];
            match rustix::event::poll(&mut polled, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            let retires = polled.first().is_some_and(|event| !event.revents().is_empty());
            return Ok(if retires { Waited::Retired } else { Waited::Ready });
        }
    }

    /// Retires, and waits until nobody is busy any more or `limit` is over. Whether nobody is.
    pub fn begin(&self, limit: Duration) -> bool {
        self.state().begun = true;
        // an eventfd takes eight bytes, and one is as good as many
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        let is_busy = |state: &mut State| state.busy > 0;
        let waited = self.shared.changed.wait_timeout_while(self.state(), limit, is_busy);
        waited.unwrap_or_else(PoisonError::into_inner).0.busy == 0
    }

    /// There will be no successor, for this reason.
    pub fn refuse(&self, reason: String) {
        self.state().refusal = Some(reason);
        self.shared.changed.notify_all();
    }

    /// Why there is no successor; `None` when `limit` is over without one.
    #[must_use]
    pub fn wait_for_refusal(&self, limit: Duration) -> Option<String> {
        let waits = |state: &mut State| state.refusal.is_none();
        let waited = self.shared.changed.wait_timeout_while(self.state(), limit, waits);
        waited.unwrap_or_else(PoisonError::into_inner).0.refusal.take()
    }
}

impl AsFd for Retirement {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_woken_and_who_is_busy_is_waited_for() {
        let retirement = Retirement::new().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut &writer, b"x").unwrap();
        assert_eq!(retirement.wait(reader.as_fd()).unwrap(), Waited::Ready);
        let busy = retirement.busy().expect("it serves");
        assert!(!retirement.begin(Duration::from_millis(10)), "it did not wait");
        assert_eq!(retirement.wait(reader.as_fd()).unwrap(), Waited::Retired);
        assert!(retirement.busy().is_none(), "something is begun that a successor has");
        drop(busy);
        assert!(retirement.begin(Duration::from_secs(5)));
    }

    #[test]
    fn who_asked_is_told_why_there_is_no_successor() {
        let retirement = Retirement::new().unwrap();
        assert_eq!(retirement.wait_for_refusal(Duration::from_millis(5)), None);
        retirement.refuse("no".to_owned());
        assert_eq!(retirement.wait_for_refusal(Duration::from_secs(5)).as_deref(), Some("no"));
        assert_eq!(retirement.wait_for_refusal(Duration::from_millis(5)), None);
    }
}

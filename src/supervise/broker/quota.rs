//! What the broker may use for one container, whatever its processes do: all its listeners share one [`Quota`].

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

/// Most helper processes of one container: kept for later calls, waiting in an open, or ended and held by a file system that
/// hangs. Each costs some 700 KiB of memory.
pub const MAX_HELPERS: usize = 128;
/// Most calls of one container that wait in an open at one time, each with a helper and a thread.
pub const MAX_WAITING: usize = 64;

/// Most slow calls of one container that are waited for aside, each with a helper and a thread.
pub const MAX_SLOW: usize = 32;

/// How much of it is taken.
#[derive(Debug, Default)]
pub struct Quota {
    helpers: Arc<AtomicUsize>,
    waiting: Arc<AtomicUsize>,
    slow: Arc<AtomicUsize>,
}

/// One of a bounded number; given back when dropped.
#[derive(Debug)]
pub struct Place(Arc<AtomicUsize>);

impl Quota {
    /// A place for a helper; `None` when there is none left.
    #[must_use]
    pub fn helper(&self) -> Option<Place> {
        Place::take(&self.helpers, MAX_HELPERS)
    }

    /// A place for a call that waits; `None` when there is none left.
    #[must_use]
    pub fn waiting(&self) -> Option<Place> {
        Place::take(&self.waiting, MAX_WAITING)
    }

    /// A place for a slow call; `None` when there is none left.
    #[must_use]
    pub fn slow(&self) -> Option<Place> {
        Place::take(&self.slow, MAX_SLOW)
    }
}

impl Place {
    fn take(counter: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let place = Self(Arc::clone(counter));
        // a place that is one too many is given back at once
        (counter.fetch_add(1, Ordering::AcqRel) < most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_it_is_given_back() {
        let quota = Quota::default();
        let mut taken: Vec<Place> = (0..MAX_HELPERS).map(|_| quota.helper().expect("a place")).collect();
        for _ in 0..3 {
            assert!(quota.helper().is_none(), "one too many");
        }
        assert!(quota.waiting().is_some() && quota.slow().is_some(), "calls that wait are counted apart");
        taken.pop();
        assert!(quota.helper().is_some());
    }
}

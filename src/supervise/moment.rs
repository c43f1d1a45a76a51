//! A point in time: what the clock on the wall says, for events, and what the steady clock says, for spans.

use std::sync::OnceLock;
use std::time::Duration;
use std::time::Instant;

use crate::model::event::EventTime;

/// A point in time. Spans are taken by the steady clock, so that setting the clock moves no deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// For events.
    pub wall: EventTime,
    /// Since some fixed point of this process.
    pub steady: Duration,
}

impl Moment {
    /// This moment.
    #[must_use]
    pub fn now() -> Self {
        static START: OnceLock<Instant> = OnceLock::new();
        let steady = START.get_or_init(Instant::now).elapsed();
        Self { wall: EventTime(jiff::Timestamp::now()), steady }
    }

    /// How long ago `earlier` was; zero when it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.steady.saturating_sub(earlier.steady)
    }
}

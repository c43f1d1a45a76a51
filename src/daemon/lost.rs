//! How many events of a container found room neither on disk nor in memory.

use crate::model::event::Container;
use crate::model::event::Event;
use crate::model::event::EventTime;
use crate::model::event::PolicyReference;
use crate::model::event::ProtectionChange;

/// Lost events of one container, or of the node.
#[derive(Debug)]
pub struct Lost {
    container: Option<Container>,
    policy: Option<PolicyReference>,
    first: EventTime,
    /// How many.
    pub count: u64,
}

impl Lost {
    /// None yet, of the container that `event`, the first, is about.
    #[must_use]
    pub fn first(event: &Event) -> Self {
        Self { container: event.container.clone(), policy: event.policy.clone(), first: event.time, count: 0 }
    }

    /// One more.
    pub const fn count_one(&mut self) {
        self.count = self.count.saturating_add(1);
    }

    /// The event that tells it, made of `event`; `reason` is why they could not be stored.
    #[must_use]
    pub fn event(self, mut event: Event, reason: &str) -> Event {
        event.protection = Some(ProtectionChange {
            what: "events were lost".to_owned(),
            reason: format!(
                "{} events since {} could not be stored ({reason}), and no more fitted into memory",
                self.count, self.first.0
            ),
            remedy: Some("see that the event store's file system has room and can be written to".to_owned()),
        });
        event.container = self.container;
        event.policy = self.policy;
        event.suppressed = Some(self.count);
        event
    }
}

//! Where a call that is being served outlives this process, for the next worker.

use std::sync::Arc;

use crate::kernel::seccomp_notify::Notification;
use crate::kernel::shared_area::Entry;
use crate::kernel::shared_area::Ledger;
use crate::kernel::shared_area::SharedArea;
use crate::kernel::shared_area::Slot;

/// The memory in which a call that is being served outlives this process.
#[derive(Debug, Clone)]
pub struct InFlight {
    /// All of it.
    pub area: Arc<SharedArea>,
    /// The place of the listener's slot.
    pub slot: usize,
    /// Who is at work on the notification in that slot.
    pub ledger: Arc<Ledger>,
}

impl InFlight {
    /// A slot of its own for a call that `helper` waits for; without a free one, the call is lost with this process.
    pub(super) fn keep(&self, notification: &Notification, helper: u32) -> Option<Slot> {
        self.keep_as(notification, Entry { helper, waits: true, ..Entry::default() })
    }

    /// The same, of what stands in `entry`.
    pub(in crate::supervise) fn keep_as(&self, notification: &Notification, entry: Entry) -> Option<Slot> {
        let mut slot = self.area.free_slot()?;
        slot.keep(notification, Entry { listener: Some(self.slot), ..entry });
        Some(slot)
    }
}

/// A slot that is cleared when this is dropped: its call has been answered, or nobody waits for it any more.
#[derive(Debug)]
pub struct KeptSlot(pub(super) Slot);

impl Drop for KeptSlot {
    fn drop(&mut self) {
        self.0.clear();
    }
}

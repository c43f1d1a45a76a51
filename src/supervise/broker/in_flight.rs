//! Where a call that is being served outlives this process, for the next worker.

use std::sync::Arc;

use crate::kernel::seccomp_notify::Notification;
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
        let mut slot = self.area.free_slot()?;
        slot.keep(notification, self.slot);
        slot.ledger().begin(helper, true);
        Some(slot)
    }
}

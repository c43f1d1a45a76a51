//! The guarded containers besides one, for the supervisor of that one's calls.

use std::sync::Arc;

use crate::daemon::case_thread::OpenCase;
use crate::daemon::registry::Guarded;
use crate::daemon::service::Service;
use crate::model::policy::Mode;
use crate::model::workload::ContainerId;
use crate::supervise::Recorder;
use crate::supervise::neighbours::Neighbour;
use crate::supervise::neighbours::Neighbours;

/// All containers but `own`.
pub struct Others {
    /// Where they are registered.
    pub service: Arc<Service>,
    /// The one whose neighbours they are.
    pub own: ContainerId,
}

fn neighbour(guarded: &Guarded) -> Option<Neighbour> {
    let open = guarded.open_case()?;
    let recorder: Arc<dyn Recorder> = Arc::<OpenCase>::clone(&open);
    Some(Neighbour { id: guarded.id.clone(), case: Arc::clone(&open.case), recorder })
}

impl Neighbours for Others {
    fn near(&self, devices: &[u64]) -> Vec<Neighbour> {
        self.service.registry.find_all(|guarded| {
            let neighbour = if guarded.id == self.own { None } else { neighbour(guarded) };
            neighbour.filter(|near| near.case.is_on_any(devices) && near.case.policy().mode != Mode::Off)
        })
    }

    fn get(&self, id: &ContainerId) -> Option<Neighbour> {
        self.service.registry.get(id).and_then(|guarded| neighbour(&guarded))
    }
}

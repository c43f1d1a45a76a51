//! The guarded containers besides one, for the supervisor of that one's calls.

use std::sync::Arc;

use crate::daemon::case_thread::OpenCase;
use crate::daemon::registry::Guarded;
use crate::daemon::service::Service;
use crate::model::database_path::DatabasePath;
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

fn neighbour(guarded: &Guarded, databases: Vec<DatabasePath>) -> Option<Neighbour> {
    let open = guarded.open_case()?;
    let recorder: Arc<dyn Recorder> = Arc::<OpenCase>::clone(&open);
    Some(Neighbour { id: guarded.id.clone(), case: Arc::clone(&open.case), recorder, databases })
}

impl Neighbours for Others {
    fn near(&self, devices: &[u64]) -> Vec<Neighbour> {
        let ids = self.service.cases.on(devices).into_iter().filter(|id| *id != self.own);
        let near = ids.filter_map(|id| self.service.registry.get(&id)).filter_map(|guarded| {
            let databases = guarded.open_case()?.case.databases_on(devices);
            let is_near = !databases.is_empty() && guarded.policy.current().mode != Mode::Off;
            if is_near { neighbour(&guarded, databases) } else { None }
        });
        near.collect()
    }

    fn get(&self, id: &ContainerId) -> Option<Neighbour> {
        self.service.registry.get(id).and_then(|guarded| neighbour(&guarded, Vec::new()))
    }
}

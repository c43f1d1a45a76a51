//! Containers that run at one time under one id: of two engines on a node, or of two roots or namespaces of one engine. Ids are unique in
//! each of those alone. The daemon calls the later ones by another id; everybody else means one of them by what else is known of it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

use crate::daemon::registry::Guarded;
use crate::daemon::registry::Record;
use crate::kernel::process;
use crate::model::workload::ContainerId;

/// Bytes of an id that its alias keeps; the rest is for what makes it another.
const KEPT_BYTES: usize = 900;

/// The aliases of an id.
#[derive(Debug, Default)]
pub struct Aliases(BTreeMap<ContainerId, BTreeSet<ContainerId>>);

impl Aliases {
    /// Those of `id`.
    pub fn of(&self, id: &ContainerId) -> impl Iterator<Item = &ContainerId> {
        self.0.get(id).into_iter().flatten()
    }

    /// `record` is registered by its alias, if it has one.
    pub fn add(&mut self, record: &Record) {
        if let Some(alias) = &record.alias {
            self.0.entry(record.workload.container.id.clone()).or_default().insert(alias.clone());
        }
    }

    /// It is no more.
    pub fn remove(&mut self, record: &Record) {
        let Some(alias) = &record.alias else { return };
        let id = &record.workload.container.id;
        if let Some(aliases) = self.0.get_mut(id) {
            aliases.remove(alias);
            if aliases.is_empty() {
                self.0.remove(id);
            }
        }
    }
}

/// By what a container is called whose id another, `present`, has; `None` when that is the same or has ended, and gives its place.
#[must_use]
pub fn alias(record: &Record, present: &Guarded) -> Option<ContainerId> {
    let other = present.record();
    let differs =
        if record.pid != 0 && other.pid != 0 { record.pid != other.pid } else { record.bundle != other.bundle };
    if !differs || !present.runs() {
        return None;
    }
    let kept: String = record.workload.container.id.as_str().chars().take(KEPT_BYTES).collect();
    ContainerId::new(&format!("{kept}+{}", Uuid::now_v7())).ok()
}

/// Which of `all` is meant by a message about process `pid`, or from it: the one whose init it is, or that sees the same mounts; else the
/// first.
#[must_use]
pub fn with_process(all: &[Arc<Guarded>], pid: u32) -> Option<Arc<Guarded>> {
    let [first, _, ..] = all else { return all.first().cloned() };
    let inits: Vec<(u32, &Arc<Guarded>)> =
        all.iter().map(|guarded| (guarded.record().pid, guarded)).filter(|(init, _)| *init != 0).collect();
    let of_init = inits.iter().find(|(init, _)| *init == pid);
    let of_mounts = || {
        let mounts = process::namespace(pid, "mnt")?;
        inits.iter().find(|(init, _)| process::namespace(*init, "mnt") == Some(mounts))
    };
    Some(Arc::clone(of_init.or_else(of_mounts).map_or(first, |(_, guarded)| guarded)))
}

/// Which of `all` is meant by a message that one has ended.
#[must_use]
pub fn that_ended(all: &[Arc<Guarded>]) -> Option<Arc<Guarded>> {
    all.iter().find(|guarded| !guarded.runs()).or_else(|| all.first()).cloned()
}

//! Which containers' databases lie on which file systems, so that a call is looked for in the neighbours alone that it could concern:
//! most have no file system in common with any other.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;

use crate::model::workload::ContainerId;

/// Containers by the device numbers of the file systems that their databases lie on. A container is there as often as it has cases.
#[derive(Debug, Default)]
pub struct Neighbourhood(RwLock<HashMap<u64, BTreeMap<ContainerId, usize>>>);

impl Neighbourhood {
    /// The containers that have, or had a moment ago, a database on one of `devices`.
    #[must_use]
    pub fn on(&self, devices: &[u64]) -> BTreeSet<ContainerId> {
        let places = self.0.read().unwrap_or_else(PoisonError::into_inner);
        devices.iter().filter_map(|device| places.get(device)).flat_map(BTreeMap::keys).cloned().collect()
    }

    fn change(&self, container: &ContainerId, before: &BTreeSet<u64>, after: &BTreeSet<u64>) {
        let mut places = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for device in after.difference(before) {
            let count = places.entry(*device).or_default().entry(container.clone()).or_default();
            *count = count.saturating_add(1);
        }
        for device in before.difference(after) {
            let Some(there) = places.get_mut(device) else { continue };
            if let Some(count) = there.get_mut(container) {
                *count = count.saturating_sub(1);
            }
            there.retain(|_, count| *count > 0);
            if there.is_empty() {
                places.remove(device);
            }
        }
    }
}

/// Where the databases of one case lie, until it is dropped.
#[derive(Debug)]
pub struct Residence {
    neighbourhood: Arc<Neighbourhood>,
    container: ContainerId,
    devices: BTreeSet<u64>,
}

impl Residence {
    /// Of a case of `container` whose databases lie nowhere yet.
    #[must_use]
    pub fn new(neighbourhood: Arc<Neighbourhood>, container: ContainerId) -> Self {
        Self { neighbourhood, container, devices: BTreeSet::new() }
    }

    /// The databases lie on `devices` now.
    pub fn move_to(&mut self, devices: BTreeSet<u64>) {
        if devices != self.devices {
            self.neighbourhood.change(&self.container, &self.devices, &devices);
            self.devices = devices;
        }
    }
}

impl Drop for Residence {
    fn drop(&mut self) {
        self.move_to(BTreeSet::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_found_where_its_databases_lie_and_nowhere_when_its_last_case_is_gone() {
        let neighbourhood = Arc::new(Neighbourhood::default());
        let id = |name: &str| ContainerId::new(name).expect("an id");
        let enter = |name: &str, devices: [u64; 2]| {
            let mut residence = Residence::new(Arc::clone(&neighbourhood), id(name));
            residence.move_to(BTreeSet::from(devices));
            residence
        };
        let (mut first, second, again) = (enter("a", [1, 2]), enter("b", [2, 3]), enter("a", [2, 4]));
        assert_eq!(neighbourhood.on(&[2]), BTreeSet::from([id("a"), id("b")]));
        assert_eq!(neighbourhood.on(&[1, 9]), BTreeSet::from([id("a")]));
        first.move_to(BTreeSet::from([5]));
        assert_eq!(neighbourhood.on(&[1]), BTreeSet::new());
        assert_eq!(neighbourhood.on(&[2]), BTreeSet::from([id("a"), id("b")]), "the other case of it");
        drop((first, again));
        assert_eq!(neighbourhood.on(&[1, 2, 4, 5]), BTreeSet::from([id("b")]));
        drop(second);
        assert!(neighbourhood.0.read().expect("lock").is_empty());
    }
}

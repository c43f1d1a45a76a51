//! Databases of other guarded containers, which a call may lead to all the same: by another process's root (`/proc/PID/root`), in
//! another mount namespace (setns(2)), by a volume that two containers share, by a directory that came over a socket.

use std::sync::Arc;

use crate::model::attempt::ObjectId;
use crate::model::workload::ContainerId;
use crate::supervise::Recorder;
use crate::supervise::case::Case;
use crate::supervise::target::Place;

/// Another guarded container.
#[derive(Clone)]
pub struct Neighbour {
    /// Which.
    pub id: ContainerId,
    /// Its case: root, policy, acts.
    pub case: Arc<Case>,
    /// Where its events go.
    pub recorder: Arc<dyn Recorder>,
}

/// The guarded containers besides the one whose call is looked at.
pub trait Neighbours: Send + Sync {
    /// Those with a database, or a directory above one, on one of the file systems `devices`, as far as was known when their
    /// databases were read last. Most calls end here: each container's root is a file system of its own, as a rule.
    fn near(&self, devices: &[u64]) -> Vec<Neighbour>;

    /// The one with this id.
    fn get(&self, id: &ContainerId) -> Option<Neighbour>;
}

/// No other container.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Neighbours for Alone {
    fn near(&self, _: &[u64]) -> Vec<Neighbour> {
        Vec::new()
    }

    fn get(&self, _: &ContainerId) -> Option<Neighbour> {
        None
    }
}

/// The file systems that a place touches. An object of an overlay may show another device than its directory (fs/overlayfs/inode.c,
/// `ovl_map_dev_ino`).
#[must_use]
pub fn devices_of(place: &Place) -> Vec<u64> {
    let device = |id: ObjectId| id.device;
    let object = place.object.as_ref().map(|object| device(object.id));
    place.parent.map(device).into_iter().chain(object).collect()
}

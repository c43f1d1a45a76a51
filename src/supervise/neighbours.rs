//! Databases of other guarded containers, which a call may lead to all the same: by another process's root (`/proc/PID/root`), in
//! another mount namespace (setns(2)), by a volume that two containers share, by a directory that came over a socket.
//!
//! To look at them is to walk in that container's file systems, one of which may hang. So only those are looked at that lie on a
//! file system which the call touches itself, and none while somebody else has been looking at that container's for too long.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use crate::model::attempt::ObjectId;
use crate::model::database_path::DatabasePath;
use crate::model::event::Kind;
use crate::model::event::ProtectionChange;
use crate::model::event::Severity;
use crate::model::workload::ContainerId;
use crate::supervise::Recorder;
use crate::supervise::case::Case;
use crate::supervise::moment::Moment;
use crate::supervise::target::Place;

/// A look at a neighbour's databases that takes longer is taken for one that hangs.
const PATIENCE: Duration = Duration::from_secs(1);

/// Another guarded container.
#[derive(Clone)]
pub struct Neighbour {
    /// Which.
    pub id: ContainerId,
    /// Its case: root, policy, acts.
    pub case: Arc<Case>,
    /// Where its events go.
    pub recorder: Arc<dyn Recorder>,
    /// Its databases on the file systems that were asked about.
    pub databases: Vec<DatabasePath>,
}

/// Who looks at a container's databases on behalf of others, each since when.
#[derive(Debug, Default)]
pub struct Visits(Mutex<Inside>);

#[derive(Debug, Default)]
struct Inside {
    since: Vec<Instant>,
    /// Whether it was told that nobody looks any more.
    told: bool,
}

/// A look at a neighbour's databases, until it is dropped.
#[derive(Debug)]
pub struct Visit<'a> {
    visits: &'a Visits,
    since: Instant,
}

impl Visits {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins one. The error says whether this is the first that is turned away.
    fn begin(&self) -> Result<Visit<'_>, bool> {
        let mut inside = self.inside();
        if inside.since.iter().any(|since| since.elapsed() > PATIENCE) {
            return Err(!std::mem::replace(&mut inside.told, true));
        }
        inside.told = false;
        let since = Instant::now();
        inside.since.push(since);
        Ok(Visit { visits: self, since })
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        let mut inside = self.visits.inside();
        if let Some(position) = inside.since.iter().position(|since| *since == self.since) {
            inside.since.swap_remove(position);
        }
    }
}

impl Neighbour {
    /// Permission to look at its databases; `None` while somebody hangs there, which its events say once.
    #[must_use]
    pub fn visit(&self) -> Option<Visit<'_>> {
        let is_first = match self.case.visits.begin() {
            Ok(visit) => return Some(visit),
            Err(is_first) => is_first,
        };
        if is_first {
            let mut event = self.case.event(Kind::ProtectionDegraded, Severity::High, Moment::now());
            event.protection = Some(ProtectionChange {
                what: "attempts of other containers on its databases are not looked for".to_owned(),
                reason: "a file system on the way to one of its databases does not answer".to_owned(),
                remedy: Some("find the container's FUSE or network mount that hangs, and its server".to_owned()),
            });
            self.recorder.record_or_keep(event);
        }
        None
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_looks_where_somebody_hangs_and_that_is_told_once() {
        let visits = Visits::default();
        let first = visits.begin().expect("nobody is there");
        let second = visits.begin().expect("somebody who does not hang");
        drop(second);
        let hangs = Instant::now().checked_sub(2 * PATIENCE).expect("a time");
        visits.inside().since.push(hangs);
        assert_eq!(visits.begin().map(drop), Err(true));
        assert_eq!(visits.begin().map(drop), Err(false));
        visits.inside().since.retain(|since| *since != hangs);
        assert_eq!(visits.begin().map(drop), Ok(()));
        drop(first);
        assert!(visits.inside().since.is_empty());
    }
}

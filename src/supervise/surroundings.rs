//! What a case needs from outside: the databases as they are, and who still runs.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;

use crate::model::account::Databases;
use crate::model::database_path::DatabasePath;
use crate::supervise::actor::Acting;
use crate::supervise::baseline;
use crate::supervise::container_root::ContainerRoot;
use crate::supervise::databases;
use crate::supervise::databases::Devices;

/// What a case needs from outside; the real one is the container's root and `/proc`.
pub trait Surroundings: Send + Sync {
    /// The databases as they are.
    fn snapshot(&self, databases: &[DatabasePath]) -> Databases;

    /// The file systems that the databases and the directories above them lie on.
    fn devices(&self, databases: &[DatabasePath]) -> Devices;

    /// Goes on with the root directory of process `init` where that is another one by now: somebody called pivot_root(2).
    fn follow_root(&self, init: u32);

    /// Whether a process still runs.
    fn is_alive(&self, acting: &Acting) -> bool;

    /// Who process `pid` is, if it still runs.
    fn acting(&self, pid: u32, init: u32) -> Option<Acting>;
}

/// The container's root and `/proc`.
pub struct LiveSurroundings {
    /// The root, which may be replaced.
    pub root: Arc<RwLock<Arc<ContainerRoot>>>,
}

impl Surroundings for LiveSurroundings {
    fn snapshot(&self, databases: &[DatabasePath]) -> Databases {
        let root = Arc::clone(&self.root.read().unwrap_or_else(PoisonError::into_inner));
        baseline::snapshot(root.as_fd(), databases)
    }

    fn devices(&self, databases: &[DatabasePath]) -> Devices {
        let root = Arc::clone(&self.root.read().unwrap_or_else(PoisonError::into_inner));
        databases::devices(root.as_ref(), databases)
    }

    fn follow_root(&self, init: u32) {
        let Some(moved) = ContainerRoot::of_process(init) else { return };
        let mut root = self.root.write().unwrap_or_else(PoisonError::into_inner);
        if !moved.is_same_directory(&root) {
            *root = Arc::new(moved);
        }
    }

    fn is_alive(&self, acting: &Acting) -> bool {
        acting.is_alive()
    }

    fn acting(&self, pid: u32, init: u32) -> Option<Acting> {
        Acting::read(pid, init, None).ok()
    }
}

//! The policy in force for a container, exchangeable while calls are being decided.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;

use crate::model::policy::Applied;

/// The policy in force, exchangeable while it is used.
#[derive(Debug, Clone)]
pub struct LivePolicy(Arc<RwLock<Arc<Applied>>>);

impl LivePolicy {
    /// Starts with `applied`.
    #[must_use]
    pub fn new(applied: Applied) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(applied))))
    }

    /// The policy now.
    #[must_use]
    pub fn current(&self) -> Arc<Applied> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another in force, for the next call on.
    pub fn replace(&self, applied: Applied) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(applied);
    }
}

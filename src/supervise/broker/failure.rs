//! Why a call is not carried out.

use crate::kernel::broker::BrokerError;
use crate::kernel::broker::CredentialError;

/// Why a call could not be carried out, though the process itself might have.
#[derive(Debug, thiserror::Error)]
pub enum CannotCarryOut {
    /// The helper.
    #[error(transparent)]
    Helper(#[from] BrokerError),
    /// Whose call it is cannot be told.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// An argument that cannot be read or resolved.
    #[error("{0}")]
    Argument(String),
    /// Too many calls of this container wait already.
    #[error("{0} calls of this container wait for an open already")]
    TooManyWaiting(usize),
    /// Too many helpers work for this container, or hang in its file systems, already.
    #[error("{0} helper processes work for this container already, or hang in its file systems")]
    TooManyHelpers(usize),
}

impl CannotCarryOut {
    /// Whether the container itself brought it about: it could at any time it liked.
    #[must_use]
    pub fn is_the_containers_doing(&self) -> bool {
        matches!(self, Self::TooManyWaiting(_) | Self::TooManyHelpers(_))
    }
}

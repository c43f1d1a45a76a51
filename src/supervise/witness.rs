//! Who saw an attempt.

/// Who saw a sighting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witness {
    /// The seccomp notifier, before the call was let go or refused.
    Notify,
    /// Landlock, which refused the call in the kernel.
    Landlock {
        /// Name of the errno that the call ended with.
        errno: &'static str,
    },
}

impl Witness {
    /// As events name it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Notify => "notify",
            Self::Landlock { .. } => "landlock",
        }
    }

    /// Name of the errno that a refused call ends with.
    #[must_use]
    pub const fn errno(self) -> &'static str {
        match self {
            Self::Notify => "EPERM",
            Self::Landlock { errno } => errno,
        }
    }
}

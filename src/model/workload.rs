//! Who a container is, as far as its bundle tells: what policy matches on and every event carries.

use std::collections::BTreeMap;
use std::fmt;

use crate::model::event::Container;

/// Id of a container as the runtime knows it: 1 to 1024 bytes of `[A-Za-z0-9_+.-]`, not `.` or `..`
/// (the rule of runc's `validateID`, libcontainer/factory_linux.go).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

/// A text that is no container id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a container id; expected 1 to 1024 characters of A-Z a-z 0-9 _ + - .")]
pub struct ContainerIdError(String);

impl ContainerId {
    /// Checks `id`.
    ///
    /// # Errors
    /// [`ContainerIdError`] when it is empty, too long, `.`, `..`, or has another character than those allowed.
    pub fn new(id: &str) -> Result<Self, ContainerIdError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'+' | b'.' | b'-');
        let valid = (1..=1024).contains(&id.len()) && id.bytes().all(allowed) && id != "." && id != "..";
        if valid { Ok(Self(id.to_owned())) } else { Err(ContainerIdError(id.chars().take(80).collect())) }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ContainerId {
    type Error = ContainerIdError;
    fn try_from(id: String) -> Result<Self, Self::Error> {
        Self::new(&id)
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Everything a policy may match on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Workload {
    /// What events call the container.
    pub container: Container,
    /// All annotations of the bundle's `config.json`.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Cluster name from the node's configuration.
    #[serde(default)]
    pub cluster: Option<String>,
    /// All capabilities, or an engine's annotation that says so.
    #[serde(default)]
    pub privileged: bool,
}

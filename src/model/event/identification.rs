//! What an engine tells of a container after its creation was recorded.

use serde::Deserialize;
use serde::Serialize;
use uuid::Uuid;

use crate::model::event::CreationVerdict;

/// Which creation the event's `container` completes. There is one such event of a container at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identification {
    /// Id of the `container.created` event.
    pub creation: Uuid,
    /// What policy thinks of the creation by what is known now; absent where that event is gone. It refuses nothing any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<CreationVerdict>,
}

impl Identification {
    /// The id of the event that completes the creation event `creation`: that one's with its last bit turned, a UUIDv7 as well
    /// (RFC 9562 §5.7). Whoever tells it, and tells it again, tells the same event.
    #[must_use]
    pub const fn id_for(creation: Uuid) -> Uuid {
        Uuid::from_u128(creation.as_u128() ^ 1)
    }
}

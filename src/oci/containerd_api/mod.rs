//! What containerd tells of a container by its socket and not by a bundle: which image it was made of, and that image's digest.
//!
//! containerd keeps both in a database of its own (`meta.db`), which it holds locked while it runs; its interface is the way to ask
//! (`api/services/containers/v1`, `api/services/images/v1`, the same in containerd 1.x and 2.x).

use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::model::workload::ContainerId;

pub mod protobuf;
pub mod unary_call;

use crate::oci::containerd_api::protobuf::Fields;
use crate::oci::containerd_api::protobuf::Malformed;
use crate::oci::containerd_api::unary_call::CallError;
use crate::oci::containerd_api::unary_call::Connection;

const GET_CONTAINER: &str = "/containerd.services.containers.v1.Containers/Get";
const GET_IMAGE: &str = "/containerd.services.images.v1.Images/Get";
/// Most characters of a digest: `sha512:` and its digits.
const MAX_DIGEST_CHARACTERS: usize = 135;

/// Why containerd told nothing.
#[derive(Debug, thiserror::Error)]
pub enum ContainerdError {
    /// No answer.
    #[error("containerd does not tell of a container")]
    Call(#[from] CallError),
    /// One that is none.
    #[error("containerd's answer is not understood")]
    Malformed(#[from] Malformed),
}

/// What containerd has of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The image's name in containerd, as a rule its reference; `None`: it was made of a folder, not of an image.
    pub image: Option<String>,
    /// The digest that this name stands for, unless the name was given to another since the container was made.
    pub digest: Option<String>,
}

/// Asks the containerd at the other end of `stream`, for `limit` at most.
///
/// # Errors
/// [`ContainerdError`].
pub fn ask(stream: UnixStream, namespace: &str, id: &ContainerId, limit: Duration) -> Result<Stored, ContainerdError> {
    let mut connection = Connection::begin(stream, limit)?;
    let metadata = [("containerd-namespace", namespace)];
    let answer = connection.call(GET_CONTAINER, &metadata, &protobuf::field(1, id.as_str().as_bytes()))?;
    let container = container(&answer)?;
    let Some(image) = container.image else { return Ok(Stored { image: None, digest: None }) };
    let digest = match connection.call(GET_IMAGE, &metadata, &protobuf::field(1, image.as_bytes())) {
        Ok(answer) => digest(&answer, container.created_at)?,
        // it was removed, which no container prevents
        Err(CallError::Refused) => None,
        Err(error) => return Err(error.into()),
    };
    Ok(Stored { image: Some(image), digest })
}

/// Seconds and nanoseconds.
pub type Moment = (u64, u64);

/// What a `GetContainerResponse` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownContainer {
    /// The image's name.
    pub image: Option<String>,
    /// When the container was made.
    pub created_at: Moment,
}

/// Reads a `GetContainerResponse` (`containers.proto`).
///
/// # Errors
/// [`Malformed`].
pub fn container(answer: &[u8]) -> Result<KnownContainer, Malformed> {
    let container = Fields::of(answer).message(1)?;
    Ok(KnownContainer { image: container.text(3)?.map(ToOwned::to_owned), created_at: moment(container.message(8)?)? })
}

/// The digest in a `GetImageResponse` (`images.proto`, `descriptor.proto`). A name that was changed after `created_at` may have stood
/// for another image then.
///
/// # Errors
/// [`Malformed`].
pub fn digest(answer: &[u8], created_at: Moment) -> Result<Option<String>, Malformed> {
    let image = Fields::of(answer).message(1)?;
    let digest = image.message(3)?.text(2)?.filter(|digest| is_digest(digest));
    let updated_at = moment(image.message(8)?)?;
    Ok(digest.filter(|_| updated_at <= created_at).map(ToOwned::to_owned))
}

/// A `google.protobuf.Timestamp`.
fn moment(timestamp: Fields<'_>) -> Result<Moment, Malformed> {
    Ok((timestamp.number(1)?, timestamp.number(2)?))
}

/// `algorithm:digits` (opencontainers/image-spec `descriptor.md`, "Digests").
fn is_digest(text: &str) -> bool {
    let is_hexadecimal = |digits: &str| digits.len() >= 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_algorithm = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    text.len() <= MAX_DIGEST_CHARACTERS
        && text.split_once(':').is_some_and(|(algorithm, digits)| is_algorithm(algorithm) && is_hexadecimal(digits))
}

#[cfg(test)]
mod tests;

//! The container state that a runtime writes to a hook's standard input (runtime-spec runtime.md "State", config.md "Hooks").

use std::collections::BTreeMap;
use std::io;
use std::io::Read;
use std::path::PathBuf;

use serde::Deserialize;

/// Largest state that is read. A runtime-spec state is a few kilobytes and the container's annotations.
pub const MAX_STATE_BYTES: u64 = 4 * 1024 * 1024;

/// A container's state, tolerant: unknown members are ignored, and only the id must be there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct State {
    /// `id`.
    pub id: String,
    /// `status`: `creating`, `created`, `running`, `stopped`, or what the runtime says.
    #[serde(default)]
    pub status: String,
    /// `pid` of the container's init as the runtime sees it; 0 or absent when it does not tell.
    #[serde(default, deserialize_with = "lenient_pid")]
    pub pid: u32,
    /// `bundle`, as given.
    #[serde(default)]
    pub bundle: PathBuf,
    /// `root`, which crun adds.
    #[serde(default)]
    pub root: Option<PathBuf>,
    /// `annotations`.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn lenient_pid<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let pid = Option::<i64>::deserialize(deserializer)?.unwrap_or(0);
    Ok(u32::try_from(pid).unwrap_or(0))
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Why a state could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The input.
    #[error("read the container state from standard input; hooks are run by an OCI runtime, which writes it")]
    Read(#[source] io::Error),
    /// Too large. Nothing beyond the bound was read.
    #[error("the container state on standard input is larger than {} MiB; look for oversized annotations", MAX_STATE_BYTES / 1024 / 1024)]
    TooLarge,
    /// No state.
    #[error(
        "the container state on standard input is not valid; expected the JSON object of runtime-spec's runtime.md"
    )]
    Malformed(#[source] serde_json::Error),
}

/// Reads a state, at most [`MAX_STATE_BYTES`].
///
/// # Errors
/// [`StateError`].
pub fn read(input: impl Read) -> Result<State, StateError> {
    let mut bytes = Vec::new();
    input.take(MAX_STATE_BYTES + 1).read_to_end(&mut bytes).map_err(StateError::Read)?;
    parse(&bytes)
}

/// Parses a state.
///
/// # Errors
/// [`StateError::TooLarge`], [`StateError::Malformed`].
pub fn parse(bytes: &[u8]) -> Result<State, StateError> {
    if bytes.len() as u64 > MAX_STATE_BYTES {
        return Err(StateError::TooLarge);
    }
    serde_json::from_slice(bytes).map_err(StateError::Malformed)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn reads_what_runtimes_write() {
        let runc = br#"{"ociVersion":"1.0.2-dev","id":"c1","status":"creating","pid":24986,"bundle":"/run/b","annotations":{"a":"b"}}"#;
        let state = parse(runc).expect("parses");
        assert_eq!((state.id.as_str(), state.pid, state.status.as_str()), ("c1", 24986, "creating"));
        assert_eq!(state.annotations["a"], "b");
        let crun = br#"{"id":"c2","pid":0,"root":"\/run\/r","bundle":"\/run\/b","status":"stopped","annotations":null,"new":[1]}"#;
        let state = parse(crun).expect("parses");
        assert_eq!((state.bundle, state.root), (PathBuf::from("/run/b"), Some(PathBuf::from("/run/r"))));
        assert_eq!(parse(br#"{"id":"c3"}"#).expect("parses").pid, 0);
    }

    #[test]
    fn refuses_what_is_no_state() {
        for text in ["", "null", "[]", "{}", r#"{"id":1}"#, r#"{"id":"a""#, r#"{"id":"a","annotations":{"a":1}}"#] {
            assert!(matches!(parse(text.as_bytes()), Err(StateError::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn a_huge_state_is_not_read_to_its_end() {
        struct Endless<'a>(&'a Cell<u64>);
        impl Read for Endless<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                buffer.fill(b' ');
                self.0.set(self.0.get() + buffer.len() as u64);
                Ok(buffer.len())
            }
        }
        let served = Cell::new(0);
        let input = Endless(&served).take(100 * 1024 * 1024);
        assert!(matches!(read(input), Err(StateError::TooLarge)));
        assert!(served.get() <= 2 * MAX_STATE_BYTES, "{} bytes were read", served.get());
    }
}

//! The message that comes with a seccomp listener (runtime-spec config-linux.md "The Container Process State"), parsed from a
//! stream: it is complete as soon as its JSON object ends. The sender may keep the connection open for as long as it
//! lives (runc before 1.2), so nobody may wait for the end of file.

use serde::Deserialize;

use crate::oci::hook_state::State;
use crate::oci::launcher_listener;
use crate::oci::launcher_words::DECLINED;
use crate::oci::launcher_words::OF_EXEC;
use crate::oci::launcher_words::SECCOMP_FD_NAME;

/// Largest message; a state's annotations may be long.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// A container process's state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ListenerState {
    /// `ociVersion`: that of the specification; crun says `0.2.0`.
    #[serde(default, rename = "ociVersion")]
    pub oci_version: String,
    /// `fds`: names of the descriptors, in the order sent.
    #[serde(default)]
    pub fds: Vec<String>,
    /// `pid` of the process the filter is for; 0 from crun for an exec.
    #[serde(default, deserialize_with = "lenient_pid")]
    pub pid: u32,
    /// `metadata`: the profile's `listenerMetadata`.
    #[serde(default)]
    pub metadata: Option<String>,
    /// `state` of the container. crun sends pid 0 and bundle `.` for an exec.
    pub state: State,
}

fn lenient_pid<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let pid = Option::<i64>::deserialize(deserializer)?.unwrap_or(0);
    Ok(u32::try_from(pid).unwrap_or(0))
}

impl ListenerState {
    /// Why the launcher makes no listener of its own, where this says so.
    #[must_use]
    pub fn declined(&self) -> Option<&str> {
        self.metadata.as_deref().filter(|_| self.fds.is_empty())?.strip_prefix(DECLINED)
    }

    /// Id of the recorded `container.exec` event, where a launcher tells one.
    #[must_use]
    pub fn exec_event(&self) -> Option<&str> {
        self.metadata.as_deref()?.strip_prefix(OF_EXEC)
    }

    /// Whether the listener gives way to the launcher's when that asks for it.
    #[must_use]
    pub fn gives_way(&self) -> bool {
        self.metadata.as_deref() == Some(launcher_listener::METADATA)
    }

    /// Index of the listener among the descriptors sent.
    #[must_use]
    pub fn seccomp_fd_index(&self) -> Option<usize> {
        self.fds.iter().position(|name| name == SECCOMP_FD_NAME)
    }
}

/// How far a message has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// More is to come.
    Incomplete,
    /// It is all there.
    Complete(Box<ListenerState>),
}

/// Why a message is none.
#[derive(Debug, thiserror::Error)]
pub enum ListenerStateError {
    /// Too long.
    #[error("the message beside a seccomp listener is longer than {} KiB; look for oversized annotations", MAX_MESSAGE_BYTES / 1024)]
    TooLong,
    /// Not the object of the specification.
    #[error(
        "the message beside a seccomp listener is not valid; expected the JSON object of runtime-spec's config-linux.md"
    )]
    Malformed(#[source] serde_json::Error),
}

/// Looks at what has been received so far; call it again with more. What follows the object is not looked at.
///
/// # Errors
/// [`ListenerStateError`]; the connection is then to be closed.
pub fn parse_prefix(bytes: &[u8]) -> Result<Progress, ListenerStateError> {
    let mut stream = serde_json::Deserializer::from_slice(bytes).into_iter::<ListenerState>();
    let parsed = match stream.next() {
        Some(Ok(state)) => Ok(Progress::Complete(Box::new(state))),
        None => Ok(Progress::Incomplete),
        Some(Err(error)) if error.is_eof() => Ok(Progress::Incomplete),
        Some(Err(error)) => Err(ListenerStateError::Malformed(error)),
    };
    if stream.byte_offset() > MAX_MESSAGE_BYTES || bytes.len() > MAX_MESSAGE_BYTES && parsed.is_ok() {
        return Err(ListenerStateError::TooLong);
    }
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::launcher_words::declined;
    use crate::oci::launcher_words::of_launcher;

    const RUNC: &str = r#"{"ociVersion":"1.0.2-dev","fds":["seccompFd"],"pid":31337,"metadata":"acctguard/1","state":{"ociVersion":"1.0.2-dev","id":"c1","status":"creating","pid":31337,"bundle":"/run/b","annotations":{"a":"}"}}}"#;
    const CRUN: &str = "{\n  \"ociVersion\": \"0.2.0\",\n  \"fds\": [\n    \"seccompFd\"\n  ],\n  \"pid\": 0,\n  \"metadata\": \"acctguard\\/1\",\n  \"state\": {\n    \"ociVersion\": \"0.2.0\",\n    \"id\": \"c2\",\n    \"status\": \"running\",\n    \"pid\": 0,\n    \"bundle\": \".\",\n    \"annotations\": {}\n  }\n}";

    #[test]
    fn complete_at_the_closing_brace_and_not_before() {
        for text in [RUNC, CRUN] {
            for length in 0..text.len() {
                let progress = parse_prefix(&text.as_bytes()[..length]).expect("a prefix is no error");
                assert_eq!(progress, Progress::Incomplete, "{length} bytes of {text}");
            }
            for tail in ["", "\0", "\n", "garbage", "{"] {
                let progress = parse_prefix(format!("{text}{tail}").as_bytes()).expect("parses");
                let Progress::Complete(state) = progress else { panic!("complete with tail {tail:?}") };
                assert_eq!(state.seccomp_fd_index(), Some(0));
                assert_eq!(state.metadata.as_deref(), Some("acctguard/1"));
            }
        }
    }

    #[test]
    fn crun_exec_has_no_pid() {
        let Ok(Progress::Complete(state)) = parse_prefix(CRUN.as_bytes()) else { panic!("parses") };
        assert_eq!((state.pid, state.state.pid, state.state.id.as_str()), (0, 0, "c2"));
    }

    #[test]
    fn what_the_launcher_sends_is_a_state() {
        let parsed = |text: String| match parse_prefix(text.as_bytes()) {
            Ok(Progress::Complete(state)) => *state,
            other => panic!("{other:?}"),
        };
        assert_eq!(parsed(of_launcher("c3", Some("an event"))).exec_event(), Some("an event"));
        let listener = parsed(of_launcher("c3", None));
        assert_eq!((listener.state.id.as_str(), listener.pid, listener.seccomp_fd_index()), ("c3", 0, Some(0)));
        assert!(!listener.gives_way() && listener.declined().is_none() && listener.exec_event().is_none());
        let declined = parsed(declined("c3", "why \"not\""));
        assert_eq!((declined.declined(), declined.seccomp_fd_index()), (Some("why \"not\""), None));
        assert!(!declined.gives_way());
    }

    #[test]
    fn hostile_messages() {
        for text in ["[]", "x", r#"{"fds":3}"#, r#"{"state":{"id":7}}"#, r#"{"pid":1}"#] {
            assert!(matches!(parse_prefix(text.as_bytes()), Err(ListenerStateError::Malformed(_))), "{text}");
        }
        let long = format!(r#"{{"metadata":"{}"#, "a".repeat(MAX_MESSAGE_BYTES));
        assert!(matches!(parse_prefix(long.as_bytes()), Err(ListenerStateError::TooLong)));
        let deep = format!(r#"{{"x":{}"#, "[".repeat(100_000));
        assert_eq!(parse_prefix(deep.as_bytes()).expect("not complete"), Progress::Incomplete);
    }
}

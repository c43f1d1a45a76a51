//! Container states, beside a listener and on a hook's input: complete when they are, and no earlier.

use acctguard::oci::hook_state;
use acctguard::oci::listener_state::{ListenerState, Progress, parse_prefix};

/// What came so far.
pub fn check(data: &[u8]) {
    listener(data);
    if let Ok(state) = hook_state::parse(data) {
        let spaced = [b" ", data, b"\n"].concat();
        assert_eq!(hook_state::parse(&spaced).ok().as_ref(), Some(&state), "white space changes a state");
        let held = state.id.len()
            + state.status.len()
            + state.annotations.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        assert!(held <= data.len());
    }
}

fn listener(data: &[u8]) {
    match parse_prefix(data) {
        Ok(Progress::Complete(state)) => {
            for tail in [&b" "[..], b"\0", b"{", b"}\n"] {
                let longer = parse_prefix(&[data, tail].concat());
                assert!(
                    matches!(longer, Ok(Progress::Complete(same)) if same == state),
                    "what follows changes a state"
                );
            }
            bounded(&state, data.len());
        }
        // what is not complete was not complete before: a number is none yet, or no more, and never a state
        Ok(Progress::Incomplete) => {
            for length in [data.len() / 2, data.len().saturating_sub(1)] {
                assert!(!matches!(parse_prefix(&data[..length]), Ok(Progress::Complete(_))), "{length}");
            }
        }
        Err(_) => {}
    }
}

fn bounded(state: &ListenerState, length: usize) {
    assert!(state.fds.iter().map(String::len).sum::<usize>() + state.state.id.len() <= length);
    assert!(state.seccomp_fd_index().is_none_or(|index| index < state.fds.len()));
}

//! The control protocol: what is read is written as it was read, and nothing of a client's is read without bound.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use acctguard::control::codec::{self, CodecError, LineReader};
use acctguard::control::{Request, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

const LIMIT: Duration = Duration::from_secs(5);
/// Less than a socket takes without a reader.
const MAX_INPUT_BYTES: usize = 64 * 1024;

/// Lines, as a client or the daemon sends them.
pub fn check(data: &[u8]) {
    if data.len() > MAX_INPUT_BYTES {
        return;
    }
    every_line::<Request>(data);
    every_line::<Response>(data);
}

fn every_line<T: Serialize + DeserializeOwned>(data: &[u8]) {
    let (mut here, there) = UnixStream::pair().expect("a pair of sockets");
    here.write_all(data).expect("room for it");
    drop(here);
    let mut reader = LineReader::default();
    for _ in 0..=data.len() {
        match reader.receive::<T>(&there, Some(LIMIT)) {
            Ok(message) => round_trip(&message),
            Err(CodecError::Malformed(_)) => {}
            Err(CodecError::Closed) => return,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("more lines than bytes");
}

fn round_trip<T: Serialize + DeserializeOwned>(message: &T) {
    let (here, there) = UnixStream::pair().expect("a pair of sockets");
    let before = serde_json::to_value(message).expect("a message has a JSON form");
    codec::send(&here, message, LIMIT).expect("sent");
    let back = LineReader::default().receive::<T>(&there, Some(LIMIT)).expect("what was written can be read");
    assert_eq!(serde_json::to_value(back).expect("as before"), before);
}

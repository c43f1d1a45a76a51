//! containerd's answers: frames of HTTP/2 as they come, and the messages in them.

use acctguard::oci::containerd_api::protobuf::{Fields, Value, field};
use acctguard::oci::containerd_api::unary_call::{FrameHeader, Reply};
use acctguard::oci::containerd_api::{container, digest};

/// What a connection gave, and what a message might be.
pub fn check(data: &[u8]) {
    let mut reply = Reply::to(1);
    let mut rest = data;
    while let Some((header, after)) = rest.split_first_chunk::<9>() {
        let (length, header) = FrameHeader::read(*header);
        let Some((payload, after)) = after.split_at_checked(length) else { break };
        rest = after;
        if reply.take(header, payload).is_err() || reply.has_ended() {
            break;
        }
    }
    if let Ok(message) = reply.message() {
        assert!(message.len() + 14 <= data.len(), "after a frame's head and a message's");
        read(&message);
    }
    read(data);
}

fn read(message: &[u8]) {
    let content: usize = Fields::of(message)
        .map_while(Result::ok)
        .map(|(_, value)| if let Value::Bytes(bytes) = value { bytes.len() + 2 } else { 2 })
        .sum();
    assert!(content <= message.len(), "nothing is read twice");
    // what is put into a field comes out of it
    assert_eq!(Fields::of(&field(3, message)).bytes(3), Ok(message));
    if let Ok(Some(found)) = digest(message, (u64::MAX, u64::MAX)) {
        super::assert_shown_safely(&found);
        assert!(message.windows(found.len()).any(|part| part == found.as_bytes()));
    }
    if let Ok(known) = container(message) {
        assert!(known.image.is_none_or(|image| image.len() <= message.len()));
    }
}

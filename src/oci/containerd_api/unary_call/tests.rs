use std::os::unix::net::UnixStream;

use super::*;

fn header(kind: u8, flags: u8, stream: u32) -> FrameHeader {
    FrameHeader { kind, flags, stream }
}

fn message_of(body: &[u8]) -> Result<Vec<u8>, CallError> {
    let mut reply = Reply::to(1);
    reply.take(header(DATA, END_STREAM, 1), body)?;
    assert!(reply.has_ended());
    reply.message()
}

#[test]
fn a_message_in_parts_padded_and_between_other_frames_is_put_together() {
    let mut reply = Reply::to(3);
    let settings = reply.take(header(SETTINGS, 0, 0), &[0, 3, 0, 0, 0, 100]).expect("taken");
    assert_eq!(settings, Some(vec![0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0]));
    assert_eq!(reply.take(header(SETTINGS, ACK, 0), &[]).expect("taken"), None);
    let ping = reply.take(header(PING, 0, 0), b"12345678").expect("taken").expect("answered");
    assert!(ping.ends_with(b"12345678"));
    reply.take(header(DATA, 0, 1), b"of the call before").expect("taken");
    reply.take(header(HEADERS, END_HEADERS, 3), &[0x88]).expect("taken");
    reply.take(header(DATA, PADDED, 3), &[2, 0, 0, 0, 0, 5, b'h', 9, 9]).expect("taken");
    reply.take(header(DATA, 0, 3), b"ello").expect("taken");
    assert!(!reply.has_ended());
    reply.take(header(HEADERS, END_HEADERS | END_STREAM, 3), &[]).expect("taken");
    assert!(reply.has_ended());
    assert_eq!(reply.message().expect("whole"), b"hello");
}

#[test]
fn an_answer_without_a_message_is_a_refusal_and_half_a_one_is_none() {
    assert!(matches!(message_of(b""), Err(CallError::Refused)));
    assert_eq!(message_of(&[0, 0, 0, 0, 0]).expect("empty"), b"");
    for wrong in [&[0_u8, 0, 0, 0, 2, 1][..], &[1, 0, 0, 0, 1, 1], &[0, 0xFF, 0xFF, 0xFF, 0xFF], &[0, 0, 0, 0, 0, 1]] {
        assert!(matches!(message_of(wrong), Err(CallError::Malformed(_))), "{wrong:x?}");
    }
    for (kind, stream) in [(RST_STREAM, 1), (GOAWAY, 0)] {
        assert!(matches!(Reply::to(1).take(header(kind, 0, stream), &[0; 8]), Err(CallError::Refused)));
    }
    assert!(matches!(Reply::to(1).take(header(DATA, PADDED, 1), &[9]), Err(CallError::Malformed(_))));
}

#[test]
fn an_endless_answer_ends() {
    let mut reply = Reply::to(1);
    let part = vec![0; MAX_FRAME_BYTES];
    let outcome = (0..1000).find_map(|_| reply.take(header(DATA, 0, 1), &part).err());
    assert!(matches!(outcome, Some(CallError::Malformed(_))));
}

#[test]
fn lengths_of_texts_are_written_as_the_standard_s_examples() {
    for (length, expected) in [(0, vec![0]), (126, vec![126]), (127, vec![127, 0]), (1337, vec![127, 0xBA, 9])] {
        let mut block = Vec::new();
        put_string(&mut block, &"x".repeat(length));
        assert_eq!(block[..block.len() - length], expected, "{length}");
    }
}

#[test]
fn silence_hanging_up_and_nonsense_end_a_call_in_time() {
    let begun = Instant::now();
    let limit = Duration::from_millis(100);
    let (own, other) = UnixStream::pair().expect("pair");
    let mut connection = Connection::begin(own, limit).expect("begins");
    assert!(matches!(connection.call("/x", &[], b""), Err(CallError::TimedOut)));
    drop(other);
    let (own, other) = UnixStream::pair().expect("pair");
    let mut connection = Connection::begin(own, limit).expect("begins");
    drop(other);
    assert!(matches!(connection.call("/x", &[], b""), Err(CallError::Connection(_))));
    let (own, mut other) = UnixStream::pair().expect("pair");
    other.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("write");
    let mut connection = Connection::begin(own, limit).expect("begins");
    assert!(matches!(connection.call("/x", &[], b""), Err(CallError::Malformed(_))));
    assert!(matches!(connection.call("/x", &[], &[0; 20_000]), Err(CallError::Question(_))));
    assert!(begun.elapsed() < Duration::from_secs(5));
}

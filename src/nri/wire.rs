//! The bytes of a connection to an engine: frames of two lanes on one socket (containerd/nri `pkg/net/multiplex`), and in each lane the
//! messages of ttrpc (containerd/ttrpc PROTOCOL.md). All numbers are big-endian.
//!
//! Both lengths are bounded before anything is kept; what does not fit is an error, after which the connection is of no use.

use std::io;
use std::io::Read;

/// Longest payload of a message (ttrpc `messageLengthMax`).
pub const MAX_PAYLOAD_BYTES: usize = 4 << 20;
const MESSAGE_HEADER_BYTES: usize = 10;
const FRAME_HEADER_BYTES: usize = 8;
/// Longest frame that an engine sends (nri `maxPayloadSize`).
const MAX_FRAME_BYTES: usize = MESSAGE_HEADER_BYTES + MAX_PAYLOAD_BYTES;
/// Longest frame that is sent: the engine reads a frame at once into a buffer of this size (Go's bufio), and fails when it is longer.
const MAX_SENT_FRAME_BYTES: usize = 4096;

/// One of the two connections on the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// The engine calls the plugin.
    Plugin,
    /// The plugin calls the engine.
    Runtime,
}

impl Lane {
    const fn number(self) -> u32 {
        match self {
            Self::Plugin => 1,
            Self::Runtime => 2,
        }
    }
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A call.
    Request,
    /// An answer.
    Response,
    /// A part of a stream.
    Data,
}

impl Kind {
    const fn of(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Request),
            2 => Some(Self::Response),
            3 => Some(Self::Data),
            _ => None,
        }
    }

    const fn byte(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Data => 3,
        }
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it came, or is to go.
    pub lane: Lane,
    /// Number of the call.
    pub stream: u32,
    /// What it is.
    pub kind: Kind,
    /// Of streams; unused here.
    pub flags: u8,
    /// [`crate::nri::messages::Request`] or [`crate::nri::messages::Response`].
    pub payload: Vec<u8>,
}

/// Why a connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The socket.
    #[error("read from the engine's NRI socket")]
    Read(#[source] io::Error),
    /// It ended within a frame or a message.
    #[error("the engine's NRI connection ended within a {0}")]
    Cut(&'static str),
    /// A length beyond what the protocol allows.
    #[error(
        "the engine announced a {what} of {length} bytes on its NRI connection, more than {limit}; is it an NRI socket"
    )]
    TooLong {
        /// Of what.
        what: &'static str,
        /// As announced.
        length: usize,
        /// As allowed.
        limit: usize,
    },
    /// A kind of message that ttrpc does not have.
    #[error(
        "the engine sent a message of kind {0} on its NRI connection, which ttrpc does not have; is it an NRI socket"
    )]
    Kind(u8),
}

/// What comes from an engine, message by message.
#[derive(Debug)]
pub struct Inbox<R> {
    socket: R,
    plugin: Vec<u8>,
    runtime: Vec<u8>,
}

impl<R: Read> Inbox<R> {
    /// Of a connection on which nothing was read yet.
    pub const fn new(socket: R) -> Self {
        Self { socket, plugin: Vec::new(), runtime: Vec::new() }
    }

    /// The next message; `None` when the engine closed the connection between two.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn receive(&mut self) -> Result<Option<Message>, WireError> {
        loop {
            for (lane, bytes) in [(Lane::Plugin, &mut self.plugin), (Lane::Runtime, &mut self.runtime)] {
                if let Some(message) = take_message(lane, bytes)? {
                    return Ok(Some(message));
                }
            }
            if !self.receive_frame()? {
                let whole = self.plugin.is_empty() && self.runtime.is_empty();
                return if whole { Ok(None) } else { Err(WireError::Cut("message")) };
            }
        }
    }

    /// Reads one frame; false at the end. Frames of other lanes are skipped, as the engine's side does.
    fn receive_frame(&mut self) -> Result<bool, WireError> {
        let header = self.read(FRAME_HEADER_BYTES)?;
        let Some((lane, rest)) = take_number(&header) else {
            return if header.is_empty() { Ok(false) } else { Err(WireError::Cut("frame")) };
        };
        let length = take_number(rest).map(|(length, _)| length as usize).ok_or(WireError::Cut("frame"))?;
        if length > MAX_FRAME_BYTES {
            return Err(WireError::TooLong { what: "frame", length, limit: MAX_FRAME_BYTES });
        }
        let bytes = self.read(length)?;
        if bytes.len() < length {
            return Err(WireError::Cut("frame"));
        }
        if lane == Lane::Plugin.number() {
            self.plugin.extend(bytes);
        } else if lane == Lane::Runtime.number() {
            self.runtime.extend(bytes);
        }
        Ok(true)
    }

    /// So many bytes, or what there is before the end.
    fn read(&mut self, length: usize) -> Result<Vec<u8>, WireError> {
        let mut bytes = Vec::new();
        self.socket.by_ref().take(length as u64).read_to_end(&mut bytes).map_err(WireError::Read)?;
        Ok(bytes)
    }
}

/// Takes a whole message from the front of what came in a lane. What is kept of one that is not whole is bounded: its header is
/// looked at first.
fn take_message(lane: Lane, bytes: &mut Vec<u8>) -> Result<Option<Message>, WireError> {
    let Some((length, rest)) = take_number(bytes) else { return Ok(None) };
    let length = length as usize;
    if length > MAX_PAYLOAD_BYTES {
        return Err(WireError::TooLong { what: "message", length, limit: MAX_PAYLOAD_BYTES });
    }
    let Some((stream, [kind, flags, payload @ ..])) = take_number(rest) else { return Ok(None) };
    let kind = Kind::of(*kind).ok_or(WireError::Kind(*kind))?;
    let Some(payload) = payload.get(..length) else { return Ok(None) };
    let message = Message { lane, stream, kind, flags: *flags, payload: payload.to_vec() };
    bytes.drain(..MESSAGE_HEADER_BYTES + length);
    Ok(Some(message))
}

fn take_number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u32::from_be_bytes(*number), rest))
}

/// The bytes of a message on the socket; `None` when it is too long for the protocol.
#[must_use]
pub fn encode(message: &Message) -> Option<Vec<u8>> {
    let length = u32::try_from(message.payload.len()).ok().filter(|length| *length as usize <= MAX_PAYLOAD_BYTES)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(message.stream.to_be_bytes());
    bytes.extend([message.kind.byte(), message.flags]);
    bytes.extend(&message.payload);
    let frames = bytes.chunks(MAX_SENT_FRAME_BYTES).flat_map(|frame| {
        // at most MAX_SENT_FRAME_BYTES
        let length = u32::try_from(frame.len()).unwrap_or_default();
        [&message.lane.number().to_be_bytes(), &length.to_be_bytes(), frame].concat()
    });
    Some(frames.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(bytes: &[u8]) -> Result<Vec<Message>, WireError> {
        let mut inbox = Inbox::new(bytes);
        std::iter::from_fn(|| inbox.receive().transpose()).collect()
    }

    #[test]
    fn a_call_of_containerd_is_read() {
        // lane 1: a frame with the 10 bytes of the header, and one with the payload
        let bytes = b"\0\0\0\x01\0\0\0\x0a\0\0\0\x03\0\0\0\x01\x01\0\0\0\0\x01\0\0\0\x03abc";
        let message =
            Message { lane: Lane::Plugin, stream: 1, kind: Kind::Request, flags: 0, payload: b"abc".to_vec() };
        assert_eq!(all(bytes).expect("reads"), [message]);
    }

    #[test]
    fn what_is_no_nri_is_one_line() {
        for (bytes, words) in [
            (b"HTTP/1.1 400 Bad Request\r\n".as_slice(), "announced a frame"),
            (b"\0\0\0\x01\0\0\0\x04\xff\xff\xff\xff", "announced a message of 4294967295"),
            (b"\0\0\0\x01\0\0\0\x0a\0\0\0\0\0\0\0\x01\x07\0", "kind 7"),
            (b"\0\0\0\x01\0\0\0\x0a\0\0\0\x05\0\0\0\x01\x01\0", "within a message"),
            (b"\0\0\0", "within a frame"),
            (b"\0\0\0\x01\0\0\0\x0a\0", "within a frame"),
        ] {
            let error = all(bytes).expect_err(words).to_string();
            assert!(error.contains(words) && !error.contains('\n'), "{error}");
        }
        assert!(all(b"").expect("nothing").is_empty());
        assert!(all(b"\0\0\0\x09\0\0\0\x02xx").expect("another lane").is_empty());
    }

    #[test]
    fn frames_fit_the_engines_buffer_and_messages_the_protocol() {
        let message = |length| Message {
            lane: Lane::Runtime,
            stream: 3,
            kind: Kind::Response,
            flags: 0,
            payload: vec![7; length],
        };
        let bytes = encode(&message(10_000)).expect("fits");
        let mut rest = bytes.as_slice();
        while let [0, 0, 0, 2, 0, 0, high, low, frame @ ..] = rest {
            let length = usize::from(*high) << 8 | usize::from(*low);
            assert!(length <= MAX_SENT_FRAME_BYTES);
            rest = &frame[length..];
        }
        assert!(rest.is_empty());
        assert!(encode(&message(MAX_PAYLOAD_BYTES)).is_some() && encode(&message(MAX_PAYLOAD_BYTES + 1)).is_none());
    }

    prop_compose! {
        fn any_message()(plugin in any::<bool>(), stream in any::<u32>(), kind in 1..=3u8, flags in any::<u8>(),
                         payload in proptest::collection::vec(any::<u8>(), 0..9000)) -> Message {
            let lane = if plugin { Lane::Plugin } else { Lane::Runtime };
            Message { lane, stream, kind: Kind::of(kind).expect("known"), flags, payload }
        }
    }

    proptest! {
        #[test]
        fn what_is_sent_is_read(messages in proptest::collection::vec(any_message(), 0..4)) {
            let bytes: Vec<u8> = messages.iter().flat_map(|message| encode(message).expect("fits")).collect();
            prop_assert_eq!(all(&bytes).expect("reads"), messages);
        }

        #[test]
        fn a_cut_is_told(message in any_message(), at in any::<proptest::sample::Index>()) {
            let bytes = encode(&message).expect("fits");
            let at = at.index(bytes.len() - 1) + 1;
            prop_assert!(matches!(all(&bytes[..at]), Err(WireError::Cut(_))));
        }
    }
}

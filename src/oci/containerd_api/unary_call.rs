//! Unary gRPC calls over HTTP/2 (RFC 9113; grpc/grpc `doc/PROTOCOL-HTTP2.md`): one at a time, on one connection, within one time limit.
//!
//! Written here because the crates that speak it bring an executor with threads and system calls of its own into a process that is
//! confined to a list of them. Of HTTP/2 a caller who asks one thing at a time needs little: header blocks are sent uncompressed and
//! not read, since an answer that has a message has succeeded; flow control is settled once, for more than the longest answer.

use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use std::time::Instant;

/// Longest message that is taken: gRPC's own default.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// As [`MAX_MESSAGE_BYTES`], with room for what stands before the message.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024 + 65_536;
/// Longest frame that a peer may send where nothing else is settled, and so the longest sent (RFC 9113 §4.2).
const MAX_FRAME_BYTES: usize = 16_384;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
/// Flags.
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The connection.
    #[error("the connection to the engine broke")]
    Connection(#[source] std::io::Error),
    /// It took too long.
    #[error("the engine did not answer in time")]
    TimedOut,
    /// What came is no HTTP/2, or too long.
    #[error("the engine's answer is not understood: {0}")]
    Malformed(&'static str),
    /// It said no, in a trailer that is not read.
    #[error("the engine answered without a message: it knows no such thing, or refuses to tell")]
    Refused,
    /// What is asked is too long to be sent.
    #[error("the question has {0} bytes, more than can be asked")]
    Question(usize),
}

/// A connection to an engine.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    deadline: Instant,
    next_stream: u32,
}

impl Connection {
    /// Speaks first. Everything that is asked must be answered within `limit`.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn begin(stream: UnixStream, limit: Duration) -> Result<Self, CallError> {
        let now = Instant::now();
        let deadline = now.checked_add(limit).unwrap_or(now);
        let mut connection = Self { stream, deadline, next_stream: 1 };
        // ENABLE_PUSH 0, INITIAL_WINDOW_SIZE
        let mut settings = vec![0, 2, 0, 0, 0, 0, 0, 4];
        settings.extend(WINDOW_BYTES.to_be_bytes());
        let mut first = PREFACE.to_vec();
        first.extend(frame(SETTINGS, 0, 0, &settings));
        first.extend(frame(WINDOW_UPDATE, 0, 0, &WINDOW_BYTES.to_be_bytes()));
        connection.send(&first)?;
        Ok(connection)
    }

    /// Asks the method at `path` with `message`; `metadata` are lower-case names with their values. The answer's message.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn call(&mut self, path: &str, metadata: &[(&str, &str)], message: &[u8]) -> Result<Vec<u8>, CallError> {
        let stream = self.next_stream;
        self.next_stream = stream.saturating_add(2);
        let fixed = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        let mut block = Vec::new();
        for (name, value) in fixed.iter().chain(metadata) {
            // literal, never indexed (RFC 7541 §6.2.3)
            block.push(0x10);
            put_string(&mut block, name);
            put_string(&mut block, value);
        }
        let length = u32::try_from(message.len()).map_err(|_| CallError::Question(message.len()))?;
        let mut body = vec![0];
        body.extend(length.to_be_bytes());
        body.extend(message);
        if let Some(long) = [block.len(), body.len()].into_iter().find(|length| *length > MAX_FRAME_BYTES) {
            return Err(CallError::Question(long));
        }
        let mut question = frame(HEADERS, END_HEADERS, stream, &block);
        question.extend(frame(DATA, END_STREAM, stream, &body));
        self.send(&question)?;
        let mut reply = Reply::to(stream);
        while !reply.has_ended() {
            let header = self.receive::<9>()?;
            let (length, header) = FrameHeader::read(header);
            if length > MAX_FRAME_BYTES {
                return Err(CallError::Malformed("a frame is longer than was settled"));
            }
            let mut payload = vec![0; length];
            self.fill(&mut payload)?;
            if let Some(answer) = reply.take(header, &payload)? {
                self.send(&answer)?;
            }
        }
        reply.message()
    }

    fn receive<const N: usize>(&mut self) -> Result<[u8; N], CallError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes).map(|()| bytes)
    }

    fn fill(&mut self, mut rest: &mut [u8]) -> Result<(), CallError> {
        while !rest.is_empty() {
            let patience = self.patience()?;
            self.stream.set_read_timeout(Some(patience)).map_err(CallError::Connection)?;
            let count = match self.stream.read(rest) {
                Ok(0) => return Err(CallError::Connection(ErrorKind::UnexpectedEof.into())),
                Ok(count) => count,
                Err(error) => self.tell(error).map(|()| 0)?,
            };
            rest = rest.get_mut(count..).unwrap_or_default();
        }
        Ok(())
    }

    fn send(&mut self, mut rest: &[u8]) -> Result<(), CallError> {
        while !rest.is_empty() {
            let patience = self.patience()?;
            self.stream.set_write_timeout(Some(patience)).map_err(CallError::Connection)?;
            let count = match self.stream.write(rest) {
                Ok(count) => count,
                Err(error) => self.tell(error).map(|()| 0)?,
            };
            rest = rest.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    /// What is left of the time, never nothing: that would mean for ever (socket(7), `SO_RCVTIMEO`).
    fn patience(&self) -> Result<Duration, CallError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(CallError::TimedOut) } else { Ok(left.max(Duration::from_millis(1))) }
    }

    /// Nothing, where it is to be tried again while there is time.
    fn tell(&self, error: std::io::Error) -> Result<(), CallError> {
        match error.kind() {
            ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => self.patience().map(drop),
            _ => Err(CallError::Connection(error)),
        }
    }
}

/// A frame's type, flags and stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    kind: u8,
    flags: u8,
    stream: u32,
}

impl FrameHeader {
    /// Takes the nine bytes before a frame apart: its length and the rest (RFC 9113 §4.1).
    #[must_use]
    pub fn read(bytes: [u8; 9]) -> (usize, Self) {
        let [high, middle, low, kind, flags, first, second, third, fourth] = bytes;
        let length = u32::from_be_bytes([0, high, middle, low]);
        let stream = u32::from_be_bytes([first & 0x7F, second, third, fourth]);
        (usize::try_from(length).unwrap_or(usize::MAX), Self { kind, flags, stream })
    }
}

/// What came of a call so far.
#[derive(Debug)]
pub struct Reply {
    stream: u32,
    body: Vec<u8>,
    ended: bool,
}

impl Reply {
    /// To the question on this stream.
    #[must_use]
    pub const fn to(stream: u32) -> Self {
        Self { stream, body: Vec::new(), ended: false }
    }

    /// Whether nothing more comes.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes a frame in. Gives the frame that is to be sent for it, if any.
    ///
    /// # Errors
    /// [`CallError::Malformed`], and [`CallError::Refused`] where the peer gives up the call or the connection.
    pub fn take(&mut self, header: FrameHeader, payload: &[u8]) -> Result<Option<Vec<u8>>, CallError> {
        let own = header.stream == self.stream;
        match header.kind {
            DATA if own => {
                let data =
                    unpadded(header, payload).ok_or(CallError::Malformed("a frame is padded with more than it has"))?;
                if self.body.len().saturating_add(data.len()) > MAX_MESSAGE_BYTES.saturating_add(5) {
                    return Err(CallError::Malformed("it is longer than any that is expected"));
                }
                self.body.extend_from_slice(data);
                self.ended = header.flags & END_STREAM != 0;
            }
            HEADERS if own => self.ended = header.flags & END_STREAM != 0,
            RST_STREAM if own => return Err(CallError::Refused),
            GOAWAY => return Err(CallError::Refused),
            SETTINGS if header.flags & ACK == 0 => return Ok(Some(frame(SETTINGS, ACK, 0, &[]))),
            PING if header.flags & ACK == 0 => return Ok(Some(frame(PING, ACK, 0, payload))),
            // of a call before, or about sending, of which there is no more to do
            _ => {}
        }
        Ok(None)
    }

    /// The message that came.
    ///
    /// # Errors
    /// [`CallError::Refused`] where none did; [`CallError::Malformed`].
    pub fn message(mut self) -> Result<Vec<u8>, CallError> {
        let Some((prefix, message)) = self.body.split_first_chunk::<5>() else { return Err(CallError::Refused) };
        let [compressed, length @ ..] = *prefix;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if compressed != 0 || message.len() != length {
            return Err(CallError::Malformed("it is no whole message, or one that was compressed unasked"));
        }
        Ok(self.body.split_off(5))
    }
}

/// What a DATA frame carries, without padding (RFC 9113 §6.1).
fn unpadded(header: FrameHeader, payload: &[u8]) -> Option<&[u8]> {
    if header.flags & PADDED == 0 {
        return Some(payload);
    }
    let (padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(*padding))?)
}

/// `payload` is at most [`MAX_FRAME_BYTES`] long.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    let mut bytes = length.to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A text as it is, after its length: an integer with seven bits in its first byte (RFC 7541 §5.1, §5.2).
fn put_string(block: &mut Vec<u8>, text: &str) {
    match u8::try_from(text.len()) {
        Ok(length) if length < 0x7F => block.push(length),
        _ => {
            block.push(0x7F);
            let mut left = text.len().saturating_sub(0x7F);
            while left > 0x7F {
                block.push(u8::try_from(left & 0x7F).unwrap_or(0x7F) | 0x80);
                left >>= 7;
            }
            block.push(u8::try_from(left).unwrap_or(0x7F));
        }
    }
    block.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests;

//! Lines of JSON on a stream socket, bounded in length and in time. Both sides use it.

use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use std::time::Instant;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::control::MAX_LINE_BYTES;

/// How much is read at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// Why a line could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The other side closed the connection.
    #[error("the other side closed the connection")]
    Closed,
    /// Nothing came, or nothing was taken, in time.
    #[error("no answer within {} seconds", limit.as_secs())]
    TimedOut {
        /// The limit.
        limit: Duration,
    },
    /// A line longer than [`MAX_LINE_BYTES`].
    #[error("a message is longer than {MAX_LINE_BYTES} bytes")]
    TooLong,
    /// Not the JSON expected.
    #[error("a message is not what was expected: {0}")]
    Malformed(serde_json::Error),
    /// The value has no JSON form.
    #[error("a message cannot be written as JSON: {0}")]
    Encode(serde_json::Error),
    /// The socket.
    #[error("the connection failed: {0}")]
    Socket(std::io::Error),
}

impl CodecError {
    /// Whether the process at the other end ended, as far as can be told.
    #[must_use]
    pub fn is_broken_off(&self) -> bool {
        use std::io::ErrorKind;
        match self {
            Self::Closed => true,
            Self::Socket(error) => matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset),
            _ => false,
        }
    }
}

/// What was read beyond the last line taken.
#[derive(Debug, Default)]
pub struct LineReader {
    pending: Vec<u8>,
    scanned: usize,
}

impl LineReader {
    /// The next line as a `T`. With a `limit` the whole line must have come within it.
    ///
    /// # Errors
    /// [`CodecError`]; after any but `Malformed` the connection is of no further use.
    pub fn receive<T: DeserializeOwned>(
        &mut self,
        stream: &UnixStream,
        limit: Option<Duration>,
    ) -> Result<T, CodecError> {
        let line = self.line(stream, limit)?;
        serde_json::from_slice(&line).map_err(CodecError::Malformed)
    }

    fn line(&mut self, stream: &UnixStream, limit: Option<Duration>) -> Result<Vec<u8>, CodecError> {
        let deadline = limit.map(|limit| (Instant::now() + limit, limit));
        let mut chunk = vec![0_u8; CHUNK_BYTES];
        loop {
            if let Some(found) = self.pending.iter().skip(self.scanned).position(|byte| *byte == b'\n') {
                let end = self.scanned + found;
                let rest = self.pending.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.pending, rest);
                line.truncate(end);
                self.scanned = 0;
                return Ok(line);
            }
            self.scanned = self.pending.len();
            if self.pending.len() > MAX_LINE_BYTES {
                return Err(CodecError::TooLong);
            }
            let count = read_some(stream, &mut chunk, deadline)?;
            self.pending.extend(chunk.iter().take(count));
        }
    }
}

fn remaining(deadline: Option<(Instant, Duration)>) -> Result<Option<Duration>, CodecError> {
    let Some((at, limit)) = deadline else { return Ok(None) };
    let left = at.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(CodecError::TimedOut { limit }) } else { Ok(Some(left)) }
}

fn read_some(
    mut stream: &UnixStream,
    chunk: &mut [u8],
    deadline: Option<(Instant, Duration)>,
) -> Result<usize, CodecError> {
    loop {
        stream.set_read_timeout(remaining(deadline)?).map_err(CodecError::Socket)?;
        match stream.read(chunk) {
            Ok(0) => return Err(CodecError::Closed),
            Ok(count) => return Ok(count),
            Err(error) => retry(error)?,
        }
    }
}

/// `Ok` for what only means "look at the clock and try again".
fn retry(error: std::io::Error) -> Result<(), CodecError> {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(()),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Err(CodecError::Closed),
        _ => Err(CodecError::Socket(error)),
    }
}

/// Sends `message` as one line within `limit`.
///
/// # Errors
/// [`CodecError`]; the connection is then of no further use.
pub fn send<T: Serialize>(mut stream: &UnixStream, message: &T, limit: Duration) -> Result<(), CodecError> {
    let mut line = serde_json::to_vec(message).map_err(CodecError::Encode)?;
    if line.len() > MAX_LINE_BYTES {
        return Err(CodecError::TooLong);
    }
    line.push(b'\n');
    let deadline = Some((Instant::now() + limit, limit));
    let mut rest = line.as_slice();
    while !rest.is_empty() {
        stream.set_write_timeout(remaining(deadline)?).map_err(CodecError::Socket)?;
        match stream.write(rest) {
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(error) => retry(error)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ExecRegistration;
    use crate::control::Request;
    use crate::model::event::Event;
    use crate::model::event::EventTime;
    use crate::model::event::Host;
    use crate::model::event::Kind;
    use crate::model::event::Severity;
    use crate::model::policy::Ground;
    use crate::model::workload::ContainerId;

    fn event() -> Event {
        let time = EventTime(jiff::Timestamp::UNIX_EPOCH);
        Event::new(uuid::Uuid::now_v7(), time, Kind::ContainerExec, Severity::Info, Host::default())
    }

    #[test]
    fn numbers_survive_the_tagged_messages() {
        let (here, there) = UnixStream::pair().unwrap();
        let mut event = event();
        event.count = Some(7);
        event.creation = Some(Box::default());
        event.creation.as_mut().unwrap().parameters.resources = Some(serde_json::json!({"memory": {"limit": 123}}));
        let request = Request::Exec(Box::new(ExecRegistration {
            id: ContainerId::new("c1").unwrap(),
            init: 7,
            pid: 42,
            start_time_ticks: u64::MAX,
            ground: Ground::Broker,
            launcher_listens: false,
            event: event.clone(),
        }));
        send(&here, &request, Duration::from_secs(5)).unwrap();
        let back: Request = LineReader::default().receive(&there, Some(Duration::from_secs(5))).unwrap();
        let Request::Exec(back) = back else { panic!("another request came back") };
        assert_eq!((back.pid, back.start_time_ticks), (42, u64::MAX));
        assert_eq!(back.event, event);
    }

    #[test]
    fn several_lines_in_one_read_and_one_line_in_many() {
        let (here, there) = UnixStream::pair().unwrap();
        (&here).write_all(b"\"one\"\n\"two\"\n\"thr").unwrap();
        let mut reader = LineReader::default();
        let limit = Some(Duration::from_secs(5));
        assert_eq!(reader.receive::<String>(&there, limit).unwrap(), "one");
        assert_eq!(reader.receive::<String>(&there, limit).unwrap(), "two");
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            (&here).write_all(b"ee\"\nnonsense\n").unwrap();
        });
        assert_eq!(reader.receive::<String>(&there, limit).unwrap(), "three");
        assert!(matches!(reader.receive::<String>(&there, limit), Err(CodecError::Malformed(_))));
        writer.join().unwrap();
        assert!(matches!(reader.receive::<String>(&there, limit), Err(CodecError::Closed)));
    }

    #[test]
    fn a_line_without_end_is_refused_at_the_bound() {
        let (here, there) = UnixStream::pair().unwrap();
        let writer = std::thread::spawn(move || {
            let block = vec![b'x'; 1024 * 1024];
            while (&here).write_all(&block).is_ok() {}
        });
        let outcome = LineReader::default().receive::<String>(&there, Some(Duration::from_secs(20)));
        assert!(matches!(outcome, Err(CodecError::TooLong)), "{outcome:?}");
        drop(there);
        writer.join().unwrap();
    }

    #[test]
    fn a_trickle_does_not_stretch_the_limit() {
        let (here, there) = UnixStream::pair().unwrap();
        let writer = std::thread::spawn(move || {
            while (&here).write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let started = Instant::now();
        let outcome = LineReader::default().receive::<String>(&there, Some(Duration::from_millis(200)));
        assert!(matches!(outcome, Err(CodecError::TimedOut { .. })), "{outcome:?}");
        assert!(started.elapsed() < Duration::from_secs(2));
        drop(there);
        writer.join().unwrap();
    }

    #[test]
    fn a_reader_that_does_not_read_does_not_hold_up_the_sender() {
        let (here, _there) = UnixStream::pair().unwrap();
        let message = "x".repeat(8 * 1024 * 1024);
        let outcome = send(&here, &message, Duration::from_millis(100));
        assert!(matches!(outcome, Err(CodecError::TimedOut { .. })), "{outcome:?}");
    }
}

//! JSON lines to a file or to standard output.
//!
//! The file is opened for appending and opened again when its name leads to another file (logrotate's rename or a removal),
//! so that no signal is needed. A line that could be written only in part is cut off again; one that a crash left unended
//! is ended before the next. A named pipe without a reader, and a pipe or terminal that takes nothing for some seconds, are failures to
//! try again after.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;

use crate::model::event::Event;
use crate::sinks::Sink;
use crate::sinks::SinkError;
use crate::sinks::rendering;

/// The sink.
#[derive(Debug)]
pub struct JsonLines {
    name: String,
    /// `None`: standard output.
    path: Option<PathBuf>,
    open: Option<File>,
    /// Whether a pipe or terminal has a part of a line without its end.
    unended: bool,
}

impl JsonLines {
    /// A sink that appends to `path`; `-` is standard output. The file is opened with the first event.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let to_stdout = path.as_os_str() == "-";
        Self {
            name: format!("json:{}", path.display()),
            path: if to_stdout { None } else { Some(path.to_owned()) },
            open: None,
            unended: false,
        }
    }

    /// The open file, opened anew when the name leads elsewhere by now.
    fn file(&mut self, path: &Path) -> Result<&mut File, SinkError> {
        let same = match (&self.open, std::fs::metadata(path)) {
            (Some(file), Ok(named)) => {
                file.metadata().is_ok_and(|opened| (opened.dev(), opened.ino()) == (named.dev(), named.ino()))
            }
            _ => false,
        };
        if !same {
            self.open = Some(open(path)?);
        }
        self.open.as_mut().ok_or_else(|| failed("open", path)(std::io::ErrorKind::NotFound.into()))
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> SinkError {
    let path = path.to_owned();
    move |source| SinkError::File { operation, path, source }
}

/// How long a pipe or terminal may take for a line.
const TIMEOUT: Duration = Duration::from_secs(5);
/// What a pipe that poll(2) calls writable takes at once (pipe(7), `PIPE_BUF`).
const PIPE_BYTES: usize = 4096;

fn open(path: &Path) -> Result<File, SinkError> {
    // a pipe is opened for writing only: without a reader that is an error to back off from (fifo(7)), while one opened for both would
    // swallow events that nobody reads
    let is_pipe = std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo());
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut file = File::options()
        .read(!is_pipe)
        .append(true)
        .create(!is_pipe)
        .mode(0o600)
        .custom_flags(nonblocking)
        .open(path)
        .map_err(failed("open", path))?;
    let metadata = file.metadata().map_err(failed("examine", path))?;
    if metadata.is_file() && metadata.len() > 0 {
        let mut last = [0_u8];
        file.read_exact_at(&mut last, metadata.len().saturating_sub(1)).map_err(failed("read the end of", path))?;
        if last != *b"\n" {
            file.write_all(b"\n").map_err(failed("write to", path))?;
        }
    }
    Ok(file)
}

/// Writes all of `line` or, as far as the file system lets us, nothing.
fn append(file: &mut File, line: &[u8]) -> std::io::Result<()> {
    let length = file.metadata()?.len();
    let outcome = file.write_all(line);
    if outcome.is_err() {
        let _ = file.set_len(length);
    }
    outcome
}

/// Writes all of `line` to a pipe or a terminal, which may be full for ever. `unended` says whether a part of a line is out, before and
/// after: it is ended first, for it cannot be taken back.
fn pour(target: BorrowedFd<'_>, line: &[u8], unended: &mut bool) -> std::io::Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    let end_of_last: &[u8] = if *unended { b"\n" } else { b"" };
    let whole = [end_of_last, line].concat();
    let mut rest = whole.as_slice();
    while !rest.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let mut polled = [PollFd::from_borrowed_fd(target, PollFlags::OUT)];
        if left.is_zero() || rustix::event::poll(&mut polled, Some(&wait))? == 0 {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        let (now, _) = rest.split_at(rest.len().min(PIPE_BYTES));
        match rustix::io::write(target, now) {
            Ok(count) => {
                rest = rest.split_at(count.min(rest.len())).1;
                *unended = !rest.is_empty();
            }
            Err(rustix::io::Errno::INTR) => {}
            // a terminal, or another writer was faster
            Err(rustix::io::Errno::AGAIN) => std::thread::sleep(Duration::from_millis(5)),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

impl Sink for JsonLines {
    fn name(&self) -> &str {
        &self.name
    }

    fn send(&mut self, event: &Event) -> Result<(), SinkError> {
        let mut line = rendering::json(event)?;
        line.push('\n');
        let Some(path) = self.path.clone() else {
            let poured = pour(std::io::stdout().as_fd(), line.as_bytes(), &mut self.unended);
            return poured.map_err(failed("write to", Path::new("standard output")));
        };
        let mut unended = self.unended;
        let file = self.file(&path)?;
        if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            let outcome = append(file, line.as_bytes()).map_err(failed("write to", &path));
            if outcome.is_err() {
                self.open = None;
            }
            return outcome;
        }
        // stays open whatever comes: with the last descriptor of a pipe what nobody has read yet would be gone
        let poured = pour(file.as_fd(), line.as_bytes(), &mut unended).map_err(failed("write to", &path));
        self.unended = unended;
        poured
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        let (Some(path), Some(file)) = (&self.path, &self.open) else { return Ok(()) };
        let regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
        if regular { file.sync_data().map_err(failed("sync", path)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::EventTime;
    use crate::model::event::Host;
    use crate::model::event::Kind;
    use crate::model::event::Severity;

    fn event() -> Event {
        let time = EventTime(jiff::Timestamp::now());
        Event::new(uuid::Uuid::now_v7(), time, Kind::AccountFinding, Severity::High, Host::default())
    }

    fn ids(path: &Path) -> Vec<uuid::Uuid> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str::<Event>(line).unwrap().id).collect()
    }

    #[test]
    fn lines_are_appended_and_follow_a_rotation_and_a_removal() {
        let dir = tempfile::tempdir().unwrap();
        let (path, rotated) = (dir.path().join("events.json"), dir.path().join("events.json.1"));
        let mut sink = JsonLines::new(&path);
        let events = [event(), event(), event()];
        sink.send(&events[0]).unwrap();
        sink.flush().unwrap();
        std::fs::rename(&path, &rotated).unwrap();
        sink.send(&events[1]).unwrap();
        assert_eq!((ids(&rotated), ids(&path)), (vec![events[0].id], vec![events[1].id]));
        std::fs::remove_file(&path).unwrap();
        sink.send(&events[2]).unwrap();
        sink.flush().unwrap();
        assert_eq!(ids(&path), vec![events[2].id]);
    }

    #[test]
    fn a_line_that_a_crash_left_unended_does_not_swallow_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.json");
        std::fs::write(&path, "{\"half").unwrap();
        let event = event();
        JsonLines::new(&path).send(&event).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "{\"half");
        assert_eq!(serde_json::from_str::<Event>(lines[1]).unwrap().id, event.id);
    }

    #[test]
    fn a_missing_directory_and_a_full_device_are_errors_and_work_again_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("later/events.json");
        let mut sink = JsonLines::new(&path);
        let message = sink.send(&event()).unwrap_err().to_string();
        assert!(message.contains("later/events.json") && !message.contains('\n'), "{message}");
        std::fs::create_dir(dir.path().join("later")).unwrap();
        sink.send(&event()).unwrap();
        assert!(JsonLines::new(Path::new("/dev/full")).send(&event()).is_err());
    }

    fn fifo(dir: &Path) -> PathBuf {
        let path = dir.join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path
    }

    fn reader(path: &Path) -> File {
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        File::options().read(true).custom_flags(nonblocking).open(path).unwrap()
    }

    fn drain(reader: &mut File) -> String {
        use std::io::Read;
        let mut text = Vec::new();
        // ends with EAGAIN, when the pipe is empty
        let _ = reader.read_to_end(&mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_pipe_without_a_reader_swallows_nothing_and_keeps_what_a_reader_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(dir.path());
        let mut sink = JsonLines::new(&path);
        assert!(sink.send(&event()).is_err());
        let first = reader(&path);
        let events = [event(), event()];
        sink.send(&events[0]).unwrap();
        drop(first);
        // nobody reads: refused, and what is in the pipe stays there
        assert!(sink.send(&events[1]).is_err());
        let mut second = reader(&path);
        sink.send(&events[1]).unwrap();
        let text = drain(&mut second);
        let ids: Vec<_> = text.lines().map(|line| serde_json::from_str::<Event>(line).unwrap().id).collect();
        assert_eq!(ids, events.each_ref().map(|event| event.id));
    }

    #[test]
    fn a_reader_that_does_not_read_fails_in_time_and_a_broken_line_stands_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(dir.path());
        let mut reader = reader(&path);
        let mut sink = JsonLines::new(&path);
        // longer than a pipe's page, so that one is cut
        let mut long = event();
        long.host.labels.insert("padding".to_owned(), "x".repeat(10_000));
        let started = Instant::now();
        let mut sent = 0;
        while sink.send(&long).is_ok() {
            sent += 1;
        }
        assert!(sent > 0 && started.elapsed() < TIMEOUT * 2, "{sent} in {:?}", started.elapsed());
        let mut text = drain(&mut reader);
        let last = event();
        sink.send(&last).unwrap();
        text.push_str(&drain(&mut reader));
        let readable: Vec<Option<Event>> = text.lines().map(|line| serde_json::from_str(line).ok()).collect();
        let ids: Vec<_> = readable.iter().flatten().map(|event| event.id).collect();
        let expected: Vec<_> = std::iter::repeat_n(long.id, sent).chain([last.id]).collect();
        assert_eq!(ids, expected);
        assert!(readable.len() - ids.len() <= 1, "one line is broken at most");
    }
}

//! JSON lines to a file or to standard output.
//!
//! The file is opened for appending and opened again when its name leads to another file (logrotate's rename or a removal),
//! so that no signal is needed. A line that could be written only in part is cut off again; one that a crash left unended
//! is ended before the next.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

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

fn open(path: &Path) -> Result<File, SinkError> {
    // NONBLOCK: a named pipe without a reader is an error to back off from, not a wait without end
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut file = File::options()
        .read(true)
        .append(true)
        .create(true)
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
    let length = file.metadata()?;
    let outcome = file.write_all(line);
    if outcome.is_err() && length.is_file() {
        let _ = file.set_len(length.len());
    }
    outcome
}

impl Sink for JsonLines {
    fn name(&self) -> &str {
        &self.name
    }

    fn send(&mut self, event: &Event) -> Result<(), SinkError> {
        let mut line = rendering::json(event)?;
        line.push('\n');
        match self.path.clone() {
            None => {
                let name = Path::new("standard output");
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).map_err(failed("write to", name))
            }
            Some(path) => {
                let outcome = append(self.file(&path)?, line.as_bytes()).map_err(failed("write to", &path));
                if outcome.is_err() {
                    self.open = None;
                }
                outcome
            }
        }
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
}

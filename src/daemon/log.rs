//! The log on standard error: one line an event, whatever is in it.
//!
//! Messages carry what others made: ids and annotations of containers, file names, errors of parsers that quote their input. A
//! newline in one would look like another event, an escape sequence would act on the terminal of whoever reads (CVE-2023-28486 of sudo). So
//! everything is escaped here, once, and no place that logs has to think of it. No colours: they are escape sequences.

use std::io::Write;

use crate::sinks::rendering;

/// Starts it, at the level that ACCTGUARD_LOG sets.
pub fn start() {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .with_env_var("ACCTGUARD_LOG")
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Lines(std::io::stderr()))
        .with_ansi(false)
        .with_target(false)
        .init();
}

/// Takes each write for one event, as tracing-subscriber makes it, and writes it as one line without deceptive characters.
struct Lines<W>(W);

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let mut line = rendering::escape(text.strip_suffix('\n').unwrap_or(&text));
        line.push('\n');
        self.0.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_is_one_line_whatever_a_container_called_itself() {
        let memory = Memory::default();
        let of_subscriber = memory.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || Lines(of_subscriber.clone())).with_ansi(false);
        let hostile = "x\n2026-01-01 ERROR forged\r\u{1b}[2J\u{9b}1m\u{202e}\u{2028}\u{0}{}%s";
        tracing::subscriber::with_default(subscriber.finish(), || {
            tracing::error!(container = hostile, shown = %hostile, "its name is {hostile}");
            tracing::info!("second");
        });
        let bytes = memory.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.lines().count(), 2, "{text:?}");
        let deceptive =
            |character: char| character != '\n' && (character.is_control() || "\u{202e}\u{2028}".contains(character));
        assert!(!text.contains(deceptive), "{text:?}");
        assert!(text.contains("{}%s") && text.contains("forged"), "{text:?}");
    }
}

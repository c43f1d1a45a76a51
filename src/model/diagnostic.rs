//! A mistake in a text that an operator wrote: where it is, the line itself, and what is wrong.

use std::fmt;

use crate::model::redact::printable;

/// A mistake at a place of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceError {
    /// The file, as it was named.
    pub file: String,
    /// Line, from 1; 0 when the mistake has no place (the file could not be read).
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The line itself, made printable.
    pub excerpt: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl SourceError {
    /// A mistake at `line` and `column` of `text`, both from 1. Places beyond the text's end are moved into it.
    #[must_use]
    pub fn at(file: &str, text: &str, line: usize, column: usize, message: String) -> Self {
        let lines = text.lines().count().max(1);
        let line = line.clamp(1, lines);
        let excerpt = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
        let column = column.clamp(1, excerpt.chars().count().saturating_add(1));
        let (excerpt, column) = shown(excerpt, column);
        Self { file: file.to_owned(), line, column, excerpt, message }
    }

    /// A mistake at byte `offset` of `text`.
    #[must_use]
    pub fn at_offset(file: &str, text: &str, offset: usize, message: String) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.matches('\n').count().saturating_add(1);
        let line_start = before.rfind('\n').map_or(0, |newline| newline.saturating_add(1));
        let column = before.get(line_start..).unwrap_or_default().chars().count().saturating_add(1);
        Self::at(file, text, line, column, message)
    }

    /// A mistake of the file as a whole.
    #[must_use]
    pub fn of_file(file: &str, message: String) -> Self {
        Self { file: file.to_owned(), line: 0, column: 0, excerpt: String::new(), message }
    }

    /// Several lines for people: the place and the message, the line itself, a caret under the place.
    #[must_use]
    pub fn diagnostic(&self) -> String {
        if self.line == 0 {
            return self.to_string();
        }
        let caret: String = self
            .excerpt
            .chars()
            .take(self.column.saturating_sub(1))
            .map(|character| if character == '\t' { '\t' } else { ' ' })
            .collect();
        format!("{self}\n  {}\n  {caret}^", self.excerpt)
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(formatter, "{}: {}", self.file, self.message)
        } else {
            write!(formatter, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
        }
    }
}

impl std::error::Error for SourceError {}

/// An error and its causes as one line, `what: why: why`. A cause that its error already names is not repeated.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let named = cause.to_string();
        if !text.contains(&named) {
            text = format!("{text}: {named}");
        }
        source = cause.source();
    }
    text.replace(['\n', '\r'], " ")
}

/// The line as it can be shown, and the column of the same place in it: a line that holds anything unprintable is escaped.
fn shown(line: &str, column: usize) -> (String, usize) {
    let head: String = line.chars().take(column.saturating_sub(1)).collect();
    if line.chars().any(|character| character.is_control() && character != '\t') || line.chars().count() > 400 {
        let column = printable(head.as_bytes()).chars().count().saturating_add(1);
        (printable(line.as_bytes()), column)
    } else {
        (line.to_owned(), column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_shown_with_its_line_and_a_caret() {
        let error = SourceError::at("p.yaml", "a: 1\nmode: loud\n", 2, 7, "unknown mode".to_owned());
        assert_eq!(error.to_string(), "p.yaml:2:7: unknown mode");
        assert_eq!(error.diagnostic(), "p.yaml:2:7: unknown mode\n  mode: loud\n        ^");
    }

    #[test]
    fn offsets_and_places_beyond_the_end_are_told_in_characters() {
        let text = "ä = 1\nöö = 2";
        let offset = text.find("= 2").unwrap();
        let error = SourceError::at_offset("c", text, offset, String::new());
        assert_eq!((error.line, error.column), (2, 4));
        let error = SourceError::at_offset("c", text, 10_000, String::new());
        assert_eq!((error.line, error.column), (2, 7));
        let error = SourceError::at("c", "", 9, 9, String::new());
        assert_eq!((error.line, error.column), (1, 1));
    }

    #[test]
    fn an_unprintable_line_cannot_disturb_the_terminal() {
        let error = SourceError::at("c", "\x1b[2Jx", 1, 5, String::new());
        assert_eq!(error.excerpt, "\\x1b[2Jx");
        assert_eq!(error.column, 8);
    }
}

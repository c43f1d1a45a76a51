//! Events as text that no terminal, pager or log parser can be fooled by.

use std::fmt::Write;

use crate::model::event::Event;
use crate::sinks::SinkError;

/// Whether `character` must not appear as itself: controls (C0, DEL, C1), line and paragraph separators, and the
/// invisible and direction-changing characters that make one text look like another (Unicode TR36 §2.10).
const fn is_deceptive(character: char) -> bool {
    matches!(
        character,
        '\u{0}'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}'
            | '\u{feff}'
    )
}

/// `event` as one line of JSON without a newline. Deceptive characters can only stand inside strings and are written as
/// JSON's own `\uXXXX`, so the value stays the same.
///
/// # Errors
/// [`SinkError::Render`] when the event has no JSON form.
pub fn json(event: &Event) -> Result<String, SinkError> {
    let text = serde_json::to_string(event)
        .map_err(|error| SinkError::Render { id: event.id.to_string(), detail: error.to_string() })?;
    Ok(escape(&text))
}

/// `text` with every deceptive character written as `\uXXXX`.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if is_deceptive(character) {
            // all of them are in the basic plane; writing to a String cannot fail
            let _ = write!(escaped, "\\u{:04x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::EventTime;
    use crate::model::event::Host;
    use crate::model::event::Kind;
    use crate::model::event::Severity;

    #[test]
    fn deceptive_characters_are_escaped_and_the_value_stays() {
        let name = "a\nb\u{7f}\u{9b}31m\u{202e}txt\u{2028}\"\\é漢";
        let host = Host { name: name.to_owned(), ..Host::default() };
        let time = EventTime(jiff::Timestamp::UNIX_EPOCH);
        let event = Event::new(uuid::Uuid::nil(), time, Kind::AccountFinding, Severity::High, host);
        let text = json(&event).unwrap();
        assert!(text.chars().all(|character| !is_deceptive(character)), "{text}");
        assert!(text.contains("é漢") && text.contains(r"\u202e") && text.contains(r"\u009b"), "{text}");
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
    }
}

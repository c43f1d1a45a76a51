//! Text from containers, made fit to be shown: secrets out ([`argv`]), unprintable bytes escaped ([`printable`]).
//!
//! Redaction is by shape, not by meaning: it would rather hide a harmless word than show a password. What is hidden is
//! replaced by [`REDACTED`], so that a reader sees that something was there.

mod environment;
mod secrets;
mod shell_text;

/// What stands in the place of a secret.
pub const REDACTED: &str = "[redacted]";

/// Longest text that [`printable`] returns, in characters, the mark of its shortening not counted.
pub const MAX_PRINTABLE_CHARACTERS: usize = 512;

/// `argv` without its secrets: values of password options and assignments, password hashes wherever they stand, and what is
/// fed to `chpasswd` or `passwd` inside a `sh -c` text, and values of environment variables that it sets. As many arguments come back as went in.
#[must_use]
pub fn argv(argv: &[String]) -> Vec<String> {
    secrets::words(&environment::words(argv))
}

/// `text` with every crypt(5) hash in it hidden.
#[must_use]
pub fn without_hashes(text: &str) -> String {
    secrets::hashes(text)
}

/// Bytes of a container as one line of text: valid UTF-8 stays, everything else (invalid bytes, control characters,
/// line and paragraph separators, characters that are invisible or turn the reading direction) is escaped as `\xNN` or
/// `\u{NNNN}`; a backslash becomes `\\`, so that nothing can pose as an escape. Bounded by [`MAX_PRINTABLE_CHARACTERS`].
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut room = MAX_PRINTABLE_CHARACTERS;
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if room == 0 {
                text.push('…');
                return text;
            }
            room = room.saturating_sub(1);
            push_escaped(&mut text, character);
        }
        for byte in chunk.invalid() {
            if room == 0 {
                text.push('…');
                return text;
            }
            room = room.saturating_sub(1);
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

fn push_escaped(text: &mut String, character: char) {
    match character {
        '\\' => text.push_str("\\\\"),
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\t' => text.push_str("\\t"),
        _ if character.is_ascii_control() => text.push_str(&format!("\\x{:02x}", u32::from(character))),
        _ if character.is_control() || misleads(character) => {
            text.push_str(&format!("\\u{{{:x}}}", u32::from(character)));
        }
        _ => text.push(character),
    }
}

/// Characters that are invisible, look like a blank, or change the order of what is shown (Unicode Standard Annex 9).
fn misleads(character: char) -> bool {
    (character.is_whitespace() && character != ' ')
        || matches!(
            u32::from(character),
            0xad | 0x61c | 0x180e | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xfff9..=0xfffb
                | 0xe0000..=0xe007f
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_escapes_what_is_not_text() {
        for (bytes, text) in [
            (&b"mallory"[..], "mallory"),
            (b"a\nb\tc\rd", "a\\nb\\tc\\rd"),
            (b"\x1b[31mred", "\\x1b[31mred"),
            (b"\xff\xfeok", "\\xff\\xfeok"),
            ("ünï".as_bytes(), "ünï"),
            ("a\u{202e}b".as_bytes(), "a\\u{202e}b"),
            ("a\u{a0}b".as_bytes(), "a\\u{a0}b"),
            ("a\u{85}b".as_bytes(), "a\\u{85}b"),
            (b"C:\\xff", "C:\\\\xff"),
            (b"\0", "\\x00"),
        ] {
            assert_eq!(printable(bytes), text);
        }
    }

    #[test]
    fn printable_is_bounded() {
        let text = printable(&vec![0xff; 1 << 20]);
        assert_eq!(text.chars().count(), MAX_PRINTABLE_CHARACTERS * 4 + 1);
        assert!(text.ends_with('…'));
        assert_eq!(printable(&vec![b'a'; MAX_PRINTABLE_CHARACTERS]).chars().count(), MAX_PRINTABLE_CHARACTERS);
    }
}

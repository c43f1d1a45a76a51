//! Secrets in the text of a shell command, as `sh -c` gets it.
//!
//! The text is cut into words much as a shell cuts it, without executing anything. What a word must hide depends on the command
//! it stands in, and on whether the text feeds passwords to a program that reads them.

use crate::model::redact::REDACTED;
use crate::model::redact::secrets;

/// Commands that read passwords from their standard input.
const READERS: [&str; 6] = ["chpasswd", "chgpasswd", "newusers", "passwd", "lpasswd", "sshpass"];

/// Commands whose words feed a pipe.
const WRITERS: [&str; 4] = ["echo", "printf", "print", "yes"];

/// `text` with its secrets hidden.
pub(super) fn redacted(text: &str) -> String {
    let pieces = pieces(text);
    let reads = |piece: &&str| READERS.contains(&base_name(unquoted(piece))) && !unquoted(piece).starts_with("/etc/");
    let feeds_passwords = pieces.iter().any(|piece| reads(&piece.as_str()));
    let mut hidden: Vec<String> = Vec::with_capacity(pieces.len());
    for command in pieces.chunk_by(|before, _| !ends_command(before)) {
        hidden.extend(command_without_secrets(command, feeds_passwords));
    }
    if feeds_passwords {
        hide_here_documents(&pieces, &mut hidden);
    }
    hidden.concat()
}

/// One command with the separators in it, piece for piece.
fn command_without_secrets(command: &[String], feeds_passwords: bool) -> Vec<String> {
    let words: Vec<String> =
        command.iter().filter(|piece| is_word(piece)).map(|word| unquoted(word).to_owned()).collect();
    let writes = words.first().is_some_and(|word| WRITERS.contains(&base_name(word)));
    let mut shown = secrets::simple_words(&words).into_iter().zip(&words).enumerate();
    let mut after_here_string = false;
    command
        .iter()
        .map(|piece| {
            if !is_word(piece) {
                after_here_string = piece.contains("<<<");
                return piece.clone();
            }
            let Some((position, (shown, word))) = shown.next() else { return REDACTED.to_owned() };
            let written = (writes && position > 0 && !word.starts_with('-')) || after_here_string;
            match fed(&shown, written).filter(|_| feeds_passwords) {
                Some(shown) => shown,
                None if shown == *word => piece.clone(),
                None => shown,
            }
        })
        .collect()
}

/// What a word shows in a text that feeds passwords: `user:password` keeps its user, a word that is written is hidden.
fn fed(word: &str, written: bool) -> Option<String> {
    let is_name = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'$'))
    };
    match word.split_once(':') {
        Some((user, secret)) if is_name(user) && !secret.is_empty() => Some(format!("{user}:{REDACTED}")),
        _ => written.then(|| REDACTED.to_owned()),
    }
}

/// Hides the words of every here-document (`<<END`, up to a line that is `END`).
fn hide_here_documents(pieces: &[String], hidden: &mut [String]) {
    let mut announced: Option<&str> = None;
    let mut inside = false;
    let mut before = "";
    for (piece, shown) in pieces.iter().zip(hidden) {
        if !is_word(piece) {
            inside |= announced.is_some() && piece.contains('\n');
        } else if inside && announced == Some(unquoted(piece)) && before.contains('\n') {
            (announced, inside) = (None, false);
        } else if inside {
            if let Some(hidden) = fed(unquoted(piece), true) {
                *shown = hidden;
            }
        } else if before.contains("<<") && !before.contains("<<<") {
            announced = Some(unquoted(piece.strip_prefix('-').unwrap_or(piece)));
        }
        before = piece;
    }
}

/// Words and what stands between them, in turn; put together they are `text` again. Quotes and backslashes hold a word together
/// and stay in it.
fn pieces(text: &str) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    let mut quote = None;
    let mut escaped = false;
    let mut in_word = None;
    for character in text.chars() {
        let word = quote.is_some() || escaped || !is_separator(character);
        match pieces.last_mut() {
            Some(piece) if in_word == Some(word) => piece.push(character),
            _ => pieces.push(character.to_string()),
        }
        in_word = Some(word);
        match quote {
            _ if escaped => escaped = false,
            Some(open) if open == character => quote = None,
            Some('\'') => {}
            _ if character == '\\' => escaped = true,
            None if matches!(character, '"' | '\'') => quote = Some(character),
            _ => {}
        }
    }
    pieces
}

fn is_separator(character: char) -> bool {
    character.is_whitespace() || matches!(character, '|' | ';' | '&' | '<' | '>' | '(' | ')' | '`')
}

fn is_word(piece: &str) -> bool {
    piece.chars().next().is_some_and(|first| !is_separator(first))
}

/// Whether the separator stands between two commands.
fn ends_command(piece: &str) -> bool {
    !is_word(piece) && piece.contains(['|', ';', '&', '(', ')', '`', '\n'])
}

/// A word without the quotes around it.
fn unquoted(word: &str) -> &str {
    let inner = |quote: char| word.strip_prefix(quote).map(|rest| rest.strip_suffix(quote).unwrap_or(rest));
    inner('"').or_else(|| inner('\'')).unwrap_or(word)
}

fn base_name(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn pieces_put_together_are_the_text(text in "\\PC{0,40}") {
            assert_eq!(pieces(&text).concat(), text);
        }

        #[test]
        fn what_is_fed_never_shows(secret in "S3cret[A-Za-z0-9!%+,./@^_-]{4,16}") {
            for text in [
                format!("echo root:{secret} | chpasswd"),
                format!("echo 'root:{secret}' | /usr/sbin/chpasswd -e"),
                format!("echo \"root:{secret} with blanks\"|chpasswd"),
                format!("set -e; printf '%s\\n' {secret} {secret} | passwd root"),
                format!("echo -e \"{secret}\\n{secret}\" | passwd --stdin root"),
                format!("chpasswd <<< root:{secret}"),
                format!("passwd root <<< \"{secret}\""),
                format!("chpasswd <<EOF\nroot:{secret}\nEOF\nid"),
                format!("passwd root <<-'END'\n\t{secret}\n\t{secret}\nEND\n"),
                format!("useradd -m -p {secret} eve && id"),
                format!("useradd -p$(openssl passwd -6 {secret}) eve"),
                format!("useradd -p \"$(mkpasswd {secret})\" eve"),
                format!("usermod --password '{secret}' root"),
                format!("DB_PASSWORD={secret} run me"),
                format!("export TOKEN=\"{secret}\"; id"),
                format!("echo 'eve:{secret}:0:0::/root:/bin/sh' >> /etc/passwd"),
                format!("echo 'eve:{secret}:19000:0:99999:7:::' >> /etc/shadow"),
            ] {
                let shown = redacted(&text);
                assert!(!shown.contains(&secret), "{text:?} shows as {shown:?}");
                assert!(shown.contains(REDACTED), "{text:?} shows as {shown:?}");
            }
        }
    }

    #[test]
    fn harmless_texts_stay_as_they_are() {
        for text in [
            "useradd -m -s /bin/sh mallory && id mallory",
            "echo 'mallory:x:0:0::/root:/bin/sh' >> /etc/passwd",
            "sed -i 's/^root:x:/root::/' /etc/passwd",
            "cat /etc/passwd | grep -v nologin; ls -p /tmp",
            "mkdir -p /a/b; cp -p x y",
            "awk -F: '{print $1}' /etc/passwd",
        ] {
            assert_eq!(redacted(text), text);
        }
    }

    #[test]
    fn the_account_stays_readable() {
        assert_eq!(redacted("echo root:secret | chpasswd"), "echo root:[redacted] | chpasswd");
        assert_eq!(redacted("useradd -m -p abc eve"), "useradd -m -p [redacted] eve");
        assert_eq!(
            redacted("echo 'eve:$6$a$b:0:0::/root:/bin/sh' >> /etc/passwd"),
            "echo eve:[redacted]:0:0::/root:/bin/sh >> /etc/passwd"
        );
    }
}

//! Secrets in a list of words.

use crate::model::redact::REDACTED;
use crate::model::redact::shell_text;

/// Programs whose `-p` takes a password or a hash.
const PASSWORD_OPTION_TOOLS: [&str; 10] =
    ["useradd", "adduser", "usermod", "groupadd", "groupmod", "luseradd", "lusermod", "lpasswd", "sshpass", "newusers"];

/// Programs that make a hash of a word given to them.
const HASHING_TOOLS: [&str; 2] = ["mkpasswd", "cryptpw"];

/// Whether an option or variable of this name holds a secret.
fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let parts = ["pass", "secret", "token", "apikey", "api-key", "api_key", "credential", "private-key", "private_key"];
    let harmless = ["passive", "passthrough", "pass-through", "bypass", "compass", "passwords-file"];
    name == "pwd-hash"
        || name == "pw"
        || (parts.iter().any(|part| name.contains(part)) && !harmless.iter().any(|word| name.contains(word)))
}

/// A list of words without its secrets, one for one; words that are shell texts themselves are looked into.
pub(super) fn words(words: &[String]) -> Vec<String> {
    let whole = simple_words(words);
    whole.iter().map(|word| shell_text::redacted(word)).collect()
}

/// A list of words without its secrets, one for one, each word taken as it is.
pub(super) fn simple_words(words: &[String]) -> Vec<String> {
    let tool = tool(words);
    let mut hide_next = false;
    let mut after_hashing_tool = false;
    words
        .iter()
        .map(|word| {
            if std::mem::take(&mut hide_next) {
                return REDACTED.to_owned();
            }
            let fed = (after_hashing_tool && !word.starts_with('-')).then(|| REDACTED.to_owned());
            after_hashing_tool |= tool == Tool::Hashing && is_hashing_tool(word);
            let shown = option(word, tool, &mut hide_next).or_else(|| assignment(word)).or(fed);
            shown.unwrap_or_else(|| hashes(&account_line(word).unwrap_or_else(|| word.clone())))
        })
        .collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tool {
    TakesPassword,
    Hashing,
    Other,
}

/// What kind of program the words run: the first of them that names one, so that `sudo useradd` and `busybox adduser` count.
fn tool(words: &[String]) -> Tool {
    let names = || words.iter().take(16).map(|word| word.rsplit('/').next().unwrap_or(word));
    let mut openssl = false;
    for name in names() {
        if PASSWORD_OPTION_TOOLS.contains(&name) {
            return Tool::TakesPassword;
        }
        if HASHING_TOOLS.contains(&name) || (openssl && name == "passwd") {
            return Tool::Hashing;
        }
        openssl |= name == "openssl";
    }
    Tool::Other
}

fn is_hashing_tool(word: &str) -> bool {
    let name = word.rsplit('/').next().unwrap_or(word);
    HASHING_TOOLS.contains(&name) || name == "passwd"
}

/// `--password=X`, `--password X`, and for the account tools `-p X`, `-pX`, `-mp X`.
fn option(word: &str, tool: Tool, hide_next: &mut bool) -> Option<String> {
    if let Some(long) = word.strip_prefix("--") {
        let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
        let shortened = tool == Tool::TakesPassword && name.len() > 1 && "password".starts_with(name);
        if !is_secret_name(name) && !shortened {
            return None;
        }
        if value.is_some() {
            return Some(format!("--{name}={REDACTED}"));
        }
        // a flag such as --disabled-password takes nothing
        *hide_next = !["disabled-", "no-", "empty-", "remove-", "without-"].iter().any(|start| name.starts_with(start));
        return Some(word.to_owned());
    }
    let letters = word.strip_prefix('-').filter(|_| tool == Tool::TakesPassword)?;
    // a letter that takes a value ends the cluster: what follows is that value
    let value_letters = ['b', 'c', 'd', 'e', 'f', 'g', 'G', 'k', 'K', 'P', 'R', 's', 'u', 'Z', 'l', 'h', 'n'];
    let position = letters.find('p')?;
    let (before, rest) = letters.split_at(position);
    if before.contains(value_letters) {
        return None;
    }
    if rest.len() > 1 {
        return Some(format!("-{before}p{REDACTED}"));
    }
    *hide_next = true;
    Some(word.to_owned())
}

/// `PASSWORD=…`, `export DB_TOKEN=…`: a name of letters, digits and `_` that says it is a secret.
fn assignment(word: &str) -> Option<String> {
    let (name, value) = word.split_once('=')?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (is_name && is_secret_name(name) && !value.is_empty()).then(|| format!("{name}={REDACTED}"))
}

/// Every crypt(5) hash of `text` hidden, wherever it stands: `$id$…`, also with its dollars escaped.
pub(super) fn hashes(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('$') {
        let (head, tail) = rest.split_at(start);
        shown.push_str(head);
        match hash_length(tail) {
            Some(length) => {
                shown.push_str(REDACTED);
                rest = tail.get(length..).unwrap_or_default();
            }
            None => {
                shown.push('$');
                rest = tail.get(1..).unwrap_or_default();
            }
        }
    }
    shown.push_str(rest);
    shown
}

/// How long the hash is that `text`, which begins with a dollar, begins with.
fn hash_length(text: &str) -> Option<usize> {
    let identifier = text.get(1..)?;
    let end = identifier.find('$')?;
    let id = identifier.get(..end)?.trim_end_matches('\\');
    let known = ["1", "2", "2a", "2b", "2x", "2y", "3", "5", "6", "7", "y", "gy", "md5", "sha1", "apr1", "scrypt"];
    if !known.contains(&id) && !id.starts_with("argon2") {
        return None;
    }
    let length = text.find(|character: char| {
        character.is_whitespace() || matches!(character, ':' | '"' | '\'' | '|' | ';' | '`' | ')' | '<' | '>' | '&')
    });
    Some(length.unwrap_or(text.len()))
}

/// A line of passwd, shadow or a like file with its password field hidden; `None` when `word` is no such line.
///
/// Told by its shape: a name, then the field, then only numbers or nothing where passwd has uid and gid, or shadow the days.
fn account_line(word: &str) -> Option<String> {
    let fields: Vec<&str> = word.split(':').collect();
    let (name, password, third) = (fields.first()?, fields.get(1)?, fields.get(2)?);
    let numeric = |field: &str| field.bytes().all(|byte| byte.is_ascii_digit());
    let passwd = fields.len() >= 4 && numeric(third) && fields.get(3).is_some_and(|field| numeric(field));
    let shadow = fields.len() >= 8 && numeric(third);
    let harmless = matches!(*password, "" | "x" | "*" | "!" | "!!" | "!*");
    if !(passwd || shadow) || harmless {
        return None;
    }
    let rest = fields.get(2..)?.join(":");
    Some(format!("{name}:{REDACTED}:{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(argv: &[&str]) -> Vec<String> {
        words(&argv.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn secrets_are_hidden_and_nothing_else() {
        for (argv, expected) in [
            (&["useradd", "-p", "hash", "eve"][..], &["useradd", "-p", "[redacted]", "eve"][..]),
            (&["/usr/sbin/useradd", "-mphash", "eve"], &["/usr/sbin/useradd", "-mp[redacted]", "eve"]),
            (&["useradd", "-mp", "hash", "eve"], &["useradd", "-mp", "[redacted]", "eve"]),
            (&["useradd", "-c", "-p", "eve"], &["useradd", "-c", "-p", "[redacted]"]),
            (&["useradd", "-d/opt", "eve"], &["useradd", "-d/opt", "eve"]),
            (&["useradd", "--pass", "hash", "eve"], &["useradd", "--pass", "[redacted]", "eve"]),
            (&["useradd", "--password=hash"], &["useradd", "--password=[redacted]"]),
            (&["sudo", "usermod", "-p", "hash", "eve"], &["sudo", "usermod", "-p", "[redacted]", "eve"]),
            (&["mkdir", "-p", "/etc/x"], &["mkdir", "-p", "/etc/x"]),
            (&["ssh", "-p", "22", "host"], &["ssh", "-p", "22", "host"]),
            (&["adduser", "--disabled-password", "bob"], &["adduser", "--disabled-password", "bob"]),
            (&["mysql", "--password=x", "--user=y"], &["mysql", "--password=[redacted]", "--user=y"]),
            (&["app", "--api-token", "t", "go"], &["app", "--api-token", "[redacted]", "go"]),
            (&["env", "PGPASSWORD=x", "psql"], &["env", "PGPASSWORD=[redacted]", "psql"]),
            (&["env", "PATH=/bin", "a"], &["env", "PATH=/bin", "a"]),
            (&["openssl", "passwd", "-6", "word"], &["openssl", "passwd", "-6", "[redacted]"]),
            (&["mkpasswd", "-m", "sha-512", "w"], &["mkpasswd", "-m", "[redacted]", "[redacted]"]),
            (&["sed", "s/x/$6$salt$hash/"], &["sed", "s/x/[redacted]"]),
            (&["tool", "root:$y$j9T$salt$hash:19000:0:99999:7:::"], &["tool", "root:[redacted]:19000:0:99999:7:::"]),
            (&["tool", "eve:abJnggxhB/yWI:0:0:::"], &["tool", "eve:[redacted]:0:0:::"]),
            (&["tool", "eve:x:0:0:::", "a:b:c", "$HOME"], &["tool", "eve:x:0:0:::", "a:b:c", "$HOME"]),
            (&["sh", "-c", "echo root:pw|chpasswd"], &["sh", "-c", "echo root:[redacted]|chpasswd"]),
            (&["bash", "-c", "chpasswd<<<root:pw"], &["bash", "-c", "chpasswd<<<root:[redacted]"]),
            (&["passwd", "root"], &["passwd", "root"]),
            (&["echo", "a b", "(c)"], &["echo", "a b", "(c)"]),
            (&[], &[]),
        ] {
            assert_eq!(shown(argv), expected, "{argv:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn as_many_words_come_back(argv in proptest::collection::vec("\\PC{0,12}|-p|--password|useradd|sh|-c|echo a:b \\| chpasswd", 0..6)) {
            assert_eq!(words(&argv).len(), argv.len());
        }
    }
}

//! The passwd family: printing gives the bytes back, no difference goes untold, no password hash is told.

use std::collections::BTreeMap;

use acctguard::model::account::diff;
use acctguard::model::account::shadow::Password;
use acctguard::model::account::snapshot::Databases;
use acctguard::model::database_path::DatabasePath;

use super::{assert_shown_safely, occurrences};

const FILES: [&str; 7] =
    ["/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow", "/etc/subuid", "/etc/nsswitch.conf", "/etc/userdb/x"];

/// Files are apart by the byte 0xff, which no text has: first those before, then those after.
pub fn check(data: &[u8]) {
    let mut parts = data.split(|byte| *byte == 0xff);
    let mut snapshot = || -> BTreeMap<DatabasePath, Vec<u8>> {
        FILES
            .iter()
            .zip(parts.by_ref())
            .map(|(path, bytes)| (DatabasePath::new(path).expect("a path"), bytes.to_vec()))
            .collect()
    };
    let (before, after) = (snapshot(), snapshot());
    let (old, new) = (Databases::parse(before.clone()), Databases::parse(after.clone()));
    for (files, parsed) in [(&before, &old), (&after, &new)] {
        for (path, bytes) in files {
            let printed = parsed.get(path.as_str()).and_then(|database| database.print());
            assert!(printed.is_none_or(|printed| printed == *bytes), "{path:?} is not printed as it was read");
        }
        assert_eq!(diff::diff(parsed, parsed), [], "the same differs from itself");
    }
    let changes = diff::diff(&old, &new);
    // the file that says where accounts are looked up is about much else
    let differs = FILES.iter().filter(|path| **path != "/etc/nsswitch.conf").any(|path| {
        let of = |files: &BTreeMap<DatabasePath, Vec<u8>>| {
            files.iter().find(|(known, _)| known.as_str() == *path).map(|(_, bytes)| bytes.clone())
        };
        of(&before) != of(&after)
    });
    assert!(!differs || !changes.is_empty(), "a difference that nothing tells");
    assert!(changes.len() <= diff::MAX_CHANGES + 1);
    let text = serde_json::to_string(&changes).expect("changes have a JSON form");
    assert_shown_safely(&text);
    for change in &changes {
        assert!(diff::KINDS.contains(&change.change.as_str()), "{}", change.change);
    }
    for parsed in [&old, &new] {
        no_hash_is_told(parsed, data, &text);
    }
}

/// A hash that stands nowhere but in password fields is not in `told`.
fn no_hash_is_told(databases: &Databases, data: &[u8], told: &str) {
    let shadow = databases.get("/etc/shadow").and_then(|database| database.content.shadow());
    for entry in shadow.into_iter().flat_map(|table| table.entries()) {
        let hash = &entry.password;
        let is_long = hash.len() >= 8 && hash.iter().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(byte));
        let field = [b":", hash.as_slice(), b":"].concat();
        // without it, it may be one of our own words, such as the name of a database
        let is_crypt = hash.contains(&b'$');
        let only_there = occurrences(data, hash) == 1 && occurrences(data, &field) == 1;
        if is_long && is_crypt && only_there && Password::of_field(hash) == Password::Set {
            assert_eq!(occurrences(told.as_bytes(), hash), 0, "a hash is told: {told}");
        }
    }
}

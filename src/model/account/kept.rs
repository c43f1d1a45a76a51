//! A snapshot as bytes, for whoever goes on where this process ends.
//!
//! A line of JSON that names the databases, then the bytes of those that were parsed, one after the other. These are the files' own bytes,
//! password hashes too, so that no change escapes the comparison: whoever keeps them must keep them from others, and they are shown
//! to nobody.

use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use crate::model::account::permissions::Permissions;
use crate::model::account::snapshot::Content;
use crate::model::account::snapshot::Database;
use crate::model::account::snapshot::Databases;
use crate::model::database_path::DatabasePath;

#[derive(Serialize, Deserialize)]
struct Entry {
    path: String,
    /// How many bytes of the rest are its; `None` for one that was not parsed.
    bytes: Option<usize>,
    length: u64,
    digest: [u8; 32],
    too_large: bool,
    unreadable: Option<String>,
    permissions: Option<Permissions>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    watched: Vec<String>,
    entries: Vec<Entry>,
}

/// What of a container's databases was told last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// The databases as they were.
    pub databases: Databases,
    /// Which they are of, those that were not there included.
    pub watched: Arc<[DatabasePath]>,
}

/// The bytes of `told`.
#[must_use]
pub fn pack(told: &Told) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut contents = Vec::new();
    for (path, database) in told.databases.files() {
        let printed = database.print();
        entries.push(Entry {
            path: path.as_str().to_owned(),
            bytes: printed.as_ref().map(Vec::len),
            length: database.length,
            digest: database.digest,
            too_large: database.too_large,
            unreadable: database.unreadable.clone(),
            permissions: database.permissions.clone(),
        });
        contents.extend(printed.unwrap_or_default());
    }
    // nothing in it has no JSON form; without an entry there would be nothing to go on with
    let watched = told.watched.iter().map(|path| path.as_str().to_owned()).collect();
    let mut packed = serde_json::to_vec(&Head { watched, entries }).unwrap_or_default();
    packed.push(b'\n');
    packed.extend(contents);
    packed
}

/// What [`pack`] made these bytes of; `None` when it did not.
#[must_use]
pub fn unpack(packed: &[u8]) -> Option<Told> {
    let end = packed.iter().position(|byte| *byte == b'\n')?;
    let (head, rest) = packed.split_at_checked(end)?;
    let Head { watched, entries } = serde_json::from_slice(head).ok()?;
    let mut rest = rest.get(1..)?;
    let mut databases = Databases::default();
    for entry in entries {
        let path = DatabasePath::new(&entry.path).ok()?;
        let content = match entry.bytes {
            Some(length) => {
                let (bytes, others) = rest.split_at_checked(length)?;
                rest = others;
                Database::parse(&path, bytes).content
            }
            None => Content::Whole,
        };
        let Entry { length, digest, too_large, unreadable, permissions, .. } = entry;
        let database = Database { length, digest, content, too_large, unreadable, permissions };
        databases.insert(path, Arc::new(database));
    }
    let watched: Option<Arc<[DatabasePath]>> = watched.iter().map(|path| DatabasePath::new(path).ok()).collect();
    rest.is_empty().then_some(Told { databases, watched: watched? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::account::diff;
    use std::collections::BTreeMap;

    fn told(passwd: &str) -> Told {
        let path = |path: &str| DatabasePath::new(path).expect("path");
        let files = BTreeMap::from([
            (path("/etc/passwd"), passwd.as_bytes().to_vec()),
            (path("/etc/shadow"), b"root:$y$hash:1::::::\nnot a line\n\xff\n".to_vec()),
            (path("/srv/accounts"), b"of no known format".to_vec()),
        ]);
        let mut databases = Databases::parse(files);
        let permissions = Permissions { mode: 0o640, uid: 1, gid: 42, links: 1, acl: Some(vec![2, 0, 0, 0]) };
        databases.set_permissions(&path("/etc/shadow"), permissions);
        databases.add_unreadable(&path("/etc/userdb/"), "it loops");
        Told { databases, watched: [path("/etc/passwd"), path("/etc/userdb/")].into() }
    }

    #[test]
    fn what_was_packed_is_the_same_unpacked_and_differs_from_what_comes_later() {
        let before = told("root:x:0:0::/root:/bin/sh\n");
        let kept = unpack(&pack(&before)).expect("unpack");
        assert_eq!(kept, before);
        let after = told("root:x:0:0::/root:/bin/sh\neve:x:0:0::/:/bin/sh\n");
        let changes = diff(&kept.databases, &after.databases);
        assert_eq!((changes.len(), &changes), (1, &diff(&before.databases, &after.databases)));
        assert_eq!(unpack(&pack(&Told::default())), Some(Told::default()));
    }

    #[test]
    fn anything_else_is_none() {
        let packed = pack(&told("root:x:0:0::/root:/bin/sh\n"));
        for end in 0..packed.len() {
            assert_eq!(unpack(packed.get(..end).expect("start")), None, "the first {end} bytes");
        }
        let longer: Vec<u8> = packed.iter().copied().chain([0]).collect();
        assert_eq!(unpack(&longer), None);
        assert_eq!(unpack(b"[]"), None);
        assert_eq!(unpack(b"nonsense\n"), None);
    }
}

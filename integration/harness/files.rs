//! What lies in folders, to be compared byte for byte. Needs nothing of the rest of the harness.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// By path: kind and permissions, and a file's bytes or where a link leads.
pub type Shown = BTreeMap<PathBuf, (u32, Vec<u8>)>;

/// Everything in `folders`, as far as they are there.
pub fn shown<P: AsRef<Path>>(folders: &[P]) -> Shown {
    let mut found = Shown::new();
    let mut folders: Vec<PathBuf> =
        folders.iter().map(|folder| folder.as_ref().to_owned()).filter(|folder| folder.exists()).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("lists") {
            let path = entry.expect("entry").path();
            let metadata = fs::symlink_metadata(&path).expect("metadata");
            let content = if metadata.is_symlink() {
                fs::read_link(&path).expect("link").into_os_string().into_encoded_bytes()
            } else if metadata.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path).expect("reads")
            };
            found.insert(path, (metadata.mode(), content));
        }
    }
    found
}

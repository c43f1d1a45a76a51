//! What each sealed workload was granted, kept for the next worker: without it every call of the workload would be carried out by the
//! broker from then on, which is right and takes longer.
//!
//! A file for each listener in the run directory, which is root's alone, named by its delivery.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use uuid::Uuid;

use crate::supervise::supervisor::Granted;

/// Where they are kept.
#[derive(Debug, Clone)]
pub struct Grants {
    folder: PathBuf,
}

impl Grants {
    /// In `folder`, which is made when it is needed.
    #[must_use]
    pub const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// What the workload of `delivery` was granted; `None` when nothing was kept.
    #[must_use]
    pub fn read(&self, delivery: Uuid) -> Option<Granted> {
        serde_json::from_slice(&std::fs::read(self.folder.join(delivery.to_string())).ok()?).ok()
    }

    /// Keeps `granted` for `delivery`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, delivery: Uuid, granted: &Granted) -> std::io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let file = self.folder.join(delivery.to_string());
        let fresh = file.with_extension("new");
        let mut options = std::fs::OpenOptions::new();
        let mut opened = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        opened.write_all(&serde_json::to_vec(granted)?)?;
        std::fs::rename(&fresh, &file)
    }

    /// Forgets that of `delivery`.
    pub fn forget(&self, delivery: Uuid) {
        let file = self.folder.join(delivery.to_string());
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!("cannot remove {}: {error}", file.display());
            }
            _ => {}
        }
    }

    /// Forgets all but those of `deliveries`: others ended while there was no worker.
    pub fn retain(&self, deliveries: &[Uuid]) {
        let kept: BTreeSet<String> = deliveries.iter().map(Uuid::to_string).collect();
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_none_or(|name| !kept.contains(name)) {
                // it is in nobody's way
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_until_it_is_forgotten() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let grants = Grants::new(folder.path().join("grants"));
        let (one, other) = (Uuid::now_v7(), Uuid::now_v7());
        assert!(grants.read(one).is_none());
        let text = r#"{"sealed":["/","/etc"],"children":[{"device":1,"inode":2}]}"#;
        let granted: Granted = serde_json::from_str(text).expect("granted");
        for delivery in [one, other, one] {
            grants.write(delivery, &granted).expect("write");
        }
        let found = grants.read(one).expect("it was kept");
        assert_eq!(serde_json::to_string(&found).expect("text"), text);
        grants.retain(&[other]);
        assert!(grants.read(one).is_none() && grants.read(other).is_some());
        grants.forget(other);
        grants.forget(other);
        assert!(grants.read(other).is_none());
    }
}

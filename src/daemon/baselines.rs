//! The databases of each container as they were last told, kept for the next worker: what a container changes while there is no
//! worker, or what a worker saw and died before it told, is then found by comparison. What is a number only, or was refused, leaves
//! nothing to compare: how much of that is not told is kept beside them.
//!
//! A file for each container in the run directory, which is root's alone and lives as long as containers do. It is written after what
//! it takes for told was recorded: a worker that dies between the two tells once more, and never leaves something out.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use sha2::Digest;
use sha2::Sha256;

use crate::daemon::registry::Guarded;
use crate::model::account::kept;
use crate::model::account::kept::Told;
use crate::model::workload::ContainerId;
use crate::supervise::case::Untold;

/// Ending of the file of what is not told.
const UNTOLD: &str = "untold";

/// Where they are kept.
#[derive(Debug, Clone)]
pub struct Baselines {
    folder: PathBuf,
}

/// Where that of one container is kept.
#[derive(Debug)]
pub struct Place {
    file: PathBuf,
    untold: Mutex<Option<(File, Untold)>>,
    /// The container's first process, by pid and start time: a container of the same id that comes later is another.
    owner: [u8; 12],
}

impl Baselines {
    /// In `folder`, which is made when it is needed.
    #[must_use]
    pub const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn file(&self, id: &ContainerId) -> PathBuf {
        let digest = Sha256::digest(id.as_str().as_bytes());
        let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        self.folder.join(name)
    }

    /// The place of `guarded`; `None` while its first process is not known.
    #[must_use]
    pub fn place(&self, guarded: &Guarded) -> Option<Place> {
        let record = guarded.record();
        let start_time_ticks = record.start_time_ticks?;
        let mut owner = [0; 12];
        let (pid, time) = owner.split_at_mut(4);
        pid.copy_from_slice(&record.pid.to_le_bytes());
        time.copy_from_slice(&start_time_ticks.to_le_bytes());
        Some(Place { file: self.file(&guarded.id), untold: Mutex::new(None), owner })
    }

    /// Forgets that of a container.
    pub fn forget(&self, id: &ContainerId) {
        let file = self.file(id);
        remove(&file.with_extension(UNTOLD));
        remove(&file);
    }
}

fn remove(file: &Path) {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!("cannot remove {}: {error}", file.display());
        }
        _ => {}
    }
}

impl Place {
    /// What the last worker did not tell; nothing where that is another container's.
    #[must_use]
    pub fn read_untold(&self) -> Untold {
        let read = || -> Option<Untold> {
            let bytes = std::fs::read(self.file.with_extension(UNTOLD)).ok()?;
            let (attempts, rest) = bytes.strip_prefix(&self.owner)?.split_first_chunk::<8>()?;
            let refusals = rest.first_chunk::<8>()?;
            Some(Untold { attempts: u64::from_le_bytes(*attempts), refusals: u64::from_le_bytes(*refusals) })
        };
        read().unwrap_or_default()
    }

    /// What the last worker did not tell is told.
    pub fn forget_untold(&self) {
        remove(&self.file.with_extension(UNTOLD));
    }

    /// Keeps how much is `untold` from now on. One write: whoever is killed leaves the number of before or of after.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_untold(&self, untold: impl FnOnce() -> Untold) -> std::io::Result<()> {
        let mut kept = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        // asked for under the lock: the last to write wrote the last number
        let untold = untold();
        if kept.as_ref().is_some_and(|(_, known)| *known == untold) || kept.is_none() && untold == Untold::default() {
            return Ok(());
        }
        let file = match kept.take() {
            Some((file, _)) => file,
            None => {
                self.make_folder()?;
                let path = self.file.with_extension(UNTOLD);
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?
            }
        };
        let [attempts, refusals] = [untold.attempts, untold.refusals].map(u64::to_le_bytes);
        file.write_all_at(&[self.owner.as_slice(), &attempts, &refusals].concat(), 0)?;
        *kept = Some((file, untold));
        Ok(())
    }

    fn make_folder(&self) -> std::io::Result<()> {
        let folder = self.file.parent().unwrap_or(Path::new("/"));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
    }

    /// What is kept there; `None` when nothing is, or that of another container.
    #[must_use]
    pub fn read(&self) -> Option<Told> {
        let bytes = std::fs::read(&self.file).ok()?;
        kept::unpack(bytes.strip_prefix(&self.owner)?)
    }

    /// Keeps `told` there in place of what was.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, told: &Told) -> std::io::Result<()> {
        self.make_folder()?;
        let fresh = self.file.with_extension("new");
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&self.owner)?;
        file.write_all(&kept::pack(told))?;
        std::fs::rename(&fresh, &self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::account::Databases;
    use crate::model::database_path::DatabasePath;
    use std::collections::BTreeMap;

    #[test]
    fn what_is_kept_is_found_by_the_same_container_only() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("below/kept");
        let of = |owner| Place { file: file.clone(), untold: Mutex::new(None), owner: [owner; 12] };
        let place = of(1);
        assert_eq!(place.read(), None);
        let path = DatabasePath::new("/etc/passwd").expect("path");
        let databases = Databases::parse(BTreeMap::from([(path.clone(), b"root:x:0:0::/root:/bin/sh\n".to_vec())]));
        let told = Told { databases, watched: [path].into() };
        place.write(&Told::default()).expect("write");
        place.write(&told).expect("write");
        assert_eq!(place.read(), Some(told));
        assert_eq!(of(2).read(), None);
        assert_eq!(place.read_untold(), Untold::default());
        for untold in
            [Untold { attempts: 7, refusals: 1 }, Untold::default(), Untold { attempts: u64::MAX, refusals: 2 }]
        {
            place.write_untold(|| untold).expect("write");
            assert_eq!((of(1).read_untold(), of(2).read_untold()), (untold, Untold::default()));
        }
        of(1).forget_untold();
        assert_eq!(of(1).read_untold(), Untold::default(), "told once");
    }
}

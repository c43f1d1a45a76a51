//! All account databases of a root file system, read and parsed.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use crate::kernel::foreign_root;
use crate::kernel::foreign_root::FileError;
use crate::kernel::foreign_root::RootFile;
use crate::model::account::Databases;
use crate::model::account::Permissions;
use crate::model::attempt::DatabasePath;
use crate::model::redact;

/// Longest database that is read.
const MAX_DATABASE_BYTES: usize = 64 * 1024 * 1024;

/// Most files of a directory of databases that are read.
const MAX_FILES: usize = 4096;

/// The bits of `st_mode` that are permissions (inode(7)).
const PERMISSION_BITS: u32 = 0o7777;

/// Why the databases of a container could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read account database {database}; its changes cannot be told")]
pub struct BaselineError {
    /// Which.
    pub database: String,
    /// Why.
    #[source]
    pub source: FileError,
}

/// Reads all of `databases` below `root`; a link is followed inside `root`. What does not exist, or is no regular file, is absent.
///
/// # Errors
/// [`BaselineError`] for one that exists and cannot be read, or is too large.
pub fn snapshot(root: BorrowedFd<'_>, databases: &[DatabasePath]) -> Result<Databases, BaselineError> {
    let mut files = BTreeMap::new();
    let mut permissions = Vec::new();
    let mut keep = |path: DatabasePath, file: RootFile| {
        permissions.push((path.clone(), permissions_of(&file)));
        files.insert(path, file.bytes);
    };
    for database in databases {
        let failed = |source| BaselineError { database: database.to_string(), source };
        let Some(directory) = database.as_str().strip_suffix('/') else {
            if let Some(file) = read(root, database.as_str().as_bytes()).map_err(failed)? {
                keep(database.clone(), file);
            }
            continue;
        };
        let names = foreign_root::list_directory_in_root(root, directory.as_bytes(), MAX_FILES).map_err(failed)?;
        for name in names {
            // a name that is no clean UTF-8 cannot be a `DatabasePath` as it is
            let shown = DatabasePath::new(&format!("{directory}/{}", redact::printable(&name)));
            let path = [directory.as_bytes(), b"/", &name].concat();
            if let (Ok(shown), Some(file)) = (shown, read(root, &path).map_err(failed)?) {
                keep(shown, file);
            }
        }
    }
    let mut databases = Databases::parse(files);
    for (path, permissions) in permissions {
        databases.set_permissions(&path, permissions);
    }
    Ok(databases)
}

fn permissions_of(file: &RootFile) -> Permissions {
    Permissions {
        mode: file.mode & PERMISSION_BITS,
        uid: file.uid,
        gid: file.gid,
        links: file.links,
        acl: file.acl.clone(),
    }
}

fn read(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<RootFile>, FileError> {
    match foreign_root::read_file_in_root(root, path, MAX_DATABASE_BYTES) {
        Ok(file) => Ok(file),
        Err(FileError::NotRegular { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn reads_files_directories_and_links_below_the_root() {
        let root = tempfile::tempdir().expect("temporary directory");
        let below = |path: &str| root.path().join(path);
        std::fs::create_dir_all(below("etc/userdb")).expect("directories");
        std::fs::create_dir_all(below("data")).expect("directories");
        std::fs::write(below("data/passwd"), "root:x:0:0::/root:/bin/sh\n").expect("passwd");
        std::os::unix::fs::symlink("/data/passwd", below("etc/passwd")).expect("link");
        std::fs::write(below("etc/userdb/eve.user"), "{}").expect("record");
        rustix::fs::mknodat(rustix::fs::CWD, below("etc/shadow"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .expect("fifo");
        let paths: Vec<DatabasePath> = ["/etc/passwd", "/etc/shadow", "/etc/group", "/etc/userdb/", "/run/userdb/"]
            .map(|path| DatabasePath::new(path).expect("path"))
            .into();
        let opened = std::fs::File::open(root.path()).expect("root");
        let databases = snapshot(opened.as_fd(), &paths).expect("snapshot");
        let found: Vec<String> = databases.paths().map(ToString::to_string).collect();
        assert_eq!(found, ["/etc/passwd", "/etc/userdb/eve.user"]);
        assert_eq!(databases.baseline().uid_zero, ["root"]);
    }
}

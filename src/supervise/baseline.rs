//! All account databases of a root file system, read and parsed.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use crate::kernel::foreign_root;
use crate::kernel::foreign_root::FileError;
use crate::kernel::foreign_root::RootFile;
use crate::model::account::Databases;
use crate::model::account::Permissions;
use crate::model::database_path::DatabasePath;
use crate::model::diagnostic::chain;
use crate::model::redact;

/// Longest database that is read.
const MAX_DATABASE_BYTES: usize = 64 * 1024 * 1024;

/// Most files of a directory of databases that are read.
const MAX_FILES: usize = 4096;

/// The bits of `st_mode` that are permissions (inode(7)).
const PERMISSION_BITS: u32 = 0o7777;

/// Reads all of `databases` below `root`; a link is followed inside `root`. What does not exist, or is no regular file, is absent.
/// One that is there and cannot be read, or is too large, is in the snapshot as that: it hides no other.
#[must_use]
pub fn snapshot(root: BorrowedFd<'_>, databases: &[DatabasePath]) -> Databases {
    let mut files = BTreeMap::new();
    let mut permissions = Vec::new();
    let mut unreadable = Vec::new();
    let mut keep = |path: DatabasePath, read: Result<Option<RootFile>, FileError>| match read {
        Ok(Some(file)) => {
            permissions.push((path.clone(), permissions_of(&file)));
            files.insert(path, file.bytes);
        }
        Ok(None) => {}
        Err(error) => unreadable.push((path, error)),
    };
    for database in databases {
        let Some(directory) = database.as_str().strip_suffix('/') else {
            keep(database.clone(), read(root, database.as_str().as_bytes()));
            continue;
        };
        let names = match foreign_root::list_directory_in_root(root, directory.as_bytes(), MAX_FILES) {
            Ok(names) => names,
            Err(error) => {
                keep(database.clone(), Err(error));
                continue;
            }
        };
        for name in names {
            // a name that is no clean UTF-8 cannot be a `DatabasePath` as it is
            let shown = DatabasePath::new(&format!("{directory}/{}", redact::printable(&name)));
            if let Ok(shown) = shown {
                keep(shown, read(root, &[directory.as_bytes(), b"/", &name].concat()));
            }
        }
    }
    let mut databases = Databases::parse(files);
    for (path, permissions) in permissions {
        databases.set_permissions(&path, permissions);
    }
    for (path, error) in unreadable {
        databases.add_unreadable(&path, &chain(&error));
    }
    databases
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
        let databases = snapshot(opened.as_fd(), &paths);
        let found: Vec<String> = databases.paths().map(ToString::to_string).collect();
        assert_eq!(found, ["/etc/passwd", "/etc/userdb/eve.user"]);
        assert_eq!(databases.baseline().uid_zero, ["root"]);
        assert_eq!(databases.unreadable().count(), 0);
    }

    #[test]
    fn what_cannot_be_read_hides_no_other() {
        let root = tempfile::tempdir().expect("temporary directory");
        let below = |path: &str| root.path().join(path);
        std::fs::create_dir_all(below("etc")).expect("directories");
        std::fs::write(below("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").expect("passwd");
        std::os::unix::fs::symlink("loop", below("etc/loop")).expect("link");
        std::os::unix::fs::symlink("userdb", below("etc/userdb")).expect("link");
        let paths: Vec<DatabasePath> =
            ["/etc/passwd", "/etc/loop", "/etc/userdb/"].map(|path| DatabasePath::new(path).expect("path")).into();
        let opened = std::fs::File::open(root.path()).expect("root");
        let before = snapshot(opened.as_fd(), &paths);
        let unreadable: Vec<&str> = before.unreadable().map(|(path, _)| path.as_str()).collect();
        assert_eq!(unreadable, ["/etc/loop", "/etc/userdb/"]);
        std::fs::write(below("etc/passwd"), "eve:x:0:0::/:/bin/sh\n").expect("passwd");
        std::fs::remove_file(below("etc/loop")).expect("remove");
        std::fs::write(below("etc/loop"), "").expect("file");
        let changes = crate::model::account::diff(&before, &snapshot(opened.as_fd(), &paths));
        let told: Vec<(&str, &str)> =
            changes.iter().map(|change| (change.change.as_str(), change.database.as_str())).collect();
        assert!(told.contains(&("account_added", "/etc/passwd")), "{told:?}");
        assert!(told.contains(&("database_changed", "/etc/loop")), "{told:?}");
    }
}

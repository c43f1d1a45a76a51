//! Changing one path, so that whoever looks sees what was before or what comes after, and after a power cut, too: written beside,
//! flushed, renamed over, and the folder flushed (rename(2), fsync(2) "DESCRIPTION").

use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::fchown;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;

use crate::engines::view::State;

/// Why a path was not changed.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}{}", path.display(), remedy(source))]
pub struct ApplyError {
    what: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl ApplyError {
    /// What the kernel said.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (run as root)",
        io::ErrorKind::ReadOnlyFilesystem => {
            " (its file system is read-only: change it where the image of this node is made)"
        }
        _ => "",
    }
}

/// Makes `path` what `state` says.
///
/// # Errors
/// [`ApplyError`]; then the path is as it was.
pub fn apply(path: &Path, state: &State) -> Result<(), ApplyError> {
    let failed = |what| move |source| ApplyError { what, path: path.to_owned(), source };
    match state {
        State::File { text, mode, uid, gid } => {
            write(path, text.as_bytes(), Attributes { mode: *mode, uid: *uid, gid: *gid }).map_err(failed("write"))
        }
        State::Link { target } => link(path, target).map_err(failed("link")),
        State::Folder => match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            made => made.and_then(|()| flush_folder_of(path)).map_err(failed("make the folder")),
        },
        State::Absent => remove(path).map_err(failed("remove")),
    }
}

/// Takes away what a run that was cut off left beside `path`.
///
/// # Errors
/// [`ApplyError`].
pub fn clear(path: &Path) -> Result<(), ApplyError> {
    let beside = beside(path);
    match fs::remove_file(&beside) {
        Err(error) if !is_gone(&error) => Err(ApplyError { what: "remove", path: beside, source: error }),
        _ => Ok(()),
    }
}

#[derive(Clone, Copy)]
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
}

/// Where a new file is written. Engines read every file of their `.d` folders, so not in one of those.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".acctguard-new");
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    let is_read_whole = folder.as_os_str().as_bytes().ends_with(b".d");
    let folder = if is_read_whole { folder.parent().unwrap_or(folder) } else { folder };
    folder.join(name)
}

/// A file that is there keeps its owner, permissions and extended attributes.
fn write(path: &Path, bytes: &[u8], new: Attributes) -> io::Result<()> {
    let there = fs::symlink_metadata(path).ok();
    let attributes = there.as_ref().map_or(new, |found| Attributes {
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
    });
    let beside = beside(path);
    remove_if_there(&beside)?;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| own(&file, attributes))
        .and_then(|()| file.set_permissions(fs::Permissions::from_mode(attributes.mode)))
        .map(|()| {
            if there.is_some() {
                copy_extended_attributes(path, &beside)
            }
        })
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&beside, path));
    if let Err(error) = written {
        // the error that counts is the first one
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    flush_folder_of(path)
}

/// Who may not give files away keeps what is his already.
fn own(file: &File, attributes: Attributes) -> io::Result<()> {
    let found = file.metadata()?;
    if (found.uid(), found.gid()) == (attributes.uid, attributes.gid) || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    fchown(file, Some(attributes.uid), Some(attributes.gid))
}

/// Labels of SELinux and access lists, as far as the file system takes them.
fn copy_extended_attributes(from: &Path, to: &Path) {
    let mut names = vec![0_u8; 64 * 1024];
    let Ok(length) = rustix::fs::listxattr(from, &mut names) else { return };
    let names = names.get(..length).unwrap_or_default();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0_u8; 64 * 1024];
        if let Ok(length) = rustix::fs::getxattr(from, name, &mut value) {
            let value = value.get(..length).unwrap_or_default();
            // a file without its label still says the right thing
            let _ = rustix::fs::setxattr(to, name, value, rustix::fs::XattrFlags::empty());
        }
    }
}

fn link(path: &Path, target: &Path) -> io::Result<()> {
    let beside = beside(path);
    remove_if_there(&beside)?;
    symlink(target, &beside)?;
    fs::rename(&beside, path)?;
    flush_folder_of(path)
}

/// A folder that somebody put something into stays.
fn remove(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    let removed = if found.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        Err(error) if is_gone(&error) => Ok(()),
        removed => removed.and_then(|()| flush_folder_of(path)),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if !is_gone(&error) => Err(error),
        _ => Ok(()),
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn flush_folder_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or_else(|| Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("lists").map(|entry| entry.expect("entry").file_name());
        let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn every_state_is_made_and_unmade() {
        let folder = tempfile::tempdir().expect("folder");
        let (file, link, inner) = (folder.path().join("f"), folder.path().join("l"), folder.path().join("d.d"));
        let own = fs::metadata(folder.path()).expect("metadata");
        let text = |text: &str| State::File { text: text.to_owned(), mode: 0o640, uid: own.uid(), gid: own.gid() };
        let states = [(&file, text("a")), (&link, State::Link { target: "/t".into() }), (&inner, State::Folder)];
        for (path, state) in &states {
            apply(path, state).expect("applies");
            apply(path, state).expect("applies again");
            assert_eq!(State::at(path).expect("reads"), *state);
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o604)).expect("mode");
        apply(&file, &text("b")).expect("applies");
        assert_eq!(fs::metadata(&file).expect("metadata").mode() & 0o7777, 0o604, "a file keeps its permissions");
        assert_eq!(fs::read_to_string(&file).expect("reads"), "b");
        for (path, _) in &states {
            apply(path, &State::Absent).expect("removes");
            apply(path, &State::Absent).expect("removes again");
        }
        assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
    }

    #[test]
    fn a_folder_that_others_use_stays_and_a_failure_leaves_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        let inner = folder.path().join("conf.d");
        apply(&inner, &State::Folder).expect("makes");
        fs::write(inner.join("other"), "x").expect("writes");
        apply(&inner, &State::Absent).expect("leaves it");
        assert_eq!(names(&inner), ["other"]);
        let error = apply(&inner, &State::new_file("x".to_owned())).expect_err("a folder is there");
        assert!(error.to_string().starts_with("write "), "{error}");
        assert_eq!(names(folder.path()), ["conf.d"]);
    }

    #[test]
    fn what_a_cut_left_is_cleared_and_never_lies_where_engines_read() {
        assert_eq!(
            beside(Path::new("/etc/crio/crio.conf.d/99-x.conf")),
            Path::new("/etc/crio/.99-x.conf.acctguard-new")
        );
        assert_eq!(beside(Path::new("/etc/docker/daemon.json")), Path::new("/etc/docker/.daemon.json.acctguard-new"));
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("f");
        fs::write(beside(&path), "half").expect("writes");
        clear(&path).expect("clears");
        clear(&path).expect("clears again");
        assert!(names(folder.path()).is_empty());
    }
}

//! The directories on the ways to the databases, each read once: for the links that lie in it and for the rights that are granted in it.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::mem::MaybeUninit;

use rustix::fd::AsFd;
use rustix::fd::OwnedFd;
use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::RawDir;
use rustix::io::Errno;

/// Bytes of entries that one getdents64(2) is to fill.
const BUFFER_BYTES: usize = 1 << 14;

/// The names in a directory, without `.` and `..`, and what each is; [`FileType::Unknown`] where the file system does not tell.
pub type Entries = BTreeMap<Vec<u8>, FileType>;

/// What was read, by path. No descriptor stays open: a container may be allowed few.
#[derive(Debug, Default)]
pub struct Directories(BTreeMap<Vec<u8>, Result<Rc<Entries>, Errno>>);

impl Directories {
    /// What was in the directory at `path` when it was first asked for. The last part of `path` may be no link.
    ///
    /// # Errors
    /// openat(2)'s and getdents64(2)'s.
    pub fn entries(&mut self, path: &[u8]) -> Result<Rc<Entries>, Errno> {
        if let Some(known) = self.0.get(path) {
            return known.clone();
        }
        let entries = open(CWD, path).and_then(|directory| list(&directory)).map(Rc::new);
        self.0.insert(path.to_vec(), entries.clone());
        entries
    }
}

/// Opens a directory to read it; not one that a link leads to.
///
/// # Errors
/// openat(2)'s; `ENOTDIR` for a link or a file.
pub fn open(directory: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

/// What is in `directory`, which was opened for this.
///
/// # Errors
/// getdents64(2)'s.
pub fn list(directory: &OwnedFd) -> Result<Entries, Errno> {
    let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
    let mut listing = RawDir::new(directory, &mut buffer);
    let mut entries = Entries::new();
    while let Some(entry) = listing.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            entries.insert(name.to_vec(), entry.file_type());
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_read_once_and_a_link_is_none() {
        let folder = tempfile::tempdir().expect("folder");
        let base = folder.path();
        let path = |name: &str| base.join(name).into_os_string().into_encoded_bytes();
        std::fs::create_dir(base.join("directory")).expect("directory");
        std::os::unix::fs::symlink("directory", base.join("link")).expect("link");
        let mut directories = Directories::default();
        let expected = [(b"directory".to_vec(), FileType::Directory), (b"link".to_vec(), FileType::Symlink)];
        assert_eq!(*directories.entries(&path("")).expect("entries"), Entries::from(expected));
        assert_eq!(directories.entries(&path("link")), Err(Errno::NOTDIR));
        assert_eq!(directories.entries(&path("missing")), Err(Errno::NOENT));
        std::fs::write(base.join("later"), "").expect("file");
        assert_eq!(directories.entries(&path("")).expect("entries").len(), 2, "it was read before");
        for number in 0..1000 {
            std::fs::write(base.join(format!("directory/with-a-name-that-fills-the-buffer-{number}")), "")
                .expect("file");
        }
        assert_eq!(directories.entries(&path("directory")).expect("entries").len(), 1000);
    }
}

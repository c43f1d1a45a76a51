//! Reading a file whole.

use alloc::vec::Vec;

use rustix::fd::OwnedFd;
use rustix::fs::CWD;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;

/// Bytes that one read(2) is to fill: proc_pid_mountinfo(5) is made anew for each.
const STEP_BYTES: usize = 1 << 16;

/// All bytes of the file at `path`.
///
/// # Errors
/// openat(2)'s and read(2)'s.
pub fn read_at(path: &[u8]) -> Result<Vec<u8>, Errno> {
    read(&rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?, usize::MAX)
}

/// What is left to read of an open file, `most` bytes of it.
///
/// # Errors
/// read(2)'s.
pub fn read(file: &OwnedFd, most: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    while bytes.len() < most {
        bytes.reserve(STEP_BYTES);
        match rustix::io::read(file, rustix::buffer::spare_capacity(&mut bytes)) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(0) => break,
            Ok(_) => {}
        }
    }
    bytes.truncate(most);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_whole_or_as_far_as_wanted() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("file");
        std::fs::write(&path, [7; 100_000]).expect("file");
        assert_eq!(read_at(path.as_os_str().as_encoded_bytes()).expect("read"), [7; 100_000]);
        assert_eq!(read(&std::fs::File::open(&path).expect("open").into(), 70_000).expect("read").len(), 70_000);
        assert_eq!(read_at(b"/no/such/file"), Err(Errno::NOENT));
    }
}

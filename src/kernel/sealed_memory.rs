//! Files without a name that nobody can change: a program to be run by descriptor, or a text for a program that takes a path.
//!
//! A program run out of such memory cannot be overwritten by whoever runs it (CVE-2019-5736), is not on any file system of
//! the container, and is gone with its last descriptor. memfd_create(2), fcntl(2) "File Sealing".

use std::os::fd::OwnedFd;

use rustix::fs::MemfdFlags;
use rustix::fs::Mode;
use rustix::fs::SealFlags;

use crate::kernel::Errno;
use crate::kernel::raw::inherited;

/// The memory could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make sealed memory ({step}); vm.memfd_noexec must be 0 or 1, see memfd_create(2)")]
pub struct SealedMemoryError {
    step: &'static str,
    #[source]
    source: Errno,
}

/// What the memory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be executed by anybody (mode 0555).
    Program,
    /// To be read by its owner (mode 0400).
    Text,
}

/// Memory that holds `bytes`, shows `name` in `/proc`, and can never be changed, grown, shrunk or unsealed. Close-on-exec.
///
/// # Errors
/// [`SealedMemoryError`].
pub fn make(name: &str, bytes: &[u8], purpose: Purpose) -> Result<OwnedFd, SealedMemoryError> {
    let failed = |step| move |source| SealedMemoryError { step, source };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = match purpose {
        // Linux 6.3; older kernels know no other memory than executable memory
        Purpose::Program => match rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC) {
            Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
            made => made,
        },
        Purpose::Text => rustix::fs::memfd_create(name, flags),
    };
    let memory = memory.map_err(failed("memfd_create"))?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&memory, rest)).map_err(failed("write"))?;
        rest = rest.get(written..).unwrap_or_default();
    }
    rustix::fs::seek(&memory, rustix::fs::SeekFrom::Start(0)).map_err(failed("seek"))?;
    let mode = match purpose {
        Purpose::Program => Mode::from_raw_mode(0o555),
        Purpose::Text => Mode::from_raw_mode(0o400),
    };
    rustix::fs::fchmod(&memory, mode).map_err(failed("fchmod"))?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&memory, seals).map_err(failed("seal"))?;
    Ok(memory)
}

/// Puts `memory` at descriptor `number`, inherited by the program this process turns into next.
///
/// # Errors
/// `EBADF` for a number past the limit of open files (RLIMIT_NOFILE, getrlimit(2)).
pub fn place(memory: &OwnedFd, number: i32) -> Result<(), Errno> {
    inherited::place(std::os::fd::AsFd::as_fd(memory), number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn nobody_can_change_it_and_it_runs() {
        let bytes = std::fs::read("/bin/true").expect("a program");
        let memory = make("test-program", &bytes, Purpose::Program).expect("memory");
        let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
        let status = std::fs::metadata(&path).expect("stat");
        assert_eq!(status.permissions().mode() & 0o7777, 0o555);
        assert_eq!(status.len(), bytes.len() as u64);
        assert_eq!(rustix::io::write(&memory, b"x"), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&memory, 0), Err(Errno::PERM));
        assert_eq!(rustix::fs::fcntl_add_seals(&memory, SealFlags::FUTURE_WRITE), Err(Errno::PERM));
        // whoever may write to files of any mode, as root: the seal holds
        let reopened = std::fs::File::options().write(true).open(&path);
        assert!(reopened.is_err() || rustix::io::write(reopened.expect("open"), b"x") == Err(Errno::PERM));
        let by_descriptor = format!("/proc/{}/fd/{}", std::process::id(), memory.as_raw_fd());
        assert!(std::process::Command::new(by_descriptor).status().expect("it runs").success());
    }

    #[test]
    fn a_text_is_not_executable() {
        let memory = make("test-text", b"{}", Purpose::Text).expect("memory");
        let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "{}");
        assert_eq!(std::fs::metadata(&path).expect("stat").permissions().mode() & 0o777, 0o400);
    }
}

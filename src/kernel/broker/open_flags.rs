//! Whether flags of open(2) go together: asked of the running kernel itself, which looks at them before it looks at the path
//! (fs/open.c, `build_open_flags`). Which do has changed: `O_CREAT|O_DIRECTORY` is an error since Linux 6.3.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rustix::fs::MemfdFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;

use crate::kernel::Errno;

/// What is no directory: every path below it is `ENOTDIR`, once the flags have passed.
fn no_directory() -> Option<&'static OwnedFd> {
    static FILE: OnceLock<Option<OwnedFd>> = OnceLock::new();
    FILE.get_or_init(|| rustix::fs::memfd_create("no-directory", MemfdFlags::CLOEXEC).ok()).as_ref()
}

fn verdict(outcome: Result<OwnedFd, Errno>) -> Result<(), Errno> {
    match outcome {
        Err(errno @ (Errno::INVAL | Errno::TOOBIG)) => Err(errno),
        _ => Ok(()),
    }
}

/// Whether open(2) takes `flags`.
///
/// # Errors
/// `EINVAL`.
pub fn check_open_flags(flags: u32) -> Result<(), Errno> {
    let Some(file) = no_directory() else { return Ok(()) };
    verdict(rustix::fs::openat(file, c"x", OFlags::from_bits_retain(flags), Mode::empty()))
}

/// Whether openat2(2) takes `flags`, `mode` and the restrictions `resolve`.
///
/// # Errors
/// `EINVAL`.
pub fn check_open_how(flags: u64, mode: u64, resolve: u64) -> Result<(), Errno> {
    const PERMISSIONS: u64 = 0o7777;
    // bits that no kernel knows; it says EINVAL to each of them
    let (Ok(flags), Ok(mode)) = (u32::try_from(flags), u32::try_from(mode)) else { return Err(Errno::INVAL) };
    if u64::from(mode) > PERMISSIONS {
        return Err(Errno::INVAL);
    }
    let Some(file) = no_directory() else { return Ok(()) };
    let (flags, mode) = (OFlags::from_bits_retain(flags), Mode::from_raw_mode(mode));
    verdict(rustix::fs::openat2(file, c"x", flags, mode, ResolveFlags::from_bits_retain(resolve)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_which_flags_go_together() {
        for (flags, expected) in [
            (0o1, Ok(())),
            (0o101, Ok(())),
            (0o20_200_001, Ok(())),            // O_TMPFILE|O_WRONLY
            (0o20_200_000, Err(Errno::INVAL)), // O_TMPFILE|O_RDONLY
            (0o20_000_001, Err(Errno::INVAL)), // without O_DIRECTORY
        ] {
            assert_eq!(check_open_flags(flags), expected, "{flags:#o}");
        }
        for (flags, mode, resolve, expected) in [
            (0o101, 0o644, 0, Ok(())),
            (0o1, 0o644, 0, Err(Errno::INVAL)),      // a mode, and nothing is created
            (0o101, 0o10_644, 0, Err(Errno::INVAL)), // no mode
            (1 << 40, 0, 0, Err(Errno::INVAL)),
            (0, 0, 0x8000, Err(Errno::INVAL)),
            (0, 0, 0x18, Err(Errno::INVAL)), // RESOLVE_BENEATH|RESOLVE_IN_ROOT
        ] {
            assert_eq!(check_open_how(flags, mode, resolve), expected, "{flags:#o} {mode:#o} {resolve:#x}");
        }
    }
}

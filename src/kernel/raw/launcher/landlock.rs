//! The three calls of landlock(7). Their numbers are the same on all architectures (Linux 5.13).

use core::ffi::c_int;
use core::ffi::c_long;
use core::ffi::c_uint;

use rustix::fd::AsFd;
use rustix::fd::AsRawFd;
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use super::check;
use super::owned;
use super::syscall;

const CREATE_RULESET: c_long = 444;
const ADD_RULE: c_long = 445;
const RESTRICT_SELF: c_long = 446;
/// `LANDLOCK_CREATE_RULESET_VERSION`.
const VERSION: c_uint = 1;
/// `LANDLOCK_RULE_PATH_BENEATH`.
const PATH_BENEATH: c_int = 1;

/// `struct landlock_ruleset_attr` as of ABI 1, which later kernels take for one that handles nothing else.
#[repr(C)]
struct Handled {
    file_system: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: c_int,
}

/// What the running kernel understands (landlock_create_ruleset(2)).
///
/// # Errors
/// `ENOSYS` without Landlock, `EOPNOTSUPP` when it is off.
pub fn abi() -> Result<i64, Errno> {
    // SAFETY: numbers and a null pointer that is not read for this flag.
    check(unsafe { syscall(CREATE_RULESET, core::ptr::null::<Handled>(), 0_usize, VERSION) })
}

/// A ruleset that denies the rights of `handled` (`LANDLOCK_ACCESS_FS_*`) wherever no rule grants them.
///
/// # Errors
/// landlock_create_ruleset(2)'s.
pub fn create_ruleset(handled: u64) -> Result<OwnedFd, Errno> {
    let handled = Handled { file_system: handled };
    // SAFETY: the kernel reads `size_of::<Handled>()` bytes of a live value.
    let made = check(unsafe { syscall(CREATE_RULESET, &raw const handled, size_of::<Handled>(), 0 as c_uint) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    unsafe { owned(made) }
}

/// Grants `allowed` on what `parent` was opened for, and on all below it.
///
/// # Errors
/// landlock_add_rule(2)'s: `EINVAL` for rights that only a directory can have on what is none, `EBADFD` for what no path leads to.
pub fn add_rule(ruleset: &OwnedFd, parent: impl AsFd, allowed: u64) -> Result<(), Errno> {
    let rule = PathBeneath { allowed, parent: parent.as_fd().as_raw_fd() };
    // SAFETY: the kernel reads one `struct landlock_path_beneath_attr` during the call.
    check(unsafe { syscall(ADD_RULE, ruleset.as_raw_fd(), PATH_BENEATH, &raw const rule, 0 as c_uint) }).map(drop)
}

/// Holds the calling thread and all it will ever start to `ruleset`.
///
/// # Errors
/// landlock_restrict_self(2)'s: `EPERM` without no_new_privs and CAP_SYS_ADMIN.
pub fn restrict_self(ruleset: &OwnedFd, flags: u32) -> Result<(), Errno> {
    // SAFETY: numbers only.
    check(unsafe { syscall(RESTRICT_SELF, ruleset.as_raw_fd(), flags) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_those_of_linux_landlock_h() {
        assert_eq!((size_of::<Handled>(), size_of::<PathBeneath>()), (8, 12));
        assert_eq!(core::mem::offset_of!(PathBeneath, parent), 8);
    }

    #[test]
    fn the_kernel_tells_files_from_directories() {
        assert!(abi().expect("this kernel's Landlock") >= 3);
        let (write, make) = (1 << 1, 1 << 8);
        let ruleset = create_ruleset(write | make).expect("ruleset");
        let file = std::fs::File::open("/proc/self/exe").expect("file");
        assert_eq!(add_rule(&ruleset, &file, write | make), Err(Errno::INVAL));
        assert_eq!(add_rule(&ruleset, &file, write), Ok(()));
        let folder = std::fs::File::open("/").expect("folder");
        assert_eq!(add_rule(&ruleset, &folder, write | make), Ok(()));
        assert_eq!(add_rule(&ruleset, &folder, 1 << 2), Err(Errno::INVAL), "not handled");
    }
}

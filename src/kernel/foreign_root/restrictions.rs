//! The restrictions of openat2(2), as a walk carries them: what fs/namei.c asks on the way, in its order.

use crate::kernel::Errno;
use crate::kernel::foreign_root::ResolveError;

/// `RESOLVE_*` (linux/openat2.h) that stop a walk; all others are for whoever opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restrictions(u64);

impl Restrictions {
    /// None at all, as for every other call.
    pub const NONE: Self = Self(0);

    const NO_XDEV: u64 = 0x01;
    const NO_MAGICLINKS: u64 = 0x02;
    const NO_SYMLINKS: u64 = 0x04;
    const BENEATH: u64 = 0x08;
    const IN_ROOT: u64 = 0x10;

    /// The `resolve` member of `struct open_how`.
    #[must_use]
    pub const fn new(resolve: u64) -> Self {
        Self(resolve)
    }

    /// Whether the directory that the path starts from is the root of the walk (`LOOKUP_IS_SCOPED`).
    pub(super) const fn is_scoped(self) -> bool {
        self.has(Self::BENEATH | Self::IN_ROOT)
    }

    /// Whether a change of mount stops the walk (`RESOLVE_NO_XDEV`).
    pub(super) const fn keeps_to_mount(self) -> bool {
        self.has(Self::NO_XDEV)
    }

    /// `nd_jump_root`: a path that starts with a slash, or a link whose text does.
    pub(super) const fn check_absolute(self) -> Result<(), ResolveError> {
        stop_if(self.has(Self::BENEATH), Errno::XDEV)
    }

    /// `follow_dotdot`: `..` at the root of the walk.
    pub(super) const fn check_above_root(self) -> Result<(), ResolveError> {
        stop_if(self.has(Self::BENEATH), Errno::XDEV)
    }

    /// `pick_link`: any link that is to be followed, before its text is asked for.
    pub(super) const fn check_link(self) -> Result<(), ResolveError> {
        stop_if(self.has(Self::NO_SYMLINKS), Errno::LOOP)
    }

    /// `nd_jump_link`: a link that is no text, once the right to follow it is known.
    pub(super) const fn check_jump(self) -> Result<(), ResolveError> {
        stop_if(self.has(Self::NO_MAGICLINKS), Errno::LOOP)
    }

    /// `nd_jump_link`, "Not currently safe for scoped-lookups": asked after the mounts were compared.
    pub(super) const fn check_scoped_jump(self) -> Result<(), ResolveError> {
        stop_if(self.is_scoped(), Errno::XDEV)
    }

    /// `traverse_mounts` and its kin: from mount `from` to mount `to`.
    pub(super) const fn check_mounts(self, from: u64, to: u64) -> Result<(), ResolveError> {
        stop_if(self.keeps_to_mount() && from != to, Errno::XDEV)
    }

    const fn has(self, any_of: u64) -> bool {
        self.0 & any_of != 0
    }
}

const fn stop_if(stops: bool, errno: Errno) -> Result<(), ResolveError> {
    if stops { Err(ResolveError::Answer(errno)) } else { Ok(()) }
}

//! The arguments of a call that are more than a number: read and resolved, for whoever decides and whoever carries it out.

use crate::kernel::Errno;
use crate::kernel::foreign_root::Base;
use crate::kernel::foreign_root::Follow;
use crate::kernel::foreign_root::Restrictions;
use crate::supervise::decode::PathArgument;
use crate::supervise::decode::flags::OpenFlags;
use crate::supervise::target::Object;
use crate::supervise::target::Place;
use crate::supervise::target::Target;
use crate::supervise::target::TargetError;

/// A path argument, read and resolved.
#[derive(Debug, Clone)]
pub struct Argument {
    /// Byte for byte; empty where the descriptor itself is meant.
    pub asked: Vec<u8>,
    /// Where it leads.
    pub place: Place,
}

impl Argument {
    /// Reads and resolves `path`.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn read(target: &dyn Target, path: PathArgument) -> Result<Self, TargetError> {
        // Linux 6.11 takes a null pointer for an empty path where AT_EMPTY_PATH is given
        let asked = if path.empty_is_base && path.pointer == 0 { Vec::new() } else { target.path(path.pointer)? };
        if !asked.is_empty() {
            let place = target.resolve(path.base, &asked, path.follow)?;
            return Ok(Self { asked, place });
        }
        if !path.empty_is_base {
            return Err(TargetError::Nowhere(Errno::NOENT));
        }
        Ok(Self::of_object(target.object(path.base)?))
    }

    /// An object that no path led to.
    #[must_use]
    pub fn of_object(object: Object) -> Self {
        Self { asked: Vec::new(), place: Place { object: Some(object), ..Place::default() } }
    }

    /// open_by_handle_at(2): `struct file_handle { u32 handle_bytes; i32 handle_type; u8 f_handle[]; }`.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn of_handle(target: &dyn Target, mount: i32, handle: u64) -> Result<Self, TargetError> {
        const MAX_HANDLE_SZ: u32 = 128;
        let head = target.bytes(handle, 8)?;
        let number = |from: usize| Some(u32::from_le_bytes(*head.get(from..)?.first_chunk::<4>()?));
        let (Some(length), Some(kind)) = (number(0), number(4)) else {
            return Err(TargetError::Unreadable { address: handle, errno: Errno::FAULT });
        };
        if length == 0 || length > MAX_HANDLE_SZ {
            return Err(TargetError::Unreadable { address: handle, errno: Errno::INVAL });
        }
        let bytes = target.bytes(handle.wrapping_add(8), length as usize)?;
        Ok(Self::of_object(target.by_handle(mount, kind.cast_signed(), bytes)?))
    }
}

/// The options that mount(2) takes: one page, as much of it as can be read, up to a NUL (fs/namespace.c, `copy_mount_options`).
///
/// # Errors
/// [`TargetError::Unreadable`] with the kernel's errno.
pub fn mount_options(target: &dyn Target, address: u64) -> Result<Vec<u8>, TargetError> {
    const PAGE: usize = 4096;
    const IN_PAGE: u64 = 0xFFF;
    let unterminated = match target.path(address) {
        Err(error @ TargetError::Unreadable { .. }) => error,
        read => return read,
    };
    let to_boundary = PAGE.saturating_sub((address & IN_PAGE) as usize);
    let whole = target.bytes(address, PAGE);
    let mut options = whole.or_else(|_| target.bytes(address, to_boundary)).map_err(|_| unterminated)?;
    let end = options.iter().position(|byte| *byte == 0).unwrap_or(options.len());
    options.truncate(end.min(PAGE.saturating_sub(1)));
    Ok(options)
}

/// `struct open_how { u64 flags; u64 mode; u64 resolve; }` of openat2(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenHow {
    /// `O_*`.
    pub flags: u64,
    /// Mode.
    pub mode: u64,
    /// `RESOLVE_*`.
    pub resolve: u64,
}

impl OpenHow {
    /// Reads it. Extensible, and checked as the kernel does (`copy_struct_from_user`): too small is EINVAL, larger than a page
    /// or with a tail that is not zero is E2BIG.
    ///
    /// # Errors
    /// [`TargetError::Unreadable`] with the kernel's errno.
    pub fn read(target: &dyn Target, address: u64, size: u64) -> Result<Self, TargetError> {
        const VERSION_0_BYTES: u64 = 24;
        const PAGE: u64 = 4096;
        let fails = |errno| Err(TargetError::Unreadable { address, errno });
        if size < VERSION_0_BYTES {
            return fails(Errno::INVAL);
        }
        let length = match usize::try_from(size) {
            Ok(length) if size <= PAGE => length,
            _ => return fails(Errno::TOOBIG),
        };
        let bytes = target.bytes(address, length)?;
        let (Some([flags, mode, resolve]), Some(tail)) = (words(&bytes), bytes.get(24..)) else {
            return fails(Errno::FAULT);
        };
        if tail.iter().any(|byte| *byte != 0) {
            return fails(Errno::TOOBIG);
        }
        Ok(Self { flags, mode, resolve })
    }

    /// The path argument that it goes with.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn argument(
        &self,
        target: &dyn Target,
        base: Base,
        pointer: u64,
        flags: OpenFlags,
    ) -> Result<Argument, TargetError> {
        let follow = if flags.follows() { Follow::Last } else { Follow::NoLast };
        let asked = target.path(pointer)?;
        if asked.is_empty() {
            return Err(TargetError::Nowhere(Errno::NOENT));
        }
        let place = target.resolve_restricted(base, &asked, follow, Restrictions::new(self.resolve))?;
        Ok(Argument { asked, place })
    }
}

/// The first three native 64-bit words; every supported architecture is little-endian.
fn words(bytes: &[u8]) -> Option<[u64; 3]> {
    let (first, rest) = bytes.split_first_chunk::<8>()?;
    let (second, rest) = rest.split_first_chunk::<8>()?;
    let third = rest.first_chunk::<8>()?;
    Some([u64::from_le_bytes(*first), u64::from_le_bytes(*second), u64::from_le_bytes(*third)])
}

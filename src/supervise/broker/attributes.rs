//! truncate, chmod, chown and extended attributes, by path or descriptor.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::kernel::Errno;
use crate::kernel::broker::Operation as Deed;
use crate::kernel::broker::Subject;
use crate::kernel::foreign_root::Follow;
use crate::supervise::broker::plan::Entry;
use crate::supervise::broker::plan::PlanOrError;
use crate::supervise::broker::plan::Planner;
use crate::supervise::broker::plan::fails_at_once;
use crate::supervise::broker::plan::handle;
use crate::supervise::broker::plan::perform;
use crate::supervise::broker::plan::word;
use crate::supervise::decode::ObjectArgument;
use crate::supervise::decode::PathArgument;
use crate::supervise::decode::abi::Call;
use crate::supervise::target::ObjectKind;
use crate::supervise::target::TargetError;

/// `XATTR_NAME_MAX`, `XATTR_SIZE_MAX` (linux/limits.h).
const NAME_MAX: usize = 255;
const SIZE_MAX: u64 = 65_536;

/// The plan of a call that changes `object`.
pub fn plan(planner: &Planner<'_>, object: ObjectArgument) -> PlanOrError {
    // what is set is read before the path is looked up (fs/xattr.c, `setxattr_copy`)
    deed(planner, Subject::Object)?;
    let (subject, on) = match object {
        ObjectArgument::Path(path) => of_path(planner, path)?,
        ObjectArgument::Descriptor(number) => (Subject::Descriptor, Arc::new(planner.target.descriptor(number)?)),
    };
    perform(deed(planner, subject)?, vec![on])
}

fn of_path(planner: &Planner<'_>, path: PathArgument) -> Result<(Subject, Arc<OwnedFd>), TargetError> {
    let (argument, object) = planner.object(path)?;
    if object.kind == ObjectKind::Symlink && path.follow != Follow::Last && !argument.asked.is_empty() {
        if planner.is_for_the_process_alone(&argument.place) {
            return Err(TargetError::Nowhere(Errno::PERM)); // a link of procfs, for no helper to look up
        }
        return Ok(Entry::of(&argument)?.subject());
    }
    Ok((Subject::Object, handle(&object)?))
}

/// Which arguments hold what is set: calls that name their object by directory and path have one more in front.
fn deed(planner: &Planner<'_>, subject: Subject) -> Result<Deed, TargetError> {
    let [_, b, c, d, e, f] = planner.arguments;
    Ok(match planner.request.call {
        Call::Truncate | Call::Truncate64 => {
            Deed::Truncate { length: length(planner), limit: planner.target.file_size_limit() }
        }
        Call::Chmod | Call::Fchmod => Deed::ChangeMode { subject, mode: word(b) & 0o7777 },
        Call::Fchmodat | Call::Fchmodat2 => Deed::ChangeMode { subject, mode: word(c) & 0o7777 },
        Call::Fchownat => owner(planner, subject, c, d),
        Call::Setxattr | Call::Lsetxattr | Call::Fsetxattr => set(planner, subject, b, [c, d, e])?,
        Call::Removexattr | Call::Lremovexattr | Call::Fremovexattr => {
            Deed::RemoveAttribute { subject, name: name(planner, b)? }
        }
        Call::Setxattrat => set_at(planner, subject, d, e, f)?,
        Call::Removexattrat => Deed::RemoveAttribute { subject, name: name(planner, d)? },
        // chown and its kin
        _ => owner(planner, subject, b, c),
    })
}

/// The length that truncate(2) is given: 32 bits in 32-bit calls, and there in two halves for truncate64.
pub fn length(planner: &Planner<'_>) -> i64 {
    let [_, low, high, ..] = planner.arguments;
    match planner.request.call {
        Call::Truncate64 => (u64::from(word(high)) << 32 | u64::from(word(low))).cast_signed(),
        _ if planner.request.abi.has_32_bit_arguments() => i64::from(word(low).cast_signed()),
        _ => low.cast_signed(),
    }
}

/// -1 leaves an id as it is.
fn owner(planner: &Planner<'_>, subject: Subject, uid: u64, gid: u64) -> Deed {
    let id = |argument: u64| {
        let id = word(argument);
        let (id, none) = if planner.has_16_bit_ids() { (id & 0xFFFF, 0xFFFF) } else { (id, u32::MAX) };
        (id != none).then_some(id)
    };
    Deed::ChangeOwner { subject, uid: id(uid), gid: id(gid) }
}

/// xattr(7): "ERANGE" for a name that is empty or too long.
fn name(planner: &Planner<'_>, pointer: u64) -> Result<Vec<u8>, TargetError> {
    let name = match planner.target.path(pointer) {
        Err(TargetError::Unreadable { errno: Errno::NAMETOOLONG, .. }) => return fails_at_once(Errno::RANGE),
        name => name?,
    };
    if name.is_empty() || name.len() > NAME_MAX { fails_at_once(Errno::RANGE) } else { Ok(name) }
}

/// `[value, size, flags]`.
fn set(
    planner: &Planner<'_>,
    subject: Subject,
    name_at: u64,
    [value, size, flags]: [u64; 3],
) -> Result<Deed, TargetError> {
    const XATTR_CREATE_OR_REPLACE: u32 = 3;
    let flags = word(flags);
    if flags & !XATTR_CREATE_OR_REPLACE != 0 {
        return fails_at_once(Errno::INVAL);
    }
    let name = name(planner, name_at)?;
    let value = match usize::try_from(size) {
        Ok(0) => Vec::new(),
        Ok(length) if size <= SIZE_MAX => planner.target.bytes(value, length)?,
        _ => return fails_at_once(Errno::TOOBIG),
    };
    Ok(Deed::SetAttribute { subject, name, value, flags })
}

/// setxattrat(2), Linux 6.13: `struct xattr_args { u64 value; u32 size; u32 flags; }`.
fn set_at(
    planner: &Planner<'_>,
    subject: Subject,
    name_at: u64,
    arguments: u64,
    size: u64,
) -> Result<Deed, TargetError> {
    const ARGUMENTS_BYTES: u64 = 16;
    if size != ARGUMENTS_BYTES {
        return fails_at_once(if size < ARGUMENTS_BYTES { Errno::INVAL } else { Errno::TOOBIG });
    }
    let bytes = planner.target.bytes(arguments, 16)?;
    let number = |from: usize| Some(u32::from_le_bytes(*bytes.get(from..)?.first_chunk::<4>()?));
    let value = bytes.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
    let (Some(value), Some(size), Some(flags)) = (value, number(8), number(12)) else {
        return fails_at_once(Errno::FAULT);
    };
    set(planner, subject, name_at, [value, u64::from(size), u64::from(flags)])
}

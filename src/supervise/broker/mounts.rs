//! mount, move_mount, umount2.

use crate::kernel::Errno;
use crate::kernel::broker::Mount;
use crate::kernel::broker::Operation as Deed;
use crate::supervise::argument::mount_options;
use crate::supervise::broker::layers::Written;
use crate::supervise::broker::plan::Entry;
use crate::supervise::broker::plan::Plan;
use crate::supervise::broker::plan::PlanOrError;
use crate::supervise::broker::plan::Planner;
use crate::supervise::broker::plan::fails;
use crate::supervise::broker::plan::handle;
use crate::supervise::broker::plan::perform;
use crate::supervise::decode::PathArgument;
use crate::supervise::decode::flags::mount as ms;
use crate::supervise::layers;
use crate::supervise::target::TargetError;

/// `MS_REC`.
const RECURSIVE: u64 = 16_384;
/// `MOVE_MOUNT_*` about paths: all that are not, are the caller's.
const MOVE_MOUNT_PATHS: u32 = 0x77;

/// mount(2), in the order in which `path_mount` looks at the flags. A change of an existing mount's flags makes no database
/// reachable or hidden, so it matters not which mount it is. `[kind, data]` are addresses.
pub fn mount(
    planner: &Planner<'_>,
    source: PathArgument,
    target: PathArgument,
    flags: u64,
    [kind, data]: [u64; 2],
) -> PlanOrError {
    let flags = ms::without_magic(flags);
    let is = |bit: u64| flags & bit != 0;
    if is(ms::REMOUNT) || (!is(ms::BIND) && is(ms::PROPAGATION)) {
        return Ok(Plan::LetGo);
    }
    let (_, point) = planner.object(target)?;
    if is(ms::BIND) || is(ms::MOVE) {
        let (_, source) = planner.object(source)?;
        let on = vec![handle(&source)?, handle(&point)?];
        let deed = if is(ms::BIND) { Mount::Bind { recursive: is(RECURSIVE) } } else { Mount::Move { flags: 0 } };
        return perform(Deed::Mount(deed), on);
    }
    let source = optional(planner, source.pointer)?;
    let kind = optional(planner, kind)?;
    let mut on = vec![handle(&point)?];
    on.extend(planner.target.shown_namespaces()?);
    let mut written = Written::after(on);
    if data != 0 {
        let options = mount_options(planner.target, data)?;
        match kind.as_deref() {
            Some(layers::OVERLAY) => written.options(planner, &options)?,
            // as text: no other file system that a container may mount takes another form (cgroup, proc, tmpfs, fuse …)
            _ => written.numbers(planner, &options)?,
        }
    }
    let data = (data != 0).then_some(written.parts);
    perform(Deed::Mount(Mount::New { source, kind, flags, data }), written.on)
}

/// A string that may be a null pointer.
fn optional(planner: &Planner<'_>, pointer: u64) -> Result<Option<Vec<u8>>, TargetError> {
    if pointer == 0 { Ok(None) } else { planner.target.path(pointer).map(Some) }
}

/// move_mount(2).
pub fn move_mount(planner: &Planner<'_>, source: PathArgument, target: PathArgument, flags: u32) -> PlanOrError {
    let (_, source) = planner.object(source)?;
    let (_, point) = planner.object(target)?;
    let deed = Mount::Move { flags: flags & !MOVE_MOUNT_PATHS };
    perform(Deed::Mount(deed), vec![handle(&source)?, handle(&point)?])
}

/// umount2(2): the mount point is an entry of the directory above it. The root itself cannot be told so.
pub fn unmount(planner: &Planner<'_>, path: PathArgument, flags: u32) -> PlanOrError {
    use crate::supervise::argument::Argument;
    use crate::supervise::decode::abi::Call;
    let argument = Argument::read(planner.target, path)?;
    if argument.place.directory.is_none() {
        return fails(Errno::INVAL);
    }
    let entry = Entry::of(&argument)?;
    let flags = if planner.request.call == Call::Umount { 0 } else { flags };
    perform(Deed::Mount(Mount::Unmount { name: entry.name, flags }), vec![entry.directory])
}

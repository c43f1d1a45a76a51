//! What may be left to the kernel under the seal: Landlock refuses every write to a sealed file, whoever wins a race.
//!
//! Not left to it: what lies directly in a sealed directory (`/`, `/etc`, and each directory on the way to a database), which
//! Landlock refuses to the workload and the broker carries out for it; and what Landlock has no right for (chmod(2), chown(2),
//! setxattr(2), open_by_handle_at(2); landlock(7)).

use crate::model::policy::Ground;
use crate::supervise::argument::Argument;
use crate::supervise::argument::OpenHow;
use crate::supervise::databases::Ancestors;
use crate::supervise::decode::Operation;
use crate::supervise::decode::PathArgument;
use crate::supervise::decode::Request;
use crate::supervise::decode::abi::Call;
use crate::supervise::decode::flags::OpenFlags;
use crate::supervise::observe::Guarded;
use crate::supervise::supervisor::Supervisor;
use crate::supervise::target::ObjectKind;
use crate::supervise::target::Place;
use crate::supervise::target::Target;
use crate::supervise::target::TargetError;

impl Supervisor {
    /// Whether the kernel may carry `request` out because a seal stands behind it.
    pub(super) fn rests_on_seal(&self, request: &Request, target: &dyn Target, guarded: &Guarded<'_>) -> bool {
        if self.origin.ground != Ground::Seal {
            return false;
        }
        match places(request, target) {
            Ok(places) => {
                let sealed = Ancestors::look_up(guarded.root, guarded.databases);
                !places.iter().any(|place| needs_broker(place, &sealed))
            }
            // the broker gives the process the errno; an argument that only we cannot tell is the seal's
            Err(TargetError::Unable(_)) => true,
            Err(_) => false,
        }
    }
}

/// Where the arguments of a call lead that Landlock has a right for; [`TargetError::Gone`] for one that it has not.
fn places(request: &Request, target: &dyn Target) -> Result<Vec<Place>, TargetError> {
    let read = |paths: &[PathArgument]| {
        paths.iter().map(|path| Argument::read(target, *path).map(|argument| argument.place)).collect()
    };
    match request.operation {
        Operation::Open { path, .. } => read(&[path]),
        Operation::OpenHow { base, pointer, how, how_bytes } => {
            let how = OpenHow::read(target, how, how_bytes)?;
            let flags = OpenFlags::new(request.abi, how.flags);
            Ok(vec![how.argument(target, base, pointer, flags)?.place])
        }
        Operation::Rename { old, new, .. } | Operation::Link { old, new } => read(&[old, new]),
        Operation::MakeEntry { new } => read(&[new]),
        Operation::Unlink { path, .. } => read(&[path]),
        Operation::Change { object: crate::supervise::decode::ObjectArgument::Path(path) }
            if matches!(request.call, Call::Truncate | Call::Truncate64) =>
        {
            read(&[path])
        }
        // a sealed process cannot mount (Landlock refuses mount(2) and its kin); the others change no file
        Operation::Mount { .. }
        | Operation::MoveMount { .. }
        | Operation::OpenTree { .. }
        | Operation::Unmount { .. }
        | Operation::PivotRoot { .. }
        | Operation::ChangeRoot
        | Operation::Execute { .. }
        | Operation::IoUringSetup => Ok(Vec::new()),
        Operation::Change { .. } | Operation::OpenByHandle { .. } => Err(TargetError::Gone),
    }
}

/// Whether Landlock refuses the workload what stands here, though it is no database: it lies directly in a sealed directory, or
/// may, because no path tells.
fn needs_broker(place: &Place, sealed: &Ancestors) -> bool {
    match place.parent {
        Some(_) => sealed.holds(place),
        None => place.object.as_ref().is_some_and(|object| object.kind == ObjectKind::Regular),
    }
}

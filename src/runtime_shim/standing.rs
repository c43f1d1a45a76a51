//! On which ground a process is put: the facts of this machine, bundle and launcher for the decision in `model::policy::ground`.

use serde_json::Value;

use crate::kernel::assembled_root::AssembledRoot;
use crate::kernel::features;
use crate::model::diagnostic::chain;
use crate::model::policy::Applied;
use crate::model::policy::Ground;
use crate::model::policy::Mode;
use crate::model::policy::ground;
use crate::model::policy::ground::Facts;
use crate::model::policy::ground::Standing;
use crate::model::policy::rule::Landlock;
use crate::oci::launcher_edit;
use crate::runtime_shim::Call;
use crate::runtime_shim::handover::Seat;
use crate::runtime_shim::program_search;

/// The ground of a process, and the launcher when that is the seal.
#[derive(Debug, Default)]
pub struct Decided {
    /// The ground and why.
    pub standing: Standing,
    /// The launcher, under the seal only.
    pub seat: Option<Seat>,
}

/// A launcher for nothing but a listener of its own, in front of an enforced `process` that is not sealed. The launcher must be in
/// neither `process` nor `spec`.
///
/// # Errors
/// Why there is none, in one line.
pub fn listener_only(
    call: &Call,
    spec: &Value,
    process: &Value,
    root: impl FnOnce() -> Result<AssembledRoot, String>,
) -> Result<Seat, String> {
    let seat = Seat::take(call);
    let facts = Facts {
        landlock_abi: Err("not looked at".to_owned()),
        launcher: seat.as_ref().map(|_| ()).map_err(|error| chain(error)),
        program: root().and_then(|root| program_search::look(&root, spec, process)),
        process: launcher_edit::facts(spec, process),
    };
    ground::may_listen(&facts)?;
    seat.map_err(|error| chain(&error))
}

/// Decides for `process` in the container of `spec`, whose root opens by `root`. The launcher must be in neither.
pub fn decide(
    call: &Call,
    applied: &Applied,
    spec: &Value,
    process: &Value,
    root: impl FnOnce() -> Result<AssembledRoot, String>,
) -> Decided {
    // the cheap answer first: nothing is looked at for a process that is not to be sealed
    if applied.mode != Mode::Enforce || applied.landlock == Landlock::Off {
        let nothing = || Err("not looked at".to_owned());
        let facts = Facts {
            landlock_abi: Err("not looked at".to_owned()),
            launcher: nothing(),
            program: nothing(),
            process: launcher_edit::facts(spec, process),
        };
        return Decided { standing: ground::decide(applied.mode, applied.landlock, &facts), seat: None };
    }
    let seat = Seat::take(call);
    let facts = Facts {
        landlock_abi: features::landlock_abi(),
        launcher: seat.as_ref().map(|_| ()).map_err(|error| chain(error)),
        program: root().and_then(|root| program_search::look(&root, spec, process)),
        process: launcher_edit::facts(spec, process),
    };
    let standing = ground::decide(applied.mode, applied.landlock, &facts);
    let seat = seat.ok().filter(|_| standing.ground == Ground::Seal);
    Decided { standing, seat }
}

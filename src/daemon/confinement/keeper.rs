//! The keepers, and what starts helpers: processes whose children need more than they do.

use crate::daemon::confinement::KEEPER;
use crate::daemon::confinement::calls::Otherwise;
use crate::daemon::confinement::calls::Whose;
use crate::daemon::confinement::put_in_effect;
use crate::daemon::confinement::refuse_calls;
use crate::daemon::confinement::rule_out_dumps;
use crate::daemon::confinement::rule_out_writable_code;
use crate::daemon::confinement::tell;

/// Confines the calling process, the keeper, for good. Before it starts a worker, after it has opened what needs a
/// capability, and while it has one thread. It has [`KEEPER`] in effect afterwards; a program that it starts has all that
/// it had. What the kernel does not have is logged.
///
/// A call that is not allowed fails here, whatever it is: the end of a keeper is dearer than that of a worker. It fails for all that a keeper
/// starts, too, a newer worker among them, unless their own filters are stricter.
pub fn confine_keeper() {
    tell(rule_out_dumps());
    tell(rule_out_writable_code());
    tell(put_in_effect(&KEEPER.into()).map(drop));
    tell(refuse_calls(Whose::Keeper, Otherwise::Refuse));
}

/// Confines the calling process, the second keeper, which a keeper that is confined started. It has that one's filter, and its
/// successors will have: another of its own each time would add up (seccomp(2), `ENOMEM`).
pub fn confine_standby() {
    tell(rule_out_dumps());
    tell(rule_out_writable_code());
    tell(put_in_effect(&KEEPER.into()).map(drop));
}

/// Confines the calling process, which starts helpers, and all that it will start.
pub fn confine_starter(otherwise: Otherwise) {
    tell(rule_out_dumps());
    tell(refuse_calls(Whose::Starter, otherwise));
}

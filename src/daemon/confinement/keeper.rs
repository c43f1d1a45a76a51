//! The keeper, and what starts helpers: processes whose children need more than they do.

use crate::daemon::confinement::HELPERS;
use crate::daemon::confinement::calls::Whose;
use crate::daemon::confinement::keep_capabilities;
use crate::daemon::confinement::refuse_calls;
use crate::daemon::confinement::rule_out_dumps;
use crate::daemon::confinement::rule_out_writable_code;
use crate::daemon::confinement::tell;

/// Confines the calling process, the keeper, for good. Before it starts a worker, after it has opened what needs a
/// capability, and while it has one thread. It has no capability in effect afterwards; a program that it starts has those
/// of [`HELPERS`]. What the kernel does not have is logged.
pub fn confine_keeper() {
    tell(rule_out_dumps());
    tell(rule_out_writable_code());
    tell(keep_capabilities(&HELPERS, &[]));
    tell(refuse_calls(Whose::Keeper));
}

/// Confines the calling process, which starts helpers, and all that it will start.
pub fn confine_starter() {
    tell(rule_out_dumps());
    tell(keep_capabilities(&HELPERS, &HELPERS));
    tell(refuse_calls(Whose::Starter));
}

//! What our own processes take from themselves, so that a mistake in one of them is worth little to whoever finds it.
//!
//! | | keeper and second keeper | starter of helpers, and they | worker |
//! | --- | --- | --- | --- |
//! | no_new_privs (PR_SET_NO_NEW_PRIVS(2const)) | yes | yes | yes |
//! | no core dump, by size and by PR_SET_DUMPABLE(2const) | yes | size | yes |
//! | no memory that becomes executable (PR_SET_MDWE(2const), Linux 6.3) | yes | yes | yes |
//! | capabilities in effect | [`KEEPER`] | all; a helper: what its target has | [`WORKER`] |
//! | bounding and permitted set | all | all | [`WORKER`] |
//! | seccomp(2) | what any of them does | what it and helpers do | what the worker does |
//! | Landlock | no | no: a sealed process cannot mount | threads that only write |
//!
//! The order of birth is keeper, worker, starter, helper, and what a process took from itself its children never get back
//! (seccomp(2), capabilities(7)). So the worker starts the starter before it confines itself, and the keeper keeps what helpers
//! need: what its filter refuses, no worker can do, a newer one either (`acctguard-daemon upgrade`).
//!
//! A helper must have every capability that its target has, those that concern no file among them: who opens `/proc/PID/mem` needs all that
//! PID has (ptrace(2), "Ptrace access mode checking"; security/commoncap.c, `cap_ptrace_access_check`). Privileged containers have all.
//!
//! A call that is not allowed (`calls`) ends worker, starter and helper, the kernel logs it (audit record type 1326, with the call's
//! number), and the keeper says so and starts another worker. For that one, and for the keepers always, such a call fails with EPERM instead,
//! and is logged all the same: a mistake in the list must cost no container more than a call.
//!
//! Landlock for the whole worker would end the supervision. A process in a Landlock domain may look into no process outside it (landlock(7), "Ptrace
//! restrictions"), whatever rights the domain handles and whatever capabilities the process has: measured on Linux 6.18 with a domain that handles
//! nothing but writing files, process_vm_readv(2) of a call's arguments is EPERM, and `/proc/PID/root`, `exe` and `ns/mnt` are
//! EACCES. Domains are each thread's own, though (landlock(7)): those threads that never look into a container, the store's and the
//! sinks', can write to their own directories only ([`writing`]). What keeps the others from writing elsewhere is that they do
//! not have CAP_DAC_OVERRIDE, and that nothing in them writes by a name.
//!
//! A feature that the kernel does not have is logged, with what to do, and gone without: a guard that is less confined is better than none.

mod calls;
pub mod keeper;
pub mod worker;
pub mod writing;

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use caps::CapSet;
use caps::Capability;
use caps::CapsHashSet;
use rustix::process::DumpableBehavior;
use rustix::process::Resource;
use rustix::process::Rlimit;

use crate::daemon::confinement::calls::Whose;
use crate::kernel::Errno;
use crate::kernel::raw::questions;
use crate::model::diagnostic::chain;

pub use calls::Otherwise;
pub use keeper::confine_keeper;
pub use keeper::confine_standby;
pub use keeper::confine_starter;
pub use worker::confine_worker;

/// What the worker needs, and what for. The worker alone: what others start needs all that containers may have.
pub const WORKER: [Capability; 6] = [
    // fanotify_init(2) for events that tell the process; the audit log's multicast group in an unprivileged network namespace
    Capability::CAP_SYS_ADMIN,
    // process_vm_readv(2), pidfd_getfd(2), `/proc/PID/root`, `fd` and `ns` of the processes that are guarded (ptrace(2), access modes)
    Capability::CAP_SYS_PTRACE,
    // databases of any owner and mode (`/etc/shadow` is 0000 on some systems), open_by_handle_at(2)
    Capability::CAP_DAC_READ_SEARCH,
    // the signal of a call that exceeded a limit (setrlimit(2)); the end of a helper that has its target's uid
    Capability::CAP_KILL,
    // the multicast group that tells what Landlock refused (audit(7), AUDIT_NLGRP_READLOG)
    Capability::CAP_AUDIT_READ,
    // whether kernel auditing is on, and switching it on where the configuration says so
    Capability::CAP_AUDIT_CONTROL,
];

/// What the keepers have in effect themselves. Both only read, or lift a limit.
pub const KEEPER: [Capability; 2] = [
    // the installed program, wherever it is (`acctguard-daemon upgrade`)
    Capability::CAP_DAC_READ_SEARCH,
    // as many descriptors on the way to worker and second keeper as there are (unix(7), `ETOOMANYREFS`)
    Capability::CAP_SYS_RESOURCE,
];

/// A step of confining that the kernel did not take.
#[derive(Debug, thiserror::Error)]
enum ConfinementError {
    #[error("core dumps are not ruled out; the process can leave memory of its in a file")]
    Dumps(#[source] Errno),
    #[error("memory can be made executable; use Linux 6.3 or later (PR_SET_MDWE)")]
    WritableCode(#[source] Errno),
    #[error("capabilities that are not needed are kept; start the daemon with CAP_SETPCAP")]
    Capabilities(#[source] caps::errors::CapsError),
    #[error("system calls that are not needed are not refused; use Linux 4.14 or later with CONFIG_SECCOMP_FILTER")]
    Calls(#[source] libseccomp::error::SeccompError),
    #[error(
        "threads that only write can write everywhere; use Linux 6.2 or later with landlock in the kernel's lsm= list"
    )]
    Landlock(#[source] landlock::RulesetError),
    #[error(
        "threads that only write can write everywhere; use Linux 5.13 or later with landlock in the kernel's lsm= list"
    )]
    NoLandlock,
}

/// Logs a step that was not taken. The process goes on with less confinement.
fn tell(step: Result<(), ConfinementError>) {
    if let Err(error) = step {
        tracing::warn!("less confined than it should be: {}", chain(&error));
    }
}

/// Core dumps would hold password hashes. A process that is not dumpable leaves none even where `kernel.core_pattern` is a program,
/// and nobody of its own uid can look into it without CAP_SYS_PTRACE (PR_SET_DUMPABLE(2const)). Its files in `/proc` belong
/// to root, which it is.
fn rule_out_dumps() -> Result<(), ConfinementError> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none).map_err(ConfinementError::Dumps)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(ConfinementError::Dumps)
}

/// For good, and for all children.
fn rule_out_writable_code() -> Result<(), ConfinementError> {
    questions::refuse_writable_code().map_err(ConfinementError::WritableCode)
}

/// Keeps no capability but `kept`: in effect, permitted and in the bounding set, of each what was there.
fn keep_capabilities(kept: &[Capability]) -> Result<(), ConfinementError> {
    let failed = ConfinementError::Capabilities;
    let kept: CapsHashSet = kept.iter().copied().collect();
    for excess in caps::read(None, CapSet::Bounding).map_err(failed)?.difference(&kept) {
        caps::drop(None, CapSet::Bounding, *excess).map_err(failed)?;
    }
    let permitted = put_in_effect(&kept)?;
    caps::set(None, CapSet::Permitted, &permitted).map_err(failed)
}

/// Has `effective` in effect and nothing else, of them what is permitted, which is returned. What this process starts as root has all that
/// is permitted (capabilities(7), "Capabilities and execution of programs by root").
fn put_in_effect(effective: &CapsHashSet) -> Result<CapsHashSet, ConfinementError> {
    let failed = ConfinementError::Capabilities;
    caps::clear(None, CapSet::Ambient).map_err(failed)?;
    caps::clear(None, CapSet::Inheritable).map_err(failed)?;
    let permitted = caps::read(None, CapSet::Permitted).map_err(failed)?;
    let effective: CapsHashSet = permitted.intersection(effective).copied().collect();
    caps::set(None, CapSet::Effective, &effective).map_err(failed)?;
    Ok(effective)
}

/// Lets this process make no system call but those of `whose`. Sets no_new_privs; for every thread.
fn refuse_calls(whose: Whose, otherwise: Otherwise) -> Result<(), ConfinementError> {
    calls::absent().and_then(|filter| filter.load()).map_err(ConfinementError::Calls)?;
    let filter = calls::filter(whose, otherwise, std::process::id()).map_err(ConfinementError::Calls)?;
    filter.load().map_err(ConfinementError::Calls)
}

/// Says that a process of ours, `what`, made a call that its filter does not allow, if that is why it ended with `status`.
pub fn explain(what: &str, status: ExitStatus) {
    if status.signal() == Some(nix::libc::SIGSYS) {
        tracing::error!(
            "{what} made a system call that it never needs: a mistake in acctguard, or somebody else's code in it; the kernel's log names the call (audit record type 1326, sig=31); keep it, and report it"
        );
    }
}

/// What a worker does about a forbidden call when the one before it ended with `status`. A call that a mistake of ours forbids would
/// be made again by each worker that goes on with what the last one left: it fails for the next, and no container waits for ever.
/// SIGABRT: what starts helpers may have ended so, and its worker with it.
#[must_use]
pub fn after(status: ExitStatus, before: Otherwise) -> Otherwise {
    match status.signal() {
        Some(nix::libc::SIGSYS | nix::libc::SIGABRT) => Otherwise::Refuse,
        _ => before,
    }
}

#[cfg(test)]
mod tests;

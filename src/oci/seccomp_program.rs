//! Profiles as the programs that the kernel runs, compiled with libseccomp as runtimes do it (runc libcontainer/seccomp,
//! `InitSeccomp` and `matchCall`).

use std::os::fd::AsFd;

use libseccomp::ScmpAction;
use libseccomp::ScmpArch;
use libseccomp::ScmpArgCompare;
use libseccomp::ScmpCompareOp;
use libseccomp::ScmpFilterContext;
use libseccomp::ScmpSyscall;
use libseccomp::ScmpVersion;
use libseccomp::error::SeccompError;

use crate::oci::seccomp_condition::Comparison;
use crate::oci::seccomp_condition::Condition;
use crate::oci::seccomp_profile::Action;
use crate::oci::seccomp_profile::Profile;

/// Why there is no program.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// libseccomp refused.
    #[error("libseccomp makes no filter of the profile")]
    Library(#[from] SeccompError),
    /// An architecture that this libseccomp does not have.
    #[error("the seccomp profile names the architecture {0:?}, which this libseccomp does not know")]
    Architecture(String),
    /// An action that a filter cannot hold.
    #[error("the seccomp profile returns {0}, which is no errno")]
    Value(u64),
}

/// Who installs a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installer {
    /// A runtime: a caller of an architecture that the profile does not list is killed (seccomp_attr_set(3), `SCMP_FLTATR_ACT_BADARCH`).
    Runtime,
    /// The launcher, beside a runtime's, which judges those callers: they are let go. The calls are found by a binary tree, because the
    /// kernel tries every call there is as it installs a filter (kernel/seccomp.c, `seccomp_cache_prepare`): 0.1 ms for 0.2.
    Launcher,
    /// The launcher where there is no other filter: strange callers are killed, and the calls found by a binary tree.
    LauncherAlone,
}

/// The version of libseccomp by which programs are compiled here, as `2.5.4`.
#[must_use]
pub fn library_version() -> Option<[u32; 3]> {
    ScmpVersion::current().ok().map(|version| [version.major, version.minor, version.micro])
}

/// Writes the program of `profile` to `file`: instructions of eight bytes, `struct sock_filter` (linux/filter.h). A call that this
/// libseccomp does not know is left out, as runtimes do.
///
/// # Errors
/// [`ProgramError`].
pub fn write(profile: &Profile, installer: Installer, file: impl AsFd) -> Result<(), ProgramError> {
    let mut filter = ScmpFilterContext::new(action(profile.default)?)?;
    if installer == Installer::Launcher {
        filter.set_act_badarch(ScmpAction::Allow)?;
    }
    if installer != Installer::Runtime {
        filter.set_ctl_optimize(2)?;
    }
    for name in profile.architectures.iter().flatten() {
        let known: ScmpArch = name.parse().map_err(|_| ProgramError::Architecture(name.clone()))?;
        filter.add_arch(known)?;
    }
    for entry in &profile.entries {
        for name in &entry.names {
            let Ok(call) = ScmpSyscall::from_name(name) else { continue };
            for rule in entry.rules.iter().filter(|rule| rule.action != profile.default) {
                let conditions: Vec<_> = rule.conditions.iter().map(comparator).collect();
                if conditions.is_empty() {
                    filter.add_rule(action(rule.action)?, call)?;
                } else {
                    filter.add_rule_conditional(action(rule.action)?, call, &conditions)?;
                }
            }
        }
    }
    Ok(filter.export_bpf(&file)?)
}

fn action(action: Action) -> Result<ScmpAction, ProgramError> {
    Ok(match action {
        Action::Allow => ScmpAction::Allow,
        Action::Log => ScmpAction::Log,
        Action::Notify => ScmpAction::Notify,
        Action::Errno(errno) => ScmpAction::Errno(i32::try_from(errno).map_err(|_| ProgramError::Value(errno))?),
        Action::Trace(value) => ScmpAction::Trace(u16::try_from(value).map_err(|_| ProgramError::Value(value))?),
        Action::Trap => ScmpAction::Trap,
        Action::KillThread => ScmpAction::KillThread,
        Action::KillProcess => ScmpAction::KillProcess,
    })
}

fn comparator(condition: &Condition) -> ScmpArgCompare {
    let (operator, datum) = match condition.comparison {
        Comparison::NotEqual => (ScmpCompareOp::NotEqual, condition.value),
        Comparison::Less => (ScmpCompareOp::Less, condition.value),
        Comparison::LessOrEqual => (ScmpCompareOp::LessOrEqual, condition.value),
        Comparison::Equal => (ScmpCompareOp::Equal, condition.value),
        Comparison::GreaterOrEqual => (ScmpCompareOp::GreaterEqual, condition.value),
        Comparison::Greater => (ScmpCompareOp::Greater, condition.value),
        Comparison::MaskedEqual => (ScmpCompareOp::MaskedEqual(condition.value), condition.value_two),
    };
    ScmpArgCompare::new(condition.index, operator, datum)
}

//! On which ground a container's process stands, and why: one pure decision for the container's own process and for exec
//! sessions.
//!
//! Under the seal the kernel itself refuses (landlock(7)), so no race helps; but the seal is put on by the process itself,
//! and without `no_new_privs` that takes CAP_SYS_ADMIN in its user namespace (landlock_restrict_self(2), EPERM). That
//! capability is lent only where nobody in the container can take hold of the process that has it for a moment: a tracer
//! needs CAP_SYS_PTRACE for a process with more capabilities than its own (ptrace(2), "Ptrace access mode checking").
//! A sealed process can never mount (landlock(7)), so a workload that may mount is not sealed.

use crate::model::policy::Landlock;
use crate::model::policy::Mode;

/// What keeps a process from changing account databases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ground {
    /// Nothing: it is not watched.
    #[default]
    None,
    /// The listener sees and records; audit.
    Notify,
    /// The broker carries out every intercepted operation that is allowed.
    Broker,
    /// Landlock refuses in the kernel; the broker serves what lies directly in a sealed directory.
    Seal,
}

impl Ground {
    /// The published word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Notify => "notify",
            Self::Broker => "broker",
            Self::Seal => "seal",
        }
    }

    /// The ground of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::None, Self::Notify, Self::Broker, Self::Seal].into_iter().find(|ground| ground.as_str() == word)
    }

    /// What an intercepted process stands on when nothing is known of a seal: the listener, in enforce with the broker.
    #[must_use]
    pub const fn of_listener(mode: Mode) -> Self {
        match mode {
            Mode::Enforce => Self::Broker,
            Mode::Off | Mode::Audit => Self::Notify,
        }
    }
}

/// First Landlock ABI that handles all of write, truncate, remove, make and refer (landlock(7); Linux 6.2).
pub const LEAST_LANDLOCK_ABI: u32 = 3;

/// What the decision rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Landlock ABI of the running kernel, or why there is none.
    pub landlock_abi: Result<u32, String>,
    /// Whether there is a launcher to hand in, or why not.
    pub launcher: Result<(), String>,
    /// Whether the program will be found in the container, or why not.
    pub program: Result<(), String>,
    /// What the specification says.
    pub process: ProcessFacts,
}

/// What a specification says of a process, as far as the seal is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessFacts {
    /// `/proc` is mounted, so that the launcher can be run by its descriptor.
    pub proc_mounted: bool,
    /// `process.noNewPrivileges`.
    pub no_new_privileges: bool,
    /// CAP_SYS_ADMIN is in one of its sets: it may mount.
    pub may_administer: bool,
    /// CAP_SYS_PTRACE is in one of the sets of a process of the container.
    pub may_trace: bool,
    /// The container has a pid namespace of its own, made for it.
    pub own_pid_namespace: bool,
    /// The first of the launcher's calls that the workload's own seccomp profile refuses.
    pub refused_call: Option<&'static str>,
}

/// The outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// On what.
    pub ground: Ground,
    /// Why not on the seal, in words; empty when nothing better was asked for.
    pub reasons: Vec<String>,
    /// The seal takes lent capabilities.
    pub lend: bool,
}

impl Standing {
    /// A ground that needs no words.
    #[must_use]
    pub const fn plain(ground: Ground) -> Self {
        Self { ground, reasons: Vec::new(), lend: false }
    }
}

/// On which ground an intercepted process stands under `mode`, where `wanted` says whether policy asks for the seal.
#[must_use]
pub fn decide(mode: Mode, wanted: Landlock, facts: &Facts) -> Standing {
    if mode != Mode::Enforce {
        return Standing::plain(if mode == Mode::Off { Ground::None } else { Ground::Notify });
    }
    if wanted == Landlock::Off {
        return not_sealed("policy says landlock: off");
    }
    match obstacle(facts) {
        Some(reason) => not_sealed(&reason),
        None => Standing { ground: Ground::Seal, reasons: Vec::new(), lend: !facts.process.no_new_privileges },
    }
}

/// Whether a launcher can make a listener of its own in front of an enforced process that is not sealed; else the first thing that
/// stands in its way.
///
/// # Errors
/// One line.
pub fn may_listen(facts: &Facts) -> Result<(), String> {
    let process = &facts.process;
    if !process.proc_mounted {
        return Err("the specification does not mount /proc, by which it is run".to_owned());
    }
    facts.launcher.clone().and_then(|()| facts.program.clone())
}

fn not_sealed(reason: &str) -> Standing {
    Standing { ground: Ground::Broker, reasons: vec![format!("not sealed: {reason}")], lend: false }
}

/// The first thing that stands in the way of the seal.
fn obstacle(facts: &Facts) -> Option<String> {
    let process = &facts.process;
    match &facts.landlock_abi {
        Err(error) => return Some(format!("this kernel has no Landlock ({error})")),
        Ok(abi) if *abi < LEAST_LANDLOCK_ABI => {
            return Some(format!(
                "this kernel's Landlock ABI is {abi}, and {LEAST_LANDLOCK_ABI} is needed (Linux 6.2)"
            ));
        }
        Ok(_) => {}
    }
    if process.may_administer {
        return Some("the workload has CAP_SYS_ADMIN and could not mount under the seal".to_owned());
    }
    if !process.no_new_privileges {
        let unsafe_to_lend = "nothing can be lent to the launcher without noNewPrivileges: ";
        if process.may_trace {
            return Some(format!("{unsafe_to_lend}CAP_SYS_PTRACE is granted in the container"));
        }
        if !process.own_pid_namespace {
            return Some(format!("{unsafe_to_lend}its pid namespace is shared"));
        }
    }
    if let Some(call) = process.refused_call {
        return Some(format!("the workload's own seccomp profile refuses {call}"));
    }
    if !process.proc_mounted {
        return Some("its specification does not mount /proc, by which the launcher is run".to_owned());
    }
    let launcher = facts.launcher.as_ref().err();
    launcher.or(facts.program.as_ref().err()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            landlock_abi: Ok(7),
            launcher: Ok(()),
            program: Ok(()),
            process: ProcessFacts {
                proc_mounted: true,
                no_new_privileges: false,
                may_administer: false,
                may_trace: false,
                own_pid_namespace: true,
                refused_call: None,
            },
        }
    }

    #[test]
    fn audit_is_noted_off_is_nothing_and_enforce_is_sealed() {
        for (mode, wanted, ground, lend) in [
            (Mode::Off, Landlock::Required, Ground::None, false),
            (Mode::Audit, Landlock::Required, Ground::Notify, false),
            (Mode::Enforce, Landlock::Off, Ground::Broker, false),
            (Mode::Enforce, Landlock::Preferred, Ground::Seal, true),
            (Mode::Enforce, Landlock::Required, Ground::Seal, true),
        ] {
            let standing = decide(mode, wanted, &facts());
            assert_eq!((standing.ground, standing.lend), (ground, lend), "{mode:?} {wanted:?}");
            assert_eq!(standing.reasons.is_empty(), ground != Ground::Broker);
        }
    }

    #[test]
    fn with_no_new_privileges_nothing_is_lent_and_nobody_has_to_be_feared() {
        let mut sealed = facts();
        sealed.process.no_new_privileges = true;
        sealed.process.may_trace = true;
        sealed.process.own_pid_namespace = false;
        let standing = decide(Mode::Enforce, Landlock::Preferred, &sealed);
        assert_eq!(standing, Standing::plain(Ground::Seal));
    }

    #[test]
    fn whatever_stands_in_the_way_is_said_and_leaves_the_broker() {
        type Change = fn(&mut Facts);
        let cases: [(Change, &str); 10] = [
            (|facts| facts.landlock_abi = Err("disabled".to_owned()), "no Landlock (disabled)"),
            (|facts| facts.landlock_abi = Ok(2), "ABI is 2"),
            (|facts| facts.process.may_administer = true, "could not mount"),
            (
                |facts| {
                    facts.process.may_administer = true;
                    facts.process.no_new_privileges = true;
                },
                "could not mount",
            ),
            (|facts| facts.process.may_trace = true, "CAP_SYS_PTRACE"),
            (|facts| facts.process.own_pid_namespace = false, "pid namespace is shared"),
            (|facts| facts.process.refused_call = Some("landlock_add_rule"), "refuses landlock_add_rule"),
            (|facts| facts.process.proc_mounted = false, "/proc"),
            (|facts| facts.launcher = Err("no launcher".to_owned()), "no launcher"),
            (|facts| facts.program = Err("no program".to_owned()), "no program"),
        ];
        for (change, words) in cases {
            let mut changed = facts();
            change(&mut changed);
            let standing = decide(Mode::Enforce, Landlock::Preferred, &changed);
            assert_eq!((standing.ground, standing.lend), (Ground::Broker, false), "{words}");
            assert!(standing.reasons.join("; ").contains(words), "{:?}", standing.reasons);
        }
    }

    #[test]
    fn words_lead_back_to_the_ground() {
        for ground in [Ground::None, Ground::Notify, Ground::Broker, Ground::Seal] {
            assert_eq!(Ground::from_word(ground.as_str()), Some(ground));
            assert_eq!(serde_json::to_value(ground).unwrap(), ground.as_str());
        }
        assert_eq!(Ground::from_word("Seal"), None);
        assert_eq!(Ground::of_listener(Mode::Enforce), Ground::Broker);
    }
}

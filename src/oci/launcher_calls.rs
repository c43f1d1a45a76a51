//! The calls that the static launcher makes, by their names in a seccomp profile: one that the workload's own profile refuses keeps the
//! launcher from its work, and the container from starting. So such a process goes without it. `integration/launch.rs` holds the lists
//! to what the launcher does, `integration/seal.rs` what becomes of a workload without one of them.

use serde_json::Value;

use crate::oci::seccomp_profile::Action;
use crate::oci::seccomp_profile::Profile;

/// musl's start, memory, and becoming the program that was asked for, which is looked for before.
pub const TO_START: &[&str] = &[
    #[cfg(target_arch = "x86_64")]
    "arch_prctl",
    "set_tid_address",
    "brk",
    "mmap",
    "munmap",
    "fcntl",
    "close",
    "newfstatat",
    "faccessat",
    "execve",
];
/// To read what is there and to seal some of it.
pub const TO_SEAL: &[&str] = &[
    "openat",
    "read",
    "fstat",
    "getdents64",
    "readlinkat",
    "landlock_create_ruleset",
    "landlock_add_rule",
    "landlock_restrict_self",
];
/// To make a listener of its own, besides seccomp(2), which [`crate::oci::launcher_listener`] sees to.
pub const TO_LISTEN: &[&str] = &[
    "read",
    #[cfg(target_arch = "x86_64")]
    "poll",
    #[cfg(target_arch = "aarch64")]
    "ppoll",
    "sendmsg",
    "clock_nanosleep",
];
/// To give back what is lent.
pub const TO_GIVE_BACK: &[&str] = &["prctl", "capget", "capset"];

/// The first of the launcher's calls that the seccomp profile of the workload's `spec` does not let through, where it is to seal, and to
/// give back what it was `lent`. What is handed to a listener, acctguard's in an edited document, comes through.
#[must_use]
pub fn refused_to_seal(spec: &Value, lent: bool) -> Option<&'static str> {
    refused(spec, &[TO_SEAL, TO_START, if lent { TO_GIVE_BACK } else { &[] }])
}

/// The same where it is to make a listener of its own.
#[must_use]
pub fn refused_to_listen(spec: &Value) -> Option<&'static str> {
    refused(spec, &[TO_LISTEN, TO_START, TO_GIVE_BACK])
}

fn refused(spec: &Value, calls: &[&[&'static str]]) -> Option<&'static str> {
    let section = spec.pointer("/linux/seccomp").filter(|section| section.is_object())?;
    // what cannot be read is refused elsewhere, by the edit of the section
    let profile = Profile::parse(section).ok()?;
    calls.iter().copied().flatten().copied().find(|call| !lets(&profile, call))
}

/// Whether a call passes, whatever its arguments. One of which some go to a listener is acctguard's in an edited document: its conditions
/// leave nothing to the default action.
fn lets(profile: &Profile, call: &str) -> bool {
    let rules = profile.effective(call);
    let is_ours = rules.iter().any(|rule| rule.action == Action::Notify);
    let has_default = !is_ours && rules.iter().all(|rule| !rule.conditions.is_empty());
    rules.iter().all(|rule| rule.action == Action::Notify || rule.action.allows())
        && (!has_default || profile.default.allows())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_call_must_pass_the_profile() {
        let to_seal = |seccomp: Value, lent| refused_to_seal(&json!({"linux": {"seccomp": seccomp}}), lent);
        let only = |calls: &[&[&str]]| {
            let names: Vec<&str> = calls.iter().copied().flatten().copied().collect();
            json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]})
        };
        for (seccomp, lent, expected) in [
            (json!(null), true, None),
            (json!({"defaultAction": "SCMP_ACT_ALLOW"}), true, None),
            (json!({"defaultAction": "SCMP_ACT_ERRNO"}), true, Some("openat")),
            (only(&[TO_START, TO_SEAL, TO_GIVE_BACK]), true, None),
            (only(&[TO_START, TO_SEAL]), false, None),
            (only(&[TO_START, TO_SEAL]), true, Some("prctl")),
            (
                json!({"defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["landlock_add_rule"], "action": "SCMP_ACT_ERRNO"}]}),
                false,
                Some("landlock_add_rule"),
            ),
            (
                json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["openat"], "action": "SCMP_ACT_NOTIFY",
                    "args": [{"index": 2, "value": 3, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}]}]}),
                true,
                None,
            ),
        ] {
            assert_eq!(to_seal(seccomp.clone(), lent), expected, "{seccomp}");
        }
        let to_listen = |seccomp: Value| refused_to_listen(&json!({"linux": {"seccomp": seccomp}}));
        assert_eq!(to_listen(only(&[TO_START, TO_LISTEN, TO_GIVE_BACK])), None);
        assert_eq!(to_listen(only(&[TO_START, TO_GIVE_BACK])), Some("read"));
    }

    #[test]
    fn the_profile_of_engines_lets_the_launcher_do_all_of_its_work() {
        let text = include_str!("../../integration/fixtures/engine-seccomp.json");
        let profile: Value = serde_json::from_str(text).expect("a profile");
        let spec = json!({"linux": {"seccomp": profile}});
        assert_eq!((refused_to_seal(&spec, true), refused_to_listen(&spec)), (None, None));
    }
}

//! Merges the interception into a profile that lets go what it does not name, so that nothing gets past it by being new.
//!
//! A runtime skips the names of a profile that its libseccomp does not know (runc `matchCall`, crun
//! `libcrun_generate_seccomp`), so a call younger than that libseccomp is never intercepted, and where the default action
//! is `SCMP_ACT_ALLOW` or `SCMP_ACT_LOG` it is carried out: setxattrat(2) of Linux 6.13 beside libseccomp 2.5.4, for one.
//! Under `enforce` such a profile is closed first: it names every call of [`known_calls`] with the action that was its
//! default, and its default becomes `SCMP_ACT_ERRNO` with ENOSYS, which is what an older kernel answers and what runc
//! does itself for calls newer than a refusing profile (libcontainer/seccomp/patchbpf; not where the default is ENOSYS
//! already).
//!
//! * What is known to both [`known_calls`] and the runtime gets the answer it got, on every architecture of the profile
//!   (proved on compiled filters).
//! * Rules of the profile that depend on arguments stay as they are, and what they leave of their call is named beside them.
//!   Where that cannot be said exactly, the profile is not closed and a gap says so; policy decides about gaps.
//! * What the profile names itself stays named, whether it is known here or not.
//! * A profile that refuses by default is not touched here: it refuses the unknown already.
//!
//! The names are a list of this program, not asked of libseccomp: the shim's might be another than the runtime's, and a
//! library that links it cannot be linked into the static launcher.
//!
//! The kernel answers calls that a filter always allows from a bitmap (Linux 5.11, `seccomp_cache_prepare`), so the length
//! of the filter is felt by the others only.

use std::collections::BTreeSet;

use serde_json::Value;
use serde_json::json;

use crate::model::policy::Mode;
use crate::oci::intercepted;
use crate::oci::known_calls;
use crate::oci::seccomp_condition::Condition;
use crate::oci::seccomp_merge;
use crate::oci::seccomp_merge::Listener;
use crate::oci::seccomp_merge::Merge;
use crate::oci::seccomp_profile::Action;
use crate::oci::seccomp_profile::Profile;
use crate::oci::seccomp_profile::ProfileError;
use crate::oci::seccomp_profile::Rule;

/// ENOSYS on all of [`ARCHITECTURES`] (asm-generic/errno.h).
const ENOSYS: u64 = 38;
/// What a closed profile does with a call that it does not name.
const UNKNOWN: Action = Action::Errno(ENOSYS);
/// Those whose calls [`known_calls`] has.
const ARCHITECTURES: [&str; 5] =
    ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];

/// Calls of i386 that carry many calls each, told apart by their first argument: socketcall(2) and ipc(2). libseccomp turns
/// a rule for one of the many into a rule for the carrier as well (`abi_rule_add`).
const CARRIERS: [(&str, &[&str]); 2] = [
    (
        "socketcall",
        &[
            "accept",
            "accept4",
            "bind",
            "connect",
            "getpeername",
            "getsockname",
            "getsockopt",
            "listen",
            "recv",
            "recvfrom",
            "recvmmsg",
            "recvmsg",
            "send",
            "sendmmsg",
            "sendmsg",
            "sendto",
            "setsockopt",
            "shutdown",
            "socket",
            "socketpair",
        ],
    ),
    (
        "ipc",
        &[
            "msgctl",
            "msgget",
            "msgrcv",
            "msgsnd",
            "semctl",
            "semget",
            "semop",
            "semtimedop",
            "shmat",
            "shmctl",
            "shmdt",
            "shmget",
        ],
    ),
];

/// What is done about calls that the runtime's libseccomp does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownCalls {
    /// What the workload's own profile does.
    AsProfile,
    /// They fail with ENOSYS.
    Refused,
}

impl UnknownCalls {
    /// What a policy of this mode asks for.
    #[must_use]
    pub const fn under(mode: Mode) -> Self {
        match mode {
            Mode::Enforce => Self::Refused,
            Mode::Off | Mode::Audit => Self::AsProfile,
        }
    }
}

/// Merges the interception into `section` as [`seccomp_merge::merge`] does, and closes the profile where it lets go what it
/// does not name.
///
/// # Errors
/// [`ProfileError`] when the section is not what the runtime specification says.
pub fn merge(section: Option<&Value>, listener: Listener<'_>) -> Result<Merge, ProfileError> {
    let mut open = match seccomp_merge::merge(section, listener)? {
        Merge::Merged(open) => open,
        other => return Ok(other),
    };
    let own = match section.filter(|section| !section.is_null()) {
        Some(section) => section.clone(),
        None => json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": intercepted::host_architectures()}),
    };
    let profile = Profile::parse(&own)?;
    if !profile.default.allows() {
        return Ok(Merge::Merged(open));
    }
    let reason = match closed(&own, &profile) {
        Ok(closed) => match seccomp_merge::merge(Some(&closed), listener)? {
            Merge::Merged(merged) if merged.gaps.iter().all(|gap| open.gaps.contains(gap)) => {
                return Ok(Merge::Merged(merged));
            }
            _ => "the profile's conditions on intercepted calls are too involved".to_owned(),
        },
        Err(reason) => reason,
    };
    open.gaps.push(format!("calls that the runtime's libseccomp does not know: not refused, because {reason}"));
    Ok(Merge::Merged(open))
}

/// Whether the default of a section is the one that [`merge`] gives to profiles that it closes.
#[must_use]
pub fn is_closed(section: &Value) -> bool {
    section.get("defaultAction").and_then(Value::as_str) == Some("SCMP_ACT_ERRNO")
        && section.get("defaultErrnoRet").and_then(Value::as_u64) == Some(ENOSYS)
}

/// Gives a section that [`merge`] closed the default action back that its profile had. What it names stays, and means no
/// more than that default.
pub fn reopen(section: &mut Value, default_action: &str) {
    if is_closed(section)
        && let Some(object) = section.as_object_mut()
    {
        object.insert("defaultAction".to_owned(), json!(default_action));
        object.shift_remove("defaultErrnoRet");
    }
}

/// The section with every known call named; or why that cannot be said, in words that follow "because".
fn closed(section: &Value, profile: &Profile) -> Result<Value, String> {
    check_architectures(profile.architectures.as_deref())?;
    let mut names: BTreeSet<&str> = known_calls::names().collect();
    names.extend(profile.entries.iter().flat_map(|entry| entry.names.iter().map(String::as_str)));
    for carrier in carriers_to_leave_out(profile)? {
        names.remove(carrier);
    }
    let mut whole = Vec::new();
    let mut parts = Vec::new();
    for name in &names {
        let left = left_over(name, profile).ok_or_else(|| {
            format!("what the profile's conditions leave of {} cannot be said in rules", printable(name))
        })?;
        for conditions in left {
            if conditions.is_empty() {
                whole.push(*name);
            } else {
                parts.push(seccomp_merge::entry(&[*name], &Rule { action: profile.default, conditions }));
            }
        }
    }
    let mut closed = section.clone();
    let Some(object) = closed.as_object_mut() else { return Err("it is no object".to_owned()) };
    let default = object.get("defaultAction").cloned().unwrap_or_default();
    let mut entries = match object.get("syscalls") {
        Some(Value::Array(entries)) => entries.clone(),
        _ => Vec::new(),
    };
    // What says no more than the default is said again below.
    entries.retain(|entry| entry.get("action") != Some(&default));
    entries.extend(parts);
    entries.push(seccomp_merge::entry(&whole, &Rule { action: profile.default, conditions: Vec::new() }));
    object.insert("defaultAction".to_owned(), json!("SCMP_ACT_ERRNO"));
    object.insert("defaultErrnoRet".to_owned(), json!(ENOSYS));
    object.insert("syscalls".to_owned(), Value::Array(entries));
    Ok(closed)
}

/// A name out of a profile, fit for one line of a record.
fn printable(name: &str) -> String {
    name.chars().take(80).flat_map(char::escape_default).collect()
}

/// Whether [`known_calls`] has the calls of all architectures of a profile; runtimes add the native one (seccomp_init(3)).
fn check_architectures(listed: Option<&[String]>) -> Result<(), String> {
    let native = std::env::consts::ARCH;
    let known = |name: &&str| ARCHITECTURES.contains(name);
    if !["x86_64", "aarch64"].contains(&native) {
        return Err(format!("the calls of {native} are not known here"));
    }
    match listed.unwrap_or_default().iter().map(String::as_str).find(|name| !known(name)) {
        Some(name) => Err(format!("the calls of {} are not known here", printable(name))),
        None => Ok(()),
    }
}

/// The carriers that are not to be named, because the profile has rules for some of what they carry: what is named of the
/// rest is let go in them. Numbers that carry nothing then get ENOSYS where the kernel says EINVAL.
fn carriers_to_leave_out(profile: &Profile) -> Result<Vec<&'static str>, String> {
    if !profile.architectures.iter().flatten().any(|name| name == "SCMP_ARCH_X86") {
        return Ok(Vec::new());
    }
    let mut left_out = Vec::new();
    for (carrier, carried) in CARRIERS {
        let own = profile.added(carrier);
        let theirs: Vec<Rule> = carried.iter().flat_map(|name| profile.added(name)).collect();
        if own.iter().any(|rule| rule.action == UNKNOWN) {
            return Err(format!("the profile refuses {carrier} with ENOSYS, and not what it carries on i386"));
        }
        if own.iter().chain(&theirs).any(|rule| !rule.conditions.is_empty()) {
            return Err(format!("the profile compares arguments of what {carrier} carries on i386"));
        }
        if own.is_empty() && !theirs.is_empty() {
            left_out.push(carrier);
        }
    }
    Ok(left_out)
}

/// What the rules of a call leave to the default, as conditions of which no two hold together: nothing, everything (no
/// conditions), or parts. `None` if that cannot be said exactly.
fn left_over(name: &str, profile: &Profile) -> Option<Vec<Vec<Condition>>> {
    let added = profile.added(name);
    // A rule that says what the new default says is skipped, and another one that it had put out of effect is not.
    if added.len() > 1 && added.iter().any(|rule| rule.action == UNKNOWN) {
        return None;
    }
    let rules = profile.effective(name);
    if rules.iter().any(|rule| rule.conditions.is_empty()) {
        return Some(Vec::new());
    }
    let conditions = || rules.iter().flat_map(|rule| &rule.conditions);
    let high_only = added.iter().flat_map(|rule| &rule.conditions).any(Condition::is_high_only);
    // What libseccomp 2.5.4 makes of several rules with orderings is not always what they say.
    let unequal = rules.len() > 1 && conditions().any(|condition| !condition.is_equality());
    let one_argument = seccomp_merge::argument(rules.iter().map(|rule| rule.conditions.as_slice())).is_some();
    if high_only || unequal || !one_argument {
        return None;
    }
    let mut regions: Vec<Vec<Condition>> = vec![Vec::new()];
    for rule in &rules {
        let mut left = Vec::new();
        for region in &regions {
            if !seccomp_merge::without(region, &rule.conditions, &mut left) || left.len() > seccomp_merge::MAX_PARTS {
                return None;
            }
        }
        regions = left;
    }
    Some(regions)
}

#[cfg(test)]
mod tests {
    use libseccomp::ScmpArch;
    use libseccomp::ScmpSyscall;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;
    use crate::oci::seccomp_proof as proof;
    use crate::oci::seccomp_proof::Call;
    use crate::oci::seccomp_proof::Tally;

    /// `SECCOMP_RET_ERRNO` with ENOSYS, linux/seccomp.h.
    const RET_ENOSYS: u32 = 0x0005_0000 | 38;

    /// `__X32_SYSCALL_BIT`, asm/unistd.h.
    const X32_BIT: i32 = 0x4000_0000;

    /// How often profiles were closed, and what their calls got.
    #[derive(Default)]
    struct Seen {
        closed: u64,
        unknown: u64,
        tally: Tally,
    }

    /// Every call number of an architecture of the proof, with its name if libseccomp knows it.
    fn numbers(architecture: ScmpArch) -> impl Iterator<Item = (i32, Option<String>)> {
        let base = if architecture == ScmpArch::X32 { X32_BIT } else { 0 };
        let high = [1000, 0x000f_0001, 0x3fff_ffff].into_iter();
        (0..600).chain(high).map(move |number| {
            let number = base | number;
            (number, ScmpSyscall::from_raw_syscall(number).get_name_by_arch(architecture).ok())
        })
    }

    /// Whether the carrier is called for nothing that it carries.
    fn carries_nothing(name: &str, arguments: &[u64; 6]) -> bool {
        match name {
            "socketcall" => !(1..=20).contains(&(arguments[0] & 0xffff_ffff)),
            "ipc" => ![1, 2, 3, 4, 11, 12, 13, 14, 21, 22, 23, 24].contains(&(arguments[0] & 0xffff_ffff)),
            _ => false,
        }
    }

    /// Checks the promise over every number of every architecture. False when libseccomp refuses the profile as it came, or
    /// compiles it wrongly.
    fn check(section: &Value, rounds: usize, seen: &mut Seen) -> Result<bool, String> {
        let Ok(before) = proof::compile(section) else { return Ok(false) };
        let Merge::Merged(merged) = merge(Some(section), proof::LISTENER).map_err(|error| error.to_string())? else {
            return Err("no merge".to_owned());
        };
        let profile = Profile::parse(section).map_err(|error| error.to_string())?;
        let closed = profile.default.allows() && is_closed(&merged.section);
        let told = merged.gaps.iter().any(|gap| gap.contains("not refused"));
        if profile.default.allows() && closed == told {
            return Err(format!("closed: {closed}, and yet the gaps are {:?}", merged.gaps));
        }
        let after =
            proof::compile(&merged.section).map_err(|error| format!("{error}\n{section}\n{}", merged.section))?;
        if after.0.len() > proof::MAX_INSTRUCTIONS && before.0.len() <= proof::MAX_INSTRUCTIONS / 2 {
            return Err(format!("{} instructions became {}\n{section}", before.0.len(), after.0.len()));
        }
        seen.closed += u64::from(closed);
        let values = proof::interesting(&profile);
        let listed = profile.architectures.clone().unwrap_or_default();
        let mut state = 42;
        for (audit, architecture, narrow) in proof::ARCHITECTURES {
            let is_listed = architecture == ScmpArch::X8664
                || listed.iter().any(|name| name.parse::<ScmpArch>().is_ok_and(|one| one == architecture));
            for (number, name) in numbers(architecture) {
                for _ in 0..rounds {
                    let mut arguments =
                        std::array::from_fn(|index| values[index][proof::next(&mut state) % values[index].len()]);
                    if narrow {
                        arguments = arguments.map(|argument| argument & 0xffff_ffff);
                    }
                    let call = Call { number, architecture: audit, arguments };
                    let (old, new) = (before.run(&call), after.run(&call));
                    let failed = |what: &str| {
                        Err(format!(
                            "{what}: {name:?} ({number:#x}) on {architecture:?} {arguments:x?}: {old:#x} became {new:#x}\n{section}\n{}",
                            merged.section
                        ))
                    };
                    let Some(name) = &name else {
                        seen.unknown += u64::from(closed && is_listed);
                        let expected = if closed && is_listed { RET_ENOSYS } else { old };
                        if new != expected {
                            return failed("unknown");
                        }
                        continue;
                    };
                    if architecture == ScmpArch::X8664 && !proof::says(&profile, name, &arguments, old) {
                        return Ok(false);
                    }
                    if closed && new == RET_ENOSYS && carries_nothing(name, &arguments) {
                        continue;
                    }
                    if let Err(what) = proof::judge(name, &arguments, old, new, &merged.gaps, &profile, &mut seen.tally)
                    {
                        return failed(what);
                    }
                }
            }
        }
        Ok(true)
    }

    #[test]
    fn engines_profiles_keep_their_promise() {
        let mut seen = Seen::default();
        for (name, section) in proof::captures() {
            if !section.is_null() && section.get("listenerPath").is_none() {
                assert!(
                    check(&section, 3, &mut seen).unwrap_or_else(|error| panic!("{name}: {error}")),
                    "{name} compiles"
                );
            }
        }
        assert!(seen.tally.intercepted > 1000);
    }

    #[test]
    fn no_profile_and_lists_of_the_forbidden_are_closed() {
        let mut seen = Seen::default();
        let all = json!(intercepted::X86_64_ARCHITECTURES);
        let equal = |index: u32, value: u64| json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
        let profiles = [
            json!([]),
            json!([{"names": ["swapon", "setxattrat", "openat"], "action": "SCMP_ACT_ERRNO"}]),
            json!([{"names": ["socket", "shmat", "chmod"], "action": "SCMP_ACT_KILL"}]),
            json!([{"names": ["socketcall", "ipc"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]),
            json!([{"names": ["socketcall", "connect"], "action": "SCMP_ACT_ERRNO"}, {"names": ["read", "getpid"], "action": "SCMP_ACT_ALLOW"}]),
            json!([{"names": ["personality", "openat"], "action": "SCMP_ACT_ERRNO", "args": [equal(0, 8)]}]),
            json!([{"names": ["clone"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 0x7e02_0000, "valueTwo": 0x1000_0000, "op": "SCMP_CMP_MASKED_EQ"}]}]),
            json!([{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [equal(1, 9)]}, {"names": ["kill"], "action": "SCMP_ACT_TRAP", "args": [equal(1, 15)]}]),
        ];
        let count = u64::try_from(profiles.len()).expect("few");
        for default in ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG"] {
            for rules in &profiles {
                let section = json!({"defaultAction": default, "architectures": all, "syscalls": rules});
                assert_eq!(check(&section, 20, &mut seen), Ok(true));
            }
        }
        assert_eq!(seen.closed, 2 * count);
        assert!(seen.unknown > 10_000 && seen.tally.intercepted > 10_000);
    }

    #[test]
    fn what_cannot_be_closed_is_told() {
        let socket = json!({"names": ["socket"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_EQ"}]});
        let enosys = json!({"names": ["socketcall"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38});
        let both = json!({"names": ["clone"], "action": "SCMP_ACT_ERRNO", "args": [
            {"index": 0, "value": 40, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 40, "op": "SCMP_CMP_EQ"}]});
        for (architectures, rule, word) in [
            (json!(intercepted::X86_64_ARCHITECTURES), socket.clone(), Some("socketcall")),
            (json!(["SCMP_ARCH_X86_64"]), socket, None),
            (json!(["SCMP_ARCH_X86_64"]), both, Some("clone")),
            (json!(intercepted::X86_64_ARCHITECTURES), enosys, Some("socketcall")),
            (json!(["SCMP_ARCH_S390X"]), json!({"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}), Some("S390X")),
        ] {
            let section =
                json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures, "syscalls": [rule]});
            let Ok(Merge::Merged(merged)) = merge(Some(&section), proof::LISTENER) else { panic!("merges") };
            assert_eq!(is_closed(&merged.section), word.is_none(), "{:?}", merged.gaps);
            assert_eq!(merged.gaps.first().is_some_and(|gap| gap.contains(word.unwrap_or("?"))), word.is_some());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 250,
            max_shrink_iters: 100,
            max_global_rejects: 50,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(463),
            ..ProptestConfig::default()
        })]
        #[test]
        fn random_profiles_keep_their_promise(section in proof::profile()) {
            match check(&section, 2, &mut Seen::default()) {
                Err(error) => return Err(TestCaseError::fail(error)),
                Ok(false) => return Err(TestCaseError::reject("libseccomp cannot compile it")),
                Ok(true) => {}
            }
        }
    }
}

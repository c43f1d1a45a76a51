//! Seccomp profiles as engines read them from files, with the interception in them.
//!
//! Two forms: the runtime specification's `linux.seccomp` (containerd's and Kubernetes' Localhost profiles there), and that of moby
//! and containers-common (Docker, podman, CRI-O), whose entries hold for some capabilities, architectures and kernels only
//! (`includes`, `excludes`; moby profiles/seccomp/seccomp.go, `Filter`). A runtime, and containerd, take such an entry as one that always
//! holds: [`resolved`] decides the conditions beforehand.

use std::collections::BTreeSet;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::oci::intercepted;
use crate::oci::seccomp_merge;
use crate::oci::seccomp_merge::Conflict;
use crate::oci::seccomp_merge::Listener;
use crate::oci::seccomp_merge::Merge;
use crate::oci::seccomp_profile::Profile;
use crate::oci::seccomp_profile::ProfileError;

/// What Docker, podman and containerd give a container that asks for nothing (moby oci/caps/defaults.go).
pub const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Oldest kernel that acctguard runs on, Linux 5.19: a `minKernel` up to it holds.
const OLDEST_KERNEL: (u32, u32) = (5, 19);

/// Members of an entry under which it holds.
const CONDITIONS: [&str; 2] = ["includes", "excludes"];

/// Why there is no profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineProfileError {
    /// It is no profile.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// It has a listener.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// It is acctguard's already.
    #[error("the profile has acctguard's listener already; name the one that it was made from")]
    Generated,
    /// What an intercepted call comes to depends on conditions that do not exclude each other.
    #[error(
        "the profile allows {call} under one condition and refuses it under another that can hold with it; write the profile without one of them, or use --resolve"
    )]
    Overlapping {
        /// Its name.
        call: String,
    },
    /// Calls are allowed that it does not name, but for some under conditions.
    #[error("the profile allows what it does not name, and refuses {call} under conditions; use --resolve")]
    AllowsByDefault {
        /// Its name.
        call: String,
    },
}

/// A profile with the interception in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// In the form of the base.
    pub profile: Value,
    /// Calls that are intercepted in part only, and why.
    pub gaps: Vec<String>,
}

/// Entries that hold under the same conditions.
struct Group {
    conditions: Map<String, Value>,
    entries: Vec<Value>,
}

/// The profile `base` with the interception in it; without a base everything is allowed that is not intercepted.
///
/// # Errors
/// [`EngineProfileError`].
pub fn generate(base: Option<&Value>, listener: Listener<'_>) -> Result<Generated, EngineProfileError> {
    let Some(base) = base else {
        let architectures = intercepted::host_architectures();
        let profile = intercepted::localhost_profile(architectures, listener.path, listener.metadata);
        return Ok(Generated { profile, gaps: Vec::new() });
    };
    let groups = groups(base);
    refuse_overlapping(base, &groups)?;
    let (mut entries, mut gaps) = (Vec::new(), Vec::new());
    let mut profile = base.clone();
    for group in groups {
        let mut section = base.clone();
        section["syscalls"] = Value::Array(group.entries);
        let merged = match seccomp_merge::merge(Some(&section), listener)? {
            Merge::Merged(merged) => merged,
            Merge::Unchanged => return Err(EngineProfileError::Generated),
            Merge::Conflict(conflict) => return Err(conflict.into()),
        };
        gaps.extend(merged.gaps);
        for mut entry in merged.section.get("syscalls").and_then(Value::as_array).cloned().unwrap_or_default() {
            if let Some(entry) = entry.as_object_mut() {
                entry.extend(group.conditions.clone());
            }
            entries.push(entry);
        }
    }
    profile["syscalls"] = Value::Array(entries);
    profile["listenerPath"] = json!(listener.path);
    profile["listenerMetadata"] = json!(listener.metadata);
    Ok(Generated { profile, gaps })
}

/// The entries of a profile by their conditions, those without any first.
fn groups(base: &Value) -> Vec<Group> {
    let mut groups = vec![Group { conditions: Map::new(), entries: Vec::new() }];
    for entry in base.get("syscalls").and_then(Value::as_array).into_iter().flatten() {
        let mut entry = entry.clone();
        let conditions = take_conditions(&mut entry);
        match groups.iter_mut().find(|group| group.conditions == conditions) {
            Some(group) => group.entries.push(entry),
            None => groups.push(Group { conditions, entries: vec![entry] }),
        }
    }
    groups
}

/// Takes what an entry holds under out of it, and says the call of the oldest form (`name`) as those of today do.
fn take_conditions(entry: &mut Value) -> Map<String, Value> {
    let Some(entry) = entry.as_object_mut() else { return Map::new() };
    if let Some(name) = entry.shift_remove("name") {
        entry.entry("names").or_insert_with(|| json!([name]));
    }
    let taken = CONDITIONS.iter().filter_map(|key| Some(((*key).to_owned(), entry.shift_remove(*key)?)));
    taken.filter(|(_, value)| value.as_object().is_some_and(|members| !members.is_empty())).collect()
}

/// An engine adds the entries that hold in the order of the file, and libseccomp decides between those that meet: what that comes to can
/// be kept where the entries of an intercepted call exclude each other.
fn refuse_overlapping(base: &Value, groups: &[Group]) -> Result<(), EngineProfileError> {
    let mut parsed = Vec::with_capacity(groups.len());
    for group in groups {
        let mut section = base.clone();
        section["syscalls"] = Value::Array(group.entries.clone());
        parsed.push((&group.conditions, Profile::parse(&section)?));
    }
    for call in intercepted::calls() {
        let of_call: Vec<_> = parsed.iter().filter(|(_, profile)| !profile.added(call.name).is_empty()).collect();
        let name = || call.name.to_owned();
        if of_call.iter().any(|(conditions, profile)| !conditions.is_empty() && profile.default.allows()) {
            return Err(EngineProfileError::AllowsByDefault { call: name() });
        }
        let allows = |profile: &Profile| profile.added(call.name).iter().any(|rule| rule.action.allows());
        for (number, (conditions, profile)) in of_call.iter().enumerate() {
            let mut others = of_call.iter().skip(number + 1);
            if others
                .any(|(other, against)| allows(profile) != allows(against) && !exclude_each_other(conditions, other))
            {
                return Err(EngineProfileError::Overlapping { call: name() });
            }
        }
    }
    Ok(())
}

/// Whether what one demands of a kind is what the other forbids.
fn exclude_each_other(one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    let list = |map: &Map<String, Value>, side: &str, kind: &str| -> BTreeSet<String> {
        let words = map.get(side).and_then(|side| side.get(kind)).and_then(Value::as_array).into_iter().flatten();
        words.filter_map(Value::as_str).map(ToOwned::to_owned).collect()
    };
    let forbids = |left: &Map<String, Value>, right: &Map<String, Value>| {
        ["caps", "arches"].iter().any(|kind| !list(left, "includes", kind).is_disjoint(&list(right, "excludes", kind)))
    };
    forbids(one, other) || forbids(other, one)
}

/// The profile `base` as it is for a container with `capabilities` on a machine of `architecture` (as Go says it: `amd64`): entries that
/// do not hold are left out, and nothing is conditional. That is the form of the runtime specification.
#[must_use]
pub fn resolved(base: &Value, architecture: &str, capabilities: &[&str]) -> Value {
    let mut profile = base.clone();
    let Some(object) = profile.as_object_mut() else { return profile };
    if let Some(map) = object.shift_remove("archMap") {
        object.insert("architectures".to_owned(), architectures(&map));
    }
    object.shift_remove("defaultErrno");
    if let Some(entries) = object.get_mut("syscalls").and_then(Value::as_array_mut) {
        entries.retain_mut(|entry| {
            let conditions = take_conditions(entry);
            if let Some(entry) = entry.as_object_mut() {
                entry.shift_remove("errno");
                entry.shift_remove("comment");
                entry.retain(|key, value| key != "args" || value.as_array().is_some_and(|list| !list.is_empty()));
            }
            let side = |key: &str| conditions.get(key).cloned().unwrap_or_default();
            includes_hold(&side("includes"), architecture, capabilities)
                && !excludes_hold(&side("excludes"), architecture, capabilities)
        });
    }
    profile
}

/// The architectures of this machine's entry of an `archMap`.
fn architectures(map: &Value) -> Value {
    let host = intercepted::host_architectures().first().copied().unwrap_or_default();
    let entry = map.as_array().into_iter().flatten().find(|entry| entry.get("architecture") == Some(&json!(host)));
    let sub = entry.and_then(|entry| entry.get("subArchitectures")).and_then(Value::as_array);
    std::iter::once(json!(host)).chain(sub.into_iter().flatten().cloned()).collect()
}

fn words<'a>(conditions: &'a Value, kind: &str) -> Vec<&'a str> {
    let list = conditions.get(kind).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).collect()
}

/// All capabilities, one of the architectures, and the kernel.
fn includes_hold(includes: &Value, architecture: &str, capabilities: &[&str]) -> bool {
    let arches = words(includes, "arches");
    (arches.is_empty() || arches.contains(&architecture))
        && words(includes, "caps").iter().all(|capability| capabilities.contains(capability))
        && is_on_every_kernel(includes)
}

/// One of the capabilities or architectures, or the kernel.
fn excludes_hold(excludes: &Value, architecture: &str, capabilities: &[&str]) -> bool {
    words(excludes, "arches").contains(&architecture)
        || words(excludes, "caps").iter().any(|capability| capabilities.contains(capability))
        || excludes.get("minKernel").is_some() && is_on_every_kernel(excludes)
}

fn is_on_every_kernel(conditions: &Value) -> bool {
    let Some(text) = conditions.get("minKernel").and_then(Value::as_str) else { return true };
    let mut numbers = text.split('.').map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) <= OLDEST_KERNEL,
        _ => false,
    }
}

/// This machine's architecture as Go says it.
#[must_use]
pub const fn host_architecture() -> &'static str {
    match std::env::consts::ARCH.as_bytes() {
        b"x86_64" => "amd64",
        b"aarch64" => "arm64",
        _ => std::env::consts::ARCH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTENER: Listener<'_> = Listener { path: "/run/acctguard/listener.sock", metadata: "acctguard/1" };

    fn base(entries: Value) -> Value {
        json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "defaultErrno": "ENOSYS",
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
            "syscalls": entries,
        })
    }

    fn conditional() -> Value {
        base(json!([
            {"names": ["read", "openat", "rename"], "action": "SCMP_ACT_ALLOW", "args": [], "includes": {}, "excludes": {}},
            {"names": ["mount", "bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["mount", "bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "errno": "EPERM",
             "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"name": "chroot", "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_CHROOT"], "minKernel": "4.8"}},
            {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
        ]))
    }

    fn of<'a>(profile: &'a Value, call: &str, action: &str) -> Vec<&'a Value> {
        let entries = profile["syscalls"].as_array().expect("a list").iter();
        entries
            .filter(|entry| {
                entry["action"] == action && entry["names"].as_array().is_some_and(|names| names.contains(&json!(call)))
            })
            .collect()
    }

    #[test]
    fn conditions_stay_with_what_is_intercepted_under_them() {
        let Generated { profile, gaps } = generate(Some(&conditional()), LISTENER).expect("generates");
        assert_eq!(gaps, Vec::<String>::new());
        assert_eq!(profile["archMap"], conditional()["archMap"]);
        assert_eq!(profile["listenerPath"], LISTENER.path);
        assert!(of(&profile, "rename", "SCMP_ACT_NOTIFY").iter().all(|entry| entry.get("includes").is_none()));
        assert_eq!(of(&profile, "openat", "SCMP_ACT_ALLOW").len(), 1, "reading goes on");
        assert!(of(&profile, "openat", "SCMP_ACT_NOTIFY").len() > 1);
        let mounts = of(&profile, "mount", "SCMP_ACT_NOTIFY");
        assert!(
            !mounts.is_empty() && mounts.iter().all(|entry| entry["includes"] == json!({"caps": ["CAP_SYS_ADMIN"]}))
        );
        let refused = of(&profile, "mount", "SCMP_ACT_ERRNO");
        assert!(matches!(refused[..], [entry] if entry["excludes"] == json!({"caps": ["CAP_SYS_ADMIN"]})));
        assert_eq!(of(&profile, "mount", "SCMP_ACT_ALLOW").len(), 0);
        assert_eq!(of(&profile, "bpf", "SCMP_ACT_ALLOW").len(), 1);
        assert_eq!(generate(Some(&profile), LISTENER), Err(EngineProfileError::Generated));
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let overlapping = base(json!([
            {"names": ["rename"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["rename"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_FOWNER"]}},
        ]));
        assert_eq!(
            generate(Some(&overlapping), LISTENER),
            Err(EngineProfileError::Overlapping { call: "rename".to_owned() })
        );
        let mut allowing = overlapping;
        allowing["defaultAction"] = json!("SCMP_ACT_ALLOW");
        allowing["syscalls"].as_array_mut().expect("a list").remove(0);
        assert_eq!(
            generate(Some(&allowing), LISTENER),
            Err(EngineProfileError::AllowsByDefault { call: "rename".to_owned() })
        );
        let foreign = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/other.sock"});
        assert!(matches!(generate(Some(&foreign), LISTENER), Err(EngineProfileError::Conflict(_))));
        assert!(matches!(generate(Some(&json!({"syscalls": 7})), LISTENER), Err(EngineProfileError::Profile(_))));
    }

    #[test]
    fn resolved_is_what_holds_and_nothing_conditional() {
        let calls = |capabilities: &[&str]| {
            let profile = resolved(&conditional(), "amd64", capabilities);
            let entries = profile["syscalls"].as_array().expect("a list").clone();
            assert!(entries.iter().all(|entry| CONDITIONS.iter().all(|key| entry.get(key).is_none())), "{entries:?}");
            assert!(profile.get("archMap").is_none() && profile.get("architectures").is_some());
            let names = |action: &str| -> Vec<String> {
                let chosen = entries.iter().filter(|entry| entry["action"] == action);
                chosen
                    .flat_map(|entry| entry["names"].as_array().expect("names").clone())
                    .map(|name| name.as_str().expect("text").to_owned())
                    .collect()
            };
            (names("SCMP_ACT_ALLOW"), names("SCMP_ACT_ERRNO"))
        };
        let (allowed, refused) = calls(&DEFAULT_CAPABILITIES);
        assert_eq!(
            (allowed.join(" "), refused.join(" ")),
            ("read openat rename chroot".to_owned(), "mount bpf".to_owned())
        );
        let (allowed, refused) = calls(&["CAP_SYS_ADMIN"]);
        assert_eq!((allowed.join(" "), refused.join(" ")), ("read openat rename mount bpf".to_owned(), String::new()));
    }

    #[test]
    fn without_a_base_it_is_the_shipped_profile() {
        let Generated { profile, gaps } = generate(None, LISTENER).expect("generates");
        let shipped =
            intercepted::localhost_profile(intercepted::host_architectures(), LISTENER.path, LISTENER.metadata);
        assert_eq!((profile, gaps), (shipped, Vec::new()));
    }
}

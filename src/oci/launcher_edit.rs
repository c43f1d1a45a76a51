//! The launcher in a `process` object: in front of `args`, with the capabilities it is lent, and out of it again.
//!
//! `args` become `/proc/self/fd/N --own-descriptor=N OPTIONS -- ARGS…`. The options tell everything that taking it out
//! needs, so an edited object leads back to the workload's own, and editing twice is editing once.
//!
//! What is lent (capabilities(7), "Transformation of capabilities during execve()"): user 0 gets its permitted set from the
//! bounding set; any other user keeps over execve(2) only what is in its inheritable and ambient sets too.

use serde_json::Map;
use serde_json::Value;

use crate::model::database_path::DatabasePath;
use crate::model::policy::ground::ProcessFacts;
use crate::oci::launcher_calls;
use crate::oci::launcher_words::CONTAINER;
use crate::oci::launcher_words::EXEC;
use crate::oci::launcher_words::FILTER;
use crate::oci::launcher_words::GIVE_BACK;
use crate::oci::launcher_words::LINE;
use crate::oci::launcher_words::MUST_LISTEN;
use crate::oci::launcher_words::NO_SEAL;
use crate::oci::launcher_words::OWN_DESCRIPTOR;
use crate::oci::launcher_words::SEAL;

/// What landlock_restrict_self(2) needs without `no_new_privs`, and what PR_CAPBSET_DROP needs to give back (capabilities(7)).
pub const LENT: [&str; 2] = ["CAP_SYS_ADMIN", "CAP_SETPCAP"];
/// The sets of `process.capabilities` in which user 0 is lent.
const SETS_OF_ROOT: [&str; 3] = ["bounding", "effective", "permitted"];
/// And any other user.
const SETS_OF_OTHERS: [&str; 5] = ["bounding", "effective", "inheritable", "permitted", "ambient"];
/// What is put in front of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launcher<'a> {
    /// The launcher's descriptor in the container.
    pub descriptor: i32,
    /// What it seals; `None`: nothing, it only listens.
    pub databases: Option<&'a [DatabasePath]>,
    /// Whether it is lent what sealing takes without `no_new_privs`.
    pub lend: bool,
    /// With what it makes a listener of its own ([`crate::oci::launcher_listener`]), where it does.
    pub listening: Option<Listening<'a>>,
}

/// With what the launcher makes a listener of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening<'a> {
    /// Descriptor of a connection to the daemon's listener socket.
    pub line: i32,
    /// Descriptor of the filter's instructions.
    pub filter: i32,
    /// Whether nothing is to start without it: the runtime makes none.
    pub must: bool,
    /// The container's id.
    pub container: &'a str,
    /// Id of the recorded `container.exec` event, for the process of an exec session.
    pub exec: Option<&'a str>,
}

/// Where the launcher ends and the workload's own arguments begin.
fn length_of(arguments: &[Value]) -> Option<usize> {
    let text = |at: usize| arguments.get(at).and_then(Value::as_str);
    let number = text(0)?.strip_prefix("/proc/self/fd/")?;
    if text(1)?.strip_prefix(OWN_DESCRIPTOR)? != number || number.parse::<i32>().is_err() {
        return None;
    }
    arguments.iter().position(|argument| argument == "--").map(|position| position + 1)
}

/// The arguments of a process: those it has, or none.
fn arguments(process: &Value) -> &[Value] {
    process.get("args").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Whether the launcher is in front of the program of this `process` object.
#[must_use]
pub fn is_in(process: &Value) -> bool {
    length_of(arguments(process)).is_some()
}

/// Puts the launcher in front of a program. False when there are no arguments to put it in front of.
#[must_use]
pub fn put_in(process: &mut Value, launcher: &Launcher<'_>) -> bool {
    take_out(process);
    let Some(own) = process.get("args").and_then(Value::as_array).filter(|own| !own.is_empty()).cloned() else {
        return false;
    };
    let mut words =
        vec![format!("/proc/self/fd/{}", launcher.descriptor), format!("{OWN_DESCRIPTOR}{}", launcher.descriptor)];
    match launcher.databases {
        Some(databases) => words.extend(databases.iter().map(|database| format!("{SEAL}{database}"))),
        None => words.push(NO_SEAL.to_owned()),
    }
    if let Some(Listening { line, filter, must, container, exec }) = launcher.listening {
        words.extend([format!("{LINE}{line}"), format!("{FILTER}{filter}"), format!("{CONTAINER}{container}")]);
        words.extend(exec.map(|event| format!("{EXEC}{event}")));
        words.extend(must.then(|| MUST_LISTEN.to_owned()));
    }
    if launcher.lend {
        words.extend(lend(process));
    }
    words.push("--".to_owned());
    process["args"] = words.into_iter().map(Value::from).chain(own).collect();
    true
}

/// Adds what is lent to the sets that do not have it, and says how it is given back.
fn lend(process: &mut Value) -> Vec<String> {
    let root = process.pointer("/user/uid").and_then(Value::as_u64).unwrap_or(0) == 0;
    let names: &[&str] = if root { &SETS_OF_ROOT } else { &SETS_OF_OTHERS };
    if !process.get("capabilities").is_some_and(Value::is_object) {
        process["capabilities"] = Value::Object(Map::new());
    }
    let mut options = Vec::new();
    for capability in LENT {
        let mut lent = Vec::new();
        for name in names {
            let set = &mut process["capabilities"][*name];
            if !set.is_array() {
                *set = Value::Array(Vec::new());
            }
            if let Some(set) = set.as_array_mut().filter(|set| !set.iter().any(|held| held == capability)) {
                set.push(Value::from(capability));
                lent.push(*name);
            }
        }
        if !lent.is_empty() {
            options.push(format!("{GIVE_BACK}{capability}={}", lent.join(",")));
        }
    }
    options
}

/// The document as the workload's engine wrote its `process`.
#[must_use]
pub fn own(spec: &Value) -> Value {
    let mut own = spec.clone();
    if let Some(process) = own.get_mut("process") {
        take_out(process);
    }
    own
}

/// Takes the launcher and what it was lent out again. Sets that held nothing else are gone; an empty set and none are the same
/// to runtimes, but no `capabilities` at all is not the same as an empty object where a runtime has an earlier one to fall
/// back on, so that stays. Returns whether capabilities were lent.
pub fn take_out(process: &mut Value) -> bool {
    let Some(length) = length_of(arguments(process)) else { return false };
    let mut lent = false;
    let words: Vec<String> =
        arguments(process).iter().take(length).filter_map(Value::as_str).map(str::to_owned).collect();
    for (capability, sets) in words.iter().filter_map(|word| word.strip_prefix(GIVE_BACK)?.split_once('=')) {
        for name in sets.split(',') {
            lent |= take_back(process, capability, name);
        }
    }
    if let Some(arguments) = process.get_mut("args").and_then(Value::as_array_mut) {
        arguments.drain(..length);
    }
    lent
}

fn take_back(process: &mut Value, capability: &str, name: &str) -> bool {
    let Some(sets) = process.get_mut("capabilities").and_then(Value::as_object_mut) else { return false };
    let Some(set) = sets.get_mut(name).and_then(Value::as_array_mut) else { return false };
    let before = set.len();
    set.retain(|held| held != capability);
    let taken = set.len() < before;
    if set.is_empty() {
        sets.shift_remove(name);
    }
    taken
}

/// What the seal has to know of a process: the `process` object of a container or of an exec session, in the container
/// whose whole `spec` it is. The launcher must not be in it.
#[must_use]
pub fn facts(spec: &Value, process: &Value) -> ProcessFacts {
    let has = |process: &Value, capability: &str| {
        let sets = process.get("capabilities").and_then(Value::as_object);
        let mut sets = sets.into_iter().flatten().filter_map(|(_, set)| set.as_array());
        sets.any(|set| set.iter().any(|held| held == capability))
    };
    let own = spec.get("process").unwrap_or(&Value::Null);
    let own_pid_namespace = own_pid_namespace(spec);
    let no_new_privileges = process.get("noNewPrivileges") == Some(&Value::Bool(true));
    ProcessFacts {
        proc_mounted: proc_is_mounted(spec, own_pid_namespace),
        no_new_privileges,
        may_administer: has(process, "CAP_SYS_ADMIN"),
        may_trace: has(process, "CAP_SYS_PTRACE") || has(own, "CAP_SYS_PTRACE"),
        own_pid_namespace,
        refused_call: launcher_calls::refused_to_seal(spec, !no_new_privileges),
    }
}

/// Whether the specification makes a pid namespace for this container alone: `{"type": "pid"}` without a path.
fn own_pid_namespace(spec: &Value) -> bool {
    let namespaces = spec.pointer("/linux/namespaces").and_then(Value::as_array);
    namespaces.into_iter().flatten().any(|namespace| {
        namespace["type"] == "pid" && namespace.get("path").and_then(Value::as_str).is_none_or(str::is_empty)
    })
}

/// Whether `/proc` will show the container's own processes: mounted anew, or the host's where the host's pids are used.
fn proc_is_mounted(spec: &Value, own_pid_namespace: bool) -> bool {
    let mounts = spec.get("mounts").and_then(Value::as_array);
    let at_proc =
        |mount: &&Value| mount["destination"].as_str().is_some_and(|place| place.trim_end_matches('/') == "/proc");
    let last = mounts.into_iter().flatten().rfind(at_proc);
    last.is_some_and(|mount| mount["type"] == "proc" || mount["source"] == "/proc" && !own_pid_namespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn databases() -> Vec<DatabasePath> {
        ["/etc/passwd", "/opt/app/users"].iter().map(|path| DatabasePath::new(path).expect("a path")).collect()
    }

    fn put(process: &Value, lend: bool) -> Value {
        let mut process = process.clone();
        assert!(put_in(
            &mut process,
            &Launcher { descriptor: 5, databases: Some(&databases()), lend, listening: None }
        ));
        process
    }

    #[test]
    fn the_program_is_run_by_the_launcher_and_nothing_else_changes() {
        let own = json!({"args": ["sh", "-c", "x"], "cwd": "/", "capabilities": {"bounding": ["CAP_KILL"]}, "new": 1});
        let edited = put(&own, false);
        let expected = json!([
            "/proc/self/fd/5",
            "--own-descriptor=5",
            "--seal=/etc/passwd",
            "--seal=/opt/app/users",
            "--",
            "sh",
            "-c",
            "x"
        ]);
        assert_eq!(edited["args"], expected);
        assert_eq!(edited["capabilities"], own["capabilities"]);
        assert!(is_in(&edited) && !is_in(&own));
    }

    #[test]
    fn root_is_lent_what_it_lacks_and_others_over_execve() {
        let own = json!({"args": ["sh"], "user": {"uid": 0}, "capabilities":
            {"bounding": ["CAP_SETPCAP", "CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_SETPCAP"]}});
        let edited = put(&own, true);
        assert_eq!(edited["capabilities"]["bounding"], json!(["CAP_SETPCAP", "CAP_KILL", "CAP_SYS_ADMIN"]));
        assert_eq!(edited["capabilities"]["effective"], json!(["CAP_KILL", "CAP_SYS_ADMIN", "CAP_SETPCAP"]));
        assert_eq!(edited["capabilities"].get("ambient"), None);
        let text = edited["args"].to_string();
        assert!(text.contains("--give-back=CAP_SYS_ADMIN=bounding,effective,permitted\""), "{text}");
        assert!(text.contains("--give-back=CAP_SETPCAP=effective\""), "{text}");
        let user = json!({"args": ["sh"], "user": {"uid": 7}, "capabilities": {"bounding": ["CAP_SETPCAP"]}});
        let edited = put(&user, true);
        for set in SETS_OF_OTHERS {
            assert!(LENT.iter().all(|name| edited["capabilities"][set].to_string().contains(name)), "{set}: {edited}");
        }
        assert!(edited["args"].to_string().contains("CAP_SETPCAP=effective,inheritable,permitted,ambient\""));
    }

    #[test]
    fn twice_is_once_and_taking_out_leads_back() {
        for own in [
            json!({"args": ["sh"], "user": {"uid": 0}, "capabilities": {"bounding": ["CAP_SETPCAP", "CAP_KILL"]}}),
            json!({"args": ["sh"], "user": {"uid": 7}, "capabilities": {"ambient": ["CAP_SETPCAP"]}, "cwd": "/"}),
            json!({"args": ["sh"], "capabilities": {}}),
        ] {
            for lend in [false, true] {
                let once = put(&own, lend);
                assert_eq!(put(&once, lend).to_string(), once.to_string());
                assert_eq!(put(&put(&own, !lend), lend).to_string(), once.to_string(), "from the other way");
                let mut back = once.clone();
                assert_eq!(take_out(&mut back), lend);
                assert_eq!(back, own);
                assert!(!take_out(&mut back), "nothing is left to take out");
            }
        }
        let mut bare = put(&json!({"args": ["sh"]}), true);
        take_out(&mut bare);
        assert_eq!(bare, json!({"args": ["sh"], "capabilities": {}}), "an explicit nothing");
    }

    #[test]
    fn no_arguments_no_launcher_and_what_only_looks_like_one_stays() {
        let launcher = Launcher { descriptor: 3, databases: Some(&[]), lend: true, listening: None };
        for mut process in [json!({}), json!({"args": []}), json!({"args": null}), json!(null)] {
            let before = process.clone();
            assert!(!put_in(&mut process, &launcher));
            assert_eq!(process, before);
        }
        for arguments in
            [json!(["/proc/self/fd/3", "x", "--", "y"]), json!(["/proc/self/fd/3", "--own-descriptor=4", "--"])]
        {
            assert!(!is_in(&json!({"args": arguments})));
        }
    }

    #[test]
    fn what_the_specification_says_of_a_process() {
        let spec = |extra: Value| {
            let mut spec = json!({"process": {"args": ["sh"]}, "linux": {"namespaces": [{"type": "pid"}]},
                "mounts": [{"destination": "/proc", "type": "proc"}]});
            for (key, value) in extra.as_object().expect("object") {
                spec[key] = value.clone();
            }
            spec
        };
        let of = |extra: Value| {
            let spec = spec(extra);
            facts(&spec, &spec["process"])
        };
        let plain = of(json!({}));
        assert!(plain.proc_mounted && plain.own_pid_namespace && plain.refused_call.is_none());
        assert!(!plain.no_new_privileges && !plain.may_administer && !plain.may_trace);
        let shared = of(json!({"linux": {"namespaces": [{"type": "pid", "path": "/proc/7/ns/pid"}]}}));
        assert!(!shared.own_pid_namespace);
        assert!(!of(json!({"linux": {}})).own_pid_namespace);
        assert!(!of(json!({"mounts": []})).proc_mounted);
        let bound = json!({"mounts": [{"destination": "/proc/", "type": "bind", "source": "/proc"}]});
        assert!(!of(bound.clone()).proc_mounted, "the host's /proc does not show a process of another pid namespace");
        let mut host = bound;
        host["linux"] = json!({"namespaces": []});
        assert!(of(host).proc_mounted);
        let capable = of(json!({"process": {"noNewPrivileges": true, "capabilities":
            {"bounding": ["CAP_SYS_ADMIN"], "inheritable": ["CAP_SYS_PTRACE"]}}}));
        assert!(capable.no_new_privileges && capable.may_administer && capable.may_trace);
    }
}

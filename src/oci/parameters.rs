//! What a container was created with, out of its bundle's `config.json`: the `parameters` of the DC0072 record.
//!
//! Total on any JSON: a field of another type than runtime-spec says counts as absent, because the runtime and not we decides
//! whether such a file is acceptable. Environment values never leave this module, arguments only redacted.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::model::event::MountParameter;
use crate::model::event::Parameters;
use crate::model::event::UserParameter;
use crate::model::redact;

/// Namespace types of runtime-spec (config-linux.md, "Namespaces") and their files under `/proc/PID/ns` (namespaces(7)).
/// `time` is left out: no engine unshares it, so it would be in every record.
const NAMESPACES: [(&str, &str); 7] = [
    ("cgroup", "cgroup"),
    ("ipc", "ipc"),
    ("mount", "mnt"),
    ("network", "net"),
    ("pid", "pid"),
    ("user", "user"),
    ("uts", "uts"),
];

/// Capability sets of runtime-spec (config.md, "Linux Process").
const CAPABILITY_SETS: [&str; 5] = ["ambient", "bounding", "effective", "inheritable", "permitted"];

/// How many capabilities count as "all": Linux 3.16 had 38 (capabilities(7)), and engines that do not know the newest still mean all.
const ALL_CAPABILITIES: usize = 38;

/// The parameters in `config`.
///
/// `own_seccomp` is the default action of the workload's own profile (`none` without one) as the shim noted it before its
/// edit; `None` takes `config` for unedited and reads it there.
#[must_use]
pub fn parameters(config: &Value, own_seccomp: Option<&str>) -> Parameters {
    let process = &config["process"];
    Parameters {
        args: redact::argv(&strings(&process["args"])),
        user: user(&process["user"]),
        cwd: text(&process["cwd"]),
        terminal: flag(&process["terminal"]),
        capabilities: capabilities(&process["capabilities"]),
        mounts: items(&config["mounts"]).filter_map(mount).collect(),
        host_namespaces: host_namespaces(config, is_namespace_of_the_host),
        devices: items(&config["linux"]["devices"]).filter_map(|device| text(&device["path"])).collect(),
        privileged: is_privileged(config),
        read_only_root: flag(&config["root"]["readonly"]),
        no_new_privileges: flag(&process["noNewPrivileges"]),
        seccomp: own_seccomp.map_or_else(|| default_action(config), str::to_owned),
        apparmor: text(&process["apparmorProfile"]),
        selinux: text(&process["selinuxLabel"]),
        resources: resources(config),
        env_names: environment_names(&process["env"]),
        hostname: text(&config["hostname"]),
    }
}

/// Whether a container has all capabilities and no device restriction: what engines call privileged.
#[must_use]
pub fn is_privileged(config: &Value) -> bool {
    let bounding: BTreeSet<String> = strings(&config["process"]["capabilities"]["bounding"]).into_iter().collect();
    // rules apply in order; one without type and numbers sets the default for all devices (config-linux.md, "Allowed Device list")
    let unrestricted = items(&config["linux"]["resources"]["devices"])
        .rfind(|rule| matches!(rule["type"].as_str(), None | Some("a")) && rule["major"].is_null())
        .is_none_or(|rule| flag(&rule["allow"]));
    bounding.len() >= ALL_CAPABILITIES && unrestricted
}

/// `none`, or the default action of the seccomp profile in `config`.
fn default_action(config: &Value) -> String {
    text(&config["linux"]["seccomp"]["defaultAction"]).unwrap_or_else(|| "none".to_owned())
}

fn items(value: &Value) -> impl DoubleEndedIterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn strings(value: &Value) -> Vec<String> {
    items(value).filter_map(text).collect()
}

/// A string that says something: engines write `""` for "not set".
fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn flag(value: &Value) -> bool {
    value.as_bool().unwrap_or(false)
}

fn id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

fn user(user: &Value) -> Option<UserParameter> {
    user.as_object()?;
    Some(UserParameter {
        uid: id(&user["uid"]).unwrap_or(0),
        gid: id(&user["gid"]).unwrap_or(0),
        additional_gids: items(&user["additionalGids"]).filter_map(id).collect(),
    })
}

fn capabilities(sets: &Value) -> BTreeMap<String, Vec<String>> {
    let given = |name: &&str| sets[*name].is_array();
    CAPABILITY_SETS.iter().filter(|name| given(name)).map(|name| ((*name).to_owned(), strings(&sets[*name]))).collect()
}

fn mount(mount: &Value) -> Option<MountParameter> {
    Some(MountParameter {
        destination: text(&mount["destination"])?,
        source: text(&mount["source"]),
        kind: text(&mount["type"]),
        options: strings(&mount["options"]),
    })
}

/// Namespace types that `config` does not unshare, or joins by a path that `is_host` takes for the host's own.
fn host_namespaces(config: &Value, is_host: impl Fn(&Path, &str) -> bool) -> Vec<String> {
    let listed: BTreeMap<&str, Option<&str>> = items(&config["linux"]["namespaces"])
        .filter_map(|entry| Some((entry["type"].as_str()?, entry["path"].as_str().filter(|path| !path.is_empty()))))
        .collect();
    let shared = |name: &str, file: &str| match listed.get(name) {
        None => true,
        Some(None) => false,
        Some(Some(path)) => is_host(Path::new(path), file),
    };
    NAMESPACES.iter().filter(|(name, file)| shared(name, file)).map(|(name, _)| (*name).to_owned()).collect()
}

/// Whether the namespace file at `path` is the host's, which is pid 1's, or our own where pid 1 may not be looked at
/// (ptrace(2), "Ptrace access mode checking"; hooks and the daemon run in the host's namespaces). Two namespace files are the
/// same namespace when device and inode number agree (namespaces(7), "The /proc/pid/ns/ directory").
fn is_namespace_of_the_host(path: &Path, file: &str) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let of_host = ["/proc/1/ns", "/proc/self/ns"].iter().find_map(|folder| identity(&Path::new(folder).join(file)));
    of_host.is_some() && identity(path) == of_host
}

/// `linux.resources` without its device rules (which `devices` and `privileged` stand for), and `process.rlimits`.
fn resources(config: &Value) -> Option<Value> {
    let mut resources = serde_json::Map::new();
    for (name, value) in config["linux"]["resources"].as_object().into_iter().flatten() {
        if name != "devices" && !is_hollow(value) {
            resources.insert(name.clone(), value.clone());
        }
    }
    if !is_hollow(&config["process"]["rlimits"]) {
        resources.insert("rlimits".to_owned(), config["process"]["rlimits"].clone());
    }
    (!resources.is_empty()).then_some(Value::Object(resources))
}

fn is_hollow(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// What stands before the first `=` of each entry. An entry without `=` is left out: it may be all value.
fn environment_names(environment: &Value) -> Vec<String> {
    items(environment)
        .filter_map(Value::as_str)
        .filter_map(|entry| entry.split_once('='))
        .map(|(name, _)| name.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn capture(name: &str) -> Value {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/fixtures/captures").join(name);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_str(&text).expect("a capture is JSON")
    }

    #[test]
    fn every_capture_is_told_in_full_and_without_values() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/fixtures/captures");
        let mut seen = 0;
        for entry in std::fs::read_dir(&folder).expect("fixtures") {
            let name = entry.expect("entry").file_name().into_string().expect("name");
            if !name.ends_with("config.json") {
                continue;
            }
            seen += 1;
            let config = capture(&name);
            let found = parameters(&config, None);
            assert!(!found.args.is_empty(), "{name}: args");
            assert_eq!(found.cwd.as_deref(), config["process"]["cwd"].as_str(), "{name}: cwd");
            assert!(found.user.is_some() && !found.mounts.is_empty() && !found.capabilities.is_empty(), "{name}");
            assert_eq!(found.env_names.len(), items(&config["process"]["env"]).count(), "{name}: env names");
            assert_eq!(found.mounts.len(), items(&config["mounts"]).count(), "{name}: mounts");
            let told = serde_json::to_string(&found.env_names).expect("serialises");
            assert!(!told.contains('='), "{name}: {told}");
            assert!(!found.privileged, "{name}: none of the captures is privileged");
            let expected = config["linux"]["seccomp"]["defaultAction"].as_str().unwrap_or("none");
            assert_eq!(found.seccomp, expected, "{name}");
            assert!(!found.host_namespaces.contains(&"mount".to_owned()), "{name}: {:?}", found.host_namespaces);
        }
        assert!(seen >= 8, "only {seen} captures found");
    }

    #[test]
    fn fields_of_known_captures() {
        let docker = parameters(&capture("docker28-config.json"), Some("SCMP_ACT_ERRNO"));
        assert_eq!(docker.hostname.as_deref(), Some("vm"));
        assert_eq!(docker.host_namespaces, ["cgroup", "network", "user"]);
        assert_eq!(docker.seccomp, "SCMP_ACT_ERRNO");
        let podman = parameters(&capture("podman43-config.json"), None);
        let resources = podman.resources.expect("limits");
        assert_eq!(resources["pids"]["limit"], json!(2048));
        assert_eq!(resources["rlimits"][0]["type"], json!("RLIMIT_NOFILE"));
        assert!(podman.capabilities["bounding"].contains(&"CAP_AUDIT_WRITE".to_owned()));
        let crio = parameters(&capture("crio-config.json"), None);
        assert!(crio.no_new_privileges == capture("crio-config.json")["process"]["noNewPrivileges"].as_bool().unwrap());
        assert!(crio.env_names.contains(&"PATH".to_owned()));
    }

    #[test]
    fn namespaces_absent_or_joined_to_the_host_are_the_host_s() {
        let config = json!({"linux": {"namespaces": [
            {"type": "pid"}, {"type": "mount", "path": ""}, {"type": "network", "path": "/proc/1/ns/net"},
            {"type": "uts", "path": "/proc/4711/ns/uts"}, {"type": "user"}, {"type": "future"}
        ]}});
        let shared = host_namespaces(&config, |path, _| path.starts_with("/proc/1"));
        assert_eq!(shared, ["cgroup", "ipc", "network"]);
    }

    #[test]
    fn a_namespace_file_is_the_host_s_whatever_it_is_called() {
        let folder = tempfile::tempdir().expect("folder");
        let alias = folder.path().join("net");
        std::os::unix::fs::symlink("/proc/self/ns/net", &alias).expect("link");
        assert!(is_namespace_of_the_host(&alias, "net"), "the same namespace");
        assert!(!is_namespace_of_the_host(&alias, "uts"), "another type");
        assert!(!is_namespace_of_the_host(Path::new("/nowhere"), "net"), "no such file");
        let mut child = std::process::Command::new("unshare").args(["-n", "sleep", "60"]).spawn().expect("unshare");
        let theirs = format!("/proc/{}/ns/net", child.id());
        let fresh = (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            !is_namespace_of_the_host(Path::new(&theirs), "net")
        });
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert!(fresh, "an own network namespace is not the host's");
    }

    #[test]
    fn privileged_needs_all_capabilities_and_all_devices() {
        let all: Vec<String> = (0..41).map(|number| format!("CAP_{number}")).collect();
        let config = |capabilities: &[String], devices: Value| json!({"process": {"capabilities": {"bounding": capabilities}}, "linux": {"resources": {"devices": devices}}});
        let deny = json!({"allow": false, "access": "rwm"});
        let allow = json!({"allow": true, "access": "rwm"});
        let one = json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"});
        for (capabilities, devices, expected) in [
            (&all[..], json!([allow]), true),
            (&all[..], Value::Null, true),
            (&all[..], json!([deny, allow]), true),
            (&all[..], json!([deny, one]), false),
            (&all[..14], json!([allow]), false),
        ] {
            assert_eq!(is_privileged(&config(capabilities, devices.clone())), expected, "{devices}");
        }
    }

    #[test]
    fn secrets_do_not_get_through() {
        let config = json!({"process": {
            "args": ["useradd", "-p", "$6$hash", "mallory"],
            "env": ["TOKEN=s3cret=1", "bare-s3cret", "=odd"]
        }});
        let told = serde_json::to_string(&parameters(&config, None)).expect("serialises");
        assert!(!told.contains("s3cret") && !told.contains("$6$hash"), "{told}");
    }

    #[test]
    fn any_json_is_survived() {
        for config in [
            json!(null),
            json!([]),
            json!({"process": 7, "linux": "x", "mounts": {"a": 1}}),
            json!({"process": {"args": [1, null], "user": {"uid": -1, "gid": 1e99}, "capabilities": []}, "mounts": [1, {}]}),
        ] {
            let found = parameters(&config, None);
            assert!(found.args.is_empty() && found.mounts.is_empty(), "{config}");
        }
    }
}

//! What the words of an exec mean as a `process` object: `exec [--env A=B] [--cwd D] [--user U] [--tty] ID PROGRAM ARGS…`.
//!
//! Sources: runc exec.go (`getProcess`): the container's own process with what the options change; crun src/exec.c and
//! libcrun's `libcrun_container_exec`: what the options say, and the container's own process for what they do not; youki's libcontainer
//! src/container/tenant_builder.rs, `adapt_spec_for_tenant` (0.7.0): a new process, of which environment, capabilities and
//! `noNewPrivileges` alone come from the container's.

use std::ffi::OsString;

use serde_json::Value;
use serde_json::json;

use crate::oci::runtime_args::CommandOptions;

/// Whose reading of the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// runc's.
    Runc,
    /// crun's.
    Crun,
    /// youki's.
    Youki,
}

impl Flavour {
    /// The reading of the runtime of that name.
    #[must_use]
    pub fn of(runtime: &str) -> Option<Self> {
        let known = [("runc", Self::Runc), ("crun", Self::Crun), ("youki", Self::Youki)];
        known.into_iter().find_map(|(name, flavour)| runtime.contains(name).then_some(flavour))
    }
}

/// Options that change a process in ways not followed here.
const NOT_FOLLOWED: [&str; 4] = ["additional-gids", "apparmor", "cap", "process-label"];

/// The process that `words` and `options` mean in the container of `spec`, in which no launcher may be.
///
/// # Errors
/// In words, what cannot be followed.
pub fn process(flavour: Flavour, spec: &Value, options: &CommandOptions, words: &[OsString]) -> Result<Value, String> {
    if let Some(option) = options.others.iter().find(|option| NOT_FOLLOWED.contains(option)) {
        return Err(format!("what --{option} changes is not followed"));
    }
    if flavour == Flavour::Youki {
        return of_youki(spec, options, words);
    }
    let mut process = spec.get("process").filter(|process| process.is_object()).cloned().unwrap_or_else(|| json!({}));
    process["args"] = arguments(words)?.into();
    if let Some(folder) = &options.cwd {
        process["cwd"] = folder.to_str().ok_or("its working directory is not UTF-8")?.into();
    }
    process["terminal"] = options.tty.into();
    if options.no_new_privileges {
        process["noNewPrivileges"] = true.into();
    }
    let given = texts(&options.env).ok_or("its environment is not UTF-8")?;
    let mut environment: Vec<Value> = match process.get("env").and_then(Value::as_array) {
        Some(own) if flavour == Flavour::Runc || given.is_empty() => own.clone(),
        _ => Vec::new(),
    };
    environment.extend(given.into_iter().map(Value::from));
    process["env"] = environment.into();
    if let Some(user) = &options.user {
        set_user(flavour, &mut process, user.to_str().unwrap_or_default())?;
    }
    if !process.get("capabilities").is_some_and(Value::is_object) {
        process["capabilities"] = json!({});
    }
    Ok(process)
}

/// What youki makes of them: what no option says is as its specification library has it by default (oci-spec `Process`), but for what
/// it takes from the container's own process.
fn of_youki(spec: &Value, options: &CommandOptions, words: &[OsString]) -> Result<Value, String> {
    let own = spec.get("process").unwrap_or(&Value::Null);
    let mut process = json!({"args": arguments(words)?, "terminal": false, "cwd": "/", "user": {"uid": 0, "gid": 0},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}]});
    if let Some(folder) = &options.cwd {
        process["cwd"] = folder.to_str().ok_or("its working directory is not UTF-8")?.into();
    }
    let own_privileges = own.get("noNewPrivileges").and_then(Value::as_bool);
    process["noNewPrivileges"] = (options.no_new_privileges || own_privileges.unwrap_or(true)).into();
    let given = texts(&options.env).ok_or("its environment is not UTF-8")?;
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let is_given =
        |variable: &&Value| variable.as_str().is_some_and(|own| given.iter().any(|one| name(one) == name(own)));
    let kept = own.get("env").and_then(Value::as_array).into_iter().flatten();
    let kept: Vec<Value> = kept.filter(|variable| !is_given(variable)).cloned().collect();
    // of one name given twice the last counts
    let last =
        given.iter().enumerate().filter(|(at, one)| !given.iter().skip(at + 1).any(|later| name(later) == name(one)));
    process["env"] = kept.into_iter().chain(last.map(|(_, one)| Value::from(one.as_str()))).collect();
    if let Some(user) = &options.user {
        set_user(Flavour::Youki, &mut process, user.to_str().unwrap_or_default())?;
    }
    if let Some(affinity) = own.get("execCPUAffinity") {
        process["execCPUAffinity"] = affinity.clone();
    }
    let sets = own.get("capabilities");
    let set = |name: &str| sets.and_then(|sets| sets.get(name)).filter(|set| set.is_array()).cloned();
    process["capabilities"] = json!({});
    for name in ["bounding", "effective", "permitted"] {
        process["capabilities"][name] = set(name).unwrap_or_else(|| json!([]));
    }
    if let Some(inheritable) = set("inheritable") {
        process["capabilities"]["inheritable"] = inheritable;
        process["capabilities"]["ambient"] = set("ambient").unwrap_or_else(|| json!([]));
    }
    Ok(process)
}

fn arguments(words: &[OsString]) -> Result<Vec<String>, String> {
    let arguments = texts(words).filter(|words| words.first().is_some_and(|first| first != "--"));
    arguments.ok_or_else(|| "its words are no program and no UTF-8".to_owned())
}

fn texts(words: &[OsString]) -> Option<Vec<String>> {
    words.iter().map(|word| word.to_str().map(str::to_owned)).collect()
}

/// `UID[:GID]` by number. runc leaves the rest of the container's user as it is, the others begin anew.
fn set_user(flavour: Flavour, process: &mut Value, text: &str) -> Result<(), String> {
    let number = |text: &str| text.parse::<u32>().map_err(|_| "its user is not given by number".to_owned());
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (number(uid)?, Some(number(gid)?)),
        None => (number(text)?, None),
    };
    if flavour != Flavour::Runc || !process.get("user").is_some_and(Value::is_object) {
        process["user"] = json!({"uid": 0, "gid": 0});
    }
    process["user"]["uid"] = uid.into();
    if let Some(gid) = gid {
        process["user"]["gid"] = gid.into();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::runtime_args::CommandLine;

    fn of(flavour: Flavour, line: &str) -> Result<Value, String> {
        let spec = json!({"process": {"args": ["sleep"], "cwd": "/work", "env": ["A=1"], "terminal": true,
            "user": {"uid": 5, "gid": 6, "additionalGids": [7]}, "rlimits": [], "capabilities": {"bounding": ["CAP_KILL"]}}});
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let line = CommandLine::parse(&words).expect("parses");
        process(flavour, &spec, &line.options, &line.exec_arguments)
    }

    #[test]
    fn options_change_what_they_name() {
        for flavour in [Flavour::Runc, Flavour::Crun] {
            let plain = of(flavour, "x exec ID sh -c y").expect("followed");
            assert_eq!(plain["args"], json!(["sh", "-c", "y"]));
            assert_eq!(
                (&plain["cwd"], &plain["env"], &plain["terminal"]),
                (&json!("/work"), &json!(["A=1"]), &json!(false))
            );
            assert_eq!((&plain["user"]["uid"], &plain["rlimits"]), (&json!(5), &json!([])));
            let given = of(flavour, "x exec -t --cwd /c --no-new-privs -u 8:9 ID sh").expect("followed");
            assert_eq!(
                (&given["cwd"], &given["terminal"], &given["noNewPrivileges"]),
                (&json!("/c"), &json!(true), &json!(true))
            );
            assert_eq!((&given["user"]["uid"], &given["user"]["gid"]), (&json!(8), &json!(9)));
        }
        assert_eq!(of(Flavour::Runc, "x exec -e B=2 ID sh").expect("followed")["env"], json!(["A=1", "B=2"]));
        assert_eq!(of(Flavour::Crun, "x exec -e B=2 ID sh").expect("followed")["env"], json!(["B=2"]));
        assert_eq!(
            of(Flavour::Runc, "x exec -u 8 ID sh").expect("followed")["user"],
            json!({"uid": 8, "gid": 6, "additionalGids": [7]})
        );
        assert_eq!(of(Flavour::Crun, "x exec -u 8 ID sh").expect("followed")["user"], json!({"uid": 8, "gid": 0}));
    }

    #[test]
    fn youki_takes_little_from_the_containers_own_process() {
        let plain = of(Flavour::Youki, "x exec -t ID sh -c y").expect("followed");
        assert_eq!(
            (&plain["cwd"], &plain["terminal"], &plain["user"]),
            (&json!("/"), &json!(false), &json!({"uid": 0, "gid": 0}))
        );
        assert_eq!((&plain["noNewPrivileges"], &plain["rlimits"][0]["soft"]), (&json!(true), &json!(1024)));
        assert_eq!(plain["capabilities"], json!({"bounding": ["CAP_KILL"], "effective": [], "permitted": []}));
        let given = of(Flavour::Youki, "x exec -e A=2 -e B=3 -e B=4 --cwd /c -u 8:9 ID sh").expect("followed");
        assert_eq!((&given["env"], &given["cwd"]), (&json!(["A=2", "B=4"]), &json!("/c")));
        assert_eq!(given["user"], json!({"uid": 8, "gid": 9}));
    }

    #[test]
    fn what_cannot_be_followed_is_said() {
        for line in ["x exec --cap CAP_KILL ID sh", "x exec -u root ID sh", "x exec ID", "x exec ID -- sh"] {
            assert!(of(Flavour::Runc, line).is_err(), "{line}");
        }
        assert_eq!(Flavour::of("crun-1.28"), Some(Flavour::Crun));
        assert_eq!(Flavour::of("youki"), Some(Flavour::Youki));
        assert_eq!(Flavour::of("kata"), None);
    }
}

//! What the words of an exec mean as a `process` object: `exec [--env A=B] [--cwd D] [--user U] [--tty] ID PROGRAM ARGS…`.
//!
//! Sources: runc exec.go (`getProcess`): the container's own process with what the options change; crun src/exec.c and
//! libcrun's `libcrun_container_exec`: what the options say, and the container's own process for what they do not.

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
}

impl Flavour {
    /// The reading of the runtime of that name.
    #[must_use]
    pub fn of(runtime: &str) -> Option<Self> {
        let known = [("runc", Self::Runc), ("crun", Self::Crun)];
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
    let mut process = spec.get("process").filter(|process| process.is_object()).cloned().unwrap_or_else(|| json!({}));
    let arguments = texts(words).filter(|words| words.first().is_some_and(|first| first != "--"));
    process["args"] = arguments.ok_or("its words are no program and no UTF-8")?.into();
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

fn texts(words: &[OsString]) -> Option<Vec<String>> {
    words.iter().map(|word| word.to_str().map(str::to_owned)).collect()
}

/// `UID[:GID]` by number. runc leaves the rest of the container's user as it is, crun begins anew.
fn set_user(flavour: Flavour, process: &mut Value, text: &str) -> Result<(), String> {
    let number = |text: &str| text.parse::<u32>().map_err(|_| "its user is not given by number".to_owned());
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (number(uid)?, Some(number(gid)?)),
        None => (number(text)?, None),
    };
    if flavour == Flavour::Crun || !process.get("user").is_some_and(Value::is_object) {
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
    fn what_cannot_be_followed_is_said() {
        for line in ["x exec --cap CAP_KILL ID sh", "x exec -u root ID sh", "x exec ID", "x exec ID -- sh"] {
            assert!(of(Flavour::Runc, line).is_err(), "{line}");
        }
        assert_eq!(Flavour::of("crun-1.28"), Some(Flavour::Crun));
        assert_eq!(Flavour::of("youki"), None);
    }
}

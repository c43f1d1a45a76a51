//! `linux.seccomp` between a config.json and NRI's message. Nothing is left out: what the message cannot say is an error.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::nri::messages::LinuxSeccomp;
use crate::nri::messages::LinuxSeccompArg;
use crate::nri::messages::LinuxSyscall;
use crate::nri::messages::OptionalUInt32;

/// A profile that NRI's message cannot say.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{member} of the seccomp profile cannot be told to the engine by NRI")]
pub struct Inexpressible {
    member: String,
}

fn inexpressible(member: &str) -> Inexpressible {
    Inexpressible { member: member.to_owned() }
}

/// The message of a `linux.seccomp` section.
///
/// # Errors
/// [`Inexpressible`]: a member that the message lacks, or one of another type.
pub fn message(section: &Value) -> Result<LinuxSeccomp, Inexpressible> {
    let mut message = LinuxSeccomp::default();
    for (key, value) in members(section, "linux.seccomp")? {
        match key.as_str() {
            "defaultAction" => message.default_action = text(value, key)?,
            "defaultErrnoRet" => message.default_errno = optional(value, key)?,
            "architectures" => message.architectures = texts(value, key)?,
            "flags" => message.flags = texts(value, key)?,
            "listenerPath" => message.listener_path = text(value, key)?,
            "listenerMetadata" => message.listener_metadata = text(value, key)?,
            "syscalls" => message.syscalls = items(value, key)?.iter().map(syscall).collect::<Result<_, _>>()?,
            other => return Err(inexpressible(other)),
        }
    }
    Ok(message)
}

fn syscall(entry: &Value) -> Result<LinuxSyscall, Inexpressible> {
    let mut message = LinuxSyscall::default();
    for (key, value) in members(entry, "syscalls")? {
        match key.as_str() {
            "names" => message.names = texts(value, key)?,
            "action" => message.action = text(value, key)?,
            "errnoRet" => message.errno_ret = optional(value, key)?,
            "args" => message.args = items(value, key)?.iter().map(argument).collect::<Result<_, _>>()?,
            other => return Err(inexpressible(other)),
        }
    }
    Ok(message)
}

fn argument(entry: &Value) -> Result<LinuxSeccompArg, Inexpressible> {
    let mut message = LinuxSeccompArg::default();
    for (key, value) in members(entry, "args")? {
        match key.as_str() {
            "index" => message.index = small(value, key)?,
            "value" => message.value = value.as_u64().ok_or_else(|| inexpressible(key))?,
            "valueTwo" => message.value_two = value.as_u64().ok_or_else(|| inexpressible(key))?,
            "op" => message.op = text(value, key)?,
            other => return Err(inexpressible(other)),
        }
    }
    Ok(message)
}

fn members<'a>(value: &'a Value, name: &str) -> Result<&'a Map<String, Value>, Inexpressible> {
    value.as_object().ok_or_else(|| inexpressible(name))
}

/// The items of a list; null is an empty one.
fn items<'a>(value: &'a Value, name: &str) -> Result<&'a [Value], Inexpressible> {
    match value {
        Value::Null => Ok(&[]),
        value => value.as_array().map(Vec::as_slice).ok_or_else(|| inexpressible(name)),
    }
}

fn text(value: &Value, name: &str) -> Result<String, Inexpressible> {
    value.as_str().map(ToOwned::to_owned).ok_or_else(|| inexpressible(name))
}

fn texts(value: &Value, name: &str) -> Result<Vec<String>, Inexpressible> {
    items(value, name)?.iter().map(|item| text(item, name)).collect()
}

fn small(value: &Value, name: &str) -> Result<u32, Inexpressible> {
    value.as_u64().and_then(|number| u32::try_from(number).ok()).ok_or_else(|| inexpressible(name))
}

fn optional(value: &Value, name: &str) -> Result<Option<OptionalUInt32>, Inexpressible> {
    if value.is_null() { Ok(None) } else { small(value, name).map(|value| Some(OptionalUInt32 { value })) }
}

/// The `linux.seccomp` section of a message, as an engine writes it: what is empty is left out.
#[must_use]
pub fn section(message: &LinuxSeccomp) -> Value {
    let mut section = json!({ "defaultAction": message.default_action });
    let syscalls: Vec<Value> = message.syscalls.iter().map(entry).collect();
    let number = |number: Option<OptionalUInt32>| number.map(|number| Value::from(number.value));
    for (key, value) in [
        ("defaultErrnoRet", number(message.default_errno)),
        ("architectures", list(&message.architectures)),
        ("flags", list(&message.flags)),
        ("listenerPath", word(&message.listener_path)),
        ("listenerMetadata", word(&message.listener_metadata)),
        ("syscalls", (!syscalls.is_empty()).then(|| syscalls.into())),
    ] {
        put(&mut section, key, value);
    }
    section
}

fn entry(syscall: &LinuxSyscall) -> Value {
    let mut entry = json!({ "names": syscall.names, "action": syscall.action });
    put(&mut entry, "errnoRet", syscall.errno_ret.map(|number| number.value.into()));
    let arguments: Vec<Value> = syscall
        .args
        .iter()
        .map(|argument| {
            let mut entry = json!({ "index": argument.index, "value": argument.value });
            put(&mut entry, "valueTwo", (argument.value_two != 0).then(|| argument.value_two.into()));
            put(&mut entry, "op", Some(argument.op.as_str().into()));
            entry
        })
        .collect();
    put(&mut entry, "args", (!arguments.is_empty()).then(|| arguments.into()));
    entry
}

fn put(object: &mut Value, key: &str, value: Option<Value>) {
    if let (Some(object), Some(value)) = (object.as_object_mut(), value) {
        object.insert(key.to_owned(), value);
    }
}

fn list(words: &[String]) -> Option<Value> {
    (!words.is_empty()).then(|| words.into())
}

fn word(word: &str) -> Option<Value> {
    (!word.is_empty()).then(|| word.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_survives_the_way_to_the_engine() {
        let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"], "listenerPath": "/run/a.sock", "listenerMetadata": "m", "syscalls": [
            {"names": ["openat"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 2, "value": 3, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0, "args": [{"index": 0, "value": 18_446_744_073_709_551_615_u64, "op": "SCMP_CMP_EQ"}]},
            {"names": ["read"], "action": "SCMP_ACT_ALLOW"}]});
        assert_eq!(section(&message(&profile).expect("expressible")), profile);
    }

    #[test]
    fn captured_profiles_survive() {
        for name in ["containerd21-config.json", "crio-config.json", "docker28-config.json", "podman58-config.json"] {
            let file = format!("{}/integration/fixtures/captures/{name}", env!("CARGO_MANIFEST_DIR"));
            let spec: Value = serde_json::from_slice(&std::fs::read(file).expect("captured")).expect("JSON");
            let profile = &spec["linux"]["seccomp"];
            let told = message(profile).expect("expressible");
            assert!(!told.syscalls.is_empty());
            assert_eq!(message(&section(&told)), Ok(told), "{name}");
        }
    }

    #[test]
    fn what_the_message_cannot_say_is_named() {
        for (profile, member) in [
            (json!({"defaultAction": "SCMP_ACT_ALLOW", "newMember": 1}), "newMember"),
            (json!({"syscalls": [{"names": ["a"], "action": "x", "comment": "c"}]}), "comment"),
            (json!({"syscalls": [{"args": [{"value": -1}]}]}), "value"),
            (json!({"syscalls": 3}), "syscalls"),
            (json!([]), "linux.seccomp"),
        ] {
            assert_eq!(message(&profile), Err(inexpressible(member)));
        }
    }
}

//! The whole edit of a `config.json`: acctguard's hooks, the interception in the seccomp section, and the launcher in front of
//! the program.
//!
//! The document stays a JSON value, so members that acctguard does not know, their order and the spelling of numbers
//! survive. Editing an edited document changes nothing.

use std::path::Path;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::model::policy::Ground;
use crate::oci::launcher_edit;
use crate::oci::launcher_edit::Launcher;
use crate::oci::launcher_listener;
use crate::oci::seccomp_closed;
use crate::oci::seccomp_closed::UnknownCalls;
use crate::oci::seccomp_flags;
use crate::oci::seccomp_merge;
use crate::oci::seccomp_merge::Conflict;
use crate::oci::seccomp_merge::Listener;
use crate::oci::seccomp_merge::Merge;
use crate::oci::seccomp_profile::Action;
use crate::oci::seccomp_profile::ProfileError;
use crate::oci::seccomp_youki;

/// Base name of the hook program and its `argv[0]`.
pub const HOOK_NAME: &str = "acctguard-hook";
/// Value of `--own-seccomp` for a workload without a profile.
pub const NO_SECCOMP: &str = "none";

/// The workload's own seccomp profile before the edit, for the hook to put on record.
pub const OWN_SECCOMP: &str = "--own-seccomp";
/// Calls that the interception cannot watch, or only in part, for the hook to put on record.
const UNWATCHED: &str = "--unwatched";
/// On which ground the container's own process is put, for the hook to put on record.
const GROUND: &str = "--ground";
/// Why calls that are being answered do not wait killable, for the hook to put on record.
const NOT_KILLABLE: &str = "--not-killable";
/// That calls wait killable by the launcher's listener, for the hook to put on record.
const LAUNCHER_LISTENS: &str = "--launcher-listens";
/// The runtime that reads the document, for the hook to put on record and for the shim to know at an exec; where it is youki.
const RUNTIME: &str = "--runtime";
const YOUKI: &str = "youki";
/// That `noNewPrivileges: false` was left out, which means the same.
const PRIVILEGES_LEFT_OUT: &str = "--new-privileges-left-out";
/// A hook's environment is what `env` says; without it the hook would inherit the runtime's (config.md, "POSIX-platform Hooks").
const HOOK_ENV: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is to be put into a `config.json`.
#[derive(Debug, Clone, Copy)]
pub struct Edit<'a> {
    /// Absolute path of `acctguard-hook`.
    pub hook_program: &'a Path,
    /// The configuration the hooks are to use, when it is not the default one.
    pub config_file: Option<&'a Path>,
    /// The daemon's listener.
    pub listener: Listener<'a>,
    /// What is done about interception.
    pub interception: Interception<'a>,
    /// What is done about calls that the runtime's libseccomp does not know.
    pub unknown_calls: UnknownCalls,
    /// What signals do to calls that are being answered.
    pub signals: Signals<'a>,
    /// On which ground the container's own process is put, where it is intercepted.
    pub placement: Option<Placement<'a>>,
    /// Who reads the document.
    pub reader: Reader,
}

/// Who reads an edited document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// A runtime that follows the specification.
    AsSpecified,
    /// youki 0.7. It gives exec sessions no filter at all, so that the launcher has to ([`execs_by_launcher`]); reads masks the other
    /// way round ([`seccomp_youki`]); and where `noNewPrivileges` is there and false, installs a filter after it has dropped the
    /// capabilities which that takes, so this is left out.
    Youki,
}

/// What signals do to calls that are being answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signals<'a> {
    /// Nothing: they wait until the call has its answer (`SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`).
    Wait,
    /// The same, by the launcher's own listener ([`launcher_listener`]): the runtime cannot.
    WaitByLauncher,
    /// They cancel it, and it comes again or fails with EINTR.
    Cancel {
        /// Why that cannot be helped, in one line.
        reason: &'a str,
    },
}

/// On which ground the container's own process is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement<'a> {
    /// The ground.
    pub ground: Ground,
    /// Why not a better one, each in one line.
    pub reasons: &'a [String],
    /// What is put in front of its program, under the seal or to listen.
    pub launcher: Option<Launcher<'a>>,
    /// The runtime's own copy of the document, out of which what is lent must be taken too.
    pub runtime_copy: Option<&'a Path>,
}

/// What is done about interception.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interception<'a> {
    /// It is put in place.
    Install,
    /// Policy does not ask for it.
    Off,
    /// It is asked for and cannot be put in place; the hook records why.
    Unprotected {
        /// One line.
        reason: &'a str,
    },
}

/// The outcome of an edit.
#[derive(Debug, Clone, PartialEq)]
pub struct Edited {
    /// The new document.
    pub spec: Value,
    /// Whether it differs from the old one.
    pub changed: bool,
    /// Whether the interception is in it.
    pub intercepted: bool,
    /// Calls that are intercepted in part only.
    pub gaps: Vec<String>,
}

/// Why a `config.json` cannot be edited.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// A member has the wrong type.
    #[error("{member} of config.json is not {expected}; the bundle is malformed, make it anew")]
    Type {
        /// Which.
        member: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A path that JSON cannot hold.
    #[error(
        "path {path:?} is not UTF-8 and cannot be written into config.json; install or configure acctguard under another path"
    )]
    Path {
        /// Which.
        path: std::path::PathBuf,
    },
    /// The seccomp section.
    #[error(transparent)]
    Seccomp(#[from] ProfileError),
    /// The launcher can make no listener of its own; the caller tries again without.
    #[error("the launcher can make no listener of its own: {0}")]
    LauncherListener(String),
    /// The interception is asked for and cannot be put in; the caller's policy decides whether to try again without.
    #[error(transparent)]
    Conflict(#[from] Conflict),
}

/// Whether a document has acctguard's listener in its seccomp section.
#[must_use]
pub fn is_intercepted(spec: &Value, listener_path: &str) -> bool {
    spec.pointer("/linux/seccomp/listenerPath").and_then(Value::as_str) == Some(listener_path)
}

/// Whether the launcher was put in front of the container's own process when the document was edited last. Told by acctguard's own
/// hook: the launcher itself may be gone from the document by now.
#[must_use]
pub fn was_launched(spec: &Value) -> bool {
    let listens = own_arguments(spec).is_some_and(|arguments| arguments.iter().any(|word| word == LAUNCHER_LISTENS));
    listens || own_argument(spec, GROUND).as_deref() == Some(Ground::Seal.as_str())
}

/// Whether exec sessions of an intercepted container get their filter from the launcher only.
#[must_use]
pub fn execs_by_launcher(spec: &Value) -> bool {
    own_argument(spec, RUNTIME).as_deref() == Some(YOUKI)
}

/// The seccomp section in words of the specification, whoever reads the document.
#[must_use]
pub fn seccomp_as_specified(spec: &Value) -> Value {
    let mut section = spec.pointer("/linux/seccomp").cloned().unwrap_or_default();
    if execs_by_launcher(spec) {
        seccomp_youki::to_specification(&mut section);
    }
    section
}

/// The document as the workload's engine wrote its `process`, without the launcher and with all that was left out of it.
#[must_use]
pub fn own(spec: &Value) -> Value {
    let mut own = launcher_edit::own(spec);
    if left_privileges_out(spec)
        && let Some(process) = own.get_mut("process").and_then(Value::as_object_mut)
    {
        process.entry("noNewPrivileges").or_insert(Value::Bool(false));
    }
    own
}

fn left_privileges_out(spec: &Value) -> bool {
    own_arguments(spec).is_some_and(|arguments| arguments.iter().any(|word| word == PRIVILEGES_LEFT_OUT))
}

/// Whether acctguard's createRuntime hook is in a document.
#[must_use]
pub fn has_own_hook(spec: &Value) -> bool {
    own_arguments(spec).is_some()
}

/// The workload's own seccomp profile before acctguard's edit, as events say it: `none` or its default action.
/// Known from acctguard's own hook in an edited document.
#[must_use]
pub fn own_seccomp(spec: &Value) -> Option<String> {
    own_argument(spec, OWN_SECCOMP)
}

/// The arguments of acctguard's own createRuntime hook.
fn own_arguments(spec: &Value) -> Option<&Vec<Value>> {
    let hooks = spec.pointer("/hooks/createRuntime")?.as_array()?;
    hooks.iter().find(|hook| is_own(hook))?.get("args")?.as_array()
}

/// What follows `flag` in acctguard's own createRuntime hook.
fn own_argument(spec: &Value, flag: &str) -> Option<String> {
    let arguments = own_arguments(spec)?;
    let position = arguments.iter().position(|argument| argument.as_str() == Some(flag))?;
    arguments.get(position + 1)?.as_str().map(ToOwned::to_owned)
}

/// Edits a document.
///
/// # Errors
/// [`EditError`]; the document is then to be left as it was.
pub fn edit(spec: &Value, edit: &Edit<'_>) -> Result<Edited, EditError> {
    let mut new = spec.clone();
    let Some(object) = new.as_object_mut() else {
        return Err(EditError::Type { member: "the top level".to_owned(), expected: "an object" });
    };
    let by_youki = edit.interception == Interception::Install && edit.reader == Reader::Youki;
    if by_youki || execs_by_launcher(spec) {
        translate(object, seccomp_youki::to_specification);
    }
    let mut gaps: Vec<String> = own_argument(spec, UNWATCHED).into_iter().collect();
    let own = seccomp_before(spec, edit.listener.path);
    match edit.interception {
        Interception::Install => {
            install(object, edit, &own, &mut gaps)?;
            if let Some(section) = object.get_mut("linux").and_then(|linux| linux.get_mut("seccomp")) {
                seccomp_flags::set(section, edit.signals == Signals::Wait);
                if edit.signals == Signals::WaitByLauncher {
                    launcher_listener::let_it_listen(section).map_err(EditError::LauncherListener)?;
                }
            }
        }
        Interception::Off | Interception::Unprotected { .. } => {
            uninstall(object, edit.listener.path, &own);
            gaps.clear();
        }
    }
    let program = path_text(edit.hook_program)?;
    let config = edit.config_file.map(path_text).transpose()?;
    let mut arguments = vec![HOOK_NAME, "createRuntime"];
    arguments.extend(config.iter().flat_map(|file| ["--config", file]));
    arguments.extend([OWN_SECCOMP, &own]);
    if let Interception::Unprotected { reason } = edit.interception {
        arguments.extend(["--unprotected", reason]);
    }
    let unwatched = gaps.join("; ");
    if !gaps.is_empty() {
        arguments.extend([UNWATCHED, &unwatched]);
    }
    let installs = edit.interception == Interception::Install;
    match edit.signals {
        Signals::Cancel { reason } if installs => arguments.extend([NOT_KILLABLE, reason]),
        Signals::WaitByLauncher if installs => arguments.push(LAUNCHER_LISTENS),
        _ => {}
    }
    if by_youki || execs_by_launcher(spec) && edit.reader == Reader::Youki {
        translate(object, seccomp_youki::from_specification);
    }
    if set_privileges(object, left_privileges_out(spec), by_youki) {
        arguments.push(PRIVILEGES_LEFT_OUT);
    }
    if by_youki {
        arguments.extend([RUNTIME, YOUKI]);
    }
    let placement = edit.placement.filter(|_| installs);
    put_on_ground(object, placement)?;
    let copy = placement.and_then(|placement| placement.runtime_copy).map(path_text).transpose()?;
    if let Some(placement) = placement {
        arguments.extend([GROUND, placement.ground.as_str()]);
        arguments.extend(placement.reasons.iter().flat_map(|reason| ["--because", reason]));
        arguments.extend(copy.iter().flat_map(|copy| ["--runtime-copy", copy]));
    }
    set_hook(object, "createRuntime", program, &arguments)?;
    let mut arguments = vec![HOOK_NAME, "poststop"];
    arguments.extend(config.iter().flat_map(|file| ["--config", file]));
    set_hook(object, "poststop", program, &arguments)?;
    let intercepted = is_intercepted(&new, edit.listener.path);
    Ok(Edited { changed: new != *spec, spec: new, intercepted, gaps })
}

fn translate(object: &mut Map<String, Value>, translation: fn(&mut Value)) {
    if let Some(section) = object.get_mut("linux").and_then(|linux| linux.get_mut("seccomp")) {
        translation(section);
    }
}

/// Leaves `noNewPrivileges: false` out, or puts what an earlier edit left out back in. Whether it is left out now.
fn set_privileges(object: &mut Map<String, Value>, was_left_out: bool, leave_out: bool) -> bool {
    let Some(process) = object.get_mut("process").and_then(Value::as_object_mut) else { return false };
    if was_left_out {
        process.entry("noNewPrivileges").or_insert(Value::Bool(false));
    }
    let spelt_out = leave_out && process.get("noNewPrivileges") == Some(&Value::Bool(false));
    if spelt_out {
        process.shift_remove("noNewPrivileges");
    }
    spelt_out
}

/// Puts the launcher in front of the container's program, or takes an earlier one out.
fn put_on_ground(object: &mut Map<String, Value>, placement: Option<Placement<'_>>) -> Result<(), EditError> {
    let process = object.get_mut("process").filter(|process| process.is_object());
    let launcher = placement.and_then(|placement| placement.launcher);
    let done = match (process, launcher) {
        (Some(process), Some(launcher)) => launcher_edit::put_in(process, &launcher),
        (Some(process), None) => {
            launcher_edit::take_out(process);
            true
        }
        (None, launcher) => launcher.is_none(),
    };
    let failed = EditError::Type { member: "process.args".to_owned(), expected: "a list with a program" };
    if done { Ok(()) } else { Err(failed) }
}

fn path_text(path: &Path) -> Result<&str, EditError> {
    path.to_str().ok_or_else(|| EditError::Path { path: path.to_owned() })
}

fn seccomp_before(spec: &Value, listener_path: &str) -> String {
    if is_intercepted(spec, listener_path)
        && let Some(own) = own_seccomp(spec)
    {
        return own;
    }
    let action = spec.pointer("/linux/seccomp/defaultAction").and_then(Value::as_str);
    action.map_or_else(|| NO_SECCOMP.to_owned(), |action| action.chars().take(80).collect())
}

/// Merges the interception in. `gaps` are those of the edit before, and are kept when nothing has to be done.
fn install(
    object: &mut Map<String, Value>,
    edit: &Edit<'_>,
    own: &str,
    gaps: &mut Vec<String>,
) -> Result<(), EditError> {
    let linux = member(object, "linux", "linux")?;
    let section = linux.get("seccomp").filter(|section| !section.is_null());
    let path = edit.listener.path;
    let ours = section.filter(|section| section.get("listenerPath").and_then(Value::as_str) == Some(path));
    let metadata = match edit.signals {
        Signals::WaitByLauncher => launcher_listener::METADATA,
        _ => edit.listener.metadata,
    };
    let listener = Listener { metadata, ..edit.listener };
    let close = edit.unknown_calls == UnknownCalls::Refused;
    let is_closed = ours.is_some_and(|section| allows(own) && seccomp_closed::is_closed(section));
    // What is asked for may be another than at the last edit: then the workload's own profile is edited again.
    let before = match ours {
        Some(section) if is_closed == (close && allows(own)) && section["listenerMetadata"] == metadata => {
            return Ok(());
        }
        Some(section) => without_interception(section, path, own),
        None => section.cloned(),
    };
    let merge = if close { seccomp_closed::merge } else { seccomp_merge::merge };
    match merge(before.as_ref(), listener)? {
        Merge::Unchanged => {}
        Merge::Conflict(conflict) => return Err(conflict.into()),
        Merge::Merged(merged) if ours.is_some() && close && !seccomp_closed::is_closed(&merged.section) => {
            let known = gaps.join("; ");
            gaps.extend(merged.gaps.into_iter().filter(|gap| !known.contains(gap)));
        }
        Merge::Merged(merged) => {
            linux.insert("seccomp".to_owned(), merged.section);
            *gaps = merged.gaps;
        }
    }
    Ok(())
}

/// Whether a profile of which this is the default action, or [`NO_SECCOMP`], lets go what it does not name.
fn allows(own: &str) -> bool {
    own == NO_SECCOMP || Action::parse(own, None).is_some_and(Action::allows)
}

/// The workload's own profile out of a section with acctguard's listener, as near as that can be had.
fn without_interception(section: &Value, listener_path: &str, own: &str) -> Option<Value> {
    if own == NO_SECCOMP {
        return None;
    }
    let mut section = seccomp_merge::remove(section, listener_path)?;
    if allows(own) {
        seccomp_closed::reopen(&mut section, own);
    }
    Some(section)
}

fn uninstall(object: &mut Map<String, Value>, listener_path: &str, own: &str) {
    let Some(linux) = object.get_mut("linux").and_then(Value::as_object_mut) else {
        return;
    };
    let ours = |section: &&Value| section.get("listenerPath").and_then(Value::as_str) == Some(listener_path);
    let Some(section) = linux.get("seccomp").filter(ours) else {
        return;
    };
    match without_interception(section, listener_path, own) {
        Some(restored) => linux.insert("seccomp".to_owned(), restored),
        None => linux.shift_remove("seccomp"),
    };
}

/// The object under `key`, made when it is missing or null.
fn member<'a>(
    object: &'a mut Map<String, Value>,
    key: &str,
    name: &str,
) -> Result<&'a mut Map<String, Value>, EditError> {
    let value = object.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().ok_or_else(|| EditError::Type { member: name.to_owned(), expected: "an object" })
}

/// Whether a hook is acctguard's.
fn is_own(hook: &Value) -> bool {
    let first = hook.pointer("/args/0").and_then(Value::as_str);
    let path = hook.get("path").and_then(Value::as_str).map(Path::new);
    first == Some(HOOK_NAME) || path.and_then(Path::file_name).is_some_and(|name| name == HOOK_NAME)
}

/// Puts acctguard's hook last in a stage, in place of those it has there.
fn set_hook(object: &mut Map<String, Value>, stage: &str, program: &str, args: &[&str]) -> Result<(), EditError> {
    let hooks = member(object, "hooks", "hooks")?;
    let list = hooks.entry(stage).or_insert(Value::Null);
    if list.is_null() {
        *list = Value::Array(Vec::new());
    }
    let Some(list) = list.as_array_mut() else {
        return Err(EditError::Type { member: format!("hooks.{stage}"), expected: "a list" });
    };
    list.retain(|hook| !is_own(hook));
    list.push(json!({"path": program, "args": args, "env": [HOOK_ENV]}));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTENER: Listener<'_> = Listener { path: "/run/acctguard/listener.sock", metadata: "acctguard/1" };

    fn with(interception: Interception<'_>) -> Edit<'_> {
        Edit {
            hook_program: Path::new("/usr/lib/acctguard/acctguard-hook"),
            config_file: None,
            listener: LISTENER,
            interception,
            unknown_calls: UnknownCalls::AsProfile,
            signals: Signals::Wait,
            placement: None,
            reader: Reader::AsSpecified,
        }
    }

    fn parse(text: &str) -> Value {
        serde_json::from_str(text).expect("valid JSON")
    }

    #[test]
    fn unknown_members_order_and_numbers_survive_and_twice_is_once() {
        let text = r#"{"zzz":1.50,"ociVersion":"1.0.2","big":123456789012345678901234567890,"linux":{"new":{"b":1e+3,"a":null}},"hooks":{"createRuntime":[{"path":"/bin/theirs"}],"prestart":[]},"aaa":true}"#;
        let spec = parse(text);
        let once = edit(&spec, &with(Interception::Install)).expect("edits");
        assert!(once.changed && once.intercepted && once.gaps.is_empty());
        let printed = once.spec.to_string();
        for kept in [r#""zzz":1.50"#, "123456789012345678901234567890", r#""new":{"b":1e+3,"a":null}"#] {
            assert!(printed.contains(kept), "{kept} is gone from {printed}");
        }
        assert!(printed.find("zzz") < printed.find("ociVersion") && printed.find("hooks") < printed.find("aaa"));
        let hooks = once.spec.pointer("/hooks/createRuntime").and_then(Value::as_array).expect("is there");
        assert_eq!(hooks.len(), 2);
        assert_eq!(hooks[0]["path"], "/bin/theirs");
        let twice = edit(&once.spec, &with(Interception::Install)).expect("edits");
        assert!(!twice.changed);
        assert_eq!(twice.spec.to_string(), printed);
    }

    #[test]
    fn an_unprotected_start_takes_the_interception_out_again() {
        for text in [
            r#"{"linux":{"namespaces":[]}}"#,
            r#"{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read","openat"],"action":"SCMP_ACT_ALLOW"}]}}}"#,
        ] {
            let spec = parse(text);
            let protected = edit(&spec, &with(Interception::Install)).expect("edits").spec;
            let without = edit(&protected, &with(Interception::Unprotected { reason: "no daemon" })).expect("edits");
            assert!(!without.intercepted);
            assert!(!without.spec.to_string().contains("NOTIFY"));
            assert_eq!(own_seccomp(&without.spec), own_seccomp(&protected));
            let hook = &without.spec["hooks"]["createRuntime"][0]["args"];
            assert!(hook.to_string().ends_with(r#""--unprotected","no daemon"]"#), "{hook}");
            let again = edit(&without.spec, &with(Interception::Install)).expect("edits").spec;
            assert!(is_intercepted(&again, LISTENER.path));
            assert_eq!(again["linux"], protected["linux"]);
        }
    }

    #[test]
    fn a_mode_that_changes_opens_and_closes_the_profile() {
        let under = |unknown_calls| Edit { unknown_calls, ..with(Interception::Install) };
        for (seccomp, unknown) in [
            (json!(null), "SCMP_ACT_ALLOW"),
            (
                json!({"defaultAction": "SCMP_ACT_LOG", "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}]}),
                "SCMP_ACT_LOG",
            ),
            (
                json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": [{"names": ["openat"], "action": "SCMP_ACT_ALLOW"}]}),
                "SCMP_ACT_ERRNO",
            ),
        ] {
            let spec = json!({"linux": {"seccomp": seccomp}});
            let open = edit(&spec, &under(UnknownCalls::AsProfile)).expect("edits");
            let closed = edit(&spec, &under(UnknownCalls::Refused)).expect("edits");
            assert_eq!(open.spec["linux"]["seccomp"]["defaultAction"], unknown);
            assert!(seccomp_closed::is_closed(&closed.spec["linux"]["seccomp"]) && closed.gaps.is_empty());
            assert!(!edit(&closed.spec, &under(UnknownCalls::Refused)).expect("edits").changed, "twice is once");
            let again = edit(&open.spec, &under(UnknownCalls::Refused)).expect("edits").spec;
            assert_eq!(again, closed.spec, "closed later is closed at once");
            let reopened = edit(&closed.spec, &under(UnknownCalls::AsProfile)).expect("edits").spec;
            assert_eq!(reopened["linux"]["seccomp"]["defaultAction"], unknown);
            assert!(!edit(&reopened, &under(UnknownCalls::AsProfile)).expect("edits").changed, "twice is once");
            let off = edit(&closed.spec, &with(Interception::Off)).expect("edits").spec;
            assert!(!off.to_string().contains("NOTIFY"));
            assert_eq!(
                off["linux"]
                    .get("seccomp")
                    .map_or("SCMP_ACT_ALLOW", |own| own["defaultAction"].as_str().expect("text")),
                unknown
            );
        }
    }

    #[test]
    fn a_profile_that_cannot_be_closed_later_stays_and_is_told_once() {
        let under = |unknown_calls| Edit { unknown_calls, ..with(Interception::Install) };
        let spec = json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["clone"],
            "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}]}]}}});
        let open = edit(&spec, &under(UnknownCalls::AsProfile)).expect("edits");
        let refused = edit(&open.spec, &under(UnknownCalls::Refused)).expect("edits");
        assert!(open.gaps.is_empty() && refused.gaps[0].contains("not refused, because"), "{:?}", refused.gaps);
        assert_eq!(refused.spec["linux"], open.spec["linux"]);
        let twice = edit(&refused.spec, &under(UnknownCalls::Refused)).expect("edits");
        assert!(!twice.changed);
        assert_eq!(twice.gaps, refused.gaps);
    }

    #[test]
    fn what_cannot_be_watched_is_told_to_the_hook_and_kept() {
        let twisted = json!({"process": {"args": ["sh"]}, "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["rename"], "action": "SCMP_ACT_ERRNO", "args": [
                {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}]}]}}});
        let once = edit(&twisted, &with(Interception::Install)).expect("edits");
        assert!(once.intercepted && !once.gaps.is_empty(), "{:?}", once.gaps);
        let told = own_argument(&once.spec, UNWATCHED).expect("the hook is told");
        assert!(told.contains("rename"), "{told}");
        let twice = edit(&once.spec, &with(Interception::Install)).expect("edits");
        assert!(!twice.changed);
        assert_eq!(twice.gaps, [told]);
    }

    #[test]
    fn flags_follow_the_runtime_and_the_hook_is_told() {
        let under = |signals| Edit { signals, ..with(Interception::Install) };
        let cancel = Signals::Cancel { reason: "an old runtime" };
        for own in [json!(null), json!({"defaultAction": "SCMP_ACT_ERRNO", "flags": ["SECCOMP_FILTER_FLAG_LOG"]})] {
            let spec = json!({"linux": {"seccomp": own}});
            let waiting = edit(&spec, &under(Signals::Wait)).expect("edits").spec;
            assert!(seccomp_flags::waits_killable(&waiting["linux"]["seccomp"]));
            assert_eq!(own_argument(&waiting, NOT_KILLABLE), None);
            assert!(!edit(&waiting, &under(Signals::Wait)).expect("edits").changed, "twice is once");
            let cancelled = edit(&waiting, &under(cancel)).expect("edits").spec;
            assert_eq!(cancelled, edit(&spec, &under(cancel)).expect("edits").spec, "another runtime later");
            assert!(!seccomp_flags::waits_killable(&cancelled["linux"]["seccomp"]));
            assert_eq!(own_argument(&cancelled, NOT_KILLABLE).as_deref(), Some("an old runtime"));
            let off = edit(&waiting, &Edit { interception: Interception::Off, ..under(cancel) }).expect("edits").spec;
            assert_eq!(off["linux"].get("seccomp").and_then(|seccomp| seccomp.get("flags")), own.get("flags"));
            assert_eq!(own_argument(&off, NOT_KILLABLE), None);
        }
    }

    #[test]
    fn own_seccomp_is_remembered() {
        for (text, own) in [
            (r#"{}"#, "none"),
            (r#"{"linux":{"seccomp":null}}"#, "none"),
            (r#"{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_LOG"}}}"#, "SCMP_ACT_LOG"),
        ] {
            let once = edit(&parse(text), &with(Interception::Install)).expect("edits").spec;
            assert_eq!(own_seccomp(&once).as_deref(), Some(own));
            let twice = edit(&once, &with(Interception::Install)).expect("edits").spec;
            assert_eq!(own_seccomp(&twice).as_deref(), Some(own));
        }
    }

    #[test]
    fn the_ground_is_told_to_the_hook_and_the_launcher_comes_and_goes() {
        let spec = parse(r#"{"process":{"args":["sh"],"capabilities":{"bounding":["CAP_KILL"]}},"linux":{}}"#);
        let launcher = Launcher { descriptor: 4, databases: Some(&[]), lend: true, listening: None };
        let reasons = ["because".to_owned()];
        let copy = Some(Path::new("/run/crun/c1/config.json"));
        let seal = Placement { ground: Ground::Seal, reasons: &[], launcher: Some(launcher), runtime_copy: copy };
        let broker = Placement { ground: Ground::Broker, reasons: &reasons, launcher: None, runtime_copy: None };
        let on = |placement| Edit { placement: Some(placement), ..with(Interception::Install) };
        let sealed = edit(&spec, &on(seal)).expect("edits");
        assert!(launcher_edit::is_in(&sealed.spec["process"]));
        let hook = sealed.spec["hooks"]["createRuntime"][0]["args"].to_string();
        assert!(hook.ends_with(r#""--ground","seal","--runtime-copy","/run/crun/c1/config.json"]"#), "{hook}");
        assert!(!edit(&sealed.spec, &on(seal)).expect("edits").changed, "twice is once");
        let brokered = edit(&sealed.spec, &on(broker)).expect("edits").spec;
        assert_eq!(brokered["process"], spec["process"]);
        let hook = brokered["hooks"]["createRuntime"][0]["args"].to_string();
        assert!(hook.ends_with(r#""--ground","broker","--because","because"]"#), "{hook}");
        for interception in [Interception::Off, Interception::Unprotected { reason: "no daemon" }] {
            let off = edit(&sealed.spec, &Edit { placement: Some(seal), ..with(interception) }).expect("edits").spec;
            assert_eq!(off["process"], spec["process"], "nothing is sealed that is not intercepted");
            assert!(!off.to_string().contains("--ground"));
        }
        assert!(edit(&json!({"process": {}}), &on(seal)).is_err());
    }

    #[test]
    fn for_youki_new_privileges_are_left_out_and_come_back() {
        let by_launcher = |interception| Edit { reader: Reader::Youki, ..with(interception) };
        for (own, left_out) in [(json!(false), true), (json!(true), false)] {
            let spec = json!({"process": {"args": ["sh"], "noNewPrivileges": own}, "linux": {}});
            let edited = edit(&spec, &by_launcher(Interception::Install)).expect("edits").spec;
            assert_eq!(edited["process"].get("noNewPrivileges").is_none(), left_out);
            assert!(execs_by_launcher(&edited) && !execs_by_launcher(&spec));
            assert_eq!(super::own(&edited)["process"], spec["process"]);
            assert!(!edit(&edited, &by_launcher(Interception::Install)).expect("edits").changed, "twice is once");
            for other in [by_launcher(Interception::Off), with(Interception::Install)] {
                let back = edit(&edited, &other).expect("edits").spec;
                assert_eq!(back["process"], spec["process"]);
                assert!(!execs_by_launcher(&back));
            }
        }
        let plain = json!({"process": {"args": ["sh"]}, "linux": {}});
        let edited = edit(&plain, &by_launcher(Interception::Install)).expect("edits").spec;
        assert_eq!(super::own(&edited)["process"], plain["process"]);
    }

    #[test]
    fn youki_is_told_the_same_profile_the_other_way_round() {
        let masked = |value: u64, value_two: u64| {
            json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["openat", "clone"],
                "action": "SCMP_ACT_ALLOW", "args": [{"index": 2, "value": value, "valueTwo": value_two, "op": "SCMP_CMP_MASKED_EQ"}]}]}}})
        };
        for unknown_calls in [UnknownCalls::AsProfile, UnknownCalls::Refused] {
            let under = |reader| Edit { reader, unknown_calls, ..with(Interception::Install) };
            let others = edit(&masked(7, 1), &under(Reader::AsSpecified)).expect("edits").spec;
            let youkis = edit(&masked(1, 7), &under(Reader::Youki)).expect("edits").spec;
            assert_ne!(others["linux"], youkis["linux"]);
            assert_eq!(seccomp_as_specified(&youkis), others["linux"]["seccomp"]);
            assert_eq!(seccomp_as_specified(&others), others["linux"]["seccomp"]);
            assert!(!edit(&youkis, &under(Reader::Youki)).expect("edits").changed, "twice is once");
            let off = Edit { interception: Interception::Off, ..under(Reader::Youki) };
            assert_eq!(edit(&youkis, &off).expect("edits").spec["linux"].to_string().matches("NOTIFY").count(), 0);
            let untouched = edit(&masked(9, 7), &off).expect("edits").spec;
            assert_eq!(untouched["linux"], masked(9, 7)["linux"]);
        }
    }

    #[test]
    fn malformed_documents_are_refused() {
        for text in [
            "[]",
            r#"{"hooks":[]}"#,
            r#"{"hooks":{"createRuntime":{}}}"#,
            r#"{"linux":3}"#,
            r#"{"linux":{"seccomp":[]}}"#,
            r#"{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_WHATEVER"}}}"#,
            r#"{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":[1],"action":"SCMP_ACT_ALLOW"}]}}}"#,
        ] {
            let error = edit(&parse(text), &with(Interception::Install)).expect_err(text).to_string();
            assert!(!error.contains('\n') && error.contains("config.json"), "{error}");
        }
    }

    #[test]
    fn a_foreign_listener_is_a_conflict() {
        let text = r#"{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/run/other.sock"}}}"#;
        let error = edit(&parse(text), &with(Interception::Install)).expect_err("conflict");
        assert!(
            matches!(error, EditError::Conflict(Conflict::ForeignListener { ref path }) if path == "/run/other.sock")
        );
        assert!(!edit(&parse(text), &with(Interception::Off)).expect("edits").intercepted);
    }
}

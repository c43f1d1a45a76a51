//! Whether a container is protected as its policy asks, and what follows when it is not. Pure decisions.

use serde_json::Value;

use crate::config::WhenAbsent;
use crate::model::event::Protection;
use crate::model::policy::Applied;
use crate::model::policy::Ground;
use crate::model::policy::Mode;
use crate::model::policy::OnUnprotected;
use crate::model::policy::rule::Landlock;
use crate::model::redact;
use crate::oci::launcher_edit;
use crate::oci::seccomp_flags;
use crate::oci::spec_edit;

/// How the daemon took a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemon {
    /// It has it.
    Registered,
    /// It is not there.
    Absent,
    /// It is there and could not take it.
    Failed,
}

/// What the shim told the hook.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told<'a> {
    /// Why the interception could not be put in place.
    pub unprotected: Option<&'a str>,
    /// Why calls that are being answered do not wait killable.
    pub not_killable: Option<&'a str>,
    /// That they do by the launcher's own listener.
    pub launcher_listens: bool,
    /// On which ground the container's own process was put.
    pub ground: Option<Ground>,
    /// Why not on a better one.
    pub reasons: &'a [String],
}

/// What `spec` says about the interception, against what `applied` asks for.
#[must_use]
pub fn observed(spec: &Value, listener_path: &str, applied: &Applied, told: Told<'_>) -> Protection {
    let listener = spec.pointer("/linux/seccomp/listenerPath").and_then(Value::as_str);
    let intercepted = spec_edit::is_intercepted(spec, listener_path) && has_notify_rule(spec);
    let reason = match (intercepted, told.unprotected, listener) {
        (true, ..) => None,
        (false, ..) if applied.mode == Mode::Off => Some("policy mode is off".to_owned()),
        (false, Some(reason), _) => Some(redact::printable(reason.as_bytes())),
        (false, None, Some(path)) if path == listener_path => {
            Some("config.json names acctguard's listener and has no rule that notifies it".to_owned())
        }
        (false, None, Some(path)) => {
            Some(format!("config.json names another seccomp listener, {}", redact::printable(path.as_bytes())))
        }
        (false, None, None) => Some(
            "config.json has no acctguard listener: the container was not created through acctguard-runtime".to_owned(),
        ),
    };
    let mut reasons: Vec<String> = reason.into_iter().collect();
    let ground = if intercepted { ground(spec, applied, told, &mut reasons) } else { Ground::None };
    let by_launcher = intercepted && told.launcher_listens && spec.get("process").is_some_and(launcher_edit::is_in);
    let by_runtime = || spec.pointer("/linux/seccomp").is_some_and(seccomp_flags::waits_killable);
    let wait_killable = intercepted.then(|| by_launcher || by_runtime());
    let not_told = || "config.json does not set the flag: it was edited by no acctguard-runtime".to_owned();
    let not_killable = told.not_killable.map(|reason| redact::printable(reason.as_bytes()));
    Protection {
        intercepted,
        ground,
        installer: intercepted.then(|| if by_launcher { "launcher" } else { "runtime" }.to_owned()),
        wait_killable,
        not_killable: (wait_killable == Some(false)).then(|| not_killable.unwrap_or_else(not_told)),
        reasons,
    }
}

/// On which ground an intercepted container stands: what the shim put it on, when that can be seen in the document.
fn ground(spec: &Value, applied: &Applied, told: Told<'_>, reasons: &mut Vec<String>) -> Ground {
    reasons.extend(told.reasons.iter().map(|reason| redact::printable(reason.as_bytes())));
    let launched = spec.get("process").is_some_and(launcher_edit::is_in);
    let by_listener = Ground::of_listener(applied.mode);
    match told.ground {
        Some(Ground::Seal) if !launched => {
            reasons.push("not sealed: the launcher is not in config.json any more".to_owned());
            by_listener
        }
        Some(ground @ (Ground::Seal | Ground::Broker | Ground::Notify)) => ground,
        Some(Ground::None) => by_listener,
        None => {
            if by_listener == Ground::Broker && applied.landlock != Landlock::Off {
                reasons.push("not sealed: the container was not created through acctguard-runtime".to_owned());
            }
            by_listener
        }
    }
}

/// Whether the container stands on less than its policy demands (`landlock: required`).
#[must_use]
pub fn lacks_required_seal(applied: &Applied, protection: &Protection) -> bool {
    applied.mode == Mode::Enforce && applied.landlock == Landlock::Required && protection.ground != Ground::Seal
}

fn has_notify_rule(spec: &Value) -> bool {
    let rules = spec.pointer("/linux/seccomp/syscalls").and_then(Value::as_array);
    rules.into_iter().flatten().any(|rule| rule["action"] == "SCMP_ACT_NOTIFY")
}

/// Why the container must not start, for want of protection; `None` lets it.
///
/// * Without interception it starts only when neither the policy (`onUnprotected: refuse`) nor, while the daemon is away, the
///   node (`when_absent = "refuse"`) forbids it. A policy of mode `off` asks for nothing.
/// * With interception and without the seal that `landlock: required` demands, `onUnprotected` decides.
/// * With interception and no daemon it never starts: each intercepted call would fail with ENOSYS (seccomp_unotify(2)).
/// * With interception and a daemon that could not take the registration, the policy decides.
#[must_use]
pub fn refusal(
    applied: &Applied,
    protection: &Protection,
    daemon: Daemon,
    when_absent: Option<WhenAbsent>,
) -> Option<String> {
    let by_policy = format!("policy {} says onUnprotected: refuse", applied.name);
    let cause = || protection.reasons.join("; ");
    match (protection.intercepted, daemon) {
        (true, Daemon::Registered) => (lacks_required_seal(applied, protection)
            && applied.on_unprotected == OnUnprotected::Refuse)
            .then(|| format!("{}; policy {} says landlock: required, onUnprotected: refuse", cause(), applied.name)),
        (true, Daemon::Absent) => {
            Some("its calls are intercepted and nobody would answer them; start acctguard-daemon".to_owned())
        }
        (true, Daemon::Failed) => {
            (applied.on_unprotected == OnUnprotected::Refuse).then(|| format!("{}; {by_policy}", cause()))
        }
        (false, _) if applied.mode == Mode::Off => None,
        (false, _) if applied.on_unprotected == OnUnprotected::Refuse => Some(format!("{}; {by_policy}", cause())),
        (false, Daemon::Absent) if when_absent == Some(WhenAbsent::Refuse) => Some(
            "the daemon is not there and the node says when_absent = \"refuse\"; start acctguard-daemon".to_owned(),
        ),
        (false, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LISTENER: &str = "/run/acctguard/listener.sock";

    fn applied(mode: Mode, on_unprotected: OnUnprotected) -> Applied {
        Applied { mode, on_unprotected, ..Applied::built_in() }
    }

    fn spec(listener: Option<&str>, action: &str) -> Value {
        json!({"linux": {"seccomp": {"listenerPath": listener, "syscalls": [{"names": ["open"], "action": action}]}}})
    }

    #[test]
    fn what_counts_as_intercepted() {
        let audit = applied(Mode::Audit, OnUnprotected::Record);
        for (spec, unprotected, intercepted, words) in [
            (spec(Some(LISTENER), "SCMP_ACT_NOTIFY"), None, true, ""),
            (spec(Some(LISTENER), "SCMP_ACT_ALLOW"), None, false, "no rule"),
            (
                spec(Some("/run/other.sock"), "SCMP_ACT_NOTIFY"),
                None,
                false,
                "another seccomp listener, /run/other.sock",
            ),
            (spec(None, "SCMP_ACT_ALLOW"), None, false, "not created through acctguard-runtime"),
            (json!({}), Some("the daemon\nis away"), false, "the daemon\\nis away"),
            (json!(7), None, false, "no acctguard listener"),
        ] {
            let found = observed(&spec, LISTENER, &audit, Told { unprotected, ..Told::default() });
            assert_eq!(found.intercepted, intercepted, "{spec}");
            assert_eq!(found.ground == Ground::Notify, intercepted);
            let reasons = found.reasons.join("; ").to_lowercase();
            assert!(reasons.contains(words) && reasons.is_empty() == intercepted, "{reasons}");
        }
        let off = observed(&json!({}), LISTENER, &applied(Mode::Off, OnUnprotected::Record), Told::default());
        assert_eq!(off.reasons, ["policy mode is off"]);
    }

    #[test]
    fn the_ground_is_what_the_shim_told_and_the_document_shows() {
        let enforce = applied(Mode::Enforce, OnUnprotected::Refuse);
        let mut sealed = spec(Some(LISTENER), "SCMP_ACT_NOTIFY");
        sealed["process"] = json!({"args": ["/proc/self/fd/3", "--own-descriptor=3", "--", "sh"]});
        let plain = spec(Some(LISTENER), "SCMP_ACT_NOTIFY");
        let reasons = ["not sealed: x".to_owned()];
        for (spec, ground, reasons, expected, words) in [
            (&sealed, Some(Ground::Seal), &[][..], Ground::Seal, ""),
            (&plain, Some(Ground::Seal), &[], Ground::Broker, "not in config.json any more"),
            (&plain, Some(Ground::Broker), &reasons, Ground::Broker, "not sealed: x"),
            (&plain, None, &[], Ground::Broker, "not created through acctguard-runtime"),
        ] {
            let found = observed(spec, LISTENER, &enforce, Told { ground, reasons, ..Told::default() });
            assert_eq!(found.ground, expected, "{ground:?}");
            assert!(found.reasons.join("; ").contains(words), "{:?}", found.reasons);
            assert_eq!(found.reasons.is_empty(), words.is_empty(), "{:?}", found.reasons);
        }
    }

    #[test]
    fn what_signals_do_is_what_the_document_says() {
        let audit = applied(Mode::Audit, OnUnprotected::Record);
        let mut killable = spec(Some(LISTENER), "SCMP_ACT_NOTIFY");
        seccomp_flags::set(&mut killable["linux"]["seccomp"], true);
        let plain = spec(Some(LISTENER), "SCMP_ACT_NOTIFY");
        for (spec, told, expected, words) in [
            (&killable, None, Some(true), None),
            (&plain, Some("an old\nruntime"), Some(false), Some("an old\\nruntime")),
            (&plain, None, Some(false), Some("no acctguard-runtime")),
            (&json!({}), Some("unused"), None, None),
        ] {
            let found = observed(spec, LISTENER, &audit, Told { not_killable: told, ..Told::default() });
            assert_eq!(found.wait_killable, expected, "{spec}");
            let reason = found.not_killable.as_deref();
            assert_eq!(reason.is_some(), words.is_some(), "{reason:?}");
            assert!(words.is_none_or(|words| reason.is_some_and(|reason| reason.contains(words))), "{reason:?}");
        }
    }

    #[test]
    fn a_required_seal_that_is_missing_is_policys_to_judge() {
        let on = |ground| Protection { intercepted: true, ground, ..Protection::default() };
        for (mode, landlock, on_unprotected, ground, refused) in [
            (Mode::Enforce, Landlock::Required, OnUnprotected::Refuse, Ground::Broker, true),
            (Mode::Enforce, Landlock::Required, OnUnprotected::Record, Ground::Broker, false),
            (Mode::Enforce, Landlock::Required, OnUnprotected::Refuse, Ground::Seal, false),
            (Mode::Enforce, Landlock::Preferred, OnUnprotected::Refuse, Ground::Broker, false),
            (Mode::Audit, Landlock::Required, OnUnprotected::Refuse, Ground::Notify, false),
        ] {
            let applied = Applied { landlock, ..applied(mode, on_unprotected) };
            let found = refusal(&applied, &on(ground), Daemon::Registered, None);
            assert_eq!(found.is_some(), refused, "{mode:?} {landlock:?} {on_unprotected:?} {ground:?}");
        }
    }

    #[test]
    fn who_may_start_without_protection() {
        let intercepted = Protection { intercepted: true, ..Protection::default() };
        let bare = Protection { reasons: vec!["no listener".to_owned()], ..Protection::default() };
        let refuse = Some(WhenAbsent::Refuse);
        let start = Some(WhenAbsent::StartUnprotected);
        use OnUnprotected::{Record, Refuse};
        for (mode, on_unprotected, protection, daemon, when_absent, refused) in [
            (Mode::Enforce, Refuse, &intercepted, Daemon::Registered, None, false),
            (Mode::Audit, Record, &intercepted, Daemon::Absent, start, true),
            (Mode::Audit, Record, &intercepted, Daemon::Failed, None, false),
            (Mode::Enforce, Refuse, &intercepted, Daemon::Failed, None, true),
            (Mode::Audit, Record, &bare, Daemon::Registered, None, false),
            (Mode::Audit, Record, &bare, Daemon::Absent, None, false),
            (Mode::Audit, Record, &bare, Daemon::Absent, start, false),
            (Mode::Audit, Record, &bare, Daemon::Absent, refuse, true),
            (Mode::Audit, Record, &bare, Daemon::Registered, refuse, false),
            (Mode::Enforce, Refuse, &bare, Daemon::Registered, start, true),
            (Mode::Enforce, Refuse, &bare, Daemon::Absent, start, true),
            (Mode::Enforce, Record, &bare, Daemon::Absent, start, false),
            (Mode::Off, Record, &bare, Daemon::Absent, refuse, false),
            (Mode::Off, Refuse, &bare, Daemon::Registered, None, false),
        ] {
            let found = refusal(&applied(mode, on_unprotected), protection, daemon, when_absent);
            assert_eq!(
                found.is_some(),
                refused,
                "{mode:?} {on_unprotected:?} intercepted {} {daemon:?} {when_absent:?}: {found:?}",
                protection.intercepted
            );
        }
    }
}

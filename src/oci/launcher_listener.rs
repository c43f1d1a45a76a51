//! The launcher's own listener, for runtimes that cannot have calls wait killable: runc before 1.5.1, or with a libseccomp before 2.6.
//!
//! The runtime installs its filter and its listener as ever, so that exec sessions have theirs. Under the seal the launcher, still
//! alone in the container, asks for that listener to be given up, stacks a filter with a listener of its own on it, flag
//! `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`, and sends that to the daemon. What the kernel does there (kernel/seccomp.c, Linux 6.18;
//! `integration/launcher_listener.rs` has a test):
//! * a task has one listener at most, and that counts open ones only: once the last descriptor of the runtime's is closed
//!   (`seccomp_notify_detach`), `has_duplicate_listener` lets another be made;
//! * of two filters that both say USER_NOTIF the newer one is heard (`seccomp_run_filters`), with its flags;
//! * refusing actions of the older one still win, so the workload's profile holds as it was.
//!
//! The filter must hand over every call that the runtime's does: one that only the older one hands over fails with ENOSYS. So it is
//! compiled of the same rules, by a libseccomp that is not older than the runtime's.
//!
//! The runtime's filter hands over seccomp(2) where it asks for a listener, too. The launcher's call is told from others by its flags
//! ([`FLAGS`]), and let go. So a program in an exec session that asks for a listener with just these gets EBUSY as ever, unseen;
//! everywhere else the launcher's own filter sees it.

use serde_json::Value;
use serde_json::json;

use crate::oci::launcher_words::FLAGS;
use crate::oci::launcher_words::NEW_LISTENER;
use crate::oci::seccomp_condition::Condition;
use crate::oci::seccomp_profile::Action;
use crate::oci::seccomp_profile::Entry;
use crate::oci::seccomp_profile::Profile;
use crate::oci::seccomp_profile::Rule;

/// `listenerMetadata` of a listener that gives way to the launcher's.
pub const METADATA: &str = "acctguard/1 launcher";
/// All flags that kernels know.
const ALL_FLAGS: u64 = 0x3f;
/// Calls that ask for a listener otherwise than by [`FLAGS`], in parts of which no two meet: mask and what is left under it.
const OF_OTHERS: [(u64, u64); 5] = [(0x28, 0x08), (0x2c, 0x28), (0x2d, 0x2d), (0x2f, 0x2e), (ALL_FLAGS, FLAGS | 0x10)];
/// The flags argument of seccomp(2).
const FLAGS_ARGUMENT: u32 = 1;
const CALL: &str = "seccomp";

/// Has a section with the interception in it let the launcher make its listener. Nothing is done a second time.
///
/// # Errors
/// One line that says why this cannot be.
pub fn let_it_listen(section: &mut Value) -> Result<(), String> {
    let involved = || format!("the container's seccomp profile has rules of its own about {CALL}");
    let default = section.get("defaultAction").cloned();
    let entries = section.get_mut("syscalls").and_then(Value::as_array_mut).ok_or_else(involved)?;
    if entries.iter().any(|entry| is_about(entry, own_call())) {
        return Ok(());
    }
    let notified = Condition::masked(FLAGS_ARGUMENT, NEW_LISTENER, NEW_LISTENER);
    let at = entries.iter().position(|entry| is_about(entry, notified)).ok_or_else(involved)?;
    if entries.get(at).is_none_or(|entry| entry["action"] != "SCMP_ACT_NOTIFY") {
        return Err(involved());
    }
    let rest = Condition::masked(FLAGS_ARGUMENT, NEW_LISTENER, 0);
    let mut fresh: Vec<Value> = OF_OTHERS
        .map(|(mask, value)| rule(&json!("SCMP_ACT_NOTIFY"), Condition::masked(FLAGS_ARGUMENT, mask, value)))
        .into();
    let action = entries.iter().find(|entry| is_about(entry, rest)).map(|entry| entry["action"].clone()).or(default);
    let allows =
        action.as_ref().and_then(Value::as_str).and_then(|name| Action::parse(name, None)).is_some_and(Action::allows);
    fresh.push(rule(&action.filter(|_| allows).ok_or_else(involved)?, own_call()));
    entries.splice(at..=at, fresh);
    Ok(())
}

fn own_call() -> Condition {
    Condition::masked(FLAGS_ARGUMENT, ALL_FLAGS, FLAGS)
}

fn rule(action: &Value, condition: Condition) -> Value {
    json!({"names": [CALL], "action": action, "args": [condition.to_json()]})
}

/// Whether an entry is about seccomp(2) alone, under `condition` alone.
fn is_about(entry: &Value, condition: Condition) -> bool {
    entry["names"] == json!([CALL]) && entry["args"] == json!([condition.to_json()])
}

/// The rules of `profile` that hand calls over, and nothing else.
#[must_use]
pub fn notifying(profile: &Profile) -> Profile {
    let condition = Condition::masked(FLAGS_ARGUMENT, NEW_LISTENER, NEW_LISTENER);
    // any program that asks for a listener, by the launcher's flags too
    let asks = Rule { action: Action::Notify, conditions: vec![condition] };
    let mut entries = vec![Entry { names: vec![CALL.to_owned()], rules: vec![asks] }];
    for entry in profile.entries.iter().filter(|entry| entry.names != [CALL]) {
        let rules: Vec<Rule> = entry.rules.iter().filter(|rule| rule.action == Action::Notify).cloned().collect();
        if !rules.is_empty() {
            entries.push(Entry { names: entry.names.clone(), rules });
        }
    }
    Profile { default: Action::Allow, architectures: profile.architectures.clone(), listener_path: None, entries }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::seccomp_closed;
    use crate::oci::seccomp_merge;
    use crate::oci::seccomp_merge::Merge;
    use crate::oci::seccomp_program::Installer;
    use crate::oci::seccomp_proof;
    use crate::oci::seccomp_proof::ARCHITECTURES;
    use crate::oci::seccomp_proof::Call;
    use crate::oci::seccomp_proof::LISTENER;
    use libseccomp::ScmpSyscall;

    /// linux/seccomp.h: what refuses is less, what lets go is more.
    const RET_NOTIFY: u32 = 0x7fc0_0000;

    fn docker() -> Value {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/integration/fixtures/engine-seccomp.json");
        serde_json::from_slice(&std::fs::read(path).expect("read")).expect("JSON")
    }

    fn merged(own: Option<&Value>, closed: bool) -> Value {
        let merge = if closed { seccomp_closed::merge } else { seccomp_merge::merge };
        match merge(own, LISTENER) {
            Ok(Merge::Merged(merged)) => merged.section,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_launchers_filter_hands_over_all_that_the_runtimes_does() {
        let logging = json!({"defaultAction": "SCMP_ACT_LOG", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO"}]});
        for (own, closed) in
            [(None, false), (None, true), (Some(docker()), true), (Some(logging.clone()), false), (Some(logging), true)]
        {
            let before = merged(own.as_ref(), closed);
            let mut section = before.clone();
            let_it_listen(&mut section).expect("it can");
            let once = section.clone();
            let_it_listen(&mut section).expect("it can");
            assert_eq!(once, section, "twice is once");
            let compile = |section: &Value| seccomp_proof::compile(section).expect("compiles");
            let (before, runtimes) = (compile(&before), compile(&section));
            let profile = Profile::parse(&section).expect("parses");
            let own = seccomp_proof::compile_profile(&notifying(&profile), Installer::Launcher).expect("compiles");
            let values = seccomp_proof::interesting(&profile);
            let mut state = 7;
            let asking = ARCHITECTURES.map(|(architecture, name, _)| {
                let number = ScmpSyscall::from_name_by_arch(CALL, name).expect("known").as_raw_syscall();
                (architecture, number)
            });
            for (architecture, asks) in asking {
                let sampled = (0..470).chain(0x4000_0000..0x4000_0000 + 550).flat_map(|number| [number; 20]);
                for number in sampled.chain([asks; 2000]) {
                    let mut arguments: [u64; 6] = std::array::from_fn(|index| {
                        values[index][seccomp_proof::next(&mut state) % values[index].len()]
                    });
                    let asks = asking.contains(&(architecture, number));
                    if asks {
                        arguments[1] = seccomp_proof::next(&mut state) as u64 % 0x80;
                    }
                    let call = Call { number, architecture, arguments };
                    let (was, is, own) = (before.run(&call), runtimes.run(&call), own.run(&call));
                    let what = format!("{number} on {architecture:#x} {arguments:x?}: {was:#x} {is:#x} {own:#x}");
                    if asks && arguments[1] & ALL_FLAGS == FLAGS {
                        // whoever asks like the launcher is heard by the launcher's filter alone
                        assert!(was == RET_NOTIFY && is > RET_NOTIFY && own == RET_NOTIFY, "{what}");
                    } else {
                        assert_eq!(was, is, "{what}");
                        assert!(is < RET_NOTIFY || (is == RET_NOTIFY) == (own == RET_NOTIFY), "{what}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_profile_with_rules_of_its_own_about_the_call_is_left_alone() {
        for rule in [
            json!({"names": ["seccomp"], "action": "SCMP_ACT_ERRNO"}),
            json!({"names": ["seccomp"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}),
        ] {
            let own = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
            let before = merged(Some(&own), true);
            let mut section = before.clone();
            assert!(let_it_listen(&mut section).is_err());
            assert_eq!(before, section);
        }
        assert!(let_it_listen(&mut json!({})).is_err());
    }
}

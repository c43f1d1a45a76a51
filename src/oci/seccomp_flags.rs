//! `linux.seccomp.flags` beside acctguard's listener (runtime-spec config-linux.md, "Seccomp").
//!
//! * `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` (Linux 5.19): no signal but a deadly one cancels a call that is being answered.
//! * Without `flags` runtimes set `SECCOMP_FILTER_FLAG_SPEC_ALLOW` (runc `InitSeccomp`, crun `libcrun_apply_seccomp`), so that is
//!   written out where `flags` is made here.
//! * The kernel refuses `SECCOMP_FILTER_FLAG_TSYNC` beside a listener (seccomp(2), EINVAL), and crun passes it on. It is left
//!   out: only one thread of a runtime's init becomes the workload, and it has the filter anyway.
//!
//! What is added here stands last, the killable wait first of it, so that it can be told from the workload's own.

use serde_json::Value;
use serde_json::json;

/// The flag by which calls wait killable.
pub const WAIT_KILLABLE: &str = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV";
const SPEC_ALLOW: &str = "SECCOMP_FILTER_FLAG_SPEC_ALLOW";
const TSYNC: &str = "SECCOMP_FILTER_FLAG_TSYNC";

/// Whether the calls that a `linux.seccomp` section intercepts wait killable.
#[must_use]
pub fn waits_killable(section: &Value) -> bool {
    let flags = section.get("flags").and_then(Value::as_array);
    flags.into_iter().flatten().any(|flag| flag == WAIT_KILLABLE)
}

/// Sets the flags of a section with acctguard's listener. A `flags` that is no list stays, for the runtime to refuse.
pub fn set(section: &mut Value, killable: bool) {
    take_out(section);
    let Some(object) = section.as_object_mut() else { return };
    let own = object.get_mut("flags").filter(|flags| !flags.is_null());
    match own {
        Some(flags) => {
            let Some(flags) = flags.as_array_mut() else { return };
            flags.retain(|flag| flag != TSYNC);
            if killable {
                flags.push(Value::from(WAIT_KILLABLE));
            }
        }
        None if killable => {
            object.insert("flags".to_owned(), json!([WAIT_KILLABLE, SPEC_ALLOW]));
        }
        None => {}
    }
}

/// Takes out what [`set`] added.
pub fn take_out(section: &mut Value) {
    let Some(object) = section.as_object_mut() else { return };
    let Some(flags) = object.get_mut("flags").and_then(Value::as_array_mut) else { return };
    let Some(position) = flags.iter().position(|flag| flag == WAIT_KILLABLE) else { return };
    let made_here = position == 0 && flags.get(1).is_some_and(|flag| flag == SPEC_ALLOW);
    flags.truncate(position);
    if made_here {
        object.shift_remove("flags");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_and_go_and_twice_is_once() {
        for (own, expected) in [
            (json!({}), json!({"flags": [WAIT_KILLABLE, SPEC_ALLOW]})),
            (json!({"flags": []}), json!({"flags": [WAIT_KILLABLE]})),
            (
                json!({"flags": ["SECCOMP_FILTER_FLAG_LOG", SPEC_ALLOW]}),
                json!({"flags": ["SECCOMP_FILTER_FLAG_LOG", SPEC_ALLOW, WAIT_KILLABLE]}),
            ),
            (json!({"flags": "text"}), json!({"flags": "text"})),
        ] {
            let mut section = own.clone();
            set(&mut section, true);
            assert_eq!(section, expected);
            set(&mut section, true);
            assert_eq!(section, expected, "twice is once");
            assert_eq!(waits_killable(&section), own["flags"] != "text");
            take_out(&mut section);
            assert_eq!(section, own);
            set(&mut section, false);
            assert_eq!(section, own, "nothing is added where calls do not wait killable");
        }
    }

    #[test]
    fn what_the_kernel_refuses_beside_a_listener_is_left_out() {
        for (own, killable, expected) in
            [(json!([TSYNC]), false, json!([])), (json!([SPEC_ALLOW, TSYNC]), true, json!([SPEC_ALLOW, WAIT_KILLABLE]))]
        {
            let mut section = json!({"flags": own});
            set(&mut section, killable);
            assert_eq!(section["flags"], expected);
        }
    }
}

//! How youki reads a `linux.seccomp` section (0.7.0, libcontainer src/seccomp/mod.rs): of `SCMP_CMP_MASKED_EQ` it takes `valueTwo` for the
//! mask and `value` for what must be left, the other way round than runtime-spec config-linux.md and every other runtime. libseccomp
//! takes off the value what the mask does not have (`_db_node_mask_fixup`).
//!
//! So a section is put into words of the specification before it is edited, and back after it: the workload's own rules go on to mean
//! to youki what they meant to it.

use serde_json::Value;

/// Has `section`, as youki reads it, say the same in words of the specification.
pub fn to_specification(section: &mut Value) {
    for_each_mask(section, |value, value_two| (value_two, value & value_two));
}

/// Has `section`, in words of the specification, say the same to youki.
pub fn from_specification(section: &mut Value) {
    for_each_mask(section, |value, value_two| (value_two, value));
}

fn for_each_mask(section: &mut Value, change: impl Fn(u64, u64) -> (u64, u64)) {
    let calls = section.get_mut("syscalls").and_then(Value::as_array_mut).into_iter().flatten();
    let arguments = calls.filter_map(|call| call.get_mut("args").and_then(Value::as_array_mut)).flatten();
    for argument in arguments.filter(|argument| argument["op"] == "SCMP_CMP_MASKED_EQ") {
        // what is no number is refused when the section is parsed
        let number = |key: &str| argument.get(key).map_or(Some(0), Value::as_u64);
        let (Some(value), Some(value_two)) = (number("value"), number("valueTwo")) else { continue };
        let (value, value_two) = change(value, value_two);
        argument["value"] = value.into();
        argument["valueTwo"] = value_two.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::seccomp_condition::Condition;
    use proptest::prelude::*;
    use serde_json::json;

    fn section(value: u64, value_two: u64) -> Value {
        json!({"syscalls": [{"names": ["openat"], "action": "SCMP_ACT_NOTIFY", "args":
            [{"index": 2, "value": value, "valueTwo": value_two, "op": "SCMP_CMP_MASKED_EQ"}, {"index": 0, "value": 7, "op": "SCMP_CMP_EQ"}]}]})
    }

    fn mask(section: &Value) -> (u64, u64) {
        let argument = &section["syscalls"][0]["args"][0];
        (argument["value"].as_u64().expect("number"), argument["valueTwo"].as_u64().expect("number"))
    }

    proptest! {
        #[test]
        fn what_youki_matches_is_what_the_specification_then_says(value: u64, value_two: u64, argument: u64) {
            let mut specified = section(value, value_two);
            to_specification(&mut specified);
            let (mask_said, left) = mask(&specified);
            prop_assert_eq!(argument & value_two == value & value_two, Condition::masked(2, mask_said, left).holds(&[argument; 6]));
            let mut back = specified.clone();
            from_specification(&mut back);
            prop_assert_eq!(mask(&back), (value & value_two, value_two));
            to_specification(&mut back);
            prop_assert_eq!(back, specified);
        }
    }

    #[test]
    fn other_comparisons_and_what_is_no_section_stay() {
        let mut changed = section(1, 3);
        to_specification(&mut changed);
        assert_eq!(mask(&changed), (3, 1));
        assert_eq!(changed["syscalls"][0]["args"][1], section(1, 3)["syscalls"][0]["args"][1]);
        for mut odd in [
            json!(null),
            json!({"syscalls": {}}),
            json!({"syscalls": [{"args": [{"op": "SCMP_CMP_MASKED_EQ", "value": "x"}]}]}),
        ] {
            let before = odd.clone();
            to_specification(&mut odd);
            assert_eq!(odd, before);
        }
    }
}

//! What a runtime says that it can do: `RUNTIME features` (runtime-spec features.md), or its version where it is older than that command.

use serde_json::Value;

use crate::oci::seccomp_flags::WAIT_KILLABLE;

/// crun passed the flag to the kernel (September 2022) before it had `features` (1.8.6): the oldest release that was tried.
const FIRST_CRUN: [u32; 3] = [1, 8, 1];

const ANNOTATIONS: &str = "annotations";
/// Told by crun (crun `libcrun_container_get_features`).
const CRUN_VERSION: &str = "run.oci.crun.version";
/// Told by runc (runc `features.go`).
const LIBSECCOMP: &str = "io.github.seccomp.libseccomp.version";

/// Whether a runtime whose `features` printed `text` sets [`WAIT_KILLABLE`] when it is told to.
///
/// `supportedFlags` are those that also the kernel and the runtime's libseccomp have; a runtime that does not tell them is taken at
/// its `knownFlags` (features-linux.md, "Seccomp"). crun's features list no flags at all (1.21, 1.28), and are taken at its version: it
/// hands the flag to the kernel itself, whatever its libseccomp.
///
/// # Errors
/// One line that says why not.
pub fn waits_killable(text: &str) -> Result<(), String> {
    let features: Value =
        serde_json::from_str(text).map_err(|_| "the runtime's features are not JSON: is it too old for them?")?;
    let seccomp = &features["linux"]["seccomp"];
    let Some(flags) = ["supportedFlags", "knownFlags"].iter().find_map(|key| seccomp[*key].as_array()) else {
        let of_crun = features[ANNOTATIONS][CRUN_VERSION].as_str().and_then(version);
        let sets = seccomp["enabled"] == true && of_crun.is_some_and(|version| version >= FIRST_CRUN);
        return if sets { Ok(()) } else { Err("the runtime's features list no seccomp flags".to_owned()) };
    };
    if flags.iter().any(|flag| flag == WAIT_KILLABLE) {
        Ok(())
    } else {
        Err(format!("the runtime's features do not list {WAIT_KILLABLE}{}", libseccomp(&features)))
    }
}

/// The version of the runtime's libseccomp, which the flag needs from 2.6 on.
fn libseccomp(features: &Value) -> String {
    let version = features[ANNOTATIONS][LIBSECCOMP].as_str();
    version.map_or_else(String::new, |version| format!(" (its libseccomp is {})", version.escape_default()))
}

/// The version of the libseccomp of a runtime whose `features` printed `text`, where it tells.
#[must_use]
pub fn libseccomp_version(text: &str) -> Option<[u32; 3]> {
    let features: Value = serde_json::from_str(text).ok()?;
    version(features[ANNOTATIONS][LIBSECCOMP].as_str()?)
}

/// Whether the features carry annotations, in which runc and crun say who they are.
#[must_use]
pub fn has_annotations(text: &str) -> bool {
    let features = serde_json::from_str::<Value>(text).unwrap_or_default();
    features[ANNOTATIONS].as_object().is_some_and(|annotations| !annotations.is_empty())
}

/// The version of the youki that printed `text` for `--version`; zeros where that holds none.
#[must_use]
pub fn youki_version(text: &str) -> Option<[u32; 3]> {
    let mut words = text.lines().next()?.split_whitespace();
    let is_youki = words.next() == Some("youki");
    is_youki.then(|| words.find_map(version).unwrap_or_default())
}

/// The version of youki's libseccomp by the same text: youki says it there and not in its features (0.7.0).
#[must_use]
pub fn libseccomp_version_of_youki(text: &str) -> Option<[u32; 3]> {
    let line = text.lines().find_map(|line| line.strip_prefix("libseccomp:"))?;
    version(line.trim()).filter(|_| youki_version(text).is_some())
}

/// The same by what `--version` printed, of a runtime that has no `features`.
///
/// # Errors
/// One line that says why not.
pub fn version_waits_killable(text: &str) -> Result<(), String> {
    let words = text.lines().next().unwrap_or_default();
    let version = words.strip_prefix("crun version ").and_then(version).filter(|version| *version >= FIRST_CRUN);
    version.map(|_| ()).ok_or_else(|| "the runtime does not tell its features".to_owned())
}

/// `1.8.1` and `1.14.1-dirty` as numbers; a missing last one is 0.
fn version(text: &str) -> Option<[u32; 3]> {
    let text = text.split(|letter: char| letter != '.' && !letter.is_ascii_digit()).next()?;
    let mut parts = text.split('.').map(|part| part.parse().ok());
    Some([parts.next()??, parts.next()??, parts.next().unwrap_or(Some(0))?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_list_the_flag_or_say_why_not() {
        for (text, expected) in [
            (r#"{"linux":{"seccomp":{"supportedFlags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}}}"#, Ok(())),
            (r#"{"linux":{"seccomp":{"knownFlags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}}}"#, Ok(())),
            (
                r#"{"linux":{"seccomp":{"knownFlags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],"supportedFlags":["SECCOMP_FILTER_FLAG_LOG"]}},
                    "annotations":{"io.github.seccomp.libseccomp.version":"2.5.4"}}"#,
                Err("do not list SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (its libseccomp is 2.5.4)"),
            ),
            (r#"{"linux":{"seccomp":{"enabled":true}}}"#, Err("list no seccomp flags")),
            (
                r#"{"linux":{"seccomp":{"enabled":true,"actions":["SCMP_ACT_NOTIFY"]}},"annotations":{"run.oci.crun.version":"1.28"}}"#,
                Ok(()),
            ),
            (
                r#"{"linux":{"seccomp":{"enabled":false}},"annotations":{"run.oci.crun.version":"1.28"}}"#,
                Err("list no seccomp flags"),
            ),
            (
                r#"{"linux":{"seccomp":{"enabled":true}},"annotations":{"run.oci.crun.version":"0.17"}}"#,
                Err("list no seccomp flags"),
            ),
            (
                r#"{"linux":{"seccomp":{"enabled":true,"knownFlags":[]}},"annotations":{"run.oci.crun.version":"1.99"}}"#,
                Err("do not list"),
            ),
            (r#"[]"#, Err("list no seccomp flags")),
            ("unknown command features\n", Err("not JSON")),
            ("", Err("not JSON")),
        ] {
            let found = waits_killable(text);
            match (&found, expected) {
                (Ok(()), Ok(())) => {}
                (Err(reason), Err(words)) => assert!(reason.contains(words) && !reason.contains('\n'), "{reason}"),
                _ => panic!("{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn of_versions_only_those_of_crun_that_were_tried_count() {
        for (text, expected) in [
            ("crun version 1.8.1\ncommit: f8a0\n", true),
            ("crun version 1.14.1-dirty\n", true),
            ("crun version 2.0", true),
            ("crun version 1.8\n", false),
            ("crun version 0.17\n", false),
            ("crun version x.y\n", false),
            ("runc version 1.1.5+ds1\n", false),
            ("", false),
        ] {
            assert_eq!(version_waits_killable(text).is_ok(), expected, "{text}");
        }
    }
}

//! What every input must hold to, whatever its bytes: one file a parser. libFuzzer runs them (`integration/fuzz/run`), and a test
//! runs them over the corpus (`integration/fuzz_corpus.rs`).

mod accounts;
mod audit_records;
mod command_lines;
mod config_edit;
mod configuration;
mod containerd_answers;
mod control_messages;
mod decoding;
mod fanotify_events;
mod hand_over;
mod nri;
mod paths;
mod redaction;
mod seccomp_profiles;
mod states;

/// A target: its name, which is that of its folder under `corpus`, and what must not panic.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("accounts", accounts::check),
    ("audit_records", audit_records::check),
    ("command_lines", command_lines::check),
    ("config_edit", config_edit::check),
    ("configuration", configuration::check),
    ("containerd_answers", containerd_answers::check),
    ("control_messages", control_messages::check),
    ("decoding", decoding::check),
    ("fanotify_events", fanotify_events::check),
    ("hand_over", hand_over::check),
    ("nri", nri::check),
    ("paths", paths::check),
    ("redaction", redaction::check),
    ("seccomp_profiles", seccomp_profiles::check),
    ("states", states::check),
];

/// Text of a container's, once it is fit to be shown: nothing that a terminal or a line-based log acts on.
#[track_caller]
pub fn assert_shown_safely(text: &str) {
    let deceptive = |character: char| {
        character.is_control() || "\u{200b}\u{2028}\u{2029}\u{202e}\u{2066}\u{feff}".contains(character)
    };
    assert!(!text.contains(deceptive), "{text:?}");
}

/// How often `part` stands in `whole`.
pub fn occurrences(whole: &[u8], part: &[u8]) -> usize {
    if part.is_empty() { 0 } else { whole.windows(part.len()).filter(|window| *window == part).count() }
}

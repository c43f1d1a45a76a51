//! A few techniques of each kind, so that every run of the tests sees them; `integration/evasion/run` carries out all.

use std::collections::BTreeSet;
use std::process::Command;

use super::judgement::Question;
use super::lane::Lane;
use super::technique::{Means, Technique, all, techniques_program};
use crate::harness::node::Runtime;

const SELECTED: [&str; 9] = [
    "proc-self-fd",
    "upper-halves",
    "int80-rename",
    "hard-link-of-descriptor",
    "unnamed-file",
    "move-mount",
    "thread-with-own-descriptors",
    "ptrace",
    "second-containers-volume",
];

/// Carries out what is selected and asserts that all of it is right.
fn check(runtime: Runtime, question: Question) {
    let techniques: Vec<Technique> = all().filter(|technique| SELECTED.contains(&technique.name)).collect();
    assert_eq!(techniques.len(), SELECTED.len(), "a name in the selection is no technique's");
    let judged = Lane { runtime, question }.run(&techniques);
    let misses: Vec<String> = judged
        .iter()
        .filter(|(_, judgement)| !judgement.right)
        .map(|(trial, judgement)| {
            format!("{} by {}: {}: {}", trial.technique.name, trial.entry.name(), judgement.word, judgement.detail)
        })
        .collect();
    assert!(misses.is_empty(), "{}", misses.join("\n"));
    for (trial, judgement) in &judged {
        assert_eq!(judgement.ground.is_empty(), question == Question::Control, "ground of {}", trial.technique.name);
    }
}

macro_rules! each_question {
    ($($name:ident: $runtime:ident $question:ident;)*) => {
        $(#[test]
        fn $name() {
            check(Runtime::$runtime, Question::$question);
        })*
    };
}

each_question! {
    runc_changes_without_acctguard: Runc Control;
    crun_changes_without_acctguard: Crun Control;
    runc_finds_evasions_in_audit: Runc Audit;
    crun_finds_evasions_in_audit: Crun Audit;
    runc_blocks_evasions_in_enforce: Runc Enforce;
    crun_blocks_evasions_in_enforce: Crun Enforce;
}

/// The table and the program name the same techniques; the parts of accomplices are none. And no name stands twice.
#[test]
fn the_table_names_what_the_program_can() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let program = folder.path().join("evasion");
    std::fs::write(&program, techniques_program()).expect("write the program");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).expect("set mode");
    let output = Command::new(&program).arg("names").output().expect("run the program");
    let text = String::from_utf8(output.stdout).expect("names");
    let known: BTreeSet<&str> = text.lines().filter(|name| !name.starts_with("accomplice-")).collect();
    let techniques: Vec<Technique> = all().collect();
    let tabled: BTreeSet<&str> = techniques
        .iter()
        .filter(|technique| technique.means == Means::Program)
        .map(|technique| technique.name)
        .collect();
    assert_eq!(known, tabled);
    let names: BTreeSet<&str> = techniques.iter().map(|technique| technique.name).collect();
    assert_eq!(names.len(), techniques.len(), "a name stands twice");
    assert!(names.len() >= 60, "only {} techniques", names.len());
}

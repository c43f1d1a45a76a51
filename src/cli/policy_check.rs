//! `acctguard policy check [FILE…]`: are the policies valid, and what is worth knowing about them.

use std::io;
use std::io::Write;
use std::path::PathBuf;

use crate::config::Config;
use crate::config::findings;
use crate::config::findings::Checked;

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All documents can be used: exit 0.
    Valid,
    /// At least one mistake: exit 78 (configuration).
    Invalid,
}

/// Checks `files`, or the node's configuration and policy folder when there are none, and writes an `ok` line for each
/// document, a `note` for what is worth knowing, and every mistake with its line and a caret. The daemon's start-up runs
/// the same check ([`crate::config::check`]).
///
/// # Errors
/// Writing to `out` failed.
pub fn check(files: &[PathBuf], config: &Config, out: &mut dyn Write) -> io::Result<Outcome> {
    let checked = if files.is_empty() { findings::check(config) } else { findings::check_policies(files) };
    for document in &checked.policies.documents {
        let mode = document.mode.as_str();
        writeln!(out, "ok {} ({mode}) {}:{}", document.name, document.file, document.line)?;
    }
    if files.is_empty() && checked.policies.documents.is_empty() && checked.is_usable() {
        let folder = config.policy_dir.display();
        writeln!(out, "ok no policy documents in {folder}; the built-in audit default holds for every container")?;
    }
    write_findings(&checked, out)?;
    Ok(if checked.is_usable() { Outcome::Valid } else { Outcome::Invalid })
}

fn write_findings(checked: &Checked, out: &mut dyn Write) -> io::Result<()> {
    for finding in &checked.findings {
        let word = if finding.is_error() { "error" } else { "note" };
        writeln!(out, "{word}: {}", finding.diagnostic())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str =
        "apiVersion: acctguard.io/v1alpha1\nkind: AccountPolicy\nmetadata: {name: p}\nspec:\n  mode: audit\n";

    fn run(text: &str) -> (Outcome, String) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.yaml");
        std::fs::write(&file, text).unwrap();
        let mut out = Vec::new();
        let outcome = check(&[file], &Config::defaults(), &mut out).unwrap();
        let shown = String::from_utf8(out).unwrap();
        (outcome, shown.replace(&format!("{}/", folder.path().display()), ""))
    }

    #[test]
    fn documents_and_mistakes_are_listed() {
        assert_eq!(run(POLICY), (Outcome::Valid, "ok p (audit) p.yaml:1\n".to_owned()));
        let (outcome, shown) = run(&POLICY.replace("audit", "loud"));
        assert_eq!(outcome, Outcome::Invalid);
        assert!(shown.starts_with("error: p.yaml:5:9: "), "{shown}");
        assert!(shown.ends_with("\n    mode: loud\n          ^\n"), "{shown}");
        let (outcome, shown) = run(&format!("{POLICY}  allow: [{{reason: r}}]\n"));
        assert_eq!(outcome, Outcome::Valid);
        assert!(shown.contains("\nnote: p.yaml:1: policy p: allow is not in force"), "{shown}");
    }

    #[test]
    fn without_files_the_folder_of_the_configuration_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { policy_dir: folder.path().join("none"), ..Config::defaults() };
        let mut out = Vec::new();
        assert_eq!(check(&[], &config, &mut out).unwrap(), Outcome::Valid);
        assert!(String::from_utf8(out).unwrap().contains("built-in audit default"));
    }
}

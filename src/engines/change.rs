//! A change of one path, and how people are shown it.

use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;
use similar::TextDiff;

use crate::engines::view::State;

/// What is to be at a path instead of what is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Where.
    pub path: PathBuf,
    /// What was there.
    pub before: State,
    /// What is to be there.
    pub after: State,
}

impl Change {
    /// The same change backwards.
    #[must_use]
    pub fn backwards(&self) -> Self {
        Self { path: self.path.clone(), before: self.after.clone(), after: self.before.clone() }
    }

    /// As `diff -u` shows it; links and folders as a line.
    #[must_use]
    pub fn diff(&self) -> String {
        let path = self.path.display();
        let text = |state: &State| match state {
            State::File { text, .. } => Some(text.clone()),
            State::Absent => Some(String::new()),
            State::Link { .. } | State::Folder => None,
        };
        match (&self.before, &self.after) {
            (_, State::Link { target }) => format!("+ link {path} -> {}\n", target.display()),
            (State::Link { target }, _) => format!("- link {path} -> {}\n", target.display()),
            (_, State::Folder) => format!("+ folder {path}\n"),
            (State::Folder, _) => format!("- folder {path}\n"),
            (before, after) => {
                let (old, new) = (text(before).unwrap_or_default(), text(after).unwrap_or_default());
                let name = |state: &State| match state {
                    State::Absent => "/dev/null".to_owned(),
                    _ => path.to_string(),
                };
                let difference = TextDiff::from_lines(&old, &new);
                difference.unified_diff().context_radius(3).header(&name(before), &name(after)).to_string()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> State {
        State::new_file(text.to_owned())
    }

    #[test]
    fn a_change_is_shown_as_diff_does() {
        let change = |before: State, after: State| Change { path: "/e/f".into(), before, after };
        let edited = change(file("a\nb\nc\n"), file("a\nB\nc\n")).diff();
        assert_eq!(edited, "--- /e/f\n+++ /e/f\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n");
        let made = change(State::Absent, file("a\n")).diff();
        assert_eq!(made, "--- /dev/null\n+++ /e/f\n@@ -0,0 +1 @@\n+a\n");
        let link = change(State::Absent, State::Link { target: "/t".into() });
        assert_eq!(link.diff(), "+ link /e/f -> /t\n");
        assert_eq!(link.backwards().diff(), "- link /e/f -> /t\n");
    }
}

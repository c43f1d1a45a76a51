//! The parts of a policy document, as validated values.

use std::fmt;
use std::time::Duration;

use globset::GlobBuilder;
use globset::GlobMatcher;

use crate::model::database_path::DatabasePath;
use crate::model::policy::Mode;
use crate::model::policy::OnUnprotected;

/// A pattern of a policy: `*` and `?` match any characters, `/` among them, `[…]` a set, `{a,b}` alternatives.
#[derive(Clone)]
pub struct Pattern {
    matcher: GlobMatcher,
}

/// A text that is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It would match nothing.
    #[error("the pattern is empty and would match nothing; remove it or write \"*\"")]
    Empty,
    /// It is malformed.
    #[error("pattern {pattern:?} is malformed: {reason}")]
    Malformed {
        /// The pattern.
        pattern: String,
        /// Why.
        reason: String,
    },
}

impl Pattern {
    /// Compiles `pattern`.
    ///
    /// # Errors
    /// [`PatternError`] when it is empty or malformed.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        if pattern.is_empty() {
            return Err(PatternError::Empty);
        }
        let glob = GlobBuilder::new(pattern).literal_separator(false).backslash_escape(true).build();
        match glob {
            Ok(glob) => Ok(Self { matcher: glob.compile_matcher() }),
            Err(error) => {
                Err(PatternError::Malformed { pattern: pattern.to_owned(), reason: error.kind().to_string() })
            }
        }
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.matcher.glob().glob()
    }

    /// Whether the whole of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.matcher.is_match(text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Pattern({:?})", self.as_str())
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Pattern {}

/// `spec.match`: what a workload must be for the document to decide. All given must hold; lists are alternatives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MatchRule {
    /// Namespaces of Kubernetes pods.
    pub namespaces: Option<Vec<Pattern>>,
    /// Images, as name, name:tag, name@digest or name:tag@digest.
    pub images: Option<Vec<Pattern>>,
    /// Names of pods.
    pub pods: Option<Vec<Pattern>>,
    /// Names of containers, or their ids where they have no name.
    pub containers: Option<Vec<Pattern>>,
    /// Engines: `containerd`, `cri-o`, `podman`, `docker`, `none`.
    pub engines: Option<Vec<Pattern>>,
    /// Clusters, as the node's configuration names them.
    pub clusters: Option<Vec<Pattern>>,
    /// Annotations of the bundle: each key must be there with a value that matches.
    pub annotations: Vec<(String, Pattern)>,
    /// Whether the container is privileged.
    pub privileged: Option<bool>,
}

/// `spec.landlock`: the seal of the container's own process tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Landlock {
    /// Without the seal the container counts as unprotected.
    Required,
    /// Sealed where the kernel can; without it the listener decides alone. The default.
    #[default]
    Preferred,
    /// Not sealed.
    Off,
}

/// `spec.exec`: how processes that enter by exec are held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecSessions {
    /// The listener decides; the session can look into the container's processes. The default.
    #[default]
    Brokered,
    /// Sealed like the container itself.
    Sealed,
}

/// Which uid an exception is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UidRule {
    /// The uid that the container's process runs as.
    OwnUid,
    /// From the first to the last, both included; holds 0 only when both are 0.
    Range {
        /// First.
        first: u32,
        /// Last.
        last: u32,
    },
    /// Any but 0: nothing was said.
    AnyButZero,
}

/// One entry of `spec.allow`: an exception from enforce. Parsed and validated; what it allows is decided by a later
/// version, until then an enforcing policy refuses what it names as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowRule {
    /// Why it exists.
    pub reason: String,
    /// Names of the accounts; `None` for any.
    pub names: Option<Vec<Pattern>>,
    /// Uid of the accounts.
    pub uid: UidRule,
    /// Kinds of change, in the words of [`crate::model::account::diff::KINDS`]; `None` for any.
    pub changes: Option<Vec<String>>,
    /// Programs or scripts that may do it, absolute paths; `None` for any.
    pub by: Option<Vec<String>>,
    /// How long after the container's start; `None` for always.
    pub within: Option<Duration>,
}

/// `creation.onUnexpected`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnexpected {
    /// The creation is recorded as unexpected. The default.
    #[default]
    Record,
    /// It is refused.
    Refuse,
}

/// `spec.creation`: what is expected of a new container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreationRule {
    /// Images that are expected; `None` for any.
    pub images: Option<Vec<Pattern>>,
    /// Creators that are expected (user or login name, `uid:N`, service account, principal); `None` for any.
    pub creators: Option<Vec<Pattern>>,
    /// What happens to others.
    pub on_unexpected: OnUnexpected,
}

/// One policy document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyDocument {
    /// File it stands in, as it was named to the parser.
    pub file: String,
    /// Line on which the document begins, from 1.
    pub line: usize,
    /// `metadata.name`.
    pub name: String,
    /// SHA-256 of the document's text, `sha256:<hex>`.
    pub digest: String,
    /// `spec.match`.
    pub matching: MatchRule,
    /// `spec.mode`.
    pub mode: Mode,
    /// `spec.landlock`.
    pub landlock: Landlock,
    /// `spec.exec`.
    pub exec: ExecSessions,
    /// `spec.onUnprotected`; `None` leaves it to the mode.
    pub on_unprotected: Option<OnUnprotected>,
    /// `spec.databases`: beyond the built-in ones.
    pub databases: Vec<DatabasePath>,
    /// `spec.allow`.
    pub allow: Vec<AllowRule>,
    /// `spec.creation`.
    pub creation: Option<CreationRule>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cross_slashes_and_match_the_whole_text() {
        for (pattern, text, expected) in [
            ("prod-*", "prod-eu", true),
            ("prod-*", "my-prod-eu", false),
            ("registry.example/*", "registry.example/team/app", true),
            ("registry.example/*@sha256:*", "registry.example/team/app@sha256:0123", true),
            ("registry.example/*@sha256:*", "registry.example/team/app:1.0", false),
            ("system:serviceaccount:ci:*", "system:serviceaccount:ci:builder", true),
            ("{a,b}", "b", true),
            ("*", "", true),
            ("app.v1", "appxv1", false),
        ] {
            assert_eq!(Pattern::new(pattern).unwrap().matches(text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn malformed_patterns_are_errors() {
        assert_eq!(Pattern::new(""), Err(PatternError::Empty));
        for pattern in ["[a", "{a", "a\\"] {
            assert!(matches!(Pattern::new(pattern), Err(PatternError::Malformed { .. })), "{pattern}");
        }
    }
}

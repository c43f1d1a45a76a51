//! What a workload may do to its accounts: the policy documents, which of them applies, and what it decides.
//!
//! Pure: callers pass text and get values. Reading the files is `config`'s.
//! Failing open or closed is decided here and nowhere else (see [`decide`]).

use crate::model::database_path::DatabasePath;
use crate::model::event::PolicyReference;
use crate::model::policy::matching::Mismatch;
use crate::model::policy::rule::AllowRule;
use crate::model::policy::rule::CreationRule;
use crate::model::policy::rule::ExecSessions;
use crate::model::policy::rule::Landlock;
use crate::model::policy::rule::PolicyDocument;
use crate::model::workload::Workload;

pub use ground::Ground;

pub mod decide;
pub mod ground;
pub mod matching;
pub mod parse;
pub mod rule;
pub mod schema;

/// `spec.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Not watched; creations are recorded all the same.
    Off,
    /// Watched and recorded, never refused.
    Audit,
    /// Changes that policy does not allow are refused with EPERM.
    Enforce,
}

impl Mode {
    /// The mode of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Off, Self::Audit, Self::Enforce].into_iter().find(|mode| mode.as_str() == word)
    }

    /// The word of the policy document.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Audit => "audit",
            Self::Enforce => "enforce",
        }
    }
}

/// `spec.onUnprotected`: what happens to a container whose protection cannot be put in place.
/// Default: `refuse` in enforce, `record` otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnprotected {
    /// It is not created.
    Refuse,
    /// It is created and recorded as unprotected.
    Record,
}

impl OnUnprotected {
    /// What holds when the document does not say.
    #[must_use]
    pub const fn default_for(mode: Mode) -> Self {
        match mode {
            Mode::Enforce => Self::Refuse,
            Mode::Off | Mode::Audit => Self::Record,
        }
    }
}

/// The policy that applies to one workload: the outcome of matching.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// `metadata.name`; `built-in` for the default that ends every list.
    pub name: String,
    /// SHA-256 of the document's text, `sha256:<hex>`.
    pub digest: String,
    /// The mode in force, after a pod's own annotation tightened it.
    pub mode: Mode,
    /// `mode`, or `annotation acctguard.io/mode` where that tightened it.
    pub mode_source: &'static str,
    /// What to do when the protection cannot be put in place.
    pub on_unprotected: OnUnprotected,
    /// All databases protected: the built-in ones and the document's.
    pub databases: Vec<DatabasePath>,
    /// What is expected of a new container; `None` when the document says nothing.
    pub creation: Option<CreationRule>,
    /// The seal of the container's own process tree.
    pub landlock: Landlock,
    /// How exec sessions are held.
    pub exec: ExecSessions,
    /// Exceptions; validated, not yet decided (see [`decide`]).
    pub allow: Vec<AllowRule>,
    /// The value of a pod's annotation [`MODE_ANNOTATION`] that is no mode and was therefore passed over.
    pub ignored_annotation: Option<String>,
}

/// A pod's own annotation: may tighten the mode (off < audit < enforce), never loosen it.
pub const MODE_ANNOTATION: &str = "acctguard.io/mode";

/// Name of the default that ends every list.
pub const BUILT_IN_NAME: &str = "built-in";

/// What [`BUILT_IN_NAME`] says, as a document; its digest is that of this text.
const BUILT_IN_TEXT: &str =
    "apiVersion: acctguard.io/v1alpha1\nkind: AccountPolicy\nmetadata: {name: built-in}\nspec: {mode: audit}\n";

/// All policy documents of a node, in the order in which they are tried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicySet {
    /// The documents; the built-in default that ends the list is not among them.
    pub documents: Vec<PolicyDocument>,
}

impl PolicySet {
    /// The policy for `workload`: the first document that matches, else the built-in audit default.
    #[must_use]
    pub fn apply(&self, workload: &Workload) -> Applied {
        let document = self.documents.iter().find(|document| document.matching.mismatch(workload).is_none());
        let mut applied = document.map_or_else(Applied::built_in, Applied::of_document).tightened(workload);
        let said = document.and_then(|document| document.on_unprotected);
        applied.on_unprotected = said.unwrap_or(OnUnprotected::default_for(applied.mode));
        applied
    }

    /// Every document that comes before the one that decides, with the condition that keeps it from matching, and the
    /// document that decides, when it is not the built-in default.
    #[must_use]
    pub fn trace(&self, workload: &Workload) -> (Vec<(&PolicyDocument, Mismatch)>, Option<&PolicyDocument>) {
        let mut passed = Vec::new();
        for document in &self.documents {
            match document.matching.mismatch(workload) {
                Some(mismatch) => passed.push((document, mismatch)),
                None => return (passed, Some(document)),
            }
        }
        (passed, None)
    }
}

impl Applied {
    /// The audit default that ends every list.
    #[must_use]
    pub fn built_in() -> Self {
        Self {
            name: BUILT_IN_NAME.to_owned(),
            digest: parse::digest(BUILT_IN_TEXT),
            mode: Mode::Audit,
            mode_source: "mode",
            on_unprotected: OnUnprotected::Record,
            databases: DatabasePath::BUILT_IN.iter().filter_map(|path| DatabasePath::new(path).ok()).collect(),
            creation: None,
            landlock: Landlock::default(),
            exec: ExecSessions::default(),
            allow: Vec::new(),
            ignored_annotation: None,
        }
    }

    fn of_document(document: &PolicyDocument) -> Self {
        let built_in = Self::built_in();
        let mut databases = built_in.databases;
        for database in &document.databases {
            if !databases.contains(database) {
                databases.push(database.clone());
            }
        }
        Self {
            name: document.name.clone(),
            digest: document.digest.clone(),
            mode: document.mode,
            mode_source: "mode",
            on_unprotected: built_in.on_unprotected,
            databases,
            creation: document.creation.clone(),
            landlock: document.landlock,
            exec: document.exec,
            allow: document.allow.clone(),
            ignored_annotation: None,
        }
    }

    /// Tightens the mode as the pod's own annotation asks; what it asks for beyond that is passed over.
    fn tightened(mut self, workload: &Workload) -> Self {
        let Some(word) = workload.annotations.get(MODE_ANNOTATION) else { return self };
        match Mode::from_word(word.trim()) {
            Some(mode) if mode > self.mode => {
                self.mode = mode;
                self.mode_source = "annotation acctguard.io/mode";
            }
            Some(_) => {}
            None => self.ignored_annotation = Some(word.clone()),
        }
        self
    }
    /// The reference that events carry; `rule` says which part decided.
    #[must_use]
    pub fn reference(&self, rule: &str) -> PolicyReference {
        PolicyReference {
            name: self.name.clone(),
            mode: self.mode.as_str().to_owned(),
            rule: rule.to_owned(),
            digest: self.digest.clone(),
        }
    }
}

#[cfg(test)]
mod tests;

//! What is wrong, or worth knowing, with a node's configuration and policies: one list for `acctguard policy check` and for
//! the daemon's start-up.

use std::fmt;
use std::path::Path;
use std::path::PathBuf;

use crate::config::Config;
use crate::config::policy_files;
use crate::model::policy::PolicySet;
use crate::model::policy::parse::PolicyError;
use crate::model::policy::rule::MatchRule;
use crate::model::policy::rule::PolicyDocument;

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A policy file cannot be used. An error: the whole set is not used.
    Policy(PolicyError),
    /// A document behind one that matches everything is never tried.
    NeverReached {
        /// `file:line` of the document.
        place: String,
        /// Its name.
        name: String,
        /// The document that matches everything.
        behind: String,
    },
    /// A document says something that this version validates but does not act on.
    NotYetInForce {
        /// `file:line` of the document.
        place: String,
        /// Its name.
        name: String,
        /// What.
        what: &'static str,
        /// What holds instead.
        instead: &'static str,
    },
    /// The launcher that the configuration names is not a file: no container could be sealed.
    NoLauncher {
        /// Its path.
        path: PathBuf,
    },
    /// A real runtime that the configuration names is not a file: the shim could not hand over to it.
    NoRuntime {
        /// Its key in the configuration.
        key: String,
        /// Its path.
        path: PathBuf,
    },
}

impl Finding {
    /// Whether the configuration cannot be used with it.
    #[must_use]
    pub const fn is_error(&self) -> bool {
        matches!(self, Self::Policy(_))
    }

    /// For people: with the line itself and a caret where there is one.
    #[must_use]
    pub fn diagnostic(&self) -> String {
        match self {
            Self::Policy(error) => error.diagnostic(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(error) => write!(formatter, "{error}"),
            Self::NeverReached { place, name, behind } => write!(
                formatter,
                "{place}: policy {name} is never reached, {behind} before it matches everything; move it up"
            ),
            Self::NotYetInForce { place, name, what, instead } => {
                write!(formatter, "{place}: policy {name}: {what} is not in force in this version; {instead}")
            }
            Self::NoLauncher { path } => {
                write!(
                    formatter,
                    "runtime.launcher: {} is not a file; name the static acctguard-launch",
                    path.display()
                )
            }
            Self::NoRuntime { key, path } => {
                write!(formatter, "{key}: {} is not a file; name the real runtime", path.display())
            }
        }
    }
}

/// A configuration with everything that was found in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// The policies; without any document when one of them is an error.
    pub policies: PolicySet,
    /// What was found, errors first.
    pub findings: Vec<Finding>,
}

impl Checked {
    /// Whether it can be used.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        !self.findings.iter().any(Finding::is_error)
    }
}

/// Checks the configuration and the policies of its folder.
#[must_use]
pub fn check(config: &Config) -> Checked {
    let mut checked = match policy_files::list(&config.policy_dir) {
        Ok(files) => check_policies(&files),
        Err(error) => Checked { findings: vec![Finding::Policy(error)], ..Checked::default() },
    };
    let named = config.runtime_path.iter().map(|path| ("runtime.path".to_owned(), path));
    let by_name = config.runtime_paths.iter().map(|(name, path)| (format!("runtime.paths.{name}"), path));
    for (key, path) in named.chain(by_name) {
        if !Path::is_file(path) {
            checked.findings.push(Finding::NoRuntime { key, path: path.clone() });
        }
    }
    let launcher = config.launcher.iter().filter(|path| !Path::is_file(path));
    checked.findings.extend(launcher.map(|path| Finding::NoLauncher { path: path.clone() }));
    checked.findings.sort_by_key(|finding| !finding.is_error());
    checked
}

/// Checks the given policy files, in the given order.
#[must_use]
pub fn check_policies(files: &[PathBuf]) -> Checked {
    match policy_files::read(files) {
        Ok(policies) => {
            let mut findings = unreached(&policies);
            findings.extend(policies.documents.iter().flat_map(not_in_force));
            Checked { policies, findings }
        }
        Err(errors) => {
            Checked { policies: PolicySet::default(), findings: errors.into_iter().map(Finding::Policy).collect() }
        }
    }
}

fn place(document: &PolicyDocument) -> String {
    format!("{}:{}", document.file, document.line)
}

fn unreached(policies: &PolicySet) -> Vec<Finding> {
    let everything = MatchRule::default();
    let catch_all = policies.documents.iter().position(|document| document.matching == everything);
    let Some((behind, rest)) = catch_all.and_then(|position| policies.documents.get(position..)?.split_first()) else {
        return Vec::new();
    };
    rest.iter()
        .map(|document| Finding::NeverReached {
            place: place(document),
            name: document.name.clone(),
            behind: behind.name.clone(),
        })
        .collect()
}

fn not_in_force(document: &PolicyDocument) -> Vec<Finding> {
    let finding =
        |what, instead| Finding::NotYetInForce { place: place(document), name: document.name.clone(), what, instead };
    let allow = (!document.allow.is_empty()).then(|| finding("allow", "enforce refuses what it names as well"));
    allow.into_iter().collect()
}

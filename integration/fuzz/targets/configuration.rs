//! Policies and the node's configuration: a mistake is told with a place that is in the text.

use std::collections::BTreeMap;
use std::path::Path;

use acctguard::config::{Config, ConfigError};
use acctguard::model::diagnostic::SourceError;
use acctguard::model::event::Container;
use acctguard::model::policy::PolicySet;
use acctguard::model::policy::parse::parse_documents;
use acctguard::model::workload::{ContainerId, Workload};

/// An even first byte: a policy; an odd one: a node's configuration.
pub fn check(data: &[u8]) {
    let Some((first, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    if first % 2 == 0 { policy(text) } else { node(text) }
}

fn policy(text: &str) {
    match parse_documents("10-fuzz.yaml", text) {
        Err(error) => placed(&error, text),
        Ok(documents) => {
            assert!(documents.len() <= text.len());
            assert_eq!(
                parse_documents("10-fuzz.yaml", text).as_ref(),
                Ok(&documents),
                "the same text is another policy"
            );
            let set = PolicySet { documents };
            let workload = workload();
            let (passed, decides) = set.trace(&workload);
            assert_eq!(
                passed.len() + usize::from(decides.is_some()),
                if decides.is_some() { passed.len() + 1 } else { set.documents.len() }
            );
            let _ = set.apply(&workload);
        }
    }
}

fn workload() -> Workload {
    let id = ContainerId::new("fuzz").expect("an id");
    let engine = "containerd".to_owned();
    let container =
        Container { id, name: Some("web".to_owned()), image: None, engine, runtime: None, pod: None, started_at: None };
    let annotations = BTreeMap::from([("acctguard.io/mode".to_owned(), "enforce".to_owned())]);
    Workload { container, annotations, cluster: None, privileged: false }
}

fn node(text: &str) {
    match Config::parse(Path::new("/etc/acctguard/config.toml"), text) {
        Err(ConfigError::Mistake(error)) => placed(&error, text),
        Err(error) => assert!(!error.to_string().contains('\n')),
        Ok(config) => {
            for path in [&config.run_dir, &config.state_dir, &config.policy_dir] {
                assert!(path.is_absolute(), "{}", path.display());
            }
        }
    }
}

/// The line is one of the text's, and the message is one line that no terminal acts on.
fn placed(error: &SourceError, text: &str) {
    let lines = text.split('\n').count();
    assert!(error.line <= lines + 1, "line {} of {lines}", error.line);
    let column = error.excerpt.chars().count() + 2;
    assert!(error.line == 0 || error.column <= column, "column {} of {:?}", error.column, error.excerpt);
    assert!(!error.to_string().contains('\u{1b}'), "{error:?}");
    assert!(error.diagnostic().lines().count() <= 8, "{}", error.diagnostic());
}

//! Which document applies to a workload, and why another does not.

use std::fmt;

use crate::model::event::Image;
use crate::model::policy::rule::MatchRule;
use crate::model::policy::rule::Pattern;
use crate::model::redact::printable;
use crate::model::workload::Workload;

/// Why a document does not match a workload: the first condition that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The condition, as `namespaces`.
    pub condition: String,
    /// What it asks for.
    pub wanted: String,
    /// What the workload is; `None` when the engine does not tell.
    pub found: Option<String>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { condition, wanted, found } = self;
        match found {
            Some(found) => write!(formatter, "{condition}: {} is not among {wanted}", printable(found.as_bytes())),
            None => write!(formatter, "{condition}: the workload has none, wanted {wanted}"),
        }
    }
}

impl MatchRule {
    /// The first condition that `workload` does not meet; `None` when it meets all.
    #[must_use]
    pub fn mismatch(&self, workload: &Workload) -> Option<Mismatch> {
        let container = &workload.container;
        let pod = container.pod.as_ref();
        let name = container.name.as_deref().unwrap_or(container.id.as_str());
        let one = |text: Option<&str>| text.map(str::to_owned).into_iter().collect::<Vec<_>>();
        let images = container.image.as_ref().map(image_spellings).unwrap_or_default();
        unmet("namespaces", self.namespaces.as_deref(), &one(pod.map(|pod| pod.namespace.as_str())))
            .or_else(|| unmet("images", self.images.as_deref(), &images))
            .or_else(|| unmet("pods", self.pods.as_deref(), &one(pod.map(|pod| pod.name.as_str()))))
            .or_else(|| unmet("containers", self.containers.as_deref(), &one(Some(name))))
            .or_else(|| unmet("engines", self.engines.as_deref(), &one(Some(&container.engine))))
            .or_else(|| unmet("clusters", self.clusters.as_deref(), &one(workload.cluster.as_deref())))
            .or_else(|| self.unmet_annotation(workload))
            .or_else(|| self.unmet_privileged(workload))
    }

    fn unmet_annotation(&self, workload: &Workload) -> Option<Mismatch> {
        self.annotations.iter().find_map(|(key, pattern)| {
            let found = workload.annotations.get(key);
            let met = found.is_some_and(|value| pattern.matches(value));
            (!met).then(|| Mismatch {
                condition: format!("annotations[{key}]"),
                wanted: list(std::slice::from_ref(pattern)),
                found: found.cloned(),
            })
        })
    }

    fn unmet_privileged(&self, workload: &Workload) -> Option<Mismatch> {
        let wanted = self.privileged?;
        (wanted != workload.privileged).then(|| Mismatch {
            condition: "privileged".to_owned(),
            wanted: wanted.to_string(),
            found: Some(workload.privileged.to_string()),
        })
    }
}

fn unmet(condition: &str, patterns: Option<&[Pattern]>, found: &[String]) -> Option<Mismatch> {
    let patterns = patterns?;
    let met = found.iter().any(|text| any_matches(patterns, text));
    (!met).then(|| Mismatch { condition: condition.to_owned(), wanted: list(patterns), found: found.last().cloned() })
}

/// Whether one of `patterns` matches `text`.
pub(in crate::model::policy) fn any_matches(patterns: &[Pattern], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(text))
}

/// The patterns as a person would list them.
pub(in crate::model::policy) fn list(patterns: &[Pattern]) -> String {
    let quoted: Vec<String> = patterns.iter().map(|pattern| format!("{:?}", pattern.as_str())).collect();
    format!("[{}]", quoted.join(", "))
}

/// Every way to write an image that a pattern is tried on: the name alone, with its tag, with its digest, with both.
#[must_use]
pub fn image_spellings(image: &Image) -> Vec<String> {
    let name = &image.name;
    let mut spellings = vec![name.clone()];
    if let Some(tag) = &image.tag {
        spellings.push(format!("{name}:{tag}"));
    }
    if let Some(digest) = &image.digest {
        spellings.push(format!("{name}@{digest}"));
    }
    if let (Some(tag), Some(digest)) = (&image.tag, &image.digest) {
        spellings.push(format!("{name}:{tag}@{digest}"));
    }
    spellings
}

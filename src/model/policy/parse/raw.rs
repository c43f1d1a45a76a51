//! The document as it is written, before its values are checked.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::model::policy::Mode;
use crate::model::policy::OnUnprotected;
use crate::model::policy::rule::ExecSessions;
use crate::model::policy::rule::Landlock;
use crate::model::policy::rule::OnUnexpected;

/// A list of texts with their places.
pub(super) type Texts = Vec<Spanned<String>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    #[serde(rename = "apiVersion")]
    pub api_version: Spanned<String>,
    pub kind: Spanned<String>,
    pub metadata: Metadata,
    pub spec: Spec,
}

/// What Kubernetes allows in the metadata of an object that a person writes; only the name matters here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metadata {
    pub name: Spanned<String>,
    #[serde(default, rename = "labels")]
    pub _labels: BTreeMap<String, String>,
    #[serde(default, rename = "annotations")]
    pub _annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Spec {
    #[serde(default)]
    pub r#match: Match,
    pub mode: Mode,
    #[serde(default)]
    pub landlock: Landlock,
    #[serde(default)]
    pub exec: ExecSessions,
    #[serde(default)]
    pub on_unprotected: Option<OnUnprotected>,
    #[serde(default)]
    pub databases: Texts,
    #[serde(default)]
    pub allow: Vec<Allow>,
    #[serde(default)]
    pub creation: Option<Creation>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Match {
    #[serde(default)]
    pub namespaces: Option<Spanned<Texts>>,
    #[serde(default)]
    pub images: Option<Spanned<Texts>>,
    #[serde(default)]
    pub pods: Option<Spanned<Texts>>,
    #[serde(default)]
    pub containers: Option<Spanned<Texts>>,
    #[serde(default)]
    pub engines: Option<Spanned<Texts>>,
    #[serde(default)]
    pub clusters: Option<Spanned<Texts>>,
    #[serde(default)]
    pub annotations: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    pub privileged: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Allow {
    pub reason: Spanned<String>,
    #[serde(default)]
    pub accounts: Accounts,
    #[serde(default)]
    pub changes: Option<Spanned<Texts>>,
    #[serde(default)]
    pub by: Option<Spanned<Texts>>,
    #[serde(default)]
    pub within: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Accounts {
    #[serde(default)]
    pub names: Option<Spanned<Texts>>,
    #[serde(default)]
    pub uid: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Creation {
    #[serde(default)]
    pub images: Option<Spanned<Texts>>,
    #[serde(default)]
    pub creators: Option<Spanned<Texts>>,
    #[serde(default)]
    pub on_unexpected: OnUnexpected,
}

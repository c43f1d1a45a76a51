//! The Kubernetes resource definition (CRD) of policy documents: an OpenAPI v3 schema that takes and refuses what
//! [`crate::model::policy::parse`] does, out of the same words.
//!
//! Structural, as Kubernetes wants it ("Specifying a structural schema" of its documentation): no `additionalProperties: false`,
//! nothing said about `metadata` but the name. The server itself sees to the rest: unknown fields (field validation `Strict`, the
//! default of kubectl), the name, labels and annotations. A schema cannot say all: a range that ends before it begins (`uid: 9-1`,
//! `[z-a]`), braces in braces in braces, and a duration of more than 14 digits are told by the node alone; and an unquoted number in the
//! place of a text is a text to the node and a mistake to the server.

use serde_json::Value;
use serde_json::json;

use crate::model::account::diff::KINDS;
use crate::model::policy::BUILT_IN_NAME;
use crate::model::policy::Mode;
use crate::model::policy::OnUnprotected;
use crate::model::policy::parse::API_VERSION;
use crate::model::policy::parse::KIND;
use crate::model::policy::rule::ExecSessions;
use crate::model::policy::rule::Landlock;
use crate::model::policy::rule::OnUnexpected;

/// A part of a path: not empty, not `.`, not `..`.
const PART: &str = r"(?:[^/.][^/]*|\.[^/.][^/]*|\.\.[^/]+)";
/// 0 to 4294967295, as `u32` reads it.
const NUMBER: &str = concat!(
    r"\+?0*(?:[0-9]{1,9}|[1-3][0-9]{9}|4[01][0-9]{8}|42[0-8][0-9]{7}|429[0-3][0-9]{6}|4294[0-8][0-9]{5}|42949[0-5][0-9]{4}|",
    r"429496[0-6][0-9]{3}|4294967[01][0-9]{2}|42949672[0-8][0-9]|429496729[0-5])"
);

/// The CustomResourceDefinition, as an object of `apiextensions.k8s.io/v1`.
#[must_use]
pub fn custom_resource_definition() -> Value {
    let (group, version) = API_VERSION.split_once('/').unwrap_or((API_VERSION, ""));
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("accountpolicies.{group}")},
        "spec": {
            "group": group,
            "scope": "Cluster",
            "names": {"kind": KIND, "listKind": format!("{KIND}List"), "plural": "accountpolicies", "singular": "accountpolicy"},
            "versions": [{
                "name": version,
                "served": true,
                "storage": true,
                "additionalPrinterColumns": [{"name": "Mode", "type": "string", "jsonPath": ".spec.mode"}],
                "schema": {"openAPIV3Schema": document()},
            }],
        },
    })
}

/// The schema of one document.
#[must_use]
pub fn document() -> Value {
    json!({
        "type": "object",
        "description": "What the workloads it matches may do to their accounts.",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"type": "string", "enum": [API_VERSION]},
            "kind": {"type": "string", "enum": [KIND]},
            "metadata": {"type": "object", "properties": {"name": {
                "type": "string", "maxLength": 253, "pattern": "^[a-z0-9][a-z0-9.-]*$", "not": {"enum": [BUILT_IN_NAME]}}}},
            "spec": spec(),
        },
    })
}

fn spec() -> Value {
    let modes = words(&[Mode::Off, Mode::Audit, Mode::Enforce]);
    let unprotected = words(&[OnUnprotected::Refuse, OnUnprotected::Record]);
    let landlock = words(&[Landlock::Required, Landlock::Preferred, Landlock::Off]);
    json!({
        "type": "object",
        "required": ["mode"],
        "properties": {
            "match": matching(),
            "mode": choice("Whether changes of accounts are watched, and refused. Write \"off\" in quotes.", &modes),
            "landlock": choice("The seal of the container's own processes.", &landlock),
            "exec": choice("How exec sessions are held.", &words(&[ExecSessions::Brokered, ExecSessions::Sealed])),
            "onUnprotected": choice("When the protection cannot be put in place.", &unprotected),
            "databases": {"type": "array", "description": "Databases beyond the built-in ones; one that ends in / is a folder.",
                "items": {"type": "string", "pattern": format!("^/{PART}(?:/{PART})*/?$")}},
            "allow": {"type": "array", "description": "Exceptions from enforce.", "items": exception()},
            "creation": {"type": "object", "description": "What is expected of a new container.", "properties": {
                "images": patterns("Images that are expected."),
                "creators": patterns("Creators that are expected."),
                "onUnexpected": choice("What happens to others.", &words(&[OnUnexpected::Record, OnUnexpected::Refuse])),
            }},
        },
    })
}

fn matching() -> Value {
    let annotations = json!({"type": "object", "description": "Annotations that must be there, with values that match.",
        "additionalProperties": pattern()});
    json!({
        "type": "object",
        "description": "What a workload must be; all given must hold, lists are alternatives, * crosses /.",
        "properties": {
            "namespaces": patterns("Namespaces of pods."),
            "images": patterns("Images, as name, name:tag or name@digest."),
            "pods": patterns("Names of pods."),
            "containers": patterns("Names of containers."),
            "engines": patterns("containerd, cri-o, podman, docker, none."),
            "clusters": patterns("Clusters, as the nodes' configuration names them."),
            "annotations": annotations,
            "privileged": {"type": "boolean", "description": "Whether the container is privileged."},
        },
    })
}

fn exception() -> Value {
    let positive = NUMBER.replacen("[0-9]{1,9}", "[1-9][0-9]{0,8}", 1);
    let uid = format!(r"^\s*(?:self|{NUMBER}|{positive}\s*-\s*{positive}|\+?0+\s*-\s*\+?0+)\s*$");
    let programs = format!("^/{PART}(?:/{PART})*$");
    json!({
        "type": "object",
        "required": ["reason"],
        "properties": {
            "reason": {"type": "string", "pattern": r"\S"},
            "accounts": {"type": "object", "properties": {
                "names": patterns("Names of accounts."),
                "uid": {"description": "self, a number, or a range as 1000-1999.", "x-kubernetes-int-or-string": true,
                    "anyOf": [{"type": "integer"}, {"type": "string"}],
                    "minimum": 0, "maximum": u32::MAX, "pattern": uid},
            }},
            "changes": {"type": "array", "minItems": 1, "items": {"type": "string", "enum": KINDS}},
            "by": {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": programs}},
            "within": {"type": "string", "description": "Of the container's start: a number and s, m, h or d.",
                "pattern": r"^\s*\+?0*[1-9][0-9]{0,13}[smhd]\s*$"},
        },
    })
}

/// The words that documents use for `values`.
fn words<T: serde::Serialize>(values: &[T]) -> Vec<Value> {
    values.iter().filter_map(|value| serde_json::to_value(value).ok()).collect()
}

fn choice(description: &str, words: &[Value]) -> Value {
    json!({"type": "string", "description": description, "enum": words})
}

fn patterns(description: &str) -> Value {
    json!({"type": "array", "description": description, "minItems": 1, "items": pattern()})
}

/// A glob as [`crate::model::policy::rule::Pattern`] takes it: escapes, sets, and braces two deep.
fn pattern() -> Value {
    let item = r"[^\[{}\\]|\\[\s\S]|\[(?:[!^][\s\S]|[^!^])[^\]]*\]";
    let alternatives = format!(r"\{{(?:{item})*\}}");
    let nested = format!(r"\{{(?:{item}|{alternatives})*\}}");
    json!({"type": "string", "pattern": format!("^(?:{item}|{nested})+$")})
}

#[cfg(test)]
mod tests;

//! Who a container is, told from its bundle: engine, name, image, pod. What an engine does not tell is absent.
//!
//! Where each engine says what (measured, `integration.md` §3 to §5): containerd's CRI and CRI-O in annotations, nerdctl too;
//! podman and Docker in their own files (`engine_files`). containerd keeps names and digests of images in a database that it alone
//! may open: it is asked for them after the creation, as are podman and Docker for what they had not written by then ([`later`]).

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::model::event::Container;
use crate::model::event::EventTime;
use crate::model::event::Image;
use crate::model::event::Pod;
use crate::model::workload::ContainerId;
use crate::model::workload::Workload;

mod engine_files;
pub mod later;

/// Longest name taken from an annotation.
const MAX_TEXT_CHARS: usize = 1024;

/// Engine of a container that was made by hand.
pub const NO_ENGINE: &str = "none";

/// What the caller knows and the bundle does not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known<'a> {
    /// Cluster name, from the node's configuration.
    pub cluster: Option<&'a str>,
    /// Base name of the real runtime.
    pub runtime: Option<&'a str>,
    /// When the container is created.
    pub started_at: Option<EventTime>,
}

/// Engine, name, image and pod, as one engine tells them.
#[derive(Debug, Default)]
struct Told {
    engine: &'static str,
    name: Option<String>,
    image: Option<Image>,
    pod: Option<Pod>,
}

/// Whether a container is a pod's sandbox or a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The pause container that holds a pod's namespaces.
    Sandbox,
    /// A container of a workload.
    Container,
}

/// The role that CRI engines note; `None` elsewhere.
#[must_use]
pub fn role(annotations: &BTreeMap<String, String>) -> Option<Role> {
    let keys = ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"];
    match keys.iter().find_map(|key| annotations.get(*key))?.as_str() {
        "sandbox" => Some(Role::Sandbox),
        "container" => Some(Role::Container),
        _ => None,
    }
}

/// The workload of the container `id` whose bundle is `bundle` and whose `config.json` is `spec`.
#[must_use]
pub fn workload(spec: &Value, bundle: &Path, id: &ContainerId, known: &Known<'_>) -> Workload {
    let annotations = annotations(spec);
    let told = told(spec, bundle, id, &annotations);
    let container = Container {
        id: id.clone(),
        name: told.name,
        image: told.image,
        engine: told.engine.to_owned(),
        runtime: known.runtime.map(ToOwned::to_owned),
        pod: told.pod,
        started_at: known.started_at,
    };
    let privileged = is_privileged(spec, &annotations);
    Workload { container, annotations, cluster: known.cluster.map(ToOwned::to_owned), privileged }
}

fn annotations(spec: &Value) -> BTreeMap<String, String> {
    let members = spec.get("annotations").and_then(Value::as_object).into_iter().flatten();
    members.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

fn told(spec: &Value, bundle: &Path, id: &ContainerId, annotations: &BTreeMap<String, String>) -> Told {
    let has_prefix = |prefix: &str| annotations.keys().any(|key| key.starts_with(prefix));
    match annotations.get("io.container.manager").map(String::as_str) {
        Some("cri-o") => crio(annotations),
        Some("libpod") => engine_files::podman(bundle, id),
        _ if annotations.contains_key("io.kubernetes.cri.container-type") => containerd_cri(annotations),
        _ if has_prefix("io.podman.annotations.") => engine_files::podman(bundle, id),
        _ if annotations.contains_key("io.kubernetes.cri-o.ContainerID") => crio(annotations),
        _ => by_bundle(spec, bundle, id, annotations),
    }
}

/// Docker and ctr say nothing of themselves in annotations; their bundles lie in containerd's task folder,
/// `…/io.containerd.runtime.v2.task/<namespace>/<id>`. nerdctl has its labels as annotations (nerdctl `container/create.go`).
fn by_bundle(spec: &Value, bundle: &Path, id: &ContainerId, annotations: &BTreeMap<String, String>) -> Told {
    let task = later::task(bundle, id);
    let docker_file = engine_files::docker_file(spec, id);
    if docker_file.is_some() || task.is_some_and(|task| task.namespace == "moby") {
        return engine_files::docker(docker_file.as_deref());
    }
    if task.is_none() {
        return Told { engine: NO_ENGINE, ..Told::default() };
    }
    Told { engine: "containerd", name: text(annotations, "nerdctl/name"), ..Told::default() }
}

fn text(annotations: &BTreeMap<String, String>, key: &str) -> Option<String> {
    annotations.get(key).filter(|value| !value.is_empty()).map(|value| value.chars().take(MAX_TEXT_CHARS).collect())
}

fn containerd_cri(annotations: &BTreeMap<String, String>) -> Told {
    let get = |key: &str| text(annotations, &format!("io.kubernetes.cri.{key}"));
    let pod = get("sandbox-namespace").zip(get("sandbox-name")).map(|(namespace, name)| Pod {
        namespace,
        name,
        uid: get("sandbox-uid"),
    });
    let image = get("image-name").or_else(|| get("podsandbox.image-name"));
    Told { engine: "containerd", name: get("container-name"), image: image.as_deref().map(split_image), pod }
}

fn crio(annotations: &BTreeMap<String, String>) -> Told {
    let get = |key: &str| text(annotations, &format!("io.kubernetes.cri-o.{key}"));
    // `k8s_<container>_<pod>_<namespace>_<uid>_<attempt>`, a sandbox without the first (`k8s_<pod>_…`). Kubernetes names
    // hold no underscore.
    let name = get("Name").unwrap_or_default();
    let parts: Vec<&str> = name.strip_prefix("k8s_").unwrap_or_default().split('_').collect();
    let (from_name, pod_parts) = match parts.as_slice() {
        [container, pod, namespace, uid, _] => (Some(*container), Some((*pod, *namespace, *uid))),
        [pod, namespace, uid, _] => (None, Some((*pod, *namespace, *uid))),
        _ => (None, None),
    };
    let sandbox = role(annotations) == Some(Role::Sandbox);
    let kubernetes = |key: &str| text(annotations, &format!("io.kubernetes.pod.{key}"));
    let part = |pick: fn((&str, &str, &str)) -> String| pod_parts.map(pick).filter(|part| !part.is_empty());
    let pod_name = kubernetes("name").or_else(|| part(|(pod, _, _)| pod.to_owned()));
    let namespace = kubernetes("namespace").or_else(|| part(|(_, namespace, _)| namespace.to_owned()));
    let uid = kubernetes("uid").or_else(|| part(|(_, _, uid)| uid.to_owned()));
    let pod = namespace.zip(pod_name).map(|(namespace, name)| Pod { namespace, name, uid });
    let name = text(annotations, "io.kubernetes.container.name").or_else(|| from_name.map(ToOwned::to_owned));
    let image = get("ImageName").or_else(|| get("Image")).map(|reference| {
        let mut image = split_image(&reference);
        if image.digest.is_none() {
            image.digest = get("ImageRepoDigests").and_then(|all| digest_of(&all, &image.name));
        }
        image.id = get("ImageRef").and_then(|word| image_id(&word));
        image
    });
    Told { engine: "cri-o", name: name.filter(|_| !sandbox), image, pod }
}

/// The digest that a list of `name@digest` has for `name`.
fn digest_of(references: &str, name: &str) -> Option<String> {
    let mut references = references.split([',', ' ']).map(split_image).filter(|image| image.digest.is_some());
    references.find(|image| image.name == name)?.digest
}

/// Takes an image reference apart: `name[:tag][@digest]` (distribution/reference). A port in the registry is no tag.
#[must_use]
pub fn split_image(reference: &str) -> Image {
    let reference: String = reference.chars().take(MAX_TEXT_CHARS).collect();
    let (rest, digest) = match reference.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.to_owned())),
        None => (reference.as_str(), None),
    };
    let last_part = rest.rfind('/').map_or(0, |slash| slash + 1);
    let bare_digest = digest.is_none() && rest.starts_with("sha256:");
    let colon = rest.get(last_part..).and_then(|part| part.find(':')).map(|position| last_part + position);
    match colon.filter(|_| !bare_digest) {
        Some(position) => {
            let (name, tag) = rest.split_at(position);
            Image { name: name.to_owned(), tag: Some(tag.trim_start_matches(':').to_owned()), digest, id: None }
        }
        None => {
            let digest = digest.or_else(|| bare_digest.then(|| rest.to_owned()));
            Image { name: rest.to_owned(), tag: None, digest, id: None }
        }
    }
}

/// An engine's own id of an image as a digest, with or without the name of the hash: 64 hexadecimal digits.
fn image_id(word: &str) -> Option<String> {
    let digits = word.strip_prefix("sha256:").unwrap_or(word);
    let is_hash = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| format!("sha256:{digits}"))
}

/// Capabilities that together only a privileged container has: one of each power over the host (capabilities(7)).
const HOST_CAPABILITIES: [&str; 6] =
    ["CAP_SYS_ADMIN", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_PTRACE", "CAP_SYS_BOOT", "CAP_MAC_ADMIN"];
/// Capabilities before Linux 5.8 brought `CAP_PERFMON` and its like; a privileged container on any kernel has them all.
const MIN_ALL_CAPABILITIES: usize = 38;

/// All capabilities, or the engine's word for it.
fn is_privileged(spec: &Value, annotations: &BTreeMap<String, String>) -> bool {
    let by_annotation =
        annotations.get("io.podman.annotations.privileged").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let bounding = spec.pointer("/process/capabilities/bounding").and_then(Value::as_array);
    let bounding: Vec<&str> = bounding.into_iter().flatten().filter_map(Value::as_str).collect();
    let all = bounding.len() >= MIN_ALL_CAPABILITIES && HOST_CAPABILITIES.iter().all(|name| bounding.contains(name));
    by_annotation || all
}

#[cfg(test)]
mod tests;

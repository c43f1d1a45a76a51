//! What a Kubernetes pod belongs to, by the labels and annotations that reach the runtime: the Deployment's ReplicaSet, the Job, or the
//! node itself, whose kubelet makes static pods without being asked by anybody.
//!
//! `metadata.ownerReferences` reaches no node's engine. What controllers and the kubelet write on pods does (Kubernetes "Well-Known
//! Labels, Annotations and Taints"), where the engine hands it on: CRI-O hands on all of a sandbox, and of a container what is not a
//! label; containerd what its configuration lets through (`pod_annotations`), and no labels. Whoever writes a pod can write these words
//! as well: they say who it claims to belong to.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Value;

use crate::model::event::Owner;
use crate::model::event::Pod;
use crate::model::workload::ContainerId;
use crate::oci::bundle::Bundle;

/// Where the kubelet has a pod's definition from: `api`, or `file` or `http` of a static pod (kubernetes `pkg/kubelet/types`).
const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// Largest list of labels that is parsed: Kubernetes allows a quarter of it for all annotations.
const MAX_LABELS_BYTES: usize = 1024 * 1024;
/// Longest name in Kubernetes (RFC 1123 subdomain), and longest value of a label.
const MAX_NAME_CHARS: usize = 253;

/// The owner of `pod`, to whose container with these annotations and this bundle the sandbox's are read where CRI-O keeps them.
#[must_use]
pub fn of(annotations: &BTreeMap<String, String>, bundle: &Path, pod: &Pod) -> Option<Owner> {
    let own = labels(annotations);
    told(annotations, &own, pod).or_else(|| {
        let sandbox = sandbox(annotations, bundle)?;
        told(&sandbox, &labels(&sandbox), pod)
    })
}

/// The annotations of the pod's sandbox. CRI-O has the bundles of all containers in one folder
/// (`…/overlay-containers/<id>/userdata`).
fn sandbox(annotations: &BTreeMap<String, String>, bundle: &Path) -> Option<BTreeMap<String, String>> {
    let id = ContainerId::new(annotations.get("io.kubernetes.cri-o.SandboxID")?).ok()?;
    let folder: PathBuf = bundle.parent()?.parent()?.join(id.as_str()).join(bundle.file_name()?);
    let config = Bundle::open(&folder).ok()?;
    let members = config.config().get("annotations").and_then(Value::as_object)?;
    Some(members.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect())
}

/// CRI-O's list of labels.
fn labels(annotations: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let text = annotations.get("io.kubernetes.cri-o.Labels").filter(|text| text.len() <= MAX_LABELS_BYTES);
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn told(annotations: &BTreeMap<String, String>, labels: &BTreeMap<String, String>, pod: &Pod) -> Option<Owner> {
    let source = annotations.get(CONFIG_SOURCE).filter(|source| *source != "api");
    if let Some(source) = source.and_then(|source| plain(source)) {
        return Some(owner("Node", None, &format!("annotation {CONFIG_SOURCE}={source}")));
    }
    // containerd hands labels on as annotations where somebody wrote them as such
    let get = |key: &str| labels.get(key).or_else(|| annotations.get(key)).and_then(|value| plain(value));
    for key in ["batch.kubernetes.io/job-name", "job-name"] {
        if let Some(name) = get(key) {
            return Some(owner("Job", Some(name), &format!("label {key}")));
        }
    }
    let without_last = |name: &str| name.rsplit_once('-').map(|(rest, _)| rest.to_owned());
    let key = "statefulset.kubernetes.io/pod-name";
    if get(key).is_some_and(|name| name == pod.name) {
        return Some(owner("StatefulSet", without_last(&pod.name), &format!("label {key}")));
    }
    let key = "pod-template-hash";
    if let Some(hash) = get(key) {
        // <deployment>-<hash>-<five characters>; a long name is cut off before those
        let set = without_last(&pod.name).filter(|set| set.ends_with(&format!("-{hash}")));
        return Some(owner("ReplicaSet", set, &format!("label {key}")));
    }
    if get("pod-template-generation").is_some() && get("controller-revision-hash").is_some() {
        return Some(owner("DaemonSet", without_last(&pod.name), "label pod-template-generation"));
    }
    None
}

fn owner(kind: &str, name: Option<String>, told_by: &str) -> Owner {
    Owner { kind: kind.to_owned(), name, told_by: told_by.to_owned() }
}

/// What can be a name or a label's value; anything else is nobody's word.
fn plain(text: &str) -> Option<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let right = !text.is_empty() && text.len() <= MAX_NAME_CHARS && text.bytes().all(is_plain);
    right.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn capture(name: &str) -> BTreeMap<String, String> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/fixtures/captures").join(name);
        let bytes = std::fs::read(&file).unwrap_or_else(|error| panic!("read capture {name}: {error}"));
        let spec: Value = serde_json::from_slice(&bytes).expect("valid JSON");
        serde_json::from_value(spec["annotations"].clone()).expect("texts")
    }

    fn pod(name: &str) -> Pod {
        Pod { namespace: "labns".to_owned(), name: name.to_owned(), uid: None }
    }

    fn words(owner: Option<Owner>) -> Option<(String, Option<String>)> {
        owner.map(|owner| (owner.kind, owner.name))
    }

    /// The same annotations with these labels in CRI-O's list, as what controllers write reaches it.
    fn labelled(mut annotations: BTreeMap<String, String>, more: &[(&str, &str)]) -> BTreeMap<String, String> {
        let mut list: BTreeMap<String, String> =
            serde_json::from_str(&annotations["io.kubernetes.cri-o.Labels"]).expect("a list");
        list.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        annotations.insert("io.kubernetes.cri-o.Labels".to_owned(), json!(list).to_string());
        annotations
    }

    #[test]
    fn pods_of_the_captures_belong_to_nobody() {
        for name in [
            "crio-config.json",
            "crio-sandbox-config.json",
            "crio-userns-config.json",
            "crio-seccompnotifier-config.json",
            "containerd16-config.json",
            "containerd17-config.json",
            "containerd21-config.json",
            "containerd21-sandbox-config.json",
        ] {
            assert_eq!(of(&capture(name), Path::new("/b"), &pod("labpod")), None, "{name}");
        }
    }

    #[test]
    fn the_words_of_every_controller_tell_its_object() {
        let ss = "statefulset.kubernetes.io/pod-name";
        let daemon = &[("pod-template-generation", "1"), ("controller-revision-hash", "5d4")][..];
        for (labels, name, kind, owner) in [
            (&[("pod-template-hash", "6b8f")][..], "web-6b8f-x2x4z", "ReplicaSet", Some("web-6b8f")),
            (&[("pod-template-hash", "6b8f")], "cut-off-name", "ReplicaSet", None),
            (&[("job-name", "backup")], "backup-abcde", "Job", Some("backup")),
            (&[("batch.kubernetes.io/job-name", "new"), ("job-name", "old")], "new-abcde", "Job", Some("new")),
            (&[(ss, "db-0")], "db-0", "StatefulSet", Some("db")),
            (daemon, "agent-k9k9k", "DaemonSet", Some("agent")),
        ] {
            let expected = Some((kind.to_owned(), owner.map(str::to_owned)));
            for file in ["crio-sandbox-config.json", "crio-config.json"] {
                let annotations = labelled(capture(file), labels);
                assert_eq!(words(of(&annotations, Path::new("/b"), &pod(name))), expected, "{file} {labels:?}");
            }
            // by containerd, where its configuration lets them through
            let mut annotations = capture("containerd21-config.json");
            annotations.extend(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
            assert_eq!(words(of(&annotations, Path::new("/b"), &pod(name))), expected, "{labels:?}");
        }
    }

    #[test]
    fn a_static_pod_belongs_to_its_node() {
        for source in ["file", "http"] {
            let mut annotations = capture("crio-config.json");
            annotations.insert(CONFIG_SOURCE.to_owned(), source.to_owned());
            let owner = of(&annotations, Path::new("/b"), &pod("etcd-node-1")).expect("an owner");
            assert_eq!((owner.kind.as_str(), owner.name), ("Node", None));
            assert_eq!(owner.told_by, format!("annotation kubernetes.io/config.source={source}"));
        }
    }

    #[test]
    fn words_that_are_no_words_tell_nothing() {
        for (key, value) in [
            ("job-name", "a\nb"),
            ("job-name", ""),
            ("job-name", &"x".repeat(300)),
            ("statefulset.kubernetes.io/pod-name", "of-another-pod"),
            ("pod-template-generation", "1"),
            ("kubernetes.io/config.source", "fi\u{1b}le"),
        ] {
            let mut annotations = labelled(capture("crio-config.json"), &[(key, value)]);
            annotations.insert(key.to_owned(), value.to_owned());
            assert_eq!(of(&annotations, Path::new("/b"), &pod("labpod")), None, "{key}={value}");
        }
        let mut annotations = capture("crio-config.json");
        annotations.insert("io.kubernetes.cri-o.Labels".to_owned(), "{".to_owned());
        assert_eq!(of(&annotations, Path::new("/b"), &pod("labpod")), None);
    }

    #[test]
    fn a_container_s_pod_is_labelled_in_the_sandbox_s_bundle() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let containers = folder.path().join("overlay-containers");
        let annotations = capture("crio-config.json");
        let sandbox = containers.join(&annotations["io.kubernetes.cri-o.SandboxID"]).join("userdata");
        std::fs::create_dir_all(&sandbox).expect("makes");
        let own = containers.join("c1/userdata");
        let found = || words(of(&annotations, &own, &pod("web-6b8f-x2x4z")));
        assert_eq!(found(), None, "without the sandbox's bundle");
        let labelled = labelled(capture("crio-sandbox-config.json"), &[("pod-template-hash", "6b8f")]);
        let spec = json!({"ociVersion": "1.0.2", "annotations": labelled});
        std::fs::write(sandbox.join("config.json"), spec.to_string()).expect("writes");
        assert_eq!(found(), Some(("ReplicaSet".to_owned(), Some("web-6b8f".to_owned()))));
    }
}

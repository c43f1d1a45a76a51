//! The manifests of `packaging/kubernetes`: rendered by kubectl, read by Kubernetes' own types, and naming only what there is.
//! Needs kubectl (Debian's package kubernetes-client), and no cluster.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use acctguard::model::policy::Mode;
use acctguard::model::policy::parse::parse_documents;
use acctguard::model::policy::schema;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

const OVERLAYS: [&str; 2] = ["dev", "production"];
const NAMESPACE: &str = "acctguard-system";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn kubernetes() -> PathBuf {
    repository().join("packaging/kubernetes")
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("read {path}: {error}"))
}

/// The objects of an overlay, as `kubectl kustomize` renders them.
fn rendered(overlay: &str) -> Vec<Value> {
    let mut command = Command::new(std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into()));
    let output = command.arg("kustomize").arg(kubernetes().join("overlays").join(overlay)).output();
    let output = output.expect("start kubectl: install the Debian package kubernetes-client");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    text.split("\n---\n").map(|part| serde_saphyr::from_str(part).expect("YAML")).collect()
}

fn kind(object: &Value) -> &str {
    object["kind"].as_str().expect("kind")
}

fn the<T: DeserializeOwned>(objects: &[Value], wanted: &str) -> T {
    let object = objects.iter().find(|object| kind(object) == wanted).unwrap_or_else(|| panic!("no {wanted}"));
    serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{wanted}: {error}"))
}

/// Read by its type and written again it is what it was: the type knows every field of it.
fn is_known<T: DeserializeOwned + Serialize>(object: &Value) {
    let read: T = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{object:#}: {error}"));
    let mut again = serde_json::to_value(&read).expect("JSON");
    // written whether or not they hold anything
    if kind(object) == "DaemonSet" && object["spec"]["template"].get("metadata").is_none() {
        again["spec"]["template"].as_object_mut().expect("object").remove("metadata");
    }
    assert_eq!(&again, object, "a field is misspelt, or of another type");
}

fn pod(objects: &[Value]) -> PodSpec {
    the::<DaemonSet>(objects, "DaemonSet").spec.expect("spec").template.spec.expect("pod")
}

#[test]
fn every_object_is_one_that_kubernetes_knows() {
    for overlay in OVERLAYS {
        let objects = rendered(overlay);
        let mut count = BTreeMap::new();
        for object in &objects {
            *count.entry(kind(object).to_owned()).or_insert(0) += 1;
            match kind(object) {
                "Namespace" => is_known::<Namespace>(object),
                "ServiceAccount" => is_known::<ServiceAccount>(object),
                "ClusterRole" => is_known::<ClusterRole>(object),
                "RuntimeClass" => is_known::<RuntimeClass>(object),
                "ConfigMap" => is_known::<ConfigMap>(object),
                "DaemonSet" => is_known::<DaemonSet>(object),
                "CustomResourceDefinition" => {
                    drop(the::<CustomResourceDefinition>(&objects, "CustomResourceDefinition"))
                }
                other => panic!("{overlay}: {other} is not among what the pods need"),
            }
        }
        let expected = [
            ("ClusterRole", 2),
            ("ConfigMap", 1),
            ("CustomResourceDefinition", 1),
            ("DaemonSet", 1),
            ("Namespace", 1),
            ("RuntimeClass", 1),
            ("ServiceAccount", 1),
        ];
        assert_eq!(count, expected.map(|(kind, number)| (kind.to_owned(), number)).into(), "{overlay}");
    }
}

#[test]
fn dev_audits_and_production_enforces() {
    for (overlay, modes) in [("dev", vec![Mode::Audit]), ("production", vec![Mode::Audit, Mode::Enforce])] {
        let data = the::<ConfigMap>(&rendered(overlay), "ConfigMap").data.expect("data");
        let [(file, text)] = data.iter().collect::<Vec<_>>()[..] else { panic!("one file: {data:?}") };
        assert!(file.ends_with(".yaml"), "the daemon reads *.yaml: {file}");
        let documents = parse_documents(file, text).unwrap_or_else(|error| panic!("{}", error.diagnostic()));
        assert_eq!(documents.iter().map(|document| document.mode).collect::<Vec<_>>(), modes, "{overlay}");
        assert_eq!(text, &read(&format!("packaging/kubernetes/overlays/{overlay}/policy.yaml")));
        // the last one is for every workload
        assert_eq!(
            documents.last().expect("a document").matching,
            acctguard::model::policy::rule::MatchRule::default()
        );
    }
}

#[test]
fn the_resource_definition_is_current() {
    let expected = format!("{:#}\n", schema::custom_resource_definition());
    let path = "packaging/kubernetes/base/accountpolicies.acctguard.io.json";
    assert!(read(path) == expected, "{path} is not what `acctguard policy schema` prints: write it anew");
}

#[test]
fn the_pod_may_no_more_than_it_needs() {
    for overlay in OVERLAYS {
        let objects = rendered(overlay);
        let pod = pod(&objects);
        assert_eq!((pod.host_pid, pod.host_network, pod.host_ipc), (None, None, None));
        assert_eq!(pod.automount_service_account_token, Some(false));
        let [container] = &pod.containers[..] else { panic!("one container") };
        let security = container.security_context.as_ref().expect("a security context");
        assert_eq!((security.privileged, security.allow_privilege_escalation), (None, Some(false)));
        assert_eq!(security.read_only_root_filesystem, Some(true));
        let capabilities = security.capabilities.as_ref().expect("capabilities");
        assert_eq!(capabilities.drop.as_deref(), Some(&["ALL".to_owned()][..]));
        assert_eq!(capabilities.add.as_deref(), Some(&["DAC_OVERRIDE".to_owned(), "SYS_CHROOT".to_owned()][..]));
        let namespace: Namespace = the(&objects, "Namespace");
        let labels = namespace.metadata.labels.expect("labels");
        assert_eq!(labels.get("pod-security.kubernetes.io/enforce").map(String::as_str), Some("privileged"));
    }
}

/// Destinations of packaging/contents.
fn installed() -> Vec<String> {
    let contents = read("packaging/contents");
    let lines = contents.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_whitespace().nth(2).expect("a destination").to_owned()).collect()
}

#[test]
fn everything_that_is_named_is_there() {
    let installed = installed();
    let script = read("packaging/kubernetes/node");
    let containerfile = read("packaging/kubernetes/Containerfile");
    for overlay in OVERLAYS {
        let objects = rendered(overlay);
        let set: DaemonSet = the(&objects, "DaemonSet");
        let pod = pod(&objects);
        let container = &pod.containers[0];
        let program = &container.command.as_ref().expect("a command")[0];
        assert!(installed.contains(program), "{program} is not in packaging/contents");
        assert!(containerfile.contains(&format!("ENTRYPOINT [{program:?}]")), "{containerfile}");
        let image = container.image.as_deref().expect("an image");
        assert_eq!(image, format!("acctguard-node:{}", env!("CARGO_PKG_VERSION")));
        assert!(containerfile.contains(&format!("--tag {image} ")), "{containerfile}");
        for mount in container.volume_mounts.as_ref().expect("mounts") {
            assert!(script.contains(&format!(":-{}}}", mount.mount_path)), "the node's script does not know {mount:?}");
            assert!(pod.volumes.as_ref().expect("volumes").iter().any(|volume| volume.name == mount.name), "{mount:?}");
        }
        let map: ConfigMap = the(&objects, "ConfigMap");
        let named: Vec<_> = pod.volumes.iter().flatten().filter_map(|volume| volume.config_map.as_ref()).collect();
        let named: Vec<&str> = named.iter().map(|map| map.name.as_str()).collect();
        assert_eq!(named, [map.metadata.name.as_deref().expect("a name")]);
        let account: ServiceAccount = the(&objects, "ServiceAccount");
        assert_eq!(pod.service_account_name, account.metadata.name);
        for namespace in [&set.metadata.namespace, &map.metadata.namespace, &account.metadata.namespace] {
            assert_eq!(namespace.as_deref(), Some(NAMESPACE));
        }
        let selector = set.spec.as_ref().expect("spec").selector.match_labels.clone();
        let labels =
            set.spec.as_ref().expect("spec").template.metadata.as_ref().and_then(|metadata| metadata.labels.clone());
        assert_eq!(selector, labels, "the set would not find its pods");
        let probe = container.readiness_probe.as_ref().and_then(|probe| probe.exec.as_ref()).expect("a probe");
        let file = probe.command.as_ref().expect("a command").last().expect("a file");
        assert!(script.contains(&format!("\"$state/{}\"", file.rsplit('/').next().expect("a name"))), "{file}");
        let class: RuntimeClass = the(&objects, "RuntimeClass");
        assert_eq!((class.handler.as_str(), class.metadata.name.as_deref()), ("acctguard", Some("acctguard")));
    }
    for path in ["/usr/lib/systemd/system/acctguard-daemon.service", "/usr/bin/acctguard-daemon", "/usr/bin/acctguard"]
    {
        assert!(installed.iter().any(|destination| destination == path), "{path} is not in packaging/contents");
    }
    assert!(script.contains("unit=acctguard-daemon.service"));
}

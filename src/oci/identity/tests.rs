use std::fs;

use serde_json::json;

use super::*;

fn id(text: &str) -> ContainerId {
    ContainerId::new(text).expect("valid")
}

fn capture(name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/fixtures/captures");
    let bytes = fs::read(folder.join(name)).unwrap_or_else(|error| panic!("read capture {name}: {error}"));
    serde_json::from_slice(&bytes).expect("valid JSON")
}

#[test]
fn every_capture_tells_what_its_engine_tells() {
    let bundle = Path::new("/run/somewhere");
    let lab = ("labns", "labpod", Some("lab-uid-1"));
    let cases = [
        (
            "containerd16-config.json",
            "containerd",
            Some("main"),
            Some("localhost/lab/bb"),
            Some(lab),
            Some(Role::Container),
        ),
        ("containerd16-sandbox-config.json", "containerd", None, None, Some(lab), Some(Role::Sandbox)),
        (
            "containerd17-config.json",
            "containerd",
            Some("main"),
            Some("localhost/lab/bb"),
            Some(lab),
            Some(Role::Container),
        ),
        (
            "containerd17-plain-config.json",
            "containerd",
            Some("main"),
            Some("localhost/lab/bb"),
            Some(lab),
            Some(Role::Container),
        ),
        (
            "containerd17-userns-config.json",
            "containerd",
            Some("main"),
            Some("localhost/lab/bb"),
            Some(lab),
            Some(Role::Container),
        ),
        (
            "containerd21-config.json",
            "containerd",
            Some("main"),
            Some("localhost/lab/bb"),
            Some(lab),
            Some(Role::Container),
        ),
        (
            "containerd21-sandbox-config.json",
            "containerd",
            None,
            Some("localhost/lab/pause"),
            Some(lab),
            Some(Role::Sandbox),
        ),
        ("crio-config.json", "cri-o", Some("main"), Some("localhost/lab/bb"), Some(lab), Some(Role::Container)),
        ("crio-sandbox-config.json", "cri-o", None, Some("localhost/lab/pause"), Some(lab), Some(Role::Sandbox)),
        ("crio-userns-config.json", "cri-o", Some("main"), Some("localhost/lab/bb"), Some(lab), Some(Role::Container)),
        (
            "crio-seccompnotifier-config.json",
            "cri-o",
            Some("main"),
            Some("localhost/lab/bb"),
            Some(lab),
            Some(Role::Container),
        ),
        ("podman43-config.json", "podman", None, None, None, None),
        ("podman43-inpod-config.json", "podman", None, None, None, Some(Role::Container)),
        ("podman58-config.json", "podman", None, None, None, None),
        ("podman58-inpod-config.json", "podman", None, None, None, None),
        ("docker26-config.json", NO_ENGINE, None, None, None, None),
        ("docker28-netnone-config.json", NO_ENGINE, None, None, None, None),
    ];
    for (file, engine, name, image, pod, expected_role) in cases {
        let workload = workload(&capture(file), bundle, &id("abc"), &Known::default());
        let container = &workload.container;
        assert_eq!(container.engine, engine, "{file}");
        assert_eq!(container.name.as_deref(), name, "{file}");
        assert_eq!(container.image.as_ref().map(|image| image.name.as_str()), image, "{file}");
        let found = container.pod.as_ref().map(|pod| (pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_deref()));
        assert_eq!(found, pod, "{file}");
        assert_eq!(role(&workload.annotations), expected_role, "{file}");
        assert!(!workload.privileged, "{file}");
    }
}

#[test]
fn crio_image_has_tag_and_digest() {
    let workload = workload(&capture("crio-config.json"), Path::new("/b"), &id("abc"), &Known::default());
    let image = workload.container.image.expect("has one");
    assert_eq!(image.tag.as_deref(), Some("latest"));
    let digest = "sha256:f38fc0203125e59a784423dc8d4eb43d719b400e4d95d73e23a253a0c5a78be6";
    assert_eq!(image.digest.as_deref(), Some(digest));
}

#[test]
fn containerd_tasks_are_known_by_their_folder() {
    let spec = json!({});
    for (bundle, engine) in [
        ("/run/containerd/io.containerd.runtime.v2.task/default/abc", "containerd"),
        ("/run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby/abc", "docker"),
        ("/run/containerd/io.containerd.runtime.v2.task/default/other", NO_ENGINE),
        ("/home/someone/bundle", NO_ENGINE),
    ] {
        assert_eq!(
            workload(&spec, Path::new(bundle), &id("abc"), &Known::default()).container.engine,
            engine,
            "{bundle}"
        );
    }
}

#[test]
fn docker_is_read_from_its_own_file() {
    let data = tempfile::tempdir().expect("temporary folder");
    let folder = data.path().join("containers/abc");
    fs::create_dir_all(&folder).expect("makes");
    let text = r#"{"Name":"/web","Config":{"Image":"registry.example:5000/app:1.2@sha256:00","Labels":{}},"Image":"sha256:11"}"#;
    fs::write(folder.join("config.v2.json"), text).expect("writes");
    let root = data.path().join("overlay2/xyz/merged");
    let hosts = folder.join("hosts");
    for spec in [
        json!({"root": {"path": root}}),
        json!({"root": {"path": "rootfs"}, "mounts": [{"destination": "/etc/hosts", "source": hosts}]}),
    ] {
        let container = workload(&spec, Path::new("/b"), &id("abc"), &Known::default()).container;
        assert_eq!((container.engine.as_str(), container.name.as_deref()), ("docker", Some("web")));
        let expected = Image {
            name: "registry.example:5000/app".to_owned(),
            tag: Some("1.2".to_owned()),
            digest: Some("sha256:00".to_owned()),
            id: None,
        };
        assert_eq!(container.image, Some(expected));
    }
}

#[test]
fn podman_is_read_from_the_storage() {
    let storage = tempfile::tempdir().expect("temporary folder");
    let folder = storage.path().join("overlay-containers");
    let bundle = folder.join("abc/userdata");
    fs::create_dir_all(&bundle).expect("makes");
    let text = r#"[{"id":"xyz"},{"id":"abc","names":["web"],"metadata":"{\"image-name\":\"localhost/lab/bb:latest\",\"name\":\"web\"}"}]"#;
    fs::write(folder.join("containers.json"), text).expect("writes");
    let spec = json!({"annotations": {"io.container.manager": "libpod", "io.podman.annotations.privileged": "TRUE"}});
    let found = workload(&spec, &bundle, &id("abc"), &Known { cluster: Some("c"), ..Known::default() });
    assert_eq!(found.container.name.as_deref(), Some("web"));
    assert_eq!(found.container.image, Some(split_image("localhost/lab/bb:latest")));
    assert!(found.privileged);
    assert_eq!(found.cluster.as_deref(), Some("c"));
}

#[test]
fn image_references() {
    for (reference, name, tag, digest) in [
        ("debian", "debian", None, None),
        ("debian:12", "debian", Some("12"), None),
        ("localhost:5000/a/b", "localhost:5000/a/b", None, None),
        ("localhost:5000/a/b:1@sha256:ff", "localhost:5000/a/b", Some("1"), Some("sha256:ff")),
        ("a@sha256:ff", "a", None, Some("sha256:ff")),
        ("sha256:ff", "sha256:ff", None, Some("sha256:ff")),
        ("", "", None, None),
    ] {
        let expected =
            Image { name: name.to_owned(), tag: tag.map(ToOwned::to_owned), digest: digest.map(ToOwned::to_owned), id: None };
        assert_eq!(split_image(reference), expected, "{reference}");
    }
}

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
    let id = "sha256:9710b259dba10b1efc1ed4df8c7ff17d97e48f3601ea9a380b90e4f86ebd3fd8";
    assert_eq!(image.id.as_deref(), Some(id));
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
fn podman_s_image_has_its_digest_and_id() {
    let storage = tempfile::tempdir().expect("temporary folder");
    let bundle = storage.path().join("overlay-containers/abc/userdata");
    let images = storage.path().join("overlay-images");
    fs::create_dir_all(&bundle).expect("makes");
    fs::create_dir_all(&images).expect("makes");
    let image_id = "a".repeat(64);
    let containers = json!([{"id": "abc", "names": null, "image": image_id, "metadata": "{\"image-name\":\"localhost/a:1\",\"name\":\"web\"}"}]);
    fs::write(storage.path().join("overlay-containers/containers.json"), containers.to_string()).expect("writes");
    let spec = json!({"annotations": {"io.container.manager": "libpod"}});
    let image_of = || workload(&spec, &bundle, &id("abc"), &Known::default()).container.image.expect("has one");
    assert_eq!(image_of().digest, None, "without a list of images");
    for (list, digest) in [
        (json!([{"id": "other", "digest": "sha256:11"}, {"id": image_id, "digest": "sha256:22"}]), Some("sha256:22")),
        (json!([{"id": image_id}]), None),
        (json!([{"id": image_id, "digest": ""}]), None),
        (json!({"not": "a list"}), None),
    ] {
        fs::write(images.join("images.json"), list.to_string()).expect("writes");
        let image = image_of();
        assert_eq!((image.name.as_str(), image.digest.as_deref()), ("localhost/a", digest), "{list}");
        assert_eq!(image.id, Some(format!("sha256:{image_id}")));
    }
    // in a long list one entry is parsed; a text that looks like one is none, and an id is a whole id
    let other = |number: usize| json!({"id": format!("{number:064x}"), "metadata": format!("{{\"id\":\"{image_id}\"")});
    let mut entries: Vec<Value> = (0..20_000).map(other).collect();
    entries.push(json!({"id": format!("{image_id}b"), "digest": "sha256:33"}));
    entries.push(json!({"id": image_id, "digest": "sha256:22"}));
    let long = Value::from(entries).to_string();
    assert!(long.len() > 3 * 1024 * 1024);
    fs::write(images.join("images.json"), &long).expect("writes");
    assert_eq!(image_of().digest.as_deref(), Some("sha256:22"));
    // more than a creation waits for
    fs::write(images.join("images.json"), long + &" ".repeat(8 * 1024 * 1024)).expect("writes");
    assert_eq!(image_of().digest, None);
}

#[test]
fn docker_s_image_has_the_digest_that_it_was_pulled_by() {
    let data = tempfile::tempdir().expect("temporary folder");
    let folder = data.path().join("containers/abc");
    let repositories = data.path().join("image/overlay2");
    fs::create_dir_all(&folder).expect("makes");
    fs::create_dir_all(&repositories).expect("makes");
    let image_id = format!("sha256:{}", "b".repeat(64));
    let spec = json!({"root": {"path": data.path().join("overlay2/xyz/merged")}});
    let image_of = |driver: &str| {
        let config = json!({"Name": "/web", "Driver": driver, "Image": image_id, "Config": {"Image": "team/app:1"}});
        fs::write(folder.join("config.v2.json"), config.to_string()).expect("writes");
        workload(&spec, Path::new("/b"), &id("abc"), &Known::default()).container.image.expect("has one")
    };
    assert_eq!(image_of("overlay2").digest, None, "without a list");
    let list = json!({"Repositories": {
        "other": {"other@sha256:00": image_id},
        "team/app": {"team/app:1": image_id, "team/app@sha256:11": "sha256:of-another-image", "team/app@sha256:22": image_id},
    }});
    fs::write(repositories.join("repositories.json"), list.to_string()).expect("writes");
    let image = image_of("overlay2");
    assert_eq!((image.digest.as_deref(), image.id.as_deref()), (Some("sha256:22"), Some(image_id.as_str())));
    assert_eq!(image_of("../image/overlay2").digest, None, "a driver is no path");
    fs::write(repositories.join("repositories.json"), "{").expect("writes");
    assert_eq!(image_of("overlay2").digest, None);
}

#[test]
fn nerdctl_names_its_containers_in_annotations() {
    let bundle = Path::new("/run/containerd/io.containerd.runtime.v2.task/default/abc");
    let named = json!({"annotations": {"nerdctl/name": "web", "nerdctl/namespace": "default"}});
    let container = workload(&named, bundle, &id("abc"), &Known::default()).container;
    assert_eq!((container.engine.as_str(), container.name.as_deref()), ("containerd", Some("web")));
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
        let expected = Image {
            name: name.to_owned(),
            tag: tag.map(ToOwned::to_owned),
            digest: digest.map(ToOwned::to_owned),
            id: None,
        };
        assert_eq!(split_image(reference), expected, "{reference}");
    }
}

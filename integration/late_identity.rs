//! What an engine tells of a container only after its creation: a second event, once, that no creation waits for.
//! containerd itself is asked by `integration/engines/run`.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use acctguard::model::event::{Event, Kind};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::harness::bundle::{Bundle, Spec};
use crate::harness::command::{Done, finish};
use crate::harness::events::of;
use crate::harness::node::{Node, Runtime};

/// What containers of one image may do, whatever others may.
const POLICY: &str = "apiVersion: acctguard.io/v1alpha1\nkind: AccountPolicy\nmetadata: {name: test-late}\n\
    spec:\n  match: {images: [\"lab/late:*\"]}\n  mode: enforce\n  creation: {images: [\"lab/other\"], onUnexpected: refuse}\n";

/// The bundle's configuration in `folder`, where an engine would have it, and the command that makes a container of it.
fn placed(node: &Node, bundle: &Bundle, folder: &Path, annotations: &Value) -> std::process::Command {
    fs::create_dir_all(folder).expect("make a bundle's folder");
    let mut config = bundle.config();
    config["root"]["path"] = json!(bundle.folder.join("rootfs"));
    config["annotations"] = annotations.clone();
    fs::write(folder.join("config.json"), config.to_string()).expect("write config.json");
    let mut command = node.shim();
    command.args(["create", "--bundle"]).arg(folder).arg(&bundle.id);
    command
}

/// A container of podman's whose entry in the storage's list is not written yet; the list.
fn of_podman(node: &Node) -> (Bundle, PathBuf) {
    let bundle = node.bundle(&Spec::idle());
    let storage = node.scratch.folder("storage").join("overlay-containers");
    let folder = storage.join(&bundle.id).join("userdata");
    finish(&mut placed(node, &bundle, &folder, &json!({"io.container.manager": "libpod"}))).ok();
    finish(node.shim().arg("start").arg(&bundle.id)).ok();
    (bundle, storage.join("containers.json"))
}

fn write_entry(list: &Path, bundle: &Bundle) {
    let metadata = json!({"image-name": "lab/late:1", "name": "web"}).to_string();
    let entries = json!([{"id": bundle.id, "names": ["web"], "image": "0f".repeat(32), "metadata": metadata}]);
    fs::write(list, entries.to_string()).expect("write containers.json");
}

fn created(node: &Node, bundle: &Bundle) -> Event {
    node.wait_for("the creation record", |events| {
        of(events, Kind::ContainerCreated, &bundle.id).first().map(|event| (*event).clone())
    })
}

fn identified(node: &Node, bundle: &Bundle) -> Event {
    node.wait_for("what the engine told late", |events| {
        of(events, Kind::ContainerIdentified, &bundle.id).first().map(|event| (*event).clone())
    })
}

#[track_caller]
fn assert_told_once(node: &Node, bundle: &Bundle) {
    assert_eq!(of(&node.events(), Kind::ContainerIdentified, &bundle.id).len(), 1, "{}", node.log_text());
}

fn replace_worker(node: &Node) {
    let worker = node.worker_pid();
    kill(worker, Signal::SIGKILL).expect("kill the worker");
    while node.worker_pid() == worker || !node.answers() {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn add_account(node: &Node, bundle: &Bundle) -> Done {
    node.exec(bundle, &["/bin/sh", "-c", "useradd mallory"])
}

/// The first event has no name for want of a later one, the second has it and says whose it is; policy goes by it.
#[test]
fn a_late_answer_is_a_second_event() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, POLICY);
        let (bundle, list) = of_podman(&node);
        let first = created(&node, &bundle);
        let container = first.container.as_ref().expect("container");
        assert_eq!((container.engine.as_str(), &container.name, &container.image), ("podman", &None, &None));
        assert_eq!(first.policy.as_ref().expect("policy").mode, "audit");
        assert!(of(&node.events(), Kind::ContainerIdentified, &bundle.id).is_empty(), "nothing is told yet");
        write_entry(&list, &bundle);
        let second = identified(&node, &bundle);
        let identification = second.identification.expect("identification");
        assert_eq!(identification.creation, first.id);
        let verdict = identification.verdict.expect("a verdict, by what is known now");
        assert_eq!((verdict.result.as_str(), verdict.refused), ("unexpected", false), "{verdict:?}");
        let told = second.container.expect("container");
        let image = told.image.as_ref().expect("an image");
        assert_eq!(
            (told.name.as_deref(), image.name.as_str(), image.tag.as_deref()),
            (Some("web"), "lab/late", Some("1"))
        );
        assert_eq!(told.started_at, container.started_at, "what was known stays");
        let policy = second.policy.expect("policy");
        assert_eq!((policy.name.as_str(), policy.mode.as_str()), ("test-late", "enforce"));
        // the policy comes into force a moment after the record
        let deadline = Instant::now() + Duration::from_secs(5);
        while !node.log_text().contains("policy goes by what its engine told") {
            assert!(Instant::now() < deadline, "{}", node.log_text());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_ne!(add_account(&node, &bundle).code(), 0, "the policy of its image refuses that");
        let finding = node.wait_for("the finding", |events| {
            of(events, Kind::AccountFinding, &bundle.id).first().map(|event| (*event).clone())
        });
        assert_eq!(finding.container, Some(told.clone()), "findings name it from then on");
        let listed: Value = serde_json::from_str(&node.acctguard(&["containers", "--json"]).ok().stdout).expect("JSON");
        assert_eq!(listed["workload"]["container"]["name"], "web");
        let shown = node.acctguard(&["events", "--kind", "container.identified"]).ok().stdout;
        assert!(shown.contains("named by its engine — unexpected"), "{shown}");
        replace_worker(&node);
        assert_told_once(&node, &bundle);
        assert_ne!(add_account(&node, &bundle).code(), 0, "the next worker knows it, too");
    }
}

/// A worker that follows a killed one asks anew for what is not on record, and not for what is.
#[test]
fn it_is_told_once_whoever_tells() {
    let node = Node::start(Runtime::Runc, POLICY);
    let (bundle, list) = of_podman(&node);
    let first = created(&node, &bundle);
    replace_worker(&node);
    write_entry(&list, &bundle);
    let second = identified(&node, &bundle);
    assert_eq!(second.identification.expect("identification").creation, first.id);
    replace_worker(&node);
    // longer than the next worker takes to ask
    std::thread::sleep(Duration::from_secs(1));
    assert_told_once(&node, &bundle);
}

/// An engine that takes a question and never answers costs its containers nothing but the answer, and others not even that.
#[test]
fn an_engine_that_hangs_delays_nothing() {
    let node = Node::start(Runtime::Runc, POLICY);
    let of_containerd = |state: &Path| {
        let bundle = node.bundle(&Spec::shell("true"));
        let folder = state.join("io.containerd.runtime.v2.task/lab").join(&bundle.id);
        let mut command = placed(&node, &bundle, &folder, &json!({}));
        let begun = Instant::now();
        finish(&mut command).ok();
        let took = begun.elapsed();
        assert_eq!(created(&node, &bundle).container.expect("container").engine, "containerd");
        finish(node.shim().args(["delete", "--force", &bundle.id])).ok();
        took
    };
    let (hangs, absent) = (node.scratch.folder("hangs"), node.scratch.folder("absent"));
    let listener = UnixListener::bind(hangs.join("containerd.sock")).expect("listen");
    listener.set_nonblocking(true).expect("set non-blocking");
    let fastest = |state: &Path| (0..4).map(|_| of_containerd(state)).min().expect("four");
    let (with, without) = (fastest(&hangs), fastest(&absent));
    assert!(with < without + Duration::from_millis(300), "{with:?} with an engine that hangs, {without:?} without any");
    let deadline = Instant::now() + Duration::from_secs(10);
    while listener.accept().is_err() {
        assert!(Instant::now() < deadline, "the engine was never asked:\n{}", node.log_text());
        std::thread::sleep(Duration::from_millis(20));
    }
    let (bundle, list) = of_podman(&node);
    write_entry(&list, &bundle);
    identified(&node, &bundle);
}

//! CRI-O's own seccomp notifier (`seccomp-notifier-action.crio.io`): CRI-O turns what a profile refuses into notifications to a socket of
//! its own. A filter has one listener, so that audit leaves CRI-O's and says so, and enforce refuses the container.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use acctguard::kernel::fd_passing;
use acctguard::model::event::{Event, Kind};
use serde_json::{Value, json};

use crate::harness::bundle::{Bundle, Spec};
use crate::harness::events::of;
use crate::harness::machine::repository;
use crate::harness::node::{Node, Runtime, policy};

fn capture() -> Value {
    let file = repository().join("integration/fixtures/captures/crio-seccompnotifier-config.json");
    serde_json::from_slice(&std::fs::read(file).expect("read the capture")).expect("parse the capture")
}

/// A container with CRI-O's annotations, and the profile that CRI-O made for its notifier at this socket.
fn container(node: &Node) -> (Bundle, PathBuf) {
    let capture = capture();
    assert_eq!(capture["annotations"]["io.kubernetes.cri-o.seccompNotifierAction"], "log");
    let bundle = node.bundle(&Spec::new(&["/bin/busybox", "touch", "/ran"]));
    let socket = node.scratch.folder("crio").join(&bundle.id);
    let mut config = bundle.config();
    config["annotations"] = capture["annotations"].clone();
    config["linux"]["seccomp"] = capture["linux"]["seccomp"].clone();
    config["linux"]["seccomp"]["listenerPath"] = json!(socket);
    bundle.write_config(&config);
    (bundle, socket)
}

/// CRI-O's side: takes what the runtime delivers and keeps the listener open. The text that came with a descriptor.
fn notifier(socket: &PathBuf) -> Receiver<String> {
    let listener = UnixListener::bind(socket).expect("listen as CRI-O");
    let (sender, received) = channel();
    std::thread::spawn(move || {
        let Ok((stream, _)) = listener.accept() else { return };
        let (mut text, mut descriptors) = (Vec::new(), Vec::new());
        while serde_json::from_slice::<Value>(&text).is_err() {
            let mut buffer = vec![0; 65_536];
            match fd_passing::receive(stream.as_fd(), &mut buffer) {
                Ok((count, more)) if count > 0 => {
                    text.extend_from_slice(&buffer[..count]);
                    descriptors.extend(more);
                }
                _ => return,
            }
        }
        if descriptors.len() == 1 {
            // nobody waits for it any more when the test has failed
            let _ = sender.send(String::from_utf8_lossy(&text).into_owned());
        }
        // as long as CRI-O watches, the listener stays open
        std::thread::sleep(Duration::from_secs(20));
    });
    received
}

fn created(node: &Node, bundle: &Bundle) -> Event {
    node.wait_for("the creation record", |events| {
        of(events, Kind::ContainerCreated, &bundle.id).first().map(|event| (*event).clone())
    })
}

#[test]
fn audit_leaves_crio_its_notifier_and_says_that_nothing_is_intercepted() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("audit"));
        let (bundle, socket) = container(&node);
        let before = bundle.config()["linux"]["seccomp"].clone();
        let received = notifier(&socket);
        node.run(&bundle).ok();
        assert!(bundle.path("/ran").exists(), "it ran");
        let state = received.recv_timeout(Duration::from_secs(5)).expect("CRI-O got its listener");
        let state: Value = serde_json::from_str(&state).expect("a state");
        assert_eq!(state["state"]["id"], bundle.id.as_str());
        assert_eq!(bundle.config()["linux"]["seccomp"], before, "the profile is CRI-O's, to the last rule");
        let event = created(&node, &bundle);
        assert_eq!(event.container.expect("container").engine, "cri-o");
        let protection = event.creation.expect("creation").protection;
        assert!(!protection.intercepted);
        let names_it = |reason: &String| reason.contains(&socket.display().to_string());
        assert!(protection.reasons.iter().any(names_it), "{:?}", protection.reasons);
    }
}

#[test]
fn enforce_refuses_what_only_crio_would_hear_of() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("enforce"));
        let (bundle, socket) = container(&node);
        let received = notifier(&socket);
        let done = node.run(&bundle);
        assert_ne!(done.code(), 0);
        assert!(!bundle.path("/ran").exists(), "it ran");
        assert!(done.stderr.contains(&socket.display().to_string()), "no reason for the user: {}", done.stderr);
        assert!(received.try_recv().is_err(), "the runtime was called all the same");
        // refused before there is anything to be created
        let told = node.wait_for("the refusal", |events| {
            of(events, Kind::ProtectionDegraded, &bundle.id).first().map(|event| (*event).clone())
        });
        let told = told.protection.expect("protection");
        assert_eq!(told.what, "container refused");
        assert!(told.reason.contains(&socket.display().to_string()), "{}", told.reason);
    }
}

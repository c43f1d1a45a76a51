//! The launcher in front of real entrypoints, under enforce: what it leaves exactly as it was, what it seals, and where it
//! stays out.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use acctguard::model::event::{Event, Kind};
use acctguard::model::policy::Ground;
use serde_json::{Value, json};

use crate::harness::bundle::{Bundle, Capabilities, Spec};
use crate::harness::command::{Done, finish};
use crate::harness::events::of;
use crate::harness::node::{Node, Runtime, policy};

/// Policy `enforce` with more lines under `spec`.
fn enforce(more: &str) -> String {
    format!("{}{more}", policy("enforce"))
}

/// The creation record's ground and reasons.
#[track_caller]
fn standing(node: &Node, bundle: &Bundle) -> (Ground, String) {
    let events = node.events();
    let created = of(&events, Kind::ContainerCreated, &bundle.id);
    let creation = created.last().expect("a creation record").creation.as_ref().expect("creation");
    (creation.protection.ground, creation.protection.reasons.join("; "))
}

/// Ground and reasons of the last exec session.
#[track_caller]
fn session(node: &Node, bundle: &Bundle) -> (Option<Ground>, String) {
    let events = node.events();
    let sessions = of(&events, Kind::ContainerExec, &bundle.id);
    let session = sessions.last().and_then(|event: &&Event| event.session.clone()).expect("a session");
    (session.ground, session.reasons.join("; "))
}

#[test]
fn an_enforced_container_is_sealed_and_says_so() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("enforce"));
        let bundle = node.bundle(&Spec::shell("echo started; cat /proc/self/status"));
        let done = node.run(&bundle).ok();
        assert!(done.stdout.starts_with("started\n"), "{}", done.stdout);
        assert_eq!(standing(&node, &bundle), (Ground::Seal, String::new()));
        let creation = of(&node.events(), Kind::ContainerCreated, &bundle.id)[0].creation.clone().expect("creation");
        assert_eq!(creation.parameters.args[0], "/bin/sh", "the record tells what the engine asked for");
        assert!(!creation.parameters.capabilities["bounding"].contains(&"CAP_SYS_ADMIN".to_owned()));
        let config = bundle.config();
        assert_eq!(config["process"]["args"][0], "/bin/sh", "nothing lent is left for a later exec: {config}");
    }
}

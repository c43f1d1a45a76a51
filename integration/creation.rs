//! The creation record (DC0072): who created a container, from where, with which parameters, which accounts it had, and what
//! policy thinks of it.

use std::fs;

use acctguard::model::event::{Event, Kind};

use crate::harness::bundle::{Bundle, Capabilities, Spec};
use crate::harness::events::of;
use crate::harness::node::{Node, Runtime, policy};

fn record(node: &Node, bundle: &Bundle) -> Event {
    node.wait_for("the creation record", |events| {
        of(events, Kind::ContainerCreated, &bundle.id).first().map(|event| (*event).clone())
    })
}

/// Every part of the record, as the engine's `config.json` and the kernel have it; values of variables never leave.
#[test]
fn the_record_is_full() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("enforce"));
        let mut spec = Spec::new(&["/bin/sh", "-c", "true", "--password=hunter2"]);
        spec.engine_seccomp = true;
        spec.no_new_privileges = true;
        let shared = node.scratch.folder("shared");
        spec.binds.push((shared.clone(), "/data".to_owned()));
        let bundle = node.bundle(&spec);
        let mut config = bundle.config();
        config["process"]["env"].as_array_mut().expect("list").push("TOKEN=s3cr3t-value".into());
        bundle.write_config(&config);
        node.run(&bundle).ok();
        let event = record(&node, &bundle);
        assert_eq!(serde_json::to_value(&event.attack).expect("print")["data_component"], "DC0072");
        let text = serde_json::to_string(&event).expect("print");
        assert!(!text.contains("s3cr3t") && !text.contains("hunter2"), "a secret left: {text}");
        let container = event.container.as_ref().expect("container");
        assert_eq!((container.runtime.as_deref(), container.engine.as_str()), (Some(runtime.name()), "none"));
        let creation = event.creation.expect("creation");
        assert_eq!((creation.creator.uid, creation.creator.user.as_deref()), (0, Some("root")));
        let own = std::process::id();
        assert!(creation.creator.ancestry.iter().any(|process| process.pid == own), "{:?}", creation.creator.ancestry);
        let parameters = creation.parameters;
        assert_eq!(parameters.args[..3], ["/bin/sh", "-c", "true"]);
        assert_eq!(parameters.user.expect("user").uid, 0);
        assert_eq!(parameters.cwd.as_deref(), Some("/"));
        assert_eq!(parameters.hostname.as_deref(), Some("guarded"));
        assert!(parameters.no_new_privileges && !parameters.privileged && !parameters.read_only_root);
        assert_eq!(parameters.capabilities["bounding"].len(), 14);
        assert_eq!(parameters.seccomp, "SCMP_ACT_ERRNO");
        assert!(parameters.env_names.iter().any(|name| name == "TOKEN"), "{:?}", parameters.env_names);
        let shared_namespaces = &parameters.host_namespaces;
        assert!(!shared_namespaces.iter().any(|name| name == "pid" || name == "network"), "{shared_namespaces:?}");
        let mount = parameters.mounts.iter().find(|mount| mount.destination == "/data").expect("mount");
        assert_eq!(mount.source.as_deref(), shared.to_str());
        let accounts = creation.accounts.expect("baseline");
        assert_eq!(
            accounts.count,
            Bundle::original("/etc/passwd").iter().filter(|byte| **byte == b'\n').count() as u64
        );
        assert_eq!(accounts.uid_zero, ["root"]);
        assert!(accounts.databases.iter().any(|path| path == "/etc/shadow"));
        assert!(creation.protection.intercepted, "{:?}", creation.protection);
        assert_eq!(event.policy.expect("policy").name, "test-enforce");
    }
}

#[test]
fn a_privileged_container_says_so() {
    let node = Node::start(Runtime::Runc, &policy("audit"));
    let mut spec = Spec::shell("true");
    spec.capabilities = Capabilities::All;
    let bundle = node.bundle(&spec);
    let mut config = bundle.config();
    config["linux"]["resources"] = serde_json::json!({"devices": [{"allow": true, "access": "rwm"}]});
    let namespaces = config["linux"]["namespaces"].as_array_mut().expect("list");
    namespaces.retain(|namespace| namespace["type"] != "network" && namespace["type"] != "ipc");
    bundle.write_config(&config);
    node.run(&bundle).ok();
    let parameters = record(&node, &bundle).creation.expect("creation").parameters;
    assert!(parameters.privileged, "{parameters:?}");
    for name in ["network", "ipc"] {
        assert!(parameters.host_namespaces.iter().any(|own| own == name), "{:?}", parameters.host_namespaces);
    }
    assert_eq!(parameters.seccomp, "none");
}

/// A root file system that brings a second account with uid 0 says so before anything ran.
#[test]
fn the_baseline_names_every_uid_zero() {
    let node = Node::start(Runtime::Crun, &policy("audit"));
    let bundle = node.bundle(&Spec::shell("true"));
    let passwd =
        format!("{}backdoor:x:0:0::/root:/bin/sh\n", String::from_utf8_lossy(&Bundle::original("/etc/passwd")));
    bundle.put("/etc/passwd", passwd.as_bytes(), 0o644);
    node.run(&bundle).ok();
    let accounts = record(&node, &bundle).creation.expect("creation").accounts.expect("baseline");
    assert_eq!(accounts.uid_zero, ["root", "backdoor"]);
}

/// A root file system without any database, or with one that is no text, is no reason to fail.
#[test]
fn strange_databases_do_not_stop_a_container() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("audit"));
        let bundle = node.bundle(&Spec::new(&["/bin/busybox", "true"]));
        for path in ["/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow"] {
            fs::remove_file(bundle.path(path)).expect("remove");
        }
        node.run(&bundle).ok();
        record(&node, &bundle);
        let bundle = node.bundle(&Spec::new(&["/bin/busybox", "true"]));
        bundle.put("/etc/passwd", &[0xff, 0, b'\n', b':', b':', b'\n'].repeat(10_000), 0o644);
        nix::unistd::unlink(&bundle.path("/etc/shadow")).expect("unlink");
        nix::unistd::mkfifo(&bundle.path("/etc/shadow"), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        node.run(&bundle).ok();
        record(&node, &bundle);
    }
}

/// `creation.onUnexpected`: what is not expected is on record as that, and refused where policy says so, with a reason.
#[test]
fn unexpected_containers_are_recorded_or_refused() {
    for runtime in Runtime::ALL {
        for (on_unexpected, starts) in [("record", true), ("refuse", false)] {
            let rule = format!(
                "{}  creation: {{images: [\"registry.example/*\"], onUnexpected: {on_unexpected}}}\n",
                policy("audit")
            );
            let node = Node::start(runtime, &rule);
            let bundle = node.bundle(&Spec::shell("touch /ran"));
            let done = node.run(&bundle);
            assert_eq!(done.code() == 0, starts, "{}", done.stderr);
            assert_eq!(bundle.path("/ran").exists(), starts);
            let verdict = record(&node, &bundle).creation.expect("creation").verdict;
            assert_eq!((verdict.result.as_str(), verdict.refused), ("unexpected", !starts), "{verdict:?}");
            assert!(!verdict.reasons.is_empty());
            if !starts && runtime == Runtime::Runc {
                assert!(done.stderr.contains("image"), "no reason for the user: {}", done.stderr);
            }
        }
    }
}

//! Containers of a runtime that is not replaced and has no hooks, with a profile of `acctguard profile generate`.

use std::fs;

use acctguard::model::event::{Kind, Outcome};
use serde_json::{Value, json};

use crate::harness::bundle::Spec;
use crate::harness::events::of;
use crate::harness::machine::repository;
use crate::harness::node::{Node, Runtime, policy};

const APPEND: &str = "echo eve:x:0:0::/:/bin/sh >> /etc/passwd; echo code $?; true";

/// What the command prints for `arguments`.
fn generated(node: &Node, arguments: &[&str]) -> Value {
    let done = node.acctguard(&[&["profile", "generate"], arguments].concat()).ok();
    assert_eq!(done.stderr, "", "nothing is left unwatched");
    serde_json::from_str(&done.stdout).expect("JSON")
}

#[track_caller]
fn check(runtime: Runtime, mode: &str, outcome: Outcome, printed: &str) {
    let node = Node::start(runtime, &policy(mode));
    let base = repository().join("integration/fixtures/engine-seccomp.json");
    let base = base.to_str().expect("UTF-8");
    for arguments in [[].as_slice(), &["--base", base], &["--base", base, "--resolve"]] {
        let bundle = node.bundle(&Spec::shell(APPEND));
        let file = bundle.folder.join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&file).expect("read")).expect("JSON");
        spec["linux"]["seccomp"] = generated(&node, arguments);
        fs::write(&file, spec.to_string()).expect("write");
        let done = node.run_bare(&bundle).ok();
        assert!(done.stdout.contains(printed), "{arguments:?}: {done:?}\n{}", node.log_text());
        let told = |kind: Kind| {
            node.wait_for("an event", |events| {
                of(events, kind, &bundle.id)
                    .first()
                    .and_then(|event| event.verdict.as_ref())
                    .map(|verdict| verdict.result)
            })
        };
        assert_eq!(told(Kind::AccountAttempt), outcome, "{arguments:?}");
        assert_eq!(told(Kind::AccountFinding), outcome, "{arguments:?}");
    }
}

#[test]
fn runc_audit() {
    check(Runtime::Runc, "audit", Outcome::Allowed, "code 0");
}

#[test]
fn runc_enforce() {
    check(Runtime::Runc, "enforce", Outcome::Blocked, "code 2");
}

#[test]
fn crun_audit() {
    check(Runtime::Crun, "audit", Outcome::Allowed, "code 0");
}

#[test]
fn crun_enforce() {
    check(Runtime::Crun, "enforce", Outcome::Blocked, "code 2");
}

#[test]
fn a_base_that_will_not_do_is_one_line() {
    let node = Node::prepare(Runtime::Runc, &policy("audit"), "");
    let file = node.scratch.path().join("base.json");
    let path = file.to_str().expect("UTF-8");
    let foreign = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/other.sock"}).to_string();
    for (text, told) in [
        ("{\"defaultAction\": ", "is not JSON"),
        ("{\"defaultAction\": \"SCMP_ACT_NONE\"}", "SCMP_ACT_NONE"),
        (foreign.as_str(), "/run/other.sock"),
    ] {
        fs::write(&file, text).expect("write");
        let done = node.acctguard(&["profile", "generate", "--base", path]);
        assert_eq!((done.code(), done.stdout.as_str()), (64, ""), "{done:?}");
        assert!(done.stderr.lines().count() == 1 && done.stderr.contains(told), "{done:?}");
    }
    let done = node.acctguard(&["profile", "generate", "--base", "/no/such/file"]);
    assert!(done.code() == 64 && done.stderr.contains("/no/such/file"), "{done:?}");
}

//! Overlays that hold no database, mounted by a workload with all capabilities: each call ends as without acctguard, and what
//! is written to one goes where it went (`calls overlays`, `fixtures/calls.c`).

use acctguard::model::event::Kind;

use crate::harness::bundle::{Bundle, Capabilities, Spec};
use crate::harness::command::finish;
use crate::harness::events::of;
use crate::harness::machine::calls_program;
use crate::harness::node::{Node, Runtime, policy};

/// Who makes the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Container,
    Exec,
}

fn bundle(node: &Node, arguments: &[&str]) -> Bundle {
    let mut spec = Spec::new(arguments);
    spec.capabilities = Capabilities::All;
    let bundle = node.bundle(&spec);
    bundle.put("/calls", calls_program(), 0o755);
    bundle
}

fn check(runtime: Runtime, mode: &str, entry: Entry, abi: &str) {
    let node = Node::start(runtime, &policy(mode));
    let arguments = ["/calls", "overlays", abi];
    let without = node.run_bare(&bundle(&node, &arguments)).ok().stdout;
    let made = without.lines().filter(|line| line.contains(": 0")).count();
    assert!(made > 15, "too few calls went through: {without}");
    let (bundle, with) = match entry {
        Entry::Container => {
            let bundle = bundle(&node, &arguments);
            let with = node.run(&bundle).ok().stdout;
            (bundle, with)
        }
        Entry::Exec => {
            let bundle = bundle(&node, &["/bin/busybox", "sleep", "3600"]);
            node.create(&bundle).ok();
            finish(node.shim().arg("start").arg(&bundle.id)).ok();
            let with = node.exec(&bundle, &arguments).ok().stdout;
            node.delete(&bundle).ok();
            (bundle, with)
        }
    };
    let lines = without.lines().zip(with.lines());
    let differing: Vec<String> =
        lines.filter(|(without, with)| without != with).map(|(without, with)| format!("{without} | {with}")).collect();
    assert!(differing.is_empty(), "without acctguard | with it:\n{}", differing.join("\n"));
    assert_eq!(without.lines().count(), with.lines().count());
    node.wait_for("the end", |events| of(events, Kind::ContainerExited, &bundle.id).pop().map(|_| ()));
    let findings = of(&node.events(), Kind::AccountFinding, &bundle.id).len();
    assert_eq!(findings, 0, "no database was concerned");
}

each_way! { check }

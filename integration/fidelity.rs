//! The same random sequences of file operations (`fixtures/fileops.c`) in a plain container and in an enforced one: the same
//! outcome, errno by errno, and the same tree, whatever carries the operations out.

use crate::harness::bundle::{Bundle, Capabilities, Spec};
use crate::harness::command::{Done, finish};
use crate::harness::machine::compiled;
use crate::harness::node::{Node, Runtime, policy};

/// Sequences of one run. Of those there are four.
const SEQUENCES: u32 = 2_500;

/// Sequences of one container: a command may take two minutes, on a machine that has other things to do too.
const AT_A_TIME: u32 = 500;

/// Sequences that are told in full when they differ.
const SHOWN: usize = 12;

/// Who runs the sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Container,
    Exec,
}

fn bundle(node: &Node, arguments: &[&str], capabilities: Capabilities) -> Bundle {
    let mut spec = Spec::new(arguments);
    spec.capabilities = capabilities;
    let bundle = node.bundle(&spec);
    bundle.put("/fileops", &compiled("fileops.c"), 0o755);
    bundle
}

fn enforced(node: &Node, entry: Entry, arguments: &[&str], capabilities: Capabilities) -> Done {
    match entry {
        Entry::Container => node.run(&bundle(node, arguments, capabilities)),
        Entry::Exec => {
            let bundle = bundle(node, &["/bin/busybox", "sleep", "3600"], capabilities);
            node.create(&bundle).ok();
            finish(node.shim().arg("start").arg(&bundle.id)).ok();
            node.exec(&bundle, arguments)
        }
    }
}

fn check(runtime: Runtime, entry: Entry, first: u32, capabilities: Capabilities) {
    let node = Node::start(runtime, &policy("enforce"));
    let run = |first: u32, count: u32, more: &[&str]| {
        let (first, count) = (first.to_string(), count.to_string());
        let arguments = [&["/fileops", &first, &count], more].concat();
        let plain = node.run_bare(&bundle(&node, &arguments, capabilities)).ok();
        (plain.stdout, enforced(&node, entry, &arguments, capabilities).ok().stdout)
    };
    let starts = (first..first + SEQUENCES).step_by(AT_A_TIME as usize);
    let (plain, enforced): (String, String) = starts.map(|start| run(start, AT_A_TIME, &[])).unzip();
    assert_eq!(plain.lines().count(), SEQUENCES as usize, "too few sequences ran");
    let different: Vec<_> = plain.lines().zip(enforced.lines()).filter(|(plain, enforced)| plain != enforced).collect();
    println!("{runtime:?} {entry:?}: {SEQUENCES} sequences, {} differences", different.len());
    if different.is_empty() {
        assert_eq!(plain, enforced);
        return;
    }
    let stories: Vec<String> = different
        .iter()
        .take(SHOWN)
        .map(|(line, _)| {
            let seed: u32 = line.split(' ').next().and_then(|word| word.parse().ok()).expect("a number");
            let (plain, enforced) = run(seed, 1, &["verbose"]);
            let first = plain.lines().zip(enforced.lines()).find(|(plain, enforced)| plain != enforced);
            first
                .map(|(plain, enforced)| format!("{line}\n- {plain}\n+ {enforced}"))
                .unwrap_or_else(|| line.to_string())
        })
        .collect();
    panic!(
        "{} of {SEQUENCES} sequences differ; the first operations that do:\n{}",
        different.len(),
        stories.join("\n")
    );
}

#[test]
fn runc_container() {
    check(Runtime::Runc, Entry::Container, 1, Capabilities::Engine);
}

#[test]
fn runc_exec() {
    check(Runtime::Runc, Entry::Exec, 10_001, Capabilities::All);
}

#[test]
fn crun_container() {
    check(Runtime::Crun, Entry::Container, 20_001, Capabilities::All);
}

#[test]
fn crun_exec() {
    check(Runtime::Crun, Entry::Exec, 30_001, Capabilities::Engine);
}

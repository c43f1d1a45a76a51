//! Ordinary programs, unmodified, behave the same with and without acctguard, in audit, sealed, and brokered: same exit codes,
//! same output, same files; and none of them is a finding, because none changes an account database.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use acctguard::model::event::Kind;
use sha2::{Digest as _, Sha256};

use crate::harness::bundle::{Bundle, Spec};
use crate::harness::command::finish;
use crate::harness::events::of;
use crate::harness::machine::repository;
use crate::harness::node::{Node, Runtime, policy};

/// What a run leaves in places that tell of the time or of inode numbers.
const TELL_TIME: [&str; 7] =
    ["var/log", "var/cache/ldconfig", "var/cache/apt", "var/lib/dpkg/lock", "run", "tmp", "var/lib/dpkg/triggers/Lock"];

const PROGRAMS: [&str; 2] = ["/bin/sh", "/programs.sh"];

/// Who runs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Container,
    Exec,
}

/// Which seccomp profile their engine gave them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Profile {
    Engine,
    None,
}

fn bundle(node: &Node, profile: Profile, arguments: &[&str]) -> Bundle {
    let mut spec = Spec::new(arguments);
    spec.rootfs = "large";
    spec.engine_seccomp = profile == Profile::Engine;
    let bundle = node.bundle(&spec);
    let script = fs::read(repository().join("integration/fixtures/programs.sh")).expect("read programs.sh");
    bundle.put("/programs.sh", &script, 0o644);
    bundle
}

/// Every file that a container made or changed: type, mode, owner, links, and a digest of what is in it.
fn files(bundle: &Bundle) -> BTreeMap<String, String> {
    let upper = bundle.folder.join("upper");
    let mut found = BTreeMap::new();
    walk(&upper, &upper, &mut found);
    found
}

fn walk(base: &Path, folder: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).expect("read folder") {
        let path = entry.expect("entry").path();
        let name = path.strip_prefix(base).expect("below").to_string_lossy().into_owned();
        if TELL_TIME.iter().any(|place| name.starts_with(place)) {
            continue;
        }
        let status = fs::symlink_metadata(&path).expect("lstat");
        let content = if status.is_symlink() {
            hex(fs::read_link(&path).expect("readlink").as_os_str().as_bytes())
        } else if status.is_file() {
            hex(&fs::read(&path).expect("read"))
        } else {
            String::new()
        };
        let links = if status.is_dir() { 0 } else { status.nlink() };
        found.insert(name, format!("{:o} {}:{} {links} {content}", status.mode(), status.uid(), status.gid()));
        if status.is_dir() {
            walk(base, &path, found);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn results(bundle: &Bundle, ending: &str) -> BTreeMap<String, String> {
    let entries = fs::read_dir(bundle.path("/out")).expect("read /out").map(|entry| entry.expect("entry").path());
    let matching = entries.filter(|path| path.extension().is_some_and(|extension| extension == ending));
    matching
        .map(|path| {
            let name = path.file_stem().expect("name").to_string_lossy().into_owned();
            (name, String::from_utf8_lossy(&fs::read(&path).expect("read")).into_owned())
        })
        .collect()
}

/// Programs that must work at all; the rest is to fail, and to fail alike.
const FAIL: [&str; 6] = ["rm", "gcc", "dpkg_remove", "setpriv", "su", "missing"];

/// Runs them through acctguard.
fn run_guarded(node: &Node, profile: Profile, entry: Entry) -> Bundle {
    match entry {
        Entry::Container => {
            let guarded = bundle(node, profile, &PROGRAMS);
            node.run(&guarded).ok();
            guarded
        }
        Entry::Exec => {
            let guarded = bundle(node, profile, &["/bin/busybox", "sleep", "3600"]);
            node.create(&guarded).ok();
            finish(node.shim().arg("start").arg(&guarded.id)).ok();
            node.exec(&guarded, &PROGRAMS).ok();
            finish(node.shim().args(["kill", &guarded.id, "KILL"])).ok();
            guarded
        }
    }
}

fn compare(runtime: Runtime, mode: &str, entry: Entry, profile: Profile) {
    let node = Node::start(runtime, &policy(mode));
    let plain = bundle(&node, profile, &PROGRAMS);
    node.run_bare(&plain).ok();
    let guarded = run_guarded(&node, profile, entry);
    let codes = results(&plain, "code");
    assert!(codes.len() >= 40, "only {} programs ran", codes.len());
    for (name, code) in &codes {
        let failed = code.trim() != "0";
        let stderr = &results(&plain, "stderr")[name];
        assert_eq!(failed, FAIL.contains(&name.as_str()), "{name} without acctguard ended with {code}: {stderr}");
    }
    assert_eq!(codes, results(&guarded, "code"), "exit codes; stderr: {:#?}", results(&guarded, "stderr"));
    for ending in ["stdout", "stderr"] {
        let (before, after) = (results(&plain, ending), results(&guarded, ending));
        for (name, output) in &before {
            assert_eq!(Some(output), after.get(name), "{ending} of {name}");
        }
    }
    let (before, after) = (files(&plain), files(&guarded));
    let differing = before
        .iter()
        .filter(|(name, state)| after.get(*name) != Some(*state))
        .map(|(name, state)| format!("{name}: {state} | {}", after.get(name).map_or("absent", String::as_str)));
    let more =
        after.keys().filter(|name| !before.contains_key(*name)).map(|name| format!("{name}: only with acctguard"));
    let differences: Vec<String> = differing.chain(more).collect();
    assert!(differences.is_empty(), "files differ:\n{}", differences.join("\n"));
    node.wait_for("the end", |events| of(events, Kind::ContainerExited, &guarded.id).pop().map(|_| ()));
    let events = node.events();
    let findings = of(&events, Kind::AccountFinding, &guarded.id);
    assert!(findings.is_empty(), "no database changed, yet: {findings:#?}");
}

#[test]
fn runc_forty_programs_behave_the_same() {
    compare(Runtime::Runc, "audit", Entry::Container, Profile::Engine);
}

#[test]
fn crun_forty_programs_behave_the_same() {
    compare(Runtime::Crun, "audit", Entry::Container, Profile::Engine);
}

#[test]
fn runc_forty_programs_behave_the_same_sealed() {
    compare(Runtime::Runc, "enforce", Entry::Container, Profile::Engine);
}

#[test]
fn crun_forty_programs_behave_the_same_brokered() {
    compare(Runtime::Crun, "enforce", Entry::Exec, Profile::Engine);
}

/// Where there is no profile, the one that is made for it refuses what the runtime's libseccomp does not know.
#[test]
fn crun_forty_programs_behave_the_same_sealed_without_a_profile() {
    compare(Runtime::Crun, "enforce", Entry::Container, Profile::None);
}

#[test]
fn runc_forty_programs_behave_the_same_brokered_without_a_profile() {
    compare(Runtime::Runc, "enforce", Entry::Exec, Profile::None);
}

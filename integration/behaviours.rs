//! Documented behaviours of the file-system calls (`fixtures/behaviours/`, each with the page that says so) in a plain container
//! and in guarded ones: the list holds without acctguard, and every line of it is the same with it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::OnceLock;

use serde_json::json;

use crate::harness::bundle::{Bundle, Spec};
use crate::harness::command::finish;
use crate::harness::machine::compiled;
use crate::harness::node::{Node, Runtime, policy};

/// Fewer lines than these: some did not run. There are three places, and most cases run as root and as a user.
const LINES: usize = 1_200;

/// Who runs the list, and what stands between it and the databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Nothing: the real runtime alone.
    Plain,
    /// A container in audit.
    Audit,
    /// A container under the seal.
    Sealed,
    /// A container without the seal: the broker carries every call out.
    Brokered,
    /// An exec session, which is brokered, too.
    Exec,
}

impl Way {
    fn policy(self) -> String {
        match self {
            Self::Audit => policy("audit"),
            Self::Brokered => format!("{}  landlock: off\n", policy("enforce")),
            _ => policy("enforce"),
        }
    }
}

/// What differs with acctguard as README.md says it does, "What it does not do yet": the case, where, and why. Each must still
/// differ, in any of its lines.
const KNOWN: [(&str, &[Way], &str); 2] = [
    (
        "landlock_of_its_own",
        &[Way::Sealed, Way::Brokered, Way::Exec],
        "a helper is not under the ruleset of the process that it acts for, and cannot be told of it",
    ),
    (
        "linkat_of_an_inherited_descriptor",
        &[Way::Sealed, Way::Brokered, Way::Exec],
        "nobody outside can see with which credentials a descriptor was opened",
    ),
];

/// A container with what `behaviours.h` expects of its surroundings.
fn bundle(node: &Node, arguments: &[&str]) -> Bundle {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    let mut spec = Spec::new(arguments);
    let mounted = node.scratch.folder(&format!("mounted-{}", arguments.len()));
    let read_only = node.scratch.folder("read-only");
    fs::create_dir_all(read_only.join("folder")).expect("create folder");
    fs::write(read_only.join("file"), "text").expect("write");
    for (path, mode) in [("", 0o777), ("folder", 0o777), ("file", 0o666)] {
        fs::set_permissions(read_only.join(path), fs::Permissions::from_mode(mode)).expect("set mode");
    }
    fs::set_permissions(&mounted, fs::Permissions::from_mode(0o777)).expect("set mode");
    spec.binds.push((mounted, "/mounted".to_owned()));
    let bundle = node.bundle(&spec);
    let mut config = bundle.config();
    let mounts = config["mounts"].as_array_mut().expect("mounts");
    mounts.push(json!({"destination": "/read-only", "type": "bind", "source": read_only, "options": ["rbind", "ro"]}));
    bundle.write_config(&config);
    bundle.put("/behaviours", PROGRAM.get_or_init(|| compiled("behaviours")), 0o755);
    fs::create_dir(bundle.path("/work")).expect("create folder");
    for place in ["/work", "/", "/etc"] {
        fs::set_permissions(bundle.path(place), fs::Permissions::from_mode(0o777)).expect("set mode");
    }
    bundle
}

fn run(runtime: Runtime, way: Way) -> String {
    let node = Node::start(runtime, &way.policy());
    let arguments = ["/behaviours"];
    match way {
        Way::Plain => node.run_bare(&bundle(&node, &arguments)).ok().stdout,
        Way::Exec => {
            let bundle = bundle(&node, &["/bin/busybox", "sleep", "3600"]);
            node.create(&bundle).ok();
            finish(node.shim().arg("start").arg(&bundle.id)).ok();
            node.exec(&bundle, &arguments).ok().stdout
        }
        _ => node.run(&bundle(&node, &arguments)).ok().stdout,
    }
}

/// The list without acctguard, in which every case must pass.
fn plain(runtime: Runtime) -> &'static str {
    static RUNC: OnceLock<String> = OnceLock::new();
    static CRUN: OnceLock<String> = OnceLock::new();
    let place = if runtime == Runtime::Runc { &RUNC } else { &CRUN };
    place.get_or_init(|| {
        let lines = run(runtime, Way::Plain);
        let wrong: Vec<&str> = lines.lines().filter(|line| !line.ends_with(": pass")).collect();
        assert!(wrong.is_empty(), "not so without acctguard, on this kernel:\n{}", wrong.join("\n"));
        assert!(lines.lines().count() > LINES, "only {} lines", lines.lines().count());
        lines
    })
}

fn check(runtime: Runtime, way: Way) {
    let (plain, guarded) = (plain(runtime), run(runtime, way));
    assert_eq!(plain.lines().count(), guarded.lines().count(), "{runtime:?} {way:?}: not as many lines");
    let different = plain.lines().zip(guarded.lines()).filter(|(plain, guarded)| plain != guarded);
    let different: Vec<&str> = different.map(|(_, guarded)| guarded).collect();
    let known: Vec<_> = KNOWN.iter().filter(|(_, ways, _)| ways.contains(&way)).collect();
    let is_known = |line: &str| known.iter().any(|(case, ..)| line.contains(&format!(" {case}: ")));
    let unknown: Vec<&str> = different.iter().copied().filter(|line| !is_known(line)).collect();
    println!(
        "{runtime:?} {way:?}: {} cases, {} differences, {} of them known",
        plain.lines().count(),
        different.len(),
        different.len() - unknown.len()
    );
    assert!(unknown.is_empty(), "{} lines differ from those without acctguard:\n{}", unknown.len(), unknown.join("\n"));
    for (case, _, why) in known {
        let differs = different.iter().any(|line| line.contains(&format!(" {case}: ")));
        assert!(differs, "{case} differs no more, though {why}: take it from README.md and from here");
    }
}

#[test]
fn runc_audit() {
    check(Runtime::Runc, Way::Audit);
}

#[test]
fn runc_sealed() {
    check(Runtime::Runc, Way::Sealed);
}

#[test]
fn runc_brokered() {
    check(Runtime::Runc, Way::Brokered);
}

#[test]
fn crun_audit() {
    check(Runtime::Crun, Way::Audit);
}

#[test]
fn crun_sealed() {
    check(Runtime::Crun, Way::Sealed);
}

#[test]
fn crun_exec() {
    check(Runtime::Crun, Way::Exec);
}

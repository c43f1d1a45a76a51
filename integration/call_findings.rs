//! Every intercepted call in a container of its own, through runc and crun, in audit and enforce, as the container's process
//! and by an exec session: what its *finding* says. Beside `calls`, where many calls share a container and its findings.
//!
//! In enforce each call that concerns a database is refused, and that is a finding. In audit a finding is about what
//! changed: a call that leaves nothing behind (open_tree, fsconfig, io_uring_setup) has its attempt on record, and no finding.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use acctguard::model::event::{Event, Kind, Outcome};

use crate::harness::bundle::{Bundle, Capabilities, Spec};
use crate::harness::command::finish;
use crate::harness::events::{actor_argv, of};
use crate::harness::machine::calls_program;
use crate::harness::node::{Node, Runtime, policy};

const PASSWD: &str = "/etc/passwd";
const NEW: &str = "/srv/accounts/new";
const HELD: &str = "/var/lib/extrausers/";

/// A root of its own, in a mount namespace of its own, and an empty directory: nothing changes for anybody else.
const HARMLESS: [&str; 2] = ["pivot_root", "rmdir"];

const EPERM: i32 = 1;

/// Who makes the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Container,
    Exec,
}

/// What a finding must say of a call.
struct Expected {
    /// The database it is about; `None` for a way around all of them.
    database: Option<&'static str>,
    /// A change that it tells in audit; `None` when nothing changes.
    change: Option<&'static str>,
}

fn expected(name: &str) -> Expected {
    let (database, change) = match name {
        "open" | "openat" | "openat2" | "creat" | "chroot" | "rename" | "renameat" | "renameat2" | "mount"
        | "move_mount" => (Some(PASSWD), Some("account_added")),
        "open_by_handle_at" => (Some(HELD), Some("account_added")),
        "truncate" | "truncate64" => (Some(PASSWD), Some("account_removed")),
        "unlink" | "unlinkat" | "pivot_root-shared" => (Some(PASSWD), Some("database_removed")),
        "umount2" => (Some(HELD), Some("database_removed")),
        "link-new" | "symlink" | "symlinkat" | "mknod" | "mknodat" => (Some(NEW), Some("database_created")),
        "pivot_root" | "rmdir" => (None, None),
        "open_tree" => (Some(PASSWD), None),
        "fsconfig" => (Some(HELD), None),
        "io_uring_setup" => (None, None),
        // switched off again it leaves one record of the process that did
        "acct" => (None, Some("database_changed")),
        "execve" | "execveat" => (Some(PASSWD), Some("account_added")),
        "link" | "linkat" => (Some(PASSWD), Some("permissions_changed")),
        attribute => {
            let is_known = ["chmod", "chown", "xattr"].iter().any(|word| attribute.contains(word));
            assert!(is_known, "nothing is expected of {name}");
            (Some(PASSWD), Some("permissions_changed"))
        }
    };
    Expected { database, change }
}

/// A container with what the call needs, and the folder bound into it.
fn container(node: &Node, name: &str, arguments: &[&str], no_new_privileges: bool) -> (Bundle, PathBuf) {
    let held = node.scratch.folder(&format!("held-{}", uuid_like(node)));
    std::fs::write(held.join("passwd"), "extra:x:5000:5000::/:/bin/sh\n").expect("write");
    let mut spec = Spec::new(arguments);
    spec.capabilities = Capabilities::All;
    spec.no_new_privileges = no_new_privileges;
    spec.binds.push((held.clone(), "/var/lib/extrausers".to_owned()));
    if name == "chroot" {
        spec.links.push((PASSWD, "/jail/passwd"));
    }
    let bundle = node.bundle(&spec);
    bundle.put("/calls", calls_program(), 0o755);
    std::fs::create_dir_all(bundle.path("/srv/accounts")).expect("create folder");
    if name.contains("removexattr") {
        rustix::fs::setxattr(bundle.path(PASSWD), ACL_NAME, &ACL, rustix::fs::XattrFlags::empty()).expect("set an acl");
    }
    (bundle, held)
}

const ACL_NAME: &str = "system.posix_acl_access";

/// acl(5) as linux/posix_acl_xattr.h lays it out: user 1000 may write.
const ACL: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 6, 0, 232, 3, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16, 0, 6, 0,
    255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
];

/// A number that no other folder of the node has.
fn uuid_like(node: &Node) -> usize {
    std::fs::read_dir(node.scratch.path()).expect("list the scratch folder").count()
}

/// Names of the calls of `abi`.
fn names(abi: &str) -> Vec<String> {
    let folder = tempfile::tempdir().expect("temporary folder");
    let program = folder.path().join("calls");
    std::fs::write(&program, calls_program()).expect("write");
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    let listed = finish(Command::new(&program).args(["names", abi])).ok();
    listed.stdout.lines().map(str::to_owned).collect()
}

/// What each call comes to without acctguard, by its exit status.
fn bare(abi: &'static str) -> &'static BTreeMap<String, i32> {
    static NATIVE: OnceLock<BTreeMap<String, i32>> = OnceLock::new();
    static I386: OnceLock<BTreeMap<String, i32>> = OnceLock::new();
    let place = if abi == "i386" { &I386 } else { &NATIVE };
    place.get_or_init(|| {
        let node = Node::prepare(Runtime::Runc, &policy("audit"), "");
        let run = |name: String| {
            let (bundle, _) = container(&node, &name, &["/calls", &name, abi], false);
            let status = node.run_bare(&bundle).code();
            (name, status)
        };
        names(abi).into_iter().map(run).collect()
    })
}

/// A call that was made: its container and how it ended.
struct Made {
    name: String,
    bundle: Bundle,
    held: PathBuf,
    status: i32,
}

fn make(node: &Node, entry: Entry, name: &str, abi: &str, no_new_privileges: bool) -> Made {
    let arguments = ["/calls", name, abi];
    let (bundle, held, status) = match entry {
        Entry::Container => {
            let (bundle, held) = container(node, name, &arguments, no_new_privileges);
            let status = node.run(&bundle).code();
            (bundle, held, status)
        }
        Entry::Exec => {
            let (bundle, held) = container(node, name, &["/bin/busybox", "sleep", "3600"], no_new_privileges);
            node.create(&bundle).ok();
            finish(node.shim().arg("start").arg(&bundle.id)).ok();
            let status = node.exec(&bundle, &arguments).code();
            node.delete(&bundle).ok();
            (bundle, held, status)
        }
    };
    Made { name: name.to_owned(), bundle, held, status }
}

fn check(runtime: Runtime, mode: &str, entry: Entry, abi: &'static str) {
    let bare = bare(abi);
    assert!(bare.len() > 40, "too few calls: {bare:?}");
    let node = Node::start(runtime, &policy(mode));
    // both settings, because crun hands over its listener at another moment with the one than with the other
    let no_new_privileges = (mode == "audit") == (runtime == Runtime::Crun);
    let made: Vec<Made> = bare.keys().map(|name| make(&node, entry, name, abi, no_new_privileges)).collect();
    let events = node.wait_for("the end of every container", |events| {
        let ended = |made: &Made| !of(events, Kind::ContainerExited, &made.bundle.id).is_empty();
        made.iter().all(ended).then(|| events.to_vec())
    });
    let context = format!("{runtime:?} {mode} {entry:?} {abi}");
    for made in &made {
        let context = format!("{context} {}", made.name);
        if mode == "audit" {
            assert_eq!(made.status, bare[&made.name], "{context}: another outcome than without acctguard");
            check_audit(&events, made, entry, abi, &context);
        } else {
            check_enforce(&events, made, bare[&made.name], entry, abi, &context);
        }
    }
}

fn check_audit(events: &[Event], made: &Made, entry: Entry, abi: &str, context: &str) {
    let expected = expected(&made.name);
    let findings = of(events, Kind::AccountFinding, &made.bundle.id);
    let Some(change) = expected.change else {
        assert!(findings.is_empty(), "{context}: nothing changed, yet {findings:#?}");
        return;
    };
    let tells = |finding: &&&Event| finding.changes.iter().flatten().any(|told| told.change == change);
    let finding = findings.iter().find(tells);
    let finding = finding.unwrap_or_else(|| panic!("{context}: no finding tells {change}; there are {findings:#?}"));
    assert_eq!(finding.verdict.as_ref().map(|verdict| verdict.result), Some(Outcome::Allowed), "{context}");
    check_who(events, finding, made, entry, abi, context);
}

fn check_enforce(events: &[Event], made: &Made, bare: i32, entry: Entry, abi: &str, context: &str) {
    assert_eq!(made.bundle.read(PASSWD), Bundle::original(PASSWD), "{context}: the database was changed");
    assert_eq!(std::fs::read(made.held.join("passwd")).expect("read"), b"extra:x:5000:5000::/:/bin/sh\n", "{context}");
    assert!(!made.bundle.path(NEW).exists(), "{context}: a database was created");
    let findings = of(events, Kind::AccountFinding, &made.bundle.id);
    if HARMLESS.contains(&made.name.as_str()) {
        assert_eq!(made.status, bare, "{context}");
        assert!(findings.is_empty(), "{context}: {findings:#?}");
        return;
    }
    match made.name.as_str() {
        "execve" | "execveat" => assert_ne!(made.status, 0, "{context}: the account tool succeeded"),
        _ => assert_eq!(made.status, EPERM, "{context}: not refused"),
    }
    let [finding] = findings.as_slice() else { panic!("{context}: one call, not one finding: {findings:#?}") };
    let verdict = finding.verdict.as_ref().expect("verdict");
    assert_eq!((verdict.result, verdict.errno.as_deref()), (Outcome::Blocked, Some("EPERM")), "{context}");
    check_who(events, finding, made, entry, abi, context);
}

/// The finding names the container's pod-less self, the actor and its session, and the database.
fn check_who(events: &[Event], finding: &Event, made: &Made, entry: Entry, abi: &str, context: &str) {
    let is_tool = made.name.starts_with("execve");
    let argv: Vec<&str> = actor_argv(finding).iter().map(String::as_str).collect();
    let wanted = if is_tool { vec!["useradd", "-M", "mallory"] } else { vec!["/calls", &made.name, abi] };
    assert_eq!(argv, wanted, "{context}: actor");
    let actor = finding.actor.as_ref().expect("actor");
    assert_eq!(actor.exe.as_deref(), Some(if is_tool { "/usr/sbin/useradd" } else { "/calls" }), "{context}");
    assert_eq!(actor.container_uid, Some(0), "{context}");
    let operation = finding.operation.as_ref().expect("operation");
    let database = operation.database.as_deref();
    match expected(&made.name).database {
        // which of its databases a tool is refused first is its own affair
        Some(_) if is_tool => {
            assert!(database.is_some_and(|path| path.starts_with("/etc/")), "{context}: {database:?}")
        }
        Some(HELD) => assert!(database.is_some_and(|path| path.starts_with(HELD)), "{context}: {database:?}"),
        wanted => assert_eq!(database, wanted, "{context}: database"),
    }
    let sessions = of(events, Kind::ContainerExec, &made.bundle.id);
    let session = sessions.first().and_then(|event| event.session.as_ref()).map(|session| session.id.clone());
    assert_eq!(actor.session, session, "{context}: exec session");
    assert_eq!(session.is_some(), entry == Entry::Exec, "{context}: exec session");
    let id = finding.container.as_ref().map(|container| container.id.as_str());
    assert_eq!(id, Some(made.bundle.id.as_str()), "{context}");
}

each_way! { check }

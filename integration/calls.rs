//! Every intercepted call (`fixtures/calls.c`), through runc and crun, in audit and enforce, for the container's process and
//! for an exec session, native and by the 32-bit gate.
//!
//! seccomp_unotify(2): "the target process is blocked until the supervisor answers". So in audit a call has the outcome it
//! has without acctguard, and in enforce it has EPERM and the database keeps its bytes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use acctguard::model::event::{Event, Kind, Outcome};

use crate::harness::bundle::{Bundle, Capabilities, Spec};
use crate::harness::events::{actor_argv, container_id, of};
use crate::harness::machine::calls_program;
use crate::harness::node::{Node, Runtime, policy};

/// Who makes the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Container,
    Exec,
}

/// One line of `calls each`: what became of a call, and the databases after it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcomes(BTreeMap<String, String>);

impl Outcomes {
    fn parse(stdout: &str) -> Self {
        let lines = stdout.lines().filter_map(|line| line.split_once(' '));
        Self(lines.map(|(call, rest)| (call.to_owned(), rest.to_owned())).collect())
    }

    fn status(&self, call: &str) -> i32 {
        let line = &self.0[call];
        let number = line.strip_prefix("status=").and_then(|rest| rest.split(' ').next());
        number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("line of {call}: {line}"))
    }

    fn databases(&self, call: &str) -> &str {
        self.0[call].split_once(' ').map_or("", |(_, databases)| databases)
    }
}

/// What `calls NAME` is about: the call that decides, the database, the effect.
fn expected(name: &str) -> (&'static [&'static str], Option<&'static str>, &'static str) {
    const PASSWD: Option<&str> = Some("/etc/passwd");
    const NEW: Option<&str> = Some("/srv/accounts/new");
    const HELD: Option<&str> = Some("/var/lib/extrausers/");
    match name {
        "open_by_handle_at" => (&["open_by_handle_at"], HELD, "writes"),
        "umount2" => (&["umount2", "umount"], HELD, "replaces_ancestor"),
        "rename" => (&["rename"], PASSWD, "replaces"),
        "renameat" => (&["renameat"], PASSWD, "replaces"),
        "renameat2" => (&["renameat2"], PASSWD, "replaces"),
        "unlink" => (&["unlink"], PASSWD, "replaces"),
        "unlinkat" => (&["unlinkat"], PASSWD, "replaces"),
        "link" => (&["link"], PASSWD, "aliases"),
        "linkat" => (&["linkat"], PASSWD, "aliases"),
        "open_tree" => (&["open_tree"], PASSWD, "aliases"),
        "link-new" => (&["link"], NEW, "replaces"),
        "symlink" => (&["symlink"], NEW, "replaces"),
        "symlinkat" => (&["symlinkat"], NEW, "replaces"),
        "mknod" => (&["mknod"], NEW, "replaces"),
        "mknodat" => (&["mknodat"], NEW, "replaces"),
        "mount" => (&["mount"], PASSWD, "replaces"),
        "move_mount" => (&["move_mount"], PASSWD, "replaces"),
        "fsconfig" => (&["fsconfig"], HELD, "aliases"),
        // From inside the jail the database is just /passwd; chroot itself concerns no database.
        "chroot" => (&["open", "openat"], PASSWD, "writes"),
        "execve" => (&["execve"], None, "runs_account_tool"),
        "execveat" => (&["execveat"], None, "runs_account_tool"),
        "io_uring_setup" => (&["io_uring_setup"], None, "bypasses"),
        "acct" => (&["acct"], None, "bypasses"),
        other => {
            let name = NAMES_OF_WRITES.iter().position(|&call| call == other);
            let index = name.unwrap_or_else(|| panic!("nothing is expected of {other}"));
            (&NAMES_OF_WRITES[index..=index], PASSWD, "writes")
        }
    }
}

const NAMES_OF_WRITES: [&str; 23] = [
    "open",
    "openat",
    "openat2",
    "creat",
    "truncate",
    "truncate64",
    "chmod",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "chown",
    "chown32",
    "lchown",
    "lchown32",
    "fchown",
    "fchown32",
    "fchownat",
    "setxattr",
    "lsetxattr",
    "fsetxattr",
    "removexattr",
    "lremovexattr",
    "fremovexattr",
];

/// A root of its own, in a mount namespace of its own, and an empty directory: nothing changes for anybody else.
const HARMLESS: [&str; 2] = ["pivot_root", "rmdir"];

const EPERM: i32 = 1;
const ENOSYS: i32 = 38;

/// A container with everything that some call needs: all capabilities, a database on a bind mount, a jail with a hard link.
fn spec(node: &Node, arguments: &[&str], no_new_privileges: bool) -> (Spec, PathBuf) {
    let held = node.scratch.folder("held");
    std::fs::write(held.join("passwd"), "extra:x:5000:5000::/:/bin/sh\n").expect("write");
    let mut spec = Spec::new(arguments);
    spec.capabilities = Capabilities::All;
    spec.no_new_privileges = no_new_privileges;
    spec.binds.push((held.clone(), "/var/lib/extrausers".to_owned()));
    spec.links.push(("/etc/passwd", "/jail/passwd"));
    (spec, held)
}

fn furnish(bundle: &Bundle) {
    bundle.put("/calls", calls_program(), 0o755);
    std::fs::create_dir_all(bundle.path("/srv/accounts")).expect("create folder");
}

/// What the calls come to without acctguard.
fn without(node: &Node, abi: &str) -> Outcomes {
    let (spec, _) = spec(node, &["/calls", "each", abi], false);
    let bundle = node.bundle(&spec);
    furnish(&bundle);
    Outcomes::parse(&node.run_bare(&bundle).ok().stdout)
}

fn check(runtime: Runtime, mode: &str, entry: Entry, abi: &str) {
    let node = Node::start(runtime, &policy(mode));
    let before = without(&node, abi);
    assert!(before.0.len() > 40, "too few calls were made: {before:?}");
    // Both settings, because crun hands over its listener at another moment with the one than with the other.
    let no_new_privileges = (mode == "audit") == (runtime == Runtime::Runc);
    let arguments = ["/calls", "each", abi];
    let (bundle, held, done) = match entry {
        Entry::Container => {
            let (spec, held) = spec(&node, &arguments, no_new_privileges);
            let bundle = node.bundle(&spec);
            furnish(&bundle);
            let done = node.run(&bundle).ok();
            (bundle, held, done)
        }
        Entry::Exec => {
            let (spec, held) = spec(&node, &["/bin/busybox", "sleep", "3600"], no_new_privileges);
            let bundle = node.bundle(&spec);
            furnish(&bundle);
            node.create(&bundle).ok();
            crate::harness::command::finish(node.shim().arg("start").arg(&bundle.id)).ok();
            let done = node.exec(&bundle, &arguments).ok();
            (bundle, held, done)
        }
    };
    let after = Outcomes::parse(&done.stdout);
    assert_eq!(before.0.keys().collect::<Vec<_>>(), after.0.keys().collect::<Vec<_>>(), "stderr: {}", done.stderr);
    check_findings(&node, &bundle, mode);
    if mode == "audit" {
        for call in before.0.keys() {
            // what acct(2) leaves tells of the time
            let same = before.0[call] == after.0[call] || (call == "acct" && before.status(call) == after.status(call));
            assert!(same, "{call}: {} without acctguard, {} with it", before.0[call], after.0[call]);
        }
    } else {
        check_refusals(&before, &after);
        assert_eq!(bundle.read("/etc/passwd"), Bundle::original("/etc/passwd"), "the database was changed");
        assert_eq!(std::fs::read(held.join("passwd")).expect("read"), b"extra:x:5000:5000::/:/bin/sh\n");
        assert!(!bundle.path("/srv/accounts/new").exists(), "a database was created");
    }
    let events = node.events();
    for call in before.0.keys().filter(|call| !HARMLESS.contains(&call.as_str())) {
        check_attempt(&events, &bundle.id, call, abi, mode, entry);
    }
}

/// The container has a finding by an actor of its own; under enforce every finding is of something refused, because nothing
/// else happened.
fn check_findings(node: &Node, bundle: &Bundle, mode: &str) {
    node.wait_for("a finding", |events| {
        let findings = of(events, Kind::AccountFinding, &bundle.id);
        findings.iter().any(|finding| finding.actor.is_some() && finding.incident.is_some()).then_some(())
    });
    node.delete(bundle);
    node.wait_for("the end", |events| of(events, Kind::ContainerExited, &bundle.id).pop().map(|_| ()));
    for finding in of(&node.events(), Kind::AccountFinding, &bundle.id) {
        let result = finding.verdict.as_ref().expect("verdict").result;
        assert!(mode == "audit" || result == Outcome::Blocked, "nothing was changed, yet: {finding:?}");
    }
}

/// In enforce every call is refused with EPERM and changes nothing; running an account tool is evidence, not refused by itself.
fn check_refusals(before: &Outcomes, after: &Outcomes) {
    let untouched = after.databases("open");
    for call in before.0.keys() {
        if HARMLESS.contains(&call.as_str()) {
            assert_eq!(after.status(call), before.status(call), "{call}");
        } else if matches!(call.as_str(), "execve" | "execveat") {
            assert_ne!(after.status(call), 0, "{call}: the account tool succeeded");
        } else {
            assert_eq!(after.status(call), EPERM, "{call} was not refused: {}", after.0[call]);
        }
        assert_eq!(after.databases(call), untouched, "{call} changed something");
    }
}

/// There is an attempt on record that names the call, its process, the container and the database.
fn check_attempt(events: &[Event], id: &str, name: &str, abi: &str, mode: &str, entry: Entry) {
    let (calls, database, effect) = expected(name);
    let by = |event: &Event| actor_argv(event).iter().map(String::as_str).eq(["calls", name, abi]);
    let matching = |event: &&Event| {
        event.kind == Kind::AccountAttempt
            && container_id(event) == Some(id)
            && by(event)
            && event.operation.as_ref().is_some_and(|operation| {
                calls.contains(&operation.call.as_str())
                    && operation.effect == effect
                    && database.is_none_or(|wanted| is_of(operation.database.as_deref(), wanted))
            })
    };
    let all: Vec<_> = events.iter().filter(|event| by(event)).map(|event| &event.operation).collect();
    let event = events.iter().find(matching);
    let event =
        event.unwrap_or_else(|| panic!("no attempt for {name} ({abi}, {mode}, {entry:?}); by its process: {all:#?}"));
    let verdict = event.verdict.as_ref().expect("verdict");
    let refused = mode == "enforce" && effect != "runs_account_tool";
    assert_eq!(verdict.result, if refused { Outcome::Blocked } else { Outcome::Allowed }, "{name}");
    assert_eq!(verdict.errno.as_deref(), refused.then_some("EPERM"), "{name}");
    assert_eq!(verdict.witness, ["notify"], "{name}");
    assert_eq!(event.policy.as_ref().map(|policy| policy.mode.as_str()), Some(mode), "{name}");
    let actor = event.actor.as_ref().expect("actor");
    assert_eq!(actor.exe.as_deref(), Some("/calls"), "{name}");
    assert_eq!(actor.container_uid, Some(0), "{name}");
    let sessions: Vec<_> =
        of(events, Kind::ContainerExec, id).iter().filter_map(|event| event.session.as_ref()).collect();
    let session = sessions.iter().find(|session| session.argv.iter().any(|word| word == "/calls"));
    assert_eq!(actor.session.as_ref(), session.map(|session| &session.id), "{name}: exec session");
    assert_eq!(session.is_some(), entry == Entry::Exec, "{name}: exec session");
}

fn is_of(database: Option<&str>, wanted: &str) -> bool {
    database == Some(wanted) || (wanted.ends_with('/') && database.is_some_and(|path| path.starts_with(wanted)))
}

each_way! { check }

/// x32 calls carry the numbers of x86_64 with one bit set. The filter runs before the kernel looks whether it has that ABI
/// at all (Debian's has it off), so in enforce they are refused and on record either way.
fn check_x32(runtime: Runtime) {
    let node = Node::start(runtime, &policy("enforce"));
    let (spec, _) = spec(&node, &["/calls", "each", "x32"], false);
    let bundle = node.bundle(&spec);
    furnish(&bundle);
    let outcomes = Outcomes::parse(&node.run(&bundle).ok().stdout);
    assert!(outcomes.0.len() > 40, "too few calls were made: {outcomes:?}");
    let untouched = outcomes.databases("open");
    for call in outcomes.0.keys() {
        let status = outcomes.status(call);
        let let_go = matches!(call.as_str(), "execve" | "execveat" | "chroot") || HARMLESS.contains(&call.as_str());
        assert!(status == EPERM || (let_go && status == ENOSYS), "{call}: {status}");
        assert_eq!(outcomes.databases(call), untouched, "{call} changed something");
    }
    let events = node.events();
    for call in outcomes.0.keys().filter(|call| call.as_str() != "chroot" && !HARMLESS.contains(&call.as_str())) {
        check_attempt(&events, &bundle.id, call, "x32", "enforce", Entry::Container);
    }
}

#[test]
fn runc_enforce_x32() {
    check_x32(Runtime::Runc);
}

#[test]
fn crun_enforce_x32() {
    check_x32(Runtime::Crun);
}

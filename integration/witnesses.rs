//! What changes a database past the notifier is told with the process that did it: the watches are in place before the first
//! instruction of the workload, follow directories that are made later, and go where an exec session looks.

use std::process::Command;

use acctguard::model::event::{Event, Kind, Outcome};

use crate::harness::bundle::{Bundle, Capabilities, Spec};
use crate::harness::command::finish;
use crate::harness::events::{changes, of};
use crate::harness::machine::calls_program;
use crate::harness::node::{Node, Runtime, policy};

const MALLORY: &str = "mallory:x:0:0::/root:/bin/sh\n";

fn witnesses(event: &Event) -> Vec<&str> {
    event.verdict.iter().flat_map(|verdict| verdict.witness.iter().map(String::as_str)).collect()
}

fn finding_of(node: &Node, bundle: &Bundle, change: &str) -> Event {
    node.wait_for(change, |events| {
        let found = of(events, Kind::AccountFinding, &bundle.id);
        found.into_iter().find(|event| changes(&[event]).iter().any(|told| told == change)).cloned()
    })
}

/// The first instruction of the container's process is a write to a descriptor that it was born with: no call of it is intercepted
/// but its execve, which is held until the watches are in place.
fn the_first_instruction_is_seen(runtime: Runtime, no_new_privileges: bool) {
    let node = Node::start(runtime, &policy("audit"));
    let mut spec = Spec::new(&["/calls", "held", MALLORY]);
    spec.no_new_privileges = no_new_privileges;
    let bundle = node.bundle(&spec);
    bundle.put("/calls", calls_program(), 0o755);
    let shim = node.shim();
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" 3>>\"$DATABASE\""]).arg(shim.get_program()).args(shim.get_args());
    command.args(["run", "--preserve-fds", "1", "--bundle"]).arg(&bundle.folder).arg(&bundle.id);
    command.env("DATABASE", bundle.path("/etc/passwd")).env("ACCTGUARD_CONFIG", node.config());
    command.current_dir(node.scratch.path());
    finish(&mut command).ok();
    let finding = finding_of(&node, &bundle, "account_added mallory");
    assert_eq!(witnesses(&finding), ["fanotify", "content"]);
    assert_eq!(finding.verdict.as_ref().map(|verdict| verdict.result), Some(Outcome::Observed));
    let actor = finding.actor.as_ref().expect("actor");
    assert_eq!((actor.container_pid, actor.exe.as_deref(), actor.gone), (Some(1), Some("/calls"), false), "{actor:?}");
}

#[test]
fn runc_the_first_instruction_is_seen() {
    the_first_instruction_is_seen(Runtime::Runc, false);
    the_first_instruction_is_seen(Runtime::Runc, true);
}

/// crun connects to the listener's socket long before it hands the listener over, and with no_new_privs does so later still.
#[test]
fn crun_the_first_instruction_is_seen() {
    the_first_instruction_is_seen(Runtime::Crun, false);
    the_first_instruction_is_seen(Runtime::Crun, true);
}

/// The directory of a database that is not there at the start is made, and later one is written in it, by a process of the host.
#[test]
fn runc_directories_made_later_are_watched() {
    let node = Node::start(Runtime::Runc, &policy("audit"));
    let bundle = node.launch(&Spec::shell("sleep 60"));
    let pid = std::process::id();
    // the second database is two directories deep, and neither is there
    for (directory, file) in [("/etc/userdb", "eve.user"), ("/srv/accounts", "new")] {
        let folder = bundle.path(directory);
        assert!(!folder.exists(), "{directory}");
        std::fs::create_dir_all(&folder).expect("make a directory");
        std::thread::sleep(std::time::Duration::from_secs(1));
        std::fs::write(folder.join(file), "{\"userName\": \"eve\", \"uid\": 4711}\n").expect("write");
        let path = format!("{directory}/{file}");
        let finding = node.wait_for(&path, |events| {
            let found = of(events, Kind::AccountFinding, &bundle.id);
            let concerns = |event: &&Event| event.changes.iter().flatten().any(|change| change.database == path);
            found.into_iter().find(concerns).cloned()
        });
        assert_eq!(witnesses(&finding), ["fanotify", "content"], "{path}");
        assert_eq!(finding.actor.as_ref().map(|actor| actor.pid), Some(pid), "{path}");
    }
    node.delete(&bundle);
}

/// The container's init has gone on to a mount namespace of its own with another `/etc`; an exec session joins it there.
fn an_exec_session_that_sees_other_mounts_is_watched_there(runtime: Runtime) {
    let node = Node::start(runtime, &policy("audit"));
    let mut spec = Spec::shell(
        "mkdir /other && cp -a /etc/. /other && exec unshare -m sh -c 'mount --bind /other /etc && touch /ready && sleep 60'",
    );
    spec.capabilities = Capabilities::All;
    let bundle = node.launch(&spec);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !bundle.path("/ready").exists() {
        assert!(std::time::Instant::now() < deadline, "the container did not come to its other /etc");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    node.exec(&bundle, &["sh", "-c", "echo 'mallory:x:0:0::/root:/bin/sh' >> /etc/passwd; sleep 1"]).ok();
    let text = bundle.text("/other/passwd");
    assert!(text.contains("mallory") && !bundle.text("/etc/passwd").contains("mallory"));
    let finding = finding_of(&node, &bundle, "account_added mallory");
    assert!(witnesses(&finding).contains(&"notify") && witnesses(&finding).contains(&"fanotify"), "{finding:?}");
    assert!(finding.session.is_some(), "{finding:?}");
    node.delete(&bundle);
}

#[test]
fn runc_an_exec_session_that_sees_other_mounts_is_watched_there() {
    an_exec_session_that_sees_other_mounts_is_watched_there(Runtime::Runc);
}

#[test]
fn crun_an_exec_session_that_sees_other_mounts_is_watched_there() {
    an_exec_session_that_sees_other_mounts_is_watched_there(Runtime::Crun);
}

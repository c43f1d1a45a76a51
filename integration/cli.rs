//! The operator's command: help, exit codes, doctor, events, containers, policy.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use acctguard::model::event::Kind;
use nix::sys::signal::Signal;

use crate::harness::bundle::Spec;
use crate::harness::command::finish;
use crate::harness::events::{container_id, of, parse};
use crate::harness::machine::{program, repository};
use crate::harness::node::{Node, PATIENCE, Runtime, policy};

const FINDINGS: i32 = 1;
const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;
const PERMISSION: i32 = 77;
const CONFIGURATION: i32 = 78;

#[test]
fn help_and_version_of_every_program() {
    let node = Node::prepare(Runtime::Runc, &policy("audit"), "");
    for name in ["acctguard", "acctguard-daemon", "acctguard-hook"] {
        let help = finish(node.program(name).arg("--help")).ok();
        assert!(help.stdout.contains("Usage"), "{name}: {}", help.stdout);
        let version = finish(node.program(name).arg("--version")).ok();
        assert!(version.stdout.contains(env!("CARGO_PKG_VERSION")), "{name}: {}", version.stdout);
        assert_eq!(finish(node.program(name).arg("--no-such-option")).code(), USAGE, "{name}");
    }
    for subcommand in ["doctor", "events", "containers", "policy", "profile"] {
        finish(node.program("acctguard").args([subcommand, "--help"])).ok();
    }
    assert_eq!(node.acctguard(&["no-such-command"]).code(), USAGE);
    assert_eq!(node.acctguard(&["events", "--since", "not a time"]).code(), USAGE);
}

#[test]
fn without_a_daemon_it_says_so() {
    let node = Node::prepare(Runtime::Runc, &policy("audit"), "");
    for arguments in [["events"].as_slice(), &["containers"]] {
        let done = node.acctguard(arguments);
        assert_eq!(done.code(), UNAVAILABLE, "{arguments:?}: {done:?}");
        assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
    }
    let doctor = node.acctguard(&["doctor"]);
    assert_ne!(doctor.code(), 0);
    assert!(doctor.stdout.contains("daemon"), "{doctor:?}");
}

#[test]
fn without_permission_it_says_so() {
    let node = Node::start(Runtime::Runc, &policy("audit"));
    let copy = node.scratch.path().join("acctguard");
    fs::copy(program("acctguard"), &copy).expect("copy");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&copy).arg("events");
    let done = finish(command.env("ACCTGUARD_CONFIG", node.config()).current_dir("/"));
    assert_eq!(done.code(), PERMISSION, "{done:?}");
    assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
}

#[test]
fn doctor_finds_this_machine_able() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("audit"));
        let done = node.acctguard(&["doctor"]);
        assert_eq!(done.code(), 0, "{}{}", done.stdout, done.stderr);
        for word in [runtime.name(), "daemon", "seccomp"] {
            assert!(done.stdout.contains(word), "no {word} in {}", done.stdout);
        }
        // Debian 12's: runc 1.1.5 and crun 1.8.1
        assert_eq!(done.stdout.contains("a signal can cancel"), runtime == Runtime::Runc, "{}", done.stdout);
    }
}

#[test]
fn events_can_be_chosen_and_followed() {
    let node = Node::start(Runtime::Crun, &policy("audit"));
    let follower = node.program("acctguard").args(["events", "--json", "--follow"]).stdout(Stdio::piped()).spawn();
    let mut follower = follower.expect("start");
    let mut lines = BufReader::new(follower.stdout.take().expect("stdout")).lines();
    let (first, second) = (node.bundle(&Spec::shell("true")), node.bundle(&Spec::shell("touch /etc/passwd")));
    node.run(&first).ok();
    node.run(&second).ok();
    let followed = parse(&lines.next().expect("a line").expect("text"));
    assert_eq!(container_id(&followed[0]), Some(first.id.as_str()));
    follower.kill().and_then(|()| follower.wait()).expect("end the follower");
    node.wait_for("both", |events| {
        let ended = |id: &str| !of(events, Kind::ContainerExited, id).is_empty();
        (ended(&first.id) && ended(&second.id)).then_some(())
    });
    let chosen = |arguments: &[&str]| {
        let all = [&["events", "--json"], arguments].concat();
        parse(&node.acctguard(&all).ok().stdout)
    };
    assert!(chosen(&["--kind", "container.created"]).iter().all(|event| event.kind == Kind::ContainerCreated));
    assert_eq!(chosen(&["--kind", "container.created"]).len(), 2);
    assert!(!chosen(&["--container", &first.id]).is_empty());
    assert!(chosen(&["--container", &first.id]).iter().all(|event| container_id(event) == Some(first.id.as_str())));
    let analytic = chosen(&["--analytic", "AN1239"]);
    assert!(!analytic.is_empty() && analytic.iter().all(|event| container_id(event) == Some(second.id.as_str())));
    assert!(chosen(&["--since", "2999-01-01T00:00:00Z"]).is_empty());
    let people = node.acctguard(&["events"]).ok().stdout;
    assert!(people.contains(&second.id[..12]) && !people.contains("{\""), "{people}");
}

/// sysexits.h, and 1 for what needs attention: every code of the contract, the daemon being there.
#[test]
fn exit_codes_with_the_daemon_there() {
    let node = Node::start(Runtime::Runc, &policy("audit"));
    for (arguments, code) in [
        (&["events"][..], 0),
        (&["events", "--json", "--since", "2026-01-01T00:00:00Z"], 0),
        (&["containers"], 0),
        (&["containers", "--json"], 0),
        (&["doctor"], 0),
        (&["policy", "check"], 0),
        (&["policy", "check", "/no/such/file"], CONFIGURATION),
        (&["policy", "explain", "--bundle", "/no/such/bundle"], USAGE),
        (&["events", "--since", "yesterday"], USAGE),
        (&["events", "--kind", "rumour"], USAGE),
        (&["events", "--analytic"], USAGE),
        (&["nonsense"], USAGE),
        (&[], USAGE),
    ] {
        let done = node.acctguard(arguments);
        assert_eq!(done.code(), code, "{arguments:?}: {done:?}");
        assert_eq!(code == 0, done.stderr.is_empty(), "{arguments:?}: {done:?}");
    }
    fs::set_permissions(node.scratch.path().join("run"), fs::Permissions::from_mode(0o777)).expect("mode");
    let done = node.acctguard(&["doctor"]);
    assert_eq!(done.code(), FINDINGS, "{done:?}");
    assert!(done.stdout.contains("MISSING run folder"), "{done:?}");
    for line in done.stdout.lines().filter(|line| !line.starts_with("ok ")) {
        assert!(line.contains("; remedy: "), "no remedy: {line}");
    }
    node.stop_daemon(Signal::SIGTERM);
    for arguments in [&["events"][..], &["events", "--follow"], &["containers"]] {
        let done = node.acctguard(arguments);
        assert_eq!(done.code(), UNAVAILABLE, "{arguments:?}: {done:?}");
        assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
    }
}

/// For people one event is one line, whatever it holds; for scripts it is the stored JSON.
#[test]
fn events_are_lines_for_people_or_json() {
    let node = Node::start(Runtime::Runc, &policy("audit"));
    let bundle = node.bundle(&Spec::shell("printf 'mallory:x:0:0:\\033[2J:/:/bin/sh\\n' >> /etc/passwd"));
    node.run(&bundle).ok();
    node.wait_for("the end", |events| of(events, Kind::ContainerExited, &bundle.id).pop().map(|_| ()));
    let people = node.acctguard(&["events"]).ok().stdout;
    let stored = node.events();
    assert_eq!(people.lines().count(), stored.len(), "{people}");
    assert!(people.contains("account mallory") && people.contains("uid_zero"), "{people}");
    assert!(people.contains(&format!("container {} exited (seen by poststop)", bundle.id)), "{people}");
    assert!(!people.chars().any(|character| character.is_control() && character != '\n'), "{people:?}");
    let chosen = parse(&node.acctguard(&["events", "--json", "--kind", "container.exited"]).ok().stdout);
    let exits: Vec<_> = stored.into_iter().filter(|event| event.kind == Kind::ContainerExited).collect();
    assert_eq!(chosen, exits);
}

/// `acctguard events --follow | head -1`
#[test]
fn a_reader_that_goes_ends_a_follower_quietly() {
    let node = Node::start(Runtime::Crun, &policy("audit"));
    let mut command = node.program("acctguard");
    command.args(["events", "--follow"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut follower = command.spawn().expect("start");
    let mut reader = BufReader::new(follower.stdout.take().expect("stdout"));
    node.run(&node.bundle(&Spec::shell("true"))).ok();
    let mut line = String::new();
    reader.read_line(&mut line).expect("a line");
    assert!(line.contains("container"), "{line}");
    drop(reader);
    node.run(&node.bundle(&Spec::shell("true"))).ok();
    let deadline = Instant::now() + PATIENCE;
    while follower.try_wait().expect("wait").is_none() {
        assert!(Instant::now() < deadline, "it still follows for nobody");
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = follower.wait_with_output().expect("output");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn containers_are_listed_while_they_run() {
    let node = Node::start(Runtime::Runc, &policy("enforce"));
    let bundle = node.launch(&Spec::idle());
    let listed = node.acctguard(&["containers"]).ok().stdout;
    assert!(listed.contains(&bundle.id[..12]) && listed.contains("enforce"), "{listed}");
    let lines = node.acctguard(&["containers", "--json"]).ok().stdout;
    let status: serde_json::Value = serde_json::from_str(&lines).expect("one line of JSON");
    assert_eq!(status["workload"]["container"]["id"], bundle.id.as_str(), "{lines}");
    assert_eq!((&status["mode"], &status["listeners"]), (&"enforce".into(), &1.into()), "{lines}");
    node.delete(&bundle).ok();
    for _ in 0..100 {
        if !node.acctguard(&["containers"]).ok().stdout.contains(&bundle.id[..12]) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("a deleted container is still listed");
}

#[test]
fn policies_are_checked_and_explained() {
    let node = Node::prepare(Runtime::Runc, &policy("enforce"), "");
    node.acctguard(&["policy", "check"]).ok();
    let file = node.scratch.path().join("bad.yaml");
    fs::write(&file, format!("{}  landlok: off\n", policy("audit"))).expect("write");
    let done = node.acctguard(&["policy", "check", &file.display().to_string()]);
    assert_eq!(done.code(), CONFIGURATION, "{done:?}");
    let text = format!("{}{}", done.stdout, done.stderr);
    assert!(text.contains("bad.yaml:7:") && text.contains("landlok: off"), "{text}");
    let bundle = node.bundle(&Spec::shell("true"));
    let explained =
        node.acctguard(&["policy", "explain", "--bundle", &bundle.folder.display().to_string()]).ok().stdout;
    assert!(explained.contains("test-enforce") && explained.contains("enforce"), "{explained}");
}

/// A pod's own annotation may tighten what policy says, never loosen it.
#[test]
fn an_annotation_tightens_only() {
    for (mode, annotation, expected) in
        [("audit", "enforce", "enforce"), ("enforce", "audit", "enforce"), ("enforce", "off", "enforce")]
    {
        let node = Node::prepare(Runtime::Runc, &policy(mode), "");
        let mut spec = Spec::shell("true");
        spec.annotations.push(("acctguard.io/mode".to_owned(), annotation.to_owned()));
        let bundle = node.bundle(&spec);
        let explained =
            node.acctguard(&["policy", "explain", "--bundle", &bundle.folder.display().to_string()]).ok().stdout;
        assert!(explained.contains(expected), "{mode} {annotation}: {explained}");
    }
}

fn shipped(folder: &str, ending: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(repository().join(folder)).expect("read folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            found.extend(shipped(&path.display().to_string(), ending));
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
    found
}

/// Every configuration, policy, schema, hook and profile that is shipped is valid.
#[test]
fn what_is_shipped_is_valid() {
    let node = Node::prepare(Runtime::Runc, &policy("audit"), "");
    let (configurations, mut policies) = (shipped("packaging", "toml"), shipped("packaging", "yaml"));
    // the manifests beside them are Kubernetes' own
    policies.retain(|path| fs::read_to_string(path).expect("read").contains("kind: AccountPolicy"));
    assert!(!configurations.is_empty() && policies.len() >= 4, "not all is shipped: {configurations:?}, {policies:?}");
    for path in configurations {
        let done = node.acctguard(&["--config", &path.display().to_string(), "containers"]);
        assert_ne!(done.code(), CONFIGURATION, "{}: {}", path.display(), done.stderr);
    }
    for path in policies {
        node.acctguard(&["policy", "check", &path.display().to_string()]).ok();
    }
    for path in ["packaging", "hooks", "seccomp-profiles"].iter().flat_map(|folder| shipped(folder, "json")) {
        let text = fs::read(&path).expect("read");
        let parsed: Result<serde_json::Value, _> = serde_json::from_slice(&text);
        assert!(parsed.is_ok(), "{}: {parsed:?}", path.display());
    }
}

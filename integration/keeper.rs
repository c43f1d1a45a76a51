//! What a container notices when the keeper is killed or the worker replaced: nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use acctguard::model::event::Kind;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::bundle::{Bundle, Spec};
use crate::harness::command::finish;
use crate::harness::events::of;
use crate::harness::machine::{calls_program, program};
use crate::harness::node::{Node, PATIENCE, Runtime, policy};

/// A node whose daemon has a second keeper.
fn node(runtime: Runtime, mode: &str) -> Node {
    let node = Node::prepare(runtime, &policy(mode), "[daemon]\nstandby = true\n");
    node.start_daemon();
    node
}

/// A container that opens `/etc/passwd` for writing without end, and ends when that fails.
pub fn caller(node: &Node) -> Bundle {
    let mut spec = Spec::new(&["/calls", "patience", "/etc/passwd"]);
    spec.no_new_privileges = true;
    let bundle = node.bundle(&spec);
    bundle.put("/calls", calls_program(), 0o755);
    node.create(&bundle).ok();
    finish(node.shim().arg("start").arg(&bundle.id)).ok();
    bundle
}

#[track_caller]
fn assert_runs(node: &Node, bundle: &Bundle) {
    let state = finish(node.bare().arg("state").arg(&bundle.id)).ok().stdout;
    assert!(state.contains("\"running\""), "a call failed: {state}\n{}", node.log_text());
}

#[track_caller]
fn wait_until(what: &str, node: &Node, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come about:\n{}", node.log_text());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn attempts(node: &Node, bundle: &Bundle) -> u64 {
    let containers = node.acctguard(&["containers", "--json"]).ok().stdout;
    let lines = containers.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines
        .filter(|line| line["workload"]["container"]["id"] == bundle.id.as_str())
        .find_map(|line| line["attempts"].as_u64())
        .unwrap_or(0)
}

/// Whoever has role `role` now and is none of `before`.
#[track_caller]
fn another(node: &Node, role: &str, before: Pid) -> Pid {
    wait_until(role, node, || node.children_as(role).iter().any(|pid| *pid != before));
    node.children_as(role)[0]
}

#[test]
fn a_killed_keeper_costs_nothing() {
    for runtime in Runtime::ALL {
        let node = node(runtime, "audit");
        let bundle = caller(&node);
        for _ in 0..3 {
            let (keeper, worker) = (node.keeper_pid(), another(&node, "--worker", Pid::from_raw(0)));
            // the second keeper knows of everything by now
            another(&node, "--standby", Pid::from_raw(0));
            std::thread::sleep(Duration::from_millis(300));
            kill(keeper, Signal::SIGKILL).expect("kill the keeper");
            wait_until("another keeper", &node, || node.keeper_pid() != keeper);
            another(&node, "--worker", worker);
            std::thread::sleep(Duration::from_millis(200));
            assert_runs(&node, &bundle);
        }
        let seen = attempts(&node, &bundle);
        wait_until("another attempt", &node, || attempts(&node, &bundle) > seen);
        let later = node.launch(&Spec::shell("useradd later"));
        node.wait_for("a finding", |events| of(events, Kind::AccountFinding, &later.id).pop().map(|_| ()));
        let keeper = node.keeper_pid();
        kill(keeper, Signal::SIGTERM).expect("stop it");
        wait_until("its end", &node, || kill(keeper, None).is_err());
        assert!(!node.control_socket().exists(), "the control socket was left behind");
        let left = finish(std::process::Command::new("pgrep").args(["-f"]).arg(node.scratch.path())).stdout;
        let left = left.split_whitespace().filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("acctguard-daemon"))
        });
        assert_eq!(left.count(), 0, "a process was left behind");
    }
}

#[test]
fn a_second_keeper_that_is_killed_is_followed_by_another() {
    let node = node(Runtime::Runc, "audit");
    let bundle = caller(&node);
    let (keeper, worker) = (node.keeper_pid(), another(&node, "--worker", Pid::from_raw(0)));
    let second = another(&node, "--standby", Pid::from_raw(0));
    kill(second, Signal::SIGKILL).expect("kill the second keeper");
    another(&node, "--standby", second);
    assert_eq!((node.keeper_pid(), another(&node, "--worker", Pid::from_raw(0))), (keeper, worker));
    std::thread::sleep(Duration::from_millis(300));
    kill(keeper, Signal::SIGKILL).expect("kill the keeper");
    wait_until("another keeper", &node, || node.keeper_pid() != keeper);
    another(&node, "--worker", worker);
    assert_runs(&node, &bundle);
}

#[test]
fn an_upgrade_takes_the_installed_program_and_costs_nothing() {
    for (runtime, mode) in [(Runtime::Runc, "audit"), (Runtime::Crun, "enforce")] {
        let node = Node::prepare(runtime, &policy(mode), "");
        let installed = node.scratch.path().join("acctguard-daemon");
        fs::copy(program("acctguard-daemon"), &installed).expect("install");
        node.start_daemon_at(&installed);
        let bundle = node.launch(&Spec::idle());
        let waiting = node.bundle(&Spec::shell("useradd early"));
        node.create(&waiting).ok();
        for _ in 0..3 {
            let worker = node.worker_pid();
            let fresh = node.scratch.path().join("fresh");
            fs::copy(program("acctguard-daemon"), &fresh).expect("copy");
            fs::rename(&fresh, &installed).expect("replace");
            let done = finish(node.program("acctguard-daemon").arg("upgrade")).ok();
            assert!(done.stdout.contains(&format!("in place of worker {worker} ")), "{}", done.stdout);
            let link = fs::read_link(format!("/proc/{}/exe", node.worker_pid())).expect("link");
            assert_eq!(link, installed);
        }
        assert_eq!(
            node.exec(&bundle, &["sh", "-c", "echo x:x:1:1::/:/bin/sh >> /etc/passwd"]).code() == 0,
            mode == "audit"
        );
        // its runtime was connected before, and had nothing to deliver yet
        finish(node.shim().arg("start").arg(&waiting.id)).ok();
        node.wait_for("what it did", |events| of(events, Kind::AccountAttempt, &waiting.id).pop().map(|_| ()));
    }
}

#[test]
fn a_program_that_cannot_serve_changes_nothing() {
    let node = Node::prepare(Runtime::Runc, &policy("audit"), "");
    let installed = node.scratch.path().join("acctguard-daemon");
    fs::copy(program("acctguard-daemon"), &installed).expect("install");
    node.start_daemon_at(&installed);
    let bundle = caller(&node);
    let worker = node.worker_pid();
    let fresh = node.scratch.path().join("fresh");
    let bad = [("#!/bin/sh\nexit 3\n", 0o755, "its worker ended"), ("", 0o777, "can be written by others")];
    for (text, mode, reason) in bad {
        fs::write(&fresh, text).expect("write");
        fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)).expect("mode");
        fs::rename(&fresh, &installed).expect("replace");
        let done = finish(Node::program(&node, "acctguard-daemon").arg("upgrade"));
        assert_ne!(done.code(), 0);
        assert!(done.stderr.contains(reason), "{}", done.stderr);
        assert_eq!(node.worker_pid(), worker);
        assert_runs(&node, &bundle);
    }
}

/// Whether a helper works in the container whose init is `init`.
fn has_helper(init: &str) -> bool {
    let namespace = fs::read_link(format!("/proc/{init}/ns/mnt")).expect("namespace");
    let processes = fs::read_dir("/proc").expect("list").flatten();
    processes.map(|entry| entry.path()).any(|process| {
        fs::read(process.join("cmdline")).is_ok_and(|line| line.starts_with(b"acctguard-broker"))
            && fs::read_link(process.join("ns/mnt")).is_ok_and(|own| own == namespace)
    })
}

#[test]
fn a_sealed_workload_needs_no_broker_after_a_worker_either() {
    let node = Node::start(Runtime::Runc, &policy("enforce"));
    let mut spec = Spec::shell("while :; do date > /tmp/now; sleep 0.02; done");
    spec.no_new_privileges = true;
    let bundle = node.bundle(&spec);
    fs::create_dir_all(bundle.path("/tmp")).expect("create folder");
    node.create(&bundle).ok();
    finish(node.shim().arg("start").arg(&bundle.id)).ok();
    let state: serde_json::Value =
        serde_json::from_str(&finish(node.bare().arg("state").arg(&bundle.id)).ok().stdout).expect("a state");
    let init = state["pid"].to_string();
    let goes_on = || {
        let written = || fs::metadata(bundle.path("/tmp/now")).and_then(|file| file.modified()).ok();
        let before = written();
        wait_until("another write", &node, || written() > before);
    };
    goes_on();
    assert!(!has_helper(&init), "it is not sealed");
    let worker = node.worker_pid();
    kill(worker, Signal::SIGKILL).expect("kill the worker");
    wait_until("another worker", &node, || node.worker_pid() != worker && node.answers());
    goes_on();
    goes_on();
    assert!(!has_helper(&init), "{}", node.log_text());
    assert_eq!(fs::read_dir(node.scratch.path().join("run/grants")).expect("list").count(), 1);
    node.delete(&bundle);
    wait_until("the end of what was kept", &node, || {
        fs::read_dir(node.scratch.path().join("run/grants")).is_ok_and(|mut kept| kept.next().is_none())
    });
}

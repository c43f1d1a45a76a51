//! Bad input: one line that names the object and the remedy, the right exit code, nothing half-written; and a container that
//! is protected, or refused, or started and recorded as unprotected.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Instant;

use acctguard::model::event::{Event, Kind};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;

use crate::harness::bundle::{Bundle, Spec};
use crate::harness::command::{Done, finish};
use crate::harness::events::{container_id, of};
use crate::harness::machine::tmpfs;
use crate::harness::node::{Node, PATIENCE, Runtime, policy};

const CONFIGURATION: i32 = 78;

#[track_caller]
fn one_line(done: &Done, words: &[&str]) {
    assert_eq!(done.stderr.lines().count(), 1, "not one line: {}", done.stderr);
    for word in words {
        assert!(done.stderr.contains(word), "no {word:?} in {}", done.stderr);
    }
}

fn names(bundle: &Bundle) -> Vec<String> {
    let entries = fs::read_dir(&bundle.folder).expect("read folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_malformed_bundle_is_refused_and_left_as_it_is() {
    let texts: [&[u8]; 7] = [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{\"ociVersion\": \"1.0.2\", \"process\": {}, \"linux\": {\"seccomp\": 7}}",
        b"{\"hooks\": {\"createRuntime\": {}}, \"linux\": []}",
        b"\xff\xfe{}",
    ];
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("enforce"));
        for text in texts {
            let bundle = node.bundle(&Spec::shell("true"));
            fs::write(bundle.config_path(), text).expect("write");
            let before = names(&bundle);
            let done = node.create(&bundle);
            assert_ne!(done.code(), 0, "{}", String::from_utf8_lossy(text));
            one_line(&done, &["config.json"]);
            assert_eq!(fs::read(bundle.config_path()).expect("read"), text, "the original was changed");
            assert_eq!(names(&bundle), before, "something was left behind");
        }
    }
}

#[test]
fn a_missing_or_strange_config_is_refused() {
    let node = Node::start(Runtime::Runc, &policy("audit"));
    let missing = node.bundle(&Spec::shell("true"));
    fs::remove_file(missing.config_path()).expect("remove");
    one_line(&node.create(&missing), &["config.json"]);
    let folder = node.bundle(&Spec::shell("true"));
    fs::remove_file(folder.config_path()).expect("remove");
    fs::create_dir(folder.config_path()).expect("mkdir");
    one_line(&node.create(&folder), &["config.json"]);
    let pipe = node.bundle(&Spec::shell("true"));
    fs::remove_file(pipe.config_path()).expect("remove");
    nix::unistd::mkfifo(&pipe.config_path(), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    one_line(&node.create(&pipe), &["config.json"]);
}

#[test]
fn a_read_only_bundle_is_refused_and_intact() {
    let node = Node::start(Runtime::Runc, &policy("enforce"));
    let bundle = node.bundle(&Spec::shell("true"));
    let text = fs::read(bundle.config_path()).expect("read");
    let bind = |flags| mount(Some(&bundle.folder), &bundle.folder, None::<&str>, flags, None::<&str>).expect("mount");
    bind(MsFlags::MS_BIND | MsFlags::MS_REC);
    bind(MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY);
    let done = node.create(&bundle);
    assert_ne!(done.code(), 0);
    one_line(&done, &["config.json"]);
    assert_eq!(fs::read(bundle.config_path()).expect("read"), text);
}

/// A bundle, or its config.json, by a symbolic link: protected or refused, never started without.
#[test]
fn links_in_place_of_bundles_are_protected_or_refused() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("enforce"));
        let bundle = node.bundle(&Spec::shell("echo x >> /etc/passwd"));
        let link = node.scratch.path().join("link");
        symlink(&bundle.folder, &link).expect("symlink");
        let done = finish(node.shim().args(["run", "--bundle"]).arg(&link).arg(&bundle.id));
        assert_ne!(done.code(), 0, "neither refused nor protected");
        assert_eq!(bundle.read("/etc/passwd"), Bundle::original("/etc/passwd"));
        let bundle = node.bundle(&Spec::shell("echo x >> /etc/passwd"));
        let elsewhere = node.scratch.path().join("elsewhere.json");
        fs::rename(bundle.config_path(), &elsewhere).expect("rename");
        symlink(&elsewhere, bundle.config_path()).expect("symlink");
        assert_ne!(node.run(&bundle).code(), 0, "neither refused nor protected");
        assert_eq!(bundle.read("/etc/passwd"), Bundle::original("/etc/passwd"));
    }
}

/// Feeds `input`, `times` over, to a hook.
fn hook(node: &Node, stage: &str, input: &[u8], times: usize) -> Done {
    let stderr = node.scratch.path().join("hook.stderr");
    let mut command = node.program("acctguard-hook");
    command.arg(stage).arg("--config").arg(node.config()).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.stderr(fs::File::create(&stderr).expect("create")).spawn().expect("start");
    let mut stdin = child.stdin.take().expect("stdin");
    for _ in 0..times {
        // A hook that has seen enough closes its end.
        if stdin.write_all(input).is_err() {
            break;
        }
    }
    drop(stdin);
    let status = child.wait().expect("wait");
    Done { status, stdout: String::new(), stderr: fs::read_to_string(stderr).expect("read") }
}

#[test]
fn a_malformed_state_is_refused() {
    let node = Node::start(Runtime::Runc, &policy("enforce"));
    let states: [&[u8]; 6] = [
        b"",
        b"{",
        b"{}",
        b"{\"ociVersion\":\"1.0.2\",\"id\":\"../x\",\"status\":\"creating\",\"pid\":1,\"bundle\":\"/\"}",
        b"{\"ociVersion\":\"1.0.2\",\"id\":\"x\",\"status\":\"creating\",\"pid\":-1,\"bundle\":\"relative\"}",
        b"{\"ociVersion\":\"1.0.2\",\"id\":\"x\",\"status\":\"creating\",\"pid\":1,\"bundle\":\"/none\"}",
    ];
    for state in states {
        let done = hook(&node, "createRuntime", state, 1);
        assert_ne!(done.code(), 0, "{}", String::from_utf8_lossy(state));
        assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
        hook(&node, "poststop", state, 1);
    }
    let refused = |event: &Event| event.creation.as_ref().is_some_and(|creation| creation.verdict.refused);
    let events = node.events();
    let mut created = events.iter().filter(|event| event.kind == Kind::ContainerCreated);
    assert!(created.all(refused), "created after all: {events:?}");
}

/// A state of 100 MB is refused after a bounded part of it.
#[test]
fn a_huge_state_is_refused() {
    let node = Node::start(Runtime::Runc, &policy("enforce"));
    let megabyte = vec![b' '; 1 << 20];
    let done = hook(&node, "createRuntime", &megabyte, 100);
    assert_ne!(done.code(), 0);
    one_line(&done, &["state"]);
    let mut annotation = b"{\"ociVersion\":\"1.0.2\",\"id\":\"x\",\"annotations\":{\"a\":\"".to_vec();
    annotation.resize(100 << 20, b'a');
    let done = hook(&node, "createRuntime", &annotation, 1);
    assert_ne!(done.code(), 0);
    one_line(&done, &["state"]);
}

/// What strangers send to the daemon's sockets neither stops it nor fills its memory.
#[test]
fn garbage_on_the_sockets_is_survived() {
    let node = Node::start(Runtime::Runc, &policy("enforce"));
    let chunk = vec![b'{'; 1 << 20];
    for name in ["listener.sock", "control.sock"] {
        for count in [0, 1, 100] {
            let mut stream = UnixStream::connect(node.scratch.path().join("run").join(name)).expect("connect");
            for _ in 0..count {
                if stream.write_all(&chunk).is_err() {
                    break;
                }
            }
        }
        for text in
            ["\0\n", "{}\n", "{\"request\":\"ping\"}", "{\"request\":\"ping\"}\n{\"request\":\"x\"}\n", "\u{ff}\n"]
        {
            let mut stream = UnixStream::connect(node.scratch.path().join("run").join(name)).expect("connect");
            // The daemon may have hung up on the first bytes.
            let sent = stream.write_all(text.as_bytes()).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
            let answered = stream.read_to_end(&mut Vec::new());
            assert!(sent.is_ok() || answered.is_ok() || answered.is_err());
        }
    }
    let bundle = node.bundle(&Spec::shell("echo x >> /etc/passwd"));
    assert_ne!(node.run(&bundle).code(), 0);
    assert_eq!(bundle.read("/etc/passwd"), Bundle::original("/etc/passwd"));
    let resident = resident_mib(node.worker_pid().as_raw());
    assert!(resident < 256, "the daemon has grown to {resident} MiB");
}

fn resident_mib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("number") / 1024
}

#[test]
fn a_malformed_configuration_ends_every_program() {
    let node = Node::prepare(Runtime::Runc, &policy("enforce"), "");
    let good = fs::read_to_string(node.config()).expect("read");
    let cases = [
        ("run_dir = \n", 1),
        (&format!("{good}\n[runtim]\n"), good.lines().count() + 2),
        (&format!("unknown_key = 1\n{good}"), 1),
        (&good.replace("state_dir = ", "state_dir = 7 #"), 2),
    ];
    let bundle = node.bundle(&Spec::shell("true"));
    let text = fs::read(bundle.config_path()).expect("read");
    for (config, line) in cases {
        fs::write(node.config(), config).expect("write");
        let place = format!("config.toml:{line}:");
        let daemon = finish(&mut node.program("acctguard-daemon"));
        assert_eq!(daemon.code(), CONFIGURATION, "{config}\n{}", daemon.stderr);
        assert!(daemon.stderr.contains(&place), "no {place} in {}", daemon.stderr);
        let events = node.acctguard(&["events"]);
        assert_eq!(events.code(), CONFIGURATION);
        assert!(events.stderr.contains(&place), "no {place} in {}", events.stderr);
        let created = node.create(&bundle);
        assert_ne!(created.code(), 0);
        assert!(created.stderr.contains(&place), "no {place} in {}", created.stderr);
        assert_eq!(fs::read(bundle.config_path()).expect("read"), text);
    }
    fs::write(node.config(), &good).expect("write");
    fs::set_permissions(node.config(), fs::Permissions::from_mode(0o666)).expect("chmod");
    let done = node.acctguard(&["events"]);
    assert_eq!(done.code(), CONFIGURATION, "a file that everybody may write was taken");
    assert!(done.stderr.contains("writ"), "{}", done.stderr);
}

const BAD_POLICY: &str =
    "apiVersion: acctguard.io/v1alpha1\nkind: AccountPolicy\nmetadata: {name: bad}\nspec:\n  mode: enforced\n";

#[test]
fn a_malformed_policy_is_named_with_its_line() {
    let node = Node::prepare(Runtime::Runc, BAD_POLICY, "");
    for done in [finish(&mut node.program("acctguard-daemon")), node.acctguard(&["policy", "check"])] {
        assert_eq!(done.code(), CONFIGURATION, "{done:?}");
        let text = format!("{}{}", done.stdout, done.stderr);
        assert!(text.contains("10-test.yaml:5:") && text.contains("mode: enforced"), "{text}");
    }
    let done = node.create(&node.bundle(&Spec::shell("true")));
    assert_ne!(done.code(), 0, "created without a policy that can be read");
}

/// A broken policy does not take the place of the last good one.
#[test]
fn the_last_good_policy_stays() {
    let node = Node::start(Runtime::Runc, &policy("enforce"));
    let running = node.launch(&Spec::idle());
    node.write_policy(BAD_POLICY);
    node.signal_daemon(Signal::SIGHUP);
    std::thread::sleep(std::time::Duration::from_millis(500));
    let done = node.exec(&running, &["/bin/sh", "-c", "echo x >> /etc/passwd"]);
    assert_ne!(done.code(), 0);
    assert_eq!(running.read("/etc/passwd"), Bundle::original("/etc/passwd"));
    assert!(node.log_text().contains("10-test.yaml:5:"), "{}", node.log_text());
}

#[test]
fn an_unreadable_policy_is_an_error() {
    let node = Node::prepare(Runtime::Runc, &policy("enforce"), "");
    let path = node.scratch.path().join("policy.d/20-more.yaml");
    let makers: [&dyn Fn(); 3] =
        [&|| fs::create_dir(&path).expect("mkdir"), &|| symlink("/none", &path).expect("symlink"), &|| {
            fs::write(&path, b"\xff\xfe\x00").expect("write")
        }];
    for make in makers {
        make();
        let done = finish(&mut node.program("acctguard-daemon"));
        assert_eq!(done.code(), CONFIGURATION, "{done:?}");
        assert!(done.stderr.contains("20-more.yaml"), "{}", done.stderr);
        fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).expect("remove");
    }
}

fn dead_daemon_policy(mode: &str, on_unprotected: Option<&str>) -> String {
    let line = on_unprotected.map(|word| format!("  onUnprotected: {word}\n")).unwrap_or_default();
    format!("{}{line}", policy(mode))
}

/// A dead daemon: what `when_absent` and `onUnprotected` say comes true, and either way it is on record.
#[test]
fn a_dead_daemon_means_what_the_configuration_says() {
    // when_absent, mode, onUnprotected, whether the container starts
    let cases = [
        (None, "audit", None, true),
        (None, "audit", Some("refuse"), false),
        (None, "enforce", None, false),
        (None, "enforce", Some("record"), true),
        (Some("refuse"), "audit", None, false),
        (Some("refuse"), "enforce", Some("record"), false),
        (Some("start_unprotected"), "audit", None, true),
        (Some("start_unprotected"), "enforce", Some("refuse"), false),
        (Some("start_unprotected"), "enforce", Some("record"), true),
    ];
    for runtime in Runtime::ALL {
        for (when_absent, mode, on_unprotected, starts) in cases {
            let more = when_absent.map(|word| format!("[supervisor]\nwhen_absent = \"{word}\"\n")).unwrap_or_default();
            let node = Node::prepare(runtime, &dead_daemon_policy(mode, on_unprotected), &more);
            let bundle = node.bundle(&Spec::shell("touch /ran"));
            let done = node.run(&bundle);
            let case = format!("{runtime:?} {when_absent:?} {mode} {on_unprotected:?}: {}", done.stderr);
            assert_eq!(done.code() == 0, starts, "{case}");
            assert_eq!(bundle.path("/ran").exists(), starts, "{case}");
            if !starts {
                assert!(done.stderr.contains("daemon"), "{case}");
            }
            node.start_daemon();
            node.wait_for(&format!("the record of {case}"), |events| {
                events.iter().any(|event| container_id(event) == Some(&bundle.id) && tells(event, starts)).then_some(())
            });
        }
    }
}

/// Whether the event says that its container started unprotected, or that it was refused.
fn tells(event: &Event, started: bool) -> bool {
    let creation = event.creation.as_ref();
    if started {
        return creation.is_some_and(|creation| !creation.protection.intercepted && !creation.verdict.refused);
    }
    let refused = event.protection.as_ref().is_some_and(|protection| protection.what.contains("refused"));
    refused || creation.is_some_and(|creation| creation.verdict.refused)
}

/// A daemon that was there at the creation and is gone at the exec: the session is refused, or unprotected and on record.
#[test]
fn exec_while_the_daemon_is_dead_is_refused_under_enforce() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("enforce"));
        let bundle = node.launch(&Spec::idle());
        node.stop_daemon(Signal::SIGTERM);
        let done = node.exec(&bundle, &["/bin/sh", "-c", "echo x >> /etc/passwd"]);
        assert_ne!(done.code(), 0);
        assert_eq!(bundle.read("/etc/passwd"), Bundle::original("/etc/passwd"));
    }
}

/// A full disk: nothing is recorded, so under enforce nothing is let go; the daemon says so and serves again when there is room.
#[test]
fn a_full_disk_refuses_and_recovers() {
    for runtime in Runtime::ALL {
        let node = Node::prepare(runtime, &policy("enforce"), "");
        let state = node.scratch.path().join("state");
        tmpfs(&state, "size=8m,mode=700");
        node.start_daemon();
        let mut filler = fs::File::create(state.join("filler")).expect("create");
        let block = vec![7u8; 4096];
        while filler.write_all(&block).is_ok() {}
        drop(filler);
        let bundle = node.bundle(&Spec::shell("echo x >> /etc/passwd"));
        let done = node.run(&bundle);
        assert_ne!(done.code(), 0, "a change that could not be recorded went through");
        assert_eq!(bundle.read("/etc/passwd"), Bundle::original("/etc/passwd"));
        fs::remove_file(state.join("filler")).expect("remove");
        // what waited in memory is stored first, so the next containers may be refused for a moment
        let deadline = Instant::now() + PATIENCE;
        loop {
            let bundle = node.bundle(&Spec::shell("echo x >> /etc/passwd"));
            assert_ne!(node.run(&bundle).code(), 0);
            if !of(&node.events(), Kind::AccountAttempt, &bundle.id).is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "no attempt on record:\n{}", node.log_text());
        }
    }
}

/// Sockets and stores are nobody else's.
#[test]
fn what_the_daemon_makes_is_for_root_alone() {
    let node = Node::start(Runtime::Runc, &policy("audit"));
    for name in ["run", "state"] {
        let mode = fs::metadata(node.scratch.path().join(name)).expect("stat").mode() & 0o7777;
        assert_eq!(mode & 0o077, 0, "{name} has mode {mode:o}");
    }
}

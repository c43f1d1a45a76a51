//! `acctguard-runtime` as a black box with the real runc and the real crun: what is passed on is answered as by the runtime
//! itself, what is edited is edited once, and every error is one line and leaves the bundle as it was. Needs root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;

use serde_json::Value;
use serde_json::json;

const SHIM: &str = env!("CARGO_BIN_EXE_acctguard-runtime");

/// A folder with configuration, state and a bundle whose root has nothing in it: no test here starts a container.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new(more: &str) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().display();
        let text =
            format!("run_dir = \"{path}/run\"\nstate_dir = \"{path}/state\"\npolicy_dir = \"{path}/policy\"\n{more}");
        fs::write(folder.path().join("config.toml"), text).expect("writes");
        fs::create_dir_all(folder.path().join("bundle/rootfs")).expect("makes");
        let spec = json!({"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "process": {"args": ["/none"], "cwd": "/"}, "linux": {}});
        fs::write(folder.path().join("bundle/config.json"), spec.to_string()).expect("writes");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn spec(&self) -> String {
        fs::read_to_string(self.path("bundle/config.json")).expect("reads")
    }

    fn run(&self, program: &Path, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.env("ACCTGUARD_CONFIG", self.path("config.toml")).env_remove("ACCTGUARD_RUNTIME_PID");
        command.current_dir(self.folder.path()).args(arguments).output().expect("runs")
    }

    fn shim(&self, arguments: &[&str]) -> Output {
        self.run(Path::new(SHIM), arguments)
    }

    /// `create` that logs as containerd asks for it; the one log line.
    fn create(&self) -> (Output, String) {
        let log = self.path("log.json");
        let _ = fs::remove_file(&log);
        let root = self.path("runtime");
        let arguments = [
            "--root",
            root.to_str().expect("text"),
            "--log",
            log.to_str().expect("text"),
            "--log-format",
            "json",
            "create",
            "--bundle",
            "bundle",
            "shim-test",
        ];
        let output = self.shim(&arguments);
        (output, fs::read_to_string(&log).unwrap_or_default())
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn other_commands_are_answered_as_by_the_real_runtime() {
    let place = Place::new("");
    // other tests' containers come and go in the usual one
    let root = place.path("root").display().to_string();
    for name in ["runc", "crun"] {
        let shim = place.path(name);
        symlink(SHIM, &shim).expect("links");
        let mut lines = vec![
            vec!["--version"],
            vec!["state", "none-such"],
            vec!["--root", &root, "list"],
            vec!["no-such-command"],
            vec!["kill", "none-such", "9"],
        ];
        if name == "runc" {
            lines.push(vec!["features"]);
        }
        for arguments in lines {
            let mut real = Command::new(name);
            let expected =
                real.current_dir(place.folder.path()).args(&arguments).output().expect("the runtime is installed");
            let found = place.run(&shim, &arguments);
            assert_eq!(found.status.code(), expected.status.code(), "{name} {arguments:?}");
            assert_eq!(
                String::from_utf8_lossy(&found.stdout),
                String::from_utf8_lossy(&expected.stdout),
                "{name} {arguments:?}"
            );
            assert_eq!(found.stderr.is_empty(), expected.stderr.is_empty(), "{name} {arguments:?}");
        }
    }
}

#[test]
fn a_script_that_leads_back_is_an_error() {
    for body in ["exec", ""] {
        let place = Place::new("");
        let script = place.path("script");
        fs::write(&script, format!("#!/bin/sh\n{body} {SHIM} \"$@\"\n")).expect("writes");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");
        let config = fs::read_to_string(place.path("config.toml")).expect("reads");
        fs::write(place.path("config.toml"), format!("{config}[runtime]\npath = \"{}\"\n", script.display()))
            .expect("writes");
        let output = place.shim(&["state", "x"]);
        assert_eq!(output.status.code(), Some(78), "{}", stderr(&output));
        assert!(stderr(&output).contains("leads back here"), "{}", stderr(&output));
    }
}

#[test]
fn an_absent_daemon_is_recorded_or_refused() {
    let record = Place::new("");
    let (_, _) = record.create();
    let once = record.spec();
    assert!(once.contains("--unprotected") && !once.contains("listenerPath"), "{once}");
    record.create();
    assert_eq!(record.spec(), once, "editing twice changes nothing");
    let refuse = Place::new("[supervisor]\nwhen_absent = \"refuse\"\n");
    let before = refuse.spec();
    let (output, log) = refuse.create();
    assert_eq!(output.status.code(), Some(1));
    let line: Value = serde_json::from_str(&log).expect("one JSON line");
    assert_eq!(line["level"], "error");
    let message = line["msg"].as_str().expect("text");
    assert!(message.starts_with("acctguard: container shim-test is not created"), "{message}");
    assert_eq!(stderr(&output).trim_end(), message);
    assert_eq!(refuse.spec(), before);
    assert_eq!(fs::read_dir(refuse.path("state/spool")).expect("spooled").count(), 1);
}

#[test]
fn broken_bundles_are_one_line_errors() {
    let place = Place::new("");
    fs::write(place.path("bundle/config.json"), "{\"hooks\": ").expect("writes");
    let (output, log) = place.create();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output).lines().count(), 1);
    assert!(log.contains("not valid JSON") && log.contains("column"), "{log}");
    assert_eq!(place.spec(), "{\"hooks\": ");
    let missing = Place::new("");
    fs::remove_file(missing.path("bundle/config.json")).expect("removes");
    let (output, log) = missing.create();
    assert_eq!(output.status.code(), Some(1));
    assert!(log.contains("config.json"), "{log}");
}

#[test]
fn a_read_only_bundle_is_left_intact() {
    let place = Place::new("");
    let before = place.spec();
    let log = place.path("log.json");
    let script = format!(
        "mount --bind bundle bundle && mount -o remount,bind,ro bundle && exec {SHIM} --log {} --log-format json create --bundle bundle x",
        log.display()
    );
    let output = place.run(Path::new("unshare"), &["-m", "sh", "-c", &script]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("the original is unchanged"), "{}", stderr(&output));
    assert_eq!(place.spec(), before);
}

#[test]
fn restore_is_refused_in_enforce_only() {
    let place = Place::new("");
    fs::create_dir(place.path("policy")).expect("makes");
    let policy =
        "apiVersion: acctguard.io/v1alpha1\nkind: AccountPolicy\nmetadata: {name: strict}\nspec: {mode: enforce}\n";
    fs::write(place.path("policy/a.yaml"), policy).expect("writes");
    let output = place.shim(&["restore", "--bundle", "bundle", "x"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("acctguard: container x is not restored"), "{}", stderr(&output));
    fs::write(place.path("policy/a.yaml"), policy.replace("enforce", "audit")).expect("writes");
    let output = place.shim(&["restore", "--bundle", "bundle", "x"]);
    assert!(!stderr(&output).contains("acctguard"), "{}", stderr(&output));
}

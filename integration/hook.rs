//! `acctguard-hook` as a runtime runs it: the state on standard input, its exit code and its one line, and what is recorded,
//! with a daemon, without one, and with one that says no.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;

use serde_json::Value;
use serde_json::json;

const HOOK: &str = env!("CARGO_BIN_EXE_acctguard-hook");
const SCHEMA: &str = include_str!("../packaging/schema/acctguard.event-1.schema.json");

/// A node of its own: configuration, policies, one bundle with a root file system.
struct Node {
    folder: tempfile::TempDir,
}

impl Node {
    fn new(extra_configuration: &str, policy: &str) -> Self {
        let node = Self { folder: tempfile::tempdir().expect("folder") };
        for folder in ["run", "policy.d", "bundle/rootfs/etc"] {
            std::fs::create_dir_all(node.path(folder)).expect("folder");
        }
        std::fs::set_permissions(node.path("run"), std::fs::Permissions::from_mode(0o700)).expect("mode");
        let base = node.folder.path().display().to_string();
        let text = format!(
            "run_dir = \"{base}/run\"\nstate_dir = \"{base}/state\"\npolicy_dir = \"{base}/policy.d\"\n{extra_configuration}"
        );
        std::fs::write(node.path("config.toml"), text).expect("configuration");
        if !policy.is_empty() {
            let text = format!(
                "apiVersion: acctguard.io/v1alpha1\nkind: AccountPolicy\nmetadata: {{name: test}}\nspec: {policy}\n"
            );
            std::fs::write(node.path("policy.d/test.yaml"), text).expect("policy");
        }
        let passwd = "root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/root:/bin/sh\nbob:x:1000:1000::/:/bin/sh\n";
        std::fs::write(node.path("bundle/rootfs/etc/passwd"), passwd).expect("passwd");
        node.write_spec(&node.spec());
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn spec(&self) -> Value {
        json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "annotations": {"a": "b"},
            "process": {
                "args": ["sleep", "--password=s3cret", "60"], "cwd": "/", "env": ["TOKEN=s3cret"], "user": {"uid": 7, "gid": 8}
            },
            "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]}
        })
    }

    /// The spec with acctguard's listener, as the shim leaves it.
    fn intercepted(&self) -> Value {
        let mut spec = self.spec();
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": self.path("run/listener.sock"),
            "syscalls": [{"names": ["openat"], "action": "SCMP_ACT_NOTIFY"}]
        });
        spec
    }

    fn write_spec(&self, spec: &Value) {
        std::fs::write(self.path("bundle/config.json"), spec.to_string()).expect("config.json");
    }

    fn state(&self) -> String {
        json!({"ociVersion": "1.0.2", "id": "c1", "status": "creating", "pid": 4711, "bundle": self.path("bundle")})
            .to_string()
    }

    fn run(&self, stage: &str, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = Command::new(HOOK)
            .arg(stage)
            .arg("--config")
            .arg(self.path("config.toml"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the hook runs");
        // crun before 1.17 takes a hook that closes its input early for one that failed without a word (containers/crun#1551)
        child.stdin.take().expect("stdin").write_all(input).expect("the hook takes all of its input");
        child.wait_with_output().expect("the hook ends")
    }

    fn create(&self, arguments: &[&str]) -> Output {
        self.run("createRuntime", arguments, self.state().as_bytes())
    }

    /// What lies in the spool, oldest first; every one valid against the schema.
    fn spooled(&self) -> Vec<Value> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.path("state/spool"))
            .map(|entries| entries.map(|entry| entry.expect("entry").path()).collect())
            .unwrap_or_default();
        files.sort();
        let read = |path: &PathBuf| serde_json::from_slice(&std::fs::read(path).expect("file")).expect("an event");
        let events: Vec<Value> = files.iter().map(read).collect();
        events.iter().for_each(valid);
        events
    }

    /// A daemon that answers every request with `answer`; what it was asked.
    fn daemon(&self, answer: &'static str) -> Arc<Mutex<Vec<Value>>> {
        let listener = UnixListener::bind(self.path("run/control.sock")).expect("socket");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut reader = BufReader::new(stream.try_clone().expect("clone"));
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|length| length > 0) {
                    seen.lock().expect("lock").push(serde_json::from_str(&line).expect("JSON"));
                    line.clear();
                    let _ = stream.write_all(format!("{answer}\n").as_bytes());
                }
            }
        });
        requests
    }
}

fn valid(event: &Value) {
    let schema: Value = serde_json::from_str(SCHEMA).expect("schema");
    let validator = jsonschema::draft202012::new(&schema).expect("schema");
    let problems: Vec<String> = validator.iter_errors(event).map(|error| error.to_string()).collect();
    assert!(problems.is_empty(), "{problems:?}: {event:#}");
}

fn line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.lines().count() <= 1, "one line: {text}");
    text
}

const DONE: &str = r#"{"response":"done"}"#;

#[test]
fn a_creation_is_registered_with_its_full_record() {
    let node = Node::new("[node]\ncluster = \"east\"\n", "{mode: enforce}");
    node.write_spec(&node.intercepted());
    let requests = node.daemon(DONE);
    let output = node.create(&["--own-seccomp", "SCMP_ACT_ERRNO", "--ground", "broker"]);
    assert_eq!(output.status.code(), Some(0), "{}", line(&output));
    let request = requests.lock().expect("lock")[0].clone();
    assert_eq!(request["ground"], "broker");
    assert_eq!(request["request"], "register");
    assert_eq!((&request["pid"], &request["intercepted"]), (&json!(4711), &json!(true)));
    assert_eq!(request["root"], json!(node.path("bundle/rootfs")));
    let event = &request["event"];
    valid(event);
    assert_eq!(event["kind"], "container.created");
    assert_eq!(event["severity"], "info");
    assert_eq!(event["host"]["cluster"], "east");
    assert_eq!(event["policy"]["mode"], "enforce");
    let creation = &event["creation"];
    assert_eq!(creation["accounts"]["count"], 3);
    assert_eq!(creation["accounts"]["uid_zero"], json!(["root", "toor"]));
    assert_eq!(creation["parameters"]["seccomp"], "SCMP_ACT_ERRNO");
    assert_eq!(creation["parameters"]["user"]["uid"], 7);
    let protection = json!({
        "intercepted": true,
        "ground": "broker",
        "installer": "runtime",
        "wait_killable": false,
        "not_killable": "config.json does not set the flag: it was edited by no acctguard-runtime"
    });
    assert_eq!(creation["protection"], protection);
    assert_eq!(creation["verdict"]["result"], "expected");
    assert_eq!(creation["creator"]["user"], "root");
    // this test plays the runtime, so the creator's chain begins with this test's parent
    assert_eq!(creation["creator"]["ancestry"][0]["pid"], json!(std::os::unix::process::parent_id()));
    assert!(!event.to_string().contains("s3cret"), "{event}");
    assert!(node.spooled().is_empty());
}

#[test]
fn without_a_daemon_policy_and_node_decide_and_the_spool_has_the_record() {
    let audit = "{mode: audit}";
    let enforce = "{mode: enforce}";
    let recorded = "{mode: enforce, onUnprotected: record}";
    let refuse = "[supervisor]\nwhen_absent = \"refuse\"\n";
    let start = "[supervisor]\nwhen_absent = \"start_unprotected\"\n";
    for (configuration, policy, intercepted, starts) in [
        ("", "", false, true),
        ("", audit, false, true),
        (start, audit, false, true),
        (refuse, audit, false, false),
        ("", enforce, false, false),
        (start, enforce, false, false),
        (start, recorded, false, true),
        ("", audit, true, false),
        (refuse, "{mode: off}", false, true),
    ] {
        let node = Node::new(configuration, policy);
        if intercepted {
            node.write_spec(&node.intercepted());
        }
        let output = node.create(&["--unprotected", "the daemon is not there"]);
        let what = format!("{configuration:?} {policy} intercepted {intercepted}: {}", line(&output));
        assert_eq!(output.status.code(), Some(if starts { 0 } else { 1 }), "{what}");
        assert_eq!(line(&output).is_empty(), starts, "{what}");
        let events = node.spooled();
        let created = events.iter().find(|event| event["kind"] == "container.created").expect("a creation record");
        assert_eq!(created["creation"]["verdict"]["refused"], json!(!starts), "{what}");
        let degraded = events.iter().filter(|event| event["kind"] == "protection.degraded").count();
        assert_eq!(degraded, usize::from(starts && !policy.contains("off")), "{what}");
    }
}

#[test]
fn an_unexpected_creation_is_recorded_or_refused() {
    for (rule, code) in [("record", 0), ("refuse", 1)] {
        let policy = format!("{{mode: audit, creation: {{images: [\"registry.example/*\"], onUnexpected: {rule}}}}}");
        let node = Node::new("", &policy);
        node.write_spec(&node.intercepted());
        let requests = node.daemon(DONE);
        let output = node.create(&[]);
        assert_eq!(output.status.code(), Some(code), "{}", line(&output));
        let request = requests.lock().expect("lock")[0].clone();
        assert_eq!(request["request"], if code == 0 { "register" } else { "record" });
        let event = if code == 0 { request["event"].clone() } else { as_event(&request) };
        valid(&event);
        assert_eq!(event["creation"]["verdict"]["result"], "unexpected");
        assert_eq!(event["policy"]["rule"], "creation");
    }
}

/// The event of a `record` request, whose fields stand beside `request`.
fn as_event(request: &Value) -> Value {
    let mut event = request.clone();
    event.as_object_mut().expect("object").remove("request");
    event
}

#[test]
fn a_daemon_that_cannot_record_leaves_it_to_the_policy() {
    const NO: &str = r#"{"response":"failed","message":"the disk is full"}"#;
    for (policy, code) in [("{mode: audit}", 0), ("{mode: enforce}", 1)] {
        let node = Node::new("", policy);
        node.write_spec(&node.intercepted());
        let _requests = node.daemon(NO);
        let output = node.create(&[]);
        assert_eq!(output.status.code(), Some(code), "{}", line(&output));
        assert!(code == 0 || line(&output).contains("the disk is full"));
        let events = node.spooled();
        let created = events.iter().find(|event| event["kind"] == "container.created").expect("a creation record");
        let reasons = created["creation"]["protection"]["reasons"].to_string();
        assert!(reasons.contains("the disk is full"), "{reasons}");
    }
}

#[test]
fn nowhere_to_record_is_told_and_refused_in_enforce() {
    for (policy, code) in [("{mode: audit}", 0), ("{mode: enforce, onUnprotected: refuse}", 1)] {
        let node = Node::new("", policy);
        std::fs::write(node.path("state"), "a file where the folder should be").expect("file");
        let output = node.create(&[]);
        assert_eq!(output.status.code(), Some(code));
        assert!(line_count(&output) >= 1 && String::from_utf8_lossy(&output.stderr).contains("spool"), "{output:?}");
    }
}

fn line_count(output: &Output) -> usize {
    String::from_utf8_lossy(&output.stderr).lines().count()
}

#[test]
fn broken_input_is_one_line_and_recorded() {
    let node = Node::new("", "");
    let huge = vec![b' '; 100 * 1024 * 1024];
    for (input, words) in [
        (&b""[..], "not valid"),
        (b"{", "not valid"),
        (b"[]", "not valid"),
        (b"{\"id\":\"../x\"}", "not a container id"),
        (b"{\"id\":\"\\u001b[2J\"}", "not a container id"),
        (&huge, "larger than 4 MiB"),
    ] {
        let before = node.spooled().len();
        let output = node.run("createRuntime", &[], input);
        assert_eq!(output.status.code(), Some(1));
        let text = line(&output);
        assert!(text.contains(words) && !text.contains('\u{1b}'), "{text}");
        assert_eq!(node.spooled().len(), before + 1, "recorded");
        assert_eq!(node.run("poststop", &[], input).status.code(), Some(0), "poststop never fails");
    }
}

#[test]
fn a_broken_bundle_is_judged_by_what_the_state_tells() {
    for (policy, code) in [("{mode: audit}", 0), ("{mode: enforce}", 1)] {
        for damage in ["missing", "malformed", "no-root", "no-etc"] {
            let node = Node::new("", policy);
            let mut expected_code = code;
            match damage {
                "missing" => std::fs::remove_file(node.path("bundle/config.json")).expect("remove"),
                "malformed" => std::fs::write(node.path("bundle/config.json"), "{").expect("write"),
                "no-root" => std::fs::remove_dir_all(node.path("bundle/rootfs")).expect("remove"),
                _ => {
                    std::fs::remove_dir_all(node.path("bundle/rootfs/etc")).expect("remove");
                    node.write_spec(&node.intercepted());
                    node.daemon(DONE);
                    expected_code = 0;
                }
            }
            let output = node.create(&[]);
            assert_eq!(output.status.code(), Some(expected_code), "{policy} {damage}: {}", line(&output));
            if damage == "no-etc" {
                continue;
            }
            let events = node.spooled();
            let created = events.iter().find(|event| event["kind"] == "container.created").expect("a record");
            let told = created["creation"]["protection"]["reasons"].to_string();
            let word = if damage == "no-root" { "rootfs" } else { "config.json" };
            assert!(told.contains(word), "{damage}: {told}");
        }
    }
}

#[test]
fn unusable_policies_refuse_what_is_not_intercepted() {
    let node = Node::new("", "{mode: loud}");
    let requests = node.daemon(DONE);
    let output = node.create(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(line(&output).contains("test.yaml"), "{}", line(&output));
    assert_eq!(requests.lock().expect("lock")[0]["request"], "record");
    node.write_spec(&node.intercepted());
    assert_eq!(node.create(&[]).status.code(), Some(0), "the daemon decides by its last good set");
}

#[test]
fn a_runtime_that_keeps_the_input_open_does_not_hang_the_hook() {
    let node = Node::new("", "");
    let run = |stage: &str| {
        let mut command = Command::new(HOOK);
        command.arg(stage).arg("--config").arg(node.path("config.toml"));
        command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the hook runs")
    };
    let started = std::time::Instant::now();
    for (stage, code) in [("createRuntime", 1), ("poststop", 0)].map(|(stage, code)| (run(stage), code)) {
        let (mut child, code) = (stage, code);
        let input = child.stdin.take();
        let output = child.wait_with_output().expect("the hook ends");
        drop(input);
        assert_eq!(output.status.code(), Some(code));
        assert!(line(&output).contains("while reading the container's state"), "{}", line(&output));
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(30), "both at once, within their deadline");
}

#[test]
fn command_line_and_configuration_errors_have_their_codes() {
    let node = Node::new("surprise = 1\n", "");
    let more_than_a_pipe_holds = vec![b' '; 1024 * 1024];
    for stage in ["createRuntime", "poststop", "precreate"] {
        let code = if stage == "poststop" { 0 } else { 78 };
        assert_eq!(node.run(stage, &[], &more_than_a_pipe_holds).status.code(), Some(code), "{stage}");
    }
    assert_eq!(node.run("startContainer", &[], &more_than_a_pipe_holds).status.code(), Some(64));
    let help = Command::new(HOOK).arg("--help").output().expect("runs");
    assert_eq!(help.status.code(), Some(0));
}

#[test]
fn the_end_is_recorded_by_the_daemon_or_in_the_spool() {
    let node = Node::new("", "");
    assert_eq!(node.run("poststop", &[], node.state().as_bytes()).status.code(), Some(0));
    assert_eq!(node.spooled()[0]["kind"], "container.exited");
    let requests = node.daemon(DONE);
    assert_eq!(node.run("poststop", &[], node.state().as_bytes()).status.code(), Some(0));
    let request = requests.lock().expect("lock")[0].clone();
    assert_eq!((&request["request"], &request["id"]), (&json!("exited"), &json!("c1")));
    valid(&request["event"]);
}

#[test]
fn precreate_makes_the_shim_s_edit() {
    let node = Node::new("", "");
    let capture = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/fixtures/captures/podman58-config.json");
    let input = std::fs::read(capture).expect("capture");
    const PONG: &str = r#"{"response":"pong","version":"0","pid":1}"#;
    node.daemon(PONG);
    let output = node.run("precreate", &[], &input);
    assert_eq!(output.status.code(), Some(0), "{}", line(&output));
    let edited: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(edited["linux"]["seccomp"]["listenerPath"], json!(node.path("run/listener.sock")));
    let hooks = edited["hooks"]["createRuntime"].as_array().expect("hooks");
    assert_eq!(hooks.last().expect("ours")["path"], json!(HOOK));
    let again = node.run("precreate", &[], &output.stdout);
    assert_eq!(again.stdout, output.stdout, "editing twice changes nothing");
}

#[test]
fn precreate_without_a_daemon_or_with_a_conflict_follows_the_policy() {
    for (policy, foreign, code) in [
        ("{mode: audit}", false, 0),
        ("{mode: enforce}", false, 1),
        ("{mode: audit}", true, 0),
        ("{mode: enforce}", true, 1),
    ] {
        let node = Node::new("", policy);
        let mut spec = node.spec();
        if foreign {
            node.daemon(r#"{"response":"pong","version":"0","pid":1}"#);
            spec["linux"]["seccomp"] =
                json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/other.sock", "syscalls": []});
        }
        let output = node.run("precreate", &[], spec.to_string().as_bytes());
        assert_eq!(output.status.code(), Some(code), "{policy} {foreign}: {}", line(&output));
        if code == 0 {
            let edited: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            assert_eq!(edited["linux"]["seccomp"], spec["linux"]["seccomp"], "the profile is as it was");
            let arguments = edited["hooks"]["createRuntime"][0]["args"].to_string();
            assert!(arguments.contains("--unprotected"), "{arguments}");
        } else {
            assert!(output.stdout.is_empty(), "nothing half-written");
        }
    }
}

#[test]
fn hooks_d_files_are_what_engines_accept() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("hooks");
    for (name, stage) in [
        ("acctguard.json", "createRuntime"),
        ("acctguard-poststop.json", "poststop"),
        ("precreate/acctguard-precreate.json", "precreate"),
    ] {
        let file: Value = serde_json::from_slice(&std::fs::read(folder.join(name)).expect("file")).expect("JSON");
        let keys: Vec<&String> = file.as_object().expect("object").keys().collect();
        assert_eq!(keys, ["version", "hook", "when", "stages"], "{name}: engines refuse unknown fields");
        assert_eq!(file["version"], "1.0.0", "{name}");
        assert_eq!(file["stages"], json!([stage]), "{name}");
        assert_eq!(file["when"], json!({"always": true}), "{name}");
        let path = file["hook"]["path"].as_str().expect("a path");
        assert!(path.starts_with('/') && path.ends_with("/acctguard-hook"), "{name}: {path}");
        assert_eq!(file["hook"]["args"], json!(["acctguard-hook", stage]), "{name}");
        assert!(
            file["hook"]["env"].to_string().contains("PATH="),
            "{name}: else the runtime's environment is inherited"
        );
        // the program knows the stage: it fails for want of a state, not of the stage
        let output = Command::new(HOOK).args([stage, "--help"]).output().expect("runs");
        assert_eq!(output.status.code(), Some(0), "{name}");
    }
    let shared: Vec<String> = std::fs::read_dir(&folder)
        .expect("folder")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| std::fs::read_to_string(path).expect("file"))
        .collect();
    assert!(shared.iter().all(|text| !text.contains("\"precreate\"")), "CRI-O does not start with a precreate file");
}

//! `acctguard` as an operator runs it: exit codes, what it prints, and to where. The daemon is a socket that answers what a
//! test tells it to, so nothing here depends on what the daemon can do.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;

use serde_json::Value;
use serde_json::json;

const ACCTGUARD: &str = env!("CARGO_BIN_EXE_acctguard");

struct Node {
    folder: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let node = Self { folder: tempfile::tempdir().expect("folder") };
        for folder in ["run", "state", "policy.d", "bundle"] {
            std::fs::create_dir(node.path(folder)).expect("folder");
            std::fs::set_permissions(node.path(folder), std::fs::Permissions::from_mode(0o700)).expect("mode");
        }
        let base = node.folder.path().display().to_string();
        node.write(
            "config.toml",
            &format!("run_dir = \"{base}/run\"\nstate_dir = \"{base}/state\"\npolicy_dir = \"{base}/policy.d\"\n"),
        );
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("file");
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(ACCTGUARD);
        command.arg("--config").arg(self.path("config.toml")).args(arguments).stdin(Stdio::null());
        command.output().expect("acctguard runs")
    }

    /// A daemon that answers each request with `answers`, one line each; what it was asked.
    fn daemon(&self, answers: Vec<Value>) -> Arc<Mutex<Vec<Value>>> {
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
                    for answer in &answers {
                        let _ = stream.write_all(format!("{answer}\n").as_bytes());
                    }
                }
            }
        });
        requests
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn event_answer() -> Value {
    json!({
        "response": "event", "schema": "acctguard.event/1", "id": "01a201ae-41ef-75de-b665-8314e0d14802",
        "time": "2026-11-22T04:40:01.000000001Z", "kind": "container.exited", "severity": "info",
        "attack": {"data_component": "DC0072"}, "host": {"name": "n", "kernel": "6.18"},
        "container": {"id": "c1", "engine": "none"}, "exit": {"witness": "poststop"}
    })
}

#[test]
fn exit_codes_are_the_published_ones() {
    let node = Node::new();
    for (arguments, code) in [
        (&["events"][..], 69),
        (&["containers"], 69),
        (&["doctor"], 1),
        (&["policy", "check"], 0),
        (&["policy", "check", "/no/such/file"], 78),
        (&["policy", "explain", "--bundle", "/no/such/bundle"], 64),
        (&["nonsense"], 64),
        (&["events", "--since", "yesterday"], 64),
        (&["events", "--kind", "rumour"], 64),
        (&[], 64),
        (&["--help"], 0),
        (&["events", "--help"], 0),
        (&["--version"], 0),
    ] {
        let output = node.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
        assert!(code == 64 || text(&output.stderr).lines().count() <= 1, "one line: {}", text(&output.stderr));
        assert_eq!(code == 0 || code == 1, text(&output.stderr).is_empty(), "{arguments:?}: {}", text(&output.stderr));
    }
    node.write("config.toml", "surprise = 1\n");
    for command in ["events", "containers"] {
        let output = node.run(&[command]);
        assert_eq!(output.status.code(), Some(78));
        assert!(text(&output.stderr).contains("config.toml:1:1"), "{}", text(&output.stderr));
    }
    assert_eq!(node.run(&["doctor"]).status.code(), Some(1), "doctor tells it as one of its lines");
}

#[test]
fn policy_mistakes_show_the_line() {
    let node = Node::new();
    node.write(
        "policy.d/a.yaml",
        "apiVersion: acctguard.io/v1alpha1\nkind: AccountPolicy\nmetadata: {name: a}\nspec: {mode: loud}\n",
    );
    let output = node.run(&["policy", "check"]);
    assert_eq!(output.status.code(), Some(78));
    let shown = text(&output.stdout);
    assert!(shown.contains("a.yaml:4:") && shown.contains("spec: {mode: loud}") && shown.contains('^'), "{shown}");
    node.write(
        "policy.d/a.yaml",
        "apiVersion: acctguard.io/v1alpha1\nkind: AccountPolicy\nmetadata: {name: a}\nspec: {mode: enforce}\n",
    );
    assert_eq!(node.run(&["policy", "check"]).status.code(), Some(0));
    node.write("bundle/config.json", "{\"annotations\": {}}");
    let bundle = node.path("bundle").display().to_string();
    let output = node.run(&["policy", "explain", "--bundle", &bundle]);
    assert!(text(&output.stdout).contains("decides   a ("), "{}", text(&output.stdout));
}

#[test]
fn events_are_lines_for_people_or_json() {
    let node = Node::new();
    let requests = node.daemon(vec![event_answer(), json!({"response": "done"})]);
    let output = node.run(&["events"]);
    assert_eq!(text(&output.stdout), "2026-11-22 04:40:01Z INFO container c1 exited (seen by poststop)\n");
    let output = node.run(&[
        "events",
        "--json",
        "--container",
        "c1",
        "--kind",
        "container.exited",
        "--analytic",
        "DC0072",
        "--since",
        "2026-01-01T00:00:00Z",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let mut expected = event_answer();
    expected.as_object_mut().expect("object").remove("response");
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).expect("one JSON line"), expected);
    let request = requests.lock().expect("lock")[1].clone();
    assert_eq!(request["container"], "c1");
    assert_eq!(request["kinds"], json!(["container.exited"]));
    assert_eq!(request["attack"], "DC0072");
    assert_eq!(request["since"], "2026-01-01T00:00:00.000000000Z");
}

#[test]
fn following_shows_each_event_at_once_and_a_reader_that_goes_ends_it() {
    let node = Node::new();
    // no Done: the daemon goes on
    let _requests = node.daemon(vec![event_answer(); 20_000]);
    let mut child = Command::new(ACCTGUARD)
        .arg("--config")
        .arg(node.path("config.toml"))
        .args(["events", "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("acctguard runs");
    let mut line = String::new();
    let mut reader = BufReader::new(child.stdout.take().expect("stdout"));
    reader.read_line(&mut line).expect("a line");
    assert!(line.contains("container c1 exited"), "{line}");
    drop(reader);
    let ended = (0..100).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        child.try_wait().expect("wait")
    });
    if ended.is_none() {
        child.kill().expect("kill");
        child.wait().expect("wait");
    }
    assert_eq!(ended.and_then(|status| status.code()), Some(0), "ends by itself, and quietly");
}

#[test]
fn doctor_is_content_with_a_node_that_has_all() {
    let node = Node::new();
    let listener = UnixListener::bind(node.path("run/listener.sock")).expect("socket");
    // answers every request alike; the list of containers is then none
    node.daemon(vec![json!({"response": "pong", "version": env!("CARGO_PKG_VERSION"), "pid": 1})]);
    for name in ["run/listener.sock", "run/control.sock"] {
        std::fs::set_permissions(node.path(name), std::fs::Permissions::from_mode(0o600)).expect("mode");
    }
    let output = node.run(&["doctor"]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    for line in shown.lines() {
        assert!(line.starts_with("ok ") || (line.starts_with("note ") && line.contains("; remedy: ")), "{line}");
    }
    for what in ["kernel: seccomp user notification", "runtime /", "daemon: version", "store ", "cgroups", "policies"] {
        assert!(shown.contains(what), "{what} is not in {shown}");
    }
    std::fs::set_permissions(node.path("run"), std::fs::Permissions::from_mode(0o777)).expect("mode");
    let output = node.run(&["doctor"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("MISSING run folder"), "{}", text(&output.stdout));
    drop(listener);
}

#[test]
fn containers_are_a_table_or_json() {
    let node = Node::new();
    let status = json!({
        "workload": {"container": {"id": "c1", "engine": "none"}}, "pid": 7, "policy": "built-in", "mode": "audit",
        "intercepted": true, "listeners": 1, "attempts": 2, "blocked": 0
    });
    node.daemon(vec![json!({"response": "containers", "containers": [status]})]);
    let table = text(&node.run(&["containers"]).stdout);
    assert!(table.lines().count() == 2 && table.contains("built-in (audit)"), "{table}");
    let lines = node.run(&["containers", "--json"]).stdout;
    assert_eq!(serde_json::from_slice::<Value>(&lines).expect("JSON")["pid"], 7);
}

//! `acctguard` where no daemon runs: exit codes, and what it prints to where. With the real daemon: `cli`.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

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
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
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

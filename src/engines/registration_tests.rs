//! Registering on trees in a temporary folder, without any engine: what is planned, refused, taken back. With real engines:
//! `integration/install.rs`.

use super::*;
use crate::config::Config;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// A node in a temporary folder, with a shim and Docker's configuration at a place of its own.
struct Tree {
    folder: tempfile::TempDir,
    config: Config,
}

impl Tree {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let config = Config { state_dir: folder.path().join("state"), ..Config::defaults() };
        let tree = Self { folder, config };
        fs::create_dir(tree.path("libexec")).expect("folder");
        fs::write(tree.path("libexec/acctguard-runtime"), "").expect("shim");
        fs::set_permissions(tree.path("libexec/acctguard-runtime"), fs::Permissions::from_mode(0o755)).expect("mode");
        tree
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn node(&self) -> Node<'_> {
        Node { config: &self.config, shim: self.path("libexec/acctguard-runtime") }
    }

    /// Everything but acctguard's own state, by path.
    fn shown(&self) -> Vec<(PathBuf, State)> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("lists") {
                let path = entry.expect("entry").path();
                if path == self.config.state_dir {
                    continue;
                }
                let state = State::at(&path).expect("reads");
                if state == State::Folder {
                    folders.push(path.clone());
                }
                found.push((path, state));
            }
        }
        found.sort_by(|left, right| left.0.cmp(&right.0));
        found
    }

    /// The plan for an engine that is not installed, whose main file is `main`.
    fn planned(&self, engine: Engine, main: &str, request: &Request) -> Result<Plan, EngineError> {
        let found = Found { engine, installed: None, main: self.path(main) };
        plan::plan(&self.node(), &found, request, &View::of_disk())
    }

    fn put_in_force(&self, engine: Engine, main: &str, request: &Request) {
        let found = Found { engine, installed: None, main: self.path(main) };
        let plan = plan::plan(&self.node(), &found, request, &View::of_disk()).expect("plans");
        journal::Lock::take(&self.config.state_dir).expect("locks");
        put_in_force(&self.node(), &found, plan).expect("is put in force");
    }
}

#[test]
fn four_engines_at_once_come_and_go_byte_for_byte() {
    let tree = Tree::new();
    for (name, text) in [
        ("containerd.toml", "version = 2 # mine\r\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"x\"\n"),
        ("daemon.json", "{\n   \"debug\":true}"),
        ("crio.conf", "[crio.runtime.runtimes.crun]\nruntime_path = \"/bin/crun\"\n"),
    ] {
        fs::write(tree.path(name), text).expect("writes");
    }
    let engines = [
        (Engine::Containerd, "containerd.toml"),
        (Engine::Docker, "daemon.json"),
        (Engine::Crio, "crio.conf"),
        (Engine::Podman, "containers.conf"),
    ];
    let before = tree.shown();
    for (engine, main) in engines {
        tree.put_in_force(engine, main, &Request::default());
    }
    let node = tree.node();
    for (engine, main) in engines {
        let found = Found { engine, installed: None, main: tree.path(main) };
        let runtimes = plan::runtimes(&found).expect("reads");
        let ours = |path: &Path| plan::is_shim(&node.shim, path);
        assert_eq!(runtimes.registered(&ours).map(|(_, is_default)| is_default), Some(true), "{engine:?}");
    }
    assert_ne!(tree.shown(), before);
    for (engine, _) in engines {
        uninstall(&node, engine, false).expect("uninstalls");
    }
    assert_eq!(tree.shown(), before);
    assert!(uninstall(&node, Engine::Docker, false).expect("has nothing to do").changes.is_empty());
}

#[test]
fn what_somebody_changed_since_is_not_lost() {
    let tree = Tree::new();
    fs::write(tree.path("daemon.json"), "{}").expect("writes");
    tree.put_in_force(Engine::Docker, "daemon.json", &Request::default());
    let ours = fs::read_to_string(tree.path("daemon.json")).expect("reads");
    fs::write(tree.path("daemon.json"), ours.replacen('{', "{\"debug\": true,", 1)).expect("writes");
    let error = uninstall(&tree.node(), Engine::Docker, false).unwrap_err();
    assert!(error.to_string().contains("was changed by somebody since acctguard install"), "{error}");
    fs::write(tree.path("daemon.json"), "{\"debug\": true}").expect("writes");
    let outcome = uninstall(&tree.node(), Engine::Docker, false).expect("there is nothing left to lose");
    assert_eq!((outcome.changes.len(), outcome.notes.len()), (0, 1), "{outcome:?}");
    assert_eq!(fs::read_to_string(tree.path("daemon.json")).expect("reads"), "{\"debug\": true}");
}

#[test]
fn files_of_others_are_changed_on_demand_only() {
    let tree = Tree::new();
    fs::write(tree.path("containerd.toml"), "# Ansible managed\nversion = 2\n").expect("writes");
    let refused = tree.planned(Engine::Containerd, "containerd.toml", &Request::default()).expect_err("refuses");
    assert!(refused.to_string().contains("containerd.toml: its line 1 says that somebody else writes it"), "{refused}");
    let request = Request { edit_managed: true, ..Request::default() };
    assert!(tree.planned(Engine::Containerd, "containerd.toml", &request).is_ok());
    fs::write(tree.path("containerd.toml"), "# Ansible managed\nversion = 3\nimports = ['conf.d/*.toml']\n")
        .expect("writes");
    let drop_in = tree.planned(Engine::Containerd, "containerd.toml", &Request::default()).expect("only a file beside");
    assert!(drop_in.changes.iter().all(|change| change.path != tree.path("containerd.toml")));
}

#[test]
fn names_are_those_of_kubernetes_and_not_taken() {
    let tree = Tree::new();
    for (name, is_fine) in [
        ("a", true),
        ("acct-1", true),
        ("", false),
        ("-a", false),
        ("a-", false),
        ("A", false),
        ("a.b", false),
        ("1a", false),
    ] {
        let request = Request { class: Some(name.to_owned()), ..Request::default() };
        assert_eq!(tree.planned(Engine::Docker, "daemon.json", &request).is_ok(), is_fine, "{name:?}");
    }
    fs::write(tree.path("daemon.json"), "{\"runtimes\": {\"acctguard\": {\"path\": \"/other\"}}}").expect("writes");
    let error = tree.planned(Engine::Docker, "daemon.json", &Request::default()).expect_err("refuses");
    assert!(matches!(error, EngineError::NameTaken { .. }), "{error}");
}

#[test]
fn a_link_in_the_place_of_a_file_stays_one() {
    let tree = Tree::new();
    fs::write(tree.path("real.json"), "{}").expect("writes");
    std::os::unix::fs::symlink("real.json", tree.path("daemon.json")).expect("links");
    let before = tree.shown();
    tree.put_in_force(Engine::Docker, "daemon.json", &Request::default());
    assert!(fs::symlink_metadata(tree.path("daemon.json")).expect("is there").is_symlink());
    assert!(fs::read_to_string(tree.path("real.json")).expect("reads").contains("acctguard"));
    uninstall(&tree.node(), Engine::Docker, false).expect("uninstalls");
    assert_eq!(tree.shown(), before);
}

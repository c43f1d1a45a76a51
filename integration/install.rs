//! `acctguard install` and `uninstall` with the engines of Debian: their real paths in a mount namespace of the test's own, their own
//! check commands, a power cut before every call that changes anything. No engine's daemon runs. Other versions of the engines are
//! tried when PATH has them first.

#[path = "harness/files.rs"]
mod files;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

const ACCTGUARD: &str = env!("CARGO_BIN_EXE_acctguard");
const SHIM: &str = "/usr/libexec/acctguard/acctguard-runtime";
const CONTAINERD: &str = "/etc/containerd/config.toml";
const DOCKER: &str = "/etc/docker/daemon.json";
/// What Debian's package installs.
const DEBIAN_CONTAINERD: &str = "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    [plugins.\"io.containerd.grpc.v1.cri\".cni]\n      bin_dir = \"/usr/lib/cni\"\n      conf_dir = \"/etc/cni/net.d\"\n  [plugins.\"io.containerd.internal.v1.opt\"]\n    path = \"/var/lib/containerd\"\n";
/// What CRI-O's package installs, shortened.
const CRIO: &str = "[crio.runtime]\ndefault_runtime = \"crun\"\n\n[crio.runtime.runtimes.crun]\nruntime_path = \"/usr/bin/crun\"\nruntime_root = \"/run/crun\"\nmonitor_path = \"/usr/bin/conmon\"\nallowed_annotations = [\"io.containers.trace-syscall\"]\n";
/// The engines' programs that the test of power cuts does without.
const PROGRAMS: [&str; 2] = ["/usr/bin/containerd", "/usr/sbin/dockerd"];
/// Folders that the tests write to, over the machine's own.
const COVERED: [&str; 4] = ["/etc", "/usr/libexec", "/var/lib", "/run"];
/// Where engines and acctguard keep what install may change.
const WATCHED: [&str; 5] = ["/etc/containerd", "/etc/containers", "/etc/crio", "/etc/docker", "/usr/libexec/acctguard"];

/// This thread's own view of the machine: what is written under [`COVERED`] goes to a tmpfs.
struct Node {
    folder: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "root is needed: run integration/test with sudo");
        for (program, package) in [
            ("containerd", "containerd"),
            ("podman", "podman"),
            ("dockerd", "docker.io"),
            ("crun", "crun"),
            ("runc", "runc"),
        ] {
            let there = ["/usr/local/bin", "/usr/sbin", "/usr/bin"]
                .iter()
                .any(|folder| Path::new(folder).join(program).exists());
            assert!(
                there,
                "{program} is missing: install the Debian package {package}, or run integration/test, which does"
            );
        }
        unshare(CloneFlags::CLONE_NEWNS).expect("unshare a mount namespace: CAP_SYS_ADMIN is needed");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .expect("private mounts");
        let folder = tempfile::Builder::new().prefix("install-").tempdir().expect("folder");
        mount(Some("tmpfs"), folder.path(), Some("tmpfs"), MsFlags::empty(), Some("mode=755")).expect("mount a tmpfs");
        let node = Self { folder };
        COVERED.iter().for_each(|covered| node.cover(covered));
        // podman's storage takes no overlay below it
        fs::create_dir_all("/var/lib/containers").expect("folder");
        mount(Some("tmpfs"), "/var/lib/containers", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
            .expect("mount a tmpfs");
        for watched in WATCHED {
            if Path::new(watched).exists() && watched != "/etc/containers" {
                fs::remove_dir_all(watched).expect("remove");
            }
            fs::create_dir_all(watched).expect("folder");
        }
        for old in ["/etc/acctguard", "/var/lib/acctguard", "/etc/containers/containers.conf.d"] {
            let _ = fs::remove_dir_all(old);
        }
        // an engine's folder is there when it is installed
        fs::remove_dir("/etc/crio").expect("remove");
        for (program, path) in [
            (env!("CARGO_BIN_EXE_acctguard-runtime"), SHIM),
            (env!("CARGO_BIN_EXE_acctguard-hook"), "/usr/libexec/acctguard/acctguard-hook"),
        ] {
            fs::copy(program, path).expect("copy");
        }
        node
    }

    /// From now on what is written to `folder` goes elsewhere.
    fn cover(&self, folder: &str) {
        let (upper, work) = (self.scratch(&format!("upper{folder}")), self.scratch(&format!("work{folder}")));
        let options = format!("lowerdir={folder},upperdir={},workdir={}", upper.display(), work.display());
        mount(Some("overlay"), folder, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .expect("mount an overlay");
    }

    /// Takes an engine's program away, which would be asked twice in every run.
    fn without(&self, program: &str) {
        let path = Path::new(program);
        self.cover(path.parent().and_then(Path::to_str).expect("a folder"));
        fs::remove_file(path).expect("remove");
    }

    fn scratch(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name.trim_start_matches('/'));
        fs::create_dir_all(&path).expect("folder");
        path
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = umount2("/var/lib/containers", MntFlags::MNT_DETACH);
        for covered in PROGRAMS.iter().filter_map(|program| Path::new(program).parent()) {
            let _ = umount2(covered, MntFlags::MNT_DETACH);
        }
        for covered in COVERED {
            let _ = umount2(covered, MntFlags::MNT_DETACH);
        }
        let _ = umount2(self.folder.path(), MntFlags::MNT_DETACH);
    }
}

/// Everything in the watched folders: path, kind, permissions, content.
fn shown() -> files::Shown {
    files::shown(&WATCHED)
}

fn run(arguments: &[&str]) -> Output {
    Command::new(ACCTGUARD)
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("ACCTGUARD_CONFIG")
        .output()
        .expect("acctguard runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The standard output of a run that must do what it was asked.
#[track_caller]
fn done(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// The one line of a run that must fail with `code`.
#[track_caller]
fn refused(arguments: &[&str], code: i32) -> String {
    let output = run(arguments);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}{told}", text(&output.stdout));
    assert_eq!(told.lines().count(), 1, "{told}");
    told
}

fn write(path: &str, content: &str) {
    fs::create_dir_all(Path::new(path).parent().expect("folder")).expect("folder");
    fs::write(path, content).expect("writes");
}

fn read(path: &str) -> String {
    fs::read_to_string(path).expect("reads")
}

/// What a program says, whatever it ends with.
fn said(program: &str, arguments: &[&str]) -> String {
    text(&Command::new(program).args(arguments).stdin(Stdio::null()).output().expect("runs").stdout)
}

/// What containerd itself tells of its runtimes.
fn section_of_containerd() -> toml::Table {
    let dump = said("containerd", &["--config", CONTAINERD, "config", "dump"]);
    let dump: toml::Table = toml::from_str(&dump).expect("TOML");
    let keys = ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"];
    let section = keys.iter().find_map(|key| dump["plugins"].get(key)).expect("CRI");
    section["containerd"].as_table().expect("table").clone()
}

/// Installs, installs again, takes it back; the engine's files are as they were. What `check` says in between holds.
#[track_caller]
fn comes_and_goes(engine: &str, extra: &[&str], check: impl Fn(&str)) {
    let before = shown();
    let install: Vec<&str> = ["install", "--engine", engine].iter().chain(extra).copied().collect();
    let dry: Vec<&str> = install.iter().copied().chain(["--dry-run"]).collect();
    let diff = done(&dry);
    assert!(diff.contains("+++ /etc/") && diff.contains("nothing was changed"), "{diff}");
    assert_eq!(shown(), before, "a dry run changes nothing");
    let told = done(&install);
    assert!(told.contains("\nregistered with ") && told.contains("\nto do: "), "{told}");
    assert!(told.contains("until the daemon answers"), "none runs here: {told}");
    let changed = shown();
    assert_ne!(changed, before);
    check(&told);
    let again = done(&install);
    assert!(again.starts_with("nothing to do: "), "{again}");
    assert_eq!(shown(), changed, "a second time changes nothing");
    let told = done(&["uninstall", "--engine", engine]);
    assert_eq!(shown(), before, "uninstall restores every byte");
    let forgets = if engine == "docker" { "to do: systemctl restart docker, " } else { "\nto do: " };
    assert!(told.contains(forgets), "{told}");
    let nothing = done(&["uninstall", "--engine", engine]);
    assert!(nothing.starts_with("nothing to do: "), "{nothing}");
}

#[test]
fn containerd_takes_every_kind_of_configuration() {
    let _node = Node::new();
    for (what, content) in [
        ("Debian's", Some(DEBIAN_CONTAINERD.to_owned())),
        ("none", None),
        ("without CRI", Some("version = 2\n# ours\n[debug]\n  level = \"info\"\n".to_owned())),
        ("version 1", Some("[plugins.cri]\n  sandbox_image = \"pause:x\"\n".to_owned())),
        ("whole", Some(said("containerd", &["config", "default"]))),
    ] {
        let _ = fs::remove_file(CONTAINERD);
        if let Some(content) = &content {
            write(CONTAINERD, content);
        }
        for extra in [&[][..], &["--class"], &["--class", "guarded"]] {
            comes_and_goes("containerd", extra, |told| {
                assert!(
                    told.contains("containerd --config /etc/containerd/config.toml config dump\n"),
                    "{what}: {told}"
                );
                let section = section_of_containerd();
                let name = extra.get(1).copied().unwrap_or("acctguard");
                assert_eq!(section["runtimes"][name]["options"]["BinaryName"].as_str(), Some(SHIM), "{what}");
                let default = if extra.is_empty() { "acctguard" } else { "runc" };
                assert_eq!(section["default_runtime_name"].as_str(), Some(default), "{what}");
                assert!(section["runtimes"].get("runc").is_some(), "{what}: containerd's own runc is still there");
            });
        }
    }
}

#[test]
fn podman_calls_the_shim_by_the_name_of_crun() {
    let _node = Node::new();
    comes_and_goes("podman", &[], |told| {
        assert!(told.contains("podman info --format"), "{told}");
        let path = said("podman", &["info", "--format", "{{.Host.OCIRuntime.Path}}"]);
        assert_eq!(path.trim(), "/usr/libexec/acctguard/podman/crun");
    });
    comes_and_goes("podman", &["--class"], |_| {
        let path = |arguments: &[&str]| {
            said("podman", &[arguments, &["info", "--format", "{{.Host.OCIRuntime.Path}}"]].concat())
        };
        assert_eq!(path(&["--runtime", "acctguard"]).trim(), "/usr/libexec/acctguard/podman/crun");
        assert_eq!(path(&[]).trim(), "/usr/bin/crun");
    });
}

#[test]
fn docker_loses_nothing_of_its_daemon_json() {
    let _node = Node::new();
    for content in ["{\n    \"log-opts\": {\"max-size\": \"10m\"},\n    \"live-restore\": true\n}\n", "{}", ""] {
        write(DOCKER, content);
        for extra in [&[][..], &["--class"]] {
            comes_and_goes("docker", extra, |told| {
                let value: serde_json::Value = serde_json::from_str(&read(DOCKER)).expect("JSON");
                assert_eq!(value["runtimes"]["acctguard"]["path"], SHIM);
                assert_eq!(value["default-runtime"] == "acctguard", extra.is_empty());
                let kept = content.lines().filter(|line| line.contains(':')).map(|line| line.trim_end_matches(','));
                assert!(kept.into_iter().all(|line| read(DOCKER).contains(line)), "{}", read(DOCKER));
                // Debian 12's dockerd has no --validate
                let is_old = said("dockerd", &["--version"]).contains("version 20.");
                assert!(told.contains(if is_old { "older than 23.0" } else { "checked by " }), "{told}");
            });
        }
    }
}

#[test]
fn crio_gets_a_drop_in_with_what_its_runtime_had() {
    let _node = Node::new();
    let refused = refused(&["install", "--engine", "crio"], 69);
    assert!(refused.contains("find crio: neither crio nor /etc/crio is there"), "{refused}");
    write("/etc/crio/crio.conf.d/10-crio.conf", CRIO);
    comes_and_goes("crio", &[], |told| {
        assert!(told.contains("not checked: crio is not installed"), "{told}");
        let own: toml::Table = toml::from_str(&read("/etc/crio/crio.conf.d/99-acctguard.conf")).expect("TOML");
        let runtime = &own["crio"]["runtime"];
        assert_eq!(runtime["default_runtime"].as_str(), Some("acctguard"));
        let ours = &runtime["runtimes"]["acctguard"];
        for (key, value) in [
            ("runtime_path", "/usr/libexec/acctguard/crio/crun"),
            ("runtime_type", "oci"),
            ("runtime_root", "/run/crun"),
            ("monitor_path", "/usr/bin/conmon"),
        ] {
            assert_eq!(ours[key].as_str(), Some(value));
        }
        assert_eq!(ours["allowed_annotations"][0].as_str(), Some("io.containers.trace-syscall"));
        assert_eq!(fs::read_link("/usr/libexec/acctguard/crio/crun.real").expect("link"), Path::new("/usr/bin/crun"));
        assert!(said("/usr/libexec/acctguard/crio/crun", &["--version"]).starts_with("crun version "));
    });
}

#[test]
fn engines_of_a_node_come_and_go_on_their_own_and_doctor_tells() {
    let _node = Node::new();
    write(CONTAINERD, DEBIAN_CONTAINERD);
    write(DOCKER, "{\"debug\": true}\n");
    let before = shown();
    for engine in ["containerd", "docker", "podman"] {
        let told = text(&run(&["doctor"]).stdout);
        let line = format!("remedy: acctguard install --engine {engine}\n");
        assert!(told.contains(&line), "{told}");
        done(&["install", "--engine", engine]);
    }
    let told = text(&run(&["doctor"]).stdout);
    for engine in ["containerd", "docker", "podman"] {
        let mine: Vec<&str> = told.lines().filter(|line| line.contains(&format!(" engine {engine} "))).collect();
        let tells = |words: &str| assert!(mine.iter().any(|line| line.contains(words)), "{words}: {told}");
        tells("creations and exec sessions are seen");
        tells("cannot be sealed: /usr/libexec/acctguard/acctguard-launch is not there; remedy: ");
        tells(if engine == "podman" { "wait killable" } else { "signals can cancel a call" });
        assert_eq!(mine.iter().any(|line| line.contains("it does not tell")), engine != "podman", "{told}");
    }
    done(&["install", "--engine", "docker", "--class"]);
    let told = text(&run(&["doctor"]).stdout);
    assert!(told.contains("registered as acctguard, beside the default runtime runc"), "{told}");
    for engine in ["docker", "containerd", "podman"] {
        done(&["uninstall", "--engine", engine]);
    }
    assert_eq!(shown(), before);
    write(DOCKER, "{");
    let told = text(&run(&["doctor"]).stdout);
    assert!(told.contains("MISSING engine docker") && told.contains("/etc/docker/daemon.json:1:1: "), "{told}");
}

#[test]
fn what_is_not_to_be_changed_is_refused_in_one_line() {
    let _node = Node::new();
    let nvidia = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n  default_runtime_name = \"nvidia\"\n  [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.nvidia]\n    runtime_type = \"io.containerd.runc.v2\"\n    [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.nvidia.options]\n      BinaryName = \"/usr/libexec/nvidia-container-runtime\"\n";
    let kata = nvidia.replace("io.containerd.runc.v2", "io.containerd.kata.v2");
    for (engine, path, content, code, expected) in [
        ("containerd", CONTAINERD, "version = 2\n[plugins\n", 78, "/etc/containerd/config.toml:2:9: "),
        ("docker", DOCKER, "{\n  \"debug\": true,\n}\n", 78, "/etc/docker/daemon.json:3:1: "),
        ("crio", "/etc/crio/crio.conf", "[crio.runtime]\nx = \n", 78, "/etc/crio/crio.conf:2:"),
        (
            "podman",
            "/etc/containers/containers.conf",
            "[engine]\nruntime = [\n",
            78,
            "/etc/containers/containers.conf:",
        ),
        (
            "containerd",
            CONTAINERD,
            "# Ansible managed\nversion = 2\n",
            78,
            "its line 1 says that somebody else writes it",
        ),
        ("docker", DOCKER, "{\"_comment\": \"managed by Puppet\"}", 78, "its line 1 says that somebody else writes it"),
        (
            "containerd",
            CONTAINERD,
            nvidia,
            78,
            "has the default runtime nvidia (/usr/libexec/nvidia-container-runtime)",
        ),
        (
            "containerd",
            CONTAINERD,
            kata.as_str(),
            78,
            "has the default runtime nvidia (io.containerd.kata.v2), which has no command line",
        ),
        ("docker", DOCKER, "{\"default-runtime\": \"nvidia\"}", 78, "has the default runtime nvidia (nvidia)"),
        // containerd itself refuses it
        (
            "containerd",
            CONTAINERD,
            "version = 2\noom_score = \"many\"\n",
            78,
            "does not take its configuration as it is now",
        ),
    ] {
        write(path, content);
        let before = shown();
        let told = refused(&["install", "--engine", engine], code);
        assert!(told.starts_with("acctguard: ") && told.contains(expected), "{told}");
        assert_eq!(shown(), before, "{content}");
        fs::remove_file(path).expect("remove");
    }
}

#[test]
fn acctguard_stands_in_front_of_another_runtime_when_it_is_told_to() {
    let _node = Node::new();
    let other = "/usr/libexec/nvidia-container-runtime";
    write(other, "#!/bin/sh\necho \"nvidia $*\"\n");
    fs::set_permissions(other, fs::Permissions::from_mode(0o755)).expect("mode");
    let called = |engine: &str| {
        let program = format!("/usr/libexec/acctguard/{engine}/nvidia-container-runtime");
        assert_eq!(said(&program, &["--version"]), "nvidia --version\n", "the real shim calls it");
    };
    write(
        CONTAINERD,
        &format!(
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndefault_runtime_name = \"nvidia\"\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.nvidia]\nruntime_type = \"io.containerd.runc.v2\"\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.nvidia.options]\nBinaryName = \"{other}\"\nSystemdCgroup = true\n"
        ),
    );
    comes_and_goes("containerd", &["--chain"], |_| {
        called("containerd");
        let section = section_of_containerd();
        assert_eq!(section["runtimes"]["acctguard"]["options"]["SystemdCgroup"].as_bool(), Some(true));
    });
    write(
        DOCKER,
        &format!("{{\"runtimes\": {{\"nvidia\": {{\"path\": \"{other}\"}}}}, \"default-runtime\": \"nvidia\"}}"),
    );
    comes_and_goes("docker", &["--chain"], |_| called("docker"));
    write("/etc/acctguard/config.toml", "[runtime]\npath = \"/usr/bin/crun\"\n");
    let told = refused(&["install", "--engine", "docker", "--chain"], 78);
    assert!(told.contains("[runtime] path of acctguard's configuration names /usr/bin/crun"), "{told}");
}

/// An engine that takes what is there and not what acctguard writes: its own words are told, and everything is as before.
#[test]
fn what_the_engine_does_not_take_is_taken_back() {
    let node = Node::new();
    write(CONTAINERD, DEBIAN_CONTAINERD);
    let folder = node.scratch("programs");
    let wrapper = folder.join("containerd");
    fs::write(&wrapper, "#!/bin/sh\nif grep -q acctguard \"$2\" 2>/dev/null; then echo 'containerd: no such thing' >&2; exit 1; fi\nexec /usr/bin/containerd \"$@\"\n").expect("writes");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("mode");
    let before = shown();
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", folder.display());
    let output =
        Command::new(ACCTGUARD).args(["install", "--engine", "containerd"]).env("PATH", path).output().expect("runs");
    let told = text(&output.stderr);
    assert_eq!((output.status.code(), told.lines().count()), (Some(1), 1), "{told}");
    assert!(
        told.contains("so that it is as it was before") && told.contains("says: containerd: no such thing"),
        "{told}"
    );
    assert_eq!(shown(), before);
    assert!(done(&["uninstall", "--engine", "containerd"]).starts_with("nothing to do"));
}

#[test]
fn what_somebody_changed_since_is_not_lost() {
    let _node = Node::new();
    write(DOCKER, "{}\n");
    done(&["install", "--engine", "docker"]);
    let mine = read(DOCKER).replacen('{', "{\n  \"debug\": true,", 1);
    write(DOCKER, &mine);
    assert!(done(&["install", "--engine", "docker"]).starts_with("nothing to do: "));
    let told = refused(&["uninstall", "--engine", "docker"], 78);
    assert!(
        told.contains("was changed by somebody since") && told.contains("take acctguard out of it by hand"),
        "{told}"
    );
    assert_eq!(read(DOCKER), mine);
    write(DOCKER, "{\n  \"debug\": true\n}\n");
    let told = done(&["uninstall", "--engine", "docker"]);
    assert!(told.contains("no longer names acctguard and stays as it is"), "{told}");
    assert_eq!(read(DOCKER), "{\n  \"debug\": true\n}\n");
}

/// A container that runs is stopped through the path that its monitor has on its command line, or that stands beside its bundle.
#[test]
fn a_link_stays_while_a_container_needs_it() {
    let _node = Node::new();
    symlink("/usr/bin/crun", "/usr/libexec/kept-crun").expect("links");
    write(DOCKER, "{\"runtimes\": {\"crun\": {\"path\": \"/usr/libexec/kept-crun\"}}, \"default-runtime\": \"crun\"}");
    let refused = refused(&["install", "--engine", "docker"], 78);
    assert!(refused.contains("(/usr/libexec/kept-crun), which is neither runc nor crun"), "{refused}");
    let link = Path::new("/usr/libexec/acctguard/docker/kept-crun");
    let install = ["install", "--engine", "docker", "--chain"];
    let stays = || {
        let told = done(&["uninstall", "--engine", "docker"]);
        let note = format!("note: {} stays, because containers that run are stopped through it", link.display());
        assert!(told.contains(&note) && link.is_symlink() && !read(DOCKER).contains("acctguard"), "{told}");
    };
    done(&install);
    let words = ["-c", "sleep 100; true", "conmon", "-r", "/usr/libexec/acctguard/docker/kept-crun"];
    let mut monitor =
        Command::new("/bin/sh").args(words).stdin(Stdio::null()).process_group(0).spawn().expect("starts");
    stays();
    let group = Pid::from_raw(-i32::try_from(monitor.id()).expect("pid"));
    kill(group, Signal::SIGKILL).expect("kill");
    monitor.wait().expect("wait");
    fs::remove_dir_all("/usr/libexec/acctguard/docker").expect("remove");
    done(&install);
    let options = "/run/containerd/io.containerd.runtime.v2.task/moby/x/options.json";
    write(options, &format!("{{\"binary_name\":\"{}\"}}", link.display()));
    stays();
    fs::remove_file(options).expect("remove");
}

/// How a traced run ended.
#[derive(Debug, PartialEq, Eq)]
enum Run {
    Cut,
    Ended(i32),
}

/// Numbers of the x86_64 calls by which a program changes a file system, fsync(2) among them.
fn changes(registers: &nix::libc::user_regs_struct) -> bool {
    use nix::libc;
    let makes = registers.rdx & u64::try_from(libc::O_CREAT).expect("flag") != 0;
    match i64::try_from(registers.orig_rax).expect("number") {
        libc::SYS_openat => makes,
        libc::SYS_write => registers.rdi > 2,
        libc::SYS_rename
        | libc::SYS_renameat
        | libc::SYS_renameat2
        | libc::SYS_unlink
        | libc::SYS_unlinkat
        | libc::SYS_rmdir
        | libc::SYS_mkdir
        | libc::SYS_mkdirat
        | libc::SYS_symlink
        | libc::SYS_symlinkat
        | libc::SYS_fchmod
        | libc::SYS_fchown
        | libc::SYS_fsync => true,
        _ => false,
    }
}

/// Runs acctguard and kills it before its change number `cut`, from 1.
fn run_until(arguments: &[&str], cut: usize) -> Run {
    let mut child = Command::new("/bin/sh")
        .args(["-c", "kill -STOP $$; exec \"$@\"", "sh", ACCTGUARD])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("pid"));
    let deadline = Instant::now() + Duration::from_secs(60);
    while !fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") T ")) {
        assert!(Instant::now() < deadline, "the shell does not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
    ptrace::seize(
        pid,
        ptrace::Options::PTRACE_O_TRACESYSGOOD
            | ptrace::Options::PTRACE_O_TRACEEXEC
            | ptrace::Options::PTRACE_O_EXITKILL,
    )
    .expect("seize");
    kill(pid, Signal::SIGCONT).expect("goes on");
    ptrace::interrupt(pid).expect("interrupt");
    let (mut begun, mut count) = (false, 0);
    let ended = loop {
        match waitpid(pid, Some(WaitPidFlag::__WALL)).expect("wait") {
            WaitStatus::Exited(_, code) => break Run::Ended(code),
            WaitStatus::Signaled(..) => break Run::Cut,
            WaitStatus::PtraceSyscall(_) => {
                let registers = ptrace::getregs(pid).expect("registers");
                // on its way in, a call has this in the place of its result
                let is_entry = registers.rax.cast_signed() == -i64::from(nix::libc::ENOSYS);
                if begun && is_entry && changes(&registers) {
                    count += 1;
                    if count == cut {
                        kill(pid, Signal::SIGKILL).expect("kill");
                        continue;
                    }
                }
                ptrace::syscall(pid, None).expect("goes on");
            }
            WaitStatus::PtraceEvent(_, _, event) => {
                begun |= event == nix::libc::PTRACE_EVENT_EXEC;
                ptrace::syscall(pid, None).expect("goes on");
            }
            WaitStatus::Stopped(_, signal) => {
                let passed = Some(signal).filter(|signal| *signal != Signal::SIGTRAP);
                ptrace::syscall(pid, passed).expect("goes on");
            }
            other => panic!("{other:?}"),
        }
    };
    // waitpid above has taken its end already
    let _ = child.try_wait();
    ended
}

/// Cuts `arguments` off before each of its changes in turn; what `after` does must lead to `expected`, and `reset` starts anew.
fn cut_at_every_change(
    arguments: &[&str],
    prepare: &[&str],
    after: &[&str],
    expected: &files::Shown,
    reset: &[&str],
) -> usize {
    let original = shown();
    for cut in 1.. {
        if !prepare.is_empty() {
            done(prepare);
        }
        let ended = run_until(arguments, cut);
        done(after);
        assert_eq!(&shown(), expected, "{arguments:?} cut off before its change {cut}, then {after:?}");
        if !reset.is_empty() {
            done(reset);
            assert_eq!(shown(), original, "{arguments:?} cut off before its change {cut}, then {reset:?}");
        }
        match ended {
            Run::Cut => {}
            Run::Ended(0) => return cut - 1,
            other => panic!("{arguments:?}: {other:?}"),
        }
    }
    0
}

#[test]
fn a_power_cut_between_any_two_steps_is_made_good_by_the_next_run() {
    let node = Node::new();
    PROGRAMS.iter().for_each(|program| node.without(program));
    symlink("/usr/bin/crun", "/usr/libexec/crun").expect("links");
    for (engine, path, content) in [
        // a folder, a drop-in and an import
        ("containerd", CONTAINERD, "version = 2\n[debug]\n  level = \"info\"\n"),
        // a folder, two links and a file
        (
            "docker",
            DOCKER,
            "{\"runtimes\": {\"crun\": {\"path\": \"/usr/libexec/crun\"}}, \"default-runtime\": \"crun\"}\n",
        ),
    ] {
        write(path, content);
        let before = shown();
        let (install, uninstall) = (&["install", "--engine", engine], &["uninstall", "--engine", engine]);
        done(install);
        let installed = shown();
        done(uninstall);
        assert_eq!(shown(), before);
        let cuts = cut_at_every_change(install, &[], install, &installed, uninstall);
        assert!(cuts > 20, "{cuts} changes were seen");
        assert_eq!(cut_at_every_change(install, &[], uninstall, &before, &[]), cuts);
        let cuts = cut_at_every_change(uninstall, install, uninstall, &before, &[]);
        assert!(cuts > 10, "{cuts} changes were seen");
        cut_at_every_change(uninstall, install, install, &installed, uninstall);
    }
}

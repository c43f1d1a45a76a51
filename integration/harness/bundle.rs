//! Bundles: a root file system of its own over the cached one, and a `config.json` as an engine would write it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use acctguard::oci::engine_profile::DEFAULT_CAPABILITIES;
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use super::machine::{Scratch, repository, rootfs};

/// Which capabilities the container's process gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capabilities {
    /// Docker's default set.
    Engine,
    /// All of them.
    All,
}

/// What a container is to be.
#[derive(Debug, Clone)]
pub struct Spec {
    /// `process.args`.
    pub args: Vec<String>,
    /// `process.user.uid` and `gid`.
    pub uid: u32,
    /// `process.noNewPrivileges`.
    pub no_new_privileges: bool,
    /// Capabilities.
    pub capabilities: Capabilities,
    /// Whether it has Docker's default seccomp profile; else none.
    pub engine_seccomp: bool,
    /// `process.terminal`.
    pub terminal: bool,
    /// `root.readonly`.
    pub read_only: bool,
    /// Annotations.
    pub annotations: Vec<(String, String)>,
    /// Folders of the host bound into the container: source and destination.
    pub binds: Vec<(PathBuf, String)>,
    /// Hard links: a file of the small root file system, and a second name for it.
    pub links: Vec<(&'static str, &'static str)>,
    /// More options of the overlay, each with a comma before it.
    pub overlay_options: &'static str,
    /// `hooks`.
    pub hooks: Option<Value>,
    /// Root file system `small` or `large`.
    pub rootfs: &'static str,
}

impl Spec {
    /// A container that runs `args` as root, as Docker would by default but without its seccomp profile.
    pub fn new(args: &[&str]) -> Self {
        Self {
            args: args.iter().map(|&word| word.to_owned()).collect(),
            uid: 0,
            no_new_privileges: false,
            capabilities: Capabilities::Engine,
            engine_seccomp: false,
            terminal: false,
            read_only: false,
            annotations: Vec::new(),
            binds: Vec::new(),
            links: Vec::new(),
            overlay_options: "",
            hooks: None,
            rootfs: "small",
        }
    }

    /// A container that runs a shell script.
    pub fn shell(script: &str) -> Self {
        Self::new(&["/bin/sh", "-c", script])
    }

    /// A container that does nothing until it is killed.
    pub fn idle() -> Self {
        Self::new(&["/bin/busybox", "sleep", "3600"])
    }
}

/// A bundle folder.
#[derive(Debug)]
pub struct Bundle {
    /// The container's id.
    pub id: String,
    /// The bundle.
    pub folder: PathBuf,
}

impl Bundle {
    /// Makes the bundle of container `id` in `scratch`.
    pub fn new(scratch: &Scratch, id: &str, spec: &Spec) -> Self {
        let folder = scratch.folder(&format!("bundles/{id}"));
        for part in ["upper", "work", "rootfs"] {
            scratch.folder(&format!("bundles/{id}/{part}"));
        }
        // Before the mount, as a container finds what an earlier run of it left.
        for (original, alias) in &spec.links {
            let below = |path: &str| folder.join("upper").join(path.trim_start_matches('/'));
            for path in [original, alias] {
                fs::create_dir_all(below(path).parent().expect("folder")).expect("create folder");
            }
            fs::copy(rootfs("small").join(original.trim_start_matches('/')), below(original)).expect("copy");
            fs::hard_link(below(original), below(alias)).expect("hard link");
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}{}",
            rootfs(spec.rootfs).display(),
            folder.join("upper").display(),
            folder.join("work").display(),
            spec.overlay_options
        );
        let root = folder.join("rootfs");
        mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .expect("mount an overlay: the kernel's overlayfs is needed (modprobe overlay)");
        let bundle = Self { id: id.to_owned(), folder };
        bundle.write_config(&config(id, spec));
        bundle
    }

    /// Writes `config.json` anew for `spec`.
    pub fn rewrite(&self, spec: &Spec) {
        self.write_config(&config(&self.id, spec));
    }

    /// A file of the container, as the host sees it.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.folder.join("rootfs").join(inside.trim_start_matches('/'))
    }

    /// What is in a file of the container.
    pub fn read(&self, inside: &str) -> Vec<u8> {
        fs::read(self.path(inside)).unwrap_or_else(|error| panic!("read {inside} of {}: {error}", self.id))
    }

    /// The text of a file of the container.
    pub fn text(&self, inside: &str) -> String {
        String::from_utf8(self.read(inside)).expect("text")
    }

    /// What the root file system had in that file before the container.
    pub fn original(inside: &str) -> Vec<u8> {
        fs::read(rootfs("small").join(inside.trim_start_matches('/'))).expect("read the root file system")
    }

    /// Puts a file into the container, before it starts.
    pub fn put(&self, inside: &str, bytes: &[u8], mode: u32) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().expect("folder")).expect("create folder");
        fs::write(&path, bytes).expect("write file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set mode");
    }

    /// `config.json` as it is.
    pub fn config(&self) -> Value {
        serde_json::from_slice(&fs::read(self.config_path()).expect("read config.json")).expect("parse config.json")
    }

    /// Where `config.json` lies.
    pub fn config_path(&self) -> PathBuf {
        self.folder.join("config.json")
    }

    /// Replaces `config.json`.
    pub fn write_config(&self, config: &Value) {
        fs::write(self.config_path(), serde_json::to_vec_pretty(config).expect("print")).expect("write config.json");
    }
}

/// Everything that this process itself may give away.
fn all_capabilities() -> Vec<String> {
    let bounding = caps::read(None, caps::CapSet::Bounding).expect("read the bounding set");
    let mut names: Vec<String> = bounding.iter().map(ToString::to_string).collect();
    names.sort();
    names
}

fn config(id: &str, spec: &Spec) -> Value {
    let capabilities = match spec.capabilities {
        Capabilities::Engine => DEFAULT_CAPABILITIES.map(str::to_owned).to_vec(),
        Capabilities::All => all_capabilities(),
    };
    let annotations: serde_json::Map<String, Value> =
        spec.annotations.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    let mut linux = json!({
        // Absolute, so that what is left of a container after a crash is found.
        "cgroupsPath": format!("/{id}"),
        "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}],
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger"],
    });
    if spec.engine_seccomp {
        linux["seccomp"] = engine_seccomp();
    }
    let mut config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": spec.terminal,
            "user": {"uid": spec.uid, "gid": spec.uid},
            "args": spec.args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "noNewPrivileges": spec.no_new_privileges,
        },
        "root": {"path": "rootfs", "readonly": spec.read_only},
        "hostname": "guarded",
        "mounts": mounts(spec),
        "annotations": annotations,
        "linux": linux,
    });
    if let Some(hooks) = &spec.hooks {
        config["hooks"] = hooks.clone();
    }
    config
}

fn mounts(spec: &Spec) -> Vec<Value> {
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
               "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
               "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
               "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
               "options": ["nosuid", "noexec", "nodev", "ro"]}),
    ];
    for (source, destination) in &spec.binds {
        mounts.push(json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind", "rw"]}));
    }
    mounts
}

/// Docker's default profile, as dockerd 28 hands it to a runtime.
pub fn engine_seccomp() -> Value {
    let path: &Path = &repository().join("integration/fixtures/engine-seccomp.json");
    serde_json::from_slice(&fs::read(path).expect("read the profile")).expect("parse the profile")
}

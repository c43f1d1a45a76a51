//! podman, rootful, its storage in the place's folder: the shim by `--runtime` and by `acctguard install`, and hooks only.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::direct::logged_in;
use crate::engine::{Engine, Expected, Field, Ran, common_fields, is};
use crate::harness::command::{Done, finish};
use crate::harness::machine::{program, repository};
use crate::harness::node::Runtime;
use crate::image;
use crate::place::{Place, run, said};
use crate::report::Report;

/// The image of the small root file system.
pub const IMAGE: &str = "localhost/lab/guarded:1";
/// Of 50 characters at most; /run is the place's own.
const RUN_ROOT: &str = "/run/containers";
/// podman's own are higher, and raising them needs a capability that is not everywhere.
const LIMITS: &str = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n";
const LOGIN_UID: u32 = 4321;
/// Of whoever executes in a container, as another than its creator.
const EXEC_LOGIN_UID: u32 = 8765;

/// How acctguard is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `--runtime`, the shim under the name of its runtime.
    Option,
    /// `acctguard install`: a drop-in to containers.conf.
    Configuration,
    /// `--hooks-dir`, the runtime itself.
    Hooks,
    /// `--runtime`, in a pod that shares its pid namespace.
    Pod,
}

/// `--runtime` on crun, Debian's default, and what is known to go wrong.
pub fn by_option() -> Vec<Report> {
    examine(Runtime::Crun, Way::Option)
}

/// The same on runc.
pub fn on_runc() -> Vec<Report> {
    examine(Runtime::Runc, Way::Option)
}

/// The same on youki.
pub fn on_youki() -> Vec<Report> {
    examine(Runtime::Youki, Way::Option)
}

/// By a drop-in to containers.conf.
pub fn by_configuration() -> Vec<Report> {
    examine(Runtime::Crun, Way::Configuration)
}

/// In a pod.
pub fn in_pod() -> Vec<Report> {
    examine(Runtime::Crun, Way::Pod)
}

/// By hooks.d alone.
pub fn by_hooks() -> Vec<Report> {
    examine(Runtime::Crun, Way::Hooks)
}

fn examine(runtime: Runtime, way: Way) -> Vec<Report> {
    let place = Place::new(&format!("podman-{}-{way:?}", runtime.name()), runtime);
    configure(&place);
    if way == Way::Configuration {
        finish(&mut place.install("podman")).ok();
    }
    let engine = start(&place, way);
    let mut report = Report::new("podman", &engine.version(), engine.way());
    if way == Way::Pod {
        engine.make_pod();
    }
    crate::examination::examine(&place, &engine, &mut report);
    match way {
        Way::Option if runtime == Runtime::Crun => engine.traps(&mut report),
        Way::Pod => engine.remove_pod(&mut report),
        _ => {}
    }
    crate::leave(&place, &mut report);
    vec![report]
}

/// Writes the files in `/etc/containers` of an engine without acctguard, and those that only some ways name.
pub fn configure(place: &Place) {
    let hooks = place.node.scratch.folder("hooks.d");
    for file in ["acctguard.json", "precreate/acctguard-precreate.json"] {
        let text = fs::read_to_string(repository().join("hooks").join(file)).expect("read a hooks.d file");
        let hook = program("acctguard-hook").display().to_string();
        let text = text.replace("/usr/libexec/acctguard/acctguard-hook", &hook);
        fs::write(hooks.join(Path::new(file).file_name().expect("name")), text).expect("write a hooks.d file");
    }
    fs::create_dir_all("/etc/containers").expect("make /etc/containers");
    let storage = place.node.scratch.folder("storage");
    let storage = format!("[storage]\ndriver = \"overlay\"\ngraphroot = {storage:?}\nrunroot = {RUN_ROOT:?}\n");
    for (file, text) in [
        ("containers.conf", LIMITS),
        // who asks podman without naming its folders, as acctguard install does, asks the same
        ("storage.conf", &storage),
        ("policy.json", r#"{"default":[{"type":"insecureAcceptAnything"}]}"#),
    ] {
        fs::write(Path::new("/etc/containers").join(file), text).expect("write a file of podman's");
    }
    fs::write(place.path("plain.conf"), LIMITS).expect("write containers.conf");
}

/// Gives podman the image.
pub fn start(place: &Place, way: Way) -> Podman<'_> {
    let podman = Podman { place, way };
    let imported = run(podman.plain().args(["import", "--quiet"]).arg(image::root_archive(place)).arg(IMAGE));
    imported.expect("podman takes the image");
    podman
}

/// podman with acctguard in one way.
pub struct Podman<'a> {
    /// Where it runs.
    pub place: &'a Place,
    way: Way,
}

impl Podman<'_> {
    /// podman without acctguard.
    pub fn plain(&self) -> Command {
        let mut command = self.place.command("podman");
        command.env("CONTAINERS_CONF", self.place.path("plain.conf"));
        command.arg("--root").arg(self.place.node.scratch.folder("storage"));
        command.args(["--runroot", RUN_ROOT, "--tmpdir", "/run/libpod"]);
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--storage-driver", "overlay"]);
        command
    }

    fn podman(&self, arguments: &[&str]) -> Command {
        let mut command = self.plain();
        let name = self.place.node.runtime.name();
        match self.way {
            Way::Option | Way::Pod => {
                command.arg("--runtime").arg(self.place.shim_as(name));
            }
            Way::Configuration => {
                // it reads what is in /etc/containers
                command.env_remove("CONTAINERS_CONF");
            }
            Way::Hooks => {
                command.arg("--runtime").arg(name).arg("--hooks-dir").arg(self.place.path("hooks.d"));
            }
        }
        command.args(arguments);
        command
    }

    fn options(&self, name: &str) -> Vec<String> {
        let group = format!("/{}", self.place.group);
        let mut options = vec!["--name".to_owned(), name.to_owned()];
        if self.way == Way::Pod {
            options.extend(["--pod", "guarded-pod"].map(str::to_owned));
        } else {
            options.extend(["--network", "none", "--cgroup-parent", &group].map(str::to_owned));
        }
        options
    }

    fn new_container(&self, verb: &[&str], name: &str, program: &[&str]) -> Command {
        let options = self.options(name);
        let mut words: Vec<&str> = verb.to_vec();
        words.extend(options.iter().map(String::as_str));
        words.push(IMAGE);
        words.extend(program);
        self.podman(&words)
    }

    fn says(&self, arguments: &[&str], wanted: &str) -> Result<(), String> {
        let done = run(&mut self.podman(arguments))?;
        let said_it = done.stdout.contains(wanted) || done.stderr.contains(wanted);
        if said_it { Ok(()) } else { Err(format!("does not say {wanted:?}; {}", said(&done))) }
    }

    fn make_pod(&self) {
        let group = format!("/{}", self.place.group);
        let arguments = ["pod", "create", "--name", "guarded-pod", "--share", "pid,ipc,net", "--network", "none"];
        let infra = ["--cgroup-parent", &group, "--infra-image", IMAGE, "--infra-command", "/bin/busybox sleep 3600"];
        let made = run(self.podman(&arguments).args(infra));
        made.expect("podman makes a pod");
    }

    fn remove_pod(&self, report: &mut Report) {
        let removed = self.says(&["pod", "rm", "--force", "--time", "0", "guarded-pod"], "");
        report.check(crate::report::Column::Operations, "pod rm", removed);
    }

    fn traps(&self, report: &mut Report) {
        for (what, outcome) in crate::podman_traps::all(self) {
            report.check(crate::report::Column::Traps, what, outcome);
        }
    }
}

impl Engine for Podman<'_> {
    fn name(&self) -> &'static str {
        "podman"
    }

    fn way(&self) -> &'static str {
        match (self.way, self.place.node.runtime) {
            (Way::Option, Runtime::Crun) => "--runtime, crun",
            (Way::Option, Runtime::Runc) => "--runtime, runc",
            (Way::Option, Runtime::Youki) => "--runtime, youki",
            (Way::Configuration, _) => "containers.conf",
            (Way::Hooks, _) => "hooks only",
            (Way::Pod, _) => "--runtime, pod",
        }
    }

    fn version(&self) -> String {
        crate::first_version(&finish(self.plain().arg("--version")).stdout)
    }

    fn run(&self, name: &str, script: &str) -> Ran {
        let command = self.new_container(&["run"], name, &["/bin/sh", "-c", script]);
        let done = finish(&mut logged_in(self.place, &command, LOGIN_UID));
        let id = finish(&mut self.podman(&["inspect", "--format", "{{.Id}}", name])).stdout.trim().to_owned();
        assert!(!id.is_empty(), "podman made no container {name}: {}", said(&done));
        Ran { id, done }
    }

    fn launch(&self, name: &str) -> String {
        let started = run(&mut self.new_container(&["run", "--detach"], name, &["/bin/busybox", "sleep", "3600"]));
        started.unwrap_or_else(|reason| panic!("podman starts no container: {reason}")).stdout.trim().to_owned()
    }

    fn exec(&self, id: &str, script: &str) -> Done {
        let command = self.podman(&["exec", id, "/bin/sh", "-c", script]);
        finish(&mut logged_in(self.place, &command, EXEC_LOGIN_UID))
    }

    fn exec_login(&self) -> Option<u32> {
        self.knows_who_executes().then_some(EXEC_LOGIN_UID)
    }

    fn remove(&self, id: &str) {
        run(&mut self.podman(&["rm", "--force", "--time", "0", id])).expect("podman removes a container");
    }

    fn knows_who_executes(&self) -> bool {
        self.way != Way::Hooks
    }

    fn fields(&self, name: &str) -> Vec<Field> {
        let mut fields = common_fields("podman", self.place.node.runtime.name());
        fields.extend([
            ("/container/name", is(name)),
            ("/container/image/name", is("localhost/lab/guarded")),
            ("/container/image/tag", is("1")),
            ("/container/image/digest", Expected::Begins("sha256:".to_owned())),
            ("/creation/target/service", is(name)),
            ("/creation/creator/login_uid", Expected::Is(LOGIN_UID.into())),
            ("/creation/parameters/resources", Expected::Told),
        ]);
        fields
    }

    fn operations(&self) -> Vec<(&'static str, Result<(), String>)> {
        let name = "guarded-operations";
        let script = "echo on start; trap 'exit 7' TERM; while :; do /bin/busybox sleep 0.1; done";
        let created = run(&mut self.new_container(&["create"], name, &["/bin/sh", "-c", script])).map(|_| ());
        let paused = || self.says(&["inspect", "--format", "{{.State.Status}}", name], "paused");
        let running = || self.says(&["inspect", "--format", "{{.State.Status}}", name], "running");
        let mut results = vec![
            ("create", created),
            ("start", self.says(&["start", name], name).and_then(|()| running())),
            ("exec", self.says(&["exec", name, "/bin/busybox", "echo", "from exec"], "from exec")),
            ("logs", crate::patiently(|| self.says(&["logs", name], "on start"))),
            ("stats", self.says(&["stats", "--no-stream", name], name)),
            ("top", self.says(&["top", name], "sh")),
            ("pause", self.says(&["pause", name], "").and_then(|()| paused())),
            ("unpause", self.says(&["unpause", name], "").and_then(|()| running())),
        ];
        let refused = finish(&mut self.podman(&["container", "checkpoint", name]));
        let refused = if refused.code() == 0 { Err("it was made".to_owned()) } else { running() };
        results.push(("checkpoint refused, container runs on", refused));
        results.push(("kill", self.says(&["kill", "--signal", "TERM", name], "")));
        results.push(("wait", self.says(&["wait", name], "7")));
        results.push(("delete", self.says(&["rm", name], "")));
        let attached = run(&mut self.new_container(&["create"], name, &["/bin/busybox", "echo", "attached"]))
            .and_then(|_| self.says(&["start", "--attach", name], "attached"))
            .and_then(|()| self.says(&["rm", name], ""));
        results.push(("attach", attached));
        results
    }
}

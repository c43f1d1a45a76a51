//! Docker Engine, its data, sockets and configuration in the place: the shim by `--runtime` and as default runtime.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::engine::{Engine, Expected, Field, Ran, common_fields, is};
use crate::harness::command::{Done, finish};
use crate::harness::node::Runtime;
use crate::image;
use crate::place::{Place, run, said};
use crate::report::{Column, Report};

/// The image of the small root file system.
pub const IMAGE: &str = "lab/guarded:1";

/// Docker that no longer lowers its own OOM score, and takes no setting for that.
const FIRST_WITHOUT_OOM_SCORE: u32 = 25;

/// Examines `--runtime`.
pub fn by_option() -> Vec<Report> {
    examine(false)
}

/// Examines acctguard as the default runtime, and what is known to go wrong.
pub fn by_default() -> Vec<Report> {
    examine(true)
}

fn examine(default: bool) -> Vec<Report> {
    let place = Place::new(if default { "docker-default" } else { "docker" }, Runtime::Runc);
    configure(&place);
    finish(place.install("docker").args(if default { None } else { Some("--class") })).ok();
    let engine = start(&place, default);
    let mut report = Report::new("docker", &engine.version(), engine.way());
    crate::examination::examine(&place, &engine, &mut report);
    if default {
        for (what, outcome) in crate::docker_traps::all(&engine) {
            report.check(Column::Traps, what, outcome);
        }
    }
    crate::leave(&place, &mut report);
    vec![report]
}

/// Writes `/etc/docker/daemon.json`, of an engine without acctguard.
pub fn configure(place: &Place) {
    let folder = |name: &str| place.node.scratch.folder(&format!("docker/{name}"));
    let mut config = json!({
        "data-root": folder("data"), "exec-root": folder("exec"),
        "pidfile": place.path("docker/dockerd.pid"),
        "hosts": [format!("unix://{}", socket(place))],
        "iptables": false, "ip6tables": false, "ip-forward": false, "bridge": "none", "userland-proxy": false,
        "exec-opts": ["native.cgroupdriver=cgroupfs"], "cgroup-parent": format!("/{}", place.group),
        "storage-driver": "overlay2",
    });
    let version = crate::first_version(&finish(place.command("dockerd").arg("--version")).stdout);
    let major = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
    if major < FIRST_WITHOUT_OOM_SCORE {
        // lowering it needs a capability that is not everywhere
        config["oom-score-adjust"] = json!(0);
    }
    fs::create_dir_all("/etc/docker").expect("make /etc/docker");
    fs::write("/etc/docker/daemon.json", config.to_string()).expect("write daemon.json");
}

/// Starts dockerd and gives it the image. acctguard is its default runtime, or one beside it.
pub fn start(place: &Place, default: bool) -> Docker<'_> {
    let docker = Docker { place, default };
    docker.serve();
    run(docker.docker(&["import"]).arg(image::root_archive(place)).arg(IMAGE)).expect("docker takes the image");
    docker
}

fn socket(place: &Place) -> String {
    place.path("docker/docker.sock").display().to_string()
}

/// Docker with acctguard in one way.
pub struct Docker<'a> {
    /// Where it runs.
    pub place: &'a Place,
    default: bool,
}

impl Docker<'_> {
    /// Starts the engine's daemon, which starts a containerd of its own.
    fn serve(&self) {
        let answers = || finish(&mut self.docker(&["info"])).code() == 0;
        self.place.serve("dockerd", &Command::new("dockerd"), answers);
    }

    /// Ends the engine's daemon, and with it all containers, and starts it again.
    pub fn restart(&self) {
        self.place.end_daemon("dockerd", Signal::SIGTERM);
        self.serve();
    }

    /// A command of its client.
    pub fn docker(&self, arguments: &[&str]) -> Command {
        let mut command = self.place.command("docker");
        // the builder that runs its steps as containers of the engine
        command.env("DOCKER_BUILDKIT", "0").env("DOCKER_CONFIG", self.place.node.scratch.folder("docker/client"));
        command.args(["--host", &format!("unix://{}", socket(self.place))]).args(arguments);
        command
    }

    /// `docker run` or `create` with these options.
    pub fn new_container(&self, verb: &[&str], name: &str, program: &[&str]) -> Command {
        let mut command = self.docker(verb);
        if !self.default {
            command.args(["--runtime", "acctguard"]);
        }
        command.args(["--network", "none", "--name", name, IMAGE]).args(program);
        command
    }

    /// Runs a command and sees that it says this.
    pub fn says(&self, arguments: &[&str], wanted: &str) -> Result<(), String> {
        let done = run(&mut self.docker(arguments))?;
        let said_it = done.stdout.contains(wanted) || done.stderr.contains(wanted);
        if said_it { Ok(()) } else { Err(format!("does not say {wanted:?}; {}", said(&done))) }
    }
}

impl Engine for Docker<'_> {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn way(&self) -> &'static str {
        if self.default { "default runtime" } else { "--runtime" }
    }

    fn version(&self) -> String {
        crate::first_version(&finish(&mut self.docker(&["version", "--format", "{{.Server.Version}}"])).stdout)
    }

    fn run(&self, name: &str, script: &str) -> Ran {
        let done = finish(&mut self.new_container(&["run"], name, &["/bin/sh", "-c", script]));
        let id = finish(&mut self.docker(&["inspect", "--format", "{{.Id}}", name])).stdout.trim().to_owned();
        assert!(!id.is_empty(), "docker made no container {name}: {}", said(&done));
        Ran { id, done }
    }

    fn launch(&self, name: &str) -> String {
        let started = run(&mut self.new_container(&["run", "--detach"], name, &["/bin/busybox", "sleep", "3600"]));
        started.unwrap_or_else(|reason| panic!("docker starts no container: {reason}")).stdout.trim().to_owned()
    }

    fn exec(&self, id: &str, script: &str) -> Done {
        finish(&mut self.docker(&["exec", id, "/bin/sh", "-c", script]))
    }

    fn remove(&self, id: &str) {
        run(&mut self.docker(&["rm", "--force", id])).expect("docker removes a container");
    }

    fn fields(&self, name: &str) -> Vec<Field> {
        let mut fields = common_fields("docker", "runc");
        fields.extend([
            ("/container/name", is(name)),
            ("/container/image/name", is("lab/guarded")),
            ("/container/image/tag", is("1")),
            ("/container/image/id", Expected::Begins("sha256:".to_owned())),
            ("/creation/target/service", is(name)),
            ("/creation/parameters/seccomp", is("SCMP_ACT_ERRNO")),
            ("/creation/parameters/resources", Expected::Told),
        ]);
        fields
    }

    fn operations(&self) -> Vec<(&'static str, Result<(), String>)> {
        let name = "guarded-operations";
        let script = "echo on start; trap 'exit 7' TERM; while :; do /bin/busybox sleep 0.1; done";
        let created = run(&mut self.new_container(&["create"], name, &["/bin/sh", "-c", script])).map(|_| ());
        let state = |wanted: &str| self.says(&["inspect", "--format", "{{.State.Status}}", name], wanted);
        let mut results = vec![
            ("create", created),
            ("start", self.says(&["start", name], name).and_then(|()| state("running"))),
            ("exec", self.says(&["exec", name, "/bin/busybox", "echo", "from exec"], "from exec")),
            ("logs", crate::patiently(|| self.says(&["logs", name], "on start"))),
            ("stats", self.says(&["stats", "--no-stream", name], name)),
            ("top", self.says(&["top", name], "sh")),
            ("pause", self.says(&["pause", name], "").and_then(|()| state("paused"))),
            ("unpause", self.says(&["unpause", name], "").and_then(|()| state("running"))),
            ("update", self.says(&["update", "--pids-limit", "500", name], name)),
        ];
        let refused = finish(&mut self.docker(&["checkpoint", "create", name, "one"]));
        let refused = if refused.code() == 0 { Err("it was made".to_owned()) } else { state("running") };
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

//! containerd, its data, sockets and configuration in the place: by `ctr`, and as Kubernetes uses it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::engine::{Engine, Expected, Field, Ran, common_fields, is};
use crate::harness::command::{Done, finish};
use crate::harness::machine::program;
use crate::harness::node::Runtime;
use crate::image;
use crate::kubernetes;
use crate::kubernetes::Prepared;
use crate::place::{Place, run, said};
use crate::report::Report;

/// The image of the small root file system.
pub const IMAGE: &str = "localhost/lab/guarded:1";
/// The image of a pod's own container.
pub const PAUSE: &str = "localhost/lab/pause:1";

/// How acctguard is registered with the CRI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// Beside the default runtime.
    Class,
    /// As the default runtime.
    Default,
}

/// `ctr`'s own namespace, where there is one engine.
pub const NAMESPACE: &str = "lab";

/// Examines `ctr`.
pub fn by_ctr() -> Vec<Report> {
    let place = start("ctr", None);
    let engine = by_hand(&place, NAMESPACE);
    let mut report = Report::new("containerd", &engine.version(), engine.way());
    crate::examination::examine(&place, &engine, &mut report);
    crate::leave(&place, &mut report);
    vec![report]
}

/// `ctr` in a namespace, with the image in it.
pub fn by_hand<'a>(place: &'a Place, namespace: &'static str) -> Ctr<'a> {
    let engine = Ctr { place, namespace };
    engine.import(&[(IMAGE, image::guarded(place, IMAGE))]);
    engine
}

/// Examines a handler of a RuntimeClass.
pub fn by_class() -> Vec<Report> {
    as_kubernetes(Registered::Class)
}

/// Examines acctguard as the default runtime of pods.
pub fn by_default() -> Vec<Report> {
    as_kubernetes(Registered::Default)
}

fn as_kubernetes(registered: Registered) -> Vec<Report> {
    let default = registered == Registered::Default;
    let place = start(if default { "cri-default" } else { "cri-class" }, Some(registered));
    let mut report = kubernetes::examine(&place, &prepare_pods(&place), default);
    crate::leave(&place, &mut report);
    vec![report]
}

/// The engine's socket.
pub fn socket(place: &Place) -> String {
    place.path("containerd/containerd.sock").display().to_string()
}

/// A place and the engine in it; acctguard registered as `acctguard install` does it, as the default runtime of pods or beside it.
fn start(name: &str, registered: Option<Registered>) -> Place {
    let place = Place::new(name, Runtime::Runc);
    serve(&place, registered, "");
    place
}

/// Puts the images of pods into an engine.
pub fn prepare_pods(place: &Place) -> Prepared {
    let ctr = Ctr { place, namespace: "k8s.io" };
    ctr.import(&[(IMAGE, image::guarded(place, IMAGE)), (PAUSE, image::pause(place, PAUSE))]);
    Prepared { version: ctr.version(), digest: ctr.digest() }
}

/// Starts the engine in a place; `more` goes to the end of its configuration.
pub fn serve(place: &Place, registered: Option<Registered>, more: &str) {
    let file = place.path("containerd/config.toml");
    place.node.scratch.folder("containerd/conf.d");
    let text = configuration(place, is_of_version_2(place)) + more;
    fs::write(&file, &text).expect("write config.toml");
    if let Some(registered) = registered {
        let class: &[&str] = if registered == Registered::Class { &["--class"] } else { &[] };
        let mut install = place.install("containerd");
        finish(install.args(class).arg("--engine-config").arg(&file)).ok();
        let is_kept = fs::read_to_string(&file).is_ok_and(|now| now == text);
        let drop_in = place.path("containerd/conf.d/99-acctguard.toml").exists();
        assert_eq!(
            (is_kept, drop_in),
            (is_of_version_2(place), is_of_version_2(place)),
            "a drop-in where there can be one"
        );
    }
    let mut command = Command::new("containerd");
    command.arg("--config").arg(file);
    let ctr = Ctr { place, namespace: "default" };
    place.serve("containerd", &command, || finish(&mut ctr.ctr(&["plugins", "ls"])).code() == 0);
}

/// Whether containerd is 2.0 or later.
fn is_of_version_2(place: &Place) -> bool {
    let version = crate::first_version(&finish(place.command("containerd").arg("--version")).stdout);
    !version.starts_with("1.")
}

/// A main file without acctguard, as containerd 1 has it (version 2, nothing imported) or containerd 2 (version 3, conf.d imported).
fn configuration(place: &Place, newer: bool) -> String {
    let folder = |name: &str| place.node.scratch.folder(&format!("containerd/{name}")).display().to_string();
    let (root, state, opt, cni) = (folder("root"), folder("state"), folder("opt"), folder("cni"));
    let (version, imports, runtime, sandbox) = if newer {
        let images = "io.containerd.cri.v1.images";
        let sandbox = format!("[plugins.\"{images}\".pinned_images]\nsandbox = \"{PAUSE}\"");
        (3, "imports = [\"conf.d/*.toml\"]", "io.containerd.cri.v1.runtime", sandbox)
    } else {
        let cri = "io.containerd.grpc.v1.cri";
        (2, "", cri, format!("[plugins.\"{cri}\"]\nsandbox_image = \"{PAUSE}\""))
    };
    // lowering the OOM score needs a capability that is not everywhere; in version 2, one section has both
    let section = if newer { format!("\n[plugins.\"{runtime}\"]") } else { String::new() };
    format!(
        r#"version = {version}
root = "{root}"
state = "{state}"
{imports}
[grpc]
address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{opt}"
{sandbox}{section}
restrict_oom_score_adj = true
[plugins."{runtime}".cni]
bin_dir = "{opt}"
conf_dir = "{cni}"
[plugins."{runtime}".containerd]
default_runtime_name = "runc"
[plugins."{runtime}".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#,
        socket = socket(place),
    )
}

/// containerd by `ctr`.
pub struct Ctr<'a> {
    place: &'a Place,
    namespace: &'static str,
}

impl Ctr<'_> {
    fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = self.place.command("ctr");
        command.args(["--address", &socket(self.place), "--namespace", self.namespace]).args(arguments);
        command
    }

    /// The image's digest as containerd's own client tells it.
    fn digest(&self) -> String {
        let listed = finish(&mut self.ctr(&["images", "ls", &format!("name=={IMAGE}")])).stdout;
        let word = listed.split_whitespace().find(|word| word.starts_with("sha256:"));
        word.unwrap_or_else(|| panic!("ctr tells no digest: {listed}")).to_owned()
    }

    fn import(&self, images: &[(&str, PathBuf)]) {
        for (name, archive) in images {
            let imported = run(self.ctr(&["images", "import"]).arg(archive));
            imported.unwrap_or_else(|reason| panic!("containerd takes no image {name}: {reason}"));
        }
    }

    fn new_container(&self, verb: &[&str], name: &str, words: &[&str]) -> Command {
        let mut command = self.ctr(verb);
        let shim = program("acctguard-runtime").display().to_string();
        command.args(["--runc-binary", &shim, "--cgroup", &format!("/{}/{}-{name}", self.place.group, self.namespace)]);
        // which come as annotations
        command.args(["--label", &format!("team={}", self.namespace), IMAGE, name]).args(words);
        command
    }

    fn says(&self, arguments: &[&str], wanted: &str) -> Result<(), String> {
        let done = run(&mut self.ctr(arguments))?;
        let said_it = done.stdout.contains(wanted) || done.stderr.contains(wanted);
        if said_it { Ok(()) } else { Err(format!("does not say {wanted:?}; {}", said(&done))) }
    }

    fn state(&self, name: &str, wanted: &str) -> Result<(), String> {
        crate::patiently(|| {
            let listed = run(&mut self.ctr(&["tasks", "ls"]))?.stdout;
            let line = listed.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            if line.contains(wanted) { Ok(()) } else { Err(format!("{name} is not {wanted}: {listed}")) }
        })
    }
}

impl Engine for Ctr<'_> {
    fn name(&self) -> &'static str {
        "containerd"
    }

    fn way(&self) -> &'static str {
        "ctr --runc-binary"
    }

    fn version(&self) -> String {
        crate::first_version(&finish(&mut self.ctr(&["--version"])).stdout)
    }

    fn run(&self, name: &str, script: &str) -> Ran {
        let done = finish(&mut self.new_container(&["run"], name, &["/bin/sh", "-c", script]));
        Ran { id: name.to_owned(), done }
    }

    fn launch(&self, name: &str) -> String {
        let started = run(&mut self.new_container(&["run", "--detach"], name, &["/bin/busybox", "sleep", "3600"]));
        started.unwrap_or_else(|reason| panic!("ctr starts no container: {reason}"));
        name.to_owned()
    }

    fn exec(&self, id: &str, script: &str) -> Done {
        finish(&mut self.ctr(&["tasks", "exec", "--exec-id", &crate::unique(), id, "/bin/sh", "-c", script]))
    }

    fn remove(&self, id: &str) {
        // it may have ended by itself
        let _ = finish(&mut self.ctr(&["tasks", "rm", "--force", id]));
        run(&mut self.ctr(&["containers", "rm", id])).expect("ctr removes a container");
    }

    fn fields(&self, name: &str) -> Vec<Field> {
        let mut fields = common_fields("containerd", "runc");
        fields.extend([
            ("/container/id", is(name)),
            ("/creation/target/namespace", is(self.namespace)),
            ("/creation/parameters/no_new_privileges", Expected::Is(true.into())),
            ("/creation/parameters/resources", Expected::Told),
        ]);
        // ctr names no host
        fields.retain(|(pointer, _)| *pointer != "/creation/parameters/hostname");
        fields
    }

    fn told_late(&self) -> Vec<Field> {
        vec![
            ("/container/image/name", is("localhost/lab/guarded")),
            ("/container/image/tag", is("1")),
            ("/container/image/digest", is(&self.digest())),
            ("/container/runtime", is("runc")),
            ("/identification/verdict/result", is("expected")),
            ("/policy/name", Expected::Begins("test-".to_owned())),
        ]
    }

    fn operations(&self) -> Vec<(&'static str, Result<(), String>)> {
        let name = "guarded-operations";
        // `containers create` takes no --runc-binary
        let created = run(&mut self.new_container(&["run", "--detach"], name, &["/bin/busybox", "sleep", "3600"]));
        let exec = ["tasks", "exec", "--exec-id", "one", name, "/bin/busybox", "echo", "from exec"];
        let mut results = vec![
            ("create, start", created.and_then(|_| self.state(name, "RUNNING"))),
            ("exec", self.says(&exec, "from exec")),
            ("metrics", self.says(&["tasks", "metrics", name], "memory")),
            ("ps", self.says(&["tasks", "ps", name], "PID")),
            ("pause", self.says(&["tasks", "pause", name], "").and_then(|()| self.state(name, "PAUSED"))),
            ("resume", self.says(&["tasks", "resume", name], "").and_then(|()| self.state(name, "RUNNING"))),
        ];
        let refused = finish(&mut self.ctr(&["tasks", "checkpoint", name]));
        let refused = if refused.code() == 0 { Err("it was made".to_owned()) } else { self.state(name, "RUNNING") };
        results.push(("checkpoint refused, container runs on", refused));
        let killed = self.says(&["tasks", "kill", "--signal", "KILL", name], "");
        results.push(("kill", killed.and_then(|()| self.state(name, "STOPPED"))));
        results.push(("delete", self.says(&["tasks", "rm", name], "")));
        results.push(("delete container", self.says(&["containers", "rm", name], "")));
        results
    }
}

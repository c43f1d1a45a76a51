//! CRI-O's call path without CRI-O, which no Debian suite has: Debian's conmon calls the shim with CRI-O's command lines, and
//! bundles have the annotations that CRI-O writes (fixtures/captures).

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use acctguard::model::event::Kind;
use serde_json::{Value, json};

use crate::engine::{Engine, Field, Ran, common_fields, is};
use crate::harness::bundle::{Bundle, Spec};
use crate::harness::command::{Done, finish};
use crate::harness::events::of;
use crate::harness::machine::{program, repository};
use crate::harness::node::Runtime;
use crate::place::{Place, run, said};
use crate::report::{Column, Report};

/// Examines it on crun, CRI-O's default.
pub fn examine() -> Vec<Report> {
    let place = Place::new("conmon", Runtime::Crun);
    let engine = Conmon { place: &place, folder: place.node.scratch.folder("conmon") };
    let mut report = Report::new(engine.name(), &engine.version(), engine.way());
    crate::examination::examine(&place, &engine, &mut report);
    report.check(Column::Traps, "a static pod is guarded, and told as its node's", engine.static_pod());
    report.check(Column::Traps, "a container's owner is told by its sandbox's labels", engine.owner_by_sandbox());
    crate::leave(&place, &mut report);
    vec![report]
}

/// Sets an annotation.
fn set(spec: &mut Spec, key: &str, value: &str) {
    spec.annotations.retain(|(known, _)| known != key);
    spec.annotations.push((key.to_owned(), value.to_owned()));
}

struct Conmon<'a> {
    place: &'a Place,
    folder: PathBuf,
}

impl Conmon<'_> {
    fn spec(words: &[&str]) -> Spec {
        let file = repository().join("integration/fixtures/captures/crio-config.json");
        let capture: Value =
            serde_json::from_slice(&fs::read(file).expect("read the capture")).expect("parse the capture");
        let annotations: BTreeMap<String, String> =
            serde_json::from_value(capture["annotations"].clone()).expect("annotations are texts");
        Spec { annotations: annotations.into_iter().collect(), ..Spec::new(words) }
    }

    /// The shim as CRI-O itself calls it.
    fn shim(&self, arguments: &[&str]) -> Command {
        let mut command = self.place.command(&program("acctguard-runtime").to_string_lossy());
        command.arg("--root").arg(self.place.node.runtime_root()).args(arguments);
        command
    }

    /// conmon as CRI-O starts it (cri-o internal/oci/runtime_oci.go), the exit and the log in the folder.
    fn conmon(&self, id: &str, log: &str, more: &[&str]) -> Command {
        let mut command = self.place.command("conmon");
        // CRI-O scrubs the environment
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.args(["--cid", id, "--cuuid", id, "--name", id, "--full-attach", "--log-level", "warning"]);
        command.arg("--runtime").arg(program("acctguard-runtime"));
        command.arg(format!("--runtime-arg=--root={}", self.place.node.runtime_root().display()));
        command.arg("--socket-dir-path").arg(self.place.node.scratch.folder("conmon/sockets"));
        command.arg("--log-path").arg(self.folder.join(log)).args(more);
        command
    }

    /// Creates and starts a container; the id.
    fn start(&self, words: &[&str]) -> Result<String, String> {
        self.start_as(&Self::spec(words))
    }

    fn start_as(&self, spec: &Spec) -> Result<String, String> {
        let bundle = self.place.node.bundle(spec);
        let Bundle { id, folder } = &bundle;
        let bundle_path = folder.display().to_string();
        let pid_file = folder.join("pidfile").display().to_string();
        let conmon_pid_file = folder.join("conmon-pidfile").display().to_string();
        let more = ["--bundle", &bundle_path, "--container-pidfile", &pid_file, "--conmon-pidfile", &conmon_pid_file];
        let exits = self.place.node.scratch.folder("conmon/exits");
        run(self.conmon(id, &format!("{id}.log"), &more).arg("--exit-dir").arg(exits))?;
        crate::patiently(|| self.says(&["state", id], "\"created\""))?;
        self.says(&["start", id], "")?;
        Ok(id.clone())
    }

    fn says(&self, arguments: &[&str], wanted: &str) -> Result<(), String> {
        let done = run(&mut self.shim(arguments))?;
        if done.stdout.contains(wanted) { Ok(()) } else { Err(format!("does not say {wanted}; {}", said(&done))) }
    }

    /// The kubelet makes it out of a file, and says so in an annotation that CRI-O hands on. Policy says enforce.
    fn static_pod(&self) -> Result<(), String> {
        let mut spec = Self::spec(&["/bin/sh", "-c", "useradd mallory; grep ^mallory: /etc/passwd; echo it ran"]);
        set(&mut spec, "kubernetes.io/config.source", "file");
        let id = self.start_as(&spec)?;
        let done = self.wait(&id)?;
        let blocked = done.stdout.contains("it ran") && !done.stdout.contains("mallory:x:");
        let owner = self.owner(&id)?;
        self.remove(&id);
        let wanted = json!({"kind": "Node", "told_by": "annotation kubernetes.io/config.source=file"});
        if blocked && owner == wanted { Ok(()) } else { Err(format!("owner {owner}; {}", said(&done))) }
    }

    /// CRI-O has the pod's labels in the sandbox's bundle only, beside those of the pod's containers.
    fn owner_by_sandbox(&self) -> Result<(), String> {
        let sandbox = self.place.node.bundle(&Spec::idle());
        let mut config = sandbox.config();
        config["annotations"] = json!({"io.kubernetes.cri-o.Labels": r#"{"job-name":"backup"}"#});
        // CRI-O's bundles: …/overlay-containers/<id>/userdata
        let containers = self.place.node.scratch.folder("overlay-containers");
        let folder = |id: &str| containers.join(id).join("userdata");
        fs::create_dir_all(folder(&sandbox.id)).map_err(|error| error.to_string())?;
        fs::write(folder(&sandbox.id).join("config.json"), config.to_string()).map_err(|error| error.to_string())?;
        let mut spec = Self::spec(&["/bin/busybox", "true"]);
        set(&mut spec, "io.kubernetes.cri-o.SandboxID", &sandbox.id);
        let bundle = self.place.node.bundle(&spec);
        let mut config = bundle.config();
        config["root"]["path"] = json!(bundle.folder.join("rootfs"));
        fs::create_dir_all(folder(&bundle.id)).map_err(|error| error.to_string())?;
        fs::write(folder(&bundle.id).join("config.json"), config.to_string()).map_err(|error| error.to_string())?;
        let path = folder(&bundle.id).display().to_string();
        run(&mut self.shim(&["create", "--bundle", &path, &bundle.id]))?;
        let owner = self.owner(&bundle.id)?;
        self.remove(&bundle.id);
        let wanted = json!({"kind": "Job", "name": "backup", "told_by": "label job-name"});
        if owner == wanted { Ok(()) } else { Err(format!("owner {owner}")) }
    }

    /// `creator.owner` of a container's record.
    fn owner(&self, id: &str) -> Result<Value, String> {
        let events = self.place.node.events();
        let creation = of(&events, Kind::ContainerCreated, id).first().and_then(|event| event.creation.clone());
        let creator = creation.ok_or_else(|| format!("no record of {id}"))?.creator;
        serde_json::to_value(creator.owner).map_err(|error| error.to_string())
    }

    /// The exit code that conmon notes, and the log.
    fn wait(&self, id: &str) -> Result<Done, String> {
        let file = self.folder.join("exits").join(id);
        crate::patiently(|| if file.exists() { Ok(()) } else { Err(format!("{id} did not end")) })?;
        let code: i32 =
            fs::read_to_string(&file).unwrap_or_default().trim().parse().map_err(|_| "no exit code".to_owned())?;
        let stdout = self.log(id);
        use std::os::unix::process::ExitStatusExt as _;
        Ok(Done { status: std::process::ExitStatus::from_raw(code << 8), stdout, stderr: String::new() })
    }

    fn log(&self, id: &str) -> String {
        let text = fs::read_to_string(self.folder.join(format!("{id}.log"))).unwrap_or_default();
        text.lines().map(|line| format!("{}\n", line.splitn(4, ' ').nth(3).unwrap_or_default())).collect()
    }

    /// A process.json as CRI-O writes one for an exec.
    fn process(&self, words: &[&str]) -> PathBuf {
        let spec = self.place.node.bundle(&Self::spec(words)).config();
        let file = self.folder.join(format!("exec-process-{}", crate::unique()));
        fs::write(&file, spec["process"].to_string()).expect("write process.json");
        file
    }

    /// An exec that CRI-O answers by itself: through conmon, detached.
    fn exec_sync(&self, id: &str, words: &[&str]) -> Result<(), String> {
        let process = self.process(words).display().to_string();
        let log = format!("exec-{}.log", crate::unique());
        let pid_file = self.folder.join("exec-pidfile").display().to_string();
        let bundle = self.place.path(&format!("bundles/{id}")).display().to_string();
        let more = [
            "--exec",
            "--exec-process-spec",
            &process,
            "--bundle",
            &bundle,
            "--container-pidfile",
            &pid_file,
            "--sync",
        ];
        run(&mut self.conmon(id, &log, &more))?;
        crate::patiently(|| {
            let text = fs::read_to_string(self.folder.join(&log)).unwrap_or_default();
            if text.contains("from exec") { Ok(()) } else { Err(format!("the log holds {text:?}")) }
        })
    }
}

impl Engine for Conmon<'_> {
    fn name(&self) -> &'static str {
        "CRI-O's conmon"
    }

    fn way(&self) -> &'static str {
        "runtime_path"
    }

    fn version(&self) -> String {
        crate::first_version(&finish(self.place.command("conmon").arg("--version")).stdout)
    }

    fn run(&self, _name: &str, script: &str) -> Ran {
        let id = self.start(&["/bin/sh", "-c", script]).expect("conmon starts a container");
        let done = self.wait(&id).expect("conmon tells its end");
        Ran { id, done }
    }

    fn launch(&self, _name: &str) -> String {
        self.start(&["/bin/busybox", "sleep", "3600"]).expect("conmon starts a container")
    }

    /// A stream's exec: CRI-O calls the runtime itself, in the foreground.
    fn exec(&self, id: &str, script: &str) -> Done {
        let process = self.process(&["/bin/sh", "-c", script]);
        finish(self.shim(&["exec", "--process"]).arg(process).arg(id))
    }

    fn remove(&self, id: &str) {
        self.says(&["delete", "--force", id], "").expect("the container is deleted");
    }

    fn fields(&self, _name: &str) -> Vec<Field> {
        let mut fields = common_fields("cri-o", "crun");
        fields.extend([
            ("/container/name", is("main")),
            ("/container/image/name", is("localhost/lab/bb")),
            ("/container/image/tag", is("latest")),
            ("/container/image/digest", is("sha256:f38fc0203125e59a784423dc8d4eb43d719b400e4d95d73e23a253a0c5a78be6")),
            ("/container/pod/name", is("labpod")),
            ("/container/pod/namespace", is("labns")),
            ("/container/pod/uid", is("lab-uid-1")),
            ("/creation/target/role", is("container")),
            ("/creation/source/control_plane", is("kubernetes")),
        ]);
        fields
    }

    fn operations(&self) -> Vec<(&'static str, Result<(), String>)> {
        let script = "echo on start; trap 'exit 7' TERM; while :; do /bin/busybox sleep 0.1; done";
        let id = match self.start(&["/bin/sh", "-c", script]) {
            Ok(id) => id,
            Err(reason) => return vec![("create", Err(reason))],
        };
        let log = || if self.log(&id).contains("on start") { Ok(()) } else { Err("no log".to_owned()) };
        let mut results = vec![
            ("--version", self.says(&["--version"], "crun")),
            ("create, start", self.says(&["state", &id], "\"running\"")),
            ("exec by conmon", self.exec_sync(&id, &["/bin/busybox", "echo", "from exec"])),
            ("logs", crate::patiently(log)),
            ("pause", self.says(&["pause", &id], "").and_then(|()| self.says(&["state", &id], "\"paused\""))),
            ("resume", self.says(&["resume", &id], "").and_then(|()| self.says(&["state", &id], "\"running\""))),
            ("kill", self.says(&["kill", &id, "15"], "")),
        ];
        let ended = self.wait(&id).and_then(|done| if done.code() == 7 { Ok(()) } else { Err(said(&done)) });
        results.push(("exit code", ended));
        results.push(("delete", self.says(&["delete", "--force", &id], "")));
        results
    }
}

//! containerd as the kubelet uses it: pods by the container runtime interface, with a handler of a RuntimeClass or with
//! acctguard as the default runtime.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use acctguard::model::event::Kind;

use crate::containerd::{IMAGE, socket};
use crate::engine::{Engine, Expected, Field, Ran, common_fields, holds, is};
use crate::harness::command::{Done, LIMIT, finish};
use crate::harness::events::of;
use crate::place::{Place, run, said};
use crate::report::{Column, Report};

const NAMESPACE: &str = "lab-namespace";
const UID: &str = "0f0f0f0f-1111-2222-3333-444444444444";
/// Claims of a projected token: {"sub":"system:serviceaccount:lab-namespace:builder"}, between a header and a signature.
const TOKEN: &str =
    "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6bGFiLW5hbWVzcGFjZTpidWlsZGVyIn0.c2lnbmF0dXJl";

/// An engine with the images of pods in it.
#[derive(Clone)]
pub struct Prepared {
    /// The engine's version.
    pub version: String,
    /// The image's digest, as containerd's own client tells it.
    pub digest: String,
}

/// Examines one way in a pod of its own.
pub fn examine(place: &Place, prepared: &Prepared, default: bool) -> Report {
    let engine = Kubernetes::new(place, prepared, default);
    let mut report = Report::new(engine.name(), &prepared.version, engine.way());
    engine.run_pod();
    engine.sandbox_record(&mut report);
    crate::examination::examine(place, &engine, &mut report);
    for (what, outcome) in crate::kubernetes_traps::all(&engine) {
        report.check(Column::Traps, what, outcome);
    }
    report.check(Column::Operations, "remove pod", engine.remove_own_pod());
    report
}

/// A pod by containerd.
pub struct Kubernetes<'a> {
    /// Where it runs.
    pub place: &'a Place,
    prepared: Prepared,
    default: bool,
    /// What acctguard's plugin is by, where no runtime of acctguard's is registered.
    plugin: Option<&'static str>,
    /// The seccomp profile of its containers.
    seccomp: String,
    pod: RefCell<String>,
    logs: PathBuf,
}

impl<'a> Kubernetes<'a> {
    fn new(place: &'a Place, prepared: &Prepared, default: bool) -> Self {
        let logs = place.node.scratch.folder(&format!("logs-{default}"));
        let (pod, seccomp) = (RefCell::new(String::new()), "default".to_owned());
        Self { place, prepared: prepared.clone(), default, plugin: None, seccomp, pod, logs }
    }

    /// A pod on the engine's own runtime, with acctguard's plugin; its containers have the profile `seccomp`.
    pub fn with_plugin(place: &'a Place, prepared: &Prepared, plugin: &'static str, seccomp: &str) -> Self {
        Self { plugin: Some(plugin), seccomp: seccomp.to_owned(), ..Self::new(place, prepared, true) }
    }

    fn client(&self, arguments: &[&str]) -> Command {
        let client = std::env::var_os("ACCTGUARD_CRI").expect("integration/engines/run says where the client is");
        let mut command = self.place.command(&client.to_string_lossy());
        command.args(["--socket", &socket(self.place)]).args(arguments);
        command
    }

    /// Runs a command of the client and sees that it says this.
    pub fn says(&self, arguments: &[&str], wanted: &str) -> Result<(), String> {
        let done = run(&mut self.client(arguments))?;
        if done.stdout.contains(wanted) { Ok(()) } else { Err(format!("does not say {wanted:?}; {}", said(&done))) }
    }

    fn handler(&self) -> &'static str {
        if self.default { "" } else { "acctguard" }
    }

    fn pod_name(&self) -> &'static str {
        match (self.plugin, self.seccomp.as_str()) {
            (Some(_), "default") => "pod-of-the-engines-profile",
            (Some(_), _) => "pod-by-plugin",
            (None, _) if self.default => "pod-by-default",
            (None, _) => "pod-by-class",
        }
    }

    fn pod_words(&self, pod: &str) -> Vec<String> {
        let logs = self.logs.display().to_string();
        let group = format!("/{}", self.place.group);
        let words = ["--pod", pod, "--namespace", NAMESPACE, "--uid", UID, "--logs", &logs, "--group", &group];
        words.map(str::to_owned).to_vec()
    }

    /// Starts another pod; its id.
    pub fn another_pod(&self, name: &str, more: &[&str]) -> Result<String, String> {
        let mut command = self.client(&["run-pod", "--handler", self.handler()]);
        Ok(run(command.args(self.pod_words(name)).args(more))?.stdout.trim().to_owned())
    }

    /// Starts the pod of its containers.
    ///
    /// # Panics
    /// When the engine does not.
    pub fn run_pod(&self) {
        let id = self.another_pod(self.pod_name(), &[]);
        *self.pod.borrow_mut() =
            id.unwrap_or_else(|reason| panic!("containerd starts no pod: {reason}\n{}", self.place.log("containerd")));
    }

    /// Removes it.
    pub fn remove_own_pod(&self) -> Result<(), String> {
        self.says(&["remove-pod", &self.pod.borrow()], "")
    }

    /// Creates a container in a pod; its id.
    pub fn create_in(
        &self,
        sandbox: &str,
        pod: &str,
        name: &str,
        more: &[&str],
        words: &[&str],
    ) -> Result<String, String> {
        let mut command = self.client(&["create", "--sandbox", sandbox, "--name", name, "--image", IMAGE]);
        command.args(self.pod_words(pod)).args(more).arg("--").args(words);
        Ok(run(&mut command)?.stdout.trim().to_owned())
    }

    /// Creates a container in its pod; its id.
    pub fn create(&self, name: &str, words: &[&str]) -> Result<String, String> {
        let token = self
            .place
            .node
            .scratch
            .folder(&format!("kubelet/pods/{UID}/volumes/kubernetes.io~projected/kube-api-access-x"));
        fs::write(token.join("token"), TOKEN).expect("write a token");
        let mount = format!("{}:/var/run/secrets/kubernetes.io/serviceaccount", token.display());
        self.create_in(
            &self.pod.borrow(),
            self.pod_name(),
            name,
            &["--seccomp", &self.seccomp, "--mount", &mount],
            words,
        )
    }

    /// Waits until a container has ended; its exit code and its log.
    pub fn wait(&self, id: &str, name: &str) -> Done {
        let deadline = Instant::now() + LIMIT;
        loop {
            let mut status = finish(&mut self.client(&["status", id])).ok();
            if let Some(code) = status.stdout.trim().strip_prefix("CONTAINER_EXITED ") {
                use std::os::unix::process::ExitStatusExt as _;
                let code: i32 = code.parse().expect("an exit code");
                status.status = std::process::ExitStatus::from_raw(code << 8);
                status.stdout = self.container_log(name);
                return status;
            }
            assert!(Instant::now() < deadline, "{id} did not end: {}", status.stdout);
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// What a container said, without the time and the stream before each line.
    fn container_log(&self, name: &str) -> String {
        let text = fs::read_to_string(self.logs.join(format!("{name}.log"))).unwrap_or_default();
        text.lines().map(|line| format!("{}\n", line.splitn(4, ' ').nth(3).unwrap_or_default())).collect()
    }

    /// The pause container's record.
    fn sandbox_record(&self, report: &mut Report) {
        let id = self.pod.borrow().clone();
        let event = self.place.node.wait_for("the sandbox's record", |events| {
            of(events, Kind::ContainerCreated, &id).first().map(|&event| event.clone())
        });
        let event = serde_json::to_value(&event).expect("an event is JSON");
        let fields = [
            ("/creation/target/role", is("sandbox")),
            ("/container/pod/name", is(self.pod_name())),
            ("/container/pod/namespace", is(NAMESPACE)),
            ("/container/pod/uid", is(UID)),
            ("/creation/parameters/args/0", is("/pause")),
        ];
        for field in fields {
            report.check(Column::Fields, &format!("{} (sandbox)", field.0), holds(&event, &field));
        }
    }

    /// Attaches to a container that ends when it is told so by a file.
    fn attach(&self, id: &str) -> Result<(), String> {
        let attached =
            self.client(&["attach", id]).stdout(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
        // long enough for a tick
        std::thread::sleep(std::time::Duration::from_millis(700));
        self.says(&["exec-sync", id, "--", "/bin/busybox", "touch", "/tmp/end"], "")?;
        let output = attached.wait_with_output().map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        if text.contains("tick") { Ok(()) } else { Err(format!("{} and said {text:?}", output.status)) }
    }

    /// Whether a finding of this account in this container is there.
    pub fn found(&self, id: &str, account: &str) -> Result<(), String> {
        crate::patiently(|| {
            let events = self.place.node.events();
            let changes = crate::harness::events::changes(&of(&events, Kind::AccountFinding, id));
            let there = changes.iter().any(|change| *change == format!("account_added {account}"));
            if there { Ok(()) } else { Err(format!("no finding of {account} in {id}: {changes:?}")) }
        })
    }
}

impl Engine for Kubernetes<'_> {
    fn name(&self) -> &'static str {
        "containerd CRI"
    }

    fn way(&self) -> &'static str {
        self.plugin.unwrap_or(if self.default { "default runtime" } else { "RuntimeClass" })
    }

    fn knows_who_executes(&self) -> bool {
        self.plugin.is_none()
    }

    fn version(&self) -> String {
        self.prepared.version.clone()
    }

    fn run(&self, name: &str, script: &str) -> Ran {
        let id = self.create(name, &["/bin/sh", "-c", script]).expect("containerd creates a container");
        self.says(&["start", &id], "").expect("containerd starts a container");
        let done = self.wait(&id, name);
        Ran { id, done }
    }

    fn launch(&self, name: &str) -> String {
        let id = self.create(name, &["/bin/busybox", "sleep", "3600"]).expect("containerd creates a container");
        self.says(&["start", &id], "").expect("containerd starts a container");
        id
    }

    fn exec(&self, id: &str, script: &str) -> Done {
        finish(&mut self.client(&["exec-sync", id, "--", "/bin/sh", "-c", script]))
    }

    fn remove(&self, id: &str) {
        self.says(&["stop", id], "").expect("containerd stops a container");
        self.says(&["remove", id], "").expect("containerd removes a container");
    }

    fn fields(&self, name: &str) -> Vec<Field> {
        let mut fields = common_fields("containerd", "runc");
        fields.extend([
            ("/container/name", is(name)),
            ("/container/image/name", is("localhost/lab/guarded")),
            ("/container/image/tag", is("1")),
            ("/container/pod/name", is(self.pod_name())),
            ("/container/pod/namespace", is(NAMESPACE)),
            ("/container/pod/uid", is(UID)),
            ("/creation/target/namespace", is(NAMESPACE)),
            ("/creation/target/service", is(self.pod_name())),
            ("/creation/target/role", is("container")),
            ("/creation/source/control_plane", is("kubernetes")),
            ("/creation/creator/service_account", is("system:serviceaccount:lab-namespace:builder")),
            ("/creation/parameters/seccomp", is("SCMP_ACT_ERRNO")),
            ("/creation/parameters/resources", Expected::Told),
        ]);
        // a pod in the host's network has the host's name
        fields.retain(|(pointer, _)| *pointer != "/creation/parameters/hostname");
        fields
    }

    fn told_late(&self) -> Vec<Field> {
        vec![
            ("/container/image/name", is("localhost/lab/guarded")),
            ("/container/image/digest", is(&self.prepared.digest)),
            ("/container/pod/name", is(self.pod_name())),
            ("/identification/verdict/result", is("expected")),
        ]
    }

    fn operations(&self) -> Vec<(&'static str, Result<(), String>)> {
        let name = "guarded-operations";
        // it outlives the exec by which it is told
        let script = "echo on start; while [ ! -e /tmp/end ]; do echo tick; /bin/busybox sleep 0.1; done; \
            /bin/busybox sleep 2; exit 7";
        let id = match self.create(name, &["/bin/sh", "-c", script]) {
            Ok(id) => id,
            Err(reason) => return vec![("create", Err(reason))],
        };
        let log = || if self.container_log(name).contains("on start") { Ok(()) } else { Err("no log".to_owned()) };
        let stream = run(&mut self.client(&["start", &id]));
        let mut results = vec![
            ("create", Ok(())),
            ("start", stream.and_then(|_| self.says(&["status", &id], "CONTAINER_RUNNING"))),
            ("exec", self.says(&["exec-sync", &id, "--", "/bin/busybox", "echo", "from exec"], "from exec")),
            ("exec stream", self.says(&["exec-stream", &id, "--", "/bin/busybox", "echo", "streamed"], "streamed")),
            ("stats", self.says(&["stats", &id], "memory")),
            ("update", self.says(&["update", &id], "")),
            ("list", self.says(&["list"], &id)),
            ("logs", crate::patiently(log)),
            ("attach", self.attach(&id)),
        ];
        let ended = self.wait(&id, name);
        results.push(("exit code", if ended.code() == 7 { Ok(()) } else { Err(said(&ended)) }));
        let code = finish(&mut self.client(&["exec-sync", &id, "--", "true"])).code();
        results.push((
            "exec into an ended container fails",
            if code == 0 { Err("it did not".to_owned()) } else { Ok(()) },
        ));
        results.push(("delete", self.says(&["remove", &id], "")));
        results
    }
}

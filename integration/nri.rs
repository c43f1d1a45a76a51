//! What `acctguard-nri` answers an engine that takes a seccomp profile of a plugin, on real runtimes.
//!
//! containerd 2.2 and CRI-O 1.34 take one; no Debian suite has them. So the engine's end of the socket is this test's: it asks as
//! containerd 2.3 does, puts what it is answered where NRI puts it (`pkg/runtime-tools/generate`: hooks at the end of their stage, the
//! profile in the place of the one that is there), and calls the real runtime. A real containerd, with what it takes of this, is in
//! `integration/engines/nri.rs`.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Child;
use std::time::Instant;

use acctguard::model::event::{Event, Kind, Outcome};
use acctguard::nri::messages::{
    ConfigureRequest, ConfigureResponse, Container, ContainerAdjustment, CreateContainerRequest,
    CreateContainerResponse, Hook, LinuxContainer, Request, Response, SynchronizeRequest,
};
use acctguard::nri::seccomp;
use acctguard::nri::wire::{self, Inbox, Kind as Sort, Lane, Message};
use prost::Message as _;
use serde_json::{Value, json};

use crate::harness::bundle::{Bundle, Spec};
use crate::harness::command::{Done, finish};
use crate::harness::events::{changes, of};
use crate::harness::node::{Node, PATIENCE, Runtime, policy};

const ADD: &str = "useradd mallory; code=$?; grep ^mallory: /etc/passwd; exit $code";

/// The engine's end.
struct Engine {
    node: Node,
    socket: UnixStream,
    inbox: Inbox<UnixStream>,
    stream: u32,
    plugin: Child,
}

impl Engine {
    fn new(runtime: Runtime, mode: &str) -> Self {
        let node = Node::start(runtime, &policy(mode));
        let path = node.scratch.path().join("nri.sock");
        let listener = UnixListener::bind(&path).expect("bind");
        let log = fs::File::create(node.scratch.path().join("nri.log")).expect("make a log");
        let mut command = node.program("acctguard-nri");
        let plugin = command.arg("--socket").arg(&path).stderr(log).spawn().expect("start the plugin");
        let (socket, _) = listener.accept().expect("accept");
        socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
        let inbox = Inbox::new(socket.try_clone().expect("dup"));
        let mut engine = Self { node, socket, inbox, stream: 1, plugin };
        let registration = engine.inbox.receive().expect("reads").expect("a registration");
        assert_eq!((registration.lane, registration.kind), (Lane::Runtime, Sort::Request));
        engine.send(Lane::Runtime, registration.stream, Sort::Response, Response::default().encode_to_vec());
        let (runtime_name, runtime_version) = ("containerd".to_owned(), "2.3.4".to_owned());
        let request =
            ConfigureRequest { runtime_name, runtime_version, request_timeout: 2000, ..ConfigureRequest::default() };
        let configured = engine.call("Configure", request.encode_to_vec());
        assert_ne!(ConfigureResponse::decode(configured.as_slice()).expect("a response").events, 0, "0 is all events");
        engine.call("Synchronize", SynchronizeRequest::default().encode_to_vec());
        engine
    }

    fn send(&mut self, lane: Lane, stream: u32, kind: Sort, payload: Vec<u8>) {
        let message = Message { lane, stream, kind, flags: 0, payload };
        self.socket.write_all(&wire::encode(&message).expect("short")).expect("write");
    }

    fn call(&mut self, method: &str, payload: Vec<u8>) -> Vec<u8> {
        self.stream += 2;
        let service = "nri.pkg.api.v1alpha1.Plugin".to_owned();
        let request = Request { service, method: method.to_owned(), payload };
        self.send(Lane::Plugin, self.stream, Sort::Request, request.encode_to_vec());
        let answer = self.inbox.receive().expect("reads").expect("an answer");
        assert_eq!(answer.stream, self.stream);
        let response = Response::decode(answer.payload.as_slice()).expect("a response");
        assert_eq!(response.status, None, "an error would refuse the container");
        response.payload
    }

    /// Has the bundle's config.json adjusted, as the engine does before it writes it.
    fn adjust(&mut self, bundle: &Bundle) {
        let file = bundle.folder.join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&file).expect("read")).expect("JSON");
        let annotations = spec["annotations"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.as_str().expect("text").to_owned()));
        let policy = spec.pointer("/linux/seccomp").map(|section| seccomp::message(section).expect("expressible"));
        let container = Container {
            id: bundle.id.clone(),
            annotations: annotations.collect(),
            hooks: None,
            linux: Some(LinuxContainer { seccomp_profile: None, seccomp_policy: policy }),
        };
        let request = CreateContainerRequest { pod: None, container: Some(container) };
        let asked = Instant::now();
        let answer = self.call("CreateContainer", request.encode_to_vec());
        assert!(asked.elapsed().as_millis() < 2000, "the engine would have gone on without: {:?}", asked.elapsed());
        let answer = CreateContainerResponse::decode(answer.as_slice()).expect("a response");
        apply(&mut spec, &answer.adjust.expect("an adjustment"));
        fs::write(&file, spec.to_string()).expect("write");
    }

    /// Runs a container to its end by the runtime alone.
    fn run(&mut self, spec: &Spec) -> (Bundle, Done) {
        let bundle = self.node.bundle(spec);
        self.adjust(&bundle);
        let done = self.node.run_bare(&bundle);
        (bundle, done)
    }

    fn record(&self, id: &str) -> Event {
        self.node
            .wait_for("the record", |events| of(events, Kind::ContainerCreated, id).first().map(|&event| event.clone()))
    }

    fn finding(&self, id: &str) -> Event {
        self.node.wait_for("a finding", |events| {
            let is_it = |event: &&&Event| changes(&[**event]).iter().any(|change| change == "account_added mallory");
            of(events, Kind::AccountFinding, id).iter().find(is_it).map(|&event| event.clone())
        })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // it tries to connect for ever
        if let Err(error) = self.plugin.kill().and_then(|()| self.plugin.wait()) {
            eprintln!("end the plugin: {error}");
        }
    }
}

fn apply(spec: &mut Value, adjustment: &ContainerAdjustment) {
    let hooks = adjustment.hooks.clone().unwrap_or_default();
    for (stage, hooks) in [("createRuntime", hooks.create_runtime), ("poststop", hooks.poststop)] {
        let told = |hook: &Hook| json!({"path": hook.path, "args": hook.args, "env": hook.env});
        let all = spec["hooks"][stage].as_array().into_iter().flatten().cloned().chain(hooks.iter().map(told));
        spec["hooks"][stage] = all.collect();
    }
    for (key, value) in &adjustment.annotations {
        spec["annotations"][key] = value.as_str().into();
    }
    if let Some(policy) = adjustment.linux.as_ref().and_then(|linux| linux.seccomp_policy.as_ref()) {
        spec["linux"]["seccomp"] = seccomp::section(policy);
    }
}

#[track_caller]
fn check(runtime: Runtime, mode: &str) {
    let mut engine = Engine::new(runtime, mode);
    let (outcome, ground) = if mode == "audit" { (Outcome::Allowed, "notify") } else { (Outcome::Blocked, "broker") };
    for engine_seccomp in [false, true] {
        let (bundle, done) = engine.run(&Spec { engine_seccomp, ..Spec::shell(ADD) });
        assert_eq!(done.code() == 0, mode == "audit", "{done:?}\n{}", engine.node.log_text());
        assert_eq!(done.stdout.contains("mallory:x:"), mode == "audit", "{done:?}");
        let told = engine.finding(&bundle.id);
        assert_eq!(told.verdict.map(|verdict| verdict.result), Some(outcome));
        let creation = engine.record(&bundle.id).creation.expect("of a creation");
        assert!(creation.protection.intercepted, "{:?}", creation.protection);
        assert_eq!(creation.protection.ground.as_str(), ground);
        assert_eq!(creation.protection.installer.as_deref(), Some("runtime"));
        let why = creation.protection.not_killable.expect("by runtimes that are not known");
        assert!(why.contains("NRI plugin"), "{why}");
        assert_eq!(creation.parameters.seccomp, if engine_seccomp { "SCMP_ACT_ERRNO" } else { "none" });
        assert_eq!(creation.accounts.expect("read").uid_zero, ["root"]);
        let ended = of(&engine.node.events(), Kind::ContainerExited, &bundle.id).len();
        assert_eq!(ended, 1, "the poststop hook tells the end");
    }
    let idle = engine.node.bundle(&Spec { engine_seccomp: true, ..Spec::idle() });
    engine.adjust(&idle);
    finish(engine.node.bare().args(["create", "--bundle"]).arg(&idle.folder).arg(&idle.id)).ok();
    finish(engine.node.bare().arg("start").arg(&idle.id)).ok();
    let done = finish(engine.node.bare().args(["exec", &idle.id, "/bin/sh", "-c", ADD]));
    assert_eq!(done.stdout.contains("mallory:x:"), mode == "audit", "{done:?}\n{}", engine.node.log_text());
    assert_eq!(engine.finding(&idle.id).verdict.map(|verdict| verdict.result), Some(outcome), "by exec");
    let (_, done) = engine.run(&Spec::shell("id root && cp /etc/passwd /tmp/copy && echo x >> /tmp/copy && echo well"));
    assert!(done.ok().stdout.contains("well"), "what changes no account is as without acctguard");
}

#[test]
fn runc_audit() {
    check(Runtime::Runc, "audit");
}

#[test]
fn runc_enforce() {
    check(Runtime::Runc, "enforce");
}

#[test]
fn crun_audit() {
    check(Runtime::Crun, "audit");
}

#[test]
fn crun_enforce() {
    check(Runtime::Crun, "enforce");
}

#[test]
fn without_a_daemon_a_container_in_audit_starts_with_its_own_profile() {
    let mut engine = Engine::new(Runtime::Runc, "audit");
    engine.node.stop_daemon(nix::sys::signal::Signal::SIGTERM);
    let (bundle, done) = engine.run(&Spec { engine_seccomp: true, ..Spec::shell("echo well") });
    assert_eq!(done.ok().stdout, "well\n");
    engine.node.start_daemon();
    let creation = engine.record(&bundle.id).creation.expect("of a creation");
    assert!(!creation.protection.intercepted && creation.protection.reasons[0].contains("nobody listens"));
}

#[test]
fn a_foreign_listener_stays_and_is_told() {
    let mut engine = Engine::new(Runtime::Runc, "audit");
    let bundle = engine.node.bundle(&Spec::shell("echo well"));
    let file = bundle.folder.join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(&file).expect("read")).expect("JSON");
    // named and not used: the runtime never connects
    spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/other.sock"});
    fs::write(&file, spec.to_string()).expect("write");
    engine.adjust(&bundle);
    let adjusted: Value = serde_json::from_slice(&fs::read(&file).expect("read")).expect("JSON");
    assert_eq!(adjusted["linux"]["seccomp"], spec["linux"]["seccomp"]);
    assert_eq!(engine.node.run_bare(&bundle).ok().stdout, "well\n");
    let creation = engine.record(&bundle.id).creation.expect("of a creation");
    assert!(creation.protection.reasons.join("; ").contains("/run/other.sock"), "{:?}", creation.protection);
}

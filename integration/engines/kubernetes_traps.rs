//! What is known to go wrong with pods, each tried: with policy in enforce.

use std::fs;

use acctguard::model::event::Creator;
use nix::sys::signal::{Signal, kill};
use serde_json::json;

use crate::engine::Engine as _;
use crate::kubernetes::Kubernetes;
use crate::place::said;

const ADD: &str = "useradd mallory; grep ^mallory: /etc/passwd; echo it ran";
const IDLE: [&str; 3] = ["/bin/busybox", "sleep", "3600"];

/// All of them; policy says enforce before and after.
pub fn all(engine: &Kubernetes<'_>) -> Vec<(&'static str, Result<(), String>)> {
    let mut results = vec![
        ("a pod's shared pid namespace", shared_pids(engine)),
        ("a static pod is guarded, and told as its node's", static_pod(engine)),
        ("a Localhost profile with a foreign listenerPath is refused in enforce", foreign_listener(engine)),
        ("exec probes while the worker is killed", probes_and_worker(engine)),
        ("exec probes without the daemon are refused, and succeed after", probes_and_daemon(engine)),
    ];
    engine.place.set_mode("audit");
    results.push(("a pod's annotation tightens audit to enforce", by_annotation(engine)));
    engine.place.set_mode("enforce");
    results
}

/// Runs a container in another pod to its end; whether it was kept from making an account.
fn blocked_in_pod(engine: &Kubernetes<'_>, pod: &str, more: &[&str]) -> Result<(), String> {
    let sandbox = engine.another_pod(pod, more)?;
    let in_pod = || {
        let id = engine.create_in(&sandbox, pod, pod, more, &["/bin/sh", "-c", ADD])?;
        engine.says(&["start", &id], "")?;
        let done = engine.wait(&id, pod);
        let right = done.stdout.contains("it ran") && !done.stdout.contains("mallory:x:");
        if right { engine.found(&id, "mallory") } else { Err(said(&done)) }
    };
    let outcome = in_pod();
    engine.says(&["remove-pod", &sandbox], "")?;
    outcome
}

fn shared_pids(engine: &Kubernetes<'_>) -> Result<(), String> {
    blocked_in_pod(engine, "pod-of-shared-pids", &["--share-pids"])
}

/// The kubelet makes it out of a file: nobody asked the API server, and it has no service account.
fn static_pod(engine: &Kubernetes<'_>) -> Result<(), String> {
    let pod = "etcd-node-1";
    blocked_in_pod(engine, pod, &["--annotation", "kubernetes.io/config.source=file"])?;
    let events = engine.place.node.events();
    let creators = events.iter().filter(|event| {
        let container = event.container.as_ref();
        container.and_then(|container| container.pod.as_ref()).is_some_and(|known| known.name == pod)
    });
    let creators: Vec<_> = creators.filter_map(|event| event.creation.as_ref()).map(|found| &found.creator).collect();
    let right = |creator: &&Creator| {
        creator.service_account.is_none() && creator.owner.as_ref().is_some_and(|owner| owner.kind == "Node")
    };
    // the sandbox and the container
    if creators.len() == 2 && creators.iter().all(right) { Ok(()) } else { Err(format!("{creators:?}")) }
}

fn by_annotation(engine: &Kubernetes<'_>) -> Result<(), String> {
    blocked_in_pod(engine, "pod-of-annotation", &["--annotation", "acctguard.io/mode=enforce"])
}

fn foreign_listener(engine: &Kubernetes<'_>) -> Result<(), String> {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/somebody-else.sock",
                         "syscalls": [{"names": ["mkdirat"], "action": "SCMP_ACT_NOTIFY"}]});
    let file = engine.place.path("foreign.json");
    fs::write(&file, profile.to_string()).expect("write a profile");
    let pod = "pod-of-foreign-listener";
    let sandbox = engine.another_pod(pod, &[])?;
    let option = format!("localhost/{}", file.display());
    let tried = engine
        .create_in(&sandbox, pod, "foreign", &["--seccomp", &option], &IDLE)
        .and_then(|id| engine.says(&["start", &id], ""));
    engine.says(&["remove-pod", &sandbox], "")?;
    match tried {
        Err(reason) if reason.contains("/run/somebody-else.sock") => Ok(()),
        Err(reason) => Err(format!("refused without the reason: {reason}")),
        Ok(()) => Err("it started".to_owned()),
    }
}

fn probe(engine: &Kubernetes<'_>, id: &str) -> Result<(), String> {
    let done = engine.exec(id, "echo x > /tmp/probe && echo alive");
    if done.code() == 0 && done.stdout.contains("alive") { Ok(()) } else { Err(said(&done)) }
}

fn probes_and_worker(engine: &Kubernetes<'_>) -> Result<(), String> {
    let id = engine.launch("guarded-probes");
    let outcome = (0..5).try_for_each(|_| {
        let worker = engine.place.node.worker_pid();
        kill(worker, Signal::SIGKILL).map_err(|error| error.to_string())?;
        (0..3).try_for_each(|_| probe(engine, &id))
    });
    engine.remove(&id);
    outcome
}

fn probes_and_daemon(engine: &Kubernetes<'_>) -> Result<(), String> {
    let id = engine.launch("guarded-away");
    engine.place.node.stop_daemon(Signal::SIGTERM);
    let away = engine.exec(&id, "echo alive");
    engine.place.node.start_daemon();
    engine.remove(&id);
    if away.code() == 0 || !away.stderr.contains("acctguard") {
        return Err(format!("without the daemon: {}", said(&away)));
    }
    let id = engine.launch("guarded-back");
    let back = probe(engine, &id);
    engine.remove(&id);
    back
}

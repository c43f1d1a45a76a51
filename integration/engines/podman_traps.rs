//! What is known to go wrong with podman, each tried: with policy in enforce.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::harness::command::{Done, finish};
use crate::harness::machine::program;
use crate::place::{Place, run, said};
use crate::podman::Podman;

/// All of them.
pub fn all(podman: &Podman<'_>) -> Vec<(&'static str, Result<(), String>)> {
    vec![
        ("a shim without its hook refuses", shim_without_hook(podman)),
        ("a hooks.d file without its program fails open in podman", hooks_without_program(podman)),
        ("--log comes to a runtime named crun only", log_by_name(podman)),
        ("--version is answered by the runtime", version(podman)),
        ("a foreign listenerPath is refused in enforce", foreign_listener(podman)),
        ("a user namespace is guarded", in_user_namespace(podman)),
        ("a privileged container is guarded", privileged(podman)),
        ("--init is guarded", init(podman)),
    ]
}

fn try_run(podman: &Podman<'_>, runtime: &Path, more: &[&str], script: &str) -> Done {
    let mut command = podman.plain();
    command.arg("--runtime").arg(runtime).args(["run", "--rm", "--network", "none"]);
    command.args(["--cgroup-parent", &format!("/{}", podman.place.group)]).args(more);
    finish(command.args([crate::podman::IMAGE, "/bin/sh", "-c", script]))
}

fn ran(done: &Done) -> Result<(), String> {
    if done.code() == 0 && done.stdout.contains("it ran") { Ok(()) } else { Err(said(done)) }
}

/// Whether it did not run, and the user was told why.
fn refused(done: &Done, why: &str) -> Result<(), String> {
    let told = done.code() != 0 && !done.stdout.contains("it ran") && done.stderr.contains(why);
    if told { Ok(()) } else { Err(said(done)) }
}

fn shim_without_hook(podman: &Podman<'_>) -> Result<(), String> {
    let shim = podman.place.node.scratch.folder("alone").join("crun");
    fs::copy(program("acctguard-runtime"), &shim).expect("copy the shim");
    refused(&try_run(podman, &shim, &[], "echo it ran"), "every container needs it as a hook")
}

/// The trap itself: podman says nothing and starts the container, so hooks alone protect nobody from their own absence.
fn hooks_without_program(podman: &Podman<'_>) -> Result<(), String> {
    let folder = podman.place.node.scratch.folder("hooks-of-nobody");
    let hook = json!({"version": "1.0.0", "hook": {"path": "/no/such/acctguard-hook", "args": ["acctguard-hook", "createRuntime"]},
                      "when": {"always": true}, "stages": ["createRuntime"]});
    fs::write(folder.join("acctguard.json"), hook.to_string()).expect("write a hooks.d file");
    let mut command = podman.plain();
    command.args(["--runtime", "crun", "--hooks-dir"]).arg(&folder);
    command.args(["run", "--rm", "--network", "none", "--cgroup-parent", &format!("/{}", podman.place.group)]);
    ran(&finish(command.args([crate::podman::IMAGE, "/bin/sh", "-c", "echo it ran"])))
}

/// A program of this name that notes its command lines and becomes the shim.
fn recorder(place: &Place, name: &str) -> (PathBuf, PathBuf) {
    let folder = place.node.scratch.folder("recorders");
    let (script, lines) = (folder.join(name), folder.join(format!("{name}.lines")));
    let text =
        format!("#!/bin/sh\necho \"$@\" >> {}\nexec {} \"$@\"\n", lines.display(), place.shim_as("crun").display());
    fs::write(&script, text).expect("write a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("set mode");
    (script, lines)
}

fn log_by_name(podman: &Podman<'_>) -> Result<(), String> {
    for (name, expected) in [("crun", true), ("guarded", false)] {
        let (script, lines) = recorder(podman.place, name);
        ran(&try_run(podman, &script, &[], "echo it ran"))?;
        let lines = fs::read_to_string(lines).unwrap_or_default();
        let create = lines.lines().find(|line| line.contains("create")).unwrap_or_default();
        if create.contains("--log") != expected {
            return Err(format!("as {name}: {create}"));
        }
    }
    Ok(())
}

fn version(podman: &Podman<'_>) -> Result<(), String> {
    let (script, lines) = recorder(podman.place, "crun");
    fs::write(&lines, "").expect("forget the lines");
    let done =
        run(podman.plain().arg("--runtime").arg(&script).args(["info", "--format", "{{.Host.OCIRuntime.Version}}"]))?;
    let asked = fs::read_to_string(lines).unwrap_or_default().lines().any(|line| line == "--version");
    if asked && done.stdout.contains("crun version") { Ok(()) } else { Err(format!("asked: {asked}; {}", said(&done))) }
}

fn foreign_listener(podman: &Podman<'_>) -> Result<(), String> {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/somebody-else.sock",
                         "syscalls": [{"names": ["mkdirat"], "action": "SCMP_ACT_NOTIFY"}]});
    let file = podman.place.path("foreign.json");
    fs::write(&file, profile.to_string()).expect("write a profile");
    let option = format!("seccomp={}", file.display());
    let done = try_run(podman, &podman.place.shim_as("crun"), &["--security-opt", &option], "echo it ran");
    refused(&done, "/run/somebody-else.sock")
}

const ADD: &str = "useradd mallory; grep ^mallory: /etc/passwd; echo it ran";

fn blocked(done: &Done) -> Result<(), String> {
    let right = done.code() == 0 && done.stdout.contains("it ran") && !done.stdout.contains("mallory:x:");
    if right { Ok(()) } else { Err(said(done)) }
}

fn in_user_namespace(podman: &Podman<'_>) -> Result<(), String> {
    let more = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"];
    let shim = podman.place.shim_as("crun");
    let inside = try_run(podman, &shim, &more, "cat /proc/self/uid_map; echo it ran");
    if !inside.stdout.contains("100000") {
        return Err(format!("no user namespace: {}", said(&inside)));
    }
    blocked(&try_run(podman, &shim, &more, ADD))
}

/// podman's own init is the container's first program then, and the workload its child.
fn init(podman: &Podman<'_>) -> Result<(), String> {
    let script = format!("echo first is $(cat /proc/1/comm); {ADD}");
    let done = try_run(podman, &podman.place.shim_as("crun"), &["--init"], &script);
    let is_first =
        ["podman-init", "init", "catatonit"].iter().any(|name| done.stdout.contains(&format!("first is {name}")));
    if is_first { blocked(&done) } else { Err(format!("no init: {}", said(&done))) }
}

fn privileged(podman: &Podman<'_>) -> Result<(), String> {
    blocked(&try_run(podman, &podman.place.shim_as("crun"), &["--privileged"], ADD))
}

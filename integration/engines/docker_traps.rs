//! What is known to go wrong with Docker, each tried.

use std::fs;

use acctguard::model::event::Kind;

use crate::docker::{Docker, IMAGE};
use crate::harness::command::{Done, finish};
use crate::harness::events::changes;
use crate::place::said;

const ADD: &str = "useradd mallory; grep ^mallory: /etc/passwd; echo it ran";

/// All capabilities, and no profile.
const ALL: [&str; 4] = ["--cap-add", "ALL", "--security-opt", "seccomp=unconfined"];
/// What not every machine has.
const BUT_ONE: [&str; 2] = ["--cap-drop", "SYS_RESOURCE"];

/// All of them; policy says enforce before and after.
pub fn all(docker: &Docker<'_>) -> Vec<(&'static str, Result<(), String>)> {
    let mut results = vec![
        ("--init is guarded", run(docker, &["--init"])),
        ("--privileged is guarded, where the machine lets Docker have it", privileged(docker)),
        ("nearly all capabilities and no profile are guarded", run(docker, &nearly_all(docker))),
        ("build with RUN useradd is refused in enforce", build_in_enforce(docker)),
    ];
    docker.place.set_mode("audit");
    results.push(("build with RUN useradd is found in audit", build_in_audit(docker)));
    docker.place.set_mode("enforce");
    results
}

/// As without acctguard, which shows by Docker's own runtime: where that starts it, it is guarded; where that cannot, the shim's
/// runtime says the same.
fn privileged(docker: &Docker<'_>) -> Result<(), String> {
    let options = ["run", "--rm", "--network", "none", "--privileged"];
    let program = [IMAGE, "/bin/sh", "-c", ADD];
    let bare = finish(docker.docker(&options).args(["--runtime", "runc"]).args(program));
    if bare.code() == 0 {
        return run(docker, &["--privileged"]);
    }
    let guarded = finish(docker.docker(&options).args(program));
    let same = guarded.code() == bare.code() && reason(&guarded.stderr) == reason(&bare.stderr);
    if same { Ok(()) } else { Err(format!("by runc: {}; guarded: {}", said(&bare), said(&guarded))) }
}

/// Docker 20 gives a container what the machine does not have, and so has to be told; Docker 28 gives what there is, and refuses to
/// take away what is not.
fn nearly_all(docker: &Docker<'_>) -> Vec<&'static str> {
    let mut bare = docker.docker(&["run", "--rm", "--network", "none", "--runtime", "runc"]);
    let takes_all = finish(bare.args(ALL).args([IMAGE, "/bin/sh", "-c", ":"])).code() == 0;
    if takes_all { ALL.to_vec() } else { [ALL.as_slice(), BUT_ONE.as_slice()].concat() }
}

fn reason(text: &str) -> Option<&str> {
    text.lines().find(|line| line.contains("Error response"))
}

fn run(docker: &Docker<'_>, more: &[&str]) -> Result<(), String> {
    let mut command = docker.docker(&["run", "--rm", "--network", "none"]);
    let done = finish(command.args(more).args([IMAGE, "/bin/sh", "-c", ADD]));
    let right = done.code() == 0 && done.stdout.contains("it ran") && !done.stdout.contains("mallory:x:");
    if right { Ok(()) } else { Err(said(&done)) }
}

fn build(docker: &Docker<'_>, account: &str) -> Done {
    let folder = docker.place.node.scratch.folder("build");
    let text = format!("FROM {IMAGE}\nRUN useradd {account}\nRUN grep ^{account}: /etc/passwd\n");
    fs::write(folder.join("Dockerfile"), text).expect("write a Dockerfile");
    let mut command = docker.docker(&["build", "--network", "none", "--force-rm"]);
    finish(command.args(["--cgroup-parent", &format!("/{}", docker.place.group)]).arg(folder))
}

fn found(docker: &Docker<'_>, account: &str) -> bool {
    docker.place.node.events().iter().any(|event| {
        let named = changes(&[event]).iter().any(|change| *change == format!("account_added {account}"));
        event.kind == Kind::AccountFinding && named
    })
}

fn build_in_enforce(docker: &Docker<'_>) -> Result<(), String> {
    let done = build(docker, "builder1");
    if done.code() == 0 {
        return Err(said(&done));
    }
    crate::patiently(|| if found(docker, "builder1") { Ok(()) } else { Err("no finding".to_owned()) })
}

fn build_in_audit(docker: &Docker<'_>) -> Result<(), String> {
    let done = build(docker, "builder2");
    if done.code() != 0 {
        return Err(said(&done));
    }
    crate::patiently(|| if found(docker, "builder2") { Ok(()) } else { Err("no finding".to_owned()) })
}

//! Two containers that run at one time under one id: of two engines on a node, or of two roots or namespaces of one. Each has its own
//! policy, its own records and its own end, whichever the daemon knows longer.

use std::path::PathBuf;
use std::process::Command;

use acctguard::model::event::{Event, Kind, Outcome};
use nix::sys::signal::{Signal, kill};

use crate::harness::bundle::{Bundle, Spec};
use crate::harness::command::{Done, finish};
use crate::harness::events::of;
use crate::harness::node::{Node, Runtime};

/// How often two containers start together.
const ROUNDS: usize = 8;
const IDLE: [&str; 3] = ["/bin/busybox", "sleep", "3600"];
const APPEND: [&str; 3] = ["/bin/sh", "-c", "echo eve:x:0:0::/:/bin/sh >> /etc/passwd"];

fn policies(exec: &str) -> String {
    let document = |name: &str, mode: &str| {
        format!(
            "apiVersion: acctguard.io/v1alpha1\nkind: AccountPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
             match: {{annotations: {{role: {name}}}}}\n  mode: {mode}\n  exec: {exec}\n"
        )
    };
    [document("kept", "enforce"), document("loose", "audit")].join("---\n")
}

/// A container that idles, by a runtime with a root of its own.
struct Namesake<'a> {
    node: &'a Node,
    role: &'static str,
    root: PathBuf,
    bundle: Bundle,
}

impl<'a> Namesake<'a> {
    /// By the id of `other`, if there is one.
    fn launch(node: &'a Node, role: &'static str, other: Option<&Namesake<'_>>) -> Self {
        let container = Self::create(node, role, other, &IDLE);
        finish(container.shim().arg("start").arg(&container.bundle.id)).ok();
        container
    }

    fn create(node: &'a Node, role: &'static str, other: Option<&Namesake<'_>>, program: &[&str]) -> Self {
        let mut spec = Spec::new(program);
        spec.annotations = vec![("role".to_owned(), role.to_owned())];
        let mut bundle = node.bundle(&spec);
        if let Some(other) = other {
            bundle.id.clone_from(&other.bundle.id);
        }
        let root = node.scratch.path().join(format!("runtime-of-{role}"));
        let container = Self { node, role, root, bundle };
        finish(container.shim().args(["create", "--bundle"]).arg(&container.bundle.folder).arg(&container.bundle.id))
            .ok();
        container
    }

    fn shim(&self) -> Command {
        let mut command = self.node.program("acctguard-runtime");
        command.arg("--root").arg(&self.root);
        command
    }

    fn exec(&self) -> Done {
        finish(self.shim().arg("exec").arg(&self.bundle.id).args(APPEND))
    }

    fn count(&self, kind: Kind, which: impl Fn(&Event) -> bool) -> usize {
        let events = self.node.events();
        let own = of(&events, kind, &self.bundle.id).into_iter();
        own.filter(|event| event.policy.as_ref().is_some_and(|policy| policy.name == self.role))
            .filter(|event| which(event))
            .count()
    }

    /// An exec session adds an account: as this container's policy has it, and on this container's record.
    fn is_itself(&self) {
        let expected = if self.role == "kept" { Outcome::Blocked } else { Outcome::Allowed };
        let result = |event: &Event| event.verdict.as_ref().is_some_and(|verdict| verdict.result == expected);
        let is_of_session = |event: &Event| event.session.is_some() && result(event);
        let (sessions, before) = (self.count(Kind::ContainerExec, |_| true), self.bundle.text("/etc/passwd"));
        let findings = self.count(Kind::AccountFinding, is_of_session);
        let done = self.exec();
        let is_changed = self.bundle.text("/etc/passwd") != before;
        assert_eq!(
            (done.code() == 0, is_changed),
            (self.role == "loose", self.role == "loose"),
            "{}: {done:?}",
            self.role
        );
        self.node.wait_for("a finding", |_| (self.count(Kind::AccountFinding, is_of_session) > findings).then_some(()));
        assert_eq!(self.count(Kind::ContainerExec, |_| true), sessions + 1, "{}", self.role);
    }

    fn end(self) {
        finish(self.shim().args(["delete", "--force"]).arg(&self.bundle.id)).ok();
        self.node.wait_for("the end", |_| (self.count(Kind::ContainerExited, |_| true) > 0).then_some(()));
        assert_eq!(self.count(Kind::ContainerExited, |_| true), 1, "{}", self.role);
    }
}

fn each_is_itself(runtime: Runtime) {
    for (elder, younger, elder_ends_first, exec) in [
        ("kept", "loose", false, "brokered"),
        ("loose", "kept", false, "brokered"),
        ("kept", "loose", true, "brokered"),
        ("kept", "loose", false, "sealed"),
        ("loose", "kept", true, "sealed"),
    ] {
        let node = Node::start(runtime, &policies(exec));
        let elder = Namesake::launch(&node, elder, None);
        let younger = Namesake::launch(&node, younger, Some(&elder));
        let known = node.acctguard(&["containers", "--json"]).ok().stdout;
        assert_eq!(known.matches(&format!("\"id\":\"{}\"", elder.bundle.id)).count(), 2, "{known}");
        for container in [&elder, &younger] {
            assert_eq!(container.count(Kind::ContainerCreated, |_| true), 1);
            container.is_itself();
        }
        kill(node.worker_pid(), Signal::SIGKILL).expect("kill the worker");
        for container in [&elder, &younger] {
            container.is_itself();
        }
        let (first, last) = if elder_ends_first { (elder, younger) } else { (younger, elder) };
        first.end();
        last.is_itself();
        last.end();
        assert_eq!(node.acctguard(&["containers", "--json"]).ok().stdout, "");
    }
}

/// Both launchers put their listeners in the place of runc's at one time: what a container's own program does is told of that container.
#[test]
fn launchers_that_start_together_speak_for_their_own_containers() {
    for round in 0..ROUNDS {
        let document = |name: &str| {
            format!(
                "apiVersion: acctguard.io/v1alpha1\nkind: AccountPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
                 match: {{annotations: {{role: {name}}}}}\n  mode: enforce\n  landlock: off\n"
            )
        };
        let node = Node::start(Runtime::Runc, &[document("passwd"), document("group")].join("---\n"));
        let elder = Namesake::create(&node, "passwd", None, &["/bin/sh", "-c", "echo x >> /etc/passwd"]);
        let younger = Namesake::create(&node, "group", Some(&elder), &["/bin/sh", "-c", "echo x >> /etc/group"]);
        std::thread::scope(|scope| {
            for container in [&elder, &younger] {
                // of this thread's mount namespace, where the node is
                let mut start = container.shim();
                start.arg("start").arg(&container.bundle.id);
                scope.spawn(move || finish(&mut start).ok());
            }
        });
        for container in [&elder, &younger] {
            let own = format!("/etc/{}", container.role);
            let is_refused = |event: &Event| {
                event.operation.as_ref().is_some_and(|operation| operation.database.as_deref() == Some(&own))
            };
            let told = || container.count(Kind::AccountFinding, |_| true) > 0;
            node.wait_for("a finding", |_| told().then_some(()));
            assert_eq!(container.count(Kind::AccountFinding, is_refused), 1, "round {round}: {}", container.role);
        }
    }
}

#[test]
fn runc_each_is_itself() {
    each_is_itself(Runtime::Runc);
}

#[test]
fn crun_each_is_itself() {
    each_is_itself(Runtime::Crun);
}

//! acctguard at work: what `integration/demo` runs. Real containers on runc and crun, in audit and in enforce; prints what
//! was found and checks every promise.

// The demo uses a part of what the tests use.
#[expect(dead_code, reason = "the rest of the harness is the tests'")]
mod harness;

use std::process::ExitCode;

use acctguard::model::event::{Event, Kind, Outcome};

use crate::harness::bundle::{Bundle, Spec};
use crate::harness::command::Done;
use crate::harness::events::{changes, of};
use crate::harness::node::{Node, Runtime, policy};

/// What the demo promises, kept or not.
struct Promises {
    kept: u32,
    broken: u32,
}

impl Promises {
    fn check(&mut self, kept: bool, promise: &str) {
        if kept {
            self.kept += 1;
            println!("  ok   {promise}");
        } else {
            self.broken += 1;
            println!("  NOT  {promise}");
        }
    }
}

/// One mode on one runtime.
struct Scene<'a> {
    node: Node,
    mode: &'static str,
    promises: &'a mut Promises,
}

impl Scene<'_> {
    fn enforced(&self) -> bool {
        self.mode == "enforce"
    }

    /// A container that only looks at its accounts.
    fn benign(&mut self) {
        title("a benign container");
        let script = "id root; echo 127.0.0.2 other >> /etc/hosts; cp /etc/passwd /tmp/copy; echo x >> /tmp/copy";
        let bundle = self.node.bundle(&Spec::shell(script));
        let done = self.run(&bundle, script);
        self.promises.check(done.code() == 0, "it runs as without acctguard");
        self.node.wait_for("its end", |events| of(events, Kind::ContainerExited, &bundle.id).pop().map(|_| ()));
        let events = self.node.events();
        self.show(&events, Kind::ContainerCreated, &bundle);
        let created = of(&events, Kind::ContainerCreated, &bundle.id);
        self.promises.check(created.len() == 1, "its creation is on record (DC0072)");
        let creation = created.first().and_then(|event| event.creation.as_ref());
        let intercepted = creation.is_some_and(|creation| creation.protection.intercepted);
        self.promises.check(intercepted, "with its protection in place");
        self.promises.check(of(&events, Kind::AccountFinding, &bundle.id).is_empty(), "and there is no finding");
    }

    /// A container that makes an account with `script`.
    fn account(&mut self, name: &str, script: &str) {
        title(name);
        let bundle = self.node.bundle(&Spec::shell(script));
        let done = self.run(&bundle, script);
        self.outcome(&bundle, &done);
        self.finding(&bundle, script, false);
    }

    /// The same by a process that enters a running container.
    fn session(&mut self, name: &str, script: &str) {
        title(name);
        let bundle = self.node.launch(&Spec::idle());
        println!("$ acctguard-runtime exec {} /bin/sh -c {script:?}", bundle.id);
        let done = self.node.exec(&bundle, &["/bin/sh", "-c", script]);
        print_output(&done);
        self.outcome(&bundle, &done);
        self.finding(&bundle, script, true);
        self.node.delete(&bundle);
    }

    fn run(&self, bundle: &Bundle, script: &str) -> Done {
        println!("$ acctguard-runtime run --bundle BUNDLE {}    # /bin/sh -c {script:?}", bundle.id);
        let done = self.node.run(bundle);
        print_output(&done);
        done
    }

    fn outcome(&mut self, bundle: &Bundle, done: &Done) {
        let same = bundle.read("/etc/passwd") == Bundle::original("/etc/passwd");
        if self.enforced() {
            self.promises.check(done.code() != 0, "the program was refused");
            self.promises.check(same, "/etc/passwd is as it was, byte for byte");
        } else {
            self.promises.check(done.code() == 0, "the program worked as without acctguard");
            self.promises.check(!same, "the account is there");
        }
    }

    /// The finding: printed for people, then as JSON, and checked. Whoever is refused when it opens a database has not said
    /// yet what it wants to write: only an account tool says so by its arguments.
    fn finding(&mut self, bundle: &Bundle, script: &str, in_session: bool) {
        let known = !self.enforced() || script.starts_with("useradd");
        let finding = self.node.wait_for("the finding", |events| {
            let named = |event: &&Event| changes(&[*event]).iter().any(|change| change == "account_added mallory");
            of(events, Kind::AccountFinding, &bundle.id).into_iter().find(|event| !known || named(event)).cloned()
        });
        let events = self.node.events();
        if in_session {
            self.show(&events, Kind::ContainerExec, bundle);
        }
        self.show(&events, Kind::AccountFinding, bundle);
        let attack = serde_json::to_value(&finding.attack).unwrap_or_default();
        let promise =
            if known { "it is reported as AN1239, and names the account mallory" } else { "it is reported as AN1239" };
        self.promises.check(attack["analytic"] == "AN1239", promise);
        let result = finding.verdict.as_ref().map(|verdict| verdict.result);
        let (wanted, promise) = if self.enforced() {
            (Outcome::Blocked, "as blocked by policy")
        } else {
            (Outcome::Allowed, "as allowed by policy")
        };
        self.promises.check(result == Some(wanted), promise);
        let runtime = finding.container.as_ref().and_then(|container| container.runtime.as_deref());
        self.promises.check(runtime == Some(self.node.runtime.name()), "in the right container");
        let attempts = of(&events, Kind::AccountAttempt, &bundle.id);
        let on_passwd = |event: &&&Event| {
            event.operation.as_ref().is_some_and(|operation| operation.database.as_deref() == Some("/etc/passwd"))
        };
        self.promises
            .check(attempts.iter().any(|event| on_passwd(&event)), "with the attempts on /etc/passwd on record");
        let sessions = of(&events, Kind::ContainerExec, &bundle.id);
        let session = sessions.first().and_then(|event| event.session.as_ref()).map(|session| session.id.as_str());
        let of_actor = finding.actor.as_ref().and_then(|actor| actor.session.as_deref());
        let promise = if in_session { "and it carries its exec session" } else { "and it came from no exec session" };
        self.promises.check(of_actor == session && session.is_some() == in_session, promise);
    }

    /// Prints the events of `kind` of a container as `acctguard events` does, then their JSON (valid against the schema: the
    /// harness has checked every line).
    fn show(&self, events: &[Event], kind: Kind, bundle: &Bundle) {
        let arguments = ["events", "--container", &bundle.id, "--kind", kind.as_str()];
        println!("$ acctguard events --container {} --kind {}", bundle.id, kind.as_str());
        print!("{}", self.node.acctguard(&arguments).stdout);
        println!("$ acctguard events --container {} --kind {} --json", bundle.id, kind.as_str());
        for event in of(events, kind, &bundle.id) {
            println!("{}", serde_json::to_string(event).unwrap_or_else(|error| error.to_string()));
        }
    }
}

fn title(text: &str) {
    println!("\n-- {text}");
}

fn print_output(done: &Done) {
    for line in done.stdout.lines().chain(done.stderr.lines()) {
        println!("  | {line}");
    }
    println!("  exit code {}", done.code());
}

fn play(runtime: Runtime, mode: &'static str, promises: &mut Promises) {
    println!("\n== {} on {}", mode, runtime.name());
    let node = Node::start(runtime, &policy(mode));
    let mut scene = Scene { node, mode, promises };
    scene.benign();
    scene.account("useradd", "useradd --create-home --shell /bin/sh mallory");
    scene.account("a direct write", "echo 'mallory:x:0:0::/root:/bin/sh' >> /etc/passwd");
    scene.session("useradd in an exec session", "useradd mallory");
}

fn main() -> ExitCode {
    let mut promises = Promises { kept: 0, broken: 0 };
    for mode in ["audit", "enforce"] {
        for runtime in Runtime::ALL {
            play(runtime, mode, &mut promises);
        }
    }
    println!("\n{} promises kept, {} broken", promises.kept, promises.broken);
    if promises.broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

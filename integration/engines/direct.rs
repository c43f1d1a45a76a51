//! runc, crun and youki by hand, the shim in front of them.

use std::process::Command;

use crate::engine::{Engine, Expected, Field, Ran, common_fields, is};
use crate::harness::bundle::{Bundle, Spec};
use crate::harness::command::{Done, finish};
use crate::harness::node::Runtime;
use crate::place::{Place, run, said};
use crate::report::Report;

/// Login uid of whoever calls the runtime here.
const LOGIN_UID: u32 = 4321;
/// Of whoever executes in a container, as another than its creator.
const EXEC_LOGIN_UID: u32 = 8765;

/// Examines runc.
pub fn runc() -> Vec<Report> {
    examine(Runtime::Runc)
}

/// Examines crun.
pub fn crun() -> Vec<Report> {
    examine(Runtime::Crun)
}

/// Examines youki.
pub fn youki() -> Vec<Report> {
    examine(Runtime::Youki)
}

fn examine(runtime: Runtime) -> Vec<Report> {
    let place = Place::new(runtime.name(), runtime);
    let engine = Direct { place: &place };
    let mut report = Report::new(engine.name(), &engine.version(), engine.way());
    crate::examination::examine(&place, &engine, &mut report);
    if runtime == Runtime::Youki {
        crate::youki::traps(&place, &mut report);
    }
    crate::leave(&place, &mut report);
    vec![report]
}

struct Direct<'a> {
    place: &'a Place,
}

impl Direct<'_> {
    fn shim(&self, arguments: &[&str]) -> Command {
        let mut command = self.place.node.shim();
        command.args(arguments);
        command
    }

    fn lifecycle(&self, bundle: &Bundle) -> Vec<(&'static str, Result<(), String>)> {
        let id = bundle.id.as_str();
        let folder = bundle.folder.display().to_string();
        let says = |arguments: &[&str], wanted: &str| {
            let done = run(&mut self.shim(arguments))?;
            if done.stdout.contains(wanted) { Ok(()) } else { Err(format!("does not say {wanted}; {}", said(&done))) }
        };
        let state = |wanted: &str| says(&["state", id], &format!("\"status\": \"{wanted}\""));
        let mut results = vec![
            ("--version", says(&["--version"], self.place.node.runtime.name())),
            ("create", says(&["create", "--bundle", &folder, id], "").and_then(|()| state("created"))),
            ("start", says(&["start", id], "").and_then(|()| state("running"))),
            ("exec", says(&["exec", id, "/bin/busybox", "echo", "from exec"], "from exec")),
            ("list", says(&["list"], id)),
            ("ps", says(&["ps", id], "")),
            ("pause", says(&["pause", id], "").and_then(|()| state("paused"))),
            ("resume", says(&["resume", id], "").and_then(|()| state("running"))),
            ("update", says(&["update", "--pids-limit", "500", id], "")),
        ];
        if self.place.node.runtime == Runtime::Runc {
            results.push(("features", says(&["features"], "seccomp")));
            results.push(("events --stats", says(&["events", "--stats", id], "\"pids\"")));
        }
        if self.place.node.runtime == Runtime::Youki {
            let words: [&[&str]; 4] = [&["features"], &["events", "--stats", id], &["ps", id], &["list"]];
            results.extend(words.map(|words| ("what it prints is youki's own", self.alike(words))));
        }
        let refused = finish(&mut self.shim(&["checkpoint", "--image-path", &format!("{folder}/image"), id]));
        let refused = if refused.code() == 0 { Err("it was made".to_owned()) } else { state("running") };
        results.push(("checkpoint refused, container runs on", refused));
        results.push(("kill", says(&["kill", id, "KILL"], "").and_then(|()| self.wait_until_stopped(id))));
        results.push(("delete", says(&["delete", id], "")));
        results
    }

    /// Whether it ends and prints as without acctguard, but for numbers, which go on, and the order of lines, which youki leaves to chance.
    fn alike(&self, arguments: &[&str]) -> Result<(), String> {
        let (alone, with) = (finish(self.place.node.bare().args(arguments)), finish(&mut self.shim(arguments)));
        let words = |done: &Done| {
            let text = done.stdout.replace(|character: char| character.is_ascii_digit() || character == ',', "");
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let same = alone.code() == with.code() && words(&alone) == words(&with);
        if same { Ok(()) } else { Err(format!("{arguments:?}: alone it {}; now it {}", said(&alone), said(&with))) }
    }

    fn wait_until_stopped(&self, id: &str) -> Result<(), String> {
        for _ in 0..200 {
            if run(&mut self.shim(&["state", id]))?.stdout.contains("\"status\": \"stopped\"") {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Err("it did not stop".to_owned())
    }
}

impl Engine for Direct<'_> {
    fn name(&self) -> &'static str {
        self.place.node.runtime.name()
    }

    fn way(&self) -> &'static str {
        "by hand"
    }

    fn version(&self) -> String {
        crate::first_version(&finish(Command::new(self.place.node.runtime.path()).arg("--version")).stdout)
    }

    fn run(&self, _name: &str, script: &str) -> Ran {
        // of a container that ends sooner, youki's run waits for ever, by itself too: it blocks SIGCHLD only after the start
        // (src/commands/run.rs, `handle_foreground`)
        let pause = if self.place.node.runtime == Runtime::Youki { "sleep 1; " } else { "" };
        let bundle = self.place.node.bundle(&Spec::shell(&format!("{pause}{script}")));
        let shim = self.shim(&["run", "--bundle", &bundle.folder.display().to_string(), &bundle.id]);
        let done = finish(&mut logged_in(self.place, &shim, LOGIN_UID));
        Ran { id: bundle.id, done }
    }

    fn launch(&self, _name: &str) -> String {
        self.place.node.launch(&Spec::idle()).id
    }

    fn exec(&self, id: &str, script: &str) -> Done {
        let shim = self.shim(&["exec", id, "/bin/sh", "-c", script]);
        finish(&mut logged_in(self.place, &shim, EXEC_LOGIN_UID))
    }

    fn exec_login(&self) -> Option<u32> {
        Some(EXEC_LOGIN_UID)
    }

    fn remove(&self, id: &str) {
        // it may have ended and been deleted by itself
        let _ = finish(&mut self.shim(&["delete", "--force", id]));
    }

    fn fields(&self, _name: &str) -> Vec<Field> {
        let mut fields = common_fields("none", self.place.node.runtime.name());
        fields.push(("/creation/creator/login_uid", Expected::Is(LOGIN_UID.into())));
        fields.push(("/creation/parameters/hostname", is("guarded")));
        fields
    }

    fn operations(&self) -> Vec<(&'static str, Result<(), String>)> {
        let bundle = self.place.node.bundle(&Spec::idle());
        self.lifecycle(&bundle)
    }
}

/// `command` as run from the shell of somebody who logged in with `uid`, as pam_loginuid(8) notes it.
pub fn logged_in(place: &Place, command: &Command, uid: u32) -> Command {
    let mut shell = place.command("/bin/sh");
    shell.args(["-c", "echo \"$0\" > /proc/self/loginuid && \"$@\"; exit $?", &uid.to_string()]);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

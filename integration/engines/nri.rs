//! containerd with acctguard's NRI plugin and its own runtime: the plugin connects to it, or is started by it out of its folder.
//!
//! No Debian suite has an engine that takes a seccomp profile of a plugin (NRI 0.10: containerd 2.2, CRI-O 1.34), so that here the
//! containers get theirs as pods of a cluster would, as a Localhost profile of `acctguard profile generate`, and the plugin the rest.
//! What the plugin answers such an engine is run in `integration/nri.rs`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use acctguard::model::event::{Event, Kind};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::containerd;
use crate::engine::Engine as _;
use crate::harness::events::of;
use crate::harness::machine::{program, repository};
use crate::harness::node::Runtime;
use crate::kubernetes::{Kubernetes, Prepared};
use crate::place::{Place, said};
use crate::report::{Column, Report};

const ADD: &str = "useradd mallory; grep ^mallory: /etc/passwd";
const BENIGN: [&str; 3] = ["/bin/sh", "-c", "echo it ran"];

/// Why a check missed.
type Outcome = Result<(), String>;

/// Examines a plugin that connects by itself.
pub fn from_outside() -> Vec<Report> {
    let place = Place::new("nri-outside", Runtime::Runc);
    containerd::serve(&place, None, &configuration(&place));
    let prepared = containerd::prepare_pods(&place);
    start_plugin(&place, &program("acctguard-nri"));
    let report = examine(&place, &prepared, "NRI, from outside", |lab| {
        vec![
            ("the engine's default profile: on record, with why it is not watched", lab.unwatched()),
            ("a pod's annotation reaches the record's policy", lab.annotated()),
            (
                "the plugin is killed: what lives stays guarded, new ones start without, then with it again",
                lab.killed(),
            ),
            ("the plugin hangs: the engine goes on, and both meet again", lab.hung()),
            ("the engine is restarted: what lives stays guarded, the plugin comes back", lab.engine_restarted()),
            ("two plugins: one hook", lab.twice()),
            ("without the hook's program the container starts, and that is on record", lab.without_hook()),
            ("without the daemon the container starts, its record comes later", lab.without_daemon()),
            ("not watched: refused in enforce", lab.refused()),
        ]
    });
    leave(place, report)
}

/// Examines a plugin that containerd starts.
pub fn pre_installed() -> Vec<Report> {
    let place = Place::new("nri-installed", Runtime::Runc);
    symlink(program("acctguard-nri"), place.node.scratch.folder("nri-plugins").join("90-acctguard"))
        .expect("link the plugin");
    containerd::serve(&place, None, &configuration(&place));
    let prepared = containerd::prepare_pods(&place);
    let report = examine(&place, &prepared, "NRI, pre-installed", |lab| {
        vec![("the plugin is killed: the engine goes on without, and starts it with itself", lab.installed_killed())]
    });
    leave(place, report)
}

fn leave(place: Place, mut report: Report) -> Vec<Report> {
    crate::leave(&place, &mut report);
    vec![report]
}

fn configuration(place: &Place) -> String {
    format!(
        "[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = false\ndisable_connections = false\nsocket_path = \"{}\"\n\
         plugin_path = \"{}\"\nplugin_config_path = \"{}\"\n",
        place.path("nri.sock").display(),
        place.node.scratch.folder("nri-plugins").display(),
        place.node.scratch.folder("nri-plugins.d").display(),
    )
}

/// How often the engine has told that a plugin works: in containerd 2's words it "connected and synchronized".
fn meetings(place: &Place) -> usize {
    let log = fs::read_to_string(place.path("containerd.log")).unwrap_or_default();
    log.matches("\\\" connected").count()
}

fn start_plugin(place: &Place, program: &Path) {
    start_plugin_as(place, program, "acctguard-nri", "90");
}

fn start_plugin_as(place: &Place, program: &Path, name: &str, index: &str) {
    let before = meetings(place);
    let mut command = Command::new(program);
    command.args(["--name", name, "--index", index, "--socket"]).arg(place.path("nri.sock"));
    place.serve(name, &command, || meetings(place) > before);
}

/// Asks all that is asked of every engine, and then `more`.
fn examine(
    place: &Place,
    prepared: &Prepared,
    way: &'static str,
    more: impl Fn(&Lab<'_>) -> Vec<(&'static str, Outcome)>,
) -> Report {
    let base = repository().join("integration/fixtures/engine-seccomp.json");
    let base = base.to_str().expect("UTF-8");
    let generated = place.node.acctguard(&["profile", "generate", "--resolve", "--base", base]).ok();
    fs::write(place.path("profile.json"), generated.stdout).expect("write a profile");
    let profile = format!("localhost/{}", place.path("profile.json").display());
    let engine = Kubernetes::with_plugin(place, prepared, way, &profile);
    let mut report = Report::new(engine.name(), &prepared.version, engine.way());
    engine.run_pod();
    crate::examination::examine(place, &engine, &mut report);
    place.set_mode("audit");
    let plain = Kubernetes::with_plugin(place, prepared, way, "default");
    plain.run_pod();
    for (what, outcome) in more(&Lab { place, guarded: &engine, plain: &plain }) {
        report.check(Column::Traps, what, outcome);
    }
    for engine in [&engine, &plain] {
        report.check(Column::Operations, "remove pod", engine.remove_own_pod());
    }
    report
}

/// An engine with the plugin, in audit: pods with acctguard's profile, and with the engine's own.
struct Lab<'a> {
    place: &'a Place,
    guarded: &'a Kubernetes<'a>,
    plain: &'a Kubernetes<'a>,
}

impl Lab<'_> {
    fn record(&self, id: &str) -> Option<Event> {
        of(&self.place.node.events(), Kind::ContainerCreated, id).first().map(|&event| event.clone())
    }

    /// Runs a container of the engine's own profile to its end; its id.
    fn runs(&self, name: &str) -> Result<String, String> {
        let id = self.plain.create(name, &BENIGN)?;
        self.plain.says(&["start", &id], "")?;
        let done = self.plain.wait(&id, name);
        if done.code() == 0 && done.stdout.contains("it ran") { Ok(id) } else { Err(said(&done)) }
    }

    fn recorded(&self, name: &str) -> Outcome {
        let id = self.runs(name)?;
        self.record(&id).map(|_| ()).ok_or_else(|| format!("{name} has no record"))
    }

    fn unrecorded(&self, name: &str) -> Outcome {
        let id = self.runs(name)?;
        self.record(&id).map_or(Ok(()), |_| Err(format!("{name} has a record: the plugin was not away")))
    }

    /// Whether an account that is made by exec in a container that lives is found.
    fn still_guarded(&self, id: &str, account: &str) -> Outcome {
        let done = self.guarded.exec(id, &ADD.replace("mallory", account));
        if !done.stdout.contains(&format!("{account}:x:")) {
            return Err(said(&done));
        }
        self.guarded.found(id, account)
    }

    fn unwatched(&self) -> Outcome {
        let id = self.runs("unwatched")?;
        let record = self.record(&id).ok_or("no record")?;
        let creation = record.creation.ok_or("no creation in the record")?;
        let told = creation.protection.reasons.join("; ");
        if creation.protection.intercepted || !told.contains("takes no seccomp profile of an NRI plugin") {
            return Err(format!("the record says {told:?}"));
        }
        if creation.parameters.seccomp != "SCMP_ACT_ERRNO" {
            return Err(format!("the record says seccomp {:?}", creation.parameters.seccomp));
        }
        if of(&self.place.node.events(), Kind::ProtectionDegraded, &id).is_empty() {
            return Err("nothing says that it is not watched".to_owned());
        }
        Ok(())
    }

    /// Annotations that the engine keeps from a config.json come through the plugin.
    fn annotated(&self) -> Outcome {
        let pod = "pod-of-annotation";
        let more = ["--annotation", "acctguard.io/mode=enforce"];
        let sandbox = self.guarded.another_pod(pod, &more)?;
        let profile = format!("localhost/{}", self.place.path("profile.json").display());
        let options = [&more[..], &["--seccomp", &profile]].concat();
        let outcome = self
            .guarded
            .create_in(&sandbox, pod, "annotated", &options, &["/bin/sh", "-c", "useradd mallory; echo it ran"])
            .and_then(|id| {
                self.guarded.says(&["start", &id], "")?;
                let done = self.guarded.wait(&id, "annotated");
                let record = self.record(&id).ok_or("no record")?;
                let mode = record.policy.map(|policy| format!("{:?}", policy.mode)).unwrap_or_default();
                if mode.to_lowercase().contains("enforce") && done.stdout.contains("it ran") {
                    Ok(())
                } else {
                    Err(format!("{mode}; {}", said(&done)))
                }
            });
        self.guarded.says(&["remove-pod", &sandbox], "")?;
        outcome
    }

    fn killed(&self) -> Outcome {
        let id = self.guarded.launch("guarded-killed");
        self.place.end_daemon("acctguard-nri", Signal::SIGKILL);
        let outcome = self.still_guarded(&id, "mallory").and_then(|()| self.unrecorded("while-the-plugin-is-away"));
        start_plugin(self.place, &program("acctguard-nri"));
        let outcome = outcome
            .and_then(|()| self.recorded("after-the-plugin-came-back"))
            .and_then(|()| self.still_guarded(&id, "eve"));
        self.guarded.remove(&id);
        outcome
    }

    fn hung(&self) -> Outcome {
        let before = meetings(self.place);
        let plugin = self.place.daemon_pid("acctguard-nri");
        kill(plugin, Signal::SIGSTOP).expect("stop the plugin");
        let outcome = self.unrecorded("while-the-plugin-hangs");
        kill(plugin, Signal::SIGCONT).expect("continue the plugin");
        outcome?;
        self.meet(before)?;
        self.recorded("after-the-plugin-hung")
    }

    fn meet(&self, before: usize) -> Outcome {
        crate::patiently(|| if meetings(self.place) > before { Ok(()) } else { Err("they do not meet".to_owned()) })
    }

    fn engine_restarted(&self) -> Outcome {
        let id = self.guarded.launch("guarded-restarted");
        self.place.end_daemon("containerd", Signal::SIGTERM);
        let outcome = {
            containerd::serve(self.place, None, &configuration(self.place));
            // its log begins anew
            self.meet(0)
        };
        let outcome = outcome
            .and_then(|()| self.still_guarded(&id, "mallory"))
            .and_then(|()| self.recorded("after-the-engine-was-restarted"));
        self.guarded.remove(&id);
        outcome
    }

    fn twice(&self) -> Outcome {
        start_plugin_as(self.place, &program("acctguard-nri"), "second", "91");
        let outcome = self.runs("of-two-plugins").and_then(|id| {
            let count = of(&self.place.node.events(), Kind::ContainerCreated, &id).len();
            if count == 1 { Ok(()) } else { Err(format!("{count} records")) }
        });
        self.place.end_daemon("second", Signal::SIGTERM);
        outcome
    }

    fn without_hook(&self) -> Outcome {
        let alone: PathBuf = self.place.node.scratch.folder("alone").join("acctguard-nri");
        fs::copy(program("acctguard-nri"), &alone).expect("copy the plugin");
        self.place.end_daemon("acctguard-nri", Signal::SIGTERM);
        start_plugin(self.place, &alone);
        let outcome = self.runs("without-hook").and_then(|id| {
            crate::patiently(|| {
                let events = self.place.node.events();
                let degraded = of(&events, Kind::ProtectionDegraded, &id);
                let told = degraded.first().and_then(|event| event.protection.as_ref());
                let right =
                    told.is_some_and(|told| told.what == "creation by NRI" && told.reason.contains("acctguard-hook"));
                if right { Ok(()) } else { Err(format!("the record is {told:?}")) }
            })
        });
        self.place.end_daemon("acctguard-nri", Signal::SIGTERM);
        start_plugin(self.place, &program("acctguard-nri"));
        outcome
    }

    fn without_daemon(&self) -> Outcome {
        self.place.node.stop_daemon(Signal::SIGTERM);
        let id = self.runs("without-daemon");
        self.place.node.start_daemon();
        let id = id?;
        crate::patiently(|| {
            self.record(&id).map(|_| ()).ok_or_else(|| "no record after the daemon came back".to_owned())
        })
    }

    fn refused(&self) -> Outcome {
        self.place.set_mode("enforce");
        let tried = self.runs("refused");
        self.place.set_mode("audit");
        match tried {
            Err(reason) if reason.contains("onUnprotected: refuse") => Ok(()),
            Err(reason) => Err(format!("refused without the reason: {reason}")),
            Ok(_) => Err("it started".to_owned()),
        }
    }

    fn installed_killed(&self) -> Outcome {
        self.recorded("with-the-installed-plugin")?;
        let plugin = installed_plugin().ok_or("the engine started no plugin")?;
        let id = self.guarded.launch("guarded-installed");
        kill(plugin, Signal::SIGKILL).map_err(|error| error.to_string())?;
        let outcome = crate::patiently(|| match installed_plugin() {
            None => Ok(()),
            Some(_) => Err("the plugin lives".to_owned()),
        })
        .and_then(|()| self.still_guarded(&id, "mallory"))
        .and_then(|()| self.unrecorded("while-the-installed-plugin-is-away"));
        self.place.end_daemon("containerd", Signal::SIGTERM);
        containerd::serve(self.place, None, &configuration(self.place));
        let outcome = outcome
            .and_then(|()| crate::patiently(|| self.guarded.says(&["list"], "")))
            .and_then(|()| self.recorded("after-the-engine-started-it-again"));
        self.guarded.remove(&id);
        outcome
    }
}

/// The plugin that an engine in this mount namespace started; one that has ended and was not waited for is none.
fn installed_plugin() -> Option<Pid> {
    let own = fs::read_link("/proc/thread-self/ns/mnt").expect("read the mount namespace");
    let processes =
        fs::read_dir("/proc").expect("list processes").filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut pids = processes.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()));
    let is_it = |pid: &String| {
        fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program("acctguard-nri"))
            && fs::read_link(format!("/proc/{pid}/ns/mnt")).is_ok_and(|namespace| namespace == own)
    };
    pids.find(is_it)?.parse().ok().map(Pid::from_raw)
}

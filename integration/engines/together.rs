//! Several engines on one node, at one time, under one daemon of acctguard: Docker and podman, registered one after the other in one
//! `/etc`, and containerd's `ctr`. Policy has one mode for one and another for the other, and the engines' containers have the same
//! names, so that whatever took one for the other would show.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use acctguard::model::event::{Event, Kind};
use nix::sys::signal::{Signal, kill};

use crate::containerd;
use crate::docker;
use crate::docker::Docker;
use crate::engine::{Engine, Ran};
use crate::examination::{Examination, add_by_tool};
use crate::files::{Shown, shown};
use crate::harness::command::finish;
use crate::harness::events::of;
use crate::image;
use crate::place::{Place, run, said};
use crate::podman;
use crate::report::{Column, Report};

type Outcome = Result<(), String>;

/// What policy calls the engines; the first two are registered by `acctguard install`.
const ENGINES: [&str; 3] = ["docker", "podman", "containerd"];
const DOCKER: usize = 0;
const PODMAN: usize = 1;
const CTR: usize = 2;
/// Another namespace of `ctr`, with a container of the same id and a policy of its own.
const OTHER: &str = "other";
/// A container of each that is there from the beginning to the end; `ctr` has two, as its ids are names.
const LASTING: &str = "guarded-lasting";
/// Waits for a file, half a minute at most, and shows that it does.
const WAIT: &str =
    ": > /srv/waits; n=0; until [ -e /srv/go ] || [ $n -gt 300 ]; do /bin/busybox sleep 0.1; n=$((n+1)); done";

/// What policy says for a while, engine by engine.
#[derive(Clone, Copy)]
struct Round {
    word: &'static str,
    modes: [&'static str; 3],
    other: &'static str,
}

const FIRST: Round = Round { word: "first", modes: ["enforce", "audit", "enforce"], other: "audit" };
const SECOND: Round = Round { word: "second", modes: ["audit", "enforce", "audit"], other: "enforce" };

impl Round {
    fn policies(self) -> String {
        let document = |of: &str, mode: &str, rule: &str| {
            format!(
                "apiVersion: acctguard.io/v1alpha1\nkind: AccountPolicy\nmetadata: {{name: test-{of}-{mode}}}\n\
                 spec:\n  match: {{{rule}}}\n  mode: {mode}\n"
            )
        };
        let other = document(OTHER, self.other, &format!("annotations: {{team: {OTHER}}}"));
        let engines = ENGINES.iter().zip(self.modes);
        let engines = engines.map(|(engine, mode)| document(engine, mode, &format!("engines: [{engine}]")));
        [other].into_iter().chain(engines).collect::<Vec<_>>().join("---\n")
    }
}

/// Registers, starts and examines all of them.
pub fn examine() -> Vec<Report> {
    let place = Place::of_many("together");
    docker::configure(&place);
    podman::configure(&place);
    let shim = place.shim_as("acctguard-runtime");
    let folders = [Path::new("/etc/docker"), Path::new("/etc/containers"), shim.parent().expect("a folder")];
    let folders = folders.map(Path::to_owned).to_vec();
    let before = [DOCKER, PODMAN].map(|engine| {
        let before = shown(&folders);
        finish(&mut place.install(ENGINES[engine])).ok();
        before
    });
    place.set_policy(&FIRST.policies());
    containerd::serve(&place, None, "");
    image::root_archive(&place);
    let (docker, podman, [ctr, other]) = thread::scope(|scope| {
        let podman = scope.spawn(|| podman::start(&place, podman::Way::Configuration));
        let ctr =
            scope.spawn(|| [containerd::NAMESPACE, OTHER].map(|namespace| containerd::by_hand(&place, namespace)));
        // in this thread: its daemon ends with it
        let docker = docker::start(&place, true);
        (docker, podman.join().expect("podman starts"), ctr.join().expect("ctr has its image"))
    });
    let engines: [&(dyn Engine + Sync); 3] = [&docker, &podman, &ctr];
    let lasting = engines.map(|engine| engine.launch(LASTING));
    assert_eq!(other.launch(LASTING), lasting[CTR], "one id at one time");
    let lab = Lab { place: &place, docker: &docker, engines, lasting, other: &other, folders, before };
    let mut reports = engines.map(|engine| Report::new(engine.name(), &engine.version(), "beside others"));
    let mut common = Report::new("all three", "", "at one time");
    lab.rounds(&mut reports, &mut common);
    common.check(Column::Traps, "every record is of the right engine", lab.records());
    common.check(Column::Traps, "doctor tells both registered", lab.doctor([true, true]));
    lab.podman_is_left(&mut reports, &mut common);
    lab.docker_is_left(&mut reports, &mut common);
    crate::leave(&place, &mut common);
    reports.into_iter().chain([common]).collect()
}

/// The engines and what is asked of them.
struct Lab<'a> {
    place: &'a Place,
    docker: &'a Docker<'a>,
    engines: [&'a (dyn Engine + Sync); 3],
    /// Ids of the containers that last.
    lasting: [String; 3],
    other: &'a (dyn Engine + Sync),
    /// What `acctguard install` may change,
    folders: Vec<PathBuf>,
    /// and how that was when acctguard was registered with each of the first two.
    before: [Shown; 2],
}

impl Lab<'_> {
    fn examination(&self, engine: usize, round: Round) -> Examination<'_> {
        let mode = round.modes[engine];
        let policy = format!("test-{}-{mode}", ENGINES[engine]);
        Examination { place: self.place, engine: self.engines[engine], mode, policy, round: round.word }
    }

    /// Asks all engines at one time; `ask` gets the id of the container that lasts, too.
    fn each(&self, round: Round, reports: &mut [Report; 3], ask: impl Fn(&Examination<'_>, &str, &mut Report) + Sync) {
        thread::scope(|scope| {
            for (engine, report) in reports.iter_mut().enumerate() {
                let ask = &ask;
                scope.spawn(move || ask(&self.examination(engine, round), &self.lasting[engine], report));
            }
        });
    }

    /// Whether the containers that last are guarded in the second round, when `what` has happened.
    fn still_guarded(&self, reports: &mut [Report; 3], common: &mut Report, what: &str, account: &str) {
        let script = add_by_tool(account);
        self.each(SECOND, reports, |examination, id, report| {
            examination.exec_adds(report, what, (id, LASTING), account, &script);
        });
        let (mode, policy) = (SECOND.other, format!("test-{OTHER}-{}", SECOND.other));
        let other = Examination { place: self.place, engine: self.other, mode, policy, round: SECOND.word };
        let what = format!("the namesake {what}");
        other.exec_adds(common, &what, (&self.lasting[CTR], LASTING), account, &script);
    }

    /// Everything, twice, the modes exchanged; in between the daemon is restarted, and its worker killed.
    fn rounds(&self, reports: &mut [Report; 3], common: &mut Report) {
        self.each(FIRST, reports, |examination, _, report| examination.whole(report));
        self.place.set_policy(&SECOND.policies());
        self.still_guarded(reports, common, "after a restart of the daemon", "early");
        self.each(SECOND, reports, |examination, _, report| examination.whole(report));
        let killed = self.worker_is_killed(reports);
        common.check(Column::Traps, "the worker is killed while containers of all run", killed);
        self.still_guarded(reports, common, "after the worker was killed", "late");
    }

    /// Containers' own programs that run before and add an account after.
    fn worker_is_killed(&self, reports: &mut [Report; 3]) -> Outcome {
        let script = format!("{WAIT}; {}", add_by_tool("mallory"));
        let name = self.examination(DOCKER, SECOND).name("waiting");
        thread::scope(|scope| {
            let ask = |examination: &Examination<'_>, _: &str, report: &mut Report| {
                examination.process(report, "waiting", &script, "mallory");
            };
            scope.spawn(move || self.each(SECOND, reports, ask));
            let execute = |script: &str| {
                self.ids(&name)?.iter().zip(self.engines).try_for_each(|(id, engine)| {
                    let done = engine.exec(id, script);
                    if done.code() == 0 { Ok(()) } else { Err(said(&done)) }
                })
            };
            crate::patiently(|| execute("test -e /srv/waits"))?;
            kill(self.place.node.worker_pid(), Signal::SIGKILL).map_err(|error| error.to_string())?;
            execute(": > /srv/go")
        })
    }

    /// Ids of the containers that have this name in each engine, as their records tell.
    fn ids(&self, name: &str) -> Result<[String; 3], String> {
        let events = self.place.node.events();
        let mut found = [const { String::new() }; 3];
        for (id, engine) in found.iter_mut().zip(ENGINES) {
            let created = created_as(&events, engine, name);
            let [event] = created.as_slice() else {
                return Err(format!("{engine} has {} containers of the name {name}", created.len()));
            };
            *id = event.container.as_ref().map(|container| container.id.to_string()).unwrap_or_default();
        }
        Ok(found)
    }

    /// Each engine has one container of each name, and every event of its containers was decided by its policy.
    fn records(&self) -> Outcome {
        for name in ["guarded-benign-first", "guarded-tool-first", "guarded-hand-second", "guarded-idle-second"] {
            self.ids(name)?;
        }
        let events = self.place.node.events();
        let wrong = events.iter().find(|event| {
            let (Some(container), Some(policy)) = (&event.container, &event.policy) else { return false };
            let of = |name: &str| policy.name.starts_with(&format!("test-{name}-"));
            !(of(&container.engine) || container.engine == ENGINES[CTR] && of(OTHER))
        });
        wrong.map_or(Ok(()), |event| Err(serde_json::to_string(event).expect("an event is JSON")))
    }

    /// Whether `acctguard doctor` tells which of the first two engines acctguard is registered with.
    fn doctor(&self, registered: [bool; 2]) -> Outcome {
        let told = finish(self.place.node.program("acctguard").arg("doctor")).stdout;
        let is_told = |(engine, is_registered): (&str, bool)| {
            let words = if is_registered { "acctguard is its default runtime" } else { "acctguard is not registered" };
            told.lines().any(|line| line.contains(&format!(" engine {engine} ")) && line.contains(words))
        };
        if ENGINES.into_iter().zip(registered).all(is_told) { Ok(()) } else { Err(told) }
    }

    /// acctguard is taken out of podman, and Docker's containers are guarded as before.
    fn podman_is_left(&self, reports: &mut [Report; 3], common: &mut Report) {
        self.engines[PODMAN].remove(&self.lasting[PODMAN]);
        // its monitor ends a moment later, and while one has the link to the shim among its words, that would stay
        let link = self.place.shim_as("podman/crun");
        let monitors = || finish(Command::new("pgrep").arg("--full").arg(&link)).stdout;
        let gone = || if monitors().is_empty() { Ok(()) } else { Err(format!("{} is called still", link.display())) };
        reports[PODMAN].check(Column::Operations, "its monitors end", crate::patiently(gone));
        common.check(Column::Traps, "uninstall of podman leaves every byte of Docker's", self.uninstall(PODMAN));
        reports[PODMAN].check(Column::Traps, "unguarded when uninstalled", self.unguarded(PODMAN));
        let docker = self.examination(DOCKER, SECOND);
        let report = &mut reports[DOCKER];
        docker.exec_adds(report, "without podman", (&self.lasting[DOCKER], LASTING), "alone", &add_by_tool("alone"));
        docker.process(report, "without-podman", &add_by_tool("mallory"), "mallory");
        common.check(Column::Traps, "doctor tells Docker alone registered", self.doctor([true, false]));
    }

    /// acctguard is taken out of Docker; a container that is there is guarded to its end.
    fn docker_is_left(&self, reports: &mut [Report; 3], common: &mut Report) {
        common.check(Column::Traps, "uninstall of Docker restores all", self.uninstall(DOCKER));
        common.check(Column::Traps, "doctor tells none registered", self.doctor([false, false]));
        let (report, lasting) = (&mut reports[DOCKER], &self.lasting);
        let examination = self.examination(DOCKER, SECOND);
        examination.exec_adds(report, "uninstalled", (&lasting[DOCKER], LASTING), "last", &add_by_tool("last"));
        for engine in [DOCKER, CTR] {
            self.engines[engine].remove(&lasting[engine]);
        }
        self.other.remove(&lasting[CTR]);
        self.docker.restart();
        report.check(Column::Traps, "unguarded when uninstalled", self.unguarded(DOCKER));
    }

    /// `acctguard uninstall`, which leaves all files as they were when acctguard was not registered with this engine yet.
    fn uninstall(&self, engine: usize) -> Outcome {
        run(self.place.node.program("acctguard").args(["uninstall", "--engine", ENGINES[engine]]))?;
        let (before, now) = (&self.before[engine], shown(&self.folders));
        // dockerd's own, made when it starts
        let is_own = |path: &Path| path.ends_with("docker/key.json");
        let differs = |path: &&PathBuf| !is_own(path) && before.get(*path) != now.get(*path);
        let differing: Vec<&PathBuf> = before.keys().chain(now.keys()).filter(differs).collect();
        if differing.is_empty() { Ok(()) } else { Err(format!("{differing:?} are not as they were")) }
    }

    /// Whether a new container is nothing to acctguard.
    fn unguarded(&self, engine: usize) -> Outcome {
        let Ran { id, done } = self.engines[engine].run("guarded-no-more", &add_by_tool("mallory"));
        self.engines[engine].remove(&id);
        let is_known = !of(&self.place.node.events(), Kind::ContainerCreated, &id).is_empty();
        let is_added = done.code() == 0 && done.stdout.contains("mallory:x:");
        if is_added && !is_known { Ok(()) } else { Err(format!("on record: {is_known}; {}", said(&done))) }
    }
}

/// Creations in an engine of containers that have this name, or this id where the engine names them so.
fn created_as<'a>(events: &'a [Event], engine: &str, name: &str) -> Vec<&'a Event> {
    let is_it = |event: &&Event| {
        event.kind == Kind::ContainerCreated
            && event.container.as_ref().is_some_and(|container| {
                container.engine == engine && container.name.as_deref().unwrap_or(container.id.as_str()) == name
            })
    };
    events.iter().filter(is_it).collect()
}

//! The createRuntime hook: the DC0072 record in full, the registration, and the refusal.
//!
//! Runs when the runtime has made the container's namespaces and before anything in it runs (runtime-spec config.md, "Hooks").
//! The order is fixed: the record is durable before the hook answers, so neither a crash nor a container that lives for a
//! second loses it.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::Mode;
use rustix::fs::OFlags;
use uuid::Uuid;

use crate::config::Config;
use crate::control::Registration;
use crate::control::Request;
use crate::control::client::ClientError;
use crate::hook::CreateRuntime;
use crate::hook::HookError;
use crate::hook::deadline;
use crate::hook::lending;
use crate::hook::protection;
use crate::hook::protection::Daemon;
use crate::hook::protection::Told;
use crate::hook::record;
use crate::hook::subject;
use crate::hook::subject::Subject;
use crate::kernel::fanotify::Watcher;
use crate::kernel::foreign_root;
use crate::kernel::foreign_root::Found;
use crate::kernel::process::Facts;
use crate::model::database_path::DatabasePath;
use crate::model::diagnostic::chain;
use crate::model::event::AccountBaseline;
use crate::model::event::Creation;
use crate::model::event::CreationTarget;
use crate::model::event::Event;
use crate::model::event::EventTime;
use crate::model::event::Kind;
use crate::model::event::ProtectionChange;
use crate::model::event::Severity;
use crate::model::event::Source;
use crate::model::policy;
use crate::model::policy::Applied;
use crate::model::policy::OnUnprotected;
use crate::model::policy::decide::judge_creation;
use crate::model::policy::rule::Landlock;
use crate::model::redact;
use crate::model::workload::ContainerId;
use crate::model::workload::Workload;
use crate::oci::hook_state;
use crate::oci::hook_state::State;
use crate::oci::identity;
use crate::oci::identity::Role;
use crate::oci::owner;
use crate::oci::parameters::parameters;
use crate::oci::service_account;
use crate::oci::spec_edit;
use crate::supervise::ancestry::creator_of;
use crate::supervise::baseline;

/// A creation on its way to its record.
struct Case<'a> {
    /// Of its record: the daemon may have stored that though its answer never came, and then the spooled one is the same.
    id: Uuid,
    config: &'a Config,
    subject: Subject,
    applied: Applied,
    time: EventTime,
    pid: u32,
    root: PathBuf,
    creation: Creation,
}

/// Records and registers the container whose state `input` holds.
///
/// # Errors
/// [`HookError`]: the container must not start.
pub fn run(config: &Config, options: &CreateRuntime, input: impl Read) -> Result<(), HookError> {
    deadline::step("reading the container's state");
    let state = match hook_state::read(input) {
        Ok(state) => state,
        Err(error) => {
            note(config, None, "creation record", &format!("container refused: {}", chain(&error)));
            return Err(error.into());
        }
    };
    let id = ContainerId::new(&state.id).map_err(|error| {
        note(config, None, "creation record", &format!("container refused: {error}"));
        HookError::Refused { what: "container".to_owned(), reason: error.to_string() }
    })?;
    let mut case = case(config, options, &id, &state);
    match case.register() {
        None => Ok(()),
        Some(reason) => Err(HookError::Refused { what: format!("container {id}"), reason }),
    }
}

fn case<'a>(config: &'a Config, options: &CreateRuntime, id: &ContainerId, state: &State) -> Case<'a> {
    let time = subject::now();
    let runtime = Facts::read(std::os::unix::process::parent_id()).ok();
    deadline::step("reading the bundle");
    let runtime_name = options.runtime.clone().or_else(|| runtime.as_ref().and_then(subject::runtime_name));
    let subject = Subject::of(config, id, state, runtime_name.as_deref(), time);
    let (applied, policy_problem) = subject::policy(config, &subject.workload);
    let mut creator = runtime.map(|runtime| creator_of(runtime.parent)).unwrap_or_default();
    creator.service_account =
        subject.workload.container.pod.as_ref().and_then(|pod| service_account::of(&subject.own_spec, pod));
    creator.owner = subject
        .workload
        .container
        .pod
        .as_ref()
        .and_then(|pod| owner::of(&subject.workload.annotations, &subject.bundle, pod));
    deadline::step("reading the accounts of the root file system");
    let root = root_directory(&subject, state);
    let accounts = accounts(&root, &applied.databases);
    let told = Told {
        unprotected: options.unprotected.as_deref(),
        not_killable: options.not_killable.as_deref(),
        launcher_listens: options.launcher_listens,
        ground: options.ground,
        reasons: &options.because,
    };
    let mut protection = protection::observed(&subject.spec, &listener(config), &applied, told);
    protection.reasons.extend(lending::take_back(&subject.bundle, options.runtime_copy.as_deref()));
    protection.reasons.extend(options.unwatched.as_ref().map(|calls| redact::printable(calls.as_bytes())));
    protection.reasons.extend(subject.problem.clone());
    protection.reasons.extend(policy_problem);
    let (accounts, unreadable) = match accounts {
        Ok((accounts, unreadable)) => (Some(accounts), unreadable),
        Err(reason) => (None, vec![reason]),
    };
    protection.reasons.extend(unreadable);
    protection.reasons.extend(unwitnessed(&root));
    protection.reasons.extend(applied.ignored_annotation.as_ref().map(|value| {
        let value = redact::printable(value.as_bytes());
        format!("the annotation {} asks for {value}, which is no mode", policy::MODE_ANNOTATION)
    }));
    let own_seccomp = options.own_seccomp.clone().or_else(|| spec_edit::own_seccomp(&subject.spec));
    let creation = Creation {
        source: source(&subject.workload),
        target: target(&subject.workload, &subject.bundle),
        parameters: parameters(&subject.own_spec, own_seccomp.as_deref()),
        accounts,
        protection,
        verdict: judge_creation(&applied, &subject.workload, &creator),
        creator,
    };
    Case { id: Uuid::now_v7(), config, subject, applied, time, pid: state.pid, root, creation }
}

/// Why changes of this root file system are not witnessed by fanotify; `None`, the usual: they are.
fn unwitnessed(root: &Path) -> Option<String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty()).ok()?;
    let etc = foreign_root::identify_in_root(root.as_fd(), b"/etc").ok().flatten();
    let directory = etc.filter(Found::is_directory).map_or(root, |found| found.fd);
    let tried = Watcher::new().and_then(|watcher| watcher.watch_directory(directory.as_fd()));
    let reason = chain(&tried.err()?);
    Some(format!("changes from outside the container are told by the content of its databases only: {reason}"))
}

impl Case<'_> {
    /// Makes the record durable, with the daemon when it can; the reason of a refusal, when there is one.
    fn register(&mut self) -> Option<String> {
        let refusal = self.refusal_by_verdict().or_else(|| self.refusal_by_protection(Daemon::Registered));
        if refusal.is_some() {
            return self.refuse(refusal);
        }
        let event = self.event();
        let registration = Registration {
            workload: self.subject.workload.clone(),
            bundle: self.subject.bundle.display().to_string(),
            pid: self.pid,
            root: self.root.display().to_string(),
            intercepted: self.creation.protection.intercepted,
            ground: self.creation.protection.ground,
            event,
        };
        match record::tell(self.config, &Request::Register(Box::new(registration))) {
            Ok(()) => {
                self.note_missing_protection();
                None
            }
            Err(error) => self.without_registration(&error),
        }
    }

    /// The daemon does not know the container: what policy says to that, and the record in the spool.
    fn without_registration(&mut self, error: &ClientError) -> Option<String> {
        let daemon = if matches!(error, ClientError::Absent { .. }) { Daemon::Absent } else { Daemon::Failed };
        let cause = chain(error);
        let reasons = &mut self.creation.protection.reasons;
        // the shim may have told the same already
        if !reasons.iter().any(|reason| reason.contains(&cause)) {
            reasons.push(format!("not registered: {cause}"));
        }
        let refusal = self.refusal_by_protection(daemon);
        if refusal.is_some() {
            return self.refuse(refusal);
        }
        match record::keep(self.config, &self.event()) {
            Ok(()) => {
                self.note_missing_protection();
                None
            }
            Err(spool) => {
                let reason = format!("its creation cannot be recorded: {}; {}", chain(&spool), chain(error));
                if self.applied.on_unprotected == OnUnprotected::Refuse {
                    return Some(reason);
                }
                eprintln!("acctguard-hook: container {}: {reason}", self.subject.workload.container.id);
                None
            }
        }
    }

    fn refusal_by_verdict(&self) -> Option<String> {
        let verdict = &self.creation.verdict;
        verdict
            .refused
            .then(|| format!("{}; policy {} expects otherwise", verdict.reasons.join("; "), self.applied.name))
    }

    fn refusal_by_protection(&self, daemon: Daemon) -> Option<String> {
        protection::refusal(&self.applied, &self.creation.protection, daemon, self.config.when_absent)
    }

    /// Records the refusal for `reason` and hands it back.
    fn refuse(&mut self, reason: Option<String>) -> Option<String> {
        let verdict = &mut self.creation.verdict;
        if !verdict.refused {
            verdict.refused = true;
            verdict.reasons.extend(reason.clone());
        }
        // another event than one that the daemon may have stored of a container that was to start
        self.id = Uuid::now_v7();
        let event = self.event();
        if let Err(error) = record::record(self.config, &Request::Record(Box::new(event.clone())), &event) {
            return reason.map(|reason| format!("{reason}; and that could not be recorded: {}", chain(&error)));
        }
        reason
    }

    fn event(&self) -> Event {
        let verdict = &self.creation.verdict;
        let protection = &self.creation.protection;
        // a policy that asks for no seal misses none
        let by_choice =
            self.applied.landlock == Landlock::Off && protection.reasons.len() == 1 && protection.intercepted;
        let lacking = self.applied.mode != policy::Mode::Off && !protection.reasons.is_empty() && !by_choice;
        let severity = match (verdict.refused, verdict.result == "unexpected" || lacking) {
            (true, _) => Severity::High,
            (false, true) => Severity::Medium,
            (false, false) => Severity::Info,
        };
        let rule = match (verdict.result == "unexpected", verdict.refused) {
            (true, _) => "creation",
            (false, true) => "onUnprotected",
            (false, false) => self.applied.mode_source,
        };
        Event {
            id: self.id,
            container: Some(self.subject.workload.container.clone()),
            policy: Some(self.applied.reference(rule)),
            creation: Some(Box::new(self.creation.clone())),
            ..subject::event(self.config, Kind::ContainerCreated, severity, self.time)
        }
    }

    /// A container that policy wants watched starts unwatched: an event of its own, so that nobody has to look for it.
    fn note_missing_protection(&self) {
        let protection = &self.creation.protection;
        if !protection.intercepted && self.applied.mode != policy::Mode::Off {
            note(self.config, Some(self), "interception", &protection.reasons.join("; "));
        }
    }
}

/// Records that protection is missing. Failing to do so changes nothing: the creation's own record says the same.
fn note(config: &Config, case: Option<&Case<'_>>, what: &str, reason: &str) {
    let mut event = subject::event(config, Kind::ProtectionDegraded, Severity::High, subject::now());
    event.container = case.map(|case| case.subject.workload.container.clone());
    event.policy = case.map(|case| case.applied.reference("onUnprotected"));
    event.protection = Some(ProtectionChange {
        what: what.to_owned(),
        reason: reason.to_owned(),
        remedy: Some("run acctguard doctor".to_owned()),
    });
    if let Err(error) = record::record(config, &Request::Record(Box::new(event.clone())), &event) {
        eprintln!("acctguard-hook: {what}: {reason}; and that could not be recorded: {}", chain(&error));
    }
}

fn listener(config: &Config) -> String {
    config.listener_socket().display().to_string()
}

/// The container's root file system on the host: `root.path`, relative to the bundle (config.md, "Root"), else what crun says.
fn root_directory(subject: &Subject, state: &State) -> PathBuf {
    let given = subject.spec.pointer("/root/path").and_then(serde_json::Value::as_str).map(PathBuf::from);
    let path = given.or_else(|| state.root.clone()).unwrap_or_else(|| PathBuf::from("rootfs"));
    subject.bundle.join(path)
}

/// The accounts below `root` and a line for each database that cannot be read, or one line why none can be told.
fn accounts(root: &Path, databases: &[DatabasePath]) -> Result<(AccountBaseline, Vec<String>), String> {
    let failed = |cause: String| format!("the accounts of root {} cannot be read: {cause}", root.display());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(root, flags, Mode::empty()).map_err(|errno| failed(errno.to_string()))?;
    let databases = baseline::snapshot(directory.as_fd(), databases);
    let unreadable = databases.unreadable().map(|(path, reason)| failed(format!("{path}: {reason}"))).collect();
    Ok((databases.baseline(), unreadable))
}

fn source(workload: &Workload) -> Source {
    let container = &workload.container;
    let kubernetes = container.pod.is_some() && matches!(container.engine.as_str(), "containerd" | "cri-o");
    Source { engine: container.engine.clone(), control_plane: kubernetes.then(|| "kubernetes".to_owned()) }
}

/// Namespace and name of the pod; without one, containerd's own namespace out of its bundle path
/// (`…/io.containerd.runtime.v2.task/<namespace>/<id>`) and the container's name.
fn target(workload: &Workload, bundle: &Path) -> CreationTarget {
    let container = &workload.container;
    let mut parts = bundle.components().rev().skip(1).map(|part| part.as_os_str().to_string_lossy());
    let engine_namespace = parts.next().filter(|_| {
        container.engine == "containerd" && parts.next().is_some_and(|part| part.starts_with("io.containerd.runtime."))
    });
    CreationTarget {
        namespace: container.pod.as_ref().map(|pod| pod.namespace.clone()).or(engine_namespace.map(Into::into)),
        service: container.pod.as_ref().map(|pod| pod.name.clone()).or_else(|| container.name.clone()),
        role: identity::role(&workload.annotations).map(|role| {
            match role {
                Role::Sandbox => "sandbox",
                Role::Container => "container",
            }
            .to_owned()
        }),
    }
}

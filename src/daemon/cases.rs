//! Opens and closes the cases of containers: root directory, baseline, thread, watches.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::CWD;
use rustix::fs::Mode;
use rustix::fs::OFlags;

use crate::daemon::baselines::Baselines;
use crate::daemon::baselines::Place;
use crate::daemon::case_thread::OpenCase;
use crate::daemon::change_watch::ChangeWatch;
use crate::daemon::change_watch::directory_of;
use crate::daemon::grants::Grants;
use crate::daemon::journal::Journal;
use crate::daemon::registry::Guarded;
use crate::kernel::foreign_root;
use crate::model::diagnostic::chain;
use crate::model::event::Host;
use crate::model::event::Kind;
use crate::model::event::ProtectionChange;
use crate::model::event::Severity;
use crate::model::policy::Applied;
use crate::model::workload::ContainerId;
use crate::supervise::case::Case;
use crate::supervise::case::Identity;
use crate::supervise::case::Untold;
use crate::supervise::container_root::ContainerRoot;
use crate::supervise::moment::Moment;
use crate::supervise::neighbourhood::Neighbourhood;

/// How long the kernel may take to send a record of its audit log: a thread of its own does so as soon as it runs.
const AUDIT_LOG_DELAY: Duration = Duration::from_millis(50);

/// How long the watches of one container may hold up another policy's coming into force for the next.
const WATCH_PATIENCE: Duration = Duration::from_millis(250);

/// Everything that cases need from the daemon.
#[derive(Debug)]
pub struct Cases {
    journal: Arc<Journal>,
    host: Host,
    /// An empty directory: the root of a case whose container's root cannot be read.
    nowhere: std::path::PathBuf,
    baselines: Baselines,
    /// What sealed workloads were granted.
    pub grants: Grants,
    neighbourhood: Arc<Neighbourhood>,
    watch: OnceLock<Option<Arc<ChangeWatch>>>,
    /// Whether Landlock's refusals are being read.
    refusals_are_read: AtomicBool,
}

impl Cases {
    /// For containers of `host`; in `run_dir` an empty directory is made, and what the next worker needs is kept.
    #[must_use]
    pub fn new(journal: Arc<Journal>, host: Host, run_dir: &Path) -> Self {
        Self {
            journal,
            host,
            nowhere: run_dir.join("empty"),
            baselines: Baselines::new(run_dir.join("baselines")),
            grants: Grants::new(run_dir.join("grants")),
            neighbourhood: Arc::default(),
            watch: OnceLock::new(),
            refusals_are_read: AtomicBool::new(false),
        }
    }

    /// The case of `guarded`, whose listener has come: its init, or the process `pid`, is in the container's own root by now.
    /// A case that is not open yet begins there; one that is goes on there when `own` says that this is the container's own
    /// listener. The directories of its databases are watched when this returns, and no call that the listener tells of is answered
    /// before: nothing that the workload does precedes the watches, for its first execve is such a call.
    ///
    /// # Errors
    /// No root at all can be opened, or no thread made: the daemon itself is short of something.
    pub fn enter(&self, guarded: &Guarded, pid: u32, own: bool) -> std::io::Result<Arc<OpenCase>> {
        let record = guarded.record();
        let root = ContainerRoot::of_process(record.pid).or_else(|| ContainerRoot::of_process(pid)).map(Arc::new);
        let open = match (guarded.open_case(), root) {
            (Some(open), Some(root)) if own => {
                open.case.replace_root(root, record.pid);
                open
            }
            (Some(open), _) if !own => return Ok(open),
            (Some(open), _) => open,
            (None, root) => self.begin(guarded, root.or_else(|| root_at(Path::new(&record.root)).ok()))?,
        };
        if let Some(watch) = self.watch() {
            watch.watch(&open);
        }
        open.keep_databases();
        Ok(open)
    }

    /// Begins a case, with the databases as an earlier worker told them last where it kept them. Without a root to read databases below it begins with none, so that its calls are answered all the same.
    fn begin(&self, guarded: &Guarded, root: Option<Arc<ContainerRoot>>) -> std::io::Result<Arc<OpenCase>> {
        let record = guarded.record();
        let identity = Identity {
            host: self.host.clone(),
            container: record.workload.container,
            init: record.pid,
            policy: guarded.policy.clone(),
        };
        let root = match root {
            Some(root) => root,
            None => {
                let _ = std::fs::create_dir(&self.nowhere);
                root_at(&self.nowhere)?
            }
        };
        let place = self.baselines.place(guarded);
        if let Some((place, untold)) = place.as_ref().map(|place| (place, place.read_untold()))
            && untold != Untold::default()
        {
            self.tell_untold(&identity, untold);
            place.forget_untold();
        }
        let case = match place.as_ref().and_then(Place::read) {
            Some(told) => Case::go_on(identity, root, told),
            None => Case::new(identity, root),
        };
        let case = case.among(&self.neighbourhood);
        let open = OpenCase::start(case, Arc::clone(&self.journal), guarded.id.as_str(), place)?;
        let kept = guarded.set_open_case(Arc::clone(&open));
        if !Arc::ptr_eq(&kept, &open) {
            open.end();
        }
        // its engine may have told more meanwhile
        kept.case.set_container(guarded.record().workload.container);
        Ok(kept)
    }

    /// A worker was killed in the midst of something: its changes are found by comparison, the rest is only known to have been.
    fn tell_untold(&self, identity: &Identity, Untold { attempts, refusals }: Untold) {
        let mut event = self.journal.node_event(Kind::ProtectionDegraded, Severity::Medium);
        event.container = Some(identity.container.clone());
        event.policy = Some(identity.policy.current().reference("mode"));
        event.suppressed = (attempts > 0).then_some(attempts);
        event.protection = Some(ProtectionChange {
            what: "what a worker knew is not told in full".to_owned(),
            reason: format!(
                "it ended before it told up to {attempts} repeats of attempts that are on record, and the findings of up to {refusals} acts that were refused; what was changed is told"
            ),
            remedy: Some("see in the daemon's log why its worker ended".to_owned()),
        });
        self.journal.record_or_keep(&event);
    }

    /// A case of its own for the exec session that thread `tid` is of, when that sees other directories of databases than the container: its
    /// init has gone on to other mounts, or another root. `None`, the usual: it sees the same.
    pub fn view_of(&self, guarded: &Guarded, tid: u32) -> Option<Arc<OpenCase>> {
        let of_container = guarded.open_case()?;
        let root = ContainerRoot::of_process(tid)?;
        let policy = of_container.case.policy();
        let directories: BTreeSet<String> = policy.databases.iter().map(directory_of).collect();
        let in_container = of_container.case.root();
        let object = |root: &ContainerRoot, path: &str| {
            let found = foreign_root::identify_in_root(root.as_fd(), path.as_bytes()).ok().flatten();
            found.map(|found| (found.device, found.inode))
        };
        directories.iter().find(|path| object(&root, path) != object(&in_container, path))?;
        let identity = Identity {
            host: self.host.clone(),
            container: guarded.record().workload.container,
            init: of_container.case.init(),
            policy: guarded.policy.clone(),
        };
        let case = Case::new(identity, Arc::new(root));
        let open = OpenCase::start(case, Arc::clone(&self.journal), guarded.id.as_str(), None).ok()?;
        if let Some(watch) = self.watch() {
            watch.watch(&open);
        }
        Some(open)
    }

    /// The containers with a database on one of the file systems.
    #[must_use]
    pub fn on(&self, devices: &[u64]) -> BTreeSet<ContainerId> {
        self.neighbourhood.on(devices)
    }

    /// Puts another policy in force for `guarded`; databases that it adds begin as they are, and are watched.
    pub fn replace_policy(&self, guarded: &Guarded, applied: Applied) {
        let Some(open) = guarded.open_case() else { return guarded.policy.replace(applied) };
        open.case.replace_policy(applied, Moment::now());
        open.poke();
        if let Some(watch) = self.watch() {
            // policy is put in force for all containers by one thread
            watch.watch_within(&open, WATCH_PATIENCE);
        }
    }

    /// From now on the audit log tells what Landlock refused: a case is closed only after what was refused last can have come.
    pub fn expect_refusals(&self) {
        self.refusals_are_read.store(true, Ordering::Relaxed);
    }

    /// Closes the case of `guarded`, if it is open. Everything it had to tell is recorded then, its root is let go.
    pub fn finish(&self, guarded: &Guarded) {
        let _one_at_a_time = guarded.finishing();
        if self.refusals_are_read.load(Ordering::Relaxed) && guarded.open_case().is_some() {
            std::thread::sleep(AUDIT_LOG_DELAY);
        }
        if let Some(open) = guarded.take_open_case() {
            self.close(&open);
        }
        self.baselines.forget(&guarded.id);
    }

    /// Closes a case: everything it had to tell is recorded, and what is watched for it no longer.
    pub fn close(&self, open: &Arc<OpenCase>) {
        open.end();
        // whoever sets its watches anew meanwhile sees that it was ended
        if let Some(watch) = self.watch() {
            watch.unwatch(open);
        }
    }

    fn watch(&self) -> Option<&Arc<ChangeWatch>> {
        let started = self.watch.get_or_init(|| match ChangeWatch::start() {
            Ok(watch) => Some(watch),
            Err(error) => {
                tracing::error!("changes from outside the containers are not witnessed: {}", chain(&error));
                None
            }
        });
        started.as_ref()
    }
}

fn root_at(path: &Path) -> std::io::Result<Arc<ContainerRoot>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(Arc::new(ContainerRoot::new(rustix::fs::openat(CWD, path, flags, Mode::empty())?)))
}

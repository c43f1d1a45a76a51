//! The containers that the daemon knows, and the exec sessions whose listener has not come yet. Bounded, in memory; what must
//! outlive the worker is in the store as a [`Record`].

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use serde::Deserialize;
use serde::Serialize;
use uuid::Uuid;

use crate::control::ContainerStatus;
use crate::daemon::case_thread::OpenCase;
use crate::daemon::namesakes;
use crate::daemon::namesakes::Aliases;
use crate::kernel::pidfd;
use crate::kernel::process;
use crate::kernel::process::Facts;
use crate::model::event::Container;
use crate::model::event::Session;
use crate::model::policy::Applied;
use crate::model::policy::Ground;
use crate::model::workload::ContainerId;
use crate::model::workload::Workload;
use crate::store::StoredContainer;
use crate::supervise::broker::quota::Quota;
use crate::supervise::live_policy::LivePolicy;

/// Most containers at one time.
const MAX_CONTAINERS: usize = 4096;
/// Most exec sessions that wait for their listener; the oldest give way.
const MAX_PENDING_EXECS: usize = 1024;
/// Most of one container, so that none can push out another's; its oldest give way.
const MAX_PENDING_EXECS_OF_ONE: usize = 64;
/// An exec whose container is not intercepted never gets a listener.
const PENDING_EXEC_LIFETIME: Duration = Duration::from_secs(600);
/// How far up from a peer its exec registration is looked for.
const MAX_ANCESTRY: usize = 8;

/// What the store keeps about a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Who it is.
    pub workload: Workload,
    /// What the daemon calls it where another container has its id ([`namesakes`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<ContainerId>,
    /// Bundle directory on the host.
    pub bundle: String,
    /// Pid of its init on the host, 0 when not known.
    pub pid: u32,
    /// Start time of that process, so that a recycled pid is not taken for it.
    #[serde(default)]
    pub start_time_ticks: Option<u64>,
    /// Root file system on the host.
    pub root: String,
    /// Whether its calls are intercepted.
    pub intercepted: bool,
    /// On which ground its own process stands; a record of a daemon that knew no other is by the listener.
    #[serde(default = "listener_ground")]
    pub ground: Ground,
    /// Boot during which it was registered: no container lives through another.
    #[serde(default)]
    pub boot_id: Option<String>,
    /// Id of its `container.created` event, as long as its engine may tell more of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<Uuid>,
}

const fn listener_ground() -> Ground {
    Ground::Notify
}

impl Record {
    /// By what the daemon knows it.
    #[must_use]
    pub fn key(&self) -> &ContainerId {
        self.alias.as_ref().unwrap_or(&self.workload.container.id)
    }

    /// What the store keeps.
    #[must_use]
    pub fn stored(&self) -> StoredContainer {
        let id = self.key().as_str().to_owned();
        // a Record has string keys only, so it always has a JSON form
        StoredContainer { id, json: serde_json::to_string(self).unwrap_or_default() }
    }

    /// Whether its init still runs; a zombie does not. `None` when that cannot be told.
    #[must_use]
    pub fn is_alive(&self) -> Option<bool> {
        let start_time_ticks = self.start_time_ticks?;
        // opened first: what the number means afterwards is the same process or none
        let Ok(process) = pidfd::open(self.pid) else { return Some(false) };
        let same = start_time(self.pid) == Some(start_time_ticks);
        Some(same && process.still_alive().unwrap_or(true))
    }
}

/// Start time of process `pid` in clock ticks; `None` when there is none.
#[must_use]
pub fn start_time(pid: u32) -> Option<u64> {
    if pid == 0 { None } else { Facts::read(pid).ok().map(|facts| facts.start_time_ticks) }
}

/// How a container's end is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It runs, as far as is known.
    Running,
    /// Its exit is recorded.
    Recorded,
}

/// A container.
#[derive(Debug)]
pub struct Guarded {
    /// By what the daemon knows it: its id, unless another container has that.
    pub id: ContainerId,
    /// When it was registered in this process.
    pub since: Instant,
    record: Mutex<Record>,
    /// Policy in force.
    pub policy: LivePolicy,
    /// What the broker may use for it.
    pub quota: Arc<Quota>,
    open_case: Mutex<Option<Arc<OpenCase>>>,
    ending: Mutex<Ending>,
    ended: Condvar,
    /// Another container has its id. Changed under `ending`.
    replaced: AtomicBool,
    listeners: Mutex<u32>,
    own_listener_ended: AtomicBool,
    finishing: Mutex<()>,
    concluding: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Guarded {
    fn new(record: Record, applied: Applied) -> Self {
        Self {
            id: record.key().clone(),
            since: Instant::now(),
            record: Mutex::new(record),
            policy: LivePolicy::new(applied),
            quota: Arc::default(),
            open_case: Mutex::new(None),
            ending: Mutex::new(Ending::Running),
            ended: Condvar::new(),
            replaced: AtomicBool::new(false),
            listeners: Mutex::new(0),
            own_listener_ended: AtomicBool::new(false),
            finishing: Mutex::new(()),
            concluding: AtomicBool::new(false),
        }
    }

    /// Held while its case is closed: whoever records its exit waits until everything before it is told.
    pub fn finishing(&self) -> MutexGuard<'_, ()> {
        lock(&self.finishing)
    }

    /// The caller wants to conclude it. False while somebody else is at it.
    pub fn begin_concluding(&self) -> bool {
        !self.concluding.swap(true, Ordering::AcqRel)
    }

    /// The caller has concluded it, or failed.
    pub fn has_concluded(&self) {
        self.concluding.store(false, Ordering::Release);
    }

    /// What the store keeps.
    #[must_use]
    pub fn record(&self) -> Record {
        lock(&self.record).clone()
    }

    /// Learns the pid of its init.
    pub fn set_init(&self, pid: u32) {
        let mut record = lock(&self.record);
        record.pid = pid;
        record.start_time_ticks = start_time(pid);
    }

    /// Another container has its id from now on: what the store keeps under that is the other's.
    pub fn give_place(&self) {
        let _until_told = lock(&self.ending);
        self.replaced.store(true, Ordering::Release);
    }

    /// Learns what its engine told late. `tell` gets what the store is to keep, `None` where that is not its own any more; neither its end nor
    /// another container of its id comes between.
    pub fn complete(&self, container: Container, tell: impl FnOnce(Option<Record>)) {
        let record = {
            let mut record = lock(&self.record);
            record.workload.container = container;
            record.incomplete = None;
            record.clone()
        };
        let ending = lock(&self.ending);
        let is_kept = *ending == Ending::Running && !self.replaced.load(Ordering::Acquire);
        tell(is_kept.then_some(record));
    }

    /// The case in progress.
    #[must_use]
    pub fn open_case(&self) -> Option<Arc<OpenCase>> {
        lock(&self.open_case).clone()
    }

    /// Puts a case in progress, unless there is one: that one is returned either way.
    #[must_use]
    pub fn set_open_case(&self, open_case: Arc<OpenCase>) -> Arc<OpenCase> {
        Arc::clone(lock(&self.open_case).get_or_insert(open_case))
    }

    /// Takes the case away, to close it.
    #[must_use]
    pub fn take_open_case(&self) -> Option<Arc<OpenCase>> {
        lock(&self.open_case).take()
    }

    /// One more listener is served.
    pub fn add_listener(&self) {
        let mut listeners = lock(&self.listeners);
        *listeners = listeners.saturating_add(1);
    }

    /// One listener has ended. Returns whether it was the last.
    pub fn remove_listener(&self) -> bool {
        let mut listeners = lock(&self.listeners);
        *listeners = listeners.saturating_sub(1);
        *listeners == 0
    }

    /// The listener of the container's own process tree has ended: nobody of it lives any more.
    pub fn note_own_listener_ended(&self) {
        self.own_listener_ended.store(true, Ordering::Release);
    }

    /// Whether the container has ended, as far as its listeners and its init tell.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.own_listener_ended.load(Ordering::Acquire) || self.record().is_alive() == Some(false)
    }

    /// Whether it runs, as far as its listeners and its init tell.
    #[must_use]
    pub fn runs(&self) -> bool {
        let is_recorded = *lock(&self.ending) == Ending::Recorded;
        !is_recorded && !self.has_ended() && (self.listeners() > 0 || self.record().is_alive() == Some(true))
    }

    /// Listeners being served.
    #[must_use]
    pub fn listeners(&self) -> u32 {
        *lock(&self.listeners)
    }

    /// Notes that the exit is recorded. Returns whether it was not before: only then may it be.
    pub fn claim_exit(&self) -> bool {
        let before = std::mem::replace(&mut *lock(&self.ending), Ending::Recorded);
        self.ended.notify_all();
        before == Ending::Running
    }

    /// Waits until the exit is recorded or `patience` is over. Returns whether it is recorded.
    #[must_use]
    pub fn wait_for_exit(&self, patience: Duration) -> bool {
        let waiting = |ending: &mut Ending| *ending == Ending::Running;
        let ending = lock(&self.ending);
        let (ending, _) =
            self.ended.wait_timeout_while(ending, patience, waiting).unwrap_or_else(PoisonError::into_inner);
        *ending == Ending::Recorded
    }

    /// Takes back [`Guarded::claim_exit`] after the record failed.
    pub fn disclaim_exit(&self) {
        *lock(&self.ending) = Ending::Running;
    }

    /// For `acctguard containers`.
    #[must_use]
    pub fn status(&self) -> ContainerStatus {
        let record = self.record();
        let applied = self.policy.current();
        let counts = self.open_case().map(|open| open.case.counts()).unwrap_or_default();
        ContainerStatus {
            workload: record.workload,
            pid: record.pid,
            policy: applied.name.clone(),
            mode: applied.mode.as_str().to_owned(),
            intercepted: record.intercepted,
            listeners: self.listeners(),
            attempts: counts.attempts,
            blocked: counts.blocked,
        }
    }
}

/// An exec session whose listener is expected.
#[derive(Debug, Clone)]
pub struct PendingExec {
    /// Into which container, by what the daemon knows it.
    pub container: ContainerId,
    /// Its own id.
    pub id: ContainerId,
    /// Pid of the runtime.
    pub pid: u32,
    /// Its start time.
    pub start_time_ticks: u64,
    /// On which ground its processes stand.
    pub ground: Ground,
    /// Whether its launcher makes a listener of its own.
    pub launcher_listens: bool,
    /// Id of the recorded `container.exec` event.
    pub event: Uuid,
    /// The session.
    pub session: Session,
    /// When it was announced.
    pub since: Instant,
}

#[derive(Debug, Default)]
struct Inner {
    containers: BTreeMap<ContainerId, Arc<Guarded>>,
    aliases: Aliases,
    execs: VecDeque<PendingExec>,
    /// Exec sessions that were taken and whose launchers will deliver again: their events, and into which containers.
    launched: VecDeque<(Uuid, ContainerId)>,
}

/// All containers.
#[derive(Debug, Default)]
pub struct Registry {
    inner: Mutex<Inner>,
}

/// No room for another container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{MAX_CONTAINERS} containers are registered already; see acctguard containers for those that ended without their poststop hook"
)]
pub struct Full;

impl Registry {
    /// Adds a container, in place of an earlier one of the same id, which is returned; but beside one that runs and is another
    /// ([`namesakes::alias`]).
    ///
    /// # Errors
    /// [`Full`].
    pub fn insert(&self, mut record: Record, applied: Applied) -> Result<(Arc<Guarded>, Option<Arc<Guarded>>), Full> {
        let mut inner = lock(&self.inner);
        if let Some(present) = inner.containers.get(record.key()) {
            record.alias = namesakes::alias(&record, present).or(record.alias);
        }
        let guarded = Arc::new(Guarded::new(record.clone(), applied));
        if inner.containers.len() >= MAX_CONTAINERS && !inner.containers.contains_key(&guarded.id) {
            return Err(Full);
        }
        inner.aliases.add(&record);
        let earlier = inner.containers.insert(guarded.id.clone(), Arc::clone(&guarded));
        Ok((guarded, earlier))
    }

    /// The container that the daemon knows by this id.
    #[must_use]
    pub fn get(&self, id: &ContainerId) -> Option<Arc<Guarded>> {
        lock(&self.inner).containers.get(id).cloned()
    }

    /// The containers whose own id this is: one, but for [`namesakes`].
    #[must_use]
    pub fn all_of(&self, id: &ContainerId) -> Vec<Arc<Guarded>> {
        let inner = lock(&self.inner);
        let keys = std::iter::once(id).chain(inner.aliases.of(id));
        keys.filter_map(|key| inner.containers.get(key)).cloned().collect()
    }

    /// Forgets `guarded`, unless another container has its id by now.
    pub fn remove(&self, guarded: &Arc<Guarded>) {
        let mut inner = lock(&self.inner);
        if inner.containers.get(&guarded.id).is_some_and(|present| Arc::ptr_eq(present, guarded)) {
            inner.containers.remove(&guarded.id);
            inner.aliases.remove(&guarded.record());
        }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Guarded>> {
        lock(&self.inner).containers.values().cloned().collect()
    }

    /// Expects the listener of an exec session.
    pub fn expect_exec(&self, exec: PendingExec) {
        let mut inner = lock(&self.inner);
        // one that is announced again, because nobody answered the first time, is the same
        inner.execs.retain(|pending| pending.since.elapsed() < PENDING_EXEC_LIFETIME && pending.event != exec.event);
        let is_of_same = |pending: &PendingExec| pending.container == exec.container;
        if inner.execs.iter().filter(|pending| is_of_same(pending)).count() >= MAX_PENDING_EXECS_OF_ONE
            && let Some(oldest) = inner.execs.iter().position(is_of_same)
        {
            inner.execs.remove(oldest);
        }
        if inner.execs.len() >= MAX_PENDING_EXECS {
            inner.execs.pop_front();
        }
        inner.execs.push_back(exec);
    }

    /// Into which container the exec session of that recorded event goes, whose launcher delivers its own listener.
    #[must_use]
    pub fn container_of_exec(&self, event: Uuid) -> Option<ContainerId> {
        let mut inner = lock(&self.inner);
        if let Some(position) = inner.launched.iter().position(|(launched, _)| *launched == event) {
            return inner.launched.remove(position).map(|(_, container)| container);
        }
        // under a runtime that gives exec sessions no listener, none came that would have been taken
        let position = inner.execs.iter().position(|pending| pending.event == event)?;
        inner.execs.remove(position).map(|pending| pending.container)
    }

    /// Takes the exec session into a container of that id that the process `peer`, or one it descends from, announced.
    #[must_use]
    pub fn take_exec(&self, id: &ContainerId, peer: u32) -> Option<PendingExec> {
        let ancestry = process::ancestry(peer, MAX_ANCESTRY);
        let mut inner = lock(&self.inner);
        let position = ancestry.iter().find_map(|facts| {
            inner.execs.iter().position(|pending| {
                pending.id == *id && pending.pid == facts.pid && pending.start_time_ticks == facts.start_time_ticks
            })
        })?;
        let exec = inner.execs.remove(position)?;
        if exec.launcher_listens {
            if inner.launched.len() >= MAX_PENDING_EXECS {
                inner.launched.pop_front();
            }
            inner.launched.push_back((exec.event, exec.container.clone()));
        }
        Some(exec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> Record {
        let container = Container {
            id: ContainerId::new(id).unwrap(),
            name: None,
            image: None,
            engine: "none".to_owned(),
            runtime: None,
            pod: None,
            started_at: None,
        };
        Record {
            workload: Workload { container, annotations: BTreeMap::new(), cluster: None, privileged: false },
            alias: None,
            bundle: "/bundle".to_owned(),
            pid: std::process::id(),
            start_time_ticks: start_time(std::process::id()),
            root: "/bundle/rootfs".to_owned(),
            intercepted: true,
            ground: Ground::Notify,
            boot_id: None,
            incomplete: None,
        }
    }

    #[test]
    fn a_container_of_the_same_id_takes_the_place_and_the_old_one_cannot_remove_it() {
        let registry = Registry::default();
        let (first, none) = registry.insert(record("c1"), Applied::built_in()).unwrap();
        assert!(none.is_none());
        let (second, earlier) = registry.insert(record("c1"), Applied::built_in()).unwrap();
        assert!(Arc::ptr_eq(&earlier.unwrap(), &first));
        registry.remove(&first);
        assert!(Arc::ptr_eq(&registry.get(&second.id).unwrap(), &second));
        registry.remove(&second);
        assert!(registry.get(&second.id).is_none());
    }

    #[test]
    fn the_number_of_containers_is_bounded() {
        let registry = Registry::default();
        for number in 0..MAX_CONTAINERS {
            registry.insert(record(&format!("c{number}")), Applied::built_in()).unwrap();
        }
        assert_eq!(registry.insert(record("one-more"), Applied::built_in()).unwrap_err(), Full);
        assert!(registry.insert(record("c0"), Applied::built_in()).is_ok());
    }

    #[test]
    fn an_exec_is_found_by_its_runtime_or_a_descendant_once_and_never_by_a_recycled_pid() {
        let registry = Registry::default();
        let id = ContainerId::new("c1").unwrap();
        let pid = std::process::id();
        let exec = PendingExec {
            container: id.clone(),
            id: id.clone(),
            pid,
            start_time_ticks: start_time(pid).unwrap(),
            ground: Ground::Broker,
            launcher_listens: false,
            event: Uuid::nil(),
            session: Session::default(),
            since: Instant::now(),
        };
        registry.expect_exec(PendingExec { start_time_ticks: 1, ..exec.clone() });
        assert!(registry.take_exec(&id, pid).is_none());
        registry.expect_exec(exec);
        assert!(registry.take_exec(&ContainerId::new("c2").unwrap(), pid).is_none());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(registry.take_exec(&id, child.id()).is_some());
        assert!(registry.take_exec(&id, pid).is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn execs_of_one_container_push_out_none_of_another() {
        let registry = Registry::default();
        let exec = |container: &str| PendingExec {
            container: ContainerId::new(container).unwrap(),
            id: ContainerId::new(container).unwrap(),
            pid: std::process::id(),
            start_time_ticks: start_time(std::process::id()).unwrap(),
            ground: Ground::Broker,
            launcher_listens: false,
            event: Uuid::now_v7(),
            session: Session::default(),
            since: Instant::now(),
        };
        registry.expect_exec(exec("quiet"));
        for _ in 0..2 * MAX_PENDING_EXECS {
            registry.expect_exec(exec("busy"));
        }
        let expected = |id: &str| registry.take_exec(&ContainerId::new(id).unwrap(), std::process::id()).is_some();
        assert!(expected("quiet"));
        assert_eq!(
            std::iter::repeat_with(|| expected("busy")).take_while(|found| *found).count(),
            MAX_PENDING_EXECS_OF_ONE
        );
    }

    #[test]
    fn an_exit_is_recorded_once_and_a_recycled_pid_is_not_alive() {
        let (guarded, _) = Registry::default().insert(record("c1"), Applied::built_in()).unwrap();
        assert!(guarded.claim_exit());
        assert!(!guarded.claim_exit());
        guarded.disclaim_exit();
        assert!(guarded.claim_exit());
        assert_eq!(record("c1").is_alive(), Some(true));
        assert_eq!(Record { start_time_ticks: Some(1), ..record("c1") }.is_alive(), Some(false));
        assert_eq!(Record { start_time_ticks: None, ..record("c1") }.is_alive(), None);
    }
}

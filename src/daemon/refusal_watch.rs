//! The witness of Landlock: one thread for all containers reads the kernel's audit log, and tells each refusal to the case of the
//! container that it happened in.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::sync::mpsc::TrySendError;
use std::time::Duration;
use std::time::Instant;

use crate::config::KernelAudit;
use crate::daemon::case_thread::OpenCase;
use crate::daemon::registry::Guarded;
use crate::daemon::service::Service;
use crate::kernel::audit_netlink::AuditControl;
use crate::kernel::audit_netlink::AuditError;
use crate::kernel::audit_netlink::AuditLog;
use crate::kernel::audit_netlink::Refusal;
use crate::kernel::process;
use crate::model::diagnostic::chain;
use crate::model::event::Event;
use crate::model::event::Kind;
use crate::model::event::ProtectionChange;
use crate::model::event::Severity;
use crate::model::workload::ContainerId;
use crate::supervise::Recorder;
use crate::supervise::moment::Moment;

/// How often the thread looks whether it is to end.
const WAIT: Duration = Duration::from_secs(1);
/// Pause after the log could not be read.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// Losses and refusals outside containers are logged at most this often.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Most domains whose container is remembered.
const MAX_DOMAINS: usize = 65_536;
/// With so many, and whenever they have doubled since, those of containers that have ended are forgotten.
const DOMAINS_KEPT: usize = 1024;
/// How far up a process's ancestors its container's init is looked for.
const MAX_ANCESTORS: usize = 64;
/// Most refusals of one container that wait to be looked at.
const LANE_LENGTH: usize = 1024;
/// After so long without any its thread ends.
const LANE_LIFETIME: Duration = Duration::from_secs(5);
const STACK_BYTES: usize = 512 * 1024;

/// Reads until the worker is to end. Without the log, or with auditing off, one line says so: everything else goes on.
pub fn run(service: &Service) {
    let mut log = match AuditLog::join() {
        Ok(log) => log,
        Err(error) => {
            tracing::warn!("what Landlock refuses is not witnessed: {}", chain(&error));
            return;
        }
    };
    if see_to_auditing(service.config.kernel_audit) {
        service.cases.expect_refusals();
    }
    let mut watch = RefusalWatch {
        service,
        domains: HashMap::new(),
        domains_kept: 0,
        lanes: HashMap::new(),
        lost: Told::default(),
        foreign: Told::default(),
    };
    while !service.stopping.load(Ordering::Acquire) {
        watch.forget_ended();
        match log.read(WAIT) {
            Ok(refusals) => {
                if !refusals.is_empty() {
                    service.cases.expect_refusals();
                }
                refusals.iter().for_each(|refusal| watch.tell(refusal));
            }
            Err(error @ AuditError::Overflow) => watch.lost.log(|times| {
                tracing::warn!("{} ({times} times)", chain(&error));
            }),
            Err(error) => {
                tracing::error!("{}", chain(&error));
                std::thread::sleep(FAILURE_PAUSE);
            }
        }
    }
}

/// Switches kernel auditing on where it is off and the configuration lets us. Whether it is on then, as far as can be told.
fn see_to_auditing(choice: KernelAudit) -> bool {
    let control = AuditControl::open();
    let status = control
        .as_ref()
        .map_err(|error| chain(error))
        .and_then(|control| control.status().map_err(|error| chain(&error)).map(|status| (control, status)));
    match status {
        Ok((_, status)) if status.enabled => true,
        Ok((_, _)) if choice == KernelAudit::Leave => {
            tracing::warn!(
                "what Landlock refuses is not witnessed while kernel auditing is off; the configuration leaves it as it is"
            );
            false
        }
        Ok((control, status)) => match control.switch_on() {
            Ok(()) => {
                let taken = if status.has_daemon {
                    "the audit daemon takes its records"
                } else {
                    "some of its records go to the kernel log"
                };
                tracing::info!("kernel auditing was off and is on now, without rules; {taken}");
                true
            }
            Err(error) => {
                tracing::warn!("what Landlock refuses is not witnessed: {}", chain(&error));
                false
            }
        },
        Err(reason) => {
            tracing::warn!(
                "what Landlock refuses is witnessed only if kernel auditing is on, which cannot be told: {reason}"
            );
            true
        }
    }
}

/// Something that is logged now and then, with how often it happened.
#[derive(Default)]
struct Told {
    times: u64,
    last: Option<Instant>,
}

impl Told {
    fn log(&mut self, write: impl FnOnce(u64)) {
        self.times += 1;
        if self.last.is_none_or(|last| last.elapsed() >= LOG_INTERVAL) {
            write(std::mem::take(&mut self.times));
            self.last = Some(Instant::now());
        }
    }
}

/// What one container was refused waits here for a thread of its own, which looks at its databases: their file systems may hang. It
/// ends when nothing comes for a while.
struct Lane {
    sender: SyncSender<(Arc<OpenCase>, Refusal)>,
    state: Arc<Mutex<LaneState>>,
}

#[derive(Default)]
struct LaneState {
    ended: bool,
    /// What found no room.
    missed: Told,
}

impl Lane {
    fn begin() -> Self {
        let (sender, receiver) = std::sync::mpsc::sync_channel::<(Arc<OpenCase>, Refusal)>(LANE_LENGTH);
        let state = Arc::new(Mutex::new(LaneState::default()));
        let of_thread = Arc::clone(&state);
        let thread = std::thread::Builder::new().name("refusals".to_owned()).stack_size(STACK_BYTES);
        let spawned = thread.spawn(move || {
            loop {
                let next = receiver.recv_timeout(LANE_LIFETIME).ok().or_else(|| {
                    // nothing comes between this look and the end
                    let mut state = of_thread.lock().unwrap_or_else(PoisonError::into_inner);
                    let last = receiver.try_recv().ok();
                    state.ended = last.is_none();
                    last
                });
                let Some((open, refusal)) = next else { return };
                if let Some(event) = open.case.note_refusal(&refusal, Moment::now()) {
                    open.record_or_keep(event);
                }
                open.poke();
            }
        });
        if let Err(error) = spawned {
            tracing::error!("cannot make a thread for refusals: {error}");
        }
        Self { sender, state }
    }

    fn state(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False when its thread has ended. What finds no room is told as a number.
    fn takes(&self, open: &Arc<OpenCase>, refusal: &Refusal) -> bool {
        let mut state = self.state();
        if state.ended {
            return false;
        }
        match self.sender.try_send((Arc::clone(open), refusal.clone())) {
            Ok(()) => true,
            Err(TrySendError::Disconnected(_)) => false,
            Err(TrySendError::Full(_)) => {
                state.missed.log(|times| open.record_or_keep(missed(open, times)));
                true
            }
        }
    }
}

/// The event that tells how many refusals of a container were not looked at.
fn missed(open: &OpenCase, times: u64) -> Event {
    let mut event = open.case.event(Kind::ProtectionDegraded, Severity::High, Moment::now());
    event.protection = Some(ProtectionChange {
        what: "what Landlock refuses is not looked at".to_owned(),
        reason: format!("more was refused than could be looked at: {LANE_LENGTH} refusals wait"),
        remedy: Some("find the process that tries again and again, or the mount that hangs".to_owned()),
    });
    event.suppressed = Some(times);
    event
}

struct RefusalWatch<'a> {
    service: &'a Service,
    domains: HashMap<u64, ContainerId>,
    /// How many they were when those of containers that had ended were forgotten last.
    domains_kept: usize,
    lanes: HashMap<ContainerId, Lane>,
    lost: Told,
    foreign: Told,
}

impl RefusalWatch<'_> {
    /// Lets go of what was for containers that have ended: a lane has room for all that may wait in it.
    fn forget_ended(&mut self) {
        self.lanes.retain(|_, lane| !lane.state().ended);
        if self.domains.len() >= self.domains_kept.saturating_mul(2).max(DOMAINS_KEPT) {
            self.domains.retain(|_, id| self.service.registry.get(id).is_some());
            self.domains_kept = self.domains.len();
        }
    }

    fn tell(&mut self, refusal: &Refusal) {
        let Some(guarded) = self.container_of(refusal) else {
            self.foreign
                .log(|times| tracing::debug!(domain = refusal.domain, times, "a refusal in no guarded container"));
            return;
        };
        let Some(open) = guarded.open_case() else { return };
        let is_here = self.lanes.get(&guarded.id).is_some_and(|lane| lane.takes(&open, refusal));
        if !is_here {
            let lane = Lane::begin();
            lane.takes(&open, refusal);
            self.lanes.insert(guarded.id.clone(), lane);
        }
    }

    /// Whose domain it is: the container for which it was found before, of the process that was refused, or of the one that made it.
    fn container_of(&mut self, refusal: &Refusal) -> Option<Arc<Guarded>> {
        if let Some(known) = self.domains.get(&refusal.domain).and_then(|id| self.service.registry.get(id)) {
            return Some(known);
        }
        let caller = refusal.caller.as_ref();
        let pids = [caller.map(|caller| caller.pid), caller.map(|caller| caller.parent), refusal.maker];
        let all = self.service.registry.all();
        let found = pids.into_iter().flatten().filter(|pid| *pid > 1).find_map(|pid| container_with(&all, pid))?;
        if self.domains.len() >= MAX_DOMAINS {
            self.domains.clear();
        }
        self.domains.insert(refusal.domain, found.id.clone());
        Some(found)
    }
}

/// The container that process `pid` belongs to: its init, what descends from it, or what shares its mount or pid namespace.
fn container_with(all: &[Arc<Guarded>], pid: u32) -> Option<Arc<Guarded>> {
    let init_of = |guarded: &Guarded| guarded.open_case().map_or(0, |open: Arc<OpenCase>| open.case.init());
    let inits: Vec<(u32, &Arc<Guarded>)> =
        all.iter().map(|guarded| (init_of(guarded), guarded)).filter(|(init, _)| *init != 0).collect();
    if let Some((_, guarded)) = inits.iter().find(|(init, _)| *init == pid) {
        return Some(Arc::clone(guarded));
    }
    for kind in ["mnt", "pid"] {
        let Some(theirs) = process::namespace(pid, kind) else { continue };
        if Some(theirs) == process::namespace(std::process::id(), kind) {
            continue;
        }
        if let Some((_, guarded)) = inits.iter().find(|(init, _)| process::namespace(*init, kind) == Some(theirs)) {
            return Some(Arc::clone(guarded));
        }
    }
    let ancestors = process::ancestry(pid, MAX_ANCESTORS);
    let descends = |init: u32| ancestors.iter().any(|ancestor| ancestor.pid == init);
    inits.iter().find(|(init, _)| descends(*init)).map(|(_, guarded)| Arc::clone(guarded))
}

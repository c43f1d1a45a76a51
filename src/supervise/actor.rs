//! Who acts: the published [`Actor`] of a thread, and how it is related to other processes of its container.

use crate::kernel::process;
use crate::kernel::process::Facts;
use crate::kernel::process::ProcessError;
use crate::model::event::Actor;
use crate::model::event::Process;
use crate::model::redact;

/// Most ancestors looked at.
const MAX_ANCESTORS: usize = 16;

/// Most arguments shown.
const MAX_ARGUMENTS: usize = 128;

/// A process of a container that made an intercepted call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Acting {
    /// As events show it.
    pub actor: Actor,
    /// Its pid on the host and those of its ancestors up to, but without, the container's init, the nearest first.
    pub lineage: Vec<u32>,
    /// Its start time, which tells a recycled pid.
    pub start_time_ticks: u64,
}

impl Acting {
    /// Reads everything about the process of thread `tid`. `init` is the pid of the container's init on the host, 0 when unknown.
    ///
    /// # Errors
    /// [`ProcessError`] when the process is gone or `/proc` cannot be read.
    pub fn read(tid: u32, init: u32, session: Option<&str>) -> Result<Self, ProcessError> {
        let facts = Facts::read(tid)?;
        let mut ancestors = process::ancestry(facts.parent, MAX_ANCESTORS);
        ancestors.truncate(inside(&facts, &ancestors, init));
        let mut lineage = vec![facts.pid];
        lineage.extend(ancestors.iter().map(|ancestor| ancestor.pid).filter(|pid| *pid != init));
        let actor = Actor {
            pid: facts.pid,
            container_pid: facts.namespace_process_ids.last().copied(),
            exe: facts.exe.as_deref().map(redact::printable),
            argv: arguments(&facts),
            uid: facts.effective_uid,
            gid: facts.effective_gid,
            container_uid: process::uid_map(facts.pid).ok().and_then(|map| map.inside(facts.effective_uid)),
            container_gid: process::gid_map(facts.pid).ok().and_then(|map| map.inside(facts.effective_gid)),
            login_uid: facts.loginuid,
            capabilities: process::capability_names(facts.effective_capabilities),
            ancestry: ancestors.iter().map(ancestor).collect(),
            session: session.map(str::to_owned),
            container: None,
            gone: false,
        };
        Ok(Self { actor, lineage, start_time_ticks: facts.start_time_ticks })
    }

    /// A process of which nothing but its thread id is known.
    #[must_use]
    pub fn unknown(tid: u32) -> Self {
        Self { actor: Actor { pid: tid, ..Actor::default() }, lineage: vec![tid], start_time_ticks: 0 }
    }

    /// A process that had ended before it could be looked at, of which a witness tells its number.
    #[must_use]
    pub fn gone(pid: u32) -> Self {
        let mut acting = Self::unknown(pid);
        acting.actor.gone = true;
        acting
    }

    /// Shows the process as the program it is about to turn into.
    pub fn becomes(&mut self, exe: Option<&[u8]>, argv: &[String]) {
        self.actor.exe = exe.map(redact::printable);
        self.actor.argv = shown(argv);
    }

    /// The same, as events of another container show it.
    #[must_use]
    pub fn seen_by_neighbour(&self, own: &str) -> Self {
        let mut acting = self.clone();
        acting.actor.container = Some(own.to_owned());
        acting
    }

    /// Its pid on the host.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.actor.pid
    }

    /// Whether the two belong to one process tree: the same process, one above the other, or children of one parent that
    /// is not the container's init (which is never part of a lineage).
    #[must_use]
    pub fn is_related_to(&self, other: &Self) -> bool {
        let parent = |of: &Self| of.lineage.get(1).copied();
        self.lineage.contains(&other.pid())
            || other.lineage.contains(&self.pid())
            || (parent(self).is_some() && parent(self) == parent(other))
    }

    /// Whether the process still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Facts::read(self.pid()).is_ok_and(|facts| facts.start_time_ticks == self.start_time_ticks)
    }
}

/// How many of the ancestors are inside the container: up to its init, or up to the first that lives in our own mount
/// namespace (the runtime, the engine's monitor) or outside the process's pid namespace.
fn inside(facts: &Facts, ancestors: &[Facts], init: u32) -> usize {
    if facts.pid == init {
        return 0;
    }
    if let Some(position) = ancestors.iter().position(|ancestor| ancestor.pid == init) {
        return position.saturating_add(1);
    }
    let ours = process::namespace(std::process::id(), "mnt");
    let outside = |ancestor: &Facts| {
        ancestor.namespace_process_ids.len() < facts.namespace_process_ids.len()
            || process::namespace(ancestor.pid, "mnt") == ours
    };
    ancestors.iter().position(outside).unwrap_or(ancestors.len())
}

fn arguments(facts: &Facts) -> Vec<String> {
    let lossy: Vec<String> = facts.argv.iter().map(|argument| String::from_utf8_lossy(argument).into_owned()).collect();
    shown(&lossy)
}

/// Arguments as events show them: redacted, escaped, bounded.
pub fn shown(argv: &[String]) -> Vec<String> {
    redact::argv(argv).iter().take(MAX_ARGUMENTS).map(|argument| redact::printable(argument.as_bytes())).collect()
}

fn ancestor(facts: &Facts) -> Process {
    Process {
        pid: facts.pid,
        container_pid: facts.namespace_process_ids.last().copied(),
        exe: facts.exe.as_deref().map(redact::printable),
        argv: arguments(facts),
        uid: facts.effective_uid,
    }
}

//! When the databases are read though no witness tells of a change.

use std::time::Duration;

use crate::supervise::case::Case;
use crate::supervise::case::State;
use crate::supervise::incident::Act;
use crate::supervise::moment::Moment;

/// How often, while a process runs that was let open one for writing: what it writes through a mapping no witness tells before
/// the mapping ends (fanotify(7), "mmap(2)"), and on a tmpfs not even the time of modification.
const HELD_INTERVAL: Duration = Duration::from_secs(1);
/// How often, when all such processes have ended: one may have left what it opened to another.
const LEFT_INTERVAL: Duration = Duration::from_secs(15);

impl Case {
    /// In how long; `None` while nobody can have a database open for writing.
    pub(super) fn interval_left(&self, state: &State, now: Moment) -> Option<Duration> {
        if state.remembered.is_empty() {
            return None;
        }
        let mut sightings = state.remembered.iter().flat_map(Act::sightings);
        let is_held = sightings.any(|sighting| self.surroundings.is_alive(&sighting.acting));
        let interval = if is_held { HELD_INTERVAL } else { LEFT_INTERVAL };
        Some(interval.saturating_sub(now.since(state.read_at)))
    }
}

//! Writes that wait in memory for a disk that takes none: in order, bounded, with a share for each container.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use super::Row;
use super::Write;

/// What changes the state of containers finds room beyond the bound for events: a container that is not remembered would lose its policy
/// with the next worker. Its number is bounded by that of containers.
const STATE_RESERVE_BYTES: usize = 4 * 1024 * 1024;
/// What a write costs beside its text.
const OVERHEAD_BYTES: usize = 160;

#[derive(Debug)]
struct Group {
    writes: Vec<Write>,
    container: Option<String>,
    bytes: usize,
}

/// Groups of writes that belong together, oldest first.
#[derive(Debug)]
pub struct Backlog {
    groups: VecDeque<Group>,
    bytes: usize,
    max_bytes: usize,
    by_container: BTreeMap<Option<String>, usize>,
}

impl Backlog {
    /// An empty one for at most `max_bytes` of events. No container takes more than a quarter of it, so that one that does much
    /// cannot push out what others do.
    #[must_use]
    pub const fn new(max_bytes: usize) -> Self {
        Self { groups: VecDeque::new(), bytes: 0, max_bytes, by_container: BTreeMap::new() }
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// How many events wait.
    #[must_use]
    pub fn events(&self) -> usize {
        self.groups.iter().flat_map(|group| &group.writes).filter(|write| is_event(write)).count()
    }

    /// Puts `writes`, which concern `container`, behind the others. False when there was no room for their events; what they say
    /// about the state of containers is kept even then.
    pub fn keep(&mut self, writes: Vec<Write>, container: Option<&str>) -> bool {
        let container = container.map(ToOwned::to_owned);
        let bytes = size(&writes);
        let own = self.by_container.get(&container).copied().unwrap_or(0);
        let fits = self.bytes.saturating_add(bytes) <= self.max_bytes
            && own.saturating_add(bytes) <= self.max_bytes.div_euclid(4);
        if fits {
            self.push(Group { writes, container, bytes });
            return true;
        }
        let state: Vec<Write> = writes.into_iter().filter(|write| !is_event(write)).collect();
        let bytes = size(&state);
        let reserve = self.max_bytes.saturating_add(STATE_RESERVE_BYTES);
        if !state.is_empty() && self.bytes.saturating_add(bytes) <= reserve {
            self.push(Group { writes: state, container, bytes });
        }
        false
    }

    /// Puts `row` behind the others whether or not there is room: for the few events that tell of the backlog itself.
    pub fn keep_always(&mut self, row: Row) {
        let writes = vec![Write::Event(row)];
        let bytes = size(&writes);
        self.push(Group { writes, container: None, bytes });
    }

    fn push(&mut self, group: Group) {
        self.bytes = self.bytes.saturating_add(group.bytes);
        let own = self.by_container.entry(group.container.clone()).or_default();
        *own = own.saturating_add(group.bytes);
        self.groups.push_back(group);
    }

    /// The oldest groups, at most `most`: how many, and their writes.
    #[must_use]
    pub fn oldest(&self, most: usize) -> (usize, Vec<Write>) {
        let count = self.groups.len().min(most);
        (count, self.groups.iter().take(count).flat_map(|group| group.writes.iter().cloned()).collect())
    }

    /// Forgets the `count` oldest groups: they are on disk.
    pub fn forget(&mut self, count: usize) {
        for group in self.groups.drain(..count.min(self.groups.len())) {
            self.bytes = self.bytes.saturating_sub(group.bytes);
            if let Some(own) = self.by_container.get_mut(&group.container) {
                *own = own.saturating_sub(group.bytes);
            }
        }
        self.by_container.retain(|_, bytes| *bytes > 0);
    }
}

const fn is_event(write: &Write) -> bool {
    matches!(write, Write::Event(_))
}

fn size(writes: &[Write]) -> usize {
    let text = |write: &Write| match write {
        Write::Event(row) => row.json.len(),
        Write::PutContainer(container) => container.json.len(),
        Write::RemoveContainer(id) => id.len(),
        Write::Cursor { sink, .. } => sink.len(),
    };
    writes.iter().map(|write| text(write).saturating_add(OVERHEAD_BYTES)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::Event;
    use crate::model::event::EventTime;
    use crate::model::event::Host;
    use crate::model::event::Kind;
    use crate::model::event::Severity;

    fn write() -> Write {
        let time = EventTime(jiff::Timestamp::now());
        let event = Event::new(uuid::Uuid::now_v7(), time, Kind::AccountAttempt, Severity::Low, Host::default());
        Write::Event(Row::new(&event).unwrap())
    }

    fn ids(writes: &[Write]) -> Vec<String> {
        let id = |write: &Write| match write {
            Write::Event(row) => Some(row.id.clone()),
            _ => None,
        };
        writes.iter().filter_map(id).collect()
    }

    #[test]
    fn what_is_kept_comes_out_in_order_and_makes_room() {
        let writes: Vec<Write> = (0..10).map(|_| write()).collect();
        let mut backlog = Backlog::new(100 * 1024);
        for one in &writes {
            assert!(backlog.keep(vec![one.clone()], Some("c1")));
        }
        let (count, oldest) = backlog.oldest(4);
        assert_eq!((count, ids(&oldest)), (4, ids(&writes[..4])));
        backlog.forget(4);
        assert_eq!(ids(&backlog.oldest(100).1), ids(&writes[4..]));
        assert_eq!(backlog.events(), 6);
        backlog.forget(100);
        assert_eq!((backlog.is_empty(), backlog.bytes, backlog.by_container.len()), (true, 0, 0));
    }

    #[test]
    fn a_container_fills_its_share_only_and_its_state_is_kept() {
        let one = size(&[write()]);
        let mut backlog = Backlog::new(one * 40);
        let kept = (0..40).filter(|_| backlog.keep(vec![write()], Some("noisy"))).count();
        assert_eq!(kept, 10);
        assert!(backlog.keep(vec![write()], Some("quiet")));
        assert!(!backlog.keep(vec![write(), Write::RemoveContainer("noisy".to_owned())], Some("noisy")));
        let last = backlog.oldest(100).1.pop();
        assert!(matches!(last, Some(Write::RemoveContainer(id)) if id == "noisy"));
    }
}

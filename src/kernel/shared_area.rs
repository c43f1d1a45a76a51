//! Memory for notifications in flight that outlives the worker: a sealed memfd, mapped shared, divided into slots.
//!
//! A received, unanswered notification is not delivered again, but whoever has the listener may answer it by its id
//! (`shared/experiments/keeper.c`). So the kernel writes each notification straight into a [`Slot`]; should the worker die, the next one
//! opens the same memory by its descriptor, asks each slot for [`Slot::in_flight`], answers that, and clears it.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use rustix::fs::MemfdFlags;
use rustix::fs::SealFlags;

use crate::kernel::Errno;
use crate::kernel::raw::notify;
use crate::kernel::raw::slot_memory::Mapping;
use crate::kernel::raw::slot_memory::NOTIFICATION_ROOM;
use crate::kernel::raw::slot_memory::SLOT_BYTES;
use crate::kernel::raw::slot_memory::SlotMemory;
use crate::kernel::seccomp_notify::Notification;

/// Most slots in one area: 8 MiB of memory, far more listeners than one node has.
pub const MAX_SLOTS: usize = 65_536;

/// Nothing in the slot.
const STATE_EMPTY: u32 = 0;
/// The slot is zeroed and the kernel may write to it at any moment; a non-zero id means that it has.
const STATE_RECEIVING: u32 = 1;
/// A notification was received and is not known to be answered.
const STATE_IN_FLIGHT: u32 = 2;

/// Why memory for notifications could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SharedAreaError {
    /// Asked for none or too many.
    #[error("cannot make a shared area of {0} slots; ask for 1 to {MAX_SLOTS}")]
    SlotCount(usize),
    /// seccomp(2) does not tell its sizes.
    #[error("cannot ask the kernel for its notification sizes; seccomp user notification needs Linux 5.0 or later")]
    NotificationSizes(#[source] Errno),
    /// A kernel newer than this program writes larger notifications.
    #[error("this kernel's seccomp notifications have {0} bytes, slots hold {NOTIFICATION_ROOM}; update acctguard")]
    NotificationTooLarge(u16),
    /// memfd_create(2), ftruncate(2) or the seals failed.
    #[error("cannot make memory for {slots} notification slots")]
    Create {
        /// How many were asked for.
        slots: usize,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// The descriptor is not memory that [`SharedArea::create`] made.
    #[error(
        "descriptor is not a shared area of notification slots ({0}); only one that an acctguard worker made can be adopted"
    )]
    NotAnArea(&'static str),
    /// mmap(2) failed.
    #[error("cannot map {slots} notification slots")]
    Map {
        /// How many.
        slots: usize,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
}

/// The memory and its slots. Each slot is lent out once at a time in this process.
#[derive(Debug)]
pub struct SharedArea {
    memory: OwnedFd,
    mapping: Arc<Mapping>,
    lent: Arc<[AtomicBool]>,
}

impl SharedArea {
    /// Makes memory for `slot_count` slots, all empty, sealed against any change of size.
    ///
    /// # Errors
    /// [`SharedAreaError`].
    pub fn create(slot_count: usize) -> Result<Self, SharedAreaError> {
        if slot_count == 0 || slot_count > MAX_SLOTS {
            return Err(SharedAreaError::SlotCount(slot_count));
        }
        let failed = |source| SharedAreaError::Create { slots: slot_count, source };
        let memory = rustix::fs::memfd_create("acctguard-slots", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(failed)?;
        rustix::fs::ftruncate(&memory, slot_count.saturating_mul(SLOT_BYTES) as u64).map_err(failed)?;
        rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).map_err(failed)?;
        Self::map(memory, slot_count)
    }

    /// Adopts the memory of an earlier worker, with whatever is in flight in it.
    ///
    /// # Errors
    /// [`SharedAreaError::NotAnArea`] for anything that is not sealed memory of whole slots.
    pub fn from_fd(memory: OwnedFd) -> Result<Self, SharedAreaError> {
        let seals = rustix::fs::fcntl_get_seals(&memory).map_err(|_| SharedAreaError::NotAnArea("it has no seals"))?;
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err(SharedAreaError::NotAnArea("its size is not sealed"));
        }
        let status = rustix::fs::fstat(&memory).map_err(|_| SharedAreaError::NotAnArea("it cannot be examined"))?;
        let size = usize::try_from(status.st_size).unwrap_or(0);
        let slots = size.checked_div(SLOT_BYTES).unwrap_or(0);
        if slots == 0 || slots > MAX_SLOTS || slots.saturating_mul(SLOT_BYTES) != size {
            return Err(SharedAreaError::NotAnArea("its size is not that of whole slots"));
        }
        Self::map(memory, slots)
    }

    fn map(memory: OwnedFd, slots: usize) -> Result<Self, SharedAreaError> {
        let sizes = notify::notification_sizes().map_err(SharedAreaError::NotificationSizes)?;
        if usize::from(sizes.notification) > NOTIFICATION_ROOM {
            return Err(SharedAreaError::NotificationTooLarge(sizes.notification));
        }
        let mapping = Mapping::new(memory.as_fd(), slots).map_err(|source| SharedAreaError::Map { slots, source })?;
        let lent = (0..slots).map(|_| AtomicBool::new(false)).collect();
        Ok(Self { memory, mapping: Arc::new(mapping), lent })
    }

    /// How many slots there are.
    #[must_use]
    pub fn slot_count(&self) -> usize {
        self.mapping.slots()
    }

    /// Borrows slot `index`; `None` past the end or while somebody in this process has it. It is given back when dropped.
    #[must_use]
    pub fn slot(&self, index: usize) -> Option<Slot> {
        if self.lent.get(index)?.swap(true, Ordering::AcqRel) {
            return None;
        }
        let memory = SlotMemory::new(Arc::clone(&self.mapping), index)?;
        Some(Slot { memory, index, lent: Arc::clone(&self.lent) })
    }

    /// Borrows the slots of all notifications that are kept for the listener in a slot of another place, by that place. Whoever looks for a
    /// free slot has each for a moment, so they are to be borrowed before anybody does.
    #[must_use]
    pub fn kept(&self) -> BTreeMap<usize, Vec<Slot>> {
        let mut kept: BTreeMap<usize, Vec<Slot>> = BTreeMap::new();
        for slot in (0..self.slot_count()).filter_map(|index| self.slot(index)) {
            let listener = slot.in_flight().and_then(|_| slot.ledger().entry().listener);
            if let Some(listener) = listener {
                kept.entry(listener).or_default().push(slot);
            }
        }
        kept
    }

    /// Borrows any slot that nobody has and in which nothing is in flight; `None` when there is none.
    #[must_use]
    pub fn free_slot(&self) -> Option<Slot> {
        (0..self.slot_count()).filter_map(|index| self.slot(index)).find(|slot| slot.in_flight().is_none())
    }
}

impl AsFd for SharedArea {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

/// Room for one notification in a [`SharedArea`].
#[derive(Debug)]
pub struct Slot {
    memory: SlotMemory,
    index: usize,
    lent: Arc<[AtomicBool]>,
}

impl Slot {
    /// Its place in the area.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Who is at work on the notification in the slot, for whoever has the area next.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        Ledger { memory: self.memory.share() }
    }

    /// Keeps `notification`, which waits for something, while the slot that it was received in serves the next one. `entry` says who is
    /// at work on it, and the place of that slot.
    pub fn keep(&mut self, notification: &Notification, entry: Entry) {
        self.clear();
        self.memory.set_notification(&notification.to_raw());
        self.memory.set_owner(entry.to_word());
        self.memory.set_placed(Entry::placed_to_word(entry.placed));
        self.memory.set_meant(entry.meant);
        self.memory.set_outcome(entry.done.map_or(entry.begun_as, i64::cast_unsigned));
        self.memory.set_state(STATE_IN_FLIGHT);
    }

    /// The notification that was received here and not cleared since, by this worker or one before it.
    #[must_use]
    pub fn in_flight(&self) -> Option<Notification> {
        let state = self.memory.state();
        let notification = self.memory.notification();
        let received = state == STATE_IN_FLIGHT || (state == STATE_RECEIVING && notification.id != 0);
        received.then(|| Notification::from_raw(&notification))
    }

    /// Forgets the notification, once it is answered.
    pub fn clear(&mut self) {
        self.memory.set_state(STATE_EMPTY);
        self.memory.set_owner(0);
        self.memory.set_placed(0);
        self.memory.set_meant(0);
        self.memory.set_outcome(0);
        self.memory.zero_notification();
    }

    /// Receives into the slot; only [`crate::kernel::seccomp_notify`] does.
    pub(in crate::kernel) fn receive(&mut self, listener: BorrowedFd<'_>) -> Result<Notification, Errno> {
        self.clear();
        self.memory.set_state(STATE_RECEIVING);
        match notify::receive(listener, &mut self.memory) {
            Ok(()) => {
                self.memory.set_state(STATE_IN_FLIGHT);
                Ok(Notification::from_raw(&self.memory.notification()))
            }
            Err(errno) => {
                self.clear();
                Err(errno)
            }
        }
    }
}

/// What stands beside a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entry {
    /// Pid of the process that carries the call out; 0 for none.
    pub helper: u32,
    /// Whether it may wait for ever (an open of a FIFO): then it is ended and the call begun again. Otherwise its end is waited for,
    /// for it does what it does once, and answers by itself when nobody else does.
    pub waits: bool,
    /// The place of the slot that the call's listener is served in; `None`: this one.
    pub listener: Option<usize>,
    /// The number under which what the call opened is in its thread's table already.
    pub placed: Option<i32>,
    /// A digest of what its arguments in memory were; 0 when that is not known.
    pub meant: u64,
    /// Whether the worker had the outcome and was about to answer: whether it did, nothing tells.
    pub answers: bool,
    /// What the call returned, of one that was carried out and whose caller was not told: a signal cancelled it.
    pub done: Option<i64>,
    /// Under which id the helper knows the call; 0 while none was asked. The call may have come again since.
    pub begun_as: u64,
}

impl Entry {
    const WAITS: u64 = 1 << 63;
    const DONE: u64 = 1 << 62;
    const ANSWERS: u64 = 1 << 61;
    const LISTENER_SHIFT: u32 = 32;
    const LISTENER_MASK: u64 = 0x00FF_FFFF;

    fn to_word(self) -> u64 {
        let listener = self.listener.map_or(0, |index| (index as u64).saturating_add(1) & Self::LISTENER_MASK);
        let flags = [(self.waits, Self::WAITS), (self.answers, Self::ANSWERS), (self.done.is_some(), Self::DONE)];
        let flags = flags.iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, flag)| all | flag);
        u64::from(self.helper) | listener << Self::LISTENER_SHIFT | flags
    }

    fn placed_to_word(placed: Option<i32>) -> u32 {
        placed.map_or(0, |number| number.unsigned_abs().saturating_add(1))
    }

    fn of_word(word: u64) -> Self {
        let listener = (word >> Self::LISTENER_SHIFT) & Self::LISTENER_MASK;
        Self {
            helper: u32::try_from(word & u64::from(u32::MAX)).unwrap_or(0),
            waits: word & Self::WAITS != 0,
            listener: listener.checked_sub(1).and_then(|index| usize::try_from(index).ok()),
            answers: word & Self::ANSWERS != 0,
            ..Self::default()
        }
    }
}

/// The words beside the notification of a [`Slot`], by which a dead worker tells the next one who is at work on it, and what is done already.
#[derive(Debug)]
pub struct Ledger {
    memory: SlotMemory,
}

impl Ledger {
    /// What stands there.
    #[must_use]
    pub fn entry(&self) -> Entry {
        let placed = i32::try_from(self.memory.placed()).ok().and_then(|word| word.checked_sub(1));
        let owner = self.memory.owner();
        // one word for either
        let (is_done, word) = (owner & Entry::DONE != 0, self.memory.outcome());
        let (done, begun_as) = if is_done { (Some(word.cast_signed()), 0) } else { (None, word) };
        let placed = placed.filter(|number| *number >= 0);
        Entry { placed, meant: self.memory.meant(), done, begun_as, ..Entry::of_word(owner) }
    }

    /// What the call means, before anybody is at work on it.
    pub fn note_meant(&self, digest: u64) {
        self.memory.set_meant(digest);
    }

    /// The outcome is known, and the caller is about to be told.
    pub fn note_answers(&self) {
        self.memory.set_owner(self.memory.owner() | Entry::ANSWERS);
    }

    /// What the call opened is in its thread's table, as `number`.
    pub fn note_placed(&self, number: i32) {
        self.memory.set_placed(Entry::placed_to_word(Some(number)));
    }

    /// Process `helper` is at work, and knows the call as `begun_as`; 0: it does not know it.
    pub fn begin(&self, helper: u32, waits: bool, begun_as: u64) {
        let entry = Entry { helper, waits, done: None, answers: false, ..self.entry() };
        self.memory.set_outcome(begun_as);
        self.memory.set_owner(entry.to_word());
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(lent) = self.lent.get(self.index) {
            lent.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_lent_to_one_at_a_time() {
        let area = SharedArea::create(2).expect("area");
        let first = area.slot(0).expect("slot");
        assert!(area.slot(0).is_none());
        assert!(area.slot(2).is_none());
        let second = area.free_slot().expect("free");
        assert_eq!((first.index(), second.index()), (0, 1));
        assert!(area.free_slot().is_none());
        drop(first);
        assert_eq!(area.free_slot().map(|slot| slot.index()), Some(0));
    }

    #[test]
    fn who_is_at_work_is_told_over_a_death_and_forgotten_with_the_notification() {
        let area = SharedArea::create(3).expect("area");
        let notification = Notification { id: 7, tid: 3, arch: 1, nr: 2, args: [1, 2, 3, 4, 5, 6] };
        let mut slot = area.slot(1).expect("slot");
        slot.keep(&notification, Entry { listener: Some(2), ..Entry::default() });
        slot.ledger().begin(4_194_303, true, 7);
        slot.ledger().note_placed(0);
        slot.ledger().note_meant(u64::MAX);
        slot.ledger().note_answers();
        let next = SharedArea::from_fd(area.as_fd().try_clone_to_owned().expect("dup")).expect("adopt");
        let found = next.slot(1).expect("slot");
        assert_eq!(found.in_flight(), Some(notification));
        assert_eq!(
            found.ledger().entry(),
            Entry {
                helper: 4_194_303,
                waits: true,
                listener: Some(2),
                placed: Some(0),
                meant: u64::MAX,
                answers: true,
                done: None,
                begun_as: 7
            }
        );
        slot.ledger().begin(4_194_302, false, 8);
        let again = found.ledger().entry();
        let expected = (4_194_302, 8, false);
        assert_eq!((again.helper, again.begun_as, again.answers), expected, "its outcome is not known yet");
        let done = Entry { listener: Some(2), meant: 9, done: Some(-1), ..Entry::default() };
        slot.keep(&notification, done);
        assert_eq!((found.in_flight(), found.ledger().entry()), (Some(notification), done));
        slot.clear();
        assert_eq!((found.in_flight(), found.ledger().entry()), (None, Entry::default()));
        slot.ledger().begin(1, false, 0);
        assert_eq!(found.ledger().entry(), Entry { helper: 1, ..Entry::default() });
    }

    #[test]
    fn only_sealed_memory_of_whole_slots_is_adopted() {
        assert!(matches!(SharedArea::create(0), Err(SharedAreaError::SlotCount(0))));
        assert!(matches!(SharedArea::create(MAX_SLOTS + 1), Err(SharedAreaError::SlotCount(_))));
        let memory = |bytes: u64, seals: SealFlags| {
            let fd = rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("memfd");
            rustix::fs::ftruncate(&fd, bytes).expect("ftruncate");
            rustix::fs::fcntl_add_seals(&fd, seals).expect("seal");
            fd
        };
        let sealed = SealFlags::SHRINK | SealFlags::GROW;
        let refused = [
            memory(128, SealFlags::GROW),
            memory(0, sealed),
            memory(100, sealed),
            memory(129, sealed),
            std::fs::File::open("/proc/self/exe").expect("open").into(),
        ];
        for fd in refused {
            assert!(matches!(SharedArea::from_fd(fd), Err(SharedAreaError::NotAnArea(_))));
        }
        assert_eq!(SharedArea::from_fd(memory(256, sealed)).expect("area").slot_count(), 2);
    }
}

//! Memory shared between processes that holds seccomp notifications: the mapping and the layout of one slot.

use std::cell::UnsafeCell;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use rustix::io::Errno;
use rustix::mm::MapFlags;
use rustix::mm::ProtFlags;

/// `struct seccomp_notif` of linux/seccomp.h, seccomp_unotify(2): what `SECCOMP_IOCTL_NOTIF_RECV` writes.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct RawNotification {
    /// Cookie of this notification.
    pub id: u64,
    /// Thread id of the caller in the reader's pid namespace.
    pub pid: u32,
    /// Unused by the kernel, zero.
    pub flags: u32,
    /// System call number.
    pub nr: i32,
    /// AUDIT_ARCH_ value.
    pub arch: u32,
    /// Where the caller is.
    pub instruction_pointer: u64,
    /// System call arguments.
    pub args: [u64; 6],
}

/// Bytes that the kernel may write for one notification; its own size (`SECCOMP_GET_NOTIF_SIZES`) must not be larger.
pub const NOTIFICATION_ROOM: usize = 96;

/// Bytes from one slot to the next.
pub const SLOT_BYTES: usize = 128;

/// One slot as it lies in the shared memory. Part of the agreement between workers of different versions: never reordered.
#[repr(C, align(64))]
struct SlotLayout {
    state: AtomicU32,
    placed: AtomicU32,
    owner: AtomicU64,
    notification: UnsafeCell<RawNotification>,
    room: UnsafeCell<[u8; NOTIFICATION_ROOM - size_of::<RawNotification>()]>,
    meant: AtomicU64,
    outcome: AtomicU64,
}

/// A shared, writable mapping of a whole number of slots.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<SlotLayout>,
    slots: usize,
}

// SAFETY: the mapping belongs to no thread; all access goes through `SlotMemory`, whose fields are atomics, or the
// notification, of which `SlotMemory` requires exclusive access (`&mut self`) for writing.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `slots` slots of `memory` from its start, shared and writable.
    ///
    /// # Errors
    /// mmap(2)'s; `EINVAL` for no slots or too many.
    pub fn new(memory: BorrowedFd<'_>, slots: usize) -> Result<Self, Errno> {
        let bytes = slots.checked_mul(SLOT_BYTES).filter(|bytes| *bytes > 0).ok_or(Errno::INVAL)?;
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing of this process. That it stays backed
        // is upheld by `shared_area`, which accepts only memory sealed against shrinking.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                memory,
                0,
            )?
        };
        let start = NonNull::new(start.cast::<SlotLayout>()).ok_or(Errno::FAULT)?;
        Ok(Self { start, slots })
    }

    /// How many slots are mapped.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let bytes = self.slots.saturating_mul(SLOT_BYTES);
        // SAFETY: exactly the range that `new` mapped; `SlotMemory` keeps the mapping alive by its `Arc`, so none is left.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), bytes) };
    }
}

/// One slot of a [`Mapping`].
#[derive(Debug)]
pub struct SlotMemory {
    mapping: Arc<Mapping>,
    index: usize,
}

impl SlotMemory {
    /// The slot at `index`; `None` past the end.
    #[must_use]
    pub fn new(mapping: Arc<Mapping>, index: usize) -> Option<Self> {
        (index < mapping.slots).then_some(Self { mapping, index })
    }

    fn layout(&self) -> &SlotLayout {
        // SAFETY: `new` checked the index against the mapping's length; the mapping is page-aligned, lives as long as `self`, and any
        // bytes are a valid `SlotLayout` (integers only, all of them behind atomics or `UnsafeCell`).
        unsafe { self.mapping.start.add(self.index).as_ref() }
    }

    /// The state word.
    #[must_use]
    pub fn state(&self) -> u32 {
        self.layout().state.load(Ordering::Acquire)
    }

    /// Sets the state word.
    pub fn set_state(&mut self, state: u32) {
        self.layout().state.store(state, Ordering::Release);
    }

    /// The owner word.
    #[must_use]
    pub fn owner(&self) -> u64 {
        self.layout().owner.load(Ordering::Acquire)
    }

    /// Sets the owner word.
    pub fn set_owner(&self, owner: u64) {
        self.layout().owner.store(owner, Ordering::Release);
    }

    /// The word of a descriptor that was placed.
    #[must_use]
    pub fn placed(&self) -> u32 {
        self.layout().placed.load(Ordering::Acquire)
    }

    /// Sets the word of a descriptor that was placed.
    pub fn set_placed(&self, placed: u32) {
        self.layout().placed.store(placed, Ordering::Release);
    }

    /// The word of what the call means.
    #[must_use]
    pub fn meant(&self) -> u64 {
        self.layout().meant.load(Ordering::Acquire)
    }

    /// Sets the word of what the call means.
    pub fn set_meant(&self, meant: u64) {
        self.layout().meant.store(meant, Ordering::Release);
    }

    /// The word of what came of the call.
    #[must_use]
    pub fn outcome(&self) -> u64 {
        self.layout().outcome.load(Ordering::Acquire)
    }

    /// Sets the word of what came of the call.
    pub fn set_outcome(&self, outcome: u64) {
        self.layout().outcome.store(outcome, Ordering::Release);
    }

    /// The same slot for somebody who only looks at its words and sets those beside the state.
    #[must_use]
    pub fn share(&self) -> Self {
        Self { mapping: Arc::clone(&self.mapping), index: self.index }
    }

    /// Puts a notification in.
    pub fn set_notification(&mut self, notification: &RawNotification) {
        // SAFETY: in bounds and aligned as below; `&mut self` keeps other writers of this process out; volatile, for another process
        // may look on.
        unsafe { self.layout().notification.get().write_volatile(*notification) };
    }

    /// Zeroes the notification and the room behind it, as `SECCOMP_IOCTL_NOTIF_RECV` demands.
    pub fn zero_notification(&mut self) {
        // SAFETY: the room lies inside the slot (size test below) and `&mut self` keeps other users of this process out
        // (`shared_area` lends each index once); volatile, for another process may look on.
        unsafe {
            self.layout().notification.get().write_volatile(RawNotification::default());
            self.layout().room.get().write_volatile([0; NOTIFICATION_ROOM - size_of::<RawNotification>()]);
        }
    }

    /// A copy of the notification.
    #[must_use]
    pub fn notification(&self) -> RawNotification {
        // SAFETY: in bounds and aligned as above; every bit pattern is a valid `RawNotification`; volatile, for the kernel or
        // an earlier worker wrote it.
        unsafe { self.layout().notification.get().read_volatile() }
    }

    /// Where the kernel is to write the notification: [`NOTIFICATION_ROOM`] writable bytes.
    pub(super) fn notification_pointer(&mut self) -> *mut RawNotification {
        self.layout().notification.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn the_layout_is_the_kernels_and_the_one_agreed_between_workers() {
        assert_eq!(size_of::<RawNotification>(), 80);
        assert_eq!(offset_of!(RawNotification, pid), 8);
        assert_eq!(offset_of!(RawNotification, nr), 16);
        assert_eq!(offset_of!(RawNotification, arch), 20);
        assert_eq!(offset_of!(RawNotification, args), 32);
        assert_eq!(size_of::<RawNotification>(), size_of::<nix::libc::seccomp_notif>());
        assert_eq!(size_of::<SlotLayout>(), SLOT_BYTES);
        assert_eq!(offset_of!(SlotLayout, placed), 4);
        assert_eq!(offset_of!(SlotLayout, owner), 8);
        assert_eq!(offset_of!(SlotLayout, notification), 16);
        assert_eq!(offset_of!(SlotLayout, room), 96);
        assert_eq!((offset_of!(SlotLayout, meant), offset_of!(SlotLayout, outcome)), (112, 120));
    }
}

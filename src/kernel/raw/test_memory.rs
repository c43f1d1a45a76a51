//! Memory with a hole behind it, for tests of reads at page ends.

use rustix::mm::MapFlags;
use rustix::mm::ProtFlags;

/// Two writable pages of 4096 bytes; the page behind them is not mapped. Never freed.
pub fn two_pages_before_a_hole() -> &'static mut [u8] {
    // SAFETY: a fresh private mapping that nothing else refers to; its third page is unmapped before anybody sees it, and the
    // first two are leaked, so the slice is valid for ever. The hole may be filled by a later mapping of this process only if
    // mmap chooses it, which the PROT_NONE mapping left in its place prevents.
    unsafe {
        let start = rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            3 * 4096,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
        .expect("mmap");
        rustix::mm::mprotect(start.byte_add(2 * 4096), 4096, rustix::mm::MprotectFlags::empty()).expect("mprotect");
        std::slice::from_raw_parts_mut(start.cast::<u8>(), 2 * 4096)
    }
}

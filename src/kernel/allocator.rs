//! Memory that was freed and that the allocator keeps for later.

use crate::kernel::raw::allocator;

/// Gives it back to the kernel. Takes milliseconds for a hundred megabytes, in which other threads wait for theirs.
pub fn give_back() {
    allocator::trim();
}

//! What glibc's allocator keeps of memory that was freed.

use nix::libc;

/// Gives freed memory back to the kernel, of every arena (malloc_trim(3), "since glibc 2.8 … in all arenas").
#[cfg(target_env = "gnu")]
pub fn trim() {
    // SAFETY: malloc_trim touches only memory that the allocator holds as free, under the allocator's own locks (malloc_trim(3),
    // "ATTRIBUTES": MT-Safe).
    unsafe { libc::malloc_trim(0) };
}

/// Another C library's allocator gives back by itself, or not at all.
#[cfg(not(target_env = "gnu"))]
pub const fn trim() {}

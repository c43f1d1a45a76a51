//! How the static launcher starts, gets memory and ends where std is not there to see to it: by musl.
#![allow(unsafe_code)]

use core::alloc::GlobalAlloc;
use core::alloc::Layout;
use core::ffi::c_char;
use core::ffi::c_int;
use core::ffi::c_void;
use core::panic::PanicInfo;

use acctguard_launch::calls::process::Strings;

unsafe extern "C" {
    fn aligned_alloc(alignment: usize, size: usize) -> *mut c_void;
    fn realloc(pointer: *mut c_void, size: usize) -> *mut c_void;
    fn malloc(size: usize) -> *mut c_void;
    fn free(pointer: *mut c_void);
    fn abort() -> !;
}

/// What musl's `crt1.o` calls. Of musl's own start, nothing but the thread pointer is set by then (src/env/__libc_start_main.c).
// SAFETY: no other function of this name is linked; musl calls it once with these types (C11 5.1.2.2.1).
#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, arguments: *const *const c_char, environment: *const *const c_char) -> c_int {
    // SAFETY: both are lists of C strings that end with a null pointer and stay as they are until the process ends (System V ABI,
    // "Process Initialization"): nothing here writes to them.
    let (arguments, environment) = unsafe { (Strings::new(arguments), Strings::new(environment)) };
    c_int::from(acctguard_launch::main(arguments, environment))
}

/// musl's malloc(3).
struct Musl;

#[global_allocator]
static MEMORY: Musl = Musl;

/// Alignment of what malloc(3) gives (musl, src/malloc/mallocng/meta.h: `UNIT`).
const ALIGNMENT: usize = 16;

// SAFETY: malloc(3), aligned_alloc(3), realloc(3) and free(3) of one library give and take memory as `GlobalAlloc` demands: blocks of at
// least the size and alignment asked for, null when there is none.
unsafe impl GlobalAlloc for Musl {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: numbers only; `Layout` holds an alignment that is a power of two.
        let memory = unsafe {
            if layout.align() <= ALIGNMENT {
                malloc(layout.size())
            } else {
                aligned_alloc(layout.align(), layout.size())
            }
        };
        memory.cast()
    }

    unsafe fn dealloc(&self, memory: *mut u8, _layout: Layout) {
        // SAFETY: by the caller's promise this came of `alloc` or `realloc` and nobody uses it any more.
        unsafe { free(memory.cast()) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.align() <= ALIGNMENT {
            // SAFETY: by the caller's promise this came of `alloc` or `realloc`; what malloc(3) gives is aligned enough.
            return unsafe { realloc(memory.cast(), size) }.cast();
        }
        // SAFETY: the new block is as aligned and does not overlap the old one, of which no more is copied than either holds.
        unsafe {
            let fresh = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !fresh.is_null() {
                core::ptr::copy_nonoverlapping(memory, fresh, layout.size().min(size));
                self.dealloc(memory, layout);
            }
            fresh
        }
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    acctguard_launch::say(format_args!("this is a defect, and nothing was started: {info}"));
    // SAFETY: ends the process.
    unsafe { abort() }
}

/// The compiled parts of `alloc` name these, for panics that unwind; here all of them end in [`panic`].
// SAFETY: no other function of this name is linked, and nobody calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// See [`rust_eh_personality`].
// SAFETY: no other function of this name is linked, and nobody calls it.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    // SAFETY: ends the process.
    unsafe { abort() }
}

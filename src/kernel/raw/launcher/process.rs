//! What a process was started with, and starting another program in its place.

use core::ffi::CStr;
use core::ffi::c_char;
use core::ffi::c_int;
use core::fmt;

use rustix::fd::BorrowedFd;
use rustix::fd::FromRawFd;
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use super::check;

unsafe extern "C" {
    fn execve(path: *const c_char, arguments: *const *const c_char, environment: *const *const c_char) -> c_int;
    fn fcntl(number: c_int, command: c_int, ...) -> c_int;
    fn signal(number: c_int, disposition: usize) -> usize;
    fn strerror(number: c_int) -> *const c_char;
}

/// `F_SETFD` and `FD_CLOEXEC` (fcntl.h).
const SET_FLAGS: c_int = 2;
const CLOSE_ON_EXEC: c_int = 1;
/// First descriptor that is no standard one.
const FIRST: c_int = 3;
/// `SIGPIPE` and `SIG_IGN` (signal.h).
const PIPE: c_int = 13;
const IGNORE: usize = 1;
const STANDARD_OUTPUT: c_int = 1;
const STANDARD_ERROR: c_int = 2;

/// A list of C strings in this process's memory, as execve(2) takes and gives them.
#[derive(Clone, Copy)]
pub struct Strings(*const *const c_char);

impl Strings {
    /// Of what the C library gives to `main`.
    ///
    /// # Safety
    /// `list` leads to pointers to C strings, the last of them null, and none of that is ever changed or freed.
    #[must_use]
    pub const unsafe fn new(list: *const *const c_char) -> Self {
        Self(list)
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = &'static CStr> {
        let mut place = self.0;
        core::iter::from_fn(move || {
            // SAFETY: by the promise to `new`; `place` never goes past the null pointer.
            unsafe {
                let string = *place;
                if string.is_null() {
                    return None;
                }
                place = place.add(1);
                Some(CStr::from_ptr(string))
            }
        })
    }

    /// The list without its first `count`, or what is left of that.
    #[must_use]
    pub fn skip(self, count: usize) -> Self {
        // SAFETY: by the promise to `new`, so many strings are there, and the null pointer after them.
        Self(unsafe { self.0.add(self.iter().take(count).count()) })
    }
}

/// Becomes the program at `path`; comes back only with the reason why not. Descriptors without close-on-exec, and everything else that a
/// program inherits, are as this process was started with.
#[must_use]
pub fn replace(path: &CStr, arguments: Strings, environment: Strings) -> Errno {
    // SAFETY: the kernel reads a C string and two lists of them, by the promise to `Strings::new`.
    let returned = unsafe { execve(path.as_ptr(), arguments.0, environment.0) };
    check(returned.into()).err().unwrap_or(Errno::INVAL)
}

/// Takes descriptor `number`, which whoever started this process said that it left open for it, and sets close-on-exec; `None` when it
/// is not open, or a standard one. To be asked once for a number.
#[must_use]
pub fn take(number: c_int) -> Option<OwnedFd> {
    // SAFETY: F_SETFD reads no memory of ours; on a number that is not open it fails.
    if number < FIRST || unsafe { fcntl(number, SET_FLAGS, CLOSE_ON_EXEC) } < 0 {
        return None;
    }
    // SAFETY: the descriptor is open, and by the protocol nobody else in this process owns it: it was handed over at the start.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Writes as much as can be to standard output. As [`tell`] else.
pub fn answer(text: &[u8]) {
    write(STANDARD_OUTPUT, text);
}

/// Writes as much as can be to standard error; where that is closed, or its reader gone, nobody can be told. For what ends afterwards,
/// with a code of its own: no signal ends it here.
pub fn tell(text: &[u8]) {
    write(STANDARD_ERROR, text);
}

fn write(number: c_int, text: &[u8]) {
    // SAFETY: no code of ours is to run at the signal.
    unsafe { signal(PIPE, IGNORE) };
    // SAFETY: nothing in this process closes the number; where it was closed from the start, or means something that this process opened
    // meanwhile, which is never for writing, write(2) fails.
    let stream = unsafe { BorrowedFd::borrow_raw(number) };
    let mut rest = text;
    while let Ok(written @ 1..) = rustix::io::write(stream, rest) {
        rest = rest.get(written..).unwrap_or_default();
    }
}

/// An errno in the words of strerror(3), which engines and people look for, and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason(pub Errno);

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.0.raw_os_error();
        // SAFETY: strerror(3) gives a C string for any number, which nothing changes in a program of one thread.
        let words = unsafe { CStr::from_ptr(strerror(number)) };
        write!(formatter, "{} (os error {number})", words.to_str().unwrap_or("unknown"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_walked_and_skipped() {
        let texts = [c"a".as_ptr(), c"bc".as_ptr(), core::ptr::null()];
        // SAFETY: ends with null; all of it lives as long as the test.
        let strings = unsafe { Strings::new(texts.as_ptr()) };
        assert!(strings.iter().eq([c"a", c"bc"]) && strings.skip(1).iter().eq([c"bc"]));
        assert_eq!(strings.skip(2).iter().count() + strings.skip(9).iter().count(), 0);
    }

    #[test]
    fn what_is_not_there_is_neither_run_nor_taken() {
        let none = [core::ptr::null()];
        // SAFETY: as above.
        let none = unsafe { Strings::new(none.as_ptr()) };
        assert_eq!(replace(c"/no/such/program", none, none), Errno::NOENT);
        assert_eq!(std::format!("{}", Reason(Errno::NOENT)), "No such file or directory (os error 2)");
        assert!(take(2).is_none() && take(i32::MAX).is_none());
    }
}

//! Reading another process's memory, process_vm_readv(2): bounded, by pages, and worth nothing until the notification through
//! which it was read is checked to be still valid.

use std::io::BufRead;
use std::io::BufReader;
use std::io::IoSliceMut;
use std::io::Read;

use nix::sys::uio::RemoteIoVec;
use nix::unistd::Pid;

use crate::kernel::Errno;
use crate::kernel::seccomp_notify::Listener;

/// Longest path the kernel takes, with its NUL (limits.h, path_resolution(7)).
pub const PATH_MAX: usize = 4096;
/// Most bytes that one [`read_bytes`] returns.
pub const MAX_READ_BYTES: usize = 65_536;
/// Smallest page of any architecture; a chunk never crosses such a boundary, so it never crosses a real one.
const PAGE_BYTES: u64 = 4096;
/// Most of a list of mappings that is looked at: far more than the 65,530 that a process may have (vm.max_map_count).
const MAX_MAPS_BYTES: u64 = 16 * 1024 * 1024;
/// First chunk of a path: most paths are shorter.
const FIRST_CHUNK_BYTES: usize = 256;

/// Why memory could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The address is not mapped or not readable: the kernel would answer `EFAULT`.
    #[error("memory of thread {tid} at {address:#x} is not readable")]
    Fault {
        /// Whose.
        tid: u32,
        /// Where.
        address: u64,
    },
    /// No NUL within [`PATH_MAX`] bytes: the kernel would answer `ENAMETOOLONG`. Or more than [`MAX_READ_BYTES`] asked for.
    #[error("memory of thread {tid} at {address:#x} holds more than {limit} bytes")]
    TooLong {
        /// Whose.
        tid: u32,
        /// Where.
        address: u64,
        /// The limit.
        limit: usize,
    },
    /// Mapped and readable for the thread itself, and for nobody else (memfd_secret(2), Linux 5.14).
    #[error("memory of thread {tid} at {address:#x} is hidden from everybody else")]
    Hidden {
        /// Whose.
        tid: u32,
        /// Where.
        address: u64,
    },
    /// The thread is gone.
    #[error("thread {tid} is gone")]
    Gone {
        /// Which.
        tid: u32,
    },
    /// Not allowed, or the kernel lacks the call.
    #[error("cannot read memory of thread {tid}; CAP_SYS_PTRACE over it is needed")]
    Refused {
        /// Whose.
        tid: u32,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
}

impl ReadError {
    /// A fault at `address`, or, where the thread itself has something readable there, that it is hidden.
    fn or_hidden(self, address: u64) -> Self {
        match self {
            Self::Fault { tid, .. } if is_readable_for_itself(tid, address) => Self::Hidden { tid, address },
            other => other,
        }
    }

    /// The same fault, told by the address that the caller asked for.
    fn at(self, address: u64) -> Self {
        if let Self::Fault { tid, .. } = self { Self::Fault { tid, address } } else { self }
    }
}

/// Something read through a thread id that may meanwhile belong to somebody else. [`Unverified::verify`] is the only way to it.
#[derive(Debug)]
pub struct Unverified<T>(T);

impl<T> Unverified<T> {
    /// The value, if notification `id` is still waiting: then the thread id meant its caller all the time.
    #[must_use]
    pub fn verify(self, listener: &Listener, id: u64) -> Option<T> {
        listener.is_valid(id).then_some(self.0)
    }

    /// Decodes the value without looking at it yet.
    #[must_use]
    pub fn map<U>(self, decode: impl FnOnce(T) -> U) -> Unverified<U> {
        Unverified(decode(self.0))
    }
}

/// Whether a readable mapping of the thread covers `address` (proc_pid_maps(5)).
fn is_readable_for_itself(tid: u32, address: u64) -> bool {
    let Ok(maps) = std::fs::File::open(format!("/proc/{tid}/maps")) else { return false };
    let mut lines = BufReader::new(maps.take(MAX_MAPS_BYTES)).lines();
    lines.any(|line| line.is_ok_and(|line| covers(&line, address)))
}

/// `7f1c8000-7f1c9000 r--p …`
fn covers(line: &str, address: u64) -> bool {
    let mut words = line.split(' ');
    let range = words.next().and_then(|range| range.split_once('-'));
    let bounds =
        range.and_then(|(start, end)| Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?)));
    let is_readable = words.next().is_some_and(|rights| rights.starts_with('r'));
    is_readable && bounds.is_some_and(|(start, end)| (start..end).contains(&address))
}

/// Reads exactly `length` bytes.
///
/// # Errors
/// [`ReadError`]; a range that is readable only in part is [`ReadError::Fault`].
pub fn read_bytes(tid: u32, address: u64, length: usize) -> Result<Unverified<Vec<u8>>, ReadError> {
    if length > MAX_READ_BYTES {
        return Err(ReadError::TooLong { tid, address, limit: MAX_READ_BYTES });
    }
    let mut bytes = vec![0_u8; length];
    let mut done = 0_usize;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let from = address.checked_add(done as u64).ok_or(ReadError::Fault { tid, address })?;
        done = done.saturating_add(read_once(tid, from, rest).map_err(|error| error.or_hidden(from).at(address))?);
    }
    Ok(Unverified(bytes))
}

/// Reads a path: bytes up to the first NUL, without it. May be empty.
///
/// # Errors
/// [`ReadError`]; memory that ends before a NUL is [`ReadError::Fault`].
pub fn read_path(tid: u32, address: u64) -> Result<Unverified<Vec<u8>>, ReadError> {
    let mut buffer = [0_u8; PATH_MAX];
    let mut done = 0_usize;
    while done < PATH_MAX {
        let from = address.checked_add(done as u64).ok_or(ReadError::Fault { tid, address })?;
        let chunk = if done == 0 { FIRST_CHUNK_BYTES } else { PATH_MAX };
        let end = done.saturating_add(chunk.min(bytes_to_page_end(from))).min(PATH_MAX);
        let Some(room) = buffer.get_mut(done..end) else { break };
        let read = read_once(tid, from, room).map_err(|error| error.or_hidden(from).at(address))?;
        if let Some(length) = room.iter().take(read).position(|byte| *byte == 0) {
            let path = buffer.get(..done.saturating_add(length)).unwrap_or_default().to_vec();
            return Ok(Unverified(path));
        }
        done = done.saturating_add(read);
    }
    Err(ReadError::TooLong { tid, address, limit: PATH_MAX })
}

fn bytes_to_page_end(address: u64) -> usize {
    usize::try_from(PAGE_BYTES.saturating_sub(address.checked_rem(PAGE_BYTES).unwrap_or(0))).unwrap_or(PATH_MAX)
}

/// One process_vm_readv(2); at least one byte or an error.
fn read_once(tid: u32, address: u64, into: &mut [u8]) -> Result<usize, ReadError> {
    let fault = ReadError::Fault { tid, address };
    let pid = i32::try_from(tid).ok().filter(|tid| *tid > 0).ok_or(ReadError::Gone { tid })?;
    let remote = RemoteIoVec { base: usize::try_from(address).map_err(|_| fault)?, len: into.len() };
    loop {
        let read = nix::sys::uio::process_vm_readv(Pid::from_raw(pid), &mut [IoSliceMut::new(into)], &[remote]);
        return match read {
            Ok(0) => Err(fault),
            Ok(read) => Ok(read),
            Err(nix::errno::Errno::EINTR) => continue,
            Err(nix::errno::Errno::EFAULT) => Err(fault),
            Err(nix::errno::Errno::ESRCH) => Err(ReadError::Gone { tid }),
            Err(errno) => Err(ReadError::Refused { tid, source: Errno::from_raw_os_error(errno as i32) }),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::raw::test_memory::two_pages_before_a_hole;

    fn own() -> u32 {
        std::process::id()
    }

    /// Writes `path` and a NUL so that the NUL is the last byte before the hole.
    fn path_before_the_hole(path: &[u8]) -> Result<Vec<u8>, ReadError> {
        let pages = two_pages_before_a_hole();
        pages.fill(b'x');
        let at = pages.len() - path.len() - 1;
        pages[at..at + path.len()].copy_from_slice(path);
        pages[at + path.len()] = 0;
        read_path(own(), pages[at..].as_ptr() as u64).map(|path| path.0)
    }

    #[test]
    fn paths_are_read_up_to_the_last_byte_before_a_hole() {
        for length in [0, 1, 2, 254, 255, 256, 257, 300, 4093, 4094, 4095] {
            let path = vec![b'/'; length];
            assert_eq!(path_before_the_hole(&path), Ok(path), "{length}");
        }
        assert_eq!(path_before_the_hole(b"/\xff\x1b[2J\n"), Ok(b"/\xff\x1b[2J\n".to_vec()));
    }

    #[test]
    fn paths_that_cross_pages_are_whole() {
        let pages = two_pages_before_a_hole();
        for start in [4096 - 1, 4096 - 10, 4096 - 256, 4096 - 257, 4096 - 300, 0] {
            pages.fill(0);
            let length = 3000.min(pages.len() - start - 1);
            pages[start..start + length].fill(b'p');
            let path = read_path(own(), pages[start..].as_ptr() as u64).expect("path").0;
            assert_eq!(path, vec![b'p'; length], "{start}");
        }
    }

    #[test]
    fn a_path_without_end_is_refused_as_the_kernel_does() {
        let pages = two_pages_before_a_hole();
        pages.fill(b'x');
        let start = pages.as_ptr() as u64;
        let too_long = |address| ReadError::TooLong { tid: own(), address, limit: PATH_MAX };
        assert_eq!(read_path(own(), start).map(|path| path.0), Err(too_long(start)));
        assert_eq!(read_path(own(), start + 4096).map(|path| path.0), Err(too_long(start + 4096)));
        for address in [start + 4097, start + 8191, start + 8192, 0, 1, u64::MAX, u64::MAX - 4000, 1 << 63] {
            let fault = ReadError::Fault { tid: own(), address };
            assert_eq!(read_path(own(), address).map(|path| path.0), Err(fault), "{address:#x}");
        }
    }

    #[test]
    fn bytes_are_read_whole_or_not_at_all() {
        let pages = two_pages_before_a_hole();
        for (index, byte) in pages.iter_mut().enumerate() {
            *byte = index as u8;
        }
        let start = pages.as_ptr() as u64;
        assert_eq!(read_bytes(own(), start + 4000, 200).map(|bytes| bytes.0), Ok(pages[4000..4200].to_vec()));
        assert_eq!(read_bytes(own(), start + 8192, 0).map(|bytes| bytes.0), Ok(Vec::new()));
        assert!(matches!(read_bytes(own(), start + 8000, 200), Err(ReadError::Fault { .. })));
        assert!(matches!(read_bytes(own(), start, MAX_READ_BYTES + 1), Err(ReadError::TooLong { .. })));
    }

    #[test]
    fn nobody_is_gone() {
        for tid in [0, 0x7fff_fff0, u32::MAX] {
            assert!(matches!(read_path(tid, 4096), Err(ReadError::Gone { .. })), "{tid}");
        }
    }

    #[test]
    fn mappings_are_told_by_their_lines() {
        for (line, address, expected) in [
            ("1000-2000 r--p 00000000 00:01 7 /secretmem (deleted)", 0x1fff, true),
            ("1000-2000 r--p 00000000 00:01 7", 0x2000, false),
            ("1000-2000 -w-p 00000000 00:01 7", 0x1000, false),
            ("nonsense", 0, false),
            ("", 0, false),
        ] {
            assert_eq!(covers(line, address), expected, "{line}");
        }
        let here = 7_u64;
        assert!(is_readable_for_itself(std::process::id(), std::ptr::from_ref(&here) as u64));
        assert!(!is_readable_for_itself(std::process::id(), 0));
    }
}

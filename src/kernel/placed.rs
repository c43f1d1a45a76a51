//! Descriptors in a thread's table whose number it has not been told yet: what a call opened is put there first
//! (`SECCOMP_IOCTL_NOTIF_ADDFD`) and answered after our own copy is closed, since nobody can execute a file that somebody has open for
//! writing (execve(2), ETXTBSY). Whoever answers for a worker that ended in between must tell the number of the one that is there, not
//! put in a second.
//!
//! The number is noted in the slot of the call. Until it is, the descriptor can be found by its offset: it stands where no program
//! has any reason to seek to, and is put back to the beginning before the thread is told of it. Only regular files of file systems
//! are marked so: on others an offset may have a meaning (`/proc`), or none.
//!
//! Invariant: until the thread is told, the number is noted or the mark is there. So whoever finds a mark notes the number before it takes
//! the mark off: it may end before it tells the thread, too, and the one after it would find neither, and do the call again.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::SeekFrom;

use crate::kernel::pidfd;
use crate::kernel::process;
use crate::kernel::seccomp_notify::Added;
use crate::kernel::seccomp_notify::Listener;
use crate::kernel::seccomp_notify::ListenerError;

/// The offset of a mark, but for the lower bits of the call's id: no file system's limit is below (`s_maxbytes`).
const MARK: u64 = 0x4000_0000;
const ID_BITS: u64 = MARK - 1;

/// Magic numbers of statfs(2) of file systems that keep offsets as lseek(2) sets them: ext4, xfs, btrfs, f2fs, overlay, tmpfs.
const MARKED_ON: [u64; 6] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x794c_7630, 0x0102_1994];

/// Puts a copy of `file`, opened just now, into the table of the thread that waits for notification `id`. With `note`,
/// which puts its number down in the ledger of that call, [`find`] tells it to whoever is to answer the call after us.
///
/// # Errors
/// Those of [`Listener::add_descriptor`].
pub fn place(
    listener: &Listener,
    id: u64,
    file: &OwnedFd,
    close_on_exec: bool,
    note: Option<impl FnOnce(i32)>,
) -> Result<Added, ListenerError> {
    let is_marked = note.is_some() && can_be_marked(file.as_fd()) && seek(file.as_fd(), offset(id));
    let added = listener.add_descriptor(id, file, close_on_exec);
    if let (Ok(Added::Number(number)), Some(note)) = (&added, note) {
        note(*number);
    }
    if is_marked {
        seek(file.as_fd(), 0);
    }
    added
}

/// The number of the descriptor that was put into the table of thread `tid`, which waits for notification `id`, if one was; `noted`
/// is what the ledger says, and `note` puts down there what it does not say. It stands at its beginning afterwards.
#[must_use]
pub fn find(tid: u32, id: u64, noted: Option<i32>, note: impl FnOnce(i32)) -> Option<i32> {
    let marked =
        || numbers(tid).into_iter().find(|number| is_at(tid, *number, offset(id))).inspect(|number| note(*number));
    let number = noted.or_else(marked)?;
    if is_at(tid, number, offset(id)) {
        let copy = pidfd::copy_descriptor_of_thread(tid, number).ok()?;
        seek(copy.as_fd(), 0);
    }
    Some(number)
}

const fn offset(id: u64) -> u64 {
    MARK | (id & ID_BITS)
}

fn can_be_marked(file: BorrowedFd<'_>) -> bool {
    let is_regular =
        rustix::fs::fstat(file).is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::RegularFile);
    is_regular
        && rustix::fs::fstatfs(file)
            .is_ok_and(|system| u64::try_from(system.f_type).is_ok_and(|kind| MARKED_ON.contains(&kind)))
}

fn seek(file: BorrowedFd<'_>, offset: u64) -> bool {
    rustix::fs::seek(file, SeekFrom::Start(offset)).is_ok()
}

/// The descriptors of thread `tid`.
fn numbers(tid: u32) -> Vec<i32> {
    let listing = std::fs::read_dir(format!("/proc/{tid}/fd")).into_iter().flatten().flatten();
    listing.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Whether its descriptor `number` is at `offset`: `pos` of proc_pid_fdinfo(5).
fn is_at(tid: u32, number: i32, offset: u64) -> bool {
    let text = process::read_proc_file(CWD, &format!("/proc/{tid}/fdinfo/{number}")).unwrap_or_default();
    let position =
        process::field(&text, b"pos:").and_then(|field| std::str::from_utf8(field).ok()?.trim().parse().ok());
    position == Some(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(file: &std::fs::File) -> u64 {
        rustix::fs::tell(file).expect("tell")
    }

    #[test]
    fn a_marked_descriptor_is_found_and_put_back() {
        let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        let file = tempfile::tempfile().expect("file");
        assert!(can_be_marked(file.as_fd()));
        let nothing = |number| panic!("{number} is noted");
        assert_eq!(find(tid, 7, None, nothing), None);
        seek(file.as_fd(), offset(7));
        assert_eq!(find(tid, 8, None, nothing), None, "it is another call's");
        let expected = std::os::fd::AsRawFd::as_raw_fd(&file);
        let mut noted = None;
        let note = |number| noted = Some((number, position(&file)));
        assert_eq!((find(tid, 7, None, note), position(&file)), (Some(expected), 0));
        assert_eq!(noted, Some((expected, offset(7))), "the mark was taken off before the number was noted");
        seek(file.as_fd(), 5);
        assert_eq!((find(tid, 7, Some(expected), nothing), position(&file)), (Some(expected), 5));
        seek(file.as_fd(), offset(7));
        assert_eq!((find(tid, 7, Some(expected), nothing), position(&file)), (Some(expected), 0));
    }

    #[test]
    fn what_is_no_file_of_a_file_system_is_not_marked() {
        let (pipe, _other) = std::io::pipe().expect("pipe");
        assert!(!can_be_marked(pipe.as_fd()));
        for path in ["/proc/self/status", "/dev/null", "/"] {
            assert!(!can_be_marked(std::fs::File::open(path).expect("open").as_fd()), "{path}");
        }
    }
}

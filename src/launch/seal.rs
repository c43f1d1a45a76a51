//! A Landlock seal: everything in the container stays as writable as it was, but the account databases and the directories
//! on the way to them.
//!
//! Landlock grants and never denies (landlock(7)), so the seal grants all writing rights on every child of `/` except the
//! directories that lead to a database, there on every child except the next step, and so on. A *sealed directory* (`/`, `/etc`)
//! has no right of its own but to make directories and sockets in it: nothing else can be created, removed or renamed directly in it, while existing files in it, as
//! `/etc/hosts`, can still be written in place. Needs Landlock ABI 3 (Linux 6.2: LANDLOCK_ACCESS_FS_TRUNCATE).

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;

use rustix::fd::OwnedFd;
use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::Stat;
use rustix::io::Errno;

use crate::calls::landlock;
use crate::calls::process::Reason;
use crate::database_path::DatabasePath;
use crate::directories;
use crate::directories::Directories;
use crate::files;
use crate::paths::join;
use crate::sealed_tree::Sealed;

/// The first ABI with all of write, truncate, remove, make and refer, which the seal handles (Linux 6.2).
const SEAL_ABI: i64 = 3;
/// The first with [`LOG_NEW_EXEC_ON`] (Linux 6.15).
const LOG_ABI: i64 = 7;
/// `LANDLOCK_RESTRICT_SELF_LOG_NEW_EXEC_ON`: the kernel's audit log tells each refusal of the program, too.
const LOG_NEW_EXEC_ON: u32 = 1 << 1;

/// `LANDLOCK_ACCESS_FS_*` (linux/landlock.h): WRITE_FILE and TRUNCATE, the rights that a file can have.
const ON_FILE: u64 = 1 << 1 | 1 << 14;
/// MAKE_DIR and MAKE_SOCK. A directory or a socket is no database, wherever it is made; neither is a way to put another in a database's
/// place, for that takes the right to remove or to refer, too.
const HARMLESS: u64 = 1 << 7 | 1 << 9;
/// What the seal handles: besides, REMOVE_DIR, REMOVE_FILE, MAKE_CHAR, MAKE_REG, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM and REFER.
const ALL: u64 = ON_FILE | HARMLESS | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13;

/// The seal could not be put in place.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Landlock is missing or too old.
    #[error("cannot create a landlock ruleset: {0}; needs Linux 6.2 with landlock in the kernel's lsm= list")]
    Ruleset(String),
    /// Which mounts there are cannot be read.
    #[error("cannot read /proc/self/mountinfo: {}; the container needs /proc", Reason(*_0))]
    Mounts(Errno),
    /// A directory on the way to a database cannot be listed.
    #[error("cannot list sealed directory {path:?}: {}", Reason(*reason))]
    List {
        /// Which.
        path: String,
        /// Why.
        reason: Errno,
    },
    /// A right could not be granted.
    #[error("cannot grant writing below {path:?}: {}", Reason(*reason))]
    Grant {
        /// On what.
        path: String,
        /// Why.
        reason: Errno,
    },
    /// The kernel did not take the ruleset.
    #[error("cannot restrict this process: {}; lend it CAP_SYS_ADMIN or set noNewPrivileges", Reason(*_0))]
    Restrict(Errno),
}

/// Takes from this process and all it will start the right to change `databases`, for good.
///
/// # Errors
/// [`SealError`]; the process is then as free as before.
pub fn seal(databases: &[DatabasePath]) -> Result<(), SealError> {
    let abi = landlock::abi().map_err(no_ruleset)?;
    if abi < SEAL_ABI {
        return Err(SealError::Ruleset(format!("this kernel's is of ABI {abi}")));
    }
    let mountinfo = files::read_at(b"/proc/self/mountinfo").map_err(SealError::Mounts)?;
    let mut directories = Directories::default();
    let sealed = Sealed::of(databases, &mountinfo, &mut directories);
    let ruleset = landlock::create_ruleset(ALL).map_err(no_ruleset)?;
    let root = directories::open(CWD, b"/").map_err(|reason| list_error(b"/", reason))?;
    landlock::add_rule(&ruleset, &root, HARMLESS).map_err(|reason| grant_error(b"/", reason))?;
    let mut granting = Granting { ruleset, directories, kept: BTreeSet::new() };
    granting.grant_children(&root, b"/", &sealed)?;
    granting.grant_standard_streams();
    let flags = if abi < LOG_ABI { 0 } else { LOG_NEW_EXEC_ON };
    landlock::restrict_self(&granting.ruleset, flags).map_err(SealError::Restrict)
}

/// Device and inode number.
type Identity = (u64, u64);

/// What is known while rights are granted.
struct Granting {
    ruleset: OwnedFd,
    directories: Directories,
    /// The sealed objects, and what lies directly in those that are directories.
    kept: BTreeSet<Identity>,
}

impl Granting {
    /// Grants writing on every child of `directory`, which lies at `path`, but the `sealed` ones, and goes on into those that lead further.
    fn grant_children(&mut self, directory: &OwnedFd, path: &[u8], sealed: &Sealed) -> Result<(), SealError> {
        let entries = self.directories.entries(path).map_err(|reason| list_error(path, reason))?;
        for (name, kind) in &*entries {
            match sealed.names.get(name) {
                // symbolic links need no right: what counts is where they lead
                None if *kind == FileType::Symlink => {}
                None => {
                    self.grant(directory, name, *kind).map_err(|reason| grant_error(&join(path, name), reason))?;
                }
                Some(further) if !further.names.is_empty() => match directories::open(directory, name) {
                    Ok(directory) => self.grant_children(&directory, &join(path, name), further)?,
                    // a link or a file where a directory should be: nothing below it, and it stays sealed itself
                    Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => {}
                    Err(reason) => return Err(list_error(&join(path, name), reason)),
                },
                Some(_) => self.keep(directory, name, *kind),
            }
        }
        Ok(())
    }

    fn keep(&mut self, directory: &OwnedFd, name: &[u8], kind: FileType) {
        self.kept.extend(identity(directory, name));
        if !matches!(kind, FileType::Directory | FileType::Unknown) {
            return;
        }
        let Ok(inside) = directories::open(directory, name) else { return };
        let entries = directories::list(&inside).unwrap_or_default();
        self.kept.extend(entries.keys().filter_map(|name| identity(&inside, name)));
    }

    /// Grants writing on one child, which `kind` was told of, and all below it.
    fn grant(&self, directory: &OwnedFd, name: &[u8], kind: FileType) -> Result<(), Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(child) = rustix::fs::openat(directory, name, flags, Mode::empty()) else {
            // gone meanwhile, or out of this user's reach: no right is the safe side
            return Ok(());
        };
        let may_be_directory = matches!(kind, FileType::Directory | FileType::Unknown);
        match landlock::add_rule(&self.ruleset, &child, if may_be_directory { ALL } else { ON_FILE }) {
            // no directory, whatever was told of it
            Err(Errno::INVAL) if may_be_directory => landlock::add_rule(&self.ruleset, &child, ON_FILE),
            outcome => outcome,
        }
    }

    /// Grants writing on what the standard streams lead to: a file or terminal from outside the container is below none of its
    /// directories, and `/dev/stdout` opens it anew. Never on a database.
    fn grant_standard_streams(&self) {
        for number in 0..3 {
            let path = format!("/proc/self/fd/{number}");
            let Ok(stream) = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else {
                continue;
            };
            let Ok(status) = rustix::fs::fstat(&stream) else { continue };
            let kind = FileType::from_raw_mode(status.st_mode);
            if matches!(kind, FileType::RegularFile | FileType::CharacterDevice)
                && !self.kept.contains(&identity_of(&status))
            {
                // pipes and sockets need no right; one that cannot be granted stays as the rest of the seal has it
                let _ = landlock::add_rule(&self.ruleset, &stream, ON_FILE);
            }
        }
    }
}

/// Of what `name` in `directory` is itself, link or not.
fn identity(directory: &OwnedFd, name: &[u8]) -> Option<Identity> {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok().map(|status| identity_of(&status))
}

const fn identity_of(status: &Stat) -> Identity {
    (status.st_dev, status.st_ino)
}

fn no_ruleset(errno: Errno) -> SealError {
    SealError::Ruleset(format!("{}", Reason(errno)))
}

fn list_error(path: &[u8], reason: Errno) -> SealError {
    SealError::List { path: shown(path), reason }
}

fn grant_error(path: &[u8], reason: Errno) -> SealError {
    SealError::Grant { path: shown(path), reason }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::landlock::ABI;
    use ::landlock::AccessFs;

    #[test]
    fn rights_are_those_of_linux_landlock_h() {
        let writing = AccessFs::from_write(ABI::V3);
        assert_eq!(ALL, writing.bits());
        assert_eq!(ON_FILE, (writing & AccessFs::from_file(ABI::V3)).bits());
        assert_eq!(HARMLESS, (AccessFs::MakeDir | AccessFs::MakeSock).bits());
    }
}

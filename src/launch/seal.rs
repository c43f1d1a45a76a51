//! A Landlock seal: everything in the container stays as writable as it was, but the account databases and the directories
//! on the way to them.
//!
//! Landlock grants and never denies (landlock(7)), so the seal grants all writing rights on every child of `/` except the
//! directories that lead to a database, there on every child except the next step, and so on. A *sealed directory* (`/`, `/etc`)
//! has no right of its own but to make directories and sockets in it: nothing else can be created, removed or renamed directly in it, while existing files in it, as
//! `/etc/hosts`, can still be written in place. Needs Landlock ABI 3 (Linux 6.2: LANDLOCK_ACCESS_FS_TRUNCATE).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;

use landlock::ABI;
use landlock::AccessFs;
use landlock::CompatLevel;
use landlock::Compatible;
use landlock::PathBeneath;
use landlock::Ruleset;
use landlock::RulesetAttr;
use landlock::RulesetCreated;
use landlock::RulesetCreatedAttr;
use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::Stat;

use crate::kernel::Errno;
use crate::launch::directories;
use crate::launch::directories::Directories;
use crate::launch::sealed_tree::Sealed;
use crate::model::attempt::DatabasePath;

/// Whose rights the seal handles: ABI 3 is the first with all of write, truncate, remove, make and refer.
const SEAL_ABI: ABI = ABI::V3;

/// The seal could not be put in place.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Landlock is missing or too old.
    #[error("cannot create a landlock ruleset; needs Linux 6.2 with landlock in the kernel's lsm= list")]
    Ruleset(#[source] landlock::RulesetError),
    /// Which mounts there are cannot be read.
    #[error("cannot read /proc/self/mountinfo; the container needs /proc")]
    Mounts(#[source] std::io::Error),
    /// A directory on the way to a database cannot be listed.
    #[error("cannot list sealed directory {path:?}")]
    List {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// A right could not be granted.
    #[error("cannot grant writing below {path:?}")]
    Grant {
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: landlock::RulesetError,
    },
    /// The kernel did not take the ruleset.
    #[error("cannot restrict this process; lend it CAP_SYS_ADMIN or set noNewPrivileges")]
    Restrict(#[source] landlock::RulesetError),
    /// It took it and does not enforce it.
    #[error("the kernel does not enforce the seal; needs Linux 6.2 with landlock in the kernel's lsm= list")]
    NotEnforced,
}

/// Takes from this process and all it will start the right to change `databases`, for good.
///
/// # Errors
/// [`SealError`]; the process is then as free as before.
pub fn seal(databases: &[DatabasePath]) -> Result<(), SealError> {
    let mountinfo = mountinfo().map_err(SealError::Mounts)?;
    let mut directories = Directories::default();
    let sealed = Sealed::of(databases, &mountinfo, &mut directories);
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_write(SEAL_ABI))
        .and_then(Ruleset::create)
        .map_err(SealError::Ruleset)?
        // the rights are handled, all of them; a rule on a file takes those of them that a file can have
        .set_compatibility(CompatLevel::BestEffort);
    let root = directories::open(CWD, OsStr::new("/")).map_err(|source| list_error(Path::new("/"), source))?;
    // a directory or a socket is no database, wherever it is made; neither is a way to put another in a database's place, for
    // that takes the right to remove or to refer, too
    let harmless = AccessFs::MakeDir | AccessFs::MakeSock;
    let ruleset = ruleset
        .add_rule(PathBeneath::new(&root, harmless))
        .map_err(|source| SealError::Grant { path: PathBuf::from("/"), source })?;
    let mut granting = Granting { directories, kept: BTreeSet::new() };
    let ruleset = granting.grant_children(ruleset, &root, Path::new("/"), &sealed)?;
    let status = grant_standard_streams(ruleset, &granting.kept)
        .no_new_privs(false)
        // from Linux 6.15 the kernel's audit log tells each refusal; older kernels leave it out
        .log_new_exec(true)
        .and_then(RulesetCreated::restrict_self)
        .map_err(SealError::Restrict)?;
    if status.ruleset == landlock::RulesetStatus::NotEnforced { Err(SealError::NotEnforced) } else { Ok(()) }
}

/// proc_pid_mountinfo(5), which the kernel makes anew for each read(2).
fn mountinfo() -> std::io::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(1 << 16);
    File::open("/proc/self/mountinfo")?.read_to_end(&mut text)?;
    Ok(text)
}

/// Device and inode number.
type Identity = (u64, u64);

/// What is known while rights are granted.
struct Granting {
    directories: Directories,
    /// The sealed objects, and what lies directly in those that are directories.
    kept: BTreeSet<Identity>,
}

impl Granting {
    /// Grants writing on every child of `directory`, which lies at `path`, but the `sealed` ones, and goes on into those that lead further.
    fn grant_children(
        &mut self,
        mut ruleset: RulesetCreated,
        directory: &OwnedFd,
        path: &Path,
        sealed: &Sealed,
    ) -> Result<RulesetCreated, SealError> {
        let entries = self.directories.entries(path).map_err(|source| list_error(path, source))?;
        for (name, kind) in &*entries {
            match sealed.names.get(name) {
                // symbolic links need no right: what counts is where they lead
                None if *kind == FileType::Symlink => {}
                None => {
                    ruleset = grant(ruleset, directory, name)
                        .map_err(|source| SealError::Grant { path: path.join(name), source })?;
                }
                Some(further) if !further.names.is_empty() => match directories::open(directory, name) {
                    Ok(directory) => {
                        ruleset = self.grant_children(ruleset, &directory, &path.join(name), further)?;
                    }
                    // a link or a file where a directory should be: nothing below it, and it stays sealed itself
                    Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => {}
                    Err(source) => return Err(list_error(&path.join(name), source)),
                },
                Some(_) => self.keep(directory, name, *kind),
            }
        }
        Ok(ruleset)
    }

    fn keep(&mut self, directory: &OwnedFd, name: &OsStr, kind: FileType) {
        self.kept.extend(identity(directory, name));
        if !matches!(kind, FileType::Directory | FileType::Unknown) {
            return;
        }
        let Ok(inside) = directories::open(directory, name) else { return };
        let entries = directories::list(&inside).unwrap_or_default();
        self.kept.extend(entries.keys().filter_map(|name| identity(&inside, name)));
    }
}

/// Of what `name` in `directory` is itself, link or not.
fn identity(directory: &OwnedFd, name: &OsStr) -> Option<Identity> {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok().map(|status| identity_of(&status))
}

const fn identity_of(status: &Stat) -> Identity {
    (status.st_dev, status.st_ino)
}

/// Grants writing on what the standard streams lead to: a file or terminal from outside the container is below none of its
/// directories, and `/dev/stdout` opens it anew. Never on a database.
fn grant_standard_streams(mut ruleset: RulesetCreated, kept: &BTreeSet<Identity>) -> RulesetCreated {
    for number in 0..3 {
        let path = format!("/proc/self/fd/{number}");
        let Ok(stream) = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else { continue };
        let Ok(status) = rustix::fs::fstat(&stream) else { continue };
        let kind = FileType::from_raw_mode(status.st_mode);
        if !matches!(kind, FileType::RegularFile | FileType::CharacterDevice) || kept.contains(&identity_of(&status)) {
            // pipes and sockets need no right
            continue;
        }
        let rights = AccessFs::from_write(SEAL_ABI) & AccessFs::from_file(SEAL_ABI);
        match (&mut ruleset).add_rule(PathBeneath::new(stream, rights)) {
            // one that cannot be granted stays as the rest of the seal has it
            Ok(_) | Err(_) => {}
        }
    }
    ruleset
}

/// Grants writing on one child and all below it.
fn grant(ruleset: RulesetCreated, directory: &OwnedFd, name: &OsStr) -> Result<RulesetCreated, landlock::RulesetError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(child) = rustix::fs::openat(directory, name, flags, Mode::empty()) else {
        // gone meanwhile, or out of this user's reach: no right is the safe side
        return Ok(ruleset);
    };
    ruleset.add_rule(PathBeneath::new(child, AccessFs::from_write(SEAL_ABI)))
}

fn list_error(path: &Path, source: Errno) -> SealError {
    SealError::List { path: path.to_owned(), source }
}

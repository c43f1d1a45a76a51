//! A Landlock seal: everything in the container stays as writable as it was, but the account databases and the directories
//! on the way to them.
//!
//! Landlock grants and never denies (landlock(7)), so the seal grants all writing rights on every child of `/` except the
//! directories that lead to a database, there on every child except the next step, and so on. A *sealed directory* (`/`, `/etc`)
//! has no right of its own but to make directories and sockets in it: nothing else can be created, removed or renamed directly in it, while existing files in it, as
//! `/etc/hosts`, can still be written in place. Needs Landlock ABI 3 (Linux 6.2: LANDLOCK_ACCESS_FS_TRUNCATE).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
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
use nix::dir::Type;
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::fcntl::AtFlags;
use nix::fcntl::OFlag;
use nix::sys::stat::FileStat;
use nix::sys::stat::Mode;
use nix::sys::stat::SFlag;

use crate::launch::sealed_tree::Sealed;
use crate::launch::sealed_tree::is_dots;
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
    let sealed = Sealed::of(databases, &mountinfo);
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_write(SEAL_ABI))
        .and_then(Ruleset::create)
        .map_err(SealError::Ruleset)?
        // the rights are handled, all of them; a rule on a file takes those of them that a file can have
        .set_compatibility(CompatLevel::BestEffort);
    let root = open_directory(AT_FDCWD, OsStr::new("/")).map_err(|source| list_error(Path::new("/"), source))?;
    let mut kept = BTreeSet::new();
    // a directory or a socket is no database, wherever it is made; neither is a way to put another in a database's place, for
    // that takes the right to remove or to refer, too
    let harmless = AccessFs::MakeDir | AccessFs::MakeSock;
    let ruleset = ruleset
        .add_rule(PathBeneath::new(&root, harmless))
        .map_err(|source| SealError::Grant { path: PathBuf::from("/"), source })?;
    let ruleset = grant_children(ruleset, root, Path::new("/"), &sealed, &mut kept)?;
    let status = grant_standard_streams(ruleset, &kept)
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

/// Grants writing on every child of `directory` but the `sealed` ones, and goes on into those that lead further.
fn grant_children(
    mut ruleset: RulesetCreated,
    directory: OwnedFd,
    path: &Path,
    sealed: &Sealed,
    kept: &mut BTreeSet<Identity>,
) -> Result<RulesetCreated, SealError> {
    let mut listing = nix::dir::Dir::from_fd(directory).map_err(|source| list_error(path, source))?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let entry = entry.map_err(|source| list_error(path, source))?;
        names.push((OsStr::from_bytes(entry.file_name().to_bytes()).to_owned(), entry.file_type()));
    }
    for (name, kind) in names.iter().filter(|(name, _)| !is_dots(name)) {
        match sealed.names.get(name) {
            // symbolic links need no right: what counts is where they lead
            None if *kind == Some(Type::Symlink) => {}
            None => {
                ruleset = grant(ruleset, listing.as_fd(), name)
                    .map_err(|source| SealError::Grant { path: path.join(name), source })?;
            }
            Some(further) if !further.names.is_empty() => match open_directory(listing.as_fd(), name) {
                Ok(directory) => ruleset = grant_children(ruleset, directory, &path.join(name), further, kept)?,
                // a link or a file where a directory should be: nothing below it, and it stays sealed itself
                Err(Errno::ENOTDIR | Errno::ELOOP | Errno::ENOENT) => {}
                Err(source) => return Err(list_error(&path.join(name), source)),
            },
            Some(_) => keep(listing.as_fd(), name, kept),
        }
    }
    Ok(ruleset)
}

/// Device and inode number.
type Identity = (u64, u64);

/// Remembers a sealed object, and what lies directly in it when it is a directory.
fn keep(directory: impl AsFd, name: &OsStr, kept: &mut BTreeSet<Identity>) {
    let identity = |status: FileStat| (status.st_dev, status.st_ino);
    kept.extend(nix::sys::stat::fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok().map(identity));
    let Ok(inside) = open_directory(directory, name).and_then(nix::dir::Dir::from_fd) else { return };
    let mut inside = inside;
    let names: Vec<OsString> =
        inside.iter().flatten().map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned()).collect();
    for name in names.iter().filter(|name| !is_dots(name)) {
        let status = nix::sys::stat::fstatat(inside.as_fd(), name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        kept.extend(status.ok().map(identity));
    }
}

/// Grants writing on what the standard streams lead to: a file or terminal from outside the container is below none of its
/// directories, and `/dev/stdout` opens it anew. Never on a database.
fn grant_standard_streams(mut ruleset: RulesetCreated, kept: &BTreeSet<Identity>) -> RulesetCreated {
    for number in 0..3 {
        let path = format!("/proc/self/fd/{number}");
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let Ok(stream) = nix::fcntl::open(path.as_str(), flags, Mode::empty()) else { continue };
        let Ok(status) = nix::sys::stat::fstat(&stream) else { continue };
        let kind = SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits());
        if !matches!(kind, SFlag::S_IFREG | SFlag::S_IFCHR) || kept.contains(&(status.st_dev, status.st_ino)) {
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
fn grant(
    ruleset: RulesetCreated,
    directory: impl AsFd,
    name: &OsStr,
) -> Result<RulesetCreated, landlock::RulesetError> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let Ok(child) = nix::fcntl::openat(directory, name, flags, Mode::empty()) else {
        // gone meanwhile, or out of this user's reach: no right is the safe side
        return Ok(ruleset);
    };
    ruleset.add_rule(PathBeneath::new(child, AccessFs::from_write(SEAL_ABI)))
}

fn open_directory(directory: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::openat(directory, name, flags, Mode::empty())
}

fn list_error(path: &Path, source: Errno) -> SealError {
    SealError::List { path: path.to_owned(), source }
}

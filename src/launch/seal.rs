//! A Landlock seal: everything in the container stays as writable as it was, but the account databases and the directories
//! on the way to them.
//!
//! Landlock grants and never denies (landlock(7)), so the seal grants all writing rights on every child of `/` except the
//! directories that lead to a database, there on every child except the next step, and so on. A *sealed directory* (`/`, `/etc`)
//! has no right of its own: nothing can be created, removed or renamed directly in it, while existing files in it, as
//! `/etc/hosts`, can still be written in place. Needs Landlock ABI 3 (Linux 6.2: LANDLOCK_ACCESS_FS_TRUNCATE).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use landlock::ABI;
use landlock::AccessFs;
use landlock::BitFlags;
use landlock::CompatLevel;
use landlock::Compatible;
use landlock::PathBeneath;
use landlock::Ruleset;
use landlock::RulesetAttr;
use landlock::RulesetCreated;
use landlock::RulesetCreatedAttr;
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::stat::SFlag;

use crate::model::attempt::DatabasePath;

/// Whose rights the seal handles: ABI 3 is the first with all of write, truncate, remove, make and refer.
const SEAL_ABI: ABI = ABI::V3;

/// The seal could not be put in place.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Landlock is missing or too old.
    #[error("cannot create a landlock ruleset; needs Linux 6.2 with landlock in the kernel's lsm= list")]
    Ruleset(#[source] landlock::RulesetError),
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

/// What is sealed, as a tree of names from the container's root.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sealed {
    /// Sealed names in this directory; a name without names below is sealed itself, whatever it is.
    names: BTreeMap<OsString, Sealed>,
}

impl Sealed {
    fn insert(&mut self, path: &Path) {
        let mut directory = self;
        for component in path.components() {
            if let Component::Normal(name) = component {
                directory = directory.names.entry(name.to_owned()).or_default();
            }
        }
    }
}

/// Takes from this process and all it will start the right to change `databases`, for good.
///
/// # Errors
/// [`SealError`]; the process is then as free as before.
pub fn seal(databases: &[DatabasePath]) -> Result<(), SealError> {
    let mut sealed = Sealed::default();
    for path in databases.iter().flat_map(with_companions) {
        sealed.insert(&path);
        sealed.insert(&resolved(&path));
    }
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_write(SEAL_ABI))
        .and_then(Ruleset::create)
        .map_err(SealError::Ruleset)?;
    let root = open_directory(AT_FDCWD, OsStr::new("/")).map_err(|source| list_error(Path::new("/"), source))?;
    let status = grant_children(ruleset, root, Path::new("/"), &sealed)?
        .no_new_privs(false)
        // from Linux 6.15 the kernel's audit log tells each refusal; older kernels leave it out
        .set_compatibility(CompatLevel::BestEffort)
        .log_new_exec(true)
        .and_then(RulesetCreated::restrict_self)
        .map_err(SealError::Restrict)?;
    if status.ruleset == landlock::RulesetStatus::NotEnforced { Err(SealError::NotEnforced) } else { Ok(()) }
}

/// A database and the files beside it by which shadow(5) tools replace and lock it.
fn with_companions(database: &DatabasePath) -> Vec<PathBuf> {
    let path = database.as_str();
    let mut all = vec![PathBuf::from(path)];
    if !database.is_directory() {
        all.extend(["-", "+", ".lock"].iter().map(|suffix| PathBuf::from(format!("{path}{suffix}"))));
        all.extend(Path::new(path).parent().map(|directory| directory.join(".pwd.lock")));
    }
    all
}

/// How many links a path may go through (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// `path` with the symbolic links on its way followed as far as it exists, so that a database which is a link is sealed
/// where it lies, or where it would be created.
fn resolved(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let (real, missing) = existing_part(&path);
        match std::fs::read_link(real.join(missing.iter().next().unwrap_or(OsStr::new("")))) {
            Ok(target) => path = real.join(target).join(missing.iter().skip(1).collect::<PathBuf>()),
            Err(_) => return real.join(missing),
        }
    }
    path
}

/// The longest part of `path` that exists, without links, and the rest.
fn existing_part(path: &Path) -> (PathBuf, PathBuf) {
    let found = path.ancestors().find_map(|part| Some((std::fs::canonicalize(part).ok()?, part)));
    let (real, part) = found.unwrap_or((PathBuf::from("/"), Path::new("/")));
    (real, path.strip_prefix(part).unwrap_or(Path::new("")).to_owned())
}

/// Grants writing on every child of `directory` but the `sealed` ones, and goes on into those that lead further.
fn grant_children(
    mut ruleset: RulesetCreated,
    directory: OwnedFd,
    path: &Path,
    sealed: &Sealed,
) -> Result<RulesetCreated, SealError> {
    let mut listing = nix::dir::Dir::from_fd(directory).map_err(|source| list_error(path, source))?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let entry = entry.map_err(|source| list_error(path, source))?;
        names.push(OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
    }
    for name in names.iter().filter(|name| *name != "." && *name != "..") {
        let child = path.join(name);
        match sealed.names.get(name) {
            None => ruleset = grant(ruleset, listing.as_fd(), name, &child)?,
            Some(further) if !further.names.is_empty() => match open_directory(listing.as_fd(), name) {
                Ok(directory) => ruleset = grant_children(ruleset, directory, &child, further)?,
                // a link or a file where a directory should be: nothing below it, and it stays sealed itself
                Err(Errno::ENOTDIR | Errno::ELOOP | Errno::ENOENT) => {}
                Err(source) => return Err(list_error(&child, source)),
            },
            Some(_) => {}
        }
    }
    Ok(ruleset)
}

/// Grants writing on one child and all below it. Symbolic links need no right: what counts is where they lead.
fn grant(
    ruleset: RulesetCreated,
    directory: impl AsFd,
    name: &OsStr,
    path: &Path,
) -> Result<RulesetCreated, SealError> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let Ok(child) = nix::fcntl::openat(directory, name, flags, Mode::empty()) else {
        // gone meanwhile, or out of this user's reach: no right is the safe side
        return Ok(ruleset);
    };
    let Ok(status) = nix::sys::stat::fstat(&child) else {
        return Ok(ruleset);
    };
    let rights: BitFlags<AccessFs> = match SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFLNK => return Ok(ruleset),
        SFlag::S_IFDIR => AccessFs::from_write(SEAL_ABI),
        _ => AccessFs::from_write(SEAL_ABI) & AccessFs::from_file(SEAL_ABI),
    };
    ruleset
        .add_rule(PathBeneath::new(child, rights))
        .map_err(|source| SealError::Grant { path: path.to_owned(), source })
}

fn open_directory(directory: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::openat(directory, name, flags, Mode::empty())
}

fn list_error(path: &Path, source: Errno) -> SealError {
    SealError::List { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(path: &str) -> DatabasePath {
        DatabasePath::new(path).expect("a database path")
    }

    #[test]
    fn companions_are_sealed_with_a_file_and_not_with_a_directory() {
        let paths: Vec<String> =
            with_companions(&database("/etc/passwd")).iter().map(|path| path.display().to_string()).collect();
        assert_eq!(paths, ["/etc/passwd", "/etc/passwd-", "/etc/passwd+", "/etc/passwd.lock", "/etc/.pwd.lock"]);
        assert_eq!(with_companions(&database("/run/userdb/")).len(), 1);
    }

    #[test]
    fn the_tree_has_one_branch_a_component() {
        let mut sealed = Sealed::default();
        sealed.insert(Path::new("/etc/passwd"));
        sealed.insert(Path::new("/etc/security/opasswd"));
        let etc = &sealed.names[OsStr::new("etc")];
        assert_eq!(etc.names.keys().map(|name| name.display().to_string()).collect::<Vec<_>>(), ["passwd", "security"]);
        assert!(etc.names[OsStr::new("passwd")].names.is_empty());
    }

    #[test]
    fn a_database_behind_links_is_sealed_where_it_lies_even_before_it_exists() {
        let folder = tempfile::tempdir().expect("folder");
        let base = folder.path().canonicalize().expect("path");
        std::fs::create_dir(base.join("real")).expect("directory");
        std::os::unix::fs::symlink("real", base.join("etc")).expect("link");
        assert_eq!(resolved(&base.join("etc/passwd")), base.join("real/passwd"));
        std::fs::write(base.join("elsewhere"), "x").expect("file");
        std::os::unix::fs::symlink("../elsewhere", base.join("real/passwd")).expect("link");
        assert_eq!(resolved(&base.join("etc/passwd")), base.join("elsewhere"));
        assert_eq!(resolved(&base.join("no/such/file")), base.join("no/such/file"));
        std::os::unix::fs::symlink("../later/group", base.join("real/group")).expect("link");
        assert_eq!(resolved(&base.join("etc/group")), base.join("later/group"), "a link to what does not exist yet");
        std::os::unix::fs::symlink("loop", base.join("loop")).expect("link");
        assert!(resolved(&base.join("loop")).ends_with("loop"), "a loop ends");
    }
}

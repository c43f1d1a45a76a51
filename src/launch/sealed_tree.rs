//! Which names are sealed: the databases, the files beside them by which they are replaced, every symbolic link on the way to
//! one, and the same places under the other mounts that show them.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::FileType;

use crate::kernel::Errno;
use crate::launch::directories::Directories;
use crate::model::attempt::DatabasePath;

/// How many links a path may go through (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// What is sealed, as a tree of names from the container's root.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sealed {
    /// Sealed names in this directory; a name without names below is sealed itself, whatever it is.
    pub names: BTreeMap<OsString, Sealed>,
}

impl Sealed {
    /// The tree for `databases` as this process finds its root; `mountinfo` is its proc_pid_mountinfo(5).
    #[must_use]
    pub fn of(databases: &[DatabasePath], mountinfo: &[u8], directories: &mut Directories) -> Self {
        let mounts = Mounts::parse(mountinfo);
        let mut sealed = Self::default();
        let mut links = Links { directories, targets: BTreeMap::new() };
        for path in databases.iter().flat_map(with_companions) {
            sealed.insert(&path);
            for place in links.places(&path) {
                sealed.insert(&place);
                for alias in mounts.aliases(&place) {
                    sealed.insert(&alias);
                }
            }
        }
        sealed
    }

    fn insert(&mut self, path: &Path) {
        let mut directory = self;
        for component in path.components() {
            if let Component::Normal(name) = component {
                directory = directory.names.entry(name.to_owned()).or_default();
            }
        }
    }
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

/// The symbolic links on the ways. By the bytes of their paths: to compare paths by their components took longer than all calls of the
/// kernel here.
struct Links<'a> {
    directories: &'a mut Directories,
    /// What each contains that was met; `None` for what is none.
    targets: BTreeMap<OsString, Option<PathBuf>>,
}

impl Links<'_> {
    /// What the link `name` in `directory` contains; `None` when it is none.
    fn read(&mut self, directory: &Path, name: &OsStr) -> Option<PathBuf> {
        let kind = match self.directories.entries(directory) {
            Ok(entries) => entries.get(name).copied(),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => None,
            // who may not list it may still go through it
            Err(_) => Some(FileType::Unknown),
        };
        if !matches!(kind, Some(FileType::Symlink | FileType::Unknown)) {
            return None;
        }
        let path = directory.join(name);
        if let Some(known) = self.targets.get(path.as_os_str()) {
            return known.clone();
        }
        let target = std::fs::read_link(&path).ok();
        self.targets.insert(path.into_os_string(), target.clone());
        target
    }

    /// Every symbolic link that is followed on the way of `path`, where it lies, and at last the place that the path leads to,
    /// which need not exist. Whoever may replace one of the links decides what the path means.
    fn places(&mut self, path: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut place = PathBuf::from("/");
        let mut pending: VecDeque<OsString> = names(path).collect();
        let mut links = 0;
        while let Some(name) = pending.pop_front() {
            if name == ".." {
                place.pop();
                continue;
            }
            match self.read(&place, &name) {
                Some(target) if links < MAX_LINKS => {
                    links += 1;
                    found.push(place.join(name));
                    if target.is_absolute() {
                        place = PathBuf::from("/");
                    }
                    for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                        pending.push_front(name);
                    }
                }
                _ => place.push(name),
            }
        }
        found.push(place);
        found
    }
}

fn names(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    })
}

/// One mount, proc_pid_mountinfo(5).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    device: Vec<u8>,
    /// Which directory or file of the file system it shows.
    root: PathBuf,
    place: PathBuf,
}

/// The mounts of this process, in their order.
struct Mounts(Vec<Mount>);

impl Mounts {
    fn parse(text: &[u8]) -> Self {
        let mounts = text.split(|byte| *byte == b'\n').filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b' ').skip(2);
            let device = fields.next()?.to_vec();
            Some(Mount { device, root: unescaped(fields.next()?), place: unescaped(fields.next()?) })
        });
        Self(mounts.collect())
    }

    /// Where else the mounts show what lies at `path`.
    fn aliases(&self, path: &Path) -> Vec<PathBuf> {
        let path = path.as_os_str().as_bytes();
        let holding = self.0.iter().filter_map(|mount| Some((mount, below(path, mount.place.as_os_str().as_bytes())?)));
        let Some((holding, rest)) = holding.min_by_key(|(_, rest)| rest.len()) else { return Vec::new() };
        let in_file_system = join(holding.root.as_os_str().as_bytes(), rest);
        let others = self.0.iter().filter(|mount| mount.device == holding.device);
        let shown = others.filter_map(|mount| {
            let rest = below(&in_file_system, mount.root.as_os_str().as_bytes())?;
            Some(join(mount.place.as_os_str().as_bytes(), rest))
        });
        shown.filter(|alias| alias != path).map(|alias| PathBuf::from(OsString::from_vec(alias))).collect()
    }
}

/// What is left of `path` below `folder`, or of `folder` itself; by bytes, for paths without double slashes and dots.
fn below<'a>(path: &'a [u8], folder: &[u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(folder.strip_suffix(b"/").unwrap_or(folder))?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
}

/// The path of `rest` below `folder`, or of `folder` itself.
fn join(folder: &[u8], rest: &[u8]) -> Vec<u8> {
    let between: &[u8] = if rest.is_empty() || folder.ends_with(b"/") { b"" } else { b"/" };
    [folder, between, rest].concat()
}

/// Blanks, tabs, newlines and backslashes are written as `\040` and so on (proc_pid_mountinfo(5)).
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
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
    fn every_link_on_the_way_is_sealed_where_it_lies() {
        let folder = tempfile::tempdir().expect("folder");
        let base = folder.path().canonicalize().expect("path");
        std::fs::create_dir_all(base.join("real/deep")).expect("directory");
        for (target, link) in [("real", "etc"), ("../elsewhere", "real/passwd"), ("../later/group", "real/group")] {
            std::os::unix::fs::symlink(target, base.join(link)).expect("link");
        }
        std::os::unix::fs::symlink(base.join("etc/deep/../shadow"), base.join("real/shadow-link")).expect("link");
        std::os::unix::fs::symlink("loop", base.join("loop")).expect("link");
        let below = |path: &str| -> Vec<String> {
            let mut directories = Directories::default();
            let mut links = Links { directories: &mut directories, targets: BTreeMap::new() };
            let all = links.places(&base.join(path)).into_iter();
            all.map(|place| place.strip_prefix(&base).expect("below").display().to_string()).collect()
        };
        assert_eq!(below("etc/hosts"), ["etc", "real/hosts"]);
        assert_eq!(below("etc/passwd"), ["etc", "real/passwd", "elsewhere"]);
        assert_eq!(below("etc/group"), ["etc", "real/group", "later/group"], "a link to what does not exist yet");
        assert_eq!(below("etc/shadow-link"), ["etc", "real/shadow-link", "etc", "real/shadow"]);
        assert_eq!(below("no/such/file"), ["no/such/file"]);
        assert_eq!(below("loop").len(), MAX_LINKS + 1, "a loop ends");
    }

    #[test]
    fn what_other_mounts_show_is_found() {
        let mounts = Mounts::parse(
            b"1 0 0:5 / / rw - overlay o rw\n\
              2 1 0:9 /vol/etc /etc rw shared:1 - ext4 d rw\n\
              3 1 0:9 /vol /data rw - ext4 d rw\n\
              4 1 0:9 /vol/etc/passwd /srv/a\\040b rw - ext4 d rw\n\
              5 1 0:9 /other /other rw - ext4 d rw\n\
              6 1 0:5 /var/lib /copy rw - overlay o rw\n",
        );
        let shown = |path: &str| -> Vec<String> {
            mounts.aliases(Path::new(path)).iter().map(|alias| alias.display().to_string()).collect()
        };
        assert_eq!(shown("/etc/passwd"), ["/data/etc/passwd", "/srv/a b"]);
        assert_eq!(shown("/etc/group"), ["/data/etc/group"]);
        assert_eq!(shown("/var/lib/extrausers"), ["/copy/extrausers"]);
        assert_eq!(shown("/run/userdb"), Vec::<String>::new());
    }
}

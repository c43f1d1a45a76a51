//! Which names are sealed: the databases, the files beside them by which they are replaced, every symbolic link on the way to
//! one, and the same places under the other mounts that show them.

use alloc::collections::BTreeMap;
use alloc::collections::VecDeque;
use alloc::ffi::CString;
use alloc::vec::Vec;

use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::database_path::DatabasePath;
use crate::directories::Directories;
use crate::paths::below;
use crate::paths::join;
use crate::paths::names;
use crate::paths::parent;

/// How many links a path may go through (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// What is sealed, as a tree of names from the container's root.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sealed {
    /// Sealed names in this directory; a name without names below is sealed itself, whatever it is.
    pub names: BTreeMap<Vec<u8>, Sealed>,
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

    fn insert(&mut self, path: &[u8]) {
        let mut directory = self;
        for name in names(path) {
            directory = directory.names.entry(name.to_vec()).or_default();
        }
    }
}

/// A database and the files beside it by which shadow(5) tools replace and lock it.
fn with_companions(database: &DatabasePath) -> Vec<Vec<u8>> {
    let path = database.as_str().as_bytes();
    let mut all = [path.to_vec()].to_vec();
    if !database.is_directory() {
        all.extend(["-", "+", ".lock"].iter().map(|suffix| [path, suffix.as_bytes()].concat()));
        all.push(join(parent(path), b".pwd.lock"));
    }
    all
}

/// The symbolic links on the ways.
struct Links<'a> {
    directories: &'a mut Directories,
    /// What each contains that was met; `None` for what is none.
    targets: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Links<'_> {
    /// What the link `name` in `directory` contains; `None` when it is none.
    fn read(&mut self, directory: &[u8], name: &[u8]) -> Option<Vec<u8>> {
        let kind = match self.directories.entries(directory) {
            Ok(entries) => entries.get(name).copied(),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => None,
            // who may not list it may still go through it
            Err(_) => Some(FileType::Unknown),
        };
        if !matches!(kind, Some(FileType::Symlink | FileType::Unknown)) {
            return None;
        }
        let path = join(directory, name);
        if let Some(known) = self.targets.get(&path) {
            return known.clone();
        }
        let target = rustix::fs::readlinkat(CWD, path.as_slice(), Vec::new()).ok().map(CString::into_bytes);
        self.targets.insert(path, target.clone());
        target
    }

    /// Every symbolic link that is followed on the way of `path`, where it lies, and at last the place that the path leads to,
    /// which need not exist. Whoever may replace one of the links decides what the path means.
    fn places(&mut self, path: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let mut place = b"/".to_vec();
        let mut pending: VecDeque<Vec<u8>> = names(path).map(<[u8]>::to_vec).collect();
        let mut links = 0;
        while let Some(name) = pending.pop_front() {
            if name == b".." {
                place.truncate(parent(&place).len());
                continue;
            }
            match self.read(&place, &name) {
                Some(target) if links < MAX_LINKS => {
                    links += 1;
                    found.push(join(&place, &name));
                    if target.starts_with(b"/") {
                        place = b"/".to_vec();
                    }
                    for name in names(&target).rev() {
                        pending.push_front(name.to_vec());
                    }
                }
                _ => place = join(&place, &name),
            }
        }
        found.push(place);
        found
    }
}

/// One mount, proc_pid_mountinfo(5).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    device: Vec<u8>,
    /// Which directory or file of the file system it shows.
    root: Vec<u8>,
    place: Vec<u8>,
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
    fn aliases(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let holding = self.0.iter().filter_map(|mount| Some((mount, below(path, &mount.place)?)));
        let Some((holding, rest)) = holding.min_by_key(|(_, rest)| rest.len()) else { return Vec::new() };
        let in_file_system = join(&holding.root, rest);
        let others = self.0.iter().filter(|mount| mount.device == holding.device);
        let shown = others.filter_map(|mount| Some(join(&mount.place, below(&in_file_system, &mount.root)?)));
        shown.filter(|alias| alias != path).collect()
    }
}

/// Blanks, tabs, newlines and backslashes are written as `\040` and so on (proc_pid_mountinfo(5)).
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| core::str::from_utf8(digits).ok());
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
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: Vec<u8>) -> String {
        String::from_utf8(path).expect("text")
    }

    fn database(path: &str) -> DatabasePath {
        DatabasePath::new(path).expect("a database path")
    }

    #[test]
    fn companions_are_sealed_with_a_file_and_not_with_a_directory() {
        let paths: Vec<String> = with_companions(&database("/etc/passwd")).into_iter().map(text).collect();
        assert_eq!(paths, ["/etc/passwd", "/etc/passwd-", "/etc/passwd+", "/etc/passwd.lock", "/etc/.pwd.lock"]);
        assert_eq!(with_companions(&database("/run/userdb/")).len(), 1);
    }

    #[test]
    fn the_tree_has_one_branch_a_component() {
        let mut sealed = Sealed::default();
        sealed.insert(b"/etc/passwd");
        sealed.insert(b"/etc/security/opasswd");
        let etc = &sealed.names[b"etc".as_slice()];
        assert_eq!(etc.names.keys().cloned().map(text).collect::<Vec<_>>(), ["passwd", "security"]);
        assert!(etc.names[b"passwd".as_slice()].names.is_empty());
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
            let all = links.places(base.join(path).as_os_str().as_encoded_bytes()).into_iter();
            let base = base.as_os_str().as_encoded_bytes();
            all.map(|place| text(super::below(&place, base).expect("below").to_vec())).collect()
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
        let shown = |path: &str| -> Vec<String> { mounts.aliases(path.as_bytes()).into_iter().map(text).collect() };
        assert_eq!(shown("/etc/passwd"), ["/data/etc/passwd", "/srv/a b"]);
        assert_eq!(shown("/etc/group"), ["/data/etc/group"]);
        assert_eq!(shown("/var/lib/extrausers"), ["/copy/extrausers"]);
        assert_eq!(shown("/run/userdb"), Vec::<String>::new());
    }
}

//! A root file system as it will be: a folder, with other folders and files mounted into it that are not mounted yet.
//!
//! Looks paths up in it as path_resolution(7) has it, component by component, every link followed inside that root and
//! nothing opened but with `O_PATH`. What is mounted and cannot be known beforehand (a tmpfs, a device) hides what is below
//! it. Given `/proc/PID/root` and no mounts, it looks into the root of a running container.

use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::Stat;

use crate::kernel::Errno;
use crate::kernel::process::read_bounded;

/// How many links one path may go through (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// How many components are looked at for one path, those of links included.
const MAX_COMPONENTS: usize = 4096;

/// For whom directories must be searchable and files executable. Ids are those of our own user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// Group ids.
    pub gids: Vec<u32>,
    /// CAP_DAC_OVERRIDE counts: directories can be searched, and files executed that anybody may execute (capabilities(7)).
    pub overrides: bool,
}

impl Credentials {
    fn may_execute(&self, status: &Stat) -> bool {
        let mode = status.st_mode;
        let directory = FileType::from_raw_mode(mode) == FileType::Directory;
        if self.overrides && (directory || mode & 0o111 != 0) {
            return true;
        }
        let bit = if status.st_uid == self.uid {
            0o100
        } else if self.gids.contains(&status.st_gid) {
            0o010
        } else {
            0o001
        };
        mode & bit != 0
    }
}

/// What is at a path.
#[derive(Debug)]
pub struct Object {
    descriptor: Rc<OwnedFd>,
    status: Stat,
}

impl Object {
    /// Whether it is a regular file that `who` may execute.
    #[must_use]
    pub fn is_program_for(&self, who: &Credentials) -> bool {
        self.is_file() && who.may_execute(&self.status)
    }

    /// Whether it is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        FileType::from_raw_mode(self.status.st_mode) == FileType::RegularFile
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        FileType::from_raw_mode(self.status.st_mode) == FileType::Directory
    }

    /// Its first bytes, at most `limit`; nothing of anything but a regular file.
    ///
    /// # Errors
    /// open(2)'s and read(2)'s.
    pub fn head(&self, limit: usize) -> Result<Vec<u8>, Errno> {
        if !self.is_file() {
            return Err(Errno::INVAL);
        }
        // a regular file for certain: it was looked at by this very descriptor
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&*self.descriptor));
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        read_bounded(&rustix::fs::open(path, flags, Mode::empty())?, limit)
    }
}

/// Something that will be mounted.
#[derive(Debug)]
struct Mounted {
    names: Vec<Vec<u8>>,
    /// What it shows; `None` when that cannot be known.
    content: Option<Rc<OwnedFd>>,
}

/// The root.
#[derive(Debug)]
pub struct AssembledRoot {
    root: Rc<OwnedFd>,
    mounts: Vec<Mounted>,
}

/// A name and what it leads to; nothing for a directory that the runtime will make on the way to a mount.
type Step = (Vec<u8>, Option<Rc<OwnedFd>>);

/// Opens what `path` of our own root leads to, for its place only.
fn open_place(path: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> + '_ {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").map(<[u8]>::to_vec)
}

impl AssembledRoot {
    /// The root at the path `folder` of ours, with nothing mounted into it.
    ///
    /// # Errors
    /// open(2)'s.
    pub fn open(folder: &[u8]) -> Result<Self, Errno> {
        Ok(Self { root: Rc::new(open_place(folder)?), mounts: Vec::new() })
    }

    /// Mounts `source` (a path of ours; `None` for what cannot be known beforehand) at `destination`, after and over all
    /// that was mounted before. A destination that does not exist is made by the runtime; one that cannot be looked up is
    /// taken as it is written.
    pub fn mount(&mut self, destination: &[u8], source: Option<&[u8]>) {
        let content = source.and_then(|source| open_place(source).ok()).map(Rc::new);
        let names: Vec<Vec<u8>> = self.walk(&[], destination, None, true).map_or_else(
            |_| components(destination).collect(),
            |(steps, missing)| steps.into_iter().map(|(name, _)| name).chain(missing).collect(),
        );
        self.mounts.retain(|earlier: &Mounted| !earlier.names.starts_with(&names));
        match content {
            Some(content) if names.is_empty() => self.root = content,
            content => self.mounts.push(Mounted { names, content }),
        }
    }

    /// What `path` leads to for `who`, from the directory `base` when it is relative.
    ///
    /// # Errors
    /// What the kernel would answer: `ENOENT`, `ENOTDIR`, `EACCES`, `ELOOP`; `EXDEV` for what lies on a mount whose content
    /// cannot be known.
    pub fn find(&self, base: &[u8], path: &[u8], who: &Credentials) -> Result<Object, Errno> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        let (steps, _) = self.walk(base, path, Some(who), false)?;
        let last = steps.last().map_or_else(|| Some(Rc::clone(&self.root)), |(_, descriptor)| descriptor.clone());
        let descriptor = last.ok_or(Errno::ISDIR)?;
        let status = rustix::fs::fstat(&*descriptor)?;
        if path.ends_with(b"/") && FileType::from_raw_mode(status.st_mode) != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        Ok(Object { descriptor, status })
    }

    /// Walks down. With `tolerant`, what is missing at the end is handed back by name instead of being an error.
    fn walk(
        &self,
        base: &[u8],
        path: &[u8],
        who: Option<&Credentials>,
        tolerant: bool,
    ) -> Result<(Vec<Step>, Vec<Vec<u8>>), Errno> {
        let mut pending: Vec<Vec<u8>> = components(path).rev().collect();
        if !path.starts_with(b"/") {
            pending.extend(components(base).rev());
        }
        let mut steps: Vec<Step> = Vec::new();
        let mut links = 0_usize;
        let mut seen = 0_usize;
        while let Some(name) = pending.pop() {
            seen = seen.saturating_add(1);
            if seen > MAX_COMPONENTS {
                return Err(Errno::NAMETOOLONG);
            }
            if name == b".." {
                steps.pop();
                continue;
            }
            let child = match self.child(&steps, &name, who) {
                Ok(child) => child,
                Err(Errno::NOENT) if tolerant => {
                    pending.push(name);
                    pending.reverse();
                    return Ok((steps, pending));
                }
                Err(errno) => return Err(errno),
            };
            let Some(link) = child.as_ref().filter(|child| is_link(child)) else {
                steps.push((name, child));
                continue;
            };
            links = links.saturating_add(1);
            if links > MAX_LINKS {
                return Err(Errno::LOOP);
            }
            let target = rustix::fs::readlinkat(&**link, c"", Vec::new())?.into_bytes();
            if target.starts_with(b"/") {
                steps.clear();
            }
            pending.extend(components(&target).rev());
        }
        Ok((steps, pending))
    }

    /// The entry `name` of the directory that `steps` lead to: what is mounted there, or what lies there.
    fn child(&self, steps: &[Step], name: &[u8], who: Option<&Credentials>) -> Result<Option<Rc<OwnedFd>>, Errno> {
        let directory = steps.last().map_or(Some(&self.root), |(_, descriptor)| descriptor.as_ref());
        if let (Some(who), Some(directory)) = (who, directory) {
            let status = rustix::fs::fstat(&**directory)?;
            if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
                return Err(Errno::NOTDIR);
            }
            if !who.may_execute(&status) {
                return Err(Errno::ACCESS);
            }
        }
        let names: Vec<&[u8]> = steps.iter().map(|(name, _)| name.as_slice()).chain([name]).collect();
        if let Some(mounted) = self.mounts.iter().rev().find(|mount| mount.names == names) {
            return mounted.content.clone().map(Some).ok_or(Errno::XDEV);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match directory {
            Some(directory) => rustix::fs::openat(directory.as_fd(), name, flags, Mode::empty()),
            None => Err(Errno::NOENT),
        };
        let leads_on = |mount: &Mounted| mount.names.iter().zip(&names).filter(|(left, right)| left == *right).count();
        match found {
            Err(Errno::NOENT) if self.mounts.iter().any(|mount| leads_on(mount) == names.len()) => Ok(None),
            found => found.map(|descriptor| Some(Rc::new(descriptor))),
        }
    }
}

fn is_link(descriptor: &OwnedFd) -> bool {
    rustix::fs::fstat(descriptor).is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::Symlink)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::fs::symlink;

    fn root() -> Credentials {
        Credentials { uid: 0, gids: vec![0], overrides: true }
    }

    fn tree() -> (tempfile::TempDir, AssembledRoot) {
        let folder = tempfile::tempdir().expect("folder");
        for (file, mode) in [("bin/tool", 0o755), ("bin/plain", 0o644), ("data/inside", 0o700), ("volume/app", 0o755)] {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().expect("parent")).expect("directory");
            fs::write(&path, file).expect("file");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode");
        }
        symlink("/bin", folder.path().join("sbin")).expect("link");
        symlink("../../../bin/tool", folder.path().join("data/up")).expect("link");
        symlink("loop", folder.path().join("loop")).expect("link");
        fs::set_permissions(folder.path().join("data"), fs::Permissions::from_mode(0o711)).expect("mode");
        let root = AssembledRoot::open(folder.path().as_os_str().as_bytes()).expect("open");
        (folder, root)
    }

    fn text(root: &AssembledRoot, base: &str, path: &str, who: &Credentials) -> Result<String, Errno> {
        let object = root.find(base.as_bytes(), path.as_bytes(), who)?;
        Ok(String::from_utf8(object.head(100)?).expect("text"))
    }

    #[test]
    fn links_and_dots_stay_inside() {
        let (_folder, tree) = tree();
        for (base, path, expected) in [
            ("/", "/bin/tool", Ok("bin/tool")),
            ("/", "sbin/tool", Ok("bin/tool")),
            ("/bin", "./tool", Ok("bin/tool")),
            ("/bin", "../../../data/up", Ok("bin/tool")),
            ("/", "/missing", Err(Errno::NOENT)),
            ("/", "/bin/tool/", Err(Errno::NOTDIR)),
            ("/", "/bin/tool/x", Err(Errno::NOTDIR)),
            ("/", "/loop", Err(Errno::LOOP)),
            ("/", "/bin", Err(Errno::INVAL)),
            ("/", "", Err(Errno::NOENT)),
        ] {
            assert_eq!(text(&tree, base, path, &root()), expected.map(str::to_owned), "{base} {path}");
        }
    }

    #[test]
    fn who_may_search_and_execute_is_asked() {
        let (_folder, tree) = tree();
        let nobody = Credentials { uid: 65534, gids: vec![65534], overrides: false };
        let program = |path: &str, who: &Credentials| {
            tree.find(b"/", path.as_bytes(), who).map(|object| object.is_program_for(who))
        };
        assert_eq!(program("/bin/tool", &nobody), Ok(true));
        assert_eq!(program("/bin/plain", &root()), Ok(false));
        assert_eq!(program("/data/inside", &root()), Ok(true));
        assert_eq!(program("/data/inside", &nobody), Ok(false));
        assert_eq!(program("/bin", &root()), Ok(false));
    }

    #[test]
    fn what_is_mounted_hides_what_is_there() {
        let (folder, mut tree) = tree();
        let volume = folder.path().join("volume");
        tree.mount(b"/opt/new", Some(volume.as_os_str().as_bytes()));
        assert_eq!(
            text(&tree, "/", "/opt/new/app", &root()).as_deref(),
            Ok("volume/app"),
            "/opt is made by the runtime"
        );
        assert_eq!(text(&tree, "/", "/opt/other", &root()), Err(Errno::NOENT));
        tree.mount(b"/sbin", Some(volume.as_os_str().as_bytes()));
        assert_eq!(text(&tree, "/", "/bin/app", &root()).as_deref(), Ok("volume/app"), "through the link");
        assert_eq!(text(&tree, "/", "/bin/tool", &root()), Err(Errno::NOENT));
        tree.mount(b"/data", None);
        assert_eq!(text(&tree, "/", "/data/inside", &root()), Err(Errno::XDEV));
        let file = folder.path().join("volume/app");
        tree.mount(b"/bin/plain", Some(file.as_os_str().as_bytes()));
        assert_eq!(text(&tree, "/", "/bin/plain", &root()).as_deref(), Ok("volume/app"));
        tree.mount(b"/", Some(volume.as_os_str().as_bytes()));
        assert_eq!(text(&tree, "/", "/bin/plain", &root()), Err(Errno::NOENT), "all that was mounted before is hidden");
    }
}

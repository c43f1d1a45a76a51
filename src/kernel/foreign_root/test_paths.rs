//! Random paths made by looking: each component is mostly one that the target's kernel has just led to, so that most of them lead to
//! an object, through links, mounts and procfs.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::Mode;
use rustix::fs::OFlags;

use crate::kernel::Errno;
use crate::kernel::foreign_root::test_target::CLOSED_DESCRIPTOR;
use crate::kernel::foreign_root::test_target::LOOK_UP_BASE;
use crate::kernel::foreign_root::test_target::LOOK_UP_FOLLOWING;
use crate::kernel::foreign_root::test_target::LOOK_UP_LINK;
use crate::kernel::foreign_root::test_target::rustix_base;
use crate::kernel::foreign_root::test_world::Random;
use crate::kernel::foreign_root::test_world::blind_component;
use crate::kernel::foreign_root::test_world::blind_path;

const PROC_SUPER_MAGIC: u64 = 0x9fa0;
const PATH_MAX: usize = 4096;

/// One question.
pub struct Asked {
    /// One of the `LOOK_UP` numbers.
    pub what: u8,
    /// Descriptor, or -100 for the working directory.
    pub base: i32,
    /// The path.
    pub path: Vec<u8>,
}

type Names = Rc<Vec<Vec<u8>>>;

/// Makes paths in the target.
pub struct PathMaker {
    /// What is to come.
    pub random: Random,
    descriptors: Vec<i32>,
    /// Pids, in whatever namespace, of processes that live as long as the test.
    family: Vec<u32>,
    /// Directories that others change meanwhile, and what is stable in them.
    foreign: Vec<((u64, u64), Names)>,
    listed: HashMap<(u64, u64), Names>,
}

fn owned(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

impl PathMaker {
    /// Begins outside the target's root: `folder` is what the test made in a directory that other tests use too.
    pub fn new(seed: u64, folder: &std::path::Path, family: Vec<u32>) -> std::io::Result<Self> {
        let host_root = rustix::fs::stat("/")?;
        let above = rustix::fs::stat(folder.parent().unwrap_or(folder))?;
        let own = folder.file_name().map(|name| name.as_encoded_bytes().to_vec()).into_iter().collect();
        let of_host = owned(&["etc", "usr", "bin", "lib", "sbin", "proc", "dev", "missing"]);
        let foreign = vec![
            ((host_root.st_dev, host_root.st_ino), Rc::new(of_host)),
            ((above.st_dev, above.st_ino), Rc::new(own)),
        ];
        Ok(Self { random: Random(seed), descriptors: Vec::new(), family, foreign, listed: HashMap::new() })
    }

    /// The descriptors that paths begin at and lead through.
    pub fn set_descriptors(&mut self, descriptors: &[i32]) {
        self.descriptors = descriptors.to_vec();
    }

    /// The next question.
    pub fn next(&mut self) -> Asked {
        let base = self.base();
        if self.random.one_in(25) {
            return Asked { what: LOOK_UP_BASE, base, path: Vec::new() };
        }
        let what = if self.random.one_in(3) { LOOK_UP_LINK } else { LOOK_UP_FOLLOWING };
        let mut path = match self.random.next(20) {
            0 | 1 => blind_path(&mut self.random, &self.descriptors).into_bytes(),
            _ => self.walked(base),
        };
        if self.random.one_in(40) {
            self.lengthen(&mut path);
        }
        Asked { what, base, path }
    }

    fn base(&mut self) -> i32 {
        match self.random.next(40) {
            0 => CLOSED_DESCRIPTOR,
            1..=9 => self.descriptors[self.random.next(self.descriptors.len())],
            _ => -100,
        }
    }

    /// A path along what is there.
    fn walked(&mut self, base: i32) -> Vec<u8> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let absolute = self.random.one_in(2);
        let start = if absolute {
            rustix::fs::open("/", flags, Mode::empty())
        } else {
            rustix_base(base, |base| rustix::fs::openat(base, ".", flags, Mode::empty()))
        };
        let mut path = if absolute { b"/".to_vec() } else { Vec::new() };
        let Ok(mut here) = start else {
            path.extend_from_slice(blind_component(&mut self.random).as_bytes());
            return path;
        };
        let mut name = Vec::new();
        for _ in 0..=self.random.next(7) {
            if !path.is_empty() && !path.ends_with(b"/") {
                path.extend_from_slice(self.random.pick::<str>(&["/", "/", "/", "/", "//", "/./"]).as_bytes());
            }
            let entries = self.entries(here.as_fd(), &name).unwrap_or_default();
            // rather on than to an end
            let tries = if self.random.one_in(3) { 1 } else { 3 };
            let next = (0..tries).find_map(|_| {
                name = self.component(&entries);
                rustix::fs::openat(&here, name.as_slice(), flags, Mode::empty()).ok()
            });
            path.extend_from_slice(&name);
            match next {
                Some(directory) => here = directory,
                None if self.random.one_in(12) => continue,
                None => break,
            }
        }
        if self.random.one_in(7) {
            path.extend_from_slice(self.random.pick::<str>(&["/", "//", "/.", "/.."]).as_bytes());
        }
        path
    }

    fn component(&mut self, entries: &Names) -> Vec<u8> {
        match self.random.next(20) {
            0 | 1 => b"..".to_vec(),
            2 => b".".to_vec(),
            3 => blind_component(&mut self.random).into_bytes(),
            _ if entries.is_empty() => b"..".to_vec(),
            _ => entries[self.random.next(entries.len())].clone(),
        }
    }

    /// What is in `directory`, which was reached by `name`: of procfs and of what others change only what stays.
    fn entries(&mut self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<Names, Errno> {
        let status = rustix::fs::fstat(directory)?;
        let key = (status.st_dev, status.st_ino);
        if let Some((_, names)) = self.foreign.iter().find(|(foreign, _)| *foreign == key) {
            return Ok(Rc::clone(names));
        }
        if rustix::fs::fstatfs(directory)?.f_type as u64 == PROC_SUPER_MAGIC {
            return self.entries_of_procfs(directory, name, status.st_ino);
        }
        if let Some(names) = self.listed.get(&key) {
            return Ok(Rc::clone(names));
        }
        let mut names = list(directory)?;
        // what a directory has one of among eighty is met often enough to be compared
        let share = names.len() / 16;
        for name in ["proc", "hostproc", "outerproc", "o", "o2"].map(|name| name.as_bytes().to_vec()) {
            if names.contains(&name) {
                names.extend(std::iter::repeat_n(name, share));
            }
        }
        let names = Rc::new(names);
        self.listed.insert(key, Rc::clone(&names));
        Ok(names)
    }

    fn entries_of_procfs(&mut self, directory: BorrowedFd<'_>, name: &[u8], inode: u64) -> Result<Names, Errno> {
        let mut names;
        if inode == 1 {
            names = owned(&["self", "self", "thread-self", "thread-self", "mounts", "net", "sys"]);
            names.extend(self.family.iter().map(|pid| pid.to_string().into_bytes()));
        } else if matches!(name, b"fd" | b"fdinfo") {
            names = owned(&["999"]);
            names.extend(self.descriptors.iter().map(|number| number.to_string().into_bytes()));
        } else if rustix::fs::accessat(directory, "status", rustix::fs::Access::EXISTS, rustix::fs::AtFlags::empty())
            .is_ok()
        {
            names = owned(&[
                "root",
                "root",
                "cwd",
                "cwd",
                "exe",
                "exe",
                "exe",
                "exe",
                "fd",
                "fd",
                "task",
                "ns",
                "map_files",
                "status",
                "fdinfo",
            ]);
        } else {
            names = list(directory)?;
        }
        Ok(Rc::new(names))
    }

    /// Fills up to about the longest length there is, by slashes and dots that change nothing.
    fn lengthen(&mut self, path: &mut Vec<u8>) {
        let wanted = PATH_MAX - 3 + self.random.next(4);
        let Some(at) = path.iter().position(|byte| *byte == b'/') else { return };
        let Some(missing) = wanted.checked_sub(path.len()) else { return };
        let mut filling = if self.random.one_in(2) { vec![b'/'; missing] } else { b"/.".repeat(missing / 2) };
        filling.resize(missing, b'/');
        path.splice(at..at, filling);
    }
}

/// Names in `directory`, sorted so that a seed means the same on every run.
fn list(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let readable: OwnedFd =
        rustix::fs::openat(directory, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(readable)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(name.as_slice(), b"." | b"..") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

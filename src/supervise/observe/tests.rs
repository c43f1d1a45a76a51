use std::cell::Cell;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::HashMap;

use super::*;
use crate::kernel::foreign_root::Follow;
use crate::kernel::foreign_root::Restrictions;
use crate::model::attempt::ObjectId;
use crate::supervise::decode::Decoded;
use crate::supervise::decode::abi::Call;
use crate::supervise::decode::decode;
use crate::supervise::neighbours::Alone;
use crate::supervise::target::Object;

/// A file system with one root, and a process in it whose memory holds the strings it was given.
#[derive(Default)]
struct World {
    /// Path → inode and kind. Hard links share an inode.
    files: BTreeMap<String, (u64, ObjectKind)>,
    links: HashMap<String, String>,
    mounts: Vec<String>,
    descriptors: HashMap<i32, String>,
    memory: RefCell<HashMap<u64, Vec<u8>>>,
    next_address: Cell<u64>,
    resolve_error: Option<TargetError>,
    mount_namespace: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self { next_address: Cell::new(0x1000), mount_namespace: 1, ..Self::default() };
        for directory in ["", "/etc", "/tmp", "/usr/sbin", "/usr", "/run", "/var", "/var/lib", "/etc/userdb"] {
            world.add(directory, ObjectKind::Directory);
        }
        for file in ["/etc/passwd", "/etc/shadow", "/etc/group", "/tmp/new", "/etc/hosts", "/etc/userdb/eve.user"] {
            world.add(file, ObjectKind::Regular);
        }
        for program in ["/usr/sbin/useradd", "/usr/bin/true", "/bin/busybox"] {
            world.add(program, ObjectKind::Regular);
        }
        world.add("/dev/null", ObjectKind::Other);
        world
    }

    fn add(&mut self, path: &str, kind: ObjectKind) {
        let inode = self.files.len() as u64 + 100;
        self.files.insert(path.to_owned(), (inode, kind));
    }

    fn hard_link(&mut self, old: &str, new: &str) {
        let entry = self.files[old];
        self.files.insert(new.to_owned(), entry);
    }

    fn symlink(&mut self, path: &str, to: &str) {
        self.add(path, ObjectKind::Symlink);
        self.links.insert(path.to_owned(), to.to_owned());
    }

    fn pointer(&self, bytes: &[u8]) -> u64 {
        let address = self.next_address.get();
        self.next_address.set(address + 0x1000);
        self.memory.borrow_mut().insert(address, bytes.to_vec());
        address
    }

    fn text(&self, text: &str) -> u64 {
        self.pointer(text.as_bytes())
    }

    fn strings(&self, texts: &[&str]) -> u64 {
        let mut array: Vec<u8> = texts.iter().flat_map(|text| self.text(text).to_le_bytes()).collect();
        array.extend([0; 8]);
        self.pointer(&array)
    }

    fn object_at(&self, path: &str) -> Option<Object> {
        let path = path.trim_end_matches('/');
        let (inode, kind) = self.files.get(path)?;
        Some(Object { id: ObjectId { device: 1, inode: *inode }, kind: *kind, likeness: None, handle: None })
    }

    fn place(&self, path: &str, follow: Follow) -> Place {
        let path = path.trim_end_matches('/');
        if let Some(to) = self.links.get(path).filter(|_| follow == Follow::Last) {
            return self.place(to, follow);
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", ""));
        Place {
            parent: if path.is_empty() { None } else { self.object_at(parent).map(|object| object.id) },
            directory: None,
            slash: false,
            name: name.as_bytes().to_vec(),
            object: self.object_at(path),
            path: Some(path.as_bytes().to_vec()),
        }
    }

    fn databases() -> Vec<DatabasePath> {
        DatabasePath::BUILT_IN.iter().map(|path| DatabasePath::new(path).expect("path")).collect()
    }

    fn observe(&self, call: Call, arguments: &[u64]) -> Observation {
        let mut six = [0; 6];
        six[..arguments.len()].copy_from_slice(arguments);
        let number = Abi::X86_64.number(call).expect("number").cast_signed();
        let Decoded::Request(request) = decode(0xC000_003E, number, six) else { panic!("not decoded") };
        observe(&request, self, &Guarded { root: self, databases: &Self::databases(), neighbours: &Alone })
    }

    /// Effect and database of each attempt, in words.
    fn told(&self, call: Call, arguments: &[u64]) -> String {
        match self.observe(call, arguments) {
            Observation::Nothing => "nothing".to_owned(),
            Observation::Fails(errno) => format!("fails {errno:?}"),
            Observation::Gone => "gone".to_owned(),
            Observation::Attempts(seen) => {
                let words = seen.iter().map(|seen| {
                    let database = seen.attempt.database.as_ref().map(|path| format!(" {path}")).unwrap_or_default();
                    let proposed = if seen.proposed.is_some() { " proposed" } else { "" };
                    format!("{:?}{database}{proposed}", seen.attempt.effect)
                });
                words.collect::<Vec<_>>().join(", ")
            }
        }
    }
}

impl RootView for World {
    fn entry(&self, directory: &str, name: &str) -> Place {
        let directory = self.links.get(directory).map_or(directory, String::as_str).trim_end_matches('/');
        self.place(&format!("{directory}/{name}"), Follow::NoLast)
    }

    fn look_up(&self, path: &str, follow: Follow) -> Place {
        self.place(path, follow)
    }

    fn mount_namespace(&self) -> Option<ObjectId> {
        Some(ObjectId { device: 4, inode: 1 })
    }

    fn names(&self, directory: &str, _: usize) -> Vec<Vec<u8>> {
        let prefix = format!("{directory}/");
        self.files.keys().filter_map(|path| path.strip_prefix(&prefix)).map(|name| name.as_bytes().to_vec()).collect()
    }
}

impl Target for World {
    fn bytes(&self, address: u64, length: usize) -> Result<Vec<u8>, TargetError> {
        let memory = self.memory.borrow();
        let base = address & !0xFFF;
        let from = (address - base) as usize;
        let found = memory.get(&base).and_then(|bytes| bytes.get(from..from + length));
        found.map(<[u8]>::to_vec).ok_or(TargetError::Unreadable { address, errno: Errno::FAULT })
    }

    fn path(&self, address: u64) -> Result<Vec<u8>, TargetError> {
        self.memory.borrow().get(&address).cloned().ok_or(TargetError::Unreadable { address, errno: Errno::FAULT })
    }

    fn resolve_restricted(
        &self,
        base: Base,
        path: &[u8],
        follow: Follow,
        restrictions: Restrictions,
    ) -> Result<Place, TargetError> {
        if let Some(error) = &self.resolve_error {
            return Err(error.clone());
        }
        let mut path = std::str::from_utf8(path).expect("test path");
        if restrictions != Restrictions::NONE {
            path = path.trim_start_matches('/');
        }
        let full = match base {
            _ if path.starts_with('/') => path.to_owned(),
            Base::Descriptor(fd) => format!("{}/{path}", self.descriptors[&fd]),
            Base::Cwd | Base::Root => format!("/{path}"),
        };
        let (parent, _) = full.trim_end_matches('/').rsplit_once('/').unwrap_or(("", ""));
        if self.object_at(parent).is_none() {
            return Err(TargetError::Nowhere(Errno::NOENT));
        }
        Ok(self.place(&full, follow))
    }

    fn object(&self, base: Base) -> Result<Object, TargetError> {
        let Base::Descriptor(fd) = base else { return Ok(self.object_at("").expect("root")) };
        let path = self.descriptors.get(&fd).ok_or(TargetError::Nowhere(Errno::BADF))?;
        Ok(self.object_at(path).expect("file of a descriptor"))
    }

    fn by_handle(&self, mount: i32, kind: i32, handle: Vec<u8>) -> Result<Object, TargetError> {
        let directory = self.descriptors.get(&mount).ok_or(TargetError::Nowhere(Errno::BADF))?;
        let path = format!("{directory}/{}", String::from_utf8(handle).expect("test handle"));
        match kind {
            1 => self.object_at(&path).ok_or(TargetError::Nowhere(Errno::STALE)),
            _ => Err(TargetError::Unable("no such kind of handle".to_owned())),
        }
    }

    fn mount_namespace(&self) -> Result<ObjectId, TargetError> {
        Ok(ObjectId { device: 4, inode: self.mount_namespace })
    }

    fn shown_namespaces(&self) -> Result<[std::sync::Arc<std::os::fd::OwnedFd>; 4], TargetError> {
        Err(TargetError::Gone)
    }

    fn descriptor(&self, _: i32) -> Result<std::os::fd::OwnedFd, TargetError> {
        Err(TargetError::Nowhere(Errno::BADF))
    }

    fn has_free_descriptor(&self) -> bool {
        true
    }

    fn file_size_limit(&self) -> Option<u64> {
        None
    }

    fn controlling_terminal(&self) -> Result<Object, TargetError> {
        Err(TargetError::Nowhere(Errno::NXIO))
    }

    fn is_own_process_directory(&self, _: &std::os::fd::OwnedFd) -> bool {
        false
    }

    fn is_mount_root(&self, object: &Object) -> Option<bool> {
        Some(self.mounts.iter().any(|path| self.object_at(path).is_some_and(|mount| mount.id == object.id)))
    }

    fn content(&self, _: &Object, _: usize) -> Option<Vec<u8>> {
        Some(b"content".to_vec())
    }
}

const O_WRONLY: u64 = 0o1;
const O_CREAT: u64 = 0o100;
const CWD: u64 = 0xFFFF_FF9C;
const NOTHING: &str = "nothing";

#[test]
fn opening_for_writing() {
    let mut world = World::new();
    world.hard_link("/etc/passwd", "/tmp/alias");
    world.symlink("/tmp/link", "/etc/shadow");
    world.symlink("/tmp/dangling", "/etc/gshadow");
    let cases: &[(&str, u64, &str)] = &[
        ("/etc/passwd", 0, NOTHING),
        ("/etc/passwd", O_WRONLY, "Writes /etc/passwd"),
        ("/etc/passwd", 0o2, "Writes /etc/passwd"),
        ("/etc/passwd", 0o3, "Writes /etc/passwd"),
        ("/etc/passwd", 0o1000, "Writes /etc/passwd"), // O_RDONLY|O_TRUNC truncates
        ("/etc/passwd", O_WRONLY | 0o10_000_000, NOTHING), // O_PATH
        ("/etc/passwd", O_CREAT, NOTHING),
        ("/etc/passwd", O_WRONLY | O_CREAT | 0o200, NOTHING), // O_EXCL: EEXIST
        ("/etc/gshadow", O_WRONLY | O_CREAT, "Replaces /etc/gshadow"),
        ("/etc/gshadow", O_CREAT, "Replaces /etc/gshadow"),
        ("/etc/gshadow", O_WRONLY, NOTHING), // ENOENT
        ("/tmp/alias", O_WRONLY, "Writes /etc/passwd"),
        ("/tmp/link", O_WRONLY, "Writes /etc/shadow"),
        ("/tmp/link", O_WRONLY | 0o400_000, NOTHING), // O_NOFOLLOW: ELOOP
        ("/tmp/dangling", O_WRONLY | O_CREAT, "Replaces /etc/gshadow"),
        ("/etc/userdb/eve.user", O_WRONLY, "Writes /etc/userdb/"),
        ("/etc/userdb/mallory.user", O_WRONLY | O_CREAT, "Replaces /etc/userdb/"),
        ("/etc/hosts", O_WRONLY, NOTHING),
        ("/tmp/new", O_WRONLY | O_CREAT, NOTHING),
        ("/dev/null", O_WRONLY, NOTHING),
        ("/nowhere/passwd", O_WRONLY | O_CREAT, NOTHING),
    ];
    for (path, flags, expected) in cases {
        assert_eq!(world.told(Call::Open, &[world.text(path), *flags]), *expected, "open {path} {flags:#o}");
        assert_eq!(world.told(Call::Openat, &[CWD, world.text(path), *flags]), *expected, "openat {path} {flags:#o}");
        let how: Vec<u8> = [*flags, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
        let how = world.pointer(&how);
        assert_eq!(
            world.told(Call::Openat2, &[CWD, world.text(path), how, 24]),
            *expected,
            "openat2 {path} {flags:#o}"
        );
    }
    assert_eq!(world.told(Call::Creat, &[world.text("/etc/passwd"), 0]), "Writes /etc/passwd");
}

#[test]
fn what_cannot_be_read_is_never_let_go() {
    let mut world = World::new();
    world.descriptors.insert(9, "/etc".to_owned());
    let path = world.text("/etc/passwd");
    let how = |words: &[u64]| world.pointer(&words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>());
    let handle = |kind: u32, name: &str| {
        let head = [u32::try_from(name.len()).expect("length"), kind].map(u32::to_le_bytes).concat();
        world.pointer(&[&head, name.as_bytes()].concat())
    };
    let cases: &[(Call, &[u64], &str)] = &[
        (Call::Open, &[0xBAD0_0000, O_WRONLY], "fails Os { code: 14, kind: Uncategorized, message: \"Bad address\" }"),
        (Call::Rename, &[path, 0xBAD0_0000], "fails"),
        (Call::Rename, &[0xBAD0_0000, path], "fails"),
        (Call::Execve, &[0xBAD0_0000, 0], "fails"),
        (Call::Openat2, &[CWD, path, how(&[1, 0, 0]), 23], "fails"), // EINVAL
        (Call::Openat2, &[CWD, path, how(&[1, 0, 0]), 5000], "fails"), // E2BIG
        (Call::Openat2, &[CWD, path, how(&[1, 0, 0, 7]), 32], "fails"), // E2BIG: a tail that is not zero
        (Call::Openat2, &[CWD, path, how(&[1, 0, 0, 0]), 32], "Writes /etc/passwd"),
        (Call::Openat2, &[CWD, path, 0xBAD0_0000, 24], "fails"),
        (Call::Openat2, &[9, world.text("/passwd"), how(&[1, 0, 0x10]), 24], "Writes /etc/passwd"), // RESOLVE_IN_ROOT
        (Call::OpenByHandleAt, &[9, 0xBAD0_0000, 0o2], "fails"),
        (Call::OpenByHandleAt, &[9, 0, 0], NOTHING),
        (Call::OpenByHandleAt, &[9, handle(1, "passwd"), 0o2], "Writes /etc/passwd"),
        (Call::OpenByHandleAt, &[9, handle(1, "hosts"), 0o2], NOTHING),
        (Call::OpenByHandleAt, &[9, handle(1, "stale"), 0o2], NOTHING), // ESTALE
        (Call::OpenByHandleAt, &[8, handle(1, "passwd"), 0o2], NOTHING), // EBADF
        (Call::OpenByHandleAt, &[9, handle(2, "passwd"), 0o2], "Unresolved"),
        (Call::OpenByHandleAt, &[9, handle(1, ""), 0o2], "fails"), // EINVAL
        (Call::OpenByHandleAt, &[9, handle(1, &"x".repeat(129)), 0o2], "fails"), // EINVAL
    ];
    for (call, arguments, expected) in cases {
        let told = world.told(*call, arguments);
        assert!(told == *expected || told.starts_with("fails") && expected.starts_with("fails"), "{call:?}: {told}");
    }
    assert_eq!(world.observe(Call::Open, &[0xBAD0_0000, O_WRONLY]), Observation::Fails(Errno::FAULT));
    for (error, expected) in [
        (TargetError::Unable("no such file system".to_owned()), "Unresolved"),
        (TargetError::Nowhere(Errno::LOOP), NOTHING),
        (TargetError::Gone, "gone"),
    ] {
        world.resolve_error = Some(error);
        assert_eq!(world.told(Call::Unlink, &[path]), expected);
    }
}

#[test]
fn entries() {
    let mut world = World::new();
    world.hard_link("/etc/passwd", "/tmp/alias");
    world.symlink("/var/run", "/run");
    let path = |text: &str| world.text(text);
    let rename =
        |old: &str, new: &str, flags: u64| world.told(Call::Renameat2, &[CWD, path(old), CWD, path(new), flags]);
    assert_eq!(rename("/tmp/new", "/etc/passwd", 0), "Replaces /etc/passwd proposed");
    assert_eq!(rename("/etc/passwd", "/tmp/x", 0), "Replaces /etc/passwd");
    assert_eq!(rename("/tmp/new", "/etc/passwd", 2), "Replaces /etc/passwd proposed");
    assert_eq!(rename("/etc/passwd", "/tmp/new", 2), "Replaces /etc/passwd proposed");
    assert_eq!(rename("/etc/passwd", "/etc/shadow", 0), "Replaces /etc/passwd, Replaces /etc/shadow proposed");
    assert_eq!(rename("/tmp/new", "/etc/gshadow", 0), "Replaces /etc/gshadow proposed");
    assert_eq!(rename("/tmp/missing", "/etc/passwd", 0), NOTHING);
    assert_eq!(rename("/tmp/new", "/etc/hosts", 0), NOTHING);
    assert_eq!(rename("/etc", "/tmp/etc", 0), "ReplacesAncestor /etc/passwd");
    assert_eq!(rename("/tmp", "/etc/security", 0), "ReplacesAncestor /etc/security/opasswd");
    assert_eq!(rename("/tmp", "/etc", 2), "ReplacesAncestor /etc/passwd");
    assert_eq!(rename("/tmp", "/etc/userdb", 2), "ReplacesAncestor /etc/userdb/");
    assert_eq!(rename("/tmp", "/run/other", 0), NOTHING);

    let link = |old: &str, new: &str| world.told(Call::Link, &[path(old), path(new)]);
    assert_eq!(link("/etc/passwd", "/tmp/x"), "Aliases /etc/passwd");
    assert_eq!(link("/tmp/alias", "/tmp/x"), "Aliases /etc/passwd");
    assert_eq!(link("/tmp/new", "/etc/gshadow"), "Replaces /etc/gshadow proposed");
    assert_eq!(link("/tmp/new", "/tmp/x"), NOTHING);
    // /run/userdb is not there: a link of that name puts databases in place
    world.symlink("/tmp/elsewhere", "/tmp");
    let path = |text: &str| world.text(text);
    assert_eq!(world.told(Call::Link, &[path("/tmp/elsewhere"), path("/run/userdb")]), "ReplacesAncestor /run/userdb/");
    assert_eq!(world.told(Call::Symlink, &[path("/tmp"), path("/run/userdb")]), "ReplacesAncestor /run/userdb/");
    assert_eq!(world.told(Call::Acct, &[path("/etc/passwd")]), "Bypasses");
    assert_eq!(world.told(Call::Acct, &[0]), NOTHING);

    assert_eq!(world.told(Call::Unlink, &[path("/etc/passwd")]), "Replaces /etc/passwd");
    assert_eq!(world.told(Call::Unlink, &[path("/tmp/alias")]), NOTHING); // the database stays
    assert_eq!(world.told(Call::Unlinkat, &[CWD, path("/etc/userdb"), 0x200]), NOTHING);
    assert_eq!(world.told(Call::Unlinkat, &[CWD, path("/etc/userdb/eve.user"), 0]), "Replaces /etc/userdb/");
    assert_eq!(world.told(Call::Symlink, &[path("x"), path("/etc/gshadow")]), "Replaces /etc/gshadow");
    assert_eq!(world.told(Call::Mknod, &[path("/etc/gshadow"), 0]), "Replaces /etc/gshadow");
    assert_eq!(world.told(Call::Mknod, &[path("/tmp/fifo"), 0]), NOTHING);
}

#[test]
fn attributes_by_path_and_by_descriptor() {
    let mut world = World::new();
    world.symlink("/tmp/link", "/etc/shadow");
    world.descriptors.insert(5, "/etc/shadow".to_owned());
    world.descriptors.insert(6, "/etc".to_owned());
    let path = |text: &str| world.text(text);
    for call in [Call::Truncate, Call::Chmod, Call::Chown, Call::Setxattr, Call::Removexattr] {
        assert_eq!(world.told(call, &[path("/tmp/link")]), "Writes /etc/shadow", "{call:?}");
    }
    for call in [Call::Lchown, Call::Lsetxattr, Call::Lremovexattr] {
        assert_eq!(world.told(call, &[path("/tmp/link")]), NOTHING, "{call:?}");
        assert_eq!(world.told(call, &[path("/etc/shadow")]), "Writes /etc/shadow", "{call:?}");
    }
    for call in [Call::Fchmod, Call::Fchown, Call::Fsetxattr, Call::Fremovexattr] {
        assert_eq!(world.told(call, &[5]), "Writes /etc/shadow", "{call:?}");
        assert_eq!(world.told(call, &[6]), NOTHING, "{call:?}");
        assert_eq!(world.told(call, &[7]), NOTHING, "{call:?}: EBADF");
    }
    assert_eq!(world.told(Call::Fchownat, &[5, path(""), 0, 0, 0x1000]), "Writes /etc/shadow");
    assert_eq!(world.told(Call::Fchownat, &[5, path(""), 0, 0, 0]), NOTHING); // ENOENT
    assert_eq!(world.told(Call::Fchmodat, &[6, path("shadow"), 0o777]), "Writes /etc/shadow");
    assert_eq!(world.told(Call::Setxattrat, &[5, 0, 0x1000]), "Writes /etc/shadow");
}

#[test]
fn a_database_that_is_a_link_is_both_the_link_and_what_it_leads_to() {
    let mut world = World::new();
    world.add("/data", ObjectKind::Directory);
    world.symlink("/etc/gshadow", "/data/gshadow");
    let path = |text: &str| world.text(text);
    assert_eq!(world.told(Call::Unlink, &[path("/etc/gshadow")]), "Replaces /etc/gshadow");
    assert_eq!(world.told(Call::Open, &[path("/data/gshadow"), O_WRONLY | O_CREAT]), "Replaces /etc/gshadow");
    assert_eq!(world.told(Call::Rename, &[path("/tmp/new"), path("/data/gshadow")]), "Replaces /etc/gshadow proposed");
}

#[test]
fn mounts() {
    const BIND: u64 = 4096;
    let mut world = World::new();
    world.mounts.extend(["/etc".to_owned(), "/etc/shadow".to_owned(), "/tmp".to_owned(), String::new()]);
    let path = |text: &str| world.text(text);
    let mount = |from: &str, to: &str, flags: u64| world.told(Call::Mount, &[path(from), path(to), 0, flags]);
    assert_eq!(mount("tmpfs", "/etc", 0), "ReplacesAncestor /etc/passwd");
    assert_eq!(mount("tmpfs", "/", 0), "ReplacesAncestor /etc/passwd");
    assert_eq!(mount("tmpfs", "/tmp", 0), NOTHING);
    assert_eq!(mount("/tmp/new", "/etc/passwd", BIND), "Replaces /etc/passwd proposed");
    assert_eq!(mount("/etc/passwd", "/tmp/new", BIND), "Aliases /etc/passwd");
    assert_eq!(mount("/tmp", "/run", BIND), "ReplacesAncestor /run/userdb/");
    assert_eq!(mount("/etc", "/tmp", 8192), "ReplacesAncestor /etc/passwd");
    assert_eq!(mount("none", "/etc", 32), NOTHING);
    assert_eq!(mount("none", "/", 1 << 18 | 16384), NOTHING);
    // MS_MGC_VAL has bits of propagation flags: it must not hide a new mount
    assert_eq!(mount("tmpfs", "/etc", 0xC0ED_0000), "ReplacesAncestor /etc/passwd");
    assert_eq!(mount("/tmp", "/etc", 0xC0ED_0000 | BIND), "ReplacesAncestor /etc/passwd");

    assert_eq!(world.told(Call::Umount2, &[path("/etc/shadow"), 0]), "Replaces /etc/shadow");
    assert_eq!(world.told(Call::Umount2, &[path("/etc"), 2]), "ReplacesAncestor /etc/passwd");
    assert_eq!(world.told(Call::Umount2, &[path("/etc/passwd"), 0]), NOTHING); // not a mount point
    assert_eq!(world.told(Call::Umount2, &[path("/tmp"), 0]), NOTHING);
    assert_eq!(world.told(Call::Umount2, &[path("/"), 0]), NOTHING);
    let move_mount = |from: &str, to: &str| world.told(Call::MoveMount, &[CWD, path(from), CWD, path(to), 0]);
    assert_eq!(move_mount("/tmp", "/etc"), "ReplacesAncestor /etc/passwd");
    assert_eq!(move_mount("/tmp/new", "/etc/group"), "Replaces /etc/group proposed");
    assert_eq!(world.told(Call::OpenTree, &[CWD, path("/etc/passwd"), 1]), "Aliases /etc/passwd");
    assert_eq!(world.told(Call::OpenTree, &[CWD, path("/etc/passwd"), 0]), NOTHING);
    assert_eq!(world.told(Call::Chroot, &[path("/tmp")]), NOTHING);
    assert_eq!(world.told(Call::PivotRoot, &[path("/tmp"), path("/tmp/old")]), "ReplacesAncestor /etc/passwd");
    let moved_in = path("/tmp");
    world.mount_namespace = 2; // of its own: nobody else sees the new root
    assert_eq!(world.told(Call::PivotRoot, &[moved_in, 0]), NOTHING);
}

/// fs/overlayfs: what is written to an overlay is written to its upper layer.
#[test]
fn overlays() {
    let mut world = World::new();
    world.add("/a,b", ObjectKind::Directory);
    world.symlink("/tmp/link", "/etc");
    let overlay = |options: &str, at: &str, flags: u64| {
        let arguments = [world.text("none"), world.text(at), world.text("overlay"), flags, world.text(options)];
        world.told(Call::Mount, &arguments)
    };
    assert_eq!(overlay("lowerdir=/tmp,upperdir=/etc,workdir=/run", "/tmp", 0), "Aliases /etc/passwd");
    assert_eq!(overlay("upperdir=/etc/userdb", "/tmp", 0), "Aliases /etc/userdb/");
    assert_eq!(overlay("upperdir=/var/lib,ro", "/tmp", 1), "Aliases /var/lib/extrausers/");
    assert_eq!(overlay("upperdir=/", "/tmp", 0), "Aliases /etc/passwd");
    assert_eq!(overlay("upperdir=etc", "/tmp", 0), "Aliases /etc/passwd");
    assert_eq!(overlay("upperdir=/tmp/link", "/tmp", 0), "Aliases /etc/passwd");
    assert_eq!(overlay(r"upperdir=\/e\tc", "/tmp", 0), "Aliases /etc/passwd");
    assert_eq!(overlay("upperdir=/tmp,upperdir=/etc", "/tmp", 0), "Aliases /etc/passwd");
    assert_eq!(overlay("upperdir=/etc", "/etc", 0), "Aliases /etc/passwd, ReplacesAncestor /etc/passwd");
    assert_eq!(overlay("lowerdir=/etc,upperdir=/tmp,workdir=/run", "/tmp", 0), NOTHING); // copied up
    assert_eq!(overlay(r"lowerdir=/a\,upperdir=/etc", "/tmp", 0), NOTHING);
    assert_eq!(overlay("upperdir=/etc/passwd", "/tmp", 0), NOTHING); // ENOTDIR
    assert_eq!(overlay("upperdir=/missing/etc,upperdir=", "/tmp", 0), NOTHING); // ENOENT
    let other = [world.text("none"), world.text("/tmp"), world.text("tmpfs"), 0, world.text("upperdir=/etc")];
    assert_eq!(world.told(Call::Mount, &other), NOTHING);
    let unreadable = [world.text("none"), world.text("/tmp"), world.text("overlay"), 0, 0xBAD];
    assert_eq!(world.told(Call::Mount, &unreadable), NOTHING); // EFAULT, from the kernel itself
}

#[test]
fn settings_of_overlays() {
    let mut world = World::new();
    world.descriptors.extend([(7, "/etc".to_owned()), (8, "/tmp".to_owned())]);
    let set = |command: u64, key: &str, value: &str, auxiliary: u64| {
        let value = if command == 5 { 0 } else { world.text(value) };
        world.told(Call::Fsconfig, &[3, command, world.text(key), value, auxiliary])
    };
    assert_eq!(set(1, "upperdir", "/etc", 0), "Aliases /etc/passwd");
    assert_eq!(set(1, "upperdir", "/tmp", 0), NOTHING);
    assert_eq!(set(1, "lowerdir", "/etc", 0), NOTHING);
    assert_eq!(set(1, "upperdir", "/missing/etc", 0), NOTHING);
    assert_eq!(set(3, "upperdir", "/etc", CWD), "Aliases /etc/passwd");
    assert_eq!(set(3, "upperdir", "userdb", 7), "Aliases /etc/userdb/");
    assert_eq!(set(4, "upperdir", "", 7), "Aliases /etc/passwd");
    assert_eq!(set(5, "upperdir", "", 7), "Aliases /etc/passwd");
    assert_eq!(set(5, "upperdir", "", 8), NOTHING);
    assert_eq!(set(5, "upperdir", "", 9), NOTHING); // EBADF, from the kernel itself
    assert_eq!(set(0, "upperdir", "/etc", 0), NOTHING); // a flag is no layer
    assert_eq!(set(6, "upperdir", "/etc", 0), NOTHING);
    assert_eq!(world.told(Call::Fsconfig, &[3, 1, 0, 0, 0]), NOTHING);
    assert_eq!(world.told(Call::Fsconfig, &[3, 1, world.text("upperdir"), 0xBAD, 0]), NOTHING);
    world.resolve_error = Some(TargetError::Unable("a file system that hangs".to_owned()));
    let unknown = [3, 1, world.text("upperdir"), world.text("/etc"), 0];
    assert_eq!(world.told(Call::Fsconfig, &unknown), "Unresolved");
}

#[test]
fn programs() {
    let mut world = World::new();
    world.add("/usr/bin", ObjectKind::Directory);
    world.add("/bin", ObjectKind::Directory);
    world.symlink("/usr/sbin/adduser", "/bin/busybox");
    let run = |path: &str, argv: &[&str]| world.told(Call::Execve, &[world.text(path), world.strings(argv), 0]);
    assert_eq!(run("/usr/sbin/useradd", &["useradd", "eve"]), "RunsAccountTool");
    assert_eq!(run("/usr/sbin/useradd", &["sh"]), "RunsAccountTool");
    assert_eq!(run("/usr/sbin/adduser", &["adduser", "eve"]), "RunsAccountTool");
    assert_eq!(run("/bin/busybox", &["busybox", "adduser", "eve"]), "RunsAccountTool");
    assert_eq!(run("/usr/bin/true", &["true", "useradd"]), NOTHING);
    assert_eq!(run("/usr/sbin/missing", &["useradd"]), NOTHING);
    let Observation::Attempts(seen) =
        world.observe(Call::Execve, &[world.text("/usr/sbin/useradd"), world.strings(&["useradd", "-m", "eve"]), 0])
    else {
        panic!("no attempt")
    };
    assert_eq!(seen[0].tool_arguments, ["useradd", "-m", "eve"]);
    assert_eq!(seen[0].attempt.object_path.as_deref(), Some(&b"/usr/sbin/useradd"[..]));
    assert_eq!(world.told(Call::Execve, &[world.text("/usr/bin/true"), 0, 0]), NOTHING);
    assert_eq!(world.told(Call::IoUringSetup, &[8, 0]), "Bypasses");
    assert_eq!(world.told(Call::Seccomp, &[1, 8, 64]), "Listens");
    assert_eq!(world.told(Call::Seccomp, &[1, 8, 0]), NOTHING, "only asks whether the kernel knows the flag");
}

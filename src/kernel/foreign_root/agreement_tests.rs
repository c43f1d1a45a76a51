//! The walker against the kernel: a forked child, in a mount namespace of its own and chrooted, opens the same path with `O_PATH`; device,
//! inode, type and errno must be the same, over 100,000 random paths through a web of links, mounts and procfs.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::fs::AtFlags;

use crate::kernel::Errno;
use crate::kernel::foreign_root::AT_FDCWD;
use crate::kernel::foreign_root::Base;
use crate::kernel::foreign_root::FileError;
use crate::kernel::foreign_root::Follow;
use crate::kernel::foreign_root::Found;
use crate::kernel::foreign_root::ResolveError;
use crate::kernel::foreign_root::Resolved;
use crate::kernel::foreign_root::Restrictions;
use crate::kernel::foreign_root::Task;
use crate::kernel::foreign_root::object::Identity;
use crate::kernel::foreign_root::read_file_in_root;
use crate::kernel::foreign_root::test_paths::Asked;
use crate::kernel::foreign_root::test_tally::Tally;
use crate::kernel::foreign_root::test_target::ALL_RESTRICTIONS;
use crate::kernel::foreign_root::test_target::CREATE;
use crate::kernel::foreign_root::test_target::Kind;
use crate::kernel::foreign_root::test_target::LOOK_UP_BASE;
use crate::kernel::foreign_root::test_target::LOOK_UP_FOLLOWING;
use crate::kernel::foreign_root::test_target::LOOK_UP_LINK;
use crate::kernel::foreign_root::test_target::LOOK_UP_RESTRICTED;
use crate::kernel::foreign_root::test_target::Target;
use crate::kernel::foreign_root::test_target::Word;
use crate::kernel::raw::child::forget_openat2_for_test;
use crate::kernel::raw::child::fork_for_test;

/// Cases that a target answers at a time, with one root and one working directory.
const BATCH: i32 = 50;
/// Batches a target lives for; then there is another one with another tree.
const BATCHES: usize = 20;
/// Targets of each kind: the cases are these times [`BATCHES`] times [`BATCH`].
const TARGETS: [(Kind, u64); 7] = [
    (Kind::Process, 30),
    (Kind::PidNamespace, 14),
    (Kind::NestedPidNamespaces, 14),
    (Kind::Thread, 14),
    (Kind::ThreadWithDescriptors, 10),
    (Kind::CoveredRoot, 10),
    (Kind::HostRoot, 10),
];

#[test]
fn the_tests_below_compare_at_least_a_hundred_thousand_paths() {
    let targets: u64 = TARGETS.iter().map(|(_, targets)| targets).sum();
    assert!(targets * BATCHES as u64 * BATCH as u64 >= 100_000);
}

/// Pauses in milliseconds before kernel and walker are asked again when they differ. On the host's root others come and go meanwhile
/// (terminals, mapped files of other tests), objects of procfs may be forgotten and numbered anew, and openat2(2) fails with EAGAIN
/// while somebody mounts or renames: what the walker does wrong stays wrong.
const PAUSES: [u64; 6] = [0, 0, 0, 1, 30, 300];

/// Asks again, with pauses, until `agree` says that there is no difference. Whether there was none in the end.
fn settles(mut agree: impl FnMut() -> bool) -> bool {
    PAUSES.iter().any(|pause| {
        if *pause > 0 {
            std::thread::sleep(Duration::from_millis(*pause));
        }
        agree()
    })
}

/// What the walker said, in the kernel's terms; `Err` with a text where it does not know. Where the kernel refuses us, as it
/// refuses the target, the walker says that it does not know: permissions are not modelled.
fn summary(resolved: &Result<Resolved, ResolveError>) -> Result<Word, String> {
    match resolved {
        Ok(Resolved { object: Some(object), .. }) => Ok(Ok((object.device, object.inode, object.mode))),
        Ok(_) => Ok(Err(Errno::NOENT)),
        Err(ResolveError::Answer(errno)) => Ok(Err(*errno)),
        Err(ResolveError::Unable { source: Errno::ACCESS, .. }) => Ok(Err(Errno::ACCESS)),
        Err(other) => Err(format!("{other:?}")),
    }
}

/// Whether the walker says that it does not know: `..` from a file system that lies between others on one place.
fn is_between(resolved: &Result<Resolved, ResolveError>) -> bool {
    matches!(resolved, Err(ResolveError::Unable { source: Errno::XDEV, step: "order what is mounted over a root" }))
}

/// What the walker says to `asked`.
fn walk(task: &Task, asked: &Asked) -> Result<Resolved, ResolveError> {
    let base = if asked.base == AT_FDCWD { Base::Cwd } else { Base::Descriptor(asked.base) };
    match asked.what {
        LOOK_UP_BASE if base == Base::Cwd => task.resolve(Base::Cwd, b".", Follow::Last),
        LOOK_UP_BASE => task.descriptor(asked.base).map(|object| Resolved {
            parent: None,
            name: Vec::new(),
            object: Some(object),
            parent_id: None,
            path: None,
            trailing_slash: false,
        }),
        LOOK_UP_LINK => task.resolve(base, &asked.path, Follow::NoLast),
        restricted if restricted & LOOK_UP_RESTRICTED != 0 => {
            let restrictions = Restrictions::new(u64::from(restricted & ALL_RESTRICTIONS));
            task.resolve_restricted(base, &asked.path, Follow::Last, restrictions)
        }
        _ => task.resolve(base, &asked.path, Follow::Last),
    }
}

/// Whether the kernel refuses the way into the host's first process, which is not this test's: what it refuses the target it may grant us,
/// and permissions are not modelled.
fn is_refused_there(asked: &Asked, kernels: Word) -> bool {
    let first = b"hostproc/1/";
    kernels == Err(Errno::ACCESS) && asked.path.windows(first.len()).any(|window| window == first)
}

/// Compares the walker's word on `asked` with `kernels`.
fn compare(target: &mut Target, task: &Task, asked: &Asked, kernels: Word, state: u8, tally: &mut Tally) {
    let mut kernels = kernels;
    let mut ours = walk(task, asked);
    if summary(&ours) != Ok(kernels) && !(target.kind == Kind::CoveredRoot && is_between(&ours)) {
        settles(|| {
            kernels = target.ask(asked.what, asked.base, &asked.path);
            ours = walk(task, asked);
            summary(&ours) == Ok(kernels)
        });
    }
    tally.count(asked, state, kernels.is_ok());
    if target.kind == Kind::CoveredRoot && is_between(&ours) {
        tally.untold += 1;
        return;
    }
    tally.refused += usize::from(kernels == Err(Errno::ACCESS));
    if is_refused_there(asked, kernels) {
        return;
    }
    if summary(&ours) != Ok(kernels) {
        tally.differ(asked, &format!("kernel {kernels:?}, walker {ours:?}"));
        return;
    }
    match ours {
        Ok(Resolved { object: Some(_), path: Some(path), .. }) if tally.is_turn_of_path() => {
            let leads = settles(|| match walk(task, asked) {
                Ok(Resolved { object: Some(object), path: Some(path), .. }) => leads_to(target, &path, &object),
                _ => true,
            });
            if !leads {
                tally.paths_wrong.push(format!("{:?} for {}", String::from_utf8_lossy(&path), asked.shown()));
            }
        }
        // never on the host's own root
        ours if target.kind != Kind::HostRoot && asked.what == LOOK_UP_FOLLOWING && kernels == Err(Errno::NOENT) => {
            compare_creation(target, asked, ours, tally);
        }
        _ => {}
    }
}

/// Whether the kernel finds `object` at `path`, unless it has no path any more: other tests delete what is mapped here, which then has the
/// name it had, and unmount where it lies, whose root its name then begins at.
fn leads_to(target: &mut Target, path: &[u8], object: &Found) -> bool {
    let found = target.ask(LOOK_UP_LINK, AT_FDCWD, path);
    let is_deleted = rustix::fs::fstat(&object.fd).is_ok_and(|status| status.st_nlink == 0);
    is_deleted || found == Ok((object.device, object.inode, object.mode)) || !is_mounted(target, object)
}

/// Whether the mount that `object` lies on is one of the target's or of this process's.
fn is_mounted(target: &Target, object: &Found) -> bool {
    let identity = Identity::of(object.fd.as_fd()).expect("an identity");
    let number = identity.mount_id.to_string();
    let namespaces = [target.tid, std::process::id()];
    namespaces.iter().any(|pid| {
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("mountinfo");
        mounts.lines().any(|line| line.split(' ').next() == Some(&number))
    })
}

/// A walk that a restriction stops in RCU mode is begun anew without, and goes on counting links (fs/namei.c, `set_nameidata`):
/// whether it gets to the restriction again depends on the kernel's caches.
fn is_counted_twice(asked: &Asked, kernels: Word, ours: &Result<Resolved, ResolveError>) -> bool {
    let has_chain = asked.path.split(|byte| *byte == b'/').any(|part| matches!(part, [b'k', b'1'..=b'9', _]));
    has_chain && kernels == Err(Errno::LOOP) && matches!(ours, Err(ResolveError::Answer(Errno::XDEV)))
}

/// The same path with restrictions of openat2(2), each combination in its turn.
fn compare_restricted(target: &mut Target, task: &Task, asked: &Asked, tally: &mut Tally) {
    const BENEATH_AND_IN_ROOT: usize = 0x18;
    tally.restricted += 1;
    let turn = tally.restricted & usize::from(ALL_RESTRICTIONS);
    if asked.what == LOOK_UP_BASE || turn & BENEATH_AND_IN_ROOT == BENEATH_AND_IN_ROOT {
        return;
    }
    let asked = Asked { what: LOOK_UP_RESTRICTED | turn as u8, base: asked.base, path: asked.path.clone() };
    let (mut kernels, mut ours) = (Err(Errno::AGAIN), Err(ResolveError::Answer(Errno::AGAIN)));
    let agrees = settles(|| {
        kernels = target.ask(asked.what, asked.base, &asked.path);
        ours = walk(task, &asked);
        summary(&ours) == Ok(kernels)
            || is_refused_there(&asked, kernels)
            || is_counted_twice(&asked, kernels, &ours)
            || (target.kind == Kind::CoveredRoot && is_between(&ours))
    });
    if agrees {
        tally.stopped += usize::from(matches!(kernels, Err(Errno::XDEV | Errno::LOOP)));
        return;
    }
    tally.differ(&asked, &format!("kernel {kernels:?}, walker {ours:?}"));
}

/// Where the kernel would make a missing file must be the directory and name that the walker found.
fn compare_creation(target: &mut Target, asked: &Asked, ours: Result<Resolved, ResolveError>, tally: &mut Tally) {
    let Ok((device, inode, _)) = target.ask(CREATE, asked.base, &asked.path) else { return };
    tally.created += 1;
    let Ok(Resolved { parent: Some(parent), name, trailing_slash: false, .. }) = ours else {
        tally.differ(asked, "kernel created it, walker has no place for it");
        return;
    };
    let found = rustix::fs::statat(&parent, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW);
    if found.map(|status| (status.st_dev, status.st_ino)) != Ok((device, inode)) {
        tally.differ(asked, &format!("kernel created it, not at the walker's {:?}", String::from_utf8_lossy(&name)));
        return;
    }
    rustix::fs::unlinkat(&parent, name.as_slice(), AtFlags::empty()).expect("unlink");
}

fn agree(kind: Kind, seed: u64, tally: &mut Tally) {
    let mut target = Target::start(kind, seed);
    for _ in 0..BATCHES {
        let (state, cases) = target.ask_many(BATCH);
        let task = Task::open(target.tid).expect("task");
        for (asked, kernels) in cases {
            compare(&mut target, &task, &asked, kernels, state, tally);
            compare_restricted(&mut target, &task, &asked, tally);
        }
    }
}

fn assert_agreement(kind: Kind) {
    let (at, (_, targets)) =
        TARGETS.iter().enumerate().find(|(_, (listed, _))| *listed == kind).expect("a kind that is listed");
    let mut tally = Tally::default();
    for number in 0..*targets {
        let seed = 0x5eed_0000 + at as u64 * 0x100 + number;
        agree(kind, seed, &mut tally);
        assert!(tally.differences.is_empty(), "{kind:?} seed {seed:#x}:\n{}", tally.differences.join("\n"));
    }
    // stdout is shown only when asked for; the numbers guard against a test that compares nothing
    println!("{kind:?}: {tally}");
    assert_eq!(tally.cases as u64, targets * BATCHES as u64 * BATCH as u64);
    assert!(tally.found * 2 > tally.cases, "{kind:?}: too few paths lead to an object: {tally}");
    assert!(tally.refused * 50 < tally.cases, "{kind:?}: too much of procfs is closed to this test: {tally}");
    assert!(tally.untold * 50 < tally.cases, "{kind:?}: too much is not known: {tally}");
    assert!(tally.stopped * 5 > tally.cases, "{kind:?}: too few walks are stopped by restrictions: {tally}");
    let rare = tally.rare(kind);
    assert!(rare.is_empty(), "{kind:?}: too few of {rare:?}: {tally}");
    // every path of what exists must lead to the object again
    assert!(tally.paths_wrong.is_empty(), "{kind:?}: {:#?}", tally.paths_wrong);
}

#[test]
fn a_chrooted_process_is_followed_exactly() {
    assert_agreement(Kind::Process);
}

#[test]
fn a_process_in_a_pid_namespace_is_followed_exactly() {
    assert_agreement(Kind::PidNamespace);
}

#[test]
fn a_process_in_nested_pid_namespaces_is_followed_exactly() {
    assert_agreement(Kind::NestedPidNamespaces);
}

#[test]
fn a_thread_with_its_own_root_is_followed_exactly() {
    assert_agreement(Kind::Thread);
}

#[test]
fn a_thread_with_its_own_descriptors_is_followed_exactly() {
    assert_agreement(Kind::ThreadWithDescriptors);
}

#[test]
fn a_process_whose_root_was_mounted_over_is_followed_exactly() {
    assert_agreement(Kind::CoveredRoot);
}

#[test]
fn a_process_on_the_hosts_root_is_followed_exactly() {
    assert_agreement(Kind::HostRoot);
}

/// While somebody swaps directories and links, each answer is one of the objects that were there, and nothing above the root.
#[test]
fn an_attacker_who_renames_meanwhile_cannot_lead_astray() {
    let folder = tempfile::tempdir().expect("folder");
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("one/deep")).expect("tree");
    fs::create_dir_all(root.join("two/deep")).expect("tree");
    fs::write(folder.path().join("secret"), b"").expect("secret");
    for place in ["one", "two"] {
        fs::write(root.join(place).join("deep/f"), place).expect("file");
    }
    let (in_root, (mut socket, theirs)) = (root.clone(), UnixStream::pair().expect("pair"));
    let attacker = fork_for_test(move || {
        let ready = std::os::unix::fs::chroot(&in_root).and_then(|()| std::env::set_current_dir("/"));
        if ready.and_then(|()| (&theirs).write_all(b"x")).is_err() {
            return 1;
        }
        loop {
            for target in ["one/deep", "/two/deep", "../../one"] {
                let _ = fs::remove_file("new");
                let _ = std::os::unix::fs::symlink(target, "new");
                let _ = fs::rename("new", "link");
                let _ = fs::rename("one/deep", "moved");
                let _ = fs::rename("moved", "one/deep");
            }
        }
    });
    socket.read_exact(&mut [0]).expect("ready");
    let inode = |path: &str| rustix::fs::stat(root.join(path)).map(|status| status.st_ino);
    let expected: Vec<u64> =
        ["one/deep/f", "two/deep/f"].iter().filter_map(|path| until_found(|| inode(path))).collect();
    let secret = rustix::fs::stat(folder.path().join("secret")).expect("secret").st_ino;
    let task = Task::open(attacker.pid()).expect("task");
    let mut found = 0;
    for _ in 0..3000 {
        for path in ["link/f", "/link/../deep/f", "one/deep/f", "link/../../../secret", "one/deep/../../../secret"] {
            match task.resolve(Base::Cwd, path.as_bytes(), Follow::Last) {
                Ok(Resolved { object: Some(object), .. }) => {
                    assert_ne!(object.inode, secret, "{path}");
                    assert!(expected.contains(&object.inode), "{path}");
                    found += 1;
                }
                Ok(_) | Err(ResolveError::Answer(_)) => {}
                Err(error) => panic!("{path}: {error:?}"),
            }
        }
    }
    assert!(found > 1000, "{found}");
}

fn until_found(mut look: impl FnMut() -> Result<u64, Errno>) -> Option<u64> {
    (0..10_000).find_map(|_| look().ok())
}

/// Without openat2(2) paths are still walked; only `self` cannot be told, and that is said, never taken for a missing file.
#[test]
fn an_old_kernel_makes_less_known_but_nothing_wrong() {
    let target = Target::start(Kind::Process, 0x5eed);
    let tid = target.tid;
    let child = fork_for_test(move || {
        let Ok(_listener) = forget_openat2_for_test() else { return 90 };
        let Ok(task) = Task::open(tid) else { return 91 };
        let found = |path: &str| match task.resolve(Base::Cwd, path.as_bytes(), Follow::Last) {
            Ok(Resolved { object: Some(_), .. }) => 0,
            Ok(_) => 1,
            Err(ResolveError::Answer(_)) => 2,
            Err(ResolveError::Unable { source: Errno::NOSYS, .. }) => 3,
            Err(_) => 4,
        };
        let wanted =
            [("/a/f", 0), ("/b/a/c/etc", 0), ("k3/etc", 0), ("/a/missing", 1), ("/no/f", 2), ("/proc/self/root", 3)];
        let wrong = wanted.iter().position(|(path, outcome)| found(path) != *outcome);
        let file = read_file_in_root(task.root(), b"/f", 10);
        let unreadable = matches!(file, Err(FileError::Kernel { source: Errno::NOSYS, .. }));
        wrong.map_or(i32::from(!unreadable) * 80, |index| 70 + index as i32)
    });
    assert_eq!(child.wait(), 0);
}

#[test]
fn limits_are_the_kernels() {
    let mut target = Target::start(Kind::Process, 0x5eed);
    let mut tally = Tally::default();
    let long = |length: usize| format!("/{}", "a/".repeat(length)).chars().take(length).collect::<String>();
    let paths = [
        String::new(),
        "/".to_owned(),
        "//".to_owned(),
        ".".to_owned(),
        "..".to_owned(),
        "k39".to_owned(),
        "k40".to_owned(),
        "k38/f".to_owned(),
        "k39/f".to_owned(),
        "k40/f".to_owned(),
        "f/".to_owned(),
        "f/.".to_owned(),
        "f/..".to_owned(),
        "missing/".to_owned(),
        "missing/x".to_owned(),
        "x".repeat(255),
        "x".repeat(256),
        format!("a/{}/b", "x".repeat(256)),
        format!("/{}", "./".repeat(2046)),
        format!("/{}", "./".repeat(2047)),
        format!("/{}", "./".repeat(2048)),
        long(4094),
        long(4095),
        long(4096),
        "../../../../f".to_owned(),
        "/proc/self/fd/-1".to_owned(),
        "/proc/thread-self".to_owned(),
    ];
    let task = Task::open(target.tid).expect("task");
    for path in paths {
        for what in [LOOK_UP_FOLLOWING, LOOK_UP_LINK] {
            let asked = Asked { what, base: AT_FDCWD, path: path.clone().into_bytes() };
            let kernels = target.ask(what, AT_FDCWD, &asked.path);
            compare(&mut target, &task, &asked, kernels, 0, &mut tally);
        }
    }
    assert!(tally.differences.is_empty(), "{}", tally.differences.join("\n"));
}

#[test]
fn descriptors_are_identified_and_a_dead_task_is_gone() {
    let mut target = Target::start(Kind::Process, 0x5eed);
    let task = Task::open(target.tid).expect("task");
    for descriptor in target.descriptors.clone() {
        let found = task.descriptor(descriptor).expect("descriptor");
        let path = format!("/proc/self/fd/{descriptor}");
        let kernels = target.ask(LOOK_UP_FOLLOWING, -100, path.as_bytes()).expect("kernel");
        assert_eq!((found.device, found.inode, found.mode), kernels);
    }
    assert_eq!(task.descriptor(777).expect_err("closed"), ResolveError::Answer(Errno::BADF));
    assert_eq!(task.descriptor(-1).expect_err("negative"), ResolveError::Answer(Errno::BADF));
    assert_eq!(task.descriptor_path(target.descriptors[1]), Some(b"/a".to_vec()));
    let tid = target.tid;
    drop(target);
    assert!(matches!(Task::open(tid), Err(ResolveError::TaskGone { .. })));
    assert!(matches!(task.resolve(Base::Cwd, b"f", Follow::Last), Err(ResolveError::TaskGone { .. })));
    assert!(matches!(task.descriptor(0), Err(ResolveError::TaskGone { .. })));
    assert!(task.root().as_fd().as_raw_fd() >= 0);
}

//! The walker against the kernel: a forked child, in a mount namespace of its own and chrooted, opens the same path with `O_PATH`; device,
//! inode, type and errno must be the same, over thousands of random paths through a web of links, mounts and procfs.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use rustix::fs::AtFlags;

use crate::kernel::Errno;
use crate::kernel::foreign_root::Base;
use crate::kernel::foreign_root::FileError;
use crate::kernel::foreign_root::Follow;
use crate::kernel::foreign_root::ResolveError;
use crate::kernel::foreign_root::Resolved;
use crate::kernel::foreign_root::Task;
use crate::kernel::foreign_root::read_file_in_root;
use crate::kernel::foreign_root::test_target::CHANGE_DIRECTORY;
use crate::kernel::foreign_root::test_target::CREATE;
use crate::kernel::foreign_root::test_target::Kind;
use crate::kernel::foreign_root::test_target::LOOK_UP_FOLLOWING;
use crate::kernel::foreign_root::test_target::LOOK_UP_LINK;
use crate::kernel::foreign_root::test_target::Random;
use crate::kernel::foreign_root::test_target::Target;
use crate::kernel::foreign_root::test_target::random_path;
use crate::kernel::raw::child::forget_openat2_for_test;
use crate::kernel::raw::child::fork_for_test;

/// What the walker said, in the kernel's terms.
fn summary(resolved: &Result<Resolved, ResolveError>) -> Result<(u64, u64, u32), String> {
    match resolved {
        Ok(Resolved { object: Some(object), .. }) => Ok((object.device, object.inode, object.mode)),
        Ok(_) => Err(Errno::NOENT.to_string()),
        Err(ResolveError::Answer(errno)) => Err(errno.to_string()),
        Err(other) => Err(format!("{other:?}")),
    }
}

#[derive(Default, Debug)]
struct Tally {
    cases: usize,
    found: usize,
    found_by_self: usize,
    created: usize,
    paths_checked: usize,
    paths_wrong: Vec<String>,
    differences: Vec<String>,
}

fn compare(target: &mut Target, base: Base, path: &str, follow: Follow, tally: &mut Tally) {
    let number = if let Base::Descriptor(number) = base { number } else { -100 };
    let what = if follow == Follow::Last { LOOK_UP_FOLLOWING } else { LOOK_UP_LINK };
    tally.cases += 1;
    let mut outcome = None;
    // objects of procfs may be forgotten and numbered anew between two lookups
    for _ in 0..3 {
        let task = Task::open(target.tid).expect("task");
        let ours = task.resolve(base, path.as_bytes(), follow);
        let kernels = target.ask(what, number, path.as_bytes()).map_err(|errno| errno.to_string());
        let same = summary(&ours) == kernels;
        outcome = Some((ours, kernels));
        if same {
            break;
        }
    }
    let (ours, kernels) = outcome.expect("tried");
    tally.found_by_self += usize::from(kernels.is_ok() && path.contains("self"));
    if summary(&ours) != kernels {
        tally.differences.push(format!("{base:?} {path:?} {follow:?}: kernel {kernels:?}, walker {ours:?}"));
        return;
    }
    match ours {
        Ok(Resolved { object: Some(object), path: Some(path), .. }) => {
            tally.found += 1;
            let again = target.ask(LOOK_UP_LINK, -100, &path);
            tally.paths_checked += 1;
            if again != Ok((object.device, object.inode, object.mode)) {
                tally.paths_wrong.push(String::from_utf8_lossy(&path).into_owned());
            }
        }
        Ok(Resolved { object: Some(_), .. }) => tally.found += 1,
        // never on the host's own root
        ours if target.kind != Kind::HostRoot && follow == Follow::Last && kernels == Err(Errno::NOENT.to_string()) => {
            compare_creation(target, number, path, ours, tally);
        }
        _ => {}
    }
}

/// Where the kernel would make a missing file must be the directory and name that the walker found.
fn compare_creation(
    target: &mut Target,
    base: i32,
    path: &str,
    ours: Result<Resolved, ResolveError>,
    tally: &mut Tally,
) {
    let Ok((device, inode, _)) = target.ask(CREATE, base, path.as_bytes()) else { return };
    tally.created += 1;
    let Ok(Resolved { parent: Some(parent), name, trailing_slash: false, .. }) = ours else {
        tally.differences.push(format!("kernel created {path:?}, walker has no place for it"));
        return;
    };
    let found = rustix::fs::statat(&parent, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW);
    if found.map(|status| (status.st_dev, status.st_ino)) != Ok((device, inode)) {
        tally
            .differences
            .push(format!("kernel created {path:?}, not at the walker's {:?}", String::from_utf8_lossy(&name)));
        return;
    }
    rustix::fs::unlinkat(&parent, name.as_slice(), AtFlags::empty()).expect("unlink");
}

fn agree(kind: Kind, seed: u64, cases: usize) -> Tally {
    let mut target = Target::start(kind, seed);
    let mut random = Random(seed ^ 0x9e37_79b9_7f4a_7c15);
    let mut tally = Tally::default();
    let descriptors = target.descriptors.clone();
    for case in 0..cases {
        if case % 40 == 39 {
            let to = descriptors[random.next(descriptors.len())];
            let _ = target.ask(CHANGE_DIRECTORY, to, b".");
        }
        let base = match random.next(4) {
            0 => Base::Descriptor(descriptors.get(random.next(descriptors.len() + 1)).copied().unwrap_or(777)),
            _ => Base::Cwd,
        };
        let path = random_path(&mut random, &descriptors);
        let follow = if random.next(3) == 0 { Follow::NoLast } else { Follow::Last };
        if base == Base::Descriptor(777) && !path.starts_with('/') {
            let task = Task::open(target.tid).expect("task");
            let answer = task.resolve(base, path.as_bytes(), follow).expect_err("no such descriptor");
            assert_eq!(answer, ResolveError::Answer(Errno::BADF));
            continue;
        }
        let base = if base == Base::Descriptor(777) { Base::Cwd } else { base };
        compare(&mut target, base, &path, follow, &mut tally);
    }
    tally
}

fn assert_agreement(kind: Kind, seeds: std::ops::Range<u64>, cases: usize) {
    let mut all = Tally::default();
    for seed in seeds {
        let tally = agree(kind, 0x5eed_0000 + seed, cases);
        assert!(tally.differences.is_empty(), "{kind:?} seed {seed}:\n{}", tally.differences.join("\n"));
        all.cases += tally.cases;
        all.found += tally.found;
        all.found_by_self += tally.found_by_self;
        all.created += tally.created;
        all.paths_checked += tally.paths_checked;
        all.paths_wrong.extend(tally.paths_wrong);
    }
    // stdout is shown only when asked for; the numbers guard against a test that compares nothing
    println!(
        "{kind:?}: {} cases, {} found ({} through self), {} created, {} of {} paths stale",
        all.cases,
        all.found,
        all.found_by_self,
        all.created,
        all.paths_wrong.len(),
        all.paths_checked
    );
    assert!(all.found * 10 > all.cases && all.found_by_self * 50 > all.cases, "{all:?}");
    // a deleted directory has no path; every other path must lead to the object again
    all.paths_wrong.retain(|path| !path.ends_with("/gone"));
    assert!(all.paths_wrong.is_empty(), "{:?}", all.paths_wrong);
}

#[test]
fn a_chrooted_process_is_followed_exactly() {
    assert_agreement(Kind::Process, 0..10, 1000);
}

#[test]
fn a_process_in_a_pid_namespace_is_followed_exactly() {
    assert_agreement(Kind::PidNamespace, 10..20, 500);
}

#[test]
fn a_process_in_nested_pid_namespaces_is_followed_exactly() {
    assert_agreement(Kind::NestedPidNamespaces, 40..50, 500);
}

#[test]
fn a_thread_with_its_own_root_is_followed_exactly() {
    assert_agreement(Kind::Thread, 20..30, 500);
}

#[test]
fn a_process_on_the_hosts_root_is_followed_exactly() {
    assert_agreement(Kind::HostRoot, 30..35, 400);
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
    for path in &paths {
        for follow in [Follow::Last, Follow::NoLast] {
            compare(&mut target, Base::Cwd, path, follow, &mut tally);
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

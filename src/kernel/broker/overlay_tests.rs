//! Overlays that a helper mounts, beside those that mount(2) makes of the same options.

use std::fs::File;
use std::path::Path;
use std::path::PathBuf;

use nix::mount::MsFlags;
use rustix::mount::FsMountFlags;
use rustix::mount::FsOpenFlags;
use rustix::mount::MountAttrFlags;

use super::tests::LIMIT;
use super::tests::helper;
use super::tests::object;
use super::tests::told;
use super::*;
use crate::kernel::raw::child::fork_for_test;
use crate::kernel::thread;

/// In the child: a mount namespace and a file system of its own at `folder`, with layers in it.
fn furnish(folder: &Path) {
    let mounted = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .and_then(|()| {
            nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        })
        .and_then(|()| nix::mount::mount(Some("none"), folder, Some("tmpfs"), MsFlags::empty(), None::<&str>));
    let made =
        ["up", "other", "work", "low", "low2", "point"].iter().map(|name| std::fs::create_dir(folder.join(name)));
    let made: std::io::Result<Vec<()>> = made.collect();
    let written =
        std::fs::write(folder.join("low/lower"), "lower").and_then(|()| std::fs::write(folder.join("file"), ""));
    // whoever waits for it finds out what is not there
    if mounted.is_ok() && made.is_ok() && written.is_ok() {
        let _ = std::fs::write(folder.join("ready"), "");
    }
}

/// What is told of a mount at `folder/point`, but for its numbers and its upper layer.
fn mount_information(process: &str, folder: &Path) -> String {
    let point = format!(" {} ", folder.join("point").display());
    let all = std::fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap_or_default();
    let line =
        all.lines().find_map(|line| line.split_once(&point)).map(|(_, rest)| rest.to_owned()).unwrap_or_default();
    let words = line.split(',').filter(|word| !word.starts_with("upperdir="));
    words.collect::<Vec<_>>().join(",")
}

struct Case {
    /// `UP` stands for the upper layer's path, `/F` for the folder.
    options: String,
    upper: &'static str,
    point: &'static str,
    flags: MsFlags,
    outcome: &'static str,
}

fn cases() -> Vec<Case> {
    let all = "lowerdir=/F/low:/F/low2,upperdir=UP,workdir=/F/work";
    let case =
        |options: String, outcome| Case { options, upper: "up", point: "point", flags: MsFlags::empty(), outcome };
    let with = |more: &str, outcome| case(format!("{all}{more}"), outcome);
    let restricting = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOATIME;
    // more than fsconfig(2) takes as one text
    let long = format!("lowerdir=/F/low{}:/F/low2,upperdir=UP,workdir=/F/work", "/.".repeat(200));
    vec![
        with("", "0"),
        with(",userxattr", "0"),
        with(",volatile", "0"),
        with(",ro", "0"),
        Case { flags: restricting, ..with("", "0") },
        Case { flags: MsFlags::MS_STRICTATIME | MsFlags::MS_SYNCHRONOUS, ..with(",index=off", "0") },
        case(long, "0"),
        with(",nonsense", "EINVAL"),
        with(",redirect_dir=perhaps", "EINVAL"),
        with(",upperdir=", "EINVAL"),
        case("lowerdir=/F/missing,upperdir=UP,workdir=/F/work".to_owned(), "ENOENT"),
        case("lowerdir=/F/low,upperdir=UP".to_owned(), "EINVAL"),
        Case { upper: "missing", ..with("", "ENOENT") },
        Case { upper: "file", ..with("", "EINVAL") },
        Case { point: "file", ..with("", "ENOTDIR") },
    ]
}

/// By mount(2) itself, in a child: the outcome in words, and what is told of the mount.
fn natively(case: &Case, folder: &Path, report: &Path) -> (String, String) {
    let upper = folder.join(case.upper).display().to_string();
    let options = case.options.replace("/F", &folder.display().to_string()).replace("UP", &upper);
    let (inner, point, flags) = (folder.to_owned(), folder.join(case.point), case.flags);
    let told_at = report.to_owned();
    let child = fork_for_test(move || {
        furnish(&inner);
        match nix::mount::mount(Some("none"), &point, Some("overlay"), flags, Some(options.as_str())) {
            Ok(()) => std::fs::write(&told_at, mount_information("self", &inner)).map_or(255, |()| 0),
            Err(errno) => errno as i32,
        }
    });
    let words = match child.wait() {
        0 => "0".to_owned(),
        errno => format!("{:?}", nix::errno::Errno::from_raw(errno)),
    };
    (words, std::fs::read_to_string(report).unwrap_or_default())
}

/// A child that waits in a mount namespace of its own, and the way to its folder from here.
fn resident(folder: &Path) -> (crate::kernel::raw::child::TestChild, PathBuf) {
    let inner = folder.to_owned();
    let child = fork_for_test(move || {
        furnish(&inner);
        std::thread::sleep(Duration::from_secs(60));
        0
    });
    let way = PathBuf::from(format!("/proc/{}/root{}", child.pid(), folder.display()));
    while !way.join("ready").exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    (child, way)
}

fn parts(case: &Case, folder: &Path) -> Vec<Part> {
    let options = case.options.replace("/F", &folder.display().to_string());
    let (before, after) = options.split_once("UP").expect("an upper layer");
    let layer = if case.upper == "missing" { Part::Text(b"nowhere".to_vec()) } else { Part::Number(5) };
    vec![Part::Text(before.into()), layer, Part::Text(after.into())]
}

#[test]
fn an_overlay_is_mounted_as_by_mount() {
    let (folder, report) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    for (number, case) in cases().iter().enumerate() {
        let (native, native_mount) = natively(case, folder.path(), &report.path().join(number.to_string()));
        let (child, way) = resident(folder.path());
        let (helper, credentials) = helper(child.pid());
        let mut on = vec![object(&way.join(case.point))];
        on.extend(thread::namespaces(child.pid(), ["pid", "net", "ipc", "cgroup"]).expect("namespaces"));
        if case.upper != "missing" {
            on.push(object(&way.join(case.upper)));
        }
        let [source, kind] = ["none", "overlay"].map(|text| Some(text.into()));
        let data = Some(parts(case, folder.path()));
        let mount = Operation::Mount(Mount::New { source, kind, flags: case.flags.bits(), data });
        let on: Vec<BorrowedFd<'_>> = on.iter().map(AsFd::as_fd).collect();
        let ours = told(helper.perform(&credentials, mount, &on, &[], None, LIMIT));
        let mount = mount_information(&child.pid().to_string(), folder.path());
        assert_eq!((native.as_str(), ours.as_str()), (case.outcome, case.outcome), "{}", case.options);
        assert_eq!(mount, native_mount, "{}", case.options);
        assert_eq!(mount.is_empty(), case.outcome != "0", "{}", case.options);
        if case.outcome == "0" && !mount.starts_with("ro") && !mount.contains(" ro,") {
            std::fs::write(way.join("point/new"), "new").expect("write to the overlay");
            assert_eq!(std::fs::read(way.join("up/new")).expect("in its upper layer"), b"new");
            assert_eq!(std::fs::read(way.join("point/lower")).expect("of the lower layer"), b"lower");
        }
        child.kill();
    }
}

/// mount(2) of fuse takes the number of a descriptor for `/dev/fuse` (fuse(4), "fd").
#[test]
fn a_file_system_with_a_descriptor_is_mounted() {
    let folder = tempfile::tempdir().expect("folder");
    let (child, way) = resident(folder.path());
    let (helper, credentials) = helper(child.pid());
    let mut on = vec![object(&way.join("point"))];
    on.extend(thread::namespaces(child.pid(), ["pid", "net", "ipc", "cgroup"]).expect("namespaces"));
    on.push(File::options().read(true).write(true).open("/dev/fuse").expect("fuse").into());
    let on: Vec<BorrowedFd<'_>> = on.iter().map(AsFd::as_fd).collect();
    let [source, kind] = ["none", "fuse.test"].map(|text| Some(text.into()));
    let options = b",rootmode=40000,user_id=0,group_id=0".to_vec();
    let data = Some(vec![Part::Text(b"fd=".to_vec()), Part::Number(5), Part::Text(options)]);
    let mount = Operation::Mount(Mount::New { source, kind, flags: 0, data });
    assert_eq!(told(helper.perform(&credentials, mount, &on, &[], None, LIMIT)), "0");
    assert!(mount_information(&child.pid().to_string(), folder.path()).contains("fuse.test"));
    child.kill();
}

/// In the mount namespace of another process, as whoever makes a file system of its layers must be.
fn within<T: Send>(pid: u32, act: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(format!("/proc/{pid}/ns/mnt")).expect("namespace");
    let inside = || {
        // setns(2): "a process can't join a new mount namespace if it is sharing filesystem-related attributes"
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).expect("unshare");
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNS).expect("enter");
        act()
    };
    std::thread::scope(|scope| scope.spawn(inside).join().expect("a thread of its own"))
}

/// A link leads to one directory when it is decided about, and to another when the overlay is made.
#[test]
fn an_upper_layer_is_not_looked_up_again() {
    let folder = tempfile::tempdir().expect("folder");
    let (child, way) = resident(folder.path());
    let (helper, credentials) = helper(child.pid());
    let act = |operation, on: &[&OwnedFd]| {
        let on: Vec<BorrowedFd<'_>> = on.iter().map(|descriptor| descriptor.as_fd()).collect();
        told(helper.perform(&credentials, operation, &on, &[], None, LIMIT))
    };
    std::os::unix::fs::symlink("up", way.join("link")).expect("link");
    let decided = {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        rustix::fs::open(way.join("link"), flags, rustix::fs::Mode::empty()).expect("what it leads to")
    };
    std::fs::remove_file(way.join("link")).expect("remove");
    std::os::unix::fs::symlink("other", way.join("link")).expect("link");

    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).expect("overlay");
    let set = |key: &str, configured, more: &[&OwnedFd]| {
        let operation = Operation::Mount(Mount::Configure { key: key.into(), configured });
        act(operation, &[&[&context], more].concat())
    };
    let text = |name: &str| Configured::Text(vec![Part::Text(folder.path().join(name).display().to_string().into())]);
    assert_eq!(set("upperdir", Configured::Layer, &[&decided]), "0");
    assert_eq!(set("lowerdir", text("low"), &[]), "0");
    assert_eq!(
        set("workdir", Configured::Text(vec![Part::Number(1), Part::Text(b"/work".into())]), &[&object(&way)]),
        "0"
    );
    // fs/overlayfs takes a text or a descriptor, no path; other file systems have no layers
    assert_eq!(set("upperdir", Configured::Object, &[&decided]), "EINVAL");
    assert_eq!(set("upperdir", Configured::Nowhere, &[]), "EINVAL");
    assert_eq!(set("upperdir", text("missing"), &[]), "ENOENT");
    assert_eq!(set("nonsense", text("low"), &[]), "EINVAL");
    assert_eq!(set("upperdir", Configured::Layer, &[]), "EBADF");
    let tree = within(child.pid(), || {
        rustix::mount::fsconfig_create(&context).expect("create");
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).expect("mount")
    });
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    rustix::fs::openat(&tree, "new", flags, rustix::fs::Mode::RUSR).expect("write to the overlay");
    assert!(way.join("up/new").exists() && !way.join("other/new").exists());
    child.kill();
}

//! A real helper, which is this test program again, acting for real threads.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use std::sync::Arc;

use super::*;
use crate::kernel::raw::child::fork_for_test;

pub(super) const LIMIT: Duration = Duration::from_secs(10);
const BE_A_HELPER: &[&str] = &["kernel::broker::tests::be_a_helper", "--exact", "--test-threads=1"];

/// What the helpers of the other tests run, in a child because this program has threads. By itself its standard input is no
/// socket, so that it ends at once.
#[test]
fn be_a_helper() {
    let child = fork_for_test(|| {
        serve(std::io::stdin().as_fd());
        0
    });
    assert_eq!(child.wait(), 0);
}

pub(super) fn helper(tid: u32) -> (Helper, Credentials) {
    let (credentials, home) = Credentials::of_thread(tid).expect("credentials");
    (Helper::start(&here(), home, None, LIMIT).expect("start: root is needed"), credentials)
}

fn here() -> Starter {
    let arguments = BE_A_HELPER.iter().map(|word| (*word).to_owned()).collect();
    Starter::Here { program: "/proc/self/exe".to_owned(), arguments }
}

/// What [`a_process_apart_starts_helpers_and_ends_with_its_line`] runs, as above.
#[test]
fn be_a_starter() {
    let child = fork_for_test(|| {
        serve_starts(std::io::stdin().as_fd(), "/proc/self/exe", BE_A_HELPER, drop);
        0
    });
    assert_eq!(child.wait(), 0);
}

#[test]
fn a_process_apart_starts_helpers_and_ends_with_its_line() {
    let folder = tempfile::tempdir().expect("folder");
    let arguments = ["kernel::broker::tests::be_a_starter", "--exact", "--test-threads=1"];
    let starter = Starter::apart("/proc/self/exe", &arguments, "starter").expect("start");
    let home = || Credentials::of_thread(std::process::id()).expect("credentials");
    let helpers: Vec<Helper> =
        (0..3).map(|_| Helper::start(&starter, home().1, None, LIMIT).expect("helper")).collect();
    let on = directory(folder.path());
    for (index, helper) in helpers.iter().enumerate() {
        let name = format!("file-{index}");
        let deed = create(name.as_bytes(), O_WRONLY | O_CREAT | O_EXCL, None);
        assert_eq!(told(helper.perform(&home().0, deed, &[on.as_fd()], &[], None, LIMIT)), "descriptor");
        assert!(folder.path().join(name).exists());
    }
    let processes: Vec<_> = helpers.iter().map(|helper| Arc::clone(helper.process())).collect();
    drop(helpers);
    assert!(processes.iter().all(|process| !process.still_alive().expect("poll")), "a helper outlives its end");
    let Starter::Apart(apart) = starter else { panic!("not apart") };
    let lone = Starter::Apart(Arc::clone(&apart));
    drop(apart);
    let left = Helper::start(&lone, home().1, None, LIMIT).expect("helper");
    drop(lone);
    assert_eq!(
        told(left.perform(&home().0, create(b"last", O_WRONLY | O_CREAT, None), &[on.as_fd()], &[], None, LIMIT)),
        "descriptor"
    );
}

#[test]
fn a_starter_that_is_gone_starts_nothing_and_says_so() {
    let starter = Starter::apart("/bin/true", &[], "starter").expect("start");
    starter.wait_for_end();
    let (_, home) = Credentials::of_thread(std::process::id()).expect("credentials");
    assert!(matches!(Helper::start(&starter, home, None, LIMIT), Err(BrokerError::Socket(_) | BrokerError::Gone)));
}

fn directory(path: &Path) -> File {
    File::open(path).expect("open directory")
}

pub(super) fn object(path: &Path) -> OwnedFd {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty()).expect("open object")
}

fn searched(path: &Path) -> Searched {
    Searched { directory: object(path), link: None }
}

fn create(name: &[u8], flags: u32, existing: Option<(u64, u64)>) -> Operation {
    Operation::OpenEntry { name: name.to_vec(), flags, mode: 0o666, existing }
}

const O_WRONLY: u32 = 0o1;
const O_CREAT: u32 = 0o100;
const O_EXCL: u32 = 0o200;
const O_TRUNC: u32 = 0o1000;

/// In words, for tables.
pub(super) fn told(done: Result<Done, BrokerError>) -> String {
    match done.expect("the helper answers") {
        Done::Value(value) => value.to_string(),
        Done::Descriptor(_) => "descriptor".to_owned(),
        Done::Failed(errno) => format!("{:?}", nix::errno::Errno::from_raw(errno.raw_os_error())),
        Done::Again => "again".to_owned(),
    }
}

/// A child with other ids, groups and umask: what a helper makes for it belongs to it.
#[test]
fn it_acts_as_the_thread_it_acts_for() {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("mode");
    let open = folder.path().join("open");
    let closed = folder.path().join("closed");
    for (path, mode) in [(&open, 0o777), (&closed, 0o700)] {
        std::fs::create_dir(path).expect("folder");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("mode");
    }
    std::fs::write(closed.join("inner"), "").expect("file");
    let child = fork_for_test(|| {
        let ids = |id| (rustix::process::Uid::from_raw(id), rustix::process::Gid::from_raw(id));
        let (uid, gid) = ids(4321);
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
        let _ = rustix::thread::set_thread_groups(&[rustix::process::Gid::from_raw(5)]);
        let _ = rustix::thread::set_thread_res_gid(gid, gid, gid);
        let _ = rustix::thread::set_thread_res_uid(uid, uid, uid);
        std::thread::sleep(Duration::from_secs(60));
        0
    });
    while process_uid(child.pid()) != 4321 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (helper, credentials) = helper(child.pid());
    let act = |operation, descriptors: &[BorrowedFd<'_>], searched: &[&Searched]| {
        told(helper.perform(&credentials, operation, descriptors, searched, None, LIMIT))
    };
    let (here, inside) = (directory(&open), directory(&closed));
    assert_eq!(act(create(b"new", O_WRONLY | O_CREAT, None), &[here.as_fd()], &[&searched(&open)]), "descriptor");
    let made = open.join("new").metadata().expect("metadata");
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (4321, 4321, 0o640));
    // what root could do the thread cannot
    let inner = object(&closed.join("inner"));
    assert_eq!(act(Operation::Open { flags: O_WRONLY, mode: 0 }, &[inner.as_fd()], &[]), "EACCES");
    assert_eq!(act(create(b"x", O_WRONLY | O_CREAT, None), &[inside.as_fd()], &[]), "EACCES");
    assert_eq!(act(create(b"x", O_WRONLY | O_CREAT, None), &[here.as_fd()], &[&searched(&closed)]), "EACCES");
    let foreign = Searched { directory: object(Path::new("/proc/1")), link: Some(b"root".to_vec()) };
    assert_eq!(act(create(b"x", O_WRONLY | O_CREAT, None), &[here.as_fd()], &[&foreign]), "EACCES");
    let owner = Operation::ChangeOwner { subject: Subject::Object, uid: Some(0), gid: None };
    assert_eq!(act(owner, &[object(&open.join("new")).as_fd()], &[]), "EPERM");
    let node = Operation::MakeNode { name: b"null".to_vec(), mode: 0o020_666, device: 0x103 };
    assert_eq!(act(node, &[here.as_fd()], &[]), "EPERM");
    assert_eq!(act(Operation::Unlink { name: b"new".to_vec(), directory: false }, &[here.as_fd()], &[]), "0");
    child.kill();
}

fn process_uid(pid: u32) -> u32 {
    crate::kernel::thread::StatusFile::open(pid).and_then(|status| status.credentials()).expect("credentials").fs_uid
}

/// Between the look and the deed somebody puts another file at the name.
#[test]
fn what_is_not_what_was_decided_about_is_not_touched() {
    let folder = tempfile::tempdir().expect("folder");
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("decided"), "decided").expect("file");
    std::fs::write(at("other"), "precious").expect("file");
    std::os::unix::fs::symlink("other", at("link")).expect("link");
    let decided = at("decided").metadata().expect("metadata");
    let existing = Some((decided.dev(), decided.ino()));
    let (helper, credentials) = helper(std::process::id());
    let here = directory(folder.path());
    let act = |operation, descriptors: &[BorrowedFd<'_>]| {
        told(helper.perform(&credentials, operation, descriptors, &[], None, LIMIT))
    };
    let truncating = O_WRONLY | O_CREAT | O_TRUNC;
    assert_eq!(act(create(b"other", truncating, existing), &[here.as_fd()]), "again");
    assert_eq!(act(create(b"other", truncating, None), &[here.as_fd()]), "again");
    assert_eq!(act(create(b"link", truncating, existing), &[here.as_fd()]), "again");
    assert_eq!(act(create(b"link", truncating, None), &[here.as_fd()]), "again");
    assert_eq!(std::fs::read(at("other")).expect("read"), b"precious");
    assert_eq!(act(create(b"other", truncating | O_EXCL, None), &[here.as_fd()]), "EEXIST");
    assert_eq!(act(create(b"decided", truncating, existing), &[here.as_fd()]), "descriptor");
    let claimed = O_WRONLY | O_EXCL | rustix::fs::OFlags::NOFOLLOW.bits();
    assert_eq!(act(create(b"decided", claimed, existing), &[here.as_fd()]), "descriptor", "O_EXCL without O_CREAT");
    assert_eq!(std::fs::read(at("decided")).expect("read"), b"");
    // a link is an object of its own: opening it is ELOOP, whatever it says
    assert_eq!(act(Operation::Open { flags: O_WRONLY, mode: 0 }, &[object(&at("link")).as_fd()]), "ELOOP");
    let rename = Operation::Rename { old: b"other".to_vec(), new: b"moved".to_vec(), flags: 0 };
    assert_eq!(act(rename, &[here.as_fd(), here.as_fd()]), "0");
    let link = Operation::LinkObject { new: b"twice".to_vec() };
    assert_eq!(act(link, &[object(&at("moved")).as_fd(), here.as_fd()]), "0");
    assert_eq!(at("moved").metadata().expect("metadata").nlink(), 2);
    let mode = Operation::ChangeMode { subject: Subject::Object, mode: 0o4711 };
    assert_eq!(act(mode, &[object(&at("moved")).as_fd()]), "0");
    assert_eq!(at("twice").metadata().expect("metadata").mode() & 0o7777, 0o4711);
    assert_eq!(act(Operation::Truncate { length: 3, limit: None }, &[object(&at("moved")).as_fd()]), "0");
    assert_eq!(std::fs::read(at("twice")).expect("read"), b"pre");
    // setrlimit(2): "attempts to extend a file beyond this limit"; to cut one is none, and the next deed has no limit
    let truncate = |length, limit| act(Operation::Truncate { length, limit }, &[object(&at("moved")).as_fd()]);
    assert_eq!([truncate(11, Some(10)), truncate(10, Some(10)), truncate(11, None)], ["EFBIG", "0", "0"]);
    assert_eq!([truncate(5, Some(4)), truncate(1 << 20, Some(4)), truncate(3, None)], ["0", "EFBIG", "0"]);
    let (name, value) = (b"user.test".to_vec(), b"value".to_vec());
    let set = Operation::SetAttribute { subject: Subject::Object, name: name.clone(), value, flags: 0 };
    assert!(["0", "EOPNOTSUPP"].contains(&act(set, &[object(&at("moved")).as_fd()]).as_str()));
    let entry = Operation::RemoveAttribute { subject: Subject::Entry(b"link".to_vec()), name };
    assert!(["EPERM", "ENODATA", "EOPNOTSUPP"].contains(&act(entry, &[here.as_fd()]).as_str()));
    assert_eq!(act(Operation::Truncate { length: 3, limit: None }, &[]), "EBADF");
}

/// A child in a user namespace of its own, root there and nobody here.
#[test]
fn root_of_another_user_namespace_is_nobody_here() {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("mode");
    std::fs::write(folder.path().join("ours"), "").expect("file");
    std::fs::create_dir(folder.path().join("theirs")).expect("folder");
    std::os::unix::fs::chown(folder.path().join("theirs"), Some(100_000), Some(100_000)).expect("chown");
    let child = fork_for_test(move || {
        let _ = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER | nix::sched::CloneFlags::CLONE_NEWNS);
        let (uid, gid) = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
        // EINVAL until it is mapped
        while rustix::thread::set_thread_res_gid(gid, gid, gid).is_err()
            || rustix::thread::set_thread_res_uid(uid, uid, uid).is_err()
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_secs(60));
        0
    });
    let own = std::fs::read_link("/proc/self/ns/user").expect("namespace");
    while std::fs::read_link(format!("/proc/{}/ns/user", child.pid())).expect("namespace") == own {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (ours, theirs) = (directory(folder.path()), directory(&folder.path().join("theirs")));
    let try_both = |name: &[u8]| {
        let (helper, credentials) = helper(child.pid());
        let act = |at: &File| {
            told(helper.perform(&credentials, create(name, O_WRONLY | O_CREAT, None), &[at.as_fd()], &[], None, LIMIT))
        };
        (act(&ours), act(&theirs))
    };
    // nobody in its own user namespace is still who it was, without any capability
    assert_eq!(try_both(b"x"), ("descriptor".to_owned(), "EACCES".to_owned()));
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{}/{map}", child.pid()), "0 100000 1000").expect("map");
    }
    while process_uid(child.pid()) != 100_000 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(try_both(b"y"), ("EACCES".to_owned(), "descriptor".to_owned()));
    let made = folder.path().join("theirs/y").metadata().expect("metadata");
    assert_eq!((made.uid(), made.gid()), (100_000, 100_000));
    child.kill();
}

/// A helper that waits for a FIFO's reader: the answer comes when there is one.
#[test]
fn a_slow_answer_can_be_waited_for() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("fifo");
    let (helper, credentials) = helper(std::process::id());
    let fifo = object(&path);
    let open = Operation::Open { flags: O_WRONLY, mode: 0 };
    let soon = Duration::from_millis(20);
    let slow = helper.perform(&credentials, open, &[fifo.as_fd()], &[], None, soon);
    assert!(matches!(slow, Err(BrokerError::Slow(_))), "{slow:?}");
    let reader = std::thread::spawn(move || File::open(path).expect("reader"));
    assert!(matches!(helper.wait(LIMIT), Ok(Done::Descriptor(_))));
    drop(reader.join());
}

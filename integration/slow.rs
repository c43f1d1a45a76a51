//! Calls that are slow, because their file system is: their callers get what really comes of them, once, as late as it may be, and
//! nobody else waits. The file system is an ext4 that is frozen for a while (`fsfreeze`): whoever changes something in it waits as for
//! a disk that does not answer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use acctguard::daemon::deadline_watch::DEADLINE;
use acctguard::daemon::set_aside::SLOW;
use acctguard::model::event::{Event, Kind};
use acctguard::supervise::broker::quota::MAX_SLOW;
#[cfg(target_arch = "x86_64")]
use nix::libc::SECCOMP_IOCTL_NOTIF_SEND;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::chaos::obedient::{Hanging, Obedient};
use crate::harness::command::finish;
#[cfg(target_arch = "x86_64")]
use crate::harness::death::{Moment, kill_at};
use crate::harness::events::of;
use crate::harness::node::{Node, Runtime, policy};

/// What an answer may take beyond its time on a busy machine.
const GRACE: Duration = Duration::from_secs(5);
/// Within this a slow call has been set aside.
const ASIDE: Duration = SLOW.saturating_add(Duration::from_millis(1500));

/// A file system in a file, which can be frozen. It is thawed, and goes, when it is dropped.
struct Disk {
    folder: PathBuf,
    is_frozen: bool,
}

impl Disk {
    fn new(node: &Node) -> Self {
        let (image, folder) = (node.scratch.path().join("disk.img"), node.scratch.folder("disk"));
        fs::File::create(&image).and_then(|file| file.set_len(16 << 20)).expect("make a file for a file system");
        finish(Command::new("mkfs.ext4").arg("-q").arg(&image)).ok();
        finish(Command::new("mount").args(["-o", "loop"]).args([&image, &folder])).ok();
        Self { folder, is_frozen: false }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn freeze(&mut self, freezes: bool) {
        finish(Command::new("fsfreeze").arg(if freezes { "-f" } else { "-u" }).arg(&self.folder)).ok();
        self.is_frozen = freezes;
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_frozen {
            self.freeze(false);
        }
        if let Err(error) = umount2(&self.folder, MntFlags::MNT_DETACH) {
            eprintln!("unmount {}: {error}", self.folder.display());
        }
    }
}

/// A node whose broker carries out what workloads ask for, and what it costs to see a disk in a container.
fn node(runtime: Runtime) -> Node {
    Node::start(runtime, &format!("{}  landlock: off\n", policy("enforce")))
}

fn with_disk(node: &Node, disk: &Path) -> Obedient {
    Obedient::start(node, |config| mount(config, disk))
}

/// The same, whose calls a signal cancels: under runc 1.1.5 the launcher has calls wait killable, unless the profile is about seccomp(2)
/// itself.
fn with_disk_and_cancelled_calls(node: &Node, disk: &Path) -> Obedient {
    let container = Obedient::start(node, |config| {
        mount(config, disk);
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["seccomp"], "action": "SCMP_ACT_ERRNO"}]
        });
    });
    let events = node.events();
    let created = of(&events, Kind::ContainerCreated, &container.bundle.id);
    let protection = &created[0].creation.as_ref().expect("creation").protection;
    assert_eq!(protection.wait_killable, Some(false), "{protection:?}");
    container
}

fn mount(config: &mut Value, disk: &Path) {
    let bind = json!({
        "destination": "/disk", "type": "bind", "source": disk, "options": ["rbind", "rw"]
    });
    config["mounts"].as_array_mut().expect("mounts").push(bind);
}

/// What an open costs that waits for nobody.
#[track_caller]
fn is_quick(container: &mut Obedient) {
    let started = Instant::now();
    container.measure(20);
    assert!(started.elapsed() < Duration::from_secs(1), "20 opens took {:?}", started.elapsed());
}

/// A slow call that was answered with success.
#[track_caller]
fn succeeds(container: &Obedient, word: &str, after: Duration) {
    let answer = container.line(GRACE).unwrap_or_else(|| panic!("no answer to {word}"));
    let [said, errno, took] = answer.split(' ').collect::<Vec<_>>()[..] else { panic!("{answer}") };
    assert_eq!((said, errno), (word, "0"), "{answer}");
    let took = Duration::from_nanos(took.parse().expect("nanoseconds"));
    assert!(took >= after, "it did not wait: {took:?}");
}

#[track_caller]
fn nothing_is_told(node: &Node) {
    let events = node.events();
    let told: Vec<&Event> = events.iter().filter(|event| event.kind == Kind::ProtectionDegraded).collect();
    assert!(told.is_empty(), "{told:?}\n{}", node.log_text());
}

fn each_slow_call_succeeds(runtime: Runtime) {
    let node = node(runtime);
    let mut disk = Disk::new(&node);
    for name in ["old", "long"] {
        fs::write(disk.path(name), "much").expect("write");
    }
    let (mut slow, mut other) = (with_disk(&node, &disk.folder), Obedient::start(&node, |_| {}));
    for (tell, word) in [
        ("unlink /disk/old", "unlink"),
        ("symlink /disk/folder", "symlink"),
        ("truncate /disk/long", "truncate"),
        ("reach /disk/new", "reached"),
    ] {
        disk.freeze(true);
        let frozen = Instant::now();
        slow.tell(tell);
        std::thread::sleep(ASIDE);
        is_quick(&mut slow);
        is_quick(&mut other);
        let after = DEADLINE + Duration::from_secs(2);
        std::thread::sleep(after.saturating_sub(frozen.elapsed()));
        is_quick(&mut slow);
        disk.freeze(false);
        succeeds(&slow, word, DEADLINE);
        is_quick(&mut slow);
    }
    assert!(!disk.path("old").exists() && disk.path("folder").is_symlink() && disk.path("new").is_file());
    assert_eq!(fs::read_to_string(disk.path("long")).expect("read"), "m");
    nothing_is_told(&node);
}

#[test]
fn each_slow_call_succeeds_with_runc() {
    each_slow_call_succeeds(Runtime::Runc);
}

#[test]
fn each_slow_call_succeeds_with_crun() {
    each_slow_call_succeeds(Runtime::Crun);
}

/// As many slow calls of a container as are set aside, and some more: those are answered by policy, and when the disk answers again
/// everything is as ever.
#[test]
fn so_many_slow_calls_are_waited_for_and_no_more() {
    const BEYOND: usize = 3;
    let node = node(Runtime::Crun);
    let mut disk = Disk::new(&node);
    let files: Vec<String> = (0..MAX_SLOW + BEYOND).map(|number| format!("file{number}")).collect();
    files.iter().for_each(|name| fs::write(disk.path(name), "much").expect("write"));
    let (mut slow, mut other) = (with_disk(&node, &disk.folder), Obedient::start(&node, |_| {}));
    disk.freeze(true);
    let (few, rest) = files.split_at(8);
    few.iter().for_each(|name| slow.tell(&format!("unlink /disk/{name}")));
    // one after the other is found to be slow, the first after longest
    std::thread::sleep(ASIDE + Duration::from_millis(400) * 8);
    is_quick(&mut slow);
    rest.iter().for_each(|name| slow.tell(&format!("unlink /disk/{name}")));
    for _ in 0..BEYOND {
        let limit = Duration::from_millis(400) * 32 + DEADLINE + GRACE;
        let answer = slow.line(limit).expect("an answer by policy");
        assert!(answer.starts_with("unlink 1 "), "{answer}");
        is_quick(&mut other);
    }
    disk.freeze(false);
    (0..MAX_SLOW).for_each(|_| succeeds(&slow, "unlink", DEADLINE));
    node.wait_for("the end of it", |events| of(events, Kind::ProtectionRestored, &slow.bundle.id).first().map(|_| ()));
    is_quick(&mut slow);
}

/// Of one container the signal cancels the call, and it comes again; of the other it waits.
#[test]
fn a_slow_call_that_a_signal_cancels_is_done_once() {
    for runtime in [Runtime::Runc, Runtime::Crun] {
        let node = node(runtime);
        let mut disk = Disk::new(&node);
        let with_disk = if runtime == Runtime::Runc { with_disk_and_cancelled_calls } else { with_disk };
        let mut slow = with_disk(&node, &disk.folder);
        disk.freeze(true);
        slow.tell("symlink /disk/folder");
        std::thread::sleep(ASIDE);
        for _ in 0..3 {
            slow.tell("poke 0");
            std::thread::sleep(Duration::from_millis(200));
        }
        is_quick(&mut slow);
        disk.freeze(false);
        succeeds(&slow, "symlink", ASIDE);
        assert!(disk.path("folder").is_symlink());
        is_quick(&mut slow);
        nothing_is_told(&node);
    }
}

#[test]
fn a_slow_call_outlives_the_worker() {
    for is_killed in [false, true] {
        let node = node(Runtime::Crun);
        let mut disk = Disk::new(&node);
        let mut slow = with_disk(&node, &disk.folder);
        disk.freeze(true);
        slow.tell("symlink /disk/folder");
        std::thread::sleep(ASIDE);
        let worker = node.worker_pid();
        if is_killed {
            kill(worker, Signal::SIGKILL).expect("kill the worker");
        } else {
            finish(node.program("acctguard-daemon").arg("upgrade")).ok();
        }
        slow.measure(20);
        assert_ne!(node.worker_pid(), worker);
        // longer than a helper whose worker is gone would wait for somebody, and the watch of the next worker
        std::thread::sleep(DEADLINE + Duration::from_secs(3));
        is_quick(&mut slow);
        disk.freeze(false);
        succeeds(&slow, "symlink", DEADLINE);
        assert!(disk.path("folder").is_symlink());
        is_quick(&mut slow);
        nothing_is_told(&node);
    }
}

/// When the worker dies, of a call that a signal cancels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// The call has come again, and its helper is still at it.
    ComeAgain,
    /// Its helper is still at it, and the signal's handler runs.
    AtWork,
    /// It was done, and the signal's handler runs.
    Done,
}

fn is_done_once_though_the_worker_dies(death: Death) {
    let node = node(Runtime::Runc);
    let mut disk = Disk::new(&node);
    let mut slow = with_disk_and_cancelled_calls(&node, &disk.folder);
    disk.freeze(true);
    slow.tell("symlink /disk/link");
    std::thread::sleep(ASIDE);
    slow.tell(if death == Death::ComeAgain { "poke 0" } else { "poke 4" });
    std::thread::sleep(Duration::from_millis(300));
    if death == Death::Done {
        disk.freeze(false);
        std::thread::sleep(Duration::from_millis(300));
    }
    let worker = node.worker_pid();
    kill(worker, Signal::SIGKILL).expect("kill the worker");
    slow.measure(20);
    assert_ne!(node.worker_pid(), worker);
    if death != Death::Done {
        disk.freeze(false);
    }
    succeeds(&slow, "symlink", ASIDE);
    assert!(disk.path("link").is_symlink());
    is_quick(&mut slow);
    // the same call of somebody else, or later, is another
    slow.tell("symlink /disk/link");
    let answer = slow.line(GRACE).expect("an answer");
    assert!(answer.starts_with("symlink 17 "), "{answer}");
    nothing_is_told(&node);
}

#[test]
fn a_call_that_came_again_is_done_once_though_the_worker_dies() {
    is_done_once_though_the_worker_dies(Death::ComeAgain);
}

#[test]
fn a_call_that_was_cancelled_at_work_is_done_once_though_the_worker_dies() {
    is_done_once_though_the_worker_dies(Death::AtWork);
}

#[test]
fn a_call_that_was_cancelled_and_done_is_done_once_though_the_worker_dies() {
    is_done_once_though_the_worker_dies(Death::Done);
}

/// The second worker dies when it has taken the word of the helper, which it has ended, and has not passed it on.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_call_that_was_cancelled_and_done_is_done_once_though_two_workers_die() {
    let node = node(Runtime::Runc);
    let mut disk = Disk::new(&node);
    let mut slow = with_disk_and_cancelled_calls(&node, &disk.folder);
    disk.freeze(true);
    slow.tell("symlink /disk/link");
    std::thread::sleep(ASIDE);
    slow.tell("poke 4");
    std::thread::sleep(Duration::from_millis(300));
    let first = node.worker_pid();
    kill(first, Signal::SIGKILL).expect("kill the worker");
    let second = node.worker_after(first);
    kill_at(second, Moment::EntersCommand(SECCOMP_IOCTL_NOTIF_SEND), || disk.freeze(false));
    succeeds(&slow, "symlink", ASIDE);
    assert!(disk.path("link").is_symlink());
    is_quick(&mut slow);
    nothing_is_told(&node);
}

#[test]
fn a_container_ends_while_a_call_of_it_is_slow() {
    let node = node(Runtime::Crun);
    let mut disk = Disk::new(&node);
    let mut other = Obedient::start(&node, |_| {});
    let mut slow = with_disk(&node, &disk.folder);
    disk.freeze(true);
    slow.tell("symlink /disk/folder");
    std::thread::sleep(ASIDE);
    let (id, started) = (slow.bundle.id.clone(), Instant::now());
    finish(node.bare().args(["kill", &id, "KILL"])).ok();
    node.wait_for("the container's end", |events| of(events, Kind::ContainerExited, &id).first().map(|_| ()));
    assert!(started.elapsed() < GRACE, "{:?}", started.elapsed());
    is_quick(&mut other);
    disk.freeze(false);
    drop(slow);
    is_quick(&mut other);
}

/// The helper is in the call, and waits there for a FUSE server: nothing tells that it gets on.
#[test]
fn a_helper_that_hangs_is_given_up_at_the_deadline() {
    let node = node(Runtime::Crun);
    let mut hung = Obedient::start(&node, |_| {});
    let hanging = Hanging::mount(&node, &hung, "/hangs");
    let started = Instant::now();
    hung.tell("symlink /hangs/none");
    let answer = hung.line(DEADLINE + GRACE).expect("an answer by policy");
    assert!(answer.starts_with("symlink 1 "), "{answer}");
    assert!(started.elapsed() >= DEADLINE, "{:?}", started.elapsed());
    is_quick(&mut hung);
    let events = node.events();
    let told = of(&events, Kind::ProtectionDegraded, &hung.bundle.id);
    assert!(
        matches!(&told[..], [event] if event.protection.as_ref().is_some_and(|change| change.reason.contains("symlink")))
    );
    drop(hanging);
    node.wait_for("the end of it", |events| of(events, Kind::ProtectionRestored, &hung.bundle.id).first().map(|_| ()));
    is_quick(&mut hung);
}

//! On the running kernel: a forked child in a mount namespace and root of its own, a real filter, a real listener.
//! Needs root, as the product does.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use libseccomp::ScmpAction;
use libseccomp::ScmpArch;
use libseccomp::ScmpFilterContext;
use libseccomp::ScmpSyscall;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::Mode as FileMode;
use rustix::fs::OFlags;
use rustix::fs::RenameFlags;
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

use super::*;
use crate::kernel::raw::child::fork_for_test;
use crate::kernel::seccomp_notify::Readiness;
use crate::kernel::shared_area::SharedArea;
use crate::kernel::{Errno, fd_passing};
use crate::model::event::{Container, Event, Host, Outcome};
use crate::model::workload::ContainerId;
use crate::supervise::RecordError;
use crate::supervise::case::Identity;
use crate::supervise::container_root::ContainerRoot;
use crate::supervise::decode::abi::Call;
use crate::supervise::live_policy::LivePolicy;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n";
const WITH_EVE: &str = "root:x:0:0:root:/root:/bin/sh\neve:x:1000:1000::/home/eve:/bin/sh\n";

#[derive(Default)]
struct Memory {
    events: Mutex<Vec<Event>>,
    kept: Mutex<Vec<Event>>,
    is_full: bool,
}

impl Recorder for Memory {
    fn record(&self, event: &Event) -> Result<(), RecordError> {
        if self.is_full {
            return Err(RecordError { reason: "disk full".to_owned() });
        }
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
        Ok(())
    }

    fn keep(&self, event: Event, _reason: RecordError) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

/// What came of a child.
struct Story {
    attempts: Vec<Event>,
    findings: Vec<Event>,
    exit: i32,
    root: tempfile::TempDir,
    kept: Vec<Event>,
}

impl Story {
    fn passwd(&self) -> Option<String> {
        fs::read_to_string(self.root.path().join("etc/passwd")).ok()
    }

    /// Call, effect and database of each attempt.
    fn told(&self) -> Vec<String> {
        let word = |event: &Event| {
            let operation = event.operation.clone().expect("operation");
            format!("{} {} {}", operation.call, operation.effect, operation.database.unwrap_or_default())
        };
        self.attempts.iter().map(word).collect()
    }
}

fn make_root() -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("temporary directory");
    for directory in ["etc", "tmp", "proc", "mnt"] {
        fs::create_dir_all(root.path().join(directory)).expect("directory");
    }
    fs::write(root.path().join("etc/passwd"), PASSWD).expect("passwd");
    fs::write(root.path().join("etc/hosts"), "").expect("hosts");
    fs::write(root.path().join("tmp/new"), WITH_EVE).expect("new");
    fs::hard_link(root.path().join("etc/passwd"), root.path().join("tmp/alias")).expect("hard link");
    symlink("../etc/passwd", root.path().join("tmp/link")).expect("symbolic link");
    root
}

/// In the child: its own mount namespace and root with a procfs, then the filter; gives the listener to the parent.
fn enter(root: &Path, socket: &std::os::unix::net::UnixStream, has_programs: bool) {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).expect("unshare: these tests need root");
    let none: Option<&str> = None;
    nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private");
    nix::mount::mount(Some("proc"), &root.join("proc"), Some("proc"), MsFlags::empty(), none).expect("proc");
    if has_programs {
        add_programs(root);
    }
    nix::unistd::chroot(root).expect("chroot");
    std::env::set_current_dir("/").expect("root");
    let mut filter = ScmpFilterContext::new(ScmpAction::Allow).expect("filter");
    for architecture in [ScmpArch::X86, ScmpArch::X32] {
        filter.add_arch(architecture).expect("architecture");
    }
    for call in Call::ALL.iter().filter(|call| crate::supervise::decode::abi::Abi::X86_64.number(**call).is_some()) {
        let Ok(number) = ScmpSyscall::from_name(call.name()) else { continue };
        filter.add_rule(ScmpAction::Notify, number).expect("rule");
    }
    filter.load().expect("load");
    let listener = filter.get_notify_fd().expect("listener");
    let ourselves = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).expect("pidfd");
    let listener = rustix::process::pidfd_getfd(ourselves, listener, PidfdGetfdFlags::empty()).expect("duplicate");
    fd_passing::send(socket.as_fd(), b"x", &[listener.as_fd()]).expect("send");
}

/// Everything that Debian's own account tools need, from the machine the tests run on, below a fresh `/etc`.
fn add_programs(root: &Path) {
    let none: Option<&str> = None;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    for name in ["usr", "bin", "sbin", "lib", "lib64", "dev"] {
        let (from, to) = (Path::new("/").join(name), root.join(name));
        if from.is_symlink() {
            symlink(fs::read_link(&from).expect("link"), &to).expect("link");
        } else if from.is_dir() {
            fs::create_dir_all(&to).expect("directory");
            nix::mount::mount(Some(&from), &to, none, flags, none).expect("bind");
        }
    }
    for name in ["ld.so.cache", "login.defs", "adduser.conf", "deluser.conf", "nsswitch.conf"] {
        if Path::new("/etc").join(name).exists() {
            fs::copy(Path::new("/etc").join(name), root.join("etc").join(name)).expect("copy");
        }
    }
    for (name, text) in [
        ("group", "root:x:0:\nusers:x:100:\n"),
        ("shadow", "root:*:19000:0:99999:7:::\n"),
        ("gshadow", "root:*::\nusers:*::\n"),
    ] {
        fs::write(root.join("etc").join(name), text).expect("database");
    }
    fs::create_dir_all(root.join("etc/pam.d")).expect("pam.d");
    for file in fs::read_dir("/etc/pam.d").into_iter().flatten().flatten() {
        fs::copy(file.path(), root.join("etc/pam.d").join(file.file_name())).expect("copy");
    }
    fs::create_dir_all(root.join("etc/skel")).expect("skel");
    fs::create_dir_all(root.join("home")).expect("home");
    fs::create_dir_all(root.join("var/mail")).expect("mail");
    fs::create_dir_all(root.join("run")).expect("run");
}

/// Runs `script` by the shell below the filter, from the runtime's init on.
fn run_script(mode: Mode, script: &'static str) -> Story {
    run_fully(mode, Memory::default(), true, Options { has_programs: true, ..Options::default() }, || {
        let script = std::ffi::CString::new(script).expect("script");
        let environment = [c"PATH=/usr/sbin:/usr/bin:/sbin:/bin"];
        let _ = nix::unistd::execve(c"/bin/sh", &[c"sh", c"-c", &script], &environment);
        97
    })
}

#[derive(Default, Clone, Copy)]
struct Options {
    interrupted: bool,
    has_programs: bool,
}

fn run(mode: Mode, work: impl FnOnce() -> i32) -> Story {
    run_with(mode, Memory::default(), false, work)
}

fn run_with(mode: Mode, memory: Memory, begins: bool, work: impl FnOnce() -> i32) -> Story {
    run_fully(mode, memory, begins, Options::default(), work)
}

fn run_fully(mode: Mode, memory: Memory, begins: bool, options: Options, work: impl FnOnce() -> i32) -> Story {
    let root = make_root();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("socket pair");
    let child = fork_for_test(|| {
        enter(root.path(), &theirs, options.has_programs);
        work()
    });
    drop(theirs);
    let (_, mut descriptors) = fd_passing::receive(ours.as_fd(), &mut [0; 8]).expect("listener");
    let listener = Arc::new(Listener::from_fd(descriptors.remove(0)).expect("a listener"));
    let container_root = fs::File::open(format!("/proc/{}/root", child.pid())).expect("root of the child").into();
    let container = Container {
        id: ContainerId::new("c1").expect("id"),
        name: None,
        image: None,
        engine: "none".to_owned(),
        runtime: None,
        pod: None,
        started_at: None,
    };
    let mut applied = Applied::built_in();
    applied.mode = mode;
    let policy = LivePolicy::new(applied);
    let identity = Identity { host: Host::default(), container, init: child.pid(), policy };
    let case = Arc::new(Case::new(identity, Arc::new(ContainerRoot::new(container_root))));
    let memory = Arc::new(memory);
    let origin = Origin { pid: child.pid(), session: None, ..Origin::default() };
    let recorder: Arc<dyn Recorder> = memory.clone();
    let mut supervisor = Supervisor::new(Arc::clone(&listener), Arc::clone(&case), recorder, origin);
    if !begins {
        supervisor.phase = Phase::Workload;
    }
    serve(&listener, &mut supervisor, options.interrupted.then_some(child.pid()));
    let exit = child.wait();
    let findings = case.finish(Moment::now());
    let findings = findings.into_iter().filter(|event| event.kind == Kind::AccountFinding).collect();
    let attempts = std::mem::take(&mut *memory.events.lock().unwrap_or_else(PoisonError::into_inner));
    let kept = std::mem::take(&mut *memory.kept.lock().unwrap_or_else(PoisonError::into_inner));
    Story { attempts, findings, exit, root, kept }
}

/// Serves until nobody is left. `interrupted`: stops and continues that process before the first answer, so that the kernel cancels
/// its call and issues it again (`pitfalls.md` 9).
fn serve(listener: &Listener, supervisor: &mut Supervisor, mut interrupted: Option<u32>) {
    let area = SharedArea::create(1).expect("area");
    let mut slot = area.slot(0).expect("slot");
    loop {
        match listener.wait(Some(Duration::from_secs(20))).expect("wait") {
            Readiness::HungUp => return,
            Readiness::TimedOut | Readiness::Woken => panic!("nothing happened for 20 s"),
            Readiness::Ready => {
                let Some(notification) = listener.receive(&mut slot).expect("receive") else { continue };
                let Some(pid) = interrupted.take() else {
                    supervisor.serve(&notification).expect("answer");
                    continue;
                };
                let Reply::Answer(answer) = supervisor.handle(&notification) else { panic!("opened without a broker") };
                stop_and_continue(pid);
                let delivery = listener.answer(notification.id, answer).expect("answer");
                assert_eq!(delivery, Delivery::TargetGone);
                supervisor.note_delivery(&notification, delivery);
            }
        }
    }
}

fn stop_and_continue(pid: u32) {
    use nix::sys::signal::Signal;
    use nix::sys::wait::WaitPidFlag;
    let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
    nix::sys::signal::kill(pid, Signal::SIGSTOP).expect("stop");
    nix::sys::wait::waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("stopped");
    nix::sys::signal::kill(pid, Signal::SIGCONT).expect("continue");
}

/// errno of a call, 0 when it succeeded.
fn errno<T>(result: Result<T, Errno>) -> i32 {
    result.err().map_or(0, Errno::raw_os_error)
}

fn open(path: &str, flags: OFlags) -> i32 {
    errno(rustix::fs::openat(CWD, path, flags, FileMode::from_raw_mode(0o644)))
}

type Way = (&'static str, fn() -> i32, &'static str);

/// Ways to a database; each with the attempt it must be seen as.
fn ways() -> Vec<Way> {
    vec![
        ("open", || open("/etc/passwd", OFlags::WRONLY), "openat writes /etc/passwd"),
        ("read-only truncation", || open("/etc/passwd", OFlags::TRUNC), "openat writes /etc/passwd"),
        ("dots", || open("/tmp/.././/etc/../etc/passwd", OFlags::RDWR), "openat writes /etc/passwd"),
        ("symbolic link", || open("/tmp/link", OFlags::WRONLY), "openat writes /etc/passwd"),
        ("hard link", || open("/tmp/alias", OFlags::WRONLY), "openat writes /etc/passwd"),
        ("procfs root", || open("/proc/self/root/etc/passwd", OFlags::WRONLY), "openat writes /etc/passwd"),
        ("thread root", || open("/proc/thread-self/root/etc/passwd", OFlags::WRONLY), "openat writes /etc/passwd"),
        (
            "cwd",
            || {
                std::env::set_current_dir("/etc").expect("cwd");
                open("passwd", OFlags::WRONLY)
            },
            "openat writes /etc/passwd",
        ),
        (
            "directory descriptor",
            || {
                let directory = rustix::fs::open("/etc", OFlags::PATH, FileMode::empty()).expect("open");
                errno(rustix::fs::openat(directory, "passwd", OFlags::WRONLY, FileMode::empty()))
            },
            "openat writes /etc/passwd",
        ),
        (
            "descriptor reopened",
            || {
                let file = rustix::fs::open("/etc/passwd", OFlags::RDONLY, FileMode::empty()).expect("open");
                open(&format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)), OFlags::WRONLY)
            },
            "openat writes /etc/passwd",
        ),
        (
            "openat2",
            || {
                let flags = rustix::fs::ResolveFlags::empty();
                errno(rustix::fs::openat2(CWD, "/etc/passwd", OFlags::WRONLY, FileMode::empty(), flags))
            },
            "openat2 writes /etc/passwd",
        ),
        (
            "openat2 in another root",
            || {
                let etc = rustix::fs::open("/etc", OFlags::PATH, FileMode::empty()).expect("open");
                let flags = rustix::fs::ResolveFlags::IN_ROOT;
                errno(rustix::fs::openat2(etc, "/passwd", OFlags::WRONLY, FileMode::empty(), flags))
            },
            "openat2 writes /etc/passwd",
        ),
        (
            "chroot",
            || {
                nix::unistd::chroot("/etc").expect("chroot");
                open("/passwd", OFlags::WRONLY)
            },
            "openat writes /etc/passwd",
        ),
        ("creation", || open("/etc/shadow", OFlags::WRONLY | OFlags::CREATE), "openat replaces /etc/shadow"),
        (
            "truncate",
            || nix::unistd::truncate("/etc/passwd", 0).err().map_or(0, |errno| errno as i32),
            "truncate writes /etc/passwd",
        ),
        ("rename onto", || errno(rustix::fs::rename("/tmp/new", "/etc/passwd")), "renameat replaces /etc/passwd"),
        ("rename away", || errno(rustix::fs::rename("/etc/passwd", "/tmp/x")), "renameat replaces /etc/passwd"),
        (
            "exchange",
            || errno(rustix::fs::renameat_with(CWD, "/etc/passwd", CWD, "/tmp/new", RenameFlags::EXCHANGE)),
            "renameat2 replaces /etc/passwd",
        ),
        ("rename of /etc", || errno(rustix::fs::rename("/etc", "/tmp/etc")), "renameat replaces_ancestor /etc/passwd"),
        ("hard link made", || errno(rustix::fs::link("/etc/passwd", "/tmp/other")), "linkat aliases /etc/passwd"),
        ("hard link onto", || errno(rustix::fs::link("/tmp/new", "/etc/shadow")), "linkat replaces /etc/shadow"),
        (
            "symbolic link made",
            || errno(rustix::fs::symlink("/tmp/new", "/etc/shadow")),
            "symlinkat replaces /etc/shadow",
        ),
        ("unlink", || errno(rustix::fs::unlink("/etc/passwd")), "unlinkat replaces /etc/passwd"),
        (
            "unlinkat",
            || errno(rustix::fs::unlinkat(CWD, "/etc/passwd", AtFlags::empty())),
            "unlinkat replaces /etc/passwd",
        ),
        (
            "chmod",
            || errno(rustix::fs::chmod("/etc/passwd", FileMode::from_raw_mode(0o666))),
            "fchmodat writes /etc/passwd",
        ),
        (
            "fchmod",
            || {
                let file = rustix::fs::open("/etc/passwd", OFlags::RDONLY, FileMode::empty()).expect("open");
                errno(rustix::fs::fchmod(file, FileMode::from_raw_mode(0o666)))
            },
            "fchmod writes /etc/passwd",
        ),
        (
            "chown",
            || {
                errno(rustix::fs::chownat(
                    CWD,
                    "/etc/passwd",
                    Some(rustix::fs::Uid::from_raw(7)),
                    None,
                    AtFlags::empty(),
                ))
            },
            "fchownat writes /etc/passwd",
        ),
        (
            "extended attribute",
            || errno(rustix::fs::setxattr("/etc/passwd", "trusted.x", b"1", rustix::fs::XattrFlags::empty())),
            "setxattr writes /etc/passwd",
        ),
        ("bind onto", || mount("/tmp/new", "/etc/passwd", MsFlags::MS_BIND), "mount replaces /etc/passwd"),
        ("bind of", || mount("/etc/passwd", "/tmp/new", MsFlags::MS_BIND), "mount aliases /etc/passwd"),
        ("tmpfs over /etc", || mount("tmpfs", "/etc", MsFlags::empty()), "mount replaces_ancestor /etc/passwd"),
    ]
}

fn mount(source: &str, target: &str, flags: MsFlags) -> i32 {
    let none: Option<&str> = None;
    nix::mount::mount(Some(source), target, Some("tmpfs"), flags, none).err().map_or(0, |errno| errno as i32)
}

#[test]
fn every_way_is_blocked_in_enforce() {
    for (name, way, expected) in ways() {
        let story = run(Mode::Enforce, way);
        assert_eq!(story.exit, 1, "{name}: not EPERM but {}", story.exit);
        assert_eq!(story.passwd().as_deref(), Some(PASSWD), "{name}");
        assert!(story.told().contains(&expected.to_owned()), "{name}: {:?}", story.told());
        let [finding] = story.findings.as_slice() else { panic!("{name}: {} findings", story.findings.len()) };
        assert_eq!(finding.verdict.as_ref().map(|verdict| verdict.result), Some(Outcome::Blocked), "{name}");
    }
}

#[test]
fn every_way_works_and_is_seen_in_audit() {
    for (name, way, expected) in ways() {
        let story = run(Mode::Audit, way);
        assert_eq!(story.exit, 0, "{name}: behaviour changed");
        assert!(story.told().contains(&expected.to_owned()), "{name}: {:?}", story.told());
        let actor = story.attempts.first().and_then(|event| event.actor.as_ref()).expect("actor");
        assert!(actor.pid > 0 && !actor.capabilities.is_empty() && actor.container_uid == Some(0), "{name}: {actor:?}");
    }
}

#[test]
fn a_rename_is_told_account_by_account() {
    for (mode, outcome, evidence) in
        [(Mode::Audit, Outcome::Allowed, "content"), (Mode::Enforce, Outcome::Blocked, "intended")]
    {
        let story = run(mode, || errno(rustix::fs::rename("/tmp/new", "/etc/passwd")));
        let finding = story.findings.first().expect("finding");
        let changes = finding.changes.as_ref().expect("changes");
        assert_eq!(finding.verdict.as_ref().map(|verdict| verdict.result), Some(outcome));
        let told: Vec<_> = changes
            .iter()
            .map(|change| (change.change.as_str(), change.name.as_deref(), change.evidence.as_str()))
            .collect();
        assert_eq!(told, [("account_added", Some("eve"), evidence)]);
    }
}

#[test]
fn what_concerns_no_database_goes_on_unseen() {
    let story = run(Mode::Enforce, || {
        let results = [
            open("/etc/passwd", OFlags::RDONLY),
            open("/etc/hosts", OFlags::WRONLY),
            open("/tmp/file", OFlags::WRONLY | OFlags::CREATE),
            errno(rustix::fs::rename("/tmp/file", "/etc/file")),
            errno(rustix::fs::unlink("/etc/file")),
            errno(rustix::fs::chmod("/etc/hosts", FileMode::from_raw_mode(0o600))),
            errno(rustix::fs::unlink("/tmp/link")),
            mount("tmpfs", "/mnt", MsFlags::empty()),
        ];
        results.iter().copied().find(|result| *result != 0).unwrap_or(0)
    });
    assert_eq!((story.exit, story.told(), story.findings.len()), (0, Vec::new(), 0));
}

#[test]
fn the_kernels_own_errors_stay() {
    let story = run(Mode::Enforce, || {
        let cases = [
            (open("/missing/passwd", OFlags::WRONLY | OFlags::CREATE), 2),
            (open("/etc/passwd/x", OFlags::WRONLY | OFlags::CREATE), 20),
            (open("/etc/passwd", OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL), 17),
            (open("/tmp/link", OFlags::WRONLY | OFlags::NOFOLLOW), 40),
            (open(&format!("/{}", "a".repeat(5000)), OFlags::WRONLY), 36),
            (errno(rustix::fs::rename("/tmp/missing", "/etc/passwd")), 2),
        ];
        cases
            .iter()
            .position(|(got, wanted)| got != wanted)
            .map_or(0, |position| 10 + i32::try_from(position).unwrap_or(0))
    });
    assert_eq!((story.exit, story.told()), (0, Vec::new()));
}

#[test]
fn the_runtimes_init_is_left_alone_until_its_execve() {
    let story = run_with(Mode::Enforce, Memory::default(), true, || {
        let before = open("/etc/passwd", OFlags::WRONLY);
        let _ = nix::unistd::execve(c"/usr/sbin/missing", &[c"missing"], &[] as &[&std::ffi::CStr]);
        let after = open("/etc/passwd", OFlags::WRONLY);
        if (before, after) == (0, 1) { 0 } else { 10 }
    });
    assert_eq!(story.exit, 0);
    assert_eq!(story.told(), ["openat writes /etc/passwd"]);
}

#[test]
fn what_cannot_be_recorded_is_blocked_in_enforce_and_let_go_in_audit() {
    for (mode, exit, verdict) in [(Mode::Enforce, 1, Outcome::Blocked), (Mode::Audit, 0, Outcome::Allowed)] {
        let memory = Memory { is_full: true, ..Memory::default() };
        let story = run_with(mode, memory, false, || open("/etc/passwd", OFlags::WRONLY));
        assert_eq!(story.exit, exit, "{mode:?}");
        // what is kept is what became of it
        let kept: Vec<_> = story.kept.iter().filter_map(|event| Some(event.verdict.as_ref()?.result)).collect();
        assert_eq!(kept, [verdict], "{mode:?}");
    }
}

#[test]
fn a_call_cancelled_by_a_signal_is_told_once() {
    let story =
        run_fully(Mode::Enforce, Memory::default(), false, Options { interrupted: true, ..Options::default() }, || {
            open("/etc/passwd", OFlags::WRONLY)
        });
    assert_eq!((story.exit, story.told()), (1, vec!["openat writes /etc/passwd".to_owned()]));
    let incident = story.findings.first().and_then(|event| event.incident.as_ref()).expect("incident");
    assert_eq!(incident.attempts, 1);
}

/// Verdict, changes and the actor's first argument of each finding.
fn findings(story: &Story) -> Vec<String> {
    let line = |event: &Event| {
        let changes = event.changes.iter().flatten().map(|change| {
            format!("{} {}", change.change, change.name.clone().unwrap_or_else(|| change.database.clone()))
        });
        let actor = event.actor.as_ref().and_then(|actor| actor.argv.first().cloned()).unwrap_or_default();
        let verdict = event.verdict.as_ref().expect("verdict").result;
        format!("{verdict:?} by {actor}: {}", changes.collect::<Vec<_>>().join(", "))
    };
    story.findings.iter().map(line).collect()
}

/// Ordinary programs of the machine the tests run on: what each comes to, and how it ends where that is refused.
#[test]
fn ordinary_programs() {
    let cases: &[(Mode, &'static str, &[&str])] = &[
        (Mode::Audit, "useradd -m eve", &["Allowed by useradd: account_added eve, group_added eve"]),
        (Mode::Enforce, "useradd -m eve", &["Blocked by useradd: account_added eve"]),
        (
            Mode::Audit,
            "adduser --disabled-password --gecos '' eve",
            &["Allowed by /sbin/useradd: account_added eve, group_added eve"],
        ),
        (
            Mode::Enforce,
            "adduser --disabled-password --gecos '' eve",
            &["Blocked by /sbin/groupadd: account_added eve"],
        ),
        (Mode::Audit, "echo eve:x:7:7::/:/bin/sh >> /etc/passwd", &["Allowed by sh: account_added eve"]),
        (Mode::Enforce, "echo eve:x:7:7::/:/bin/sh >> /etc/passwd", &["Blocked by sh: "]),
        (Mode::Audit, "sed -i s,/root,/rut, /etc/passwd", &["Allowed by sed: account_modified root"]),
        (Mode::Enforce, "sed -i s,/root,/rut, /etc/passwd", &["Blocked by sed: account_modified root"]),
        (Mode::Audit, "usermod -p '$6$salt$hash' root", &["Allowed by usermod: password_set root"]),
        (
            Mode::Enforce,
            "useradd --help > /tmp/x; sed -i s/x/y/ /etc/hosts; cp /etc/passwd /tmp/copy; rm -f /tmp/alias; exec true",
            &[],
        ),
    ];
    for (mode, script, expected) in cases {
        let story = run_script(*mode, script);
        let found = findings(&story);
        // what adduser does beyond the account itself is the machine's configuration
        let agrees =
            found.len() == expected.len() && found.iter().zip(*expected).all(|(found, begin)| found.starts_with(begin));
        assert!(agrees, "{mode:?}: {script}: {found:?} from {:?}", story.told());
        let went_well = *mode == Mode::Audit || expected.is_empty();
        assert_eq!(story.exit == 0, went_well, "{mode:?}: {script}: exit {}", story.exit);
        if *mode == Mode::Enforce {
            assert_eq!(story.passwd().as_deref(), Some(PASSWD), "{script}");
        }
        let text = serde_json::to_string(&(&story.attempts, &story.findings)).expect("events as JSON");
        assert!(!text.contains("$6$"), "a password hash left: {text}");
    }
}

mod conventions;

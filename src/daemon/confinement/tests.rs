//! Each confinement in a child of its own: what is still possible, what is not, and what `/proc` says.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use nix::libc;

use super::*;
use crate::config::Config;
use crate::config::SinkConfig;
use crate::config::SyslogAddress;
use crate::daemon::confinement::writing::Places;
use crate::daemon::confinement::writing::confined_to;
use crate::kernel::raw::child::call_for_test;
use crate::kernel::raw::child::fork_for_test;
use crate::model::event::Kind;
use crate::model::event::Severity;
use crate::store::Retention;
use crate::store::Store;

/// How [`fork_for_test`]'s child says that SIGSYS ended it.
const ENDED_BY_SIGSYS: i32 = 128 + libc::SIGSYS;

fn config(base: &std::path::Path, sinks: Vec<SinkConfig>) -> Config {
    let file = base.join("config.toml");
    let text =
        format!("run_dir = \"{0}/run\"\nstate_dir = \"{0}/state\"\npolicy_dir = \"{0}/policy\"\n", base.display());
    std::fs::write(&file, text).expect("write");
    for folder in ["run", "state"] {
        let _ = std::fs::create_dir(base.join(folder));
    }
    Config { sinks, ..Config::load(Some(&file)).expect("configuration") }
}

fn udp() -> SinkConfig {
    SinkConfig::Syslog { address: SyslogAddress::Udp("localhost:9".to_owned()), facility: "authpriv".to_owned() }
}

fn status() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string("/proc/self/status").expect("status");
    let pairs = text.lines().filter_map(|line| line.split_once(":\t"));
    pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

/// Of `capabilities` those that this machine's root has.
fn mask(capabilities: &[Capability]) -> String {
    let had = caps::read(None, CapSet::Bounding).expect("bounding set");
    let kept = capabilities.iter().filter(|capability| had.contains(capability));
    format!("{:016x}", kept.fold(0, |mask, capability| mask | capability.bitmask()))
}

/// What this machine's root has.
fn all() -> String {
    let had = caps::read(None, CapSet::Bounding).expect("bounding set");
    format!("{:016x}", had.iter().fold(0, |mask, capability| mask | capability.bitmask()))
}

/// The exit code of a confined child: the number of the check that failed, 0 when none did.
fn worker_child(sinks: Vec<SinkConfig>, checks: impl FnOnce(&Config) -> Vec<bool>) -> i32 {
    worker_child_or(Otherwise::End, sinks, checks)
}

fn worker_child_or(otherwise: Otherwise, sinks: Vec<SinkConfig>, checks: impl FnOnce(&Config) -> Vec<bool>) -> i32 {
    let folder = tempfile::tempdir().expect("folder");
    let config = config(folder.path(), sinks);
    fork_for_test(move || {
        confine_worker(&config, otherwise);
        let failed = checks(&config).iter().position(|held| !held);
        failed.map_or(0, |position| i32::try_from(position).unwrap_or(90) + 1)
    })
    .wait()
}

#[test]
fn every_name_is_a_call() {
    for whose in [Whose::Worker { internet: true }, Whose::Starter, Whose::Keeper] {
        let unknown: Vec<_> = calls::names(whose).filter(|name| calls::number(name).is_none()).collect();
        assert_eq!(unknown, [""; 0], "{whose:?}");
    }
}

#[test]
fn a_worker_is_what_is_documented() {
    let expected = mask(&WORKER);
    let outcome = worker_child(Vec::new(), |_| {
        let in_thread = std::thread::spawn(status).join().expect("thread");
        [status(), in_thread]
            .iter()
            .flat_map(|status| {
                let is = |name: &str, value: &str| status.get(name).map(String::as_str) == Some(value);
                [
                    is("Seccomp", "2"),
                    is("NoNewPrivs", "1"),
                    is("CapEff", &expected),
                    is("CapPrm", &expected),
                    is("CapBnd", &expected),
                    is("CapInh", "0000000000000000"),
                    is("CapAmb", "0000000000000000"),
                    rustix::process::getrlimit(Resource::Core).maximum == Some(0),
                    rustix::process::dumpable_behavior() == Ok(DumpableBehavior::NotDumpable),
                ]
            })
            .collect()
    });
    assert_eq!(outcome, 0, "check number {outcome} of the list, or of the list in a thread");
}

#[test]
fn a_worker_still_works() {
    let outcome = worker_child(vec![udp()], |config| {
        let store = Store::open(&config.store_file(), Retention::new(1, 16));
        let event = crate::model::event::Event::new(
            uuid::Uuid::now_v7(),
            crate::daemon::service::now(),
            Kind::AccountFinding,
            Severity::High,
            crate::config::node::host(config),
        );
        let copied = config.run_dir.join("copy");
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("pair");
        vec![
            store.as_ref().is_ok_and(|store| store.append(&event).is_ok()),
            store.is_ok_and(|store| store.event(&event.id.to_string()).is_ok_and(|found| found.is_some())),
            std::fs::copy(config.state_dir.join("events.db"), &copied).is_ok(),
            std::fs::rename(&copied, config.run_dir.join("moved")).is_ok(),
            std::fs::remove_dir_all(&config.run_dir).is_ok(),
            std::thread::Builder::new().name("named".to_owned()).spawn(|| 1).is_ok_and(|made| made.join().is_ok()),
            std::net::ToSocketAddrs::to_socket_addrs("localhost:9").is_ok(),
            std::net::UdpSocket::bind("127.0.0.1:0").is_ok(),
            crate::kernel::fanotify::Watcher::new().is_ok(),
            crate::kernel::audit_netlink::AuditLog::join().is_ok(),
            crate::kernel::fd_passing::peer_credentials(std::os::fd::AsFd::as_fd(&ours)).is_ok(),
            theirs.set_nonblocking(true).is_ok(),
            crate::kernel::pidfd::open(std::process::id()).is_ok(),
            !std::io::IsTerminal::is_terminal(&ours_as_file(&ours)),
            call_for_test(libc::SYS_clone3, [0; 6]) == Err(Errno::NOSYS),
            call_for_test(500, [0; 6]) == Err(Errno::NOSYS),
            // 3, 7: PROT_READ | PROT_WRITE [| PROT_EXEC]; 0x22: MAP_PRIVATE | MAP_ANONYMOUS
            call_for_test(libc::SYS_mmap, [0, 4096, 3, 0x22, u64::MAX, 0]).is_ok(),
            call_for_test(libc::SYS_mmap, [0, 4096, 7, 0x22, u64::MAX, 0]) == Err(Errno::ACCESS),
            call_for_test(libc::SYS_mprotect, [0, 0, 4, 0, 0, 0]) == Err(Errno::ACCESS),
        ]
    });
    assert_eq!(outcome, 0, "check number {outcome} of the list");
}

fn ours_as_file(socket: &std::os::unix::net::UnixStream) -> std::fs::File {
    std::fs::File::from(std::os::fd::OwnedFd::from(socket.try_clone().expect("dup")))
}

/// Each ends the process.
#[test]
fn a_worker_that_does_what_it_never_does_is_ended() {
    let parent = u64::from(std::process::id());
    let forbidden: [(&str, i64, [u64; 6]); 18] = [
        ("a fork", libc::SYS_clone, [17, 0, 0, 0, 0, 0]),
        ("a program", libc::SYS_execve, [0; 6]),
        ("a namespace", libc::SYS_unshare, [0; 6]),
        ("another's namespace", libc::SYS_setns, [0; 6]),
        ("a mount", libc::SYS_mount, [0; 6]),
        ("a new mount", libc::SYS_fsopen, [0; 6]),
        ("another root", libc::SYS_chroot, [0; 6]),
        ("a packet socket", libc::SYS_socket, [17, 3, 0, 0, 0, 0]),
        ("an internet socket", libc::SYS_socket, [2, 1, 0, 0, 0, 0]),
        ("a trace", libc::SYS_ptrace, [0; 6]),
        ("another's memory", libc::SYS_process_vm_writev, [0; 6]),
        ("a BPF program", libc::SYS_bpf, [0; 6]),
        ("a ring", libc::SYS_io_uring_setup, [0; 6]),
        ("a module", libc::SYS_init_module, [0; 6]),
        ("ids", libc::SYS_setresuid, [0; 6]),
        ("typing", libc::SYS_ioctl, [0, 0x5412, 0, 0, 0, 0]),
        ("a signal to another", libc::SYS_tgkill, [parent, parent, 0, 0, 0, 0]),
        ("limits", libc::SYS_prlimit64, [0, 7, 1, 0, 0, 0]),
    ];
    for (what, number, arguments) in forbidden {
        let outcome = worker_child(Vec::new(), |_| vec![call_for_test(number, arguments).is_ok()]);
        assert_eq!(outcome, ENDED_BY_SIGSYS, "{what}");
    }
    let by_thread = worker_child(Vec::new(), |_| {
        vec![std::thread::spawn(|| call_for_test(libc::SYS_ptrace, [0; 6]).is_ok()).join().is_ok()]
    });
    assert_eq!(by_thread, ENDED_BY_SIGSYS, "by a thread");
}

/// After a worker that was ended: the same calls fail, and the process goes on.
#[test]
fn a_worker_that_follows_an_ended_one_is_refused_the_same_calls() {
    let outcome = worker_child_or(Otherwise::Refuse, Vec::new(), |_| {
        vec![
            call_for_test(libc::SYS_ptrace, [0; 6]) == Err(Errno::PERM),
            call_for_test(libc::SYS_clone, [17, 0, 0, 0, 0, 0]) == Err(Errno::PERM),
            call_for_test(libc::SYS_socket, [2, 1, 0, 0, 0, 0]) == Err(Errno::PERM),
            call_for_test(libc::SYS_clone3, [0; 6]) == Err(Errno::NOSYS),
            call_for_test(500, [0; 6]) == Err(Errno::NOSYS),
            call_for_test(libc::SYS_mprotect, [0, 0, 4, 0, 0, 0]) == Err(Errno::ACCESS),
            std::thread::spawn(|| call_for_test(libc::SYS_ptrace, [0; 6])).join().is_ok_and(|end| end.is_err()),
        ]
    });
    assert_eq!(outcome, 0, "check number {outcome} of the list");
}

#[test]
fn who_is_ended_by_a_forbidden_call_is_followed_by_one_that_is_refused_it() {
    let ended_by = |signal: i32| ExitStatus::from_raw(signal);
    assert_eq!(after(ended_by(libc::SIGSYS), Otherwise::End), Otherwise::Refuse);
    assert_eq!(after(ended_by(libc::SIGABRT), Otherwise::End), Otherwise::Refuse);
    assert_eq!(after(ended_by(libc::SIGKILL), Otherwise::End), Otherwise::End);
    assert_eq!(after(ended_by(libc::SIGKILL), Otherwise::Refuse), Otherwise::Refuse);
    assert_eq!(after(ExitStatus::from_raw(1 << 8), Otherwise::End), Otherwise::End);
}

#[test]
fn an_internet_socket_is_for_sinks_that_need_one() {
    assert_eq!(worker_child(vec![udp()], |_| vec![call_for_test(libc::SYS_socket, [2, 1, 0, 0, 0, 0]).is_ok()]), 0);
}

/// The sink's directory belongs to nobody: root could not write there without the capability if its mode kept it out.
#[test]
fn a_sink_among_strangers_keeps_the_right_to_write_there() {
    let folder = tempfile::tempdir().expect("folder");
    std::os::unix::fs::chown(folder.path(), Some(65534), Some(65534)).expect("chown");
    let sink = SinkConfig::JsonLines { path: folder.path().join("events.json") };
    let expected = mask(&[&WORKER[..], &[Capability::CAP_DAC_OVERRIDE]].concat());
    let outcome = worker_child(vec![sink], |_| vec![status().get("CapEff") == Some(&expected)]);
    assert_eq!(outcome, 0);
    let own = tempfile::tempdir().expect("folder");
    let (socket, file) = (own.path().join("socket"), own.path().join("file"));
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("bind");
    std::fs::write(&file, b"").expect("write");
    let sinks = || {
        [
            SinkConfig::JsonLines { path: file.clone() },
            SinkConfig::Syslog { address: SyslogAddress::Unix(socket.clone()), facility: "authpriv".to_owned() },
        ]
    };
    let of_root = mask(&WORKER);
    for sink in sinks() {
        let outcome = worker_child(vec![sink], |_| vec![status().get("CapEff") == Some(&of_root)]);
        assert_eq!(outcome, 0, "what belongs to root");
    }
    for path in [&socket, &file] {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).expect("chown");
    }
    for sink in sinks() {
        let outcome = worker_child(vec![sink], |_| vec![status().get("CapEff") == Some(&expected)]);
        assert_eq!(outcome, 0, "what belongs to another");
    }
}

#[test]
fn a_writing_thread_writes_to_its_own_places_only_and_so_do_its_threads() {
    let folder = tempfile::tempdir().expect("folder");
    let log = tempfile::tempdir().expect("folder");
    let outside = tempfile::tempdir().expect("folder");
    let sink = SinkConfig::JsonLines { path: log.path().join("events.json") };
    let config = config(folder.path(), vec![sink.clone()]);
    let refused = |path: PathBuf| {
        std::fs::write(path, b"x").map_err(|error| error.kind()) == Err(std::io::ErrorKind::PermissionDenied)
    };
    let existing = outside.path().join("existing");
    std::fs::write(&existing, b"as it was").expect("write");
    let work = || {
        let of_thread = std::thread::scope(|scope| {
            scope.spawn(|| (refused(outside.path().join("new")), refused(existing.clone()))).join()
        });
        let removal = std::fs::remove_file(&existing).map_err(|error| error.kind());
        let own = [&config.state_dir, &config.run_dir].map(|path| std::fs::write(path.join("own"), b"x").is_ok());
        (
            of_thread.expect("thread"),
            removal.is_err(),
            own,
            std::fs::write(log.path().join("events.json"), b"x").is_ok(),
        )
    };
    let of_sink = confined_to(&Places::of_sink(&config, &sink), work).expect("thread");
    assert_eq!(of_sink, ((true, true), true, [true; 2], true));
    let of_store = confined_to(&Places::of_store(&config), work).expect("thread");
    assert_eq!(of_store, ((true, true), true, [true; 2], false));
    assert_eq!(std::fs::read(&existing).expect("read"), b"as it was");
    let connected = confined_to(&Places::of_store(&config), || std::net::TcpStream::connect("127.0.0.1:9"));
    let kind = connected.expect("thread").expect_err("nobody listens").kind();
    assert_eq!(kind, std::io::ErrorKind::PermissionDenied, "Landlock ABI 4 (Linux 6.7) is needed for this");
    std::fs::write(outside.path().join("new"), b"x").expect("the thread that asked is as free as before");
}

#[test]
fn a_keeper_can_do_little_and_starts_what_can_do_more() {
    let folder = tempfile::tempdir().expect("folder");
    let told = folder.path().join("told");
    let script = format!("cat /proc/self/status > {}", told.display());
    let outcome = fork_for_test(move || {
        confine_keeper();
        let own = status();
        let is = |name: &str, value: &str| own.get(name).map(String::as_str) == Some(value);
        let held = [
            is("CapEff", &mask(&KEEPER)),
            is("CapPrm", &all()),
            is("CapBnd", &all()),
            is("Seccomp", "2"),
            is("NoNewPrivs", "1"),
            Command::new("/bin/sh").args(["-c", &script]).status().is_ok_and(|status| status.success()),
            Command::new("/bin/sleep")
                .arg("60")
                .spawn()
                .is_ok_and(|mut child| child.kill().and_then(|()| child.wait()).is_ok()),
        ];
        held.iter().position(|held| !held).map_or(0, |position| i32::try_from(position).unwrap_or(90) + 1)
    })
    .wait();
    assert_eq!(outcome, 0, "check number {outcome} of the list");
    let text = std::fs::read_to_string(told).expect("the child's status");
    let worker = text.lines().find_map(|line| line.strip_prefix("CapEff:\t")).expect("CapEff");
    assert_eq!(worker, all());
    // CLONE_NEWUSER
    let forbidden: [(&str, i64, u64); 4] = [
        ("a trace", libc::SYS_ptrace, 0),
        ("a module", libc::SYS_init_module, 0),
        ("a BPF program", libc::SYS_bpf, 0),
        ("a namespace", libc::SYS_clone, 0x1000_0011),
    ];
    for (what, number, first) in forbidden {
        let outcome = fork_for_test(move || {
            confine_keeper();
            i32::from(call_for_test(number, [first, 0, 0, 0, 0, 0]) != Err(Errno::PERM))
        });
        assert_eq!(outcome.wait(), 0, "{what}");
    }
}

/// What a confined keeper starts has its filter beside its own: the stricter answer counts (seccomp(2)).
#[test]
fn what_a_keeper_starts_can_still_confine_itself() {
    let folder = tempfile::tempdir().expect("folder");
    let config = config(folder.path(), vec![udp()]);
    let outcome = fork_for_test(move || {
        confine_keeper();
        let worker = fork_for_test(|| {
            confine_worker(&config, Otherwise::End);
            let store = Store::open(&config.store_file(), Retention::new(1, 16));
            let named = std::thread::Builder::new().name("named".to_owned()).spawn(|| 1);
            if store.is_err() || !named.is_ok_and(|made| made.join().is_ok()) {
                return 1;
            }
            i32::from(call_for_test(libc::SYS_ptrace, [0; 6]).is_ok()) + 2
        });
        i32::from(worker.wait() != ENDED_BY_SIGSYS)
    });
    assert_eq!(outcome.wait(), 0);
    let second = fork_for_test(|| {
        confine_keeper();
        confine_standby();
        let own = status();
        let is = |name: &str, value: &str| own.get(name).map(String::as_str) == Some(value);
        i32::from(!(is("CapEff", &mask(&KEEPER)) && is("CapBnd", &all()) && is("Seccomp_filters", "2")))
    });
    assert_eq!(second.wait(), 0);
}

/// The unit takes no capability away: a container may have any (module's documentation).
#[test]
fn the_shipped_unit_leaves_what_containers_may_have() {
    let unit = include_str!("../../../packaging/systemd/acctguard-daemon.service");
    assert!(!unit.lines().any(|line| line.starts_with("CapabilityBoundingSet=")));
    let families = unit.lines().find_map(|line| line.strip_prefix("RestrictAddressFamilies=")).unwrap_or_default();
    assert!(families.split_whitespace().any(|family| family == "AF_NETLINK"), "the audit log is read by netlink(7)");
}

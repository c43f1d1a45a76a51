//! The daemon as a unit of a real systemd, which holds its descriptors: a killed keeper and a restarted unit cost a running container
//! nothing. systemd is its own user manager here, in mounts of its own: the test machine may have been started by something else.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use acctguard::model::event::Kind;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::bundle::Spec;
use crate::harness::command::finish;
use crate::harness::events::of;
use crate::harness::machine::{program, repository};
use crate::harness::node::{Node, PATIENCE, Runtime, policy};
use crate::keeper::caller;

const UNIT: &str = "acctguard-daemon.service";

/// A service manager with the shipped unit, as far as a user manager can carry it out.
struct Manager {
    folder: PathBuf,
    process: Child,
}

/// The shipped unit's lines on keeping the daemon running and on what it may do; the others need a system manager.
fn unit(node: &Node) -> String {
    let shipped = fs::read_to_string(repository().join("packaging/systemd").join(UNIT)).expect("read the unit");
    let kept = [
        "Type=",
        "NotifyAccess=",
        "Restart=",
        "RestartSec=",
        "KillMode=",
        "FileDescriptorStoreMax=",
        "UMask=",
        "NoNewPrivileges=",
        "LockPersonality=",
        "MemoryDenyWriteExecute=",
        "RestrictRealtime=",
        "RestrictAddressFamilies=",
        "SystemCallArchitectures=",
    ];
    let lines: Vec<&str> = shipped.lines().filter(|line| kept.iter().any(|key| line.starts_with(key))).collect();
    assert_eq!(lines.len(), kept.len(), "the unit lacks one of {kept:?}");
    let program = program("acctguard-daemon").display().to_string();
    format!(
        // a user manager on hybrid control groups is not told when a unit's last process has gone, and waits in vain
        "[Service]\n{}\nTimeoutStopSec=2s\nEnvironment=ACCTGUARD_CONFIG={}\nExecStart={program}\nExecReload={program} upgrade\n\
         StandardOutput=append:{log}\nStandardError=append:{log}\n",
        lines.join("\n"),
        node.config().display(),
        log = node.log().display()
    )
}

impl Manager {
    fn start(node: &Node) -> Self {
        let folder = node.scratch.folder("manager");
        let units = folder.join("systemd/user");
        fs::create_dir_all(&units).expect("folder of units");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("mode");
        fs::write(units.join(UNIT), unit(node)).expect("write the unit");
        // systemd wants to see that the system was started by it, and one hierarchy of control groups
        let script = "umount /sys/fs/cgroup/unified 2>/dev/null; mount -t tmpfs none /run && mkdir -p /run/systemd/system && \
                      exec setpriv --pdeathsig KILL /lib/systemd/systemd --user --unit=acctguard-daemon.service";
        let log = fs::File::create(folder.join("log")).expect("log");
        let process = Command::new("unshare")
            .args(["--mount", "--propagation", "slave", "bash", "-c", script])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &folder)
            .env("XDG_RUNTIME_DIR", &folder)
            .env("SYSTEMD_LOG_TARGET", "console")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("dup"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("start systemd; its package is needed");
        Self { folder, process }
    }

    fn systemctl(&self, order: &str) {
        let mut command = Command::new("systemctl");
        finish(command.env("XDG_RUNTIME_DIR", &self.folder).args(["--user", order, UNIT])).ok();
    }

    fn log(&self) -> String {
        let mut command = Command::new("systemctl");
        let status = finish(command.env("XDG_RUNTIME_DIR", &self.folder).args(["--user", "show", UNIT])).stdout;
        let told =
            ["ActiveState=", "SubState=", "Result=", "MainPID=", "NRestarts=", "NFileDescriptorStore=", "ExecMain"];
        let status: Vec<&str> = status.lines().filter(|line| told.iter().any(|key| line.starts_with(key))).collect();
        format!("{}\n{}", status.join("\n"), fs::read_to_string(self.folder.join("log")).unwrap_or_default())
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap_or(0));
        // SIGTERM to a user manager: it stops its units and ends (systemd(1), "SIGNALS")
        let _ = kill(pid, Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(20);
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits for a keeper that serves and is none of `before`.
#[track_caller]
fn serving(node: &Node, manager: &Manager, before: Option<Pid>) -> Pid {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let keeper = node.running_keeper().filter(|keeper| Some(*keeper) != before);
        if let Some(keeper) = keeper.filter(|_| node.answers()) {
            return keeper;
        }
        assert!(Instant::now() < deadline, "it does not serve:\n{}\n{}", manager.log(), node.log_text());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_systemd_holds_outlives_a_killed_keeper_and_a_restart() {
    let node = Node::prepare(Runtime::Runc, &policy("audit"), "[daemon]\n");
    let manager = Manager::start(&node);
    let mut keeper = serving(&node, &manager, None);
    let bundle = caller(&node);
    let assert_runs = |after: &str| {
        std::thread::sleep(Duration::from_millis(300));
        let state = finish(node.bare().arg("state").arg(&bundle.id)).ok().stdout;
        assert!(state.contains("\"running\""), "a call failed after {after}: {state}\n{}", node.log_text());
    };
    assert_runs("the start");
    for _ in 0..2 {
        kill(keeper, Signal::SIGKILL).expect("kill the keeper");
        keeper = serving(&node, &manager, Some(keeper));
        assert_runs("the keeper was killed");
    }
    manager.systemctl("restart");
    keeper = serving(&node, &manager, Some(keeper));
    assert_runs("systemctl restart");
    manager.systemctl("reload");
    assert_eq!(serving(&node, &manager, None), keeper, "a reload ends nobody but the worker");
    assert_runs("systemctl reload");
    let later = node.launch(&Spec::shell("useradd later"));
    node.wait_for("a finding", |events| of(events, Kind::AccountFinding, &later.id).pop().map(|_| ()));
}

//! The node's own folders, its cgroup layout and its auditing.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::Access;

use crate::cli::doctor::Check;
use crate::cli::doctor::unreadable;
use crate::config::Config;
use crate::config::KernelAudit;
use crate::kernel::audit_netlink::AuditControl;
use crate::kernel::audit_netlink::AuditError;
use crate::kernel::audit_netlink::AuditStatus;
use crate::model::diagnostic::chain;

/// Where systemd's hybrid layout mounts cgroup v2 beside the v1 controllers.
const HYBRID_MOUNT: &str = "/sys/fs/cgroup/unified";
/// Less free space than this cannot hold a burst of findings.
const LEAST_FREE_BYTES: u64 = 64 * 1024 * 1024;
const MIB: u64 = 1024 * 1024;

/// Run folder, store, cgroups and auditing.
pub fn checks(config: &Config, has_crun: bool) -> Vec<Check> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut checks = vec![run_folder(&config.run_dir)];
    checks.extend(store(config));
    checks.extend(cgroups(&mounts, has_crun));
    let status = AuditControl::open().and_then(|control| control.status());
    checks.push(auditing(status, config.kernel_audit));
    checks
}

/// Whether the kernel makes the records by which Landlock tells what it refuses, and what is done about it.
fn auditing(status: Result<AuditStatus, AuditError>, choice: KernelAudit) -> Check {
    const WHAT: &str = "kernel auditing";
    match (status, choice) {
        (Ok(AuditStatus { enabled: true, has_daemon }), _) => {
            let taken = if has_daemon {
                "an audit daemon takes its records"
            } else {
                "the kernel log takes some of its records"
            };
            Check::fine(WHAT, format!("on, {taken}"))
        }
        (Ok(_), KernelAudit::Leave) => {
            let remedy =
                "set [witness] kernel_audit = \"switch_on\", or run auditctl -e 1; both concern the whole host";
            Check::note(WHAT, "off and left so, so that refusals of the seal are not told", remedy)
        }
        (Ok(_), KernelAudit::SwitchOn) => {
            Check::note(WHAT, "off, and acctguard-daemon switches it on when it starts", "start acctguard-daemon")
        }
        (Err(error), _) => {
            let remedy = "run as root with CAP_AUDIT_CONTROL in the host's own pid namespace";
            Check::note(WHAT, format!("it cannot be told whether it is on: {}", chain(&error)), remedy)
        }
    }
}

/// Whoever can write here can pose as the daemon or as a runtime.
fn run_folder(folder: &Path) -> Check {
    let what = format!("run folder {}", folder.display());
    match std::fs::symlink_metadata(folder) {
        Ok(found) => private_folder(&what, &found),
        Err(error) => Check::missing(&what, unreadable(&error), "start acctguard-daemon, which makes it"),
    }
}

fn private_folder(what: &str, found: &Metadata) -> Check {
    let mode = found.mode() & 0o7777;
    let told = format!("owner {}, mode {mode:04o}", found.uid());
    let own = found.uid() == 0 || found.uid() == rustix::process::geteuid().as_raw();
    if found.is_dir() && own && mode & 0o077 == 0 {
        return Check::fine(what, told);
    }
    Check::missing(what, told, "must be a folder of root's with mode 0700; remove it and start acctguard-daemon again")
}

fn store(config: &Config) -> Vec<Check> {
    let folder = &config.state_dir;
    let what = format!("store {}", config.store_file().display());
    if !folder.exists() {
        return vec![Check::note(&what, "not there yet", "start acctguard-daemon, which makes it")];
    }
    if let Err(errno) = rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK) {
        return vec![Check::missing(
            &what,
            format!("its folder is not writable: {errno}"),
            "make state_dir writable for root",
        )];
    }
    let free = match rustix::fs::statvfs(folder) {
        Ok(space) => space.f_bavail.saturating_mul(space.f_frsize),
        Err(errno) => return vec![Check::missing(&what, errno.to_string(), "look at the file system of state_dir")],
    };
    let told = format!("writable, {} MiB free", free / MIB);
    let wanted = config.store_max_mib.saturating_mul(MIB);
    vec![if free < LEAST_FREE_BYTES {
        Check::missing(&what, told, "free some space, or move state_dir")
    } else if free < wanted {
        let remedy = format!("lower [store] max_mib ({}) or free some space", config.store_max_mib);
        Check::note(&what, told, remedy)
    } else {
        Check::fine(&what, told)
    }]
}

/// crun refuses a machine with v1 controllers and a v2 mount beside them; runc takes it.
fn cgroups(mounts: &str, has_crun: bool) -> Option<Check> {
    let has = |kind: &str, path: Option<&str>| {
        mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).any(|fields| {
            fields.get(2).is_some_and(|found| *found == kind) && path.is_none_or(|path| fields.get(1) == Some(&path))
        })
    };
    let hybrid = has("cgroup", None) && has("cgroup2", Some(HYBRID_MOUNT));
    if !hybrid {
        return Some(Check::fine("cgroups", if has("cgroup", None) { "version 1" } else { "version 2" }));
    }
    if !has_crun {
        return Some(Check::fine("cgroups", "hybrid"));
    }
    let remedy = format!(
        "boot with systemd.unified_cgroup_hierarchy=1, or run crun in a mount namespace without {HYBRID_MOUNT}"
    );
    Some(Check::note("cgroups", "hybrid layout, which crun refuses", remedy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Standing;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn auditing_is_told_with_what_is_done_about_it() {
        let status = |enabled| Ok(AuditStatus { enabled, has_daemon: false });
        assert_eq!(auditing(status(true), KernelAudit::Leave).standing, Standing::Fine);
        for choice in [KernelAudit::Leave, KernelAudit::SwitchOn] {
            let check = auditing(status(false), choice);
            assert!(check.standing == Standing::Note && check.remedy.is_some(), "{check:?}");
        }
        let refused = auditing(Err(AuditError::OtherPids), KernelAudit::Leave);
        assert_eq!(refused.standing, Standing::Note);
    }

    #[test]
    fn only_crun_minds_a_hybrid_layout() {
        let v1 = "cgroup /sys/fs/cgroup/pids cgroup rw 0 0\n";
        let v2 = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        let hybrid = "cgroup /sys/fs/cgroup/pids cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        for (mounts, crun, expected) in [
            (v1, true, Standing::Fine),
            (v2, true, Standing::Fine),
            (hybrid, false, Standing::Fine),
            (hybrid, true, Standing::Note),
        ] {
            assert_eq!(cgroups(mounts, crun).map(|check| check.standing), Some(expected), "{mounts}");
        }
    }

    #[test]
    fn the_run_folder_must_be_private() {
        let folder = tempfile::tempdir().expect("folder");
        for (mode, expected) in [(0o700, Standing::Fine), (0o755, Standing::Missing), (0o770, Standing::Missing)] {
            std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).expect("mode");
            assert_eq!(run_folder(folder.path()).standing, expected, "{mode:o}");
        }
        std::fs::write(folder.path().join("file"), "").expect("file");
        assert_eq!(run_folder(&folder.path().join("file")).standing, Standing::Missing);
        assert_eq!(run_folder(Path::new("/no/such/folder")).standing, Standing::Missing);
    }
}

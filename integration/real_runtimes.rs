//! acctguard from outside: its programs on the real runc and the real crun, in real containers.

/// A test for each runtime, mode, way in and calling convention.
macro_rules! each_way {
    ($check:ident) => {
        #[test]
        fn runc_audit_container() {
            $check(Runtime::Runc, "audit", Entry::Container, "native");
        }
        #[test]
        fn runc_audit_exec() {
            $check(Runtime::Runc, "audit", Entry::Exec, "native");
        }
        #[test]
        fn runc_enforce_container() {
            $check(Runtime::Runc, "enforce", Entry::Container, "native");
        }
        #[test]
        fn runc_enforce_exec() {
            $check(Runtime::Runc, "enforce", Entry::Exec, "native");
        }
        #[test]
        fn crun_audit_container() {
            $check(Runtime::Crun, "audit", Entry::Container, "native");
        }
        #[test]
        fn crun_audit_exec() {
            $check(Runtime::Crun, "audit", Entry::Exec, "native");
        }
        #[test]
        fn crun_enforce_container() {
            $check(Runtime::Crun, "enforce", Entry::Container, "native");
        }
        #[test]
        fn crun_enforce_exec() {
            $check(Runtime::Crun, "enforce", Entry::Exec, "native");
        }
        #[test]
        fn runc_audit_container_i386() {
            $check(Runtime::Runc, "audit", Entry::Container, "i386");
        }
        #[test]
        fn runc_audit_exec_i386() {
            $check(Runtime::Runc, "audit", Entry::Exec, "i386");
        }
        #[test]
        fn runc_enforce_container_i386() {
            $check(Runtime::Runc, "enforce", Entry::Container, "i386");
        }
        #[test]
        fn runc_enforce_exec_i386() {
            $check(Runtime::Runc, "enforce", Entry::Exec, "i386");
        }
        #[test]
        fn crun_audit_container_i386() {
            $check(Runtime::Crun, "audit", Entry::Container, "i386");
        }
        #[test]
        fn crun_audit_exec_i386() {
            $check(Runtime::Crun, "audit", Entry::Exec, "i386");
        }
        #[test]
        fn crun_enforce_container_i386() {
            $check(Runtime::Crun, "enforce", Entry::Container, "i386");
        }
        #[test]
        fn crun_enforce_exec_i386() {
            $check(Runtime::Crun, "enforce", Entry::Exec, "i386");
        }
    };
}

mod accounts;
mod bad_input;
mod behaviours;
mod call_findings;
mod calls;
#[expect(dead_code, reason = "the programs' own command lines")]
mod chaos;
mod cli;
mod confinement;
mod creation;
mod crio_notifier;
mod daemon;
mod evasion;
mod fidelity;
mod harness;
mod hung;
mod keeper;
mod landlock;
mod late_identity;
mod launcher_listener;
mod mounts;
mod namesakes;
mod neighbours;
mod nri;
mod overlays;
mod profile_only;
mod programs;
mod seal;
mod seal_roots;
mod shim;
mod signals;
mod slow;
mod syslog;
mod systemd;
mod two_deaths;
mod untold;
mod witnesses;

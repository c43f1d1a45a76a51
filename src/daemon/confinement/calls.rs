//! Which system calls our processes make, in groups, and the filters of them.
//!
//! What is missing here ends the process that makes it, or is refused ([`Otherwise`]), so each group has what its library functions do
//! in other versions, too: glibc 2.31 to 2.42 for `EVERY` (clone3, rseq, futex_waitv, map_shadow_stack and their like), SQLite 3.40 and later for `WRITES`. Found
//! by reading and by running the tests on real runtimes with `SCMP_ACT_LOG` for the default action. A test makes sure that no group names a call that no Linux has.
//!
//! | call | condition | why |
//! | --- | --- | --- |
//! | clone | a thread of this process, or no new namespace | no process of another kind |
//! | clone3 | `ENOSYS` | its flags are behind a pointer; glibc falls back to clone |
//! | mmap, mprotect | not writable and executable; mprotect never executable: `EACCES` | no new code |
//! | socket | the families that are needed | no raw and packet sockets, no rare protocols |
//! | ioctl, prctl | the commands that are needed | most of the kernel's surface is behind these two |
//! | prlimit64 | asking only | limits stay |
//! | tgkill | this process | abort(3) |
//! | younger than this table | `ENOSYS` | a library that tries a new call finds that it is not there, as on an older kernel |

use libseccomp::ScmpAction;
use libseccomp::ScmpArgCompare;
use libseccomp::ScmpCompareOp;
use libseccomp::ScmpFilterContext;
use libseccomp::ScmpSyscall;
use libseccomp::error::SeccompError;
use nix::libc;

/// What the C library and Rust's do in any process.
const EVERY: &str = "\
    arch_prctl brk clock_getres clock_gettime clock_nanosleep close close_range dup dup2 dup3 epoll_create1 epoll_ctl \
    epoll_pwait epoll_pwait2 epoll_wait eventfd2 exit exit_group fcntl fstat futex futex_requeue futex_wait futex_waitv \
    futex_wake get_robust_list getcpu getegid geteuid getgid getpid getppid getrandom getrlimit gettid gettimeofday getuid \
    lseek madvise map_shadow_stack membarrier mremap mseal munmap nanosleep newfstatat pipe pipe2 poll ppoll pread64 preadv \
    preadv2 pselect6 pwrite64 pwritev pwritev2 read readv restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask \
    rt_sigreturn rt_sigsuspend rt_sigtimedwait sched_getaffinity sched_getparam sched_getscheduler sched_yield select \
    set_robust_list set_tid_address sigaltstack statx sysinfo time times uname write writev";

/// Looking at files and processes.
const LOOKS: &str = "\
    access faccessat faccessat2 fadvise64 fgetxattr flistxattr fstatfs getcwd getdents getdents64 getpgid getsid getxattr \
    getxattrat kcmp lgetxattr listxattr listxattrat llistxattr lstat name_to_handle_at open open_by_handle_at openat openat2 \
    pidfd_getfd pidfd_open pidfd_send_signal process_vm_readv readahead readlink readlinkat stat statfs statmount listmount";

/// Changing files of our own: SQLite's and std's ways.
const WRITES: &str = "\
    chmod copy_file_range fallocate fchmod fchmodat fchmodat2 fchown fdatasync flock fsync ftruncate link linkat \
    memfd_create mkdir mkdirat msync rename renameat renameat2 rmdir sendfile splice sync_file_range syncfs umask unlink \
    unlinkat utimensat";

/// Sockets, but for making them.
const SOCKETS: &str = "\
    accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg sendto \
    setsockopt shutdown socketpair";

/// The witnesses, and restricting oneself further.
const WITNESSES: &str = "\
    fanotify_init fanotify_mark landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp";

/// Starting programs and confining oneself before and after.
const STARTS: &str = "\
    capget capset chdir execve execveat fork getgroups getpgrp getresgid getresuid kill mprotect mmap prctl prlimit64 \
    setrlimit setpgid setsid signalfd4 tgkill vfork wait4 waitid ioctl socket timerfd_create timerfd_settime";

/// What a helper does for a target, besides [`LOOKS`] and [`WRITES`].
const CARRIES_OUT: &str = "\
    chown chroot creat fchdir fchownat fremovexattr fsconfig fsetxattr fsmount fsopen fspick lchown lremovexattr lsetxattr \
    mknod mknodat mount mount_setattr move_mount open_tree open_tree_attr pivot_root removexattr removexattrat setfsgid \
    setfsuid setgid setgroups setns setregid setresgid setresuid setreuid setuid setxattr setxattrat symlink symlinkat \
    truncate umount2 utime utimes futimesat";

/// Calls that an old libseccomp has no name for; the same number everywhere (include/uapi/asm-generic/unistd.h).
const YOUNG: [(&str, i32); 15] = [
    ("cachestat", 451),
    ("fchmodat2", 452),
    ("map_shadow_stack", 453),
    ("futex_wake", 454),
    ("futex_wait", 455),
    ("futex_requeue", 456),
    ("statmount", 457),
    ("listmount", 458),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
    ("open_tree_attr", 467),
    ("futex_waitv", 449),
];
/// Numbers that no Linux had when this was written.
const UNBORN: std::ops::Range<i32> = 472..560;

/// `SECCOMP_IOCTL_NOTIF_*` and what asks about descriptors (linux/seccomp.h, asm-generic/ioctls.h).
const COMMANDS: [u64; 16] = [
    libc::SECCOMP_IOCTL_NOTIF_RECV,
    libc::SECCOMP_IOCTL_NOTIF_SEND,
    libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
    libc::SECCOMP_IOCTL_NOTIF_ADDFD,
    libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS,
    libc::FIONBIO,
    libc::FIOCLEX,
    libc::FIONREAD,
    libc::TCGETS,
    // TCGETS2, which isatty(3) asks from glibc 2.42 on
    0x802C_542A,
    libc::TIOCGWINSZ,
    // which interface an address is of, netdevice(7): what resolving a receiver's name may ask
    // SIOCGIFNAME, SIOCGIFCONF, SIOCGIFFLAGS, SIOCGIFADDR, SIOCGIFINDEX (linux/sockios.h)
    0x8910,
    0x8912,
    0x8913,
    0x8915,
    0x8933,
];

/// Naming threads and memory, and giving up more.
const OPTIONS: [i32; 6] = [
    libc::PR_SET_NAME,
    libc::PR_GET_NAME,
    libc::PR_SET_VMA,
    libc::PR_SET_NO_NEW_PRIVS,
    libc::PR_GET_NO_NEW_PRIVS,
    libc::PR_GET_DUMPABLE,
];

const NEW_NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP;

/// Whose filter it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// The worker's. With internet sockets when a sink needs them.
    Worker {
        /// Whether one does.
        internet: bool,
    },
    /// Of what starts helpers, and so theirs.
    Starter,
    /// The keeper's, and so of all that it starts.
    Keeper,
}

/// What becomes of a call that is not allowed. The kernel logs either (audit record type 1326).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    /// It ends the whole process.
    End,
    /// It fails with `EPERM`.
    Refuse,
}

impl Otherwise {
    fn action(self) -> ScmpAction {
        match self {
            Self::End => ScmpAction::KillProcess,
            Self::Refuse => ScmpAction::Errno(libc::EPERM),
        }
    }
}

impl Whose {
    const fn groups(self) -> &'static [&'static str] {
        match self {
            Self::Worker { .. } => &[EVERY, LOOKS, WRITES, SOCKETS, WITNESSES],
            Self::Starter => &[EVERY, LOOKS, WRITES, SOCKETS, STARTS, CARRIES_OUT, "seccomp"],
            Self::Keeper => &[EVERY, LOOKS, WRITES, SOCKETS, WITNESSES, STARTS, CARRIES_OUT],
        }
    }
}

/// The filter of what is answered as by a kernel that does not have it; all else is left to [`filter`]. It is one of its own because
/// refusals are logged by the filter, and these are none.
pub(super) fn absent() -> Result<ScmpFilterContext, SeccompError> {
    let mut filter = ScmpFilterContext::new(ScmpAction::Allow)?;
    filter.set_act_badarch(ScmpAction::Allow)?.set_ctl_nnp(true)?.set_ctl_tsync(true)?;
    for call in absent_calls() {
        filter.add_rule(ScmpAction::Errno(libc::ENOSYS), call)?;
    }
    Ok(filter)
}

fn absent_calls() -> impl Iterator<Item = ScmpSyscall> {
    std::iter::once(number_of("clone3")).chain(UNBORN.map(ScmpSyscall::from_raw_syscall))
}

/// The filter of what `whose` processes call.
pub(super) fn filter(whose: Whose, otherwise: Otherwise, process: u32) -> Result<ScmpFilterContext, SeccompError> {
    let default = otherwise.action();
    let mut filter = ScmpFilterContext::new(default)?;
    filter.set_act_badarch(default)?.set_ctl_nnp(true)?.set_ctl_tsync(true)?;
    if otherwise == Otherwise::Refuse {
        // Linux 4.14; without it, the process itself tells of its failure
        let _ = filter.set_ctl_log(true);
    }
    // a tree in place of a list: the frequent calls are found as fast as the others. Newer than libseccomp 2.5 it is not needed
    let _ = filter.set_ctl_optimize(2);
    let conditional = ["clone", "clone3"];
    for name in names(whose).filter(|name| !conditional.contains(name)) {
        if let Some(call) = number(name) {
            filter.add_rule(ScmpAction::Allow, call)?;
        }
    }
    for call in absent_calls() {
        filter.add_rule(ScmpAction::Allow, call)?;
    }
    match whose {
        Whose::Worker { internet } => allow_conditionally(&mut filter, internet, process)?,
        Whose::Starter | Whose::Keeper => {
            allow(&mut filter, "clone", 0, NEW_NAMESPACES.cast_unsigned().into(), 0)?;
        }
    }
    Ok(filter)
}

fn allow_conditionally(filter: &mut ScmpFilterContext, internet: bool, process: u32) -> Result<(), SeccompError> {
    const WHOLE: u64 = 0xFFFF_FFFF;
    let (write, execute) = (libc::PROT_WRITE.cast_unsigned().into(), libc::PROT_EXEC.cast_unsigned().into());
    let thread = libc::CLONE_THREAD.cast_unsigned().into();
    allow(filter, "clone", 0, thread, thread)?;
    let both = write | execute;
    for protection in [0, write, execute] {
        allow(filter, "mmap", 2, both, protection)?;
    }
    answer(filter, ScmpAction::Errno(libc::EACCES), "mmap", 2, both, both)?;
    allow(filter, "mprotect", 2, execute, 0)?;
    answer(filter, ScmpAction::Errno(libc::EACCES), "mprotect", 2, execute, execute)?;
    let families: &[i32] = if internet {
        &[libc::AF_UNIX, libc::AF_NETLINK, libc::AF_INET, libc::AF_INET6]
    } else {
        &[libc::AF_UNIX, libc::AF_NETLINK]
    };
    for family in families {
        allow(filter, "socket", 0, WHOLE, family.cast_unsigned().into())?;
    }
    for command in COMMANDS {
        allow(filter, "ioctl", 1, WHOLE, command)?;
    }
    for option in OPTIONS {
        allow(filter, "prctl", 0, WHOLE, option.cast_unsigned().into())?;
    }
    allow(filter, "tgkill", 0, WHOLE, process.into())?;
    allow(filter, "prlimit64", 2, u64::MAX, 0)
}

pub(super) fn names(whose: Whose) -> impl Iterator<Item = &'static str> {
    whose.groups().iter().flat_map(|group| group.split_whitespace())
}

/// Allows a call of which argument `position`, under `mask`, is `value`.
fn allow(filter: &mut ScmpFilterContext, name: &str, position: u32, mask: u64, value: u64) -> Result<(), SeccompError> {
    answer(filter, ScmpAction::Allow, name, position, mask, value)
}

fn answer(
    filter: &mut ScmpFilterContext,
    action: ScmpAction,
    name: &str,
    position: u32,
    mask: u64,
    value: u64,
) -> Result<(), SeccompError> {
    let condition = ScmpArgCompare::new(position, ScmpCompareOp::MaskedEqual(mask), value);
    filter.add_rule_conditional(action, number_of(name), &[condition]).map(drop)
}

/// `None` for a call that libseccomp and [`YOUNG`] do not know.
pub(super) fn number(name: &str) -> Option<ScmpSyscall> {
    let young = YOUNG.iter().find(|(known, _)| *known == name);
    let by_table = young.map(|(_, number)| ScmpSyscall::from_raw_syscall(*number));
    by_table.or_else(|| ScmpSyscall::from_name(name).ok())
}

/// For names that every libseccomp knows; what it does not know has a number that no call has, and no rule changes anything.
fn number_of(name: &str) -> ScmpSyscall {
    number(name).unwrap_or_else(|| ScmpSyscall::from_raw_syscall(-1))
}

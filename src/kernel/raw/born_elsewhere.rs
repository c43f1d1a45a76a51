//! One fsopen(2) by a child: a procfs is of the pid namespace of whoever calls fsopen(2) (fs/proc/root.c,
//! `proc_init_fs_context`), and a process is of a pid namespace only when it is born there (pid_namespaces(7)).

use std::ffi::CStr;
use std::mem::offset_of;

use nix::libc;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use rustix::io::Errno;

use crate::kernel::raw::check;
use crate::kernel::raw::last_errno;
use crate::kernel::raw::notify;

/// Set in the child's exit status when the rest of it is an errno.
const FAILED: i32 = 0x80;

/// Has a child call fsopen(2) for `kind`, in the pid namespace that the calling thread set for its children by setns(2). The child
/// shares this process's descriptors and nothing else. Gives the number of the context's descriptor, close-on-exec: as the child
/// tells it, so whoever may have taken hold of the child decides what it is; below 128.
///
/// # Errors
/// clone(2)'s and fsopen(2)'s; `EMFILE` for a number that the exit status has no room for; `INTR` when a signal ended the child.
pub fn fsopen_by_child(kind: &CStr) -> Result<i32, Errno> {
    let flags = libc::CLONE_FILES | libc::SIGCHLD;
    // SAFETY: without CLONE_VM the child has memory of its own. It makes two system calls and ends: nothing that it runs takes a lock that
    // another thread may have held (signal-safety(7)).
    let child = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
    if child == 0 {
        // SAFETY: `kind` is a live string of the child's own copy of the memory.
        let opened = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) };
        let code = match i32::try_from(opened) {
            Ok(number) if (0..FAILED).contains(&number) => number,
            Ok(number) if number >= FAILED => FAILED | libc::EMFILE,
            _ => FAILED | (last_errno().raw_os_error() & (FAILED - 1)),
        };
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(code) };
    }
    let child = Pid::from_raw(i32::try_from(child).map_err(|_| Errno::CHILD)?);
    let status = loop {
        match nix::sys::wait::waitpid(child, None) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(Errno::from_raw_os_error(errno as i32)),
            Ok(status) => break status,
        }
    };
    match status {
        WaitStatus::Exited(_, code) if code & FAILED != 0 => Err(Errno::from_raw_os_error(code & (FAILED - 1))),
        WaitStatus::Exited(_, number) => Ok(number),
        _ => Err(Errno::INTR),
    }
}

/// What a child in another pid namespace may call, and the thread that bears it until it ends.
const ALLOWED: [i64; 17] = [
    libc::SYS_fsopen,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_clone,
    libc::SYS_wait4,
    libc::SYS_readlinkat,
    libc::SYS_fcntl,
    libc::SYS_close,
    libc::SYS_futex,
    libc::SYS_munmap,
    libc::SYS_madvise,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
];

/// Leaves the calling thread, and every child that it bears, nothing but the few calls that this takes; all else fails with EPERM, every call of another
/// architecture and of x32 among it. The process must have no_new_privs set (seccomp(2)).
///
/// # Errors
/// seccomp(2)'s.
pub fn confine() -> Result<(), Errno> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let answer = |action: u32| statement(libc::BPF_RET | libc::BPF_K, action);
    let load = |offset: usize| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset as u32);
    let jump_if = |k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt,
        jf,
        k,
    };
    let refusal = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let mut program = vec![load(offset_of!(libc::seccomp_data, arch)), jump_if(NATIVE, 1, 0), answer(refusal)];
    program.push(load(offset_of!(libc::seccomp_data, nr)));
    for call in ALLOWED {
        program.push(jump_if(call as u32, 0, 1));
        program.push(answer(libc::SECCOMP_RET_ALLOW));
    }
    program.push(answer(refusal));
    notify::install_plain_filter(&program)
}

/// This architecture, as filters name it (linux/audit.h).
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xC000_003E;
/// This architecture, as filters name it (linux/audit.h).
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xC000_00B7;

/// `FSOPEN_CLOEXEC` (linux/mount.h).
const FSOPEN_CLOEXEC: libc::c_uint = 1;

/// Takes descriptor `number` over.
///
/// # Errors
/// `EBADF` when it is none.
pub fn take_over(number: i32) -> Result<std::os::fd::OwnedFd, Errno> {
    // SAFETY: fcntl(2) with numbers only.
    check(unsafe { libc::fcntl(number, libc::F_GETFD) }.into())?;
    // SAFETY: it is open, and the caller found that it is the one that a child of ours opened in our table: nobody else owns it.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(number) })
}

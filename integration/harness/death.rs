//! The death of a process at a chosen moment: when one of its threads enters or leaves a system call.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::node::PATIENCE;

/// A moment in the life of a process.
#[derive(Debug, Clone, Copy)]
pub enum Moment {
    /// A thread enters an ioctl(2) of this command.
    EntersCommand(u64),
    /// A thread leaves one.
    LeavesCommand(u64),
    /// A thread enters the system call of this number.
    Enters(i64),
}

impl Moment {
    fn is(self, registers: &libc::user_regs_struct) -> bool {
        // entry of a call: the kernel has no result yet (ptrace(2), "Syscall-stops"; arch/x86/entry)
        let enters = registers.rax.cast_signed() == -i64::from(libc::ENOSYS);
        let number = registers.orig_rax.cast_signed();
        let commands = |command| number == libc::SYS_ioctl && registers.rsi == command;
        match self {
            Self::EntersCommand(command) => enters && commands(command),
            Self::LeavesCommand(command) => !enters && commands(command),
            Self::Enters(call) => enters && number == call,
        }
    }
}

/// Kills `process` at `moment`, to which any thread but its first comes once `begin` was called.
///
/// # Panics
/// When none comes to it.
#[track_caller]
pub fn kill_at(process: Pid, moment: Moment, begin: impl FnOnce()) {
    let mut traced = Traced::seize(process);
    begin();
    let deadline = Instant::now() + PATIENCE;
    while !traced.has_come_to(moment) {
        assert!(Instant::now() < deadline, "{process} never came to {moment:?}");
    }
    kill(process, Signal::SIGKILL).expect("kill it");
    traced.bury();
}

/// A process under ptrace(2). Its first thread is followed for the threads that it makes, and is not slowed down; all others stop at
/// each system call.
struct Traced {
    process: Pid,
    threads: BTreeSet<Pid>,
}

impl Traced {
    fn seize(process: Pid) -> Self {
        let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
            | ptrace::Options::PTRACE_O_TRACECLONE
            | ptrace::Options::PTRACE_O_EXITKILL;
        let mut traced = Self { process, threads: BTreeSet::new() };
        loop {
            let before = traced.threads.len();
            for thread in threads(process) {
                // one that a seized thread has made is traced already
                if !traced.threads.contains(&thread) && ptrace::seize(thread, options).is_ok() {
                    ptrace::interrupt(thread).expect("interrupt");
                    traced.threads.insert(thread);
                }
            }
            if traced.threads.len() == before {
                return traced;
            }
        }
    }

    /// Lets each thread go on from where it stopped, unless one is at `moment`.
    fn has_come_to(&mut self, moment: Moment) -> bool {
        let mut is_quiet = true;
        for thread in self.threads.clone() {
            match waitpid(thread, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
                Ok(WaitStatus::StillAlive) => continue,
                Ok(WaitStatus::PtraceSyscall(_)) => {
                    if ptrace::getregs(thread).is_ok_and(|registers| moment.is(&registers)) {
                        return true;
                    }
                    self.go_on(thread, None);
                }
                Ok(WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_CLONE)) => {
                    let made = ptrace::getevent(thread).expect("the thread that was made");
                    self.threads.insert(Pid::from_raw(i32::try_from(made).expect("a thread id")));
                    self.go_on(thread, None);
                }
                Ok(WaitStatus::Stopped(_, signal)) => self.go_on(thread, Some(signal)),
                Ok(WaitStatus::PtraceEvent(..)) => self.go_on(thread, None),
                _ => drop(self.threads.remove(&thread)),
            }
            is_quiet = false;
        }
        if is_quiet {
            std::thread::sleep(Duration::from_micros(100));
        }
        false
    }

    fn go_on(&self, thread: Pid, signal: Option<Signal>) {
        let goes = if thread == self.process { ptrace::cont(thread, signal) } else { ptrace::syscall(thread, signal) };
        // one that was killed meanwhile goes nowhere
        assert!(matches!(goes, Ok(()) | Err(Errno::ESRCH)), "{goes:?}");
    }

    /// Takes leave of all threads: before, whose child it is does not learn of its end.
    fn bury(mut self) {
        self.threads.extend(threads(self.process));
        // the first is not gone before the others are
        for thread in self.threads.iter().rev() {
            while let Ok(status) = waitpid(*thread, Some(WaitPidFlag::__WALL)) {
                if matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..)) {
                    break;
                }
            }
        }
    }
}

fn threads(process: Pid) -> Vec<Pid> {
    let listing = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    listing.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw)).collect()
}

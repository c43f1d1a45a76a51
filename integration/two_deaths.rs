//! A worker dies in the middle of a call, and so does the one that follows it, in the middle of finding out what came of that: the call
//! is done once, whatever the moments, and however long nobody follows. Each has its moment by ptrace(2).
#![cfg(target_arch = "x86_64")]

use std::fs;
use std::time::Duration;

use nix::libc::{SECCOMP_IOCTL_NOTIF_ADDFD, SECCOMP_IOCTL_NOTIF_SEND, SYS_pidfd_send_signal};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::chaos::obedient::Obedient;
use crate::harness::death::{Moment, kill_at};
use crate::harness::node::{Node, Runtime, policy};

/// What an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

fn descriptors(node: &Node, container: &Obedient) -> usize {
    fs::read_dir(format!("/proc/{}/fd", container.pid(node))).expect("list descriptors").count()
}

/// The first dies when the file is made and in the caller's table, and nobody was told its number.
fn a_file_is_made_once(then: impl FnOnce(&Node, Pid)) {
    let node = Node::start(Runtime::Runc, &format!("{}  landlock: off\n", policy("enforce")));
    let mut container = Obedient::start(&node, |_| {});
    // its helper is there from now on
    container.measure(1);
    let before = descriptors(&node, &container);
    let first = node.worker_pid();
    kill_at(first, Moment::LeavesCommand(SECCOMP_IOCTL_NOTIF_ADDFD), || container.tell("make /tmp/new"));
    then(&node, first);
    let answer = container.line(PATIENCE).expect("an answer");
    assert!(answer.starts_with("make 0 "), "{answer}\n{}", node.log_text());
    assert_eq!(descriptors(&node, &container), before + 1);
    // and everything is as ever
    container.measure(20);
}

fn a_file_is_made_once_though_the_second_dies(moment: Moment) {
    a_file_is_made_once(|node, first| kill_at(node.worker_after(first), moment, || {}));
}

/// It has found the descriptor by its mark, and the helper is still there.
#[test]
fn a_file_is_made_once_when_the_second_dies_before_it_ends_the_helper() {
    a_file_is_made_once_though_the_second_dies(Moment::Enters(SYS_pidfd_send_signal));
}

/// It has found the descriptor, and ended the helper.
#[test]
fn a_file_is_made_once_when_the_second_dies_before_it_answers() {
    a_file_is_made_once_though_the_second_dies(Moment::EntersCommand(SECCOMP_IOCTL_NOTIF_SEND));
}

/// It has answered, and not yet cleared the call's slot.
#[test]
fn a_file_is_made_once_when_the_second_dies_after_it_has_answered() {
    a_file_is_made_once_though_the_second_dies(Moment::LeavesCommand(SECCOMP_IOCTL_NOTIF_SEND));
}

/// The helper, which has made the file, does not know that the caller has a descriptor of it.
#[test]
fn a_file_is_opened_once_when_the_second_is_slow_to_come() {
    a_file_is_made_once(|node, _| {
        node.signal_daemon(Signal::SIGSTOP);
        std::thread::sleep(Duration::from_secs(7));
        node.signal_daemon(Signal::SIGCONT);
    });
}

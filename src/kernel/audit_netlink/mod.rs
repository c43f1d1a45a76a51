//! Landlock's refusals, as the kernel's audit log tells them, netlink(7) `NETLINK_AUDIT`, multicast group `AUDIT_NLGRP_READLOG` (Linux 3.16).
//!
//! From Linux 6.15 (Landlock ABI 7) a domain made with `LANDLOCK_RESTRICT_SELF_LOG_NEW_EXEC_ON` has each refusal logged
//! (Documentation/admin-guide/LSM/landlock.rst): what was refused on which object, with the number of the domain, and once for each domain
//! who made it. Who was refused stands in the `SYSCALL` record of the same event, which the kernel adds for every task that was forked after
//! audit was first switched on; of older tasks only the domain is known.
//!
//! | file | what |
//! | --- | --- |
//! | `record` | the text of one record: hostile, for paths and arguments in it are the container's |
//! | `refusal` | the records of one event put together |
//!
//! Nothing is ever sent but [`AuditControl`]'s two questions, and no rule is loaded. The kernel sends the group's messages in the initial network
//! namespace only, and its numbers of processes are those of the initial pid namespace: elsewhere [`AuditLog::join`] refuses.

pub mod record;
pub mod refusal;

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::time::Duration;
use std::time::Instant;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::net::AddressFamily;
use rustix::net::RecvFlags;
use rustix::net::SendFlags;
use rustix::net::SocketAddrAny;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use rustix::net::netlink;
use rustix::net::netlink::SocketAddrNetlink;

use crate::kernel::Errno;

pub use refusal::Caller;
pub use refusal::Refusal;

use refusal::Assembly;

/// `AUDIT_NLGRP_READLOG` as a mask of groups.
const READ_LOG_GROUP: u32 = 1;
/// Longest message: `MAX_AUDIT_MESSAGE_LENGTH` of linux/audit.h is 8970.
const MESSAGE_ROOM: usize = 16_384;
/// What may wait for us in the kernel: a refusal is about a kilobyte.
const RECEIVE_BUFFER_BYTES: usize = 8 * 1024 * 1024;
/// `sizeof(struct nlmsghdr)`.
const HEADER_BYTES: usize = 16;
/// Most messages read at a time.
const MAX_MESSAGES: usize = 1024;
/// Inode number of the initial pid namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const INITIAL_PID_NAMESPACE: u64 = 0xefff_fffc;
/// A sysctl that only the initial network namespace has (`net_core_table`, net/core/sysctl_net_core.c).
const OF_INITIAL_NETWORK: &str = "/proc/sys/net/core/netdev_budget";

/// Why the kernel's audit log cannot be read, or not be switched on.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// In a container of its own.
    #[error("the audit log names processes by their numbers on the host; run acctguard in the host's pid namespace")]
    OtherPids,
    /// In a network namespace of its own.
    #[error("the kernel sends its audit log to the host's network namespace only; run acctguard there")]
    OtherNetwork,
    /// No such socket.
    #[error("cannot make an audit socket; the kernel needs CONFIG_AUDIT")]
    Socket(#[source] Errno),
    /// The group was refused.
    #[error("cannot read the audit log; CAP_AUDIT_READ in the host's user namespace and Linux 3.16 are needed")]
    Join(#[source] Errno),
    /// Status or switch refused.
    #[error("cannot {step} kernel auditing; CAP_AUDIT_CONTROL in the host's user and pid namespace is needed")]
    Control {
        /// What was tried.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// poll(2) or recvfrom(2) failed.
    #[error("cannot read what the audit log tells")]
    Read(#[source] Errno),
    /// Records were lost because nobody read in time.
    #[error("the audit log lost records because nobody read them in time; some refusals are not told")]
    Overflow,
}

/// A member of the audit log's multicast group.
#[derive(Debug)]
pub struct AuditLog {
    socket: OwnedFd,
    assembly: Assembly,
}

impl AuditLog {
    /// Joins the group.
    ///
    /// # Errors
    /// [`AuditError::OtherPids`], [`AuditError::OtherNetwork`], [`AuditError::Socket`], [`AuditError::Join`].
    pub fn join() -> Result<Self, AuditError> {
        let pids = rustix::fs::stat("/proc/self/ns/pid").map_err(AuditError::Socket)?;
        if pids.st_ino != INITIAL_PID_NAMESPACE {
            return Err(AuditError::OtherPids);
        }
        if rustix::fs::stat(OF_INITIAL_NETWORK).is_err() {
            return Err(AuditError::OtherNetwork);
        }
        let socket = audit_socket()?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, READ_LOG_GROUP)).map_err(AuditError::Join)?;
        // what is refused of it is made up for by reading faster
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES);
        Ok(Self { socket, assembly: Assembly::default() })
    }

    /// Waits until something was refused or `timeout` is over, and returns the refusals that are complete; empty after a timeout.
    ///
    /// # Errors
    /// [`AuditError::Overflow`] after records were lost; the next call goes on. [`AuditError::Read`].
    pub fn read(&mut self, timeout: Duration) -> Result<Vec<Refusal>, AuditError> {
        let wait = self.assembly.wait(Instant::now()).map_or(timeout, |wait| wait.min(timeout));
        if wait_for(self.socket.as_fd(), wait)? {
            let mut buffer = vec![0_u8; MESSAGE_ROOM];
            for _ in 0..MAX_MESSAGES {
                let Some((kind, text)) = receive(self.socket.as_fd(), &mut buffer)? else { break };
                if let Some(record) = record::parse(kind, text) {
                    self.assembly.take(record, Instant::now());
                }
            }
        }
        Ok(self.assembly.complete(Instant::now()))
    }
}

/// Whether the kernel audits, and the switch.
#[derive(Debug)]
pub struct AuditControl {
    socket: OwnedFd,
}

/// `AUDIT_GET`.
const GET: u16 = 1000;
/// `AUDIT_SET`.
const SET: u16 = 1001;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const REQUEST_FLAGS: u16 = 0x5;
/// `AUDIT_STATUS_ENABLED`.
const STATUS_ENABLED: u32 = 1;
/// `sizeof(struct audit_status)` since Linux 3.18; older kernels take and give less.
const STATUS_BYTES: usize = 40;
/// How long the kernel may take for an answer, which it gives at once.
const PATIENCE: Duration = Duration::from_secs(1);

/// How kernel auditing stands (`struct audit_status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditStatus {
    /// Whether the kernel makes records.
    pub enabled: bool,
    /// Whether an audit daemon takes them; without one the kernel prints them in its log, as many as `printk_ratelimit` lets through.
    pub has_daemon: bool,
}

impl AuditControl {
    /// Opens a line to the kernel's auditing.
    ///
    /// # Errors
    /// [`AuditError::Socket`].
    pub fn open() -> Result<Self, AuditError> {
        Ok(Self { socket: audit_socket()? })
    }

    /// How it stands.
    ///
    /// # Errors
    /// [`AuditError::Control`], with `EPERM` without CAP_AUDIT_CONTROL and in a nested pid namespace, `ECONNREFUSED` in a nested user namespace.
    pub fn status(&self) -> Result<AuditStatus, AuditError> {
        let failed = |source| AuditError::Control { step: "ask for the status of", source };
        let answer = self.ask(GET, &[]).map_err(failed)?.ok_or(failed(Errno::PROTO))?;
        let word = |at| record::number_at(&answer, at).ok_or(failed(Errno::PROTO));
        Ok(AuditStatus { enabled: word(4)? != 0, has_daemon: word(12)? != 0 })
    }

    /// Has the kernel make records from now on. No rule is loaded: what is recorded is what the kernel tells unasked.
    ///
    /// # Errors
    /// [`AuditError::Control`].
    pub fn switch_on(&self) -> Result<(), AuditError> {
        let mut status = [0_u8; STATUS_BYTES];
        let words = [STATUS_ENABLED, 1].map(u32::to_ne_bytes).concat();
        for (to, from) in status.iter_mut().zip(words) {
            *to = from;
        }
        self.ask(SET, &status).map(drop).map_err(|source| AuditError::Control { step: "switch on", source })
    }

    /// Asks, and returns the body of an answer that is no mere acknowledgement.
    fn ask(&self, kind: u16, body: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        let length = u32::try_from(HEADER_BYTES.saturating_add(body.len())).map_err(|_| Errno::INVAL)?;
        let mut message = Vec::with_capacity(HEADER_BYTES.saturating_add(body.len()));
        message.extend_from_slice(&length.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&REQUEST_FLAGS.to_ne_bytes());
        message.extend_from_slice(&[0; 8]);
        message.extend_from_slice(body);
        rustix::net::sendto(&self.socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut answer = None;
        let mut buffer = vec![0_u8; MESSAGE_ROOM];
        let deadline = Instant::now().checked_add(PATIENCE).ok_or(Errno::OVERFLOW)?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Errno::TIMEDOUT);
            }
            wait_for(self.socket.as_fd(), left).map_err(|error| errno_of(&error))?;
            match receive(self.socket.as_fd(), &mut buffer).map_err(|error| errno_of(&error))? {
                None => {}
                Some((ERROR, body)) => {
                    let code = record::number_at(body, 0).ok_or(Errno::PROTO)?.cast_signed();
                    if code != 0 {
                        return Err(Errno::from_raw_os_error(code.saturating_neg()));
                    }
                    if answer.is_some() || kind != GET {
                        return Ok(answer);
                    }
                }
                Some((GET, body)) => return Ok(Some(body.to_vec())),
                Some(_) => answer = None,
            }
        }
    }
}

fn errno_of(error: &AuditError) -> Errno {
    match error {
        AuditError::Socket(errno)
        | AuditError::Join(errno)
        | AuditError::Read(errno)
        | AuditError::Control { source: errno, .. } => *errno,
        AuditError::Overflow => Errno::NOBUFS,
        AuditError::OtherPids | AuditError::OtherNetwork => Errno::PERM,
    }
}

fn audit_socket() -> Result<OwnedFd, AuditError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::AUDIT))
        .map_err(AuditError::Socket)
}

/// Whether there is something to read before `timeout` is over.
fn wait_for(socket: BorrowedFd<'_>, timeout: Duration) -> Result<bool, AuditError> {
    let limit = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    match rustix::event::poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&limit)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(AuditError::Read(errno)),
    }
}

/// One message of the kernel's: its type and body. `None` when there is none now. What others sent, and what is longer than the
/// kernel's longest, is passed over.
fn receive<'a>(socket: BorrowedFd<'_>, buffer: &'a mut [u8]) -> Result<Option<(u16, &'a [u8])>, AuditError> {
    for _ in 0..MAX_MESSAGES {
        let (read, whole, sender) = match rustix::net::recvfrom(socket, &mut *buffer, RecvFlags::TRUNC) {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(Errno::NOBUFS) => return Err(AuditError::Overflow),
            Err(errno) => return Err(AuditError::Read(errno)),
        };
        if whole > read || !is_kernel(sender) {
            continue;
        }
        let message = buffer.get(..read).unwrap_or_default();
        let kind = message.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
        return Ok(kind.zip(message.get(HEADER_BYTES..)).map(|(kind, _)| kind).map(|kind| {
            let body = buffer.get(HEADER_BYTES..read).unwrap_or_default();
            (kind, body)
        }));
    }
    Ok(None)
}

/// Only the kernel has the port 0 (netlink(7)).
fn is_kernel(sender: Option<SocketAddrAny>) -> bool {
    sender.and_then(|sender| SocketAddrNetlink::try_from(sender).ok()).is_some_and(|sender| sender.pid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::raw::child::fork_for_test;
    use nix::sched::CloneFlags;

    #[test]
    fn the_group_is_joined_and_the_status_told() {
        let mut log = AuditLog::join().expect("CAP_AUDIT_READ in the host's namespaces");
        log.read(Duration::from_millis(1)).expect("read");
        AuditControl::open().expect("socket").status().expect("CAP_AUDIT_CONTROL");
    }

    /// netlink(7): "the kernel sends ENOBUFS" when the socket's buffer is full; and only the kernel is listened to.
    #[test]
    fn lost_records_are_told_and_others_messages_are_not_taken() {
        let socket = || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let kind = Some(netlink::USERSOCK);
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, kind).expect("netlink socket")
        };
        let (ours, theirs) = (socket(), socket());
        rustix::net::bind(&ours, &SocketAddrNetlink::new(0, 1)).expect("bind");
        rustix::net::sockopt::set_socket_recv_buffer_size(&ours, 4096).expect("buffer");
        let mut message = vec![0_u8; HEADER_BYTES];
        message[4..6].copy_from_slice(&1423_u16.to_ne_bytes());
        message.extend_from_slice(b"audit(1.000:5): domain=7 blockers=fs.write_file path=\"/etc/passwd\" ino=9");
        let mut log = AuditLog { socket: ours, assembly: Assembly::default() };
        for _ in 0..100 {
            let _ = rustix::net::sendto(&theirs, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 1));
        }
        let mut overflows = 0;
        for _ in 0..5 {
            match log.read(Duration::from_millis(150)) {
                Ok(refusals) => assert_eq!(refusals, [], "a message that is not the kernel's"),
                Err(AuditError::Overflow) => overflows += 1,
                Err(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(overflows, 1);
    }

    /// "a container runtime without CAP_AUDIT_*", and namespaces of its own.
    #[test]
    fn where_the_log_cannot_be_read_the_reason_is_told() {
        let outcome = |work: fn() -> Option<()>| fork_for_test(move || if work().is_some() { 0 } else { 1 }).wait();
        assert_eq!(
            outcome(|| {
                nix::sched::unshare(CloneFlags::CLONE_NEWNET).ok()?;
                matches!(AuditLog::join(), Err(AuditError::OtherNetwork)).then_some(())
            }),
            0
        );
        assert_eq!(
            outcome(|| {
                nix::sched::unshare(CloneFlags::CLONE_NEWPID).ok()?;
                let inner = fork_for_test(|| {
                    let status = AuditControl::open().and_then(|control| control.status());
                    let refused = matches!(status, Err(AuditError::Control { source: Errno::PERM, .. }));
                    i32::from(!(refused && matches!(AuditLog::join(), Err(AuditError::OtherPids))))
                });
                (inner.wait() == 0).then_some(())
            }),
            0
        );
        assert_eq!(
            outcome(|| {
                caps::clear(None, caps::CapSet::Effective).ok()?;
                let refused = matches!(AuditLog::join(), Err(AuditError::Join(Errno::PERM)));
                let status = AuditControl::open().and_then(|control| control.status());
                (refused && matches!(status, Err(AuditError::Control { source: Errno::PERM, .. }))).then_some(())
            }),
            0
        );
    }
}

//! What keeper, worker and second keeper say to each other: packets on socket pairs, descriptors beside them.
//!
//! Keeper and worker may be of different versions (`acctguard-daemon upgrade`): the keeper begins with its [`VERSION`], and a worker
//! understands that of every keeper before it. A worker that is older than its keeper refuses, and the one before it goes on.
//!
//! The keeper understands nothing of a label: the worker gives it with a listener and the next worker gets it back.
//! Packets keep their bounds (SOCK_SEQPACKET, unix(7)), so there is nothing to parse but a tag and a number.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::AddressFamily;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use rustix::net::sockopt;

use crate::kernel::Errno;
use crate::kernel::fd_passing;
use crate::kernel::fd_passing::PassingError;

/// Of this agreement. It grows when a keeper says something that earlier workers do not know.
pub const VERSION: u32 = 1;
/// Longest label.
pub const MAX_LABEL_BYTES: usize = 4094;
const HEADER_BYTES: usize = 5;

/// One packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Keeper to worker: three descriptors, the listener socket, the control socket and the shared area.
    /// Keeper to second keeper: the same, the memory of the labels, the program, and the locks.
    Sockets {
        /// [`VERSION`] of the keeper.
        version: u32,
    },
    /// Keeper to worker, with the line to the second keeper, on which the worker tells what it holds, too.
    Line,
    /// Keeper to second keeper, with a worker's process descriptor and the other end of that worker's line.
    Worker,
    /// Worker to second keeper: what follows is all that it holds.
    Begin,
    /// Keeper to worker, with a listener that an earlier worker served.
    Adopt {
        /// Its slot in the shared area.
        slot: u32,
        /// What the worker wrote about it.
        label: Vec<u8>,
    },
    /// Keeper to worker: that was all, serve.
    Serve,
    /// Keeper to worker: read the policy again.
    Reload,
    /// Keeper to worker: end.
    Stop,
    /// Keeper to worker: answer what was received, receive nothing more, and end; a successor is waiting.
    Retire,
    /// Worker to keeper: somebody asks for a successor from the installed program.
    Upgrade,
    /// Keeper to worker: there is none, for this reason.
    NotUpgraded {
        /// One line.
        label: Vec<u8>,
    },
    /// Worker to keeper: its store is open and its policy read; it can serve as soon as it is told.
    Prepared,
    /// Worker to keeper, with a duplicate of a listener that it is about to serve.
    Hold {
        /// Its slot.
        slot: u32,
        /// For the next worker.
        label: Vec<u8>,
    },
    /// Worker to keeper: that listener has ended.
    Release {
        /// Its slot.
        slot: u32,
    },
    /// Worker to keeper: everything is being served.
    Serving,
    /// Worker to keeper: the policy was read again, well or not.
    Reloaded,
}

/// Why keeper and worker do not understand each other.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// The socket.
    #[error("the connection between keeper and worker failed")]
    Socket(#[source] PassingError),
    /// The other process is gone.
    #[error("the other process is gone")]
    Closed,
    /// A packet that is none of ours.
    #[error(
        "a packet between keeper and worker is not understood; restart acctguard-daemon, so that both are of one version"
    )]
    Malformed,
    /// The keeper is newer.
    #[error("the keeper speaks version {0}, this worker up to {VERSION}; install the newer acctguard-daemon")]
    Newer(u32),
}

impl Message {
    const fn tag(&self) -> u8 {
        match self {
            Self::Sockets { .. } => b'S',
            Self::Line => b'N',
            Self::Worker => b'W',
            Self::Begin => b'B',
            Self::Retire => b'D',
            Self::Upgrade => b'U',
            Self::NotUpgraded { .. } => b'F',
            Self::Prepared => b'p',
            Self::Adopt { .. } => b'A',
            Self::Serve => b'G',
            Self::Reload => b'L',
            Self::Stop => b'T',
            Self::Hold { .. } => b'H',
            Self::Release { .. } => b'R',
            Self::Serving => b'g',
            Self::Reloaded => b'l',
        }
    }

    /// The packet. A label is cut to [`MAX_LABEL_BYTES`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (slot, label) = match self {
            Self::Adopt { slot, label } | Self::Hold { slot, label } => (*slot, label.as_slice()),
            Self::NotUpgraded { label } => (0, label.as_slice()),
            Self::Release { slot } | Self::Sockets { version: slot } => (*slot, [].as_slice()),
            _ => (0, [].as_slice()),
        };
        let mut packet = vec![self.tag()];
        packet.extend_from_slice(&slot.to_le_bytes());
        packet.extend(label.iter().take(MAX_LABEL_BYTES));
        packet
    }

    /// What a packet says; `None` when it is none of ours.
    #[must_use]
    pub fn decode(packet: &[u8]) -> Option<Self> {
        let (tag, rest) = packet.split_first()?;
        let (number, label) = rest.split_first_chunk::<4>()?;
        let (slot, label) = (u32::from_le_bytes(*number), label.to_vec());
        match tag {
            b'S' => Some(Self::Sockets { version: slot }),
            b'N' => Some(Self::Line),
            b'W' => Some(Self::Worker),
            b'B' => Some(Self::Begin),
            b'D' => Some(Self::Retire),
            b'U' => Some(Self::Upgrade),
            b'F' => Some(Self::NotUpgraded { label }),
            b'p' => Some(Self::Prepared),
            b'A' => Some(Self::Adopt { slot, label }),
            b'G' => Some(Self::Serve),
            b'L' => Some(Self::Reload),
            b'T' => Some(Self::Stop),
            b'H' => Some(Self::Hold { slot, label }),
            b'R' => Some(Self::Release { slot }),
            b'g' => Some(Self::Serving),
            b'l' => Some(Self::Reloaded),
            _ => None,
        }
    }
}

/// Sends one packet.
///
/// # Errors
/// [`HandOverError::Closed`], [`HandOverError::Socket`].
pub fn send(socket: impl AsFd, message: &Message, descriptors: &[BorrowedFd<'_>]) -> Result<(), HandOverError> {
    fd_passing::send(socket.as_fd(), &message.encode(), descriptors).map_err(closed_or_failed)
}

/// A pair of connected sockets for packets. Nobody waits longer than `limit` for room in them.
///
/// # Errors
/// socketpair(2)'s.
pub fn pair(limit: Duration) -> Result<(OwnedFd, OwnedFd), Errno> {
    let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&pair.0, sockopt::Timeout::Send, Some(limit))?;
    sockopt::set_socket_timeout(&pair.1, sockopt::Timeout::Send, Some(limit))?;
    Ok(pair)
}

/// Receives one packet.
///
/// # Errors
/// [`HandOverError`].
pub fn receive(socket: impl AsFd) -> Result<(Message, Vec<OwnedFd>), HandOverError> {
    let mut packet = vec![0_u8; HEADER_BYTES + MAX_LABEL_BYTES];
    let (count, descriptors) = fd_passing::receive(socket.as_fd(), &mut packet).map_err(closed_or_failed)?;
    if count == 0 {
        return Err(HandOverError::Closed);
    }
    let message = Message::decode(packet.get(..count).unwrap_or_default()).ok_or(HandOverError::Malformed)?;
    Ok((message, descriptors))
}

fn closed_or_failed(error: PassingError) -> HandOverError {
    match error.errno() {
        Some(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => HandOverError::Closed,
        _ => HandOverError::Socket(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_with_its_descriptors() {
        let (here, there) = pair(Duration::from_secs(1)).unwrap();
        let label = vec![7; MAX_LABEL_BYTES];
        let messages = [
            Message::Sockets { version: VERSION },
            Message::Line,
            Message::Worker,
            Message::Begin,
            Message::Retire,
            Message::Upgrade,
            Message::NotUpgraded { label: b"no".to_vec() },
            Message::Prepared,
            Message::Adopt { slot: 3, label: label.clone() },
            Message::Serve,
            Message::Reload,
            Message::Stop,
            Message::Hold { slot: u32::MAX, label },
            Message::Release { slot: 9 },
            Message::Serving,
            Message::Reloaded,
        ];
        for message in messages {
            send(&here, &message, &[here.as_fd(), there.as_fd()]).unwrap();
            let (back, descriptors) = receive(&there).unwrap();
            assert_eq!((back, descriptors.len()), (message, 2));
        }
        fd_passing::send(here.as_fd(), b"nonsense", &[]).unwrap();
        assert!(matches!(receive(&there), Err(HandOverError::Malformed)));
        fd_passing::send(here.as_fd(), b"S", &[]).unwrap();
        assert!(matches!(receive(&there), Err(HandOverError::Malformed)));
        drop(here);
        assert!(matches!(receive(&there), Err(HandOverError::Closed)));
    }
}

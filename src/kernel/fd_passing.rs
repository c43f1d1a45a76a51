//! Descriptors over Unix sockets: SCM_RIGHTS and SO_PEERCRED, unix(7).

use std::io::IoSlice;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use nix::sys::socket::sockopt::PeerCredentials;
use rustix::net::RecvAncillaryBuffer;
use rustix::net::RecvAncillaryMessage;
use rustix::net::RecvFlags;
use rustix::net::ReturnFlags;
use rustix::net::SendAncillaryBuffer;
use rustix::net::SendAncillaryMessage;
use rustix::net::SendFlags;

use crate::kernel::Errno;
use crate::kernel::process;

/// Most descriptors in one message; a sender of more is refused.
pub const MAX_DESCRIPTORS: usize = 16;

/// What went wrong on a socket.
#[derive(Debug, thiserror::Error)]
pub enum PassingError {
    /// recvmsg(2) failed.
    #[error("cannot receive from a unix socket")]
    Receive(#[source] Errno),
    /// More descriptors than [`MAX_DESCRIPTORS`], or than this process may open.
    #[error(
        "a peer sent more than {MAX_DESCRIPTORS} descriptors in one message, or more than the open-file limit leaves; all were closed"
    )]
    TooManyDescriptors,
    /// sendmsg(2) failed.
    #[error("cannot send {descriptors} descriptors over a unix socket")]
    Send {
        /// How many.
        descriptors: usize,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// SO_PEERCRED failed.
    #[error("cannot tell who is at the other end of a socket")]
    Credentials(#[source] Errno),
}

impl PassingError {
    /// The kernel's answer, where it gave one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Receive(errno) | Self::Credentials(errno) | Self::Send { source: errno, .. } => Some(*errno),
            Self::TooManyDescriptors => None,
        }
    }
}

/// Who connected, as the kernel remembers it from connect(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Process id in our namespace; 0 when not visible there.
    pub pid: u32,
    /// Effective uid.
    pub uid: u32,
    /// Effective gid.
    pub gid: u32,
}

/// What one message brought.
#[derive(Debug, Default)]
pub struct Message {
    /// How many bytes; 0 at the end of the stream.
    pub length: usize,
    /// Close-on-exec.
    pub descriptors: Vec<OwnedFd>,
    /// Which process sent it, in our pid namespace; 0 where the socket does not ask ([`ask_for_senders`]).
    pub sender: u32,
}

/// Receives at most `buffer.len()` bytes and the descriptors that came with them (close-on-exec). 0 bytes: end of stream.
///
/// # Errors
/// [`PassingError`]; every descriptor that arrived is closed then.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), PassingError> {
    receive_message(socket, buffer).map(|message| (message.length, message.descriptors))
}

/// As [`receive`], with who sent it.
///
/// # Errors
/// As [`receive`].
pub fn receive_message(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Message, PassingError> {
    receive_with(socket, buffer, RecvFlags::CMSG_CLOEXEC)
}

/// As [`receive_message`], but leaves the bytes and the descriptors where they are: these are duplicates (unix(7), `MSG_PEEK`).
///
/// # Errors
/// As [`receive`].
pub fn peek_message(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Message, PassingError> {
    receive_with(socket, buffer, RecvFlags::CMSG_CLOEXEC | RecvFlags::PEEK)
}

fn receive_with(socket: BorrowedFd<'_>, buffer: &mut [u8], flags: RecvFlags) -> Result<Message, PassingError> {
    let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Err(Errno::INTR) => {}
            other => break other.map_err(PassingError::Receive)?,
        }
    };
    let (mut descriptors, mut sender) = (Vec::new(), 0);
    for part in control.drain() {
        match part {
            RecvAncillaryMessage::ScmRights(received) => descriptors.extend(received),
            RecvAncillaryMessage::ScmCredentials(of) => sender = of.pid.as_raw_nonzero().get().unsigned_abs(),
            _ => {}
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > MAX_DESCRIPTORS {
        return Err(PassingError::TooManyDescriptors);
    }
    Ok(Message { length: message.bytes, descriptors, sender })
}

/// Has messages on `socket`, and on those that are accepted from it (net/unix/af_unix.c, `unix_sock_inherit_flags`), say which process sent
/// them: `SO_PASSCRED`. A message that waits for accept(2) says so, too (`maybe_add_creds`). Only where this process sees every other:
/// the pid of one that it does not see would be 0, which rustix has no value for.
///
/// # Errors
/// setsockopt(2)'s.
pub fn ask_for_senders(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    if process::sees_every_process() { rustix::net::sockopt::set_socket_passcred(socket, true) } else { Ok(()) }
}

/// Sends all of `bytes`, the descriptors with the first part of it. `bytes` must not be empty when there are descriptors.
///
/// # Errors
/// [`PassingError::Send`]; a closed peer is `EPIPE`, never a signal.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), PassingError> {
    let failed = |source| PassingError::Send { descriptors: descriptors.len(), source };
    let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(failed(Errno::INVAL));
    }
    if !descriptors.is_empty() && (bytes.is_empty() || !control.push(SendAncillaryMessage::ScmRights(descriptors))) {
        return Err(failed(Errno::INVAL));
    }
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::net::sendmsg(socket, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(failed(errno)),
            Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
        }
        control.clear();
    }
    Ok(())
}

/// Who is at the other end of a connected socket.
///
/// # Errors
/// [`PassingError::Credentials`].
pub fn peer_credentials(socket: BorrowedFd<'_>) -> Result<Peer, PassingError> {
    let credentials = nix::sys::socket::getsockopt(&socket, PeerCredentials)
        .map_err(|errno| PassingError::Credentials(Errno::from_raw_os_error(errno as i32)))?;
    let pid = u32::try_from(credentials.pid()).unwrap_or(0);
    Ok(Peer { pid, uid: credentials.uid(), gid: credentials.gid() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_and_descriptors_arrive_close_on_exec() {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        send(ours.as_fd(), b"state", &[writer.as_fd()]).expect("send");
        send(ours.as_fd(), b" and more", &[]).expect("send");
        drop(writer);
        let mut buffer = [0; 64];
        let peeked = peek_message(theirs.as_fd(), &mut buffer).expect("peek");
        assert_eq!((&buffer[..peeked.length], peeked.descriptors.len(), peeked.sender), (&b"state"[..], 1, 0));
        drop(peeked);
        let (length, descriptors) = receive(theirs.as_fd(), &mut buffer).expect("receive");
        assert_eq!(&buffer[..length], b"state");
        let [descriptor] = <[OwnedFd; 1]>::try_from(descriptors).expect("one");
        let flags = rustix::io::fcntl_getfd(&descriptor).expect("flags");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        File::from(descriptor).write_all(b"through").expect("write");
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(text, "through");
        let (length, descriptors) = receive(theirs.as_fd(), &mut buffer).expect("receive");
        assert_eq!((&buffer[..length], descriptors.len()), (&b" and more"[..], 0));
        drop(ours);
        assert_eq!(receive(theirs.as_fd(), &mut buffer).expect("end").0, 0);
        assert!(matches!(send(theirs.as_fd(), b"x", &[]), Err(PassingError::Send { source: Errno::PIPE, .. })));
    }

    #[test]
    fn a_message_names_who_sent_it_and_not_who_connected() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
        ask_for_senders(listener.as_fd()).expect("SO_PASSCRED");
        let line = UnixStream::connect(&path).expect("connect");
        let null = File::open("/dev/null").expect("open");
        let send_by_child = || {
            let child = crate::kernel::raw::child::fork_for_test(|| {
                i32::from(send(line.as_fd(), b"state", &[null.as_fd()]).is_err())
            });
            let pid = child.pid();
            assert_eq!(child.wait(), 0);
            pid
        };
        let before = send_by_child();
        let (accepted, _) = listener.accept().expect("accept");
        let mut buffer = [0; 5];
        for sender in [before, send_by_child()] {
            let peeked = peek_message(accepted.as_fd(), &mut buffer).expect("peek");
            let message = receive_message(accepted.as_fd(), &mut buffer).expect("receive");
            assert_eq!((peeked.sender, message.sender, message.descriptors.len()), (sender, sender, 1));
        }
        assert_eq!(peer_credentials(accepted.as_fd()).expect("peer").pid, std::process::id());
    }

    #[test]
    fn too_many_descriptors_are_refused_and_closed() {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        let null = File::open("/dev/null").expect("open");
        let many = vec![null.as_fd(); MAX_DESCRIPTORS + 1];
        assert!(send(ours.as_fd(), b"x", &many).is_err());
        let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS + 5))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&many)));
        rustix::net::sendmsg(&ours, &[IoSlice::new(b"x")], &mut control, SendFlags::NOSIGNAL).expect("send");
        assert!(matches!(receive(theirs.as_fd(), &mut [0; 4]), Err(PassingError::TooManyDescriptors)));
        assert!(send(ours.as_fd(), b"", &[null.as_fd()]).is_err());
    }

    #[test]
    fn the_peer_of_a_pair_is_this_process() {
        let (ours, _theirs) = UnixStream::pair().expect("pair");
        let peer = peer_credentials(ours.as_fd()).expect("peer");
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        assert_eq!(peer, Peer { pid: std::process::id(), uid, gid });
        let null = File::open("/dev/null").expect("open");
        assert!(matches!(peer_credentials(null.as_fd()), Err(PassingError::Credentials(Errno::NOTSOCK))));
    }
}

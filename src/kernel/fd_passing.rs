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

/// Receives at most `buffer.len()` bytes and the descriptors that came with them (close-on-exec). 0 bytes: end of stream.
///
/// # Errors
/// [`PassingError`]; every descriptor that arrived is closed then.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), PassingError> {
    receive_with(socket, buffer, RecvFlags::CMSG_CLOEXEC)
}

/// As [`receive`], but leaves the bytes and the descriptors where they are: these are duplicates (unix(7), `MSG_PEEK`).
///
/// # Errors
/// As [`receive`].
pub fn peek(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), PassingError> {
    receive_with(socket, buffer, RecvFlags::CMSG_CLOEXEC | RecvFlags::PEEK)
}

fn receive_with(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> Result<(usize, Vec<OwnedFd>), PassingError> {
    let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Err(Errno::INTR) => {}
            other => break other.map_err(PassingError::Receive)?,
        }
    };
    let mut descriptors = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            descriptors.extend(received);
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > MAX_DESCRIPTORS {
        return Err(PassingError::TooManyDescriptors);
    }
    Ok((message.bytes, descriptors))
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
        let (length, descriptors) = peek(theirs.as_fd(), &mut buffer).expect("peek");
        assert_eq!((&buffer[..length], descriptors.len()), (&b"state"[..], 1));
        drop(descriptors);
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

//! What the service manager is told: sd_notify(3), a datagram to the socket that `NOTIFY_SOCKET` names. Descriptors that it is to
//! hold for the next start (`FDSTORE=1`, with `FileDescriptorStoreMax=` in the unit) go with it.

use std::ffi::OsString;
use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::socket::ControlMessage;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::UnixAddr;
use nix::sys::socket::sendmsg;

/// Name of the variable; workers must not inherit it.
pub const VARIABLE: &str = "NOTIFY_SOCKET";

/// The manager that started us, if one did.
#[derive(Debug)]
pub struct ServiceManager {
    address: Option<OsString>,
}

impl ServiceManager {
    /// From the environment.
    #[must_use]
    pub fn from_environment() -> Self {
        Self { address: std::env::var_os(VARIABLE) }
    }

    /// None.
    #[must_use]
    pub const fn none() -> Self {
        Self { address: None }
    }

    /// Whether there is one.
    #[must_use]
    pub const fn is_there(&self) -> bool {
        self.address.is_some()
    }

    /// `FDSTORE=1`: `descriptor` is to be there again at the next start, by this name. systemd lets it go by itself when nobody is at
    /// its other end any more (sd_pid_notify_with_fds(3), `FDPOLL`).
    pub fn store(&self, name: &str, descriptor: BorrowedFd<'_>) {
        self.tell_with(&format!("FDSTORE=1\nFDNAME={name}"), Some(descriptor));
    }

    /// `FDSTOREREMOVE=1`.
    pub fn forget(&self, name: &str) {
        self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"));
    }

    /// `READY=1` with a line for `systemctl status`.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// `RELOADING=1`; [`ServiceManager::ready`] ends it.
    pub fn reloading(&self) {
        self.tell("RELOADING=1\nSTATUS=reading the policy again");
    }

    /// `STOPPING=1`.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping");
    }

    /// A line for `systemctl status`.
    pub fn status(&self, status: &str) {
        self.tell(&format!("STATUS={status}"));
    }

    fn tell(&self, text: &str) {
        self.tell_with(text, None);
    }

    fn tell_with(&self, text: &str, descriptor: Option<BorrowedFd<'_>>) {
        let Some(address) = &self.address else { return };
        if let Err(error) = notify(address.as_bytes(), text, descriptor) {
            tracing::warn!("cannot notify the service manager: {error}");
        }
    }
}

/// "If the first character is @, the string is understood as Linux abstract namespace socket" (sd_notify(3)).
fn notify(address: &[u8], text: &str, descriptor: Option<BorrowedFd<'_>>) -> std::io::Result<()> {
    let address = match address.split_first() {
        Some((b'@', name)) => UnixAddr::new_abstract(name)?,
        _ => UnixAddr::new(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(Duration::from_secs(1)))?;
    let number = descriptor.map(|descriptor| [descriptor.as_raw_fd()]);
    let control = number.as_ref().map(|number| [ControlMessage::ScmRights(number)]);
    let control = control.as_ref().map_or(&[][..], |control| &control[..]);
    let bytes = [IoSlice::new(text.as_bytes())];
    sendmsg(socket.as_raw_fd(), &bytes, control, MsgFlags::MSG_NOSIGNAL, Some(&address))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;

    #[test]
    fn path_and_abstract_sockets_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let abstract_name = format!("acctguard-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(abstract_name.as_bytes()).unwrap()).unwrap();
        let cases = [(by_path, path.into_os_string()), (by_name, OsString::from(format!("@{abstract_name}")))];
        for (receiver, address) in cases {
            ServiceManager { address: Some(address) }.ready("serving");
            let mut buffer = [0; 100];
            let count = receiver.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..count], b"READY=1\nSTATUS=serving");
        }
        ServiceManager { address: None }.stopping();
        ServiceManager { address: Some("/nowhere/notify".into()) }.stopping();
    }
}

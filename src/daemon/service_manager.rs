//! What the service manager is told: sd_notify(3), a datagram to the socket that `NOTIFY_SOCKET` names.

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

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
        let Some(address) = &self.address else { return };
        if let Err(error) = notify(address.as_bytes(), text) {
            tracing::warn!("cannot notify the service manager: {error}");
        }
    }
}

/// "If the first character is @, the string is understood as Linux abstract namespace socket" (sd_notify(3)).
fn notify(address: &[u8], text: &str) -> std::io::Result<()> {
    let address = match address.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(address))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(Duration::from_secs(1)))?;
    socket.send_to_addr(text.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

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

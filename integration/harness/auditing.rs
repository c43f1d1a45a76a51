//! Kernel auditing of the machine, put back as it was when a test ends.

use std::sync::{Mutex, MutexGuard, PoisonError};

use acctguard::kernel::audit_netlink::AuditControl;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Auditing as it was found, to be found so again.
pub struct Auditing {
    was_on: bool,
    _alone: MutexGuard<'static, ()>,
}

impl Auditing {
    /// Notes how it is, and switches it off, so that whoever needs it has to switch it on.
    pub fn switched_off() -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let control = AuditControl::open().expect("an audit socket: CONFIG_AUDIT is needed");
        let was_on = control.status().expect("status of kernel auditing: CAP_AUDIT_CONTROL is needed").enabled;
        switch(false);
        Self { was_on, _alone: alone }
    }
}

impl Drop for Auditing {
    fn drop(&mut self) {
        switch(self.was_on);
    }
}

/// `AUDIT_SET` with `AUDIT_STATUS_ENABLED`, audit_status of linux/audit.h.
fn switch(on: bool) {
    const SET: u16 = 1001;
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::AUDIT))
        .expect("an audit socket");
    let mut message = Vec::new();
    message.extend_from_slice(&56_u32.to_ne_bytes());
    message.extend_from_slice(&SET.to_ne_bytes());
    message.extend_from_slice(&5_u16.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&1_u32.to_ne_bytes());
    message.extend_from_slice(&u32::from(on).to_ne_bytes());
    message.resize(56, 0);
    rustix::net::sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).expect("ask the kernel");
    let mut answer = [0; 64];
    rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty()).expect("the kernel's answer");
    assert_eq!(answer[16..20], [0; 4], "kernel auditing could not be switched; is it locked (auditctl -e 2)?");
}

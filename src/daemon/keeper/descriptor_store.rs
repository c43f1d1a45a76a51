//! What systemd holds for the next keeper: every descriptor by name (sd_pid_notify_with_fds(3), `FDSTORE=1`). A keeper that is
//! killed, and a unit that is restarted, find them again (sd_listen_fds(3)): nothing is lost.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use crate::daemon::keeper::Keeper;
use crate::daemon::keeper::PLACES;
use crate::daemon::keeper::table::Table;
use crate::kernel::inherited;
use crate::kernel::shared_area::SharedArea;

const LISTENER_SOCKET: &str = "acctguard-listener-socket";
const CONTROL_SOCKET: &str = "acctguard-control-socket";
const AREA: &str = "acctguard-area";
const LABELS: &str = "acctguard-labels";
/// Followed by the number in the table.
const HELD: &str = "acctguard-held-";

fn name_of(number: u32) -> String {
    format!("{HELD}{number}")
}

impl Keeper {
    /// Gives the service manager what every keeper has. What is stored already is stored once: "the same file descriptor is not
    /// stored twice" (sd_pid_notify_with_fds(3)).
    pub(super) fn store_all(&mut self) {
        if !self.manager.is_there() {
            return;
        }
        let holdings = &mut self.holdings;
        self.manager.store(LISTENER_SOCKET, holdings.listener_socket.as_fd());
        self.manager.store(CONTROL_SOCKET, holdings.control_socket.as_fd());
        self.manager.store(AREA, holdings.area.as_fd());
        self.manager.store(LABELS, holdings.table.labels());
    }

    pub(super) fn store(&self, number: u32, descriptor: BorrowedFd<'_>) {
        if self.manager.is_there() {
            self.manager.store(&name_of(number), descriptor);
        }
    }

    pub(super) fn forget(&self, number: u32) {
        if self.manager.is_there() {
            self.manager.forget(&name_of(number));
        }
    }
}

/// What an earlier keeper left.
#[derive(Debug)]
pub struct Stored {
    /// Its listener socket.
    pub listener_socket: Option<OwnedFd>,
    /// Its control socket.
    pub control_socket: Option<OwnedFd>,
    /// Notifications in flight, and listeners.
    pub area_and_table: Option<(SharedArea, Table)>,
}

impl Stored {
    /// What the service manager handed to this process. Call it once, before anything else opens a descriptor.
    #[must_use]
    pub fn take() -> Self {
        Self::of(inherited::by_name())
    }

    fn of(mut named: BTreeMap<String, OwnedFd>) -> Self {
        let (listener_socket, control_socket) = (named.remove(LISTENER_SOCKET), named.remove(CONTROL_SOCKET));
        let (area, labels) = (named.remove(AREA), named.remove(LABELS));
        let area_and_table = area.zip(labels).and_then(|(area, labels)| {
            let area = SharedArea::from_fd(area).inspect_err(|error| tracing::error!("{error}")).ok()?;
            let adopted = Table::adopt(labels, PLACES);
            let mut table = adopted.inspect_err(|error| tracing::error!("the labels are not ours: {error}")).ok()?;
            for (name, descriptor) in named {
                match name.strip_prefix(HELD).and_then(|number| number.parse().ok()) {
                    Some(number) => table.restore(number, descriptor),
                    None => tracing::warn!("the service manager handed over a descriptor called {name:?}"),
                }
            }
            Some((area, table))
        });
        Self { listener_socket, control_socket, area_and_table }
    }
}

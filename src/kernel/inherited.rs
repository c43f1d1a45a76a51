//! Descriptors that a process is handed by whoever starts it: by a number that it is told, or by a service manager, sd_listen_fds(3): from number 3 on, `LISTEN_FDS` of them, for the process
//! that `LISTEN_PID` names, called as `LISTEN_FDNAMES` says.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;

use crate::kernel::raw::inherited;

/// First of them (`SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;
/// Most that are taken.
const MOST: usize = 65_536;

/// Takes them, by name; of several with one name the last. None when none were handed to this process. They are closed on exec.
#[must_use]
pub fn by_name() -> BTreeMap<String, OwnedFd> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<usize>().ok());
    let is_ours = number("LISTEN_PID") == usize::try_from(std::process::id()).ok();
    let count = number("LISTEN_FDS").filter(|_| is_ours).unwrap_or(0).min(MOST);
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let numbers = (FIRST..).take(count);
    names
        .split(':')
        .zip(numbers)
        .filter_map(|(name, number)| Some((name.to_owned(), inherited::take(number)?)))
        .collect()
}

/// Takes descriptor `number`, which whoever started this process said that it left open for it; `None` when it is not open, or a
/// standard one. To be asked once for a number. It is closed on exec.
#[must_use]
pub fn by_number(number: RawFd) -> Option<OwnedFd> {
    if number < FIRST { None } else { inherited::take(number) }
}

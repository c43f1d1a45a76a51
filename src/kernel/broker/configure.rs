//! fsconfig(2), and texts in which descriptors stand as paths.

use std::os::fd::AsFd;
use std::os::fd::OwnedFd;

use rustix::mount::fsconfig_set_fd;
use rustix::mount::fsconfig_set_path;
use rustix::mount::fsconfig_set_string;

use crate::kernel::Errno;
use crate::kernel::broker::message::Configured;
use crate::kernel::broker::message::Part;
use crate::kernel::broker::perform::both;
use crate::kernel::broker::perform::first;
use crate::kernel::broker::perform::number;

/// Longest text of mount(2); the kernel cuts a longer one, and a number with it.
const MAX_TEXT_BYTES: usize = 4095;

/// What `parts` come to. The working directory must be the helper's own `/proc/self/fd`, so that a number is a path.
///
/// # Errors
/// `EBADF` without the descriptor, `EINVAL` for a text that is too long.
pub(super) fn text(parts: &[Part], descriptors: &[OwnedFd]) -> Result<Vec<u8>, Errno> {
    let mut text = Vec::new();
    for part in parts {
        match part {
            Part::Text(bytes) => text.extend_from_slice(bytes),
            Part::Number(position) => {
                let descriptor = descriptors.get(*position).ok_or(Errno::BADF)?;
                text.extend_from_slice(number(descriptor.as_fd()).as_bytes());
            }
        }
    }
    if text.len() > MAX_TEXT_BYTES { Err(Errno::INVAL) } else { Ok(text) }
}

/// Sets `key` of the context that is the first of `descriptors`.
///
/// # Errors
/// As fsconfig(2).
pub(super) fn set(key: &[u8], configured: &Configured, descriptors: &[OwnedFd]) -> Result<(), Errno> {
    let context = first(descriptors)?;
    match configured {
        Configured::Text(parts) => fsconfig_set_string(context, key, text(parts, descriptors)?),
        Configured::Descriptor => fsconfig_set_fd(context, key, both(descriptors)?.1),
        Configured::Object => fsconfig_set_path(context, key, number(both(descriptors)?.1), rustix::fs::CWD),
        Configured::Nowhere => fsconfig_set_path(context, key, "nowhere", rustix::fs::CWD),
        Configured::Layer => {
            let layer = both(descriptors)?.1;
            match fsconfig_set_fd(context, key, layer) {
                // before Linux 6.13 a layer is text, which is looked up at once. Before 6.5 it was looked up later, by the process
                // itself, who would have exchanged it: there this call says EOPNOTSUPP, and so do we
                Err(Errno::INVAL) => fsconfig_set_string(context, key, number(layer)),
                set => set,
            }
        }
    }
}

//! Signal dispositions.

use nix::libc;
use rustix::io::Errno;

use crate::kernel::raw::last_errno;

/// Puts SIGPIPE back to its default. Rust's runtime ignores it before `main`, and an ignored signal stays ignored over
/// execve(2) (signal(7)), so a program we turn into would inherit that.
///
/// # Errors
/// sigaction(2)'s.
pub fn restore_default_sigpipe() -> Result<(), Errno> {
    // SAFETY: SIG_DFL runs no code of ours; changing the disposition of SIGPIPE breaks no memory invariant.
    let previous = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    if previous == libc::SIG_ERR { Err(last_errno()) } else { Ok(()) }
}

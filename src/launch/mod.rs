//! `acctguard-launch`: seals the account databases for itself and everything it will ever start, puts a listener of its own in the place
//! of a runtime's whose calls a signal cancels, gives back what it was lent, and becomes the program it was asked for.
//!
//! Runs *inside* the container, with the container's root, user, environment and terminal: it trusts nothing there, reads no
//! configuration, writes nothing but to the daemon, and starts no second process. What [`seal`] may not touch: Landlock has no right for chmod(2),
//! chown(2) and setxattr(2), and a database that has a second path (hard link, bind mount) keeps that path's rights.
//!
//! Deliberately absent: `no_new_privs` is never set here, because it would break setuid programs. Without it the caller lends
//! CAP_SYS_ADMIN (landlock_restrict_self(2), "ERRORS", EPERM) and names it in `--give-back`. The runtime shim hands this
//! program into a container as a sealed memfd (`crate::runtime_shim`) and puts it in front of the container's own.
//!
//! It is to run in any container, so it is built static, as `integration/launcher` does. Without its default features the library has
//! no daemon and links no libseccomp. At a fixed address: to relocate itself took a seventh of the time until its first call. That gives
//! up the random place of this program's code, not of its stack, heap and calls, in a program that has no `unsafe` of its own, reads only
//! lists of names, and ends within two milliseconds.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::launch::command_line::CommandLine;
use crate::model::attempt::DatabasePath;
use crate::model::diagnostic::chain;

pub mod capabilities;
pub mod command_line;
pub mod directories;
pub mod listen;
pub mod program;
pub mod seal;
pub mod sealed_tree;

/// The seal, the listener or the capabilities could not be set as asked: nothing was started.
const CANNOT_SEAL: u8 = 125;

/// Bad command line (sysexits.h, EX_USAGE).
const USAGE: u8 = 64;

/// The command line as a value, for manual pages.
#[must_use]
pub fn command() -> clap::Command {
    CommandLine::command()
}

/// Runs the program of the command line; comes back only when it could not.
#[must_use]
pub fn main() -> ExitCode {
    let command_line = match CommandLine::of_process() {
        Ok(command_line) => command_line,
        Err(error) => {
            // nothing to do when the message itself cannot be printed
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    ExitCode::from(launch(&command_line))
}

fn launch(command_line: &CommandLine) -> u8 {
    let databases = if command_line.seal.is_empty() {
        DatabasePath::BUILT_IN.iter().filter_map(|path| DatabasePath::new(path).ok()).collect()
    } else {
        command_line.seal.clone()
    };
    if !command_line.no_seal
        && let Err(error) = seal::seal(&databases)
    {
        eprintln!("acctguard-launch: {}", chain(&error));
        return CANNOT_SEAL;
    }
    if let Some(means) = command_line.means()
        && let Err(error) = listen::listen(&means)
    {
        eprintln!("acctguard-launch: {}", chain(&error));
        return CANNOT_SEAL;
    }
    if let Err(error) = capabilities::give_back(&command_line.give_back) {
        eprintln!("acctguard-launch: {}", chain(&error));
        return CANNOT_SEAL;
    }
    if let Some(number) = command_line.own_descriptor.filter(|number| *number > 2) {
        // not open is as good as closed
        let _ = nix::unistd::close(number);
    }
    let error = program::replace(&command_line.program);
    eprintln!("acctguard-launch: {}", chain(&error));
    error.exit_code()
}

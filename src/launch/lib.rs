//! `acctguard-launch`: seals the account databases for itself and everything it will ever start, puts a listener of its own in the place
//! of a runtime's whose calls a signal cancels, gives back what it was lent, and becomes the program it was asked for.
//!
//! Runs *inside* the container, with the container's root, user, environment and terminal: it trusts nothing there, reads no
//! configuration, writes nothing but to the daemon, and starts no second process. What [`seal`] may not touch: Landlock has no right for chmod(2),
//! chown(2) and setxattr(2), and a database that has a second path (hard link, bind mount) keeps that path's rights.
//!
//! Deliberately absent: `no_new_privs` is never set here, because it would break setuid programs. Without it the caller lends
//! CAP_SYS_ADMIN (landlock_restrict_self(2), "ERRORS", EPERM) and names it in `--give-back`. The runtime shim hands this
//! program into a container as a sealed memfd (`acctguard::runtime_shim`) and puts it in front of the container's own.
//!
//! # Without std, glibc, and the crates `landlock` and `caps`
//! Every start of a guarded container waits for this program, and before its first instruction of ours ran, glibc's start had asked the
//! processor 68 times what it is (CPUID), which a virtual machine's host answers: 0.6 to 1 ms of a start, as much as all the rest. musl
//! asks nothing. But Rust's std for Debian's machines is glibc's, and both crates are made with std; so the calls that they make are in
//! [`calls`], and tests hold their numbers to the crates' (`integration/bench` has the figures). What that gives
//! besides: a program of some hundred KiB, which is copied for each sealed container, and that inherits SIGPIPE, standard descriptors,
//! arguments and environment as they are, for nothing touches them on the way.
//!
//! It is to run in any container, so it is linked static; and at a fixed address, for to relocate itself took a seventh of the time until
//! its first call. That gives up the random place of this program's code, not of its stack, heap and calls, in a program that reads only
//! lists of names, and ends within two milliseconds.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

#[path = "../kernel/raw/launcher/mod.rs"]
pub mod calls;
#[path = "../model/database_path.rs"]
pub mod database_path;
#[path = "../oci/launcher_words.rs"]
pub mod launcher_words;

pub mod capabilities;
pub mod command_line;
pub mod directories;
pub mod files;
pub mod listen;
pub mod paths;
pub mod program;
pub mod seal;
pub mod sealed_tree;

use alloc::format;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::fmt;

use crate::calls::process;
use crate::calls::process::Strings;
use crate::command_line::CommandLine;
use crate::command_line::Request;
use crate::database_path::DatabasePath;

/// The seal, the listener or the capabilities could not be set as asked: nothing was started.
const CANNOT_SEAL: u8 = 125;

/// Bad command line (sysexits.h, EX_USAGE).
const USAGE: u8 = 64;

/// Runs the program of the command line; comes back only when it could not, with the code to exit with.
#[must_use]
pub fn main(arguments: Strings, environment: Strings) -> u8 {
    let words: Vec<&CStr> = arguments.iter().collect();
    match command_line::read(&words) {
        Ok(Request::Launch(command_line)) => launch(&command_line, arguments, environment),
        Ok(Request::Tell(text)) => {
            process::answer(text.as_bytes());
            0
        }
        Err(error) => {
            say(format_args!("{error}; see acctguard-launch --help"));
            USAGE
        }
    }
}

/// One line of this program's.
pub fn say(words: fmt::Arguments<'_>) {
    process::tell(format!("acctguard-launch: {words}\n").as_bytes());
}

fn launch(command_line: &CommandLine, arguments: Strings, environment: Strings) -> u8 {
    if let Err(reason) = prepare(command_line) {
        say(format_args!("{reason}"));
        return CANNOT_SEAL;
    }
    let error = program::replace(arguments.skip(command_line.program), environment);
    say(format_args!("{error}"));
    error.exit_code()
}

/// Everything that must hold before the program may start.
fn prepare(command_line: &CommandLine) -> Result<(), NotPrepared> {
    if !command_line.no_seal {
        let built_in = || DatabasePath::BUILT_IN.iter().filter_map(|path| DatabasePath::new(path).ok()).collect();
        let databases = if command_line.seal.is_empty() { built_in() } else { command_line.seal.clone() };
        seal::seal(&databases)?;
    }
    if let Some(means) = command_line.means() {
        listen::listen(&means)?;
    }
    capabilities::give_back(&command_line.give_back)?;
    // not open is as good as closed
    drop(command_line.own_descriptor.and_then(process::take));
    Ok(())
}

/// Why nothing may be started.
#[derive(Debug, thiserror::Error)]
enum NotPrepared {
    #[error(transparent)]
    Seal(#[from] seal::SealError),
    #[error(transparent)]
    Listen(#[from] listen::ListenError),
    #[error(transparent)]
    GiveBack(#[from] capabilities::GiveBackError),
}

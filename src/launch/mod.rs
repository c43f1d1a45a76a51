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
//! It is to run in any container, so it is built static: `RUSTFLAGS=-Ctarget-feature=+crt-static cargo build --target
//! x86_64-unknown-linux-gnu --no-default-features --bin acctguard-launch`. Without its default features the library has no daemon
//! and links no libseccomp.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap::Parser;

use crate::launch::capabilities::Loan;
use crate::launch::listen::Means;
use crate::model::attempt::DatabasePath;
use crate::model::diagnostic::chain;
use crate::oci::launcher_edit;

pub mod capabilities;
pub mod listen;
pub mod program;
pub mod seal;
pub mod sealed_tree;

/// The seal, the listener or the capabilities could not be set as asked: nothing was started.
const CANNOT_SEAL: u8 = 125;

/// Bad command line (sysexits.h, EX_USAGE).
const USAGE: u8 = 64;

/// Seal the account databases of this container, then run PROGRAM in place of this process.
#[derive(Debug, Parser)]
#[command(
    name = "acctguard-launch",
    version,
    after_long_help = launcher_edit::OPTIONS,
    after_help = "Exit codes when PROGRAM was not started: 125 cannot seal, 126 PROGRAM is not executable, 127 PROGRAM not found, 64 usage."
)]
struct CommandLine {
    /// Database to seal, absolute; one that ends in / seals a whole directory. Default: all that acctguard knows.
    #[arg(long, value_name = "DATABASE", value_parser = parse_database)]
    seal: Vec<DatabasePath>,
    /// Seal nothing.
    #[arg(long, conflicts_with = "seal", requires = "line")]
    no_seal: bool,
    /// Capability to give up for good before PROGRAM starts, as CAP_SYS_ADMIN; out of all its sets, or out of those named:
    /// CAP_SETPCAP=bounding,effective,inheritable,permitted,ambient.
    #[arg(long, value_name = "CAP[=SETS]", value_parser = capabilities::parse)]
    give_back: Vec<Loan>,
    /// Connection to acctguard-daemon, to hand it a seccomp listener in place of the runtime's.
    #[arg(long, value_name = "NUMBER", requires_all = ["filter", "container"])]
    line: Option<i32>,
    /// Descriptor of the filter for that, a sealed memfd.
    #[arg(long, value_name = "NUMBER")]
    filter: Option<i32>,
    /// Id of this container.
    #[arg(long, value_name = "ID")]
    container: Option<String>,
    /// Id of the recorded event of this exec session.
    #[arg(long, value_name = "ID")]
    exec: Option<String>,
    /// Descriptor by which this program was run, closed before PROGRAM starts.
    #[arg(long, value_name = "NUMBER")]
    own_descriptor: Option<i32>,
    /// What to run, found as execvp(3) would, but without its fall-back to a shell.
    #[arg(last = true, required = true, value_name = "PROGRAM ARGS")]
    program: Vec<OsString>,
}

impl CommandLine {
    fn means(&self) -> Option<Means> {
        let (line, filter) = (self.line?, self.filter?);
        Some(Means { line, filter, container: self.container.clone()?, exec: self.exec.clone() })
    }
}

fn parse_database(text: &str) -> Result<DatabasePath, String> {
    DatabasePath::new(text).map_err(|error| error.to_string())
}

/// The command line as a value, for manual pages.
#[must_use]
pub fn command() -> clap::Command {
    CommandLine::command()
}

/// Runs the program of the command line; comes back only when it could not.
#[must_use]
pub fn main() -> ExitCode {
    let command_line = match CommandLine::try_parse() {
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

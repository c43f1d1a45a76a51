//! `acctguard`: the operator's command. One file a subcommand; each returns an [`Outcome`], only [`main`] knows exit codes.
//!
//! Results go to standard output, everything else to standard error. Strings out of events and containers are data:
//! [`readable`] shows them, and JSON escapes them itself. A reader of our output that goes away ends us quietly.
#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap::Parser;
use clap::Subcommand;

use crate::cli::policy_explain::ExplainError;
use crate::cli::profile::GenerateError;
use crate::config::Config;
use crate::config::file::ConfigError;
use crate::control::client::ClientError;
use crate::engines::registration::RegistrationError;
use crate::model::diagnostic::chain;

pub mod containers;
pub mod doctor;
pub mod events;
pub mod install;
pub mod policy;
pub mod policy_check;
pub mod policy_explain;
pub mod profile;
pub mod readable;

/// Look after acctguard, which guards the account databases of running containers.
#[derive(Debug, Parser)]
#[command(
    name = "acctguard",
    version,
    after_help = "Exit codes: 0 done, 1 findings, 64 usage, 69 the daemon is not there, 77 permission, 78 configuration."
)]
struct CommandLine {
    /// Configuration of this node. Default: the variable ACCTGUARD_CONFIG, else /etc/acctguard/config.toml.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check what this node needs, one line each, with the remedy.
    Doctor,
    /// Show recorded events.
    Events(events::Arguments),
    /// Show the containers that the daemon knows.
    Containers(containers::Arguments),
    /// Check policies, or tell which one decides.
    Policy(policy::Arguments),
    /// Make a seccomp profile for engines whose runtime is not replaced.
    Profile(profile::Arguments),
    /// Register acctguard with a container engine.
    Install(install::InstallArguments),
    /// Take acctguard out of a container engine: its configuration is as it was before, byte for byte.
    Uninstall(install::UninstallArguments),
}

/// What a subcommand came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it was asked.
    Done,
    /// It found what should not be.
    Findings,
}

/// Why a subcommand could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The node's configuration.
    #[error(transparent)]
    Configuration(#[from] ConfigError),
    /// The daemon.
    #[error(transparent)]
    Daemon(#[from] ClientError),
    /// `policy check` found a mistake; it is already on standard output.
    #[error("the policies cannot be used; correct the mistakes above")]
    Policy,
    /// `policy explain`.
    #[error(transparent)]
    Explain(#[from] ExplainError),
    /// `profile generate`.
    #[error(transparent)]
    Profile(#[from] GenerateError),
    /// `install`, `uninstall`.
    #[error(transparent)]
    Registration(#[from] RegistrationError),
    /// Standard output.
    #[error("write to standard output")]
    Output(#[from] io::Error),
}

impl CommandError {
    /// The published exit code.
    fn exit_code(&self) -> u8 {
        match self {
            Self::Configuration(ConfigError::Read { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                77
            }
            Self::Configuration(_) | Self::Policy | Self::Explain(ExplainError::Policy(_)) => 78,
            Self::Profile(GenerateError::Read { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => 77,
            // the bundle, the id or the file that was asked about
            Self::Explain(_) | Self::Profile(_) => USAGE,
            Self::Registration(error) => install::exit_code(error),
            Self::Daemon(ClientError::Permission { .. } | ClientError::WrongPeer { .. }) => 77,
            Self::Daemon(ClientError::Refused { .. }) | Self::Output(_) => 1,
            Self::Daemon(_) => 69,
        }
    }
}

/// Bad command line.
const USAGE: u8 = 64;

/// The command line as a value, for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    CommandLine::command()
}

/// Runs the subcommand of the command line.
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
    match run(command_line) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Findings) => ExitCode::from(1),
        // `acctguard events | head` is no mistake
        Err(CommandError::Output(error) | CommandError::Explain(ExplainError::Write(error)))
            if error.kind() == io::ErrorKind::BrokenPipe =>
        {
            ExitCode::SUCCESS
        }
        Err(error) => {
            let text = match &error {
                // the line and the caret are lines of their own
                CommandError::Configuration(error) => error.diagnostic(),
                CommandError::Explain(error @ ExplainError::Policy(_)) => error.to_string(),
                error => chain(error),
            };
            eprintln!("acctguard: {text}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(command_line: CommandLine) -> Result<Outcome, CommandError> {
    let config = Config::load(command_line.config.as_deref());
    let output = io::stdout().lock();
    match command_line.command {
        Command::Doctor => doctor::run(config, output),
        Command::Events(arguments) => events::run(&config?, &arguments, output),
        Command::Containers(arguments) => containers::run(&config?, &arguments, output),
        Command::Policy(arguments) => policy::run(&config?, &arguments, output),
        Command::Profile(arguments) => profile::run(&config?, &arguments, output),
        Command::Install(arguments) => install::install(&config?, arguments, output),
        Command::Uninstall(arguments) => install::uninstall(&config?, &arguments, output),
    }
}

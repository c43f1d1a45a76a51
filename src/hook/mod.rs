//! `acctguard-hook`: the witness and the gatekeeper of container creation.
//!
//! * `createRuntime` writes the DC0072 record, registers the container with the daemon, and refuses the creation when the
//!   policy requires protection that is not in place ([`create_runtime`]).
//! * `precreate` makes the shim's edit of `config.json` for engines that have that stage (podman, [`precreate`]).
//! * `poststop` records the exit and never fails ([`poststop`]).
//!
//! A refusal is a non-zero exit and one line on stderr. crun drops a hook's output (`integration.md` §2), so every refusal is
//! recorded too: by the daemon, or in its spool while it is away. A hook never hangs: each wait for the daemon is bounded, and
//! a deadline of its own ends the rest.
#![forbid(unsafe_code)]

use std::io;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use clap::CommandFactory as _;
use clap::Parser;
use clap::Subcommand;

use crate::config::Config;
use crate::config::file::ConfigError;
use crate::model::diagnostic::chain;
use crate::model::policy::Ground;
use crate::oci::hook_state::StateError;

pub mod create_runtime;
mod deadline;
mod lending;
pub mod poststop;
pub mod precreate;
pub mod protection;
pub mod record;
mod subject;

/// Bad command line (sysexits.h, EX_USAGE).
const USAGE: u8 = 64;
/// Bad configuration (sysexits.h, EX_CONFIG).
const CONFIGURATION: u8 = 78;

/// Record container creations and exits, and refuse what policy does not allow. Run by OCI runtimes and engines, which write
/// the container's state (precreate: its config.json) to standard input.
#[derive(Debug, Parser)]
#[command(name = "acctguard-hook", version)]
struct CommandLine {
    #[command(subcommand)]
    stage: Stage,
}

#[derive(Debug, Subcommand)]
enum Stage {
    /// Record a creation; refuse it when policy says so.
    #[command(name = "createRuntime")]
    CreateRuntime(CreateRuntime),
    /// Put the interception into the config.json on standard input; the result goes to standard output.
    #[command(name = "precreate")]
    Precreate(Node),
    /// Record the end of a container.
    #[command(name = "poststop")]
    Poststop(Node),
}

#[derive(Debug, Clone, Args)]
struct Node {
    /// Configuration of this node.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Arguments of `createRuntime`.
#[derive(Debug, Clone, Args)]
pub struct CreateRuntime {
    #[command(flatten)]
    node: Node,
    /// Default action of the workload's own seccomp profile before acctguard's edit, or none.
    #[arg(long, value_name = "ACTION")]
    own_seccomp: Option<String>,
    /// Why the interception could not be put in place.
    #[arg(long, value_name = "REASON")]
    unprotected: Option<String>,
    /// Which calls the interception cannot watch, or only in part, because of the workload's own seccomp profile.
    #[arg(long, value_name = "CALLS")]
    unwatched: Option<String>,
    /// Why calls that are being answered do not wait killable.
    #[arg(long, value_name = "REASON")]
    not_killable: Option<String>,
    /// That they wait killable by the launcher's own listener.
    #[arg(long)]
    launcher_listens: bool,
    /// On which ground the shim put the container's own process: notify, broker or seal.
    #[arg(long, value_name = "GROUND", value_parser = parse_ground)]
    ground: Option<Ground>,
    /// Why it does not stand on a better one.
    #[arg(long, value_name = "REASON")]
    because: Vec<String>,
    /// The runtime, where the shim knows it better than this program could.
    #[arg(long, value_name = "NAME")]
    runtime: Option<String>,
    /// That noNewPrivileges: false was left out of config.json.
    #[arg(long)]
    new_privileges_left_out: bool,
    /// The runtime's own copy of config.json, out of which lent capabilities are to be taken too.
    #[arg(long, value_name = "FILE")]
    runtime_copy: Option<PathBuf>,
}

fn parse_ground(word: &str) -> Result<Ground, String> {
    Ground::from_word(word).ok_or_else(|| "expected none, notify, broker or seal".to_owned())
}

/// Why a hook fails.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// The node's configuration.
    #[error(transparent)]
    Configuration(#[from] ConfigError),
    /// Standard input held no state.
    #[error(transparent)]
    State(#[from] StateError),
    /// Standard input held no config.json.
    #[error("read config.json from standard input; the precreate stage of an engine writes it")]
    Input(#[source] io::Error),
    /// Standard output does not take the new config.json.
    #[error("write config.json to standard output; the precreate stage of an engine reads it")]
    Output(#[source] io::Error),
    /// Policy.
    #[error("{what} refused: {reason}")]
    Refused {
        /// The container, or what is known of it.
        what: String,
        /// One line.
        reason: String,
    },
}

/// The command line as a value, for manual pages.
#[must_use]
pub fn command() -> clap::Command {
    CommandLine::command()
}

/// Runs the hook of the command line.
#[must_use]
pub fn main() -> ExitCode {
    let command_line = match CommandLine::try_parse() {
        Ok(command_line) => command_line,
        Err(error) => {
            // nothing to do when the message itself cannot be printed
            let _ = error.print();
            if error.use_stderr() {
                deadline::start(i32::from(USAGE));
                take_the_rest();
            }
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    let poststop = matches!(command_line.stage, Stage::Poststop(_));
    deadline::start(if poststop { 0 } else { 1 });
    match run(command_line.stage) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = match &error {
                // tells its cause itself
                HookError::Configuration(error) => error.to_string(),
                error => chain(error),
            };
            eprintln!("acctguard-hook: {text}");
            take_the_rest();
            // the container is gone: a failure would only make runtimes print warnings
            ExitCode::from(if poststop { 0 } else { exit_code(&error) })
        }
    }
}

/// Reads what is left on standard input, so that the runtime's report is this hook's message: crun before 1.17 says nothing
/// but "writing to pipe: Broken pipe" of a hook that ends before it read its state (containers/crun#1551).
fn take_the_rest() {
    deadline::step("taking the rest of standard input");
    let input = io::stdin();
    if !input.is_terminal() {
        // what cannot be read is of no use to anybody: the hook has failed already
        let _ = io::copy(&mut input.lock(), &mut io::sink());
    }
}

fn run(stage: Stage) -> Result<(), HookError> {
    let load = |node: &Node| Config::load(node.config.as_deref());
    match stage {
        Stage::CreateRuntime(options) => {
            let config = load(&options.node)?;
            create_runtime::run(&config, &options, io::stdin().lock())
        }
        Stage::Precreate(node) => precreate::run(&load(&node)?, io::stdin().lock(), io::stdout().lock()),
        Stage::Poststop(node) => poststop::run(&load(&node)?, io::stdin().lock()),
    }
}

const fn exit_code(error: &HookError) -> u8 {
    match error {
        HookError::Configuration(_) => CONFIGURATION,
        HookError::State(_) | HookError::Input(_) | HookError::Output(_) | HookError::Refused { .. } => 1,
    }
}

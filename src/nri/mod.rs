//! `acctguard-nri`: guards containers of containerd and CRI-O whose runtime is not replaced, as a plugin of their node resource
//! interface (NRI, github.com/containerd/nri).
//!
//! At each creation the engine asks; the answer adds acctguard's hooks and, where the engine takes that from a plugin and tells what the
//! container has, the interception in its seccomp profile: the edit that the precreate hook makes ([`creation`]). Whatever fails
//! here never fails a container, and never keeps the engine waiting ([`bounded`]). The hook, which runs with the container, records
//! it and refuses what policy refuses.
//!
//! The plugin connects to the engine's socket, and again when that ends; or the engine starts it, with a socket as descriptor
//! `NRI_PLUGIN_SOCKET`. Not here on purpose: the launcher, so that nothing is sealed; exec sessions, which NRI does not have.
#![forbid(unsafe_code)]

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::CommandFactory as _;
use clap::Parser;

use crate::config::Config;
use crate::kernel::inherited;
use crate::model::diagnostic::chain;
use crate::nri::bounded::Decider;
use crate::nri::session::Name;
use crate::nri::session::Session;

pub mod bounded;
pub mod creation;
pub mod decision;
pub mod engine;
pub mod messages;
mod record;
pub mod seccomp;
pub mod session;
pub mod wire;

/// Bad command line (sysexits.h, EX_USAGE).
const USAGE: u8 = 64;
/// Bad configuration (sysexits.h, EX_CONFIG).
const CONFIGURATION: u8 = 78;
/// Descriptor of the connection that an engine made before it started the plugin (nri `PluginSocketEnvVar`).
const SOCKET_VARIABLE: &str = "NRI_PLUGIN_SOCKET";
/// First wait before the engine's socket is tried again; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Guard the containers of an engine whose runtime is not replaced: a plugin of containerd's and CRI-O's node resource interface
/// (NRI).
///
/// Connects to the engine's NRI socket, again whenever the engine was restarted, and has every container created with acctguard's
/// hooks and, where the engine allows it, with the interception in its seccomp profile. Started by an engine, out of its folder of
/// plugins, it uses the connection that it is given.
#[derive(Debug, Parser)]
#[command(name = "acctguard-nri", version)]
struct CommandLine {
    /// Configuration of this node.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The engine's NRI socket.
    #[arg(long, value_name = "PATH", default_value = "/var/run/nri/nri.sock")]
    socket: PathBuf,
    /// Name to be registered by, which an engine's required_plugins names.
    #[arg(long, value_name = "NAME", default_value = "acctguard")]
    name: String,
    /// Two digits: engines ask their plugins in this order, and a later one sees what earlier ones changed.
    #[arg(long, value_name = "NN", default_value = "90", value_parser = parse_index)]
    index: String,
}

fn parse_index(word: &str) -> Result<String, String> {
    let right = word.len() == 2 && word.bytes().all(|byte| byte.is_ascii_digit());
    if right { Ok(word.to_owned()) } else { Err("expected two digits".to_owned()) }
}

/// The command line as a value, for manual pages.
#[must_use]
pub fn command() -> clap::Command {
    CommandLine::command()
}

/// Runs the plugin of the command line.
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
    let config = match Config::load(command_line.config.as_deref()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("acctguard-nri: {error}");
            return ExitCode::from(CONFIGURATION);
        }
    };
    let name = Name { name: command_line.name, index: command_line.index };
    let mut decider = Decider::start(config, decision::decide);
    match std::env::var(SOCKET_VARIABLE) {
        Ok(number) => {
            let given = number.parse().ok().and_then(inherited::by_number);
            let Some(given) = given else {
                record::log(&format!("{SOCKET_VARIABLE}={number} names no open descriptor"));
                return ExitCode::from(USAGE);
            };
            let (_, ended) = served(UnixStream::from(given), &name, &mut decider);
            record::log(&ended);
            ExitCode::SUCCESS
        }
        Err(_) => connect_again_and_again(&command_line.socket, &name, &mut decider),
    }
}

/// Serves a connection to its end: whether the engine took the plugin, and why it ended.
fn served(socket: UnixStream, name: &Name, decider: &mut Decider) -> (bool, String) {
    let mut session = Session::new(socket, decider);
    let ended = session.serve(name);
    (session.was_taken(), ended.map_or_else(|error| chain(&error), |()| "the engine closed the connection".to_owned()))
}

/// Serves engine after engine on `socket`. What does not change is logged once.
fn connect_again_and_again(socket: &Path, name: &Name, decider: &mut Decider) -> ExitCode {
    let mut wait = FIRST_WAIT;
    let mut told = String::new();
    loop {
        let (taken, ended) = match UnixStream::connect(socket) {
            Ok(stream) => served(stream, name, decider),
            Err(error) => (false, absent(socket, &error)),
        };
        if taken {
            wait = FIRST_WAIT;
        }
        if taken || ended != told {
            record::log(&format!("{ended}; trying again"));
            told = ended;
        }
        std::thread::sleep(wait);
        wait = wait.saturating_mul(2).min(LONGEST_WAIT);
    }
}

fn absent(socket: &Path, error: &io::Error) -> String {
    format!(
        "cannot connect to the engine's NRI socket {}: {error}; is the engine there, and NRI not disabled in its configuration",
        socket.display()
    )
}

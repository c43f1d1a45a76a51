//! `acctguard profile generate`: a seccomp profile with the interception in it, for engines whose runtime is not replaced.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use clap::Subcommand;
use serde_json::Value;

use crate::cli::CommandError;
use crate::cli::Outcome;
use crate::config::Config;
use crate::oci::engine_profile;
use crate::oci::engine_profile::DEFAULT_CAPABILITIES;
use crate::oci::engine_profile::EngineProfileError;
use crate::oci::seccomp_merge::Listener;

/// Largest base that is read.
const MAX_BASE_BYTES: u64 = 4 * 1024 * 1024;
/// `listenerMetadata`, as the shim sets it.
const METADATA: &str = "acctguard/1";

/// Arguments of `acctguard profile`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Print a seccomp profile with the interception in it, for podman's and Docker's --security-opt seccomp=FILE and as a
    /// Localhost profile of Kubernetes.
    Generate {
        /// Profile to put it into, of the runtime specification's form or of moby's. Default: one that allows everything.
        #[arg(long, value_name = "FILE")]
        base: Option<PathBuf>,
        /// Decide the conditions of the base's entries now, for containerd, which knows none.
        #[arg(long, requires = "base")]
        resolve: bool,
        /// With --resolve, a capability of the containers. Default: those that engines give.
        #[arg(long, value_name = "CAP", requires = "resolve")]
        capability: Vec<String>,
    },
}

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The base.
    #[error("read {}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The base is too large.
    #[error("{} has more than {MAX_BASE_BYTES} bytes, which no seccomp profile has", path.display())]
    TooLarge {
        /// Its path.
        path: PathBuf,
    },
    /// The base is no JSON.
    #[error("{} is not JSON", path.display())]
    Json {
        /// Its path.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// The base cannot carry the interception.
    #[error("{}", path.display())]
    Profile {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: EngineProfileError,
    },
}

/// Runs the subcommand; the profile goes to `output`, what it leaves unwatched to standard error.
///
/// # Errors
/// [`CommandError::Profile`].
pub fn run(config: &Config, arguments: &Arguments, mut output: impl Write) -> Result<Outcome, CommandError> {
    let Command::Generate { base, resolve, capability } = &arguments.command;
    let socket = config.listener_socket();
    let listener = Listener { path: &socket.to_string_lossy(), metadata: METADATA };
    let value = base.as_deref().map(read).transpose()?;
    let value = value.map(|value| if *resolve { resolved(&value, capability) } else { value });
    let path = || base.clone().unwrap_or_default();
    let generated = engine_profile::generate(value.as_ref(), listener)
        .map_err(|source| GenerateError::Profile { path: path(), source })?;
    for gap in &generated.gaps {
        eprintln!("acctguard: {gap}");
    }
    let mut text = serde_json::to_string_pretty(&generated.profile).unwrap_or_default();
    text.push('\n');
    output.write_all(text.as_bytes())?;
    Ok(Outcome::Done)
}

fn resolved(base: &Value, capabilities: &[String]) -> Value {
    let named: Vec<&str> = capabilities.iter().map(String::as_str).collect();
    let capabilities = if named.is_empty() { DEFAULT_CAPABILITIES.as_slice() } else { &named };
    engine_profile::resolved(base, engine_profile::host_architecture(), capabilities)
}

fn read(path: &Path) -> Result<Value, GenerateError> {
    let failed = |source| GenerateError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.len() > MAX_BASE_BYTES {
        return Err(GenerateError::TooLarge { path: path.to_owned() });
    }
    let bytes = fs::read(path).map_err(failed)?;
    serde_json::from_slice(&bytes).map_err(|source| GenerateError::Json { path: path.to_owned(), source })
}

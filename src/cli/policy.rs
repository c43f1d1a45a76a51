//! `acctguard policy`: its subcommands on the command line; what they do is in [`policy_check`] and [`policy_explain`].

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use clap::Subcommand;

use crate::cli::CommandError;
use crate::cli::Outcome;
use crate::cli::policy_check;
use crate::cli::policy_explain;
use crate::config::Config;
use crate::model::policy::schema;
use crate::model::workload::ContainerId;

/// Arguments of `acctguard policy`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Check policy files, or the node's configuration and policies when no file is named.
    Check {
        /// Policy files.
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Tell which policy decides for the container of a bundle, and why not an earlier one.
    Explain {
        /// The bundle: the folder that holds config.json.
        #[arg(long, value_name = "DIR")]
        bundle: PathBuf,
        /// The container's id, when the bundle's path does not tell it.
        #[arg(long, value_name = "ID", value_parser = parse_id)]
        id: Option<ContainerId>,
    },
    /// Print the resource definition (CRD) by which Kubernetes checks policy documents, as JSON.
    Schema,
}

fn parse_id(text: &str) -> Result<ContainerId, String> {
    ContainerId::new(text).map_err(|error| error.to_string())
}

/// Runs the subcommand; results go to `output`.
///
/// # Errors
/// [`CommandError::Policy`] and [`CommandError::Explain`].
pub fn run(config: &Config, arguments: &Arguments, mut output: impl Write) -> Result<Outcome, CommandError> {
    match &arguments.command {
        Command::Check { files } => match policy_check::check(files, config, &mut output)? {
            policy_check::Outcome::Valid => Ok(Outcome::Done),
            policy_check::Outcome::Invalid => Err(CommandError::Policy),
        },
        Command::Explain { bundle, id } => {
            policy_explain::explain(bundle, id.clone(), config, &mut output)?;
            Ok(Outcome::Done)
        }
        Command::Schema => {
            writeln!(output, "{:#}", schema::custom_resource_definition())?;
            Ok(Outcome::Done)
        }
    }
}

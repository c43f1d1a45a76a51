//! The command line of `acctguard-launch` for its manual page and its `--help`, which is clap's text of this. The launcher itself reads
//! the words without clap; `integration/launch.rs` holds both readings, and both texts, to one another.

use std::ffi::OsString;

use acctguard::model::database_path::DatabasePath;
use acctguard::oci::launcher_words;
use clap::Parser;

/// Seal the account databases of this container, then run PROGRAM in place of this process.
#[derive(Debug, Parser)]
#[command(
    name = "acctguard-launch",
    version,
    term_width = 120,
    after_help = format!("Exit codes when PROGRAM was not started: 125 cannot seal, 126 it is not executable, 127 it is not found, 64 usage.\n{}", launcher_words::OPTIONS)
)]
pub struct Words {
    /// Database to seal, absolute; one that ends in / seals a whole directory. Default: all that acctguard knows.
    #[arg(long, value_name = "DATABASE", value_parser = parse_database)]
    pub seal: Vec<DatabasePath>,
    /// Seal nothing.
    #[arg(long, conflicts_with = "seal", requires = "line")]
    pub no_seal: bool,
    /// Capability to give up for good before PROGRAM starts, as CAP_SYS_ADMIN; out of all its sets, or out of those named:
    /// CAP_SETPCAP=bounding,effective,inheritable,permitted,ambient.
    #[arg(long, value_name = "CAP[=SETS]")]
    pub give_back: Vec<String>,
    /// Connection to acctguard-daemon, to hand it a seccomp listener in place of the runtime's.
    #[arg(long, value_name = "NUMBER", requires_all = ["filter", "container"])]
    pub line: Option<i32>,
    /// Descriptor of the filter for that, a sealed memfd.
    #[arg(long, value_name = "NUMBER")]
    pub filter: Option<i32>,
    /// Start nothing without that listener.
    #[arg(long, requires = "line")]
    pub must_listen: bool,
    /// Id of this container.
    #[arg(long, value_name = "ID")]
    pub container: Option<String>,
    /// Id of the recorded event of this exec session.
    #[arg(long, value_name = "ID")]
    pub exec: Option<String>,
    /// Descriptor by which this program was run, closed before PROGRAM starts.
    #[arg(long, value_name = "NUMBER")]
    pub own_descriptor: Option<i32>,
    /// What to run, found as execvp(3) would, but without its fall-back to a shell.
    #[arg(last = true, required = true, value_name = "PROGRAM ARGS")]
    pub program: Vec<OsString>,
}

fn parse_database(text: &str) -> Result<DatabasePath, String> {
    DatabasePath::new(text).map_err(|error| error.to_string())
}

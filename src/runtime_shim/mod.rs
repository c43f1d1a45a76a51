//! `acctguard-runtime`: stands in the place of runc or crun, edits what is created, records what enters, and becomes the real
//! runtime by execve(2), so that pid, descriptors, working directory, signals and exit code are the real runtime's.
//!
//! create and run: `create`. exec: `exec`, under youki `exec_by_launcher`. On which ground a process is put: `standing`, `program_search`; what the real
//! runtime is handed: `handover`. Whether signals leave calls alone: `signals`. restore is refused where policy enforces. Every other command is passed on at
//! once. Which program the real runtime is: `real_runtime`. How engines are told of errors: `engine_log`.
//! Invariant: the shim never waits for anything without a bound, and changes of a line that it passes on nothing but
//! `--preserve-fds` and `--process`, for the launcher.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::Config;
use crate::config::file::ConfigError;
use crate::config::file::DEFAULT_FILE;
use crate::control::client::ClientError;
use crate::kernel::Errno;
use crate::kernel::exec::ExecError;
use crate::kernel::process::ProcessError;
use crate::model::workload::ContainerIdError;
use crate::oci::bundle::BundleError;
use crate::oci::runtime_args::Command;
use crate::oci::runtime_args::CommandLine;
use crate::oci::runtime_args::CommandLineError;
use crate::oci::seccomp_merge::Conflict;
use crate::oci::spec_edit::EditError;
use crate::runtime_shim::handover::Handover;
use crate::runtime_shim::handover::LauncherError;
use crate::runtime_shim::real_runtime::RealRuntime;
use crate::runtime_shim::real_runtime::RealRuntimeError;

mod create;
mod engine_log;
mod exec;
mod exec_by_launcher;
mod exec_process;
mod handover;
mod listening;
mod program_search;
mod real_runtime;
mod record;
mod signals;
mod standing;

/// EX_USAGE, sysexits.h.
const EXIT_USAGE: u8 = 64;
/// EX_CONFIG, sysexits.h.
const EXIT_CONFIGURATION: u8 = 78;
/// What runc exits with when a create, run or restore fails.
const EXIT_RUNTIME: u8 = 1;
/// What runc and crun exit with when an exec cannot be started.
const EXIT_EXEC: u8 = 255;

/// Why the real runtime was not called.
#[derive(Debug, thiserror::Error)]
enum ShimError {
    #[error(transparent)]
    CommandLine(#[from] CommandLineError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    RealRuntime(#[from] RealRuntimeError),
    #[error(transparent)]
    Exec(#[from] ExecError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Edit(#[from] EditError),
    #[error(transparent)]
    ContainerId(#[from] ContainerIdError),
    #[error(transparent)]
    Launcher(#[from] LauncherError),
    #[error("descriptor {number} cannot be handed to the real runtime; raise the limit of open files")]
    Place {
        number: i32,
        #[source]
        source: Errno,
    },
    #[error("find acctguard's own programs")]
    OwnPath(#[source] std::io::Error),
    #[error("{} is not there, and every container needs it as a hook; install it beside acctguard-runtime", path.display())]
    NoHookProgram { path: PathBuf },
    #[error("read this process's own start time")]
    OwnProcess(#[source] ProcessError),
    #[error("container {id} is not created: {what}, and {rule} refuses unprotected containers")]
    Unprotected {
        id: String,
        what: &'static str,
        rule: String,
        #[source]
        source: Box<UnprotectedCause>,
    },
    #[error(
        "container {id} is not restored: policy {policy:?} enforces, and a restored process has no seccomp listener; create the container anew, or give it a policy in mode audit"
    )]
    RestoreInEnforce { id: String, policy: String },
    #[error("exec into container {id} is refused: {reason}; policy refuses what is not protected (onUnprotected)")]
    ExecUnseen { id: String, reason: String },
    #[error("exec into container {id} is refused: its calls are intercepted and would fail without the daemon")]
    ExecWithoutDaemon {
        id: String,
        #[source]
        source: ClientError,
    },
}

/// Why a container would start unprotected.
#[derive(Debug, thiserror::Error)]
enum UnprotectedCause {
    #[error(transparent)]
    Daemon(#[from] ClientError),
    #[error(transparent)]
    Conflict(#[from] Conflict),
    #[error("intercepted in part only: {0}; simplify the container's seccomp profile")]
    Gaps(String),
    #[error(
        "how youki {major}.{minor}.{patch} reads a seccomp profile is not known, 0.7 does not follow the specification; use runc, crun or youki 0.7"
    )]
    Youki { major: u32, minor: u32, patch: u32 },
    #[error("{0}, and the policy says landlock: required")]
    NotSealed(String),
}

/// A call of the shim, as far as it is understood.
struct Call {
    line: CommandLine,
    config: Config,
    real: RealRuntime,
    environment: Vec<OsString>,
}

impl Call {
    /// The configuration that the hooks are to use, when it is not the one they find themselves.
    fn config_for_hooks(&self) -> Option<PathBuf> {
        let file = self.config.file.as_deref()?;
        let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        (absolute != std::path::Path::new(DEFAULT_FILE)).then_some(absolute)
    }
}

/// The program. Returns only when the real runtime could not be called.
#[must_use]
pub fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().collect();
    let line = match CommandLine::parse(&argv) {
        Ok(line) => line,
        Err(error) => {
            engine_log::report(&CommandLine::default(), &error);
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let error = run(&line);
    engine_log::report(&line, &error);
    ExitCode::from(exit_code(&line, &error))
}

fn run(line: &CommandLine) -> ShimError {
    match prepare(line).and_then(|call| act(&call).map(|handover| (call, handover))) {
        Ok((call, handover)) => match handover.place() {
            Ok(()) => call.real.become_it(&handover.argv, call.environment).into(),
            Err((number, source)) => ShimError::Place { number, source },
        },
        Err(error) => error,
    }
}

fn prepare(line: &CommandLine) -> Result<Call, ShimError> {
    let config = Config::load(line.acctguard_config.as_deref())?;
    let real = real_runtime::find(&config, line.forwarded.first())?;
    let environment = real_runtime::marked_environment()?;
    Ok(Call { line: line.clone(), config, real, environment })
}

/// Does what is to be done before the real runtime runs, and says what it is handed.
fn act(call: &Call) -> Result<Handover, ShimError> {
    if call.line.options.help {
        return Ok(Handover::unchanged(call));
    }
    match call.line.command {
        Command::Create | Command::Run => create::prepare(call),
        Command::Restore => create::check_restore(call).map(|()| Handover::unchanged(call)),
        Command::Exec => exec::register(call),
        Command::Other => Ok(Handover::unchanged(call)),
    }
}

fn exit_code(line: &CommandLine, error: &ShimError) -> u8 {
    match (line.command, error) {
        (Command::Create | Command::Run | Command::Restore, _) => EXIT_RUNTIME,
        (Command::Exec, _) => EXIT_EXEC,
        (Command::Other, ShimError::Config(_) | ShimError::RealRuntime(_)) => EXIT_CONFIGURATION,
        (Command::Other, _) => EXIT_RUNTIME,
    }
}

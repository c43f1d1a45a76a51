//! From the command line to a running keeper or worker. Always in the foreground, log on standard error.

use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap::Parser;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SfdFlags;
use nix::sys::signalfd::SignalFd;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::process::Resource;
use rustix::process::Rlimit;

use crate::config::Config;
use crate::config::findings;
use crate::control::client::ClientError;
use crate::daemon::confinement;
use crate::daemon::confinement::Otherwise;
use crate::daemon::keeper;
use crate::daemon::keeper::Holdings;
use crate::daemon::keeper::Keeper;
use crate::daemon::keeper::KeeperError;
use crate::daemon::keeper::descriptor_store::Stored;
use crate::daemon::keeper::standby;
use crate::daemon::keeper::standby::StandbyError;
use crate::daemon::keeper::table::Table;
use crate::daemon::log;
use crate::daemon::places;
use crate::daemon::places::PlaceError;
use crate::daemon::service_manager::ServiceManager;
use crate::daemon::shipper;
use crate::daemon::upgrade;
use crate::daemon::upgrade::UpgradeError;
use crate::daemon::worker_process;
use crate::kernel::broker;
use crate::kernel::shared_area::SharedArea;
use crate::kernel::shared_area::SharedAreaError;
use crate::model::diagnostic::chain;
use crate::sinks::syslog::FacilityError;

/// The argument that makes this program a helper of the broker.
pub const BE_A_HELPER: &str = "--helper";
/// The argument that makes this program start helpers.
pub const BE_A_STARTER: &str = "--starter";
/// The argument that makes it, or a worker, fail where it would be ended.
pub const REFUSING: &str = "--refusing";

const EXIT_FAILURE: u8 = 1;
const EXIT_USAGE: u8 = 64;
const EXIT_PERMISSION: u8 = 77;
const EXIT_CONFIGURATION: u8 = 78;

/// Guards the account databases of running containers: answers their intercepted calls, records and ships what happens.
///
/// Runs in the foreground and logs to standard error; ACCTGUARD_LOG sets the level (error, warn, info, debug).
/// SIGHUP reads the policy again. SIGTERM stops it: containers that run then lose their supervisor, unless a service manager holds
/// its descriptors for the next start.
#[derive(Debug, Parser)]
#[command(name = "acctguard-daemon", version)]
struct Arguments {
    /// Node configuration [default: $ACCTGUARD_CONFIG, else /etc/acctguard/config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    order: Option<Order>,
    /// Be a worker; used by the keeper only
    #[arg(long, hide = true)]
    worker: bool,
    /// Be the second keeper; used by the keeper only
    #[arg(long, hide = true)]
    standby: bool,
    /// A service manager holds the listeners; used with --worker
    #[arg(long, hide = true)]
    stored: bool,
    /// Where the program is installed; used with --standby
    #[arg(long, hide = true)]
    installed: Option<PathBuf>,
    /// Be a helper of the broker; used by what starts them only
    #[arg(long, hide = true)]
    helper: bool,
    /// Start helpers of the broker; used by the worker only
    #[arg(long, hide = true)]
    starter: bool,
    /// Have system calls that are not needed fail, in place of ending the process; used with --worker and --starter
    #[arg(long, hide = true)]
    refusing: bool,
}

impl Arguments {
    const fn otherwise(&self) -> Otherwise {
        if self.refusing { Otherwise::Refuse } else { Otherwise::End }
    }
}

/// What a running daemon is told.
#[derive(Debug, Clone, Copy, clap::Subcommand)]
enum Order {
    /// Put a worker from the installed program in place of the one that serves; no call of a container fails meanwhile.
    /// Reads the policy again, too
    Upgrade,
}

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("must be run by root: it answers the system calls of other users' processes")]
    NotRoot,
    #[error("{0}")]
    Configuration(String),
    #[error("{0}")]
    Unreadable(String),
    #[error(transparent)]
    Facility(#[from] FacilityError),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Area(#[from] SharedAreaError),
    #[error("cannot receive signals")]
    Signals(#[source] nix::Error),
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    #[error(transparent)]
    Standby(#[from] StandbyError),
    #[error("cannot make room for listeners")]
    Table(#[source] rustix::io::Errno),
    #[error("cannot tell what program this is; /proc must be mounted")]
    Program(#[source] std::io::Error),
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
    #[error(transparent)]
    Worker(#[from] worker_process::WorkerError),
}

/// The daemon is not there (the commands' contract).
const EXIT_ABSENT: u8 = 69;

impl StartError {
    const fn exit_code(&self) -> u8 {
        match self {
            Self::Upgrade(UpgradeError::Client(ClientError::Absent { .. }) | UpgradeError::NotServing) => EXIT_ABSENT,
            Self::Upgrade(UpgradeError::Client(ClientError::Permission { .. })) => EXIT_PERMISSION,
            Self::NotRoot | Self::Place(PlaceError::Owner { .. }) | Self::Unreadable(_) => EXIT_PERMISSION,
            Self::Configuration(_)
            | Self::Facility(_)
            | Self::Place(PlaceError::Running { .. } | PlaceError::Socket { .. }) => EXIT_CONFIGURATION,
            Self::Worker(worker_process::WorkerError::Service(_)) => EXIT_CONFIGURATION,
            Self::Worker(worker_process::WorkerError::Line(_) | worker_process::WorkerError::HandOver(_)) => EXIT_USAGE,
            _ => EXIT_FAILURE,
        }
    }
}

/// The command line as a value, for manual pages.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    if arguments.helper {
        broker::serve(std::io::stdin().as_fd());
        return ExitCode::SUCCESS;
    }
    log::start();
    abort_on_panic();
    if arguments.starter {
        confinement::confine_starter(arguments.otherwise());
        let told = |status| confinement::explain("a helper", status);
        broker::serve_starts(std::io::stdin().as_fd(), "/proc/self/exe", &[BE_A_HELPER], told);
        return ExitCode::SUCCESS;
    }
    let outcome = match arguments.order {
        Some(Order::Upgrade) => load(&arguments).and_then(|config| Ok(upgrade::run(&config).map(|()| 0)?)),
        None if arguments.worker => work(&arguments),
        None if arguments.standby => stand_by(&arguments),
        None => keep(&arguments),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("acctguard-daemon: {}", chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

/// A dead thread would leave its container waiting; a dead process is followed by another.
fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}

fn handled_signals() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD].into_iter().collect()
}

fn work(arguments: &Arguments) -> Result<u8, StartError> {
    // they are for the keeper, which says what is to be done
    handled_signals().thread_block().map_err(StartError::Signals)?;
    name_process("acctguard-work");
    let config = load(arguments)?;
    worker_process::run(config, arguments.stored, arguments.otherwise())?;
    Ok(0)
}

/// It was started by a descriptor, whose number would be its name.
fn name_process(name: &str) {
    let name = std::ffi::CString::new(name).unwrap_or_default();
    // only `ps` and the like lose by it
    let _ = rustix::thread::set_name(&name);
}

fn signals() -> Result<SignalFd, StartError> {
    handled_signals().thread_block().map_err(StartError::Signals)?;
    SignalFd::with_flags(&handled_signals(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(StartError::Signals)
}

fn stand_by(arguments: &Arguments) -> Result<u8, StartError> {
    let signals = signals()?;
    name_process("acctguard-keep2");
    let config = load(arguments)?;
    let keeper = rustix::io::fcntl_dupfd_cloexec(std::io::stdin().as_fd(), 3)
        .map_err(|errno| StartError::Program(errno.into()))?;
    let start = standby::Start {
        installed: arguments.installed.clone().unwrap_or_default(),
        pid_file: config.pid_file(),
        configuration: config.file.clone().unwrap_or_default(),
    };
    confinement::confine_standby();
    let Some(keeper) = standby::sleep(keeper, start, signals)? else { return Ok(0) };
    Ok(end(&config, keeper.run()?))
}

fn keep(arguments: &Arguments) -> Result<u8, StartError> {
    let stored = Stored::take();
    let config = load(arguments)?;
    check(&config)?;
    if !rustix::process::geteuid().is_root() {
        return Err(StartError::NotRoot);
    }
    let signals = signals()?;
    raise_descriptor_limit();
    places::prepare_directory(&config.run_dir)?;
    places::prepare_directory(&config.state_dir)?;
    let locks = [places::lock(&config.run_dir)?, places::lock(&config.state_dir)?];
    let holdings = holdings(&config, stored, locks)?;
    let found = holdings.table.len();
    if found > 0 {
        tracing::info!("{found} listeners of the daemon before this one are taken over");
    }
    let manager = ServiceManager::from_environment();
    let wants_standby = config.standby.unwrap_or(!manager.is_there());
    let is_managed = manager.is_there();
    confinement::confine_keeper();
    let code = Keeper::new(holdings, manager, signals, wants_standby).run()?;
    // where the service manager holds them, they are for the next start
    Ok(if is_managed { code } else { end(&config, code) })
}

/// Removes what only a running daemon has.
fn end(config: &Config, code: u8) -> u8 {
    for socket in [config.listener_socket(), config.control_socket()] {
        let _ = std::fs::remove_file(socket);
    }
    code
}

fn holdings(config: &Config, stored: Stored, locks: [OwnedFd; 2]) -> Result<Holdings, StartError> {
    let (area, table) = match stored.area_and_table {
        Some(stored) => stored,
        None => (SharedArea::create(keeper::LISTENERS)?, Table::new(keeper::PLACES).map_err(StartError::Table)?),
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let program = rustix::fs::open("/proc/self/exe", flags, Mode::empty());
    Ok(Holdings {
        listener_socket: places::listen_again(&config.listener_socket(), stored.listener_socket)?,
        control_socket: places::listen_again(&config.control_socket(), stored.control_socket)?,
        area,
        table,
        program: program.map_err(|errno| StartError::Program(errno.into()))?,
        installed: std::env::current_exe().map_err(StartError::Program)?,
        configuration: places::snapshot(config)?,
        pid_file: config.pid_file(),
        locks,
    })
}

fn load(arguments: &Arguments) -> Result<Config, StartError> {
    Config::load(arguments.config.as_deref()).map_err(|error| {
        let denied = std::error::Error::source(&error)
            .and_then(|cause| cause.downcast_ref::<std::io::Error>())
            .is_some_and(|cause| cause.kind() == std::io::ErrorKind::PermissionDenied);
        if denied { StartError::Unreadable(error.diagnostic()) } else { StartError::Configuration(error.diagnostic()) }
    })
}

/// Refuses to start with a mistake in policy or sinks; everything else that is found is logged.
fn check(config: &Config) -> Result<(), StartError> {
    let checked = findings::check(config);
    let mistakes: Vec<String> =
        checked.findings.iter().filter(|finding| finding.is_error()).map(|finding| finding.diagnostic()).collect();
    if !mistakes.is_empty() {
        return Err(StartError::Configuration(mistakes.join("\n")));
    }
    for remark in &checked.findings {
        tracing::warn!("{remark}");
    }
    for sink in &config.sinks {
        shipper::sink_of(sink)?;
    }
    Ok(())
}

/// Every listener costs two descriptors here, one of them in the keeper.
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    if let Err(errno) = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!("cannot raise the limit of open files: {errno}");
    }
}

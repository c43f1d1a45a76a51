//! From the command line to a running keeper or worker. Always in the foreground, log on standard error.

use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use clap::Parser;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SfdFlags;
use nix::sys::signalfd::SignalFd;
use rustix::fs::FlockOperation;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::process::Resource;
use rustix::process::Rlimit;

use crate::config::Config;
use crate::config::findings;
use crate::daemon::confinement;
use crate::daemon::fd_keeper::Holdings;
use crate::daemon::fd_keeper::Keeper;
use crate::daemon::fd_keeper::KeeperError;
use crate::daemon::last_good::write_private;
use crate::daemon::log;
use crate::daemon::service_manager::ServiceManager;
use crate::daemon::shipper;
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
/// Listeners that can be served at one time.
const SLOTS: usize = 16_384;
/// How long a daemon that is ending may keep its successor waiting.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);

const EXIT_FAILURE: u8 = 1;
const EXIT_USAGE: u8 = 64;
const EXIT_PERMISSION: u8 = 77;
const EXIT_CONFIGURATION: u8 = 78;

/// Guards the account databases of running containers: answers their intercepted calls, records and ships what happens.
///
/// Runs in the foreground and logs to standard error; ACCTGUARD_LOG sets the level (error, warn, info, debug).
/// SIGHUP reads the policy again. SIGTERM stops it: containers that run then lose their supervisor.
#[derive(Debug, Parser)]
#[command(name = "acctguard-daemon", version)]
struct Arguments {
    /// Node configuration [default: $ACCTGUARD_CONFIG, else /etc/acctguard/config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Be a worker; used by the keeper only
    #[arg(long, hide = true)]
    worker: bool,
    /// Be a helper of the broker; used by what starts them only
    #[arg(long, hide = true)]
    helper: bool,
    /// Start helpers of the broker; used by the worker only
    #[arg(long, hide = true)]
    starter: bool,
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
    #[error("cannot use directory {}; {remedy}", path.display())]
    Directory {
        path: PathBuf,
        remedy: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("directory {} belongs to uid {uid}; it must belong to the daemon's user", path.display())]
    Owner { path: PathBuf, uid: u32 },
    #[error("another acctguard-daemon runs with directory {}; stop it, or give this one another run_dir and state_dir", path.display())]
    Running { path: PathBuf },
    #[error("cannot listen on {}; the path must be writable and shorter than 108 bytes", path.display())]
    Socket {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Area(#[from] SharedAreaError),
    #[error("cannot receive signals")]
    Signals(#[source] nix::Error),
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    #[error(transparent)]
    Worker(#[from] worker_process::WorkerError),
}

impl StartError {
    const fn exit_code(&self) -> u8 {
        match self {
            Self::NotRoot | Self::Owner { .. } | Self::Unreadable(_) => EXIT_PERMISSION,
            Self::Configuration(_) | Self::Facility(_) | Self::Running { .. } | Self::Socket { .. } => {
                EXIT_CONFIGURATION
            }
            Self::Worker(worker_process::WorkerError::Service(_)) => EXIT_CONFIGURATION,
            Self::Worker(worker_process::WorkerError::Line(_) | worker_process::WorkerError::HandOver(_)) => EXIT_USAGE,
            _ => EXIT_FAILURE,
        }
    }
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
        confinement::confine_starter();
        broker::serve_starts(std::io::stdin().as_fd(), "/proc/self/exe", &[BE_A_HELPER]);
        return ExitCode::SUCCESS;
    }
    let outcome = if arguments.worker { work(&arguments) } else { keep(&arguments) };
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
    let config = load(arguments)?;
    worker_process::run(config)?;
    Ok(0)
}

fn keep(arguments: &Arguments) -> Result<u8, StartError> {
    let config = load(arguments)?;
    check(&config)?;
    if !rustix::process::geteuid().is_root() {
        return Err(StartError::NotRoot);
    }
    handled_signals().thread_block().map_err(StartError::Signals)?;
    let signals = SignalFd::with_flags(&handled_signals(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(StartError::Signals)?;
    raise_descriptor_limit();
    prepare_directory(&config.run_dir)?;
    prepare_directory(&config.state_dir)?;
    let _locks = [lock(&config.run_dir)?, lock(&config.state_dir)?];
    let holdings = Holdings {
        listener_socket: listen(&config.listener_socket())?,
        control_socket: listen(&config.control_socket())?,
        area: SharedArea::create(SLOTS)?,
        configuration: snapshot(&config)?,
    };
    confinement::confine_keeper();
    let outcome = Keeper::new(holdings, ServiceManager::from_environment(), signals).run();
    for socket in [config.listener_socket(), config.control_socket()] {
        let _ = std::fs::remove_file(socket);
    }
    Ok(outcome?)
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

/// Makes `path` with mode 0700, or narrows what is there to it.
fn prepare_directory(path: &Path) -> Result<(), StartError> {
    let failed = |remedy| {
        let path = path.to_owned();
        move |source| StartError::Directory { path, remedy, source }
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("its parent must be a writable directory"))?;
    let metadata = path.symlink_metadata().map_err(failed("it must be readable"))?;
    if !metadata.is_dir() {
        return Err(failed("it must be a directory, not a link to one")(std::io::ErrorKind::NotADirectory.into()));
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(StartError::Owner { path: path.to_owned(), uid: metadata.uid() });
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!("directory {} was open to other users and is closed to them now", path.display());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
            .map_err(failed("its mode must be 0700"))?;
    }
    Ok(())
}

/// Holds for as long as the descriptor is open.
fn lock(directory: &Path) -> Result<OwnedFd, StartError> {
    let file = directory.join("daemon.lock");
    let failed = |errno: rustix::io::Errno| StartError::Directory {
        path: directory.to_owned(),
        remedy: "it must be writable and its file system must support flock(2)",
        source: errno.into(),
    };
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let descriptor = rustix::fs::open(&file, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(&descriptor, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(descriptor),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StartError::Running { path: directory.to_owned() }),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
}

/// The lock is held, so a socket that is there was left by a daemon that is gone.
fn listen(path: &Path) -> Result<UnixListener, StartError> {
    let failed = |source| StartError::Socket { path: path.to_owned(), source };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let socket = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(socket)
}

/// Workers start with the configuration that this daemon started with, whatever becomes of the file.
fn snapshot(config: &Config) -> Result<PathBuf, StartError> {
    let path = config.run_dir.join("config.toml");
    let text = match &config.file {
        Some(file) => std::fs::read(file),
        None => Ok(Vec::new()),
    };
    text.and_then(|text| write_private(&path, &text)).map_err(|source| StartError::Directory {
        path: config.run_dir.clone(),
        remedy: "a copy of the configuration must find room in it",
        source,
    })?;
    Ok(path)
}

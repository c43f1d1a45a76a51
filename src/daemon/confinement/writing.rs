//! Landlock for threads that write to our own directories and never look into a container: the store's and the sinks'.

use std::path::Path;
use std::path::PathBuf;

use landlock::ABI;
use landlock::Access;
use landlock::AccessFs;
use landlock::AccessNet;
use landlock::PathBeneath;
use landlock::PathFd;
use landlock::Ruleset;
use landlock::RulesetAttr;
use landlock::RulesetCreated;
use landlock::RulesetCreatedAttr;
use landlock::RulesetStatus;

use crate::config::Config;
use crate::config::SinkConfig;
use crate::config::SyslogAddress;
use crate::daemon::confinement::ConfinementError;
use crate::daemon::confinement::tell;

/// The newest that is handled: with the network (ABI 4) and commands to devices (ABI 5). Older kernels handle less.
const NEWEST: ABI = ABI::V5;

/// What a thread may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    directories: Vec<PathBuf>,
    /// Whether it connects by TCP.
    connects: bool,
}

impl Places {
    /// The daemon's own directories.
    #[must_use]
    pub fn of_store(config: &Config) -> Self {
        Self { directories: vec![config.state_dir.clone(), config.run_dir.clone()], connects: false }
    }

    /// The same, and where `sink` writes.
    #[must_use]
    pub fn of_sink(config: &Config, sink: &SinkConfig) -> Self {
        let connects =
            matches!(sink, SinkConfig::Syslog { address: SyslogAddress::Udp(_) | SyslogAddress::Tcp(_), .. });
        let store = Self::of_store(config);
        Self { directories: store.directories.into_iter().chain(paths_of(sink)).collect(), connects }
    }
}

/// The directory that `sink` writes to, if it writes to a file: its name may lead to another file tomorrow.
pub(super) fn paths_of(sink: &SinkConfig) -> Vec<PathBuf> {
    match sink {
        SinkConfig::JsonLines { path } if path.as_os_str() != "-" => {
            path.parent().map(Path::to_path_buf).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// Runs `act` in a thread that, with all threads that it makes, can change nothing but what lies in `places`. A directory that
/// is exchanged for another afterwards cannot be written to until the worker starts anew.
pub fn confined_to<T: Send>(places: &Places, act: impl FnOnce() -> T + Send) -> std::thread::Result<T> {
    std::thread::scope(|scope| {
        let confined = || {
            tell(restrict(places));
            act()
        };
        scope.spawn(confined).join()
    })
}

fn restrict(places: &Places) -> Result<(), ConfinementError> {
    let failed = ConfinementError::Landlock;
    let opened: Vec<PathFd> = places.directories.iter().filter_map(|path| PathFd::new(path).ok()).collect();
    // one that is not there yet could never be written to
    if opened.len() < places.directories.len() {
        return Ok(());
    }
    let handled = Ruleset::default().handle_access(AccessFs::from_write(NEWEST)).map_err(failed)?;
    let handled =
        if places.connects { handled } else { handled.handle_access(AccessNet::from_all(NEWEST)).map_err(failed)? };
    let mut ruleset = handled.create().map_err(failed)?;
    for directory in opened {
        ruleset = ruleset.add_rule(PathBeneath::new(directory, AccessFs::from_write(NEWEST))).map_err(failed)?;
    }
    let status = RulesetCreated::restrict_self(ruleset).map_err(failed)?;
    if status.ruleset == RulesetStatus::NotEnforced { Err(ConfinementError::NoLandlock) } else { Ok(()) }
}

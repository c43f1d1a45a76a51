//! The worker: the process that reads what containers and clients wrote.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use caps::Capability;

use crate::config::Config;
use crate::config::SinkConfig;
use crate::config::SyslogAddress;
use crate::daemon::confinement::WORKER;
use crate::daemon::confinement::calls::Otherwise;
use crate::daemon::confinement::calls::Whose;
use crate::daemon::confinement::keep_capabilities;
use crate::daemon::confinement::refuse_calls;
use crate::daemon::confinement::rule_out_dumps;
use crate::daemon::confinement::rule_out_writable_code;
use crate::daemon::confinement::tell;
use crate::daemon::confinement::writing;

/// The owner's permission to write (inode(7)).
const OWNER_WRITES: u32 = 0o200;

/// Confines the calling process, the worker, for good. After the starter of helpers is there, before any thread is. What the
/// kernel does not have is logged.
pub fn confine_worker(config: &Config, otherwise: Otherwise) {
    tell(rule_out_dumps());
    tell(rule_out_writable_code());
    tell(keep_capabilities(&capabilities(config)));
    tell(refuse_calls(Whose::Worker { internet: config.sinks.iter().any(needs_internet) }, otherwise));
}

/// [`WORKER`], and CAP_DAC_OVERRIDE when a sink writes where mode bits may keep root out: what belongs to others, or may not be written
/// by its owner.
fn capabilities(config: &Config) -> Vec<Capability> {
    let may_keep_out =
        |path: &PathBuf| path.metadata().is_ok_and(|found| found.uid() != 0 || found.mode() & OWNER_WRITES == 0);
    let foreign = config.sinks.iter().any(|sink| written_by(sink).iter().any(may_keep_out));
    WORKER.into_iter().chain(foreign.then_some(Capability::CAP_DAC_OVERRIDE)).collect()
}

/// The file or socket that `sink` opens, and the directory that it makes files in.
fn written_by(sink: &SinkConfig) -> Vec<PathBuf> {
    let itself = match sink {
        SinkConfig::JsonLines { path } | SinkConfig::Syslog { address: SyslogAddress::Unix(path), .. } => {
            Some(path.clone())
        }
        SinkConfig::Syslog { .. } => None,
    };
    writing::paths_of(sink).into_iter().chain(itself).collect()
}

fn needs_internet(sink: &SinkConfig) -> bool {
    matches!(sink, SinkConfig::Syslog { address: SyslogAddress::Udp(_) | SyslogAddress::Tcp(_), .. })
}

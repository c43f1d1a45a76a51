//! The worker: the process that reads what containers and clients wrote.

use caps::Capability;

use crate::config::Config;
use crate::config::SinkConfig;
use crate::config::SyslogAddress;
use crate::daemon::confinement::WORKER;
use crate::daemon::confinement::calls::Whose;
use crate::daemon::confinement::keep_capabilities;
use crate::daemon::confinement::refuse_calls;
use crate::daemon::confinement::rule_out_dumps;
use crate::daemon::confinement::rule_out_writable_code;
use crate::daemon::confinement::tell;
use crate::daemon::confinement::writing;

/// Confines the calling process, the worker, for good. After the starter of helpers is there, before any thread is. What the
/// kernel does not have is logged.
pub fn confine_worker(config: &Config) {
    tell(rule_out_dumps());
    tell(rule_out_writable_code());
    let capabilities = capabilities(config);
    tell(keep_capabilities(&capabilities, &capabilities));
    tell(refuse_calls(Whose::Worker { internet: config.sinks.iter().any(needs_internet) }));
}

/// [`WORKER`], and CAP_DAC_OVERRIDE when a sink writes where others than root are at home: mode bits may keep root out there.
fn capabilities(config: &Config) -> Vec<Capability> {
    use std::os::unix::fs::MetadataExt;
    let is_of_others = |path: &std::path::PathBuf| path.metadata().is_ok_and(|found| found.uid() != 0);
    let foreign = config.sinks.iter().any(|sink| writing::paths_of(sink).iter().any(is_of_others));
    WORKER.into_iter().chain(foreign.then_some(Capability::CAP_DAC_OVERRIDE)).collect()
}

fn needs_internet(sink: &SinkConfig) -> bool {
    matches!(sink, SinkConfig::Syslog { address: SyslogAddress::Udp(_) | SyslogAddress::Tcp(_), .. })
}

//! The node as events name it.

use crate::config::Config;
use crate::model::event::Host;

/// The node: its name and ids from the kernel, its cluster and labels from the configuration. What cannot be read is absent.
#[must_use]
pub fn host(config: &Config) -> Host {
    Host {
        name: line_of("/proc/sys/kernel/hostname").unwrap_or_default(),
        machine_id: line_of("/etc/machine-id"),
        boot_id: line_of("/proc/sys/kernel/random/boot_id"),
        kernel: line_of("/proc/sys/kernel/osrelease").unwrap_or_default(),
        cluster: config.cluster.clone(),
        labels: config.labels.clone(),
    }
}

/// The first line of a small file, when there is one and it is not empty.
fn line_of(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().next().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned)
}

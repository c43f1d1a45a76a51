//! The node's configuration and its policy files.
//!
//! Floor 1: uses `model`. Parses to a raw form, then builds a valid [`Config`]; unknown keys are errors, a file that others
//! can write is refused, and nothing falls back to defaults in silence: they hold only where no file was named and
//! [`file::DEFAULT_FILE`] does not exist.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;

pub mod file;
pub mod findings;
pub mod node;
pub mod policy_files;

pub use file::ConfigError;
pub use findings::check;

/// `[supervisor] when_absent`: what the shim does with a container while the daemon is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenAbsent {
    /// The container is not created.
    Refuse,
    /// It starts without interception and is recorded as unprotected, unless its policy says `onUnprotected: refuse`.
    StartUnprotected,
}

/// `[witness] kernel_audit`: what the daemon does where kernel auditing, by which Landlock tells what it refuses, is off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelAudit {
    /// It stays off, and what the seal refuses is not told: the host's auditing is not ours to change unasked.
    #[default]
    Leave,
    /// It is switched on, without any rule, and stays on. Where no audit daemon takes them, the kernel prints some of its records
    /// in its own log.
    SwitchOn,
}

/// A valid node configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// File it was read from; `None` for the defaults.
    pub file: Option<PathBuf>,
    /// Sockets and pid-lived state. Default `/run/acctguard`.
    pub run_dir: PathBuf,
    /// Event store and spool. Default `/var/lib/acctguard`.
    pub state_dir: PathBuf,
    /// Policy documents, `*.yaml` and `*.yml`. Default `/etc/acctguard/policy.d`.
    pub policy_dir: PathBuf,
    /// `[runtime] path`: the real runtime; `None`: found in PATH.
    pub runtime_path: Option<PathBuf>,
    /// `[runtime] paths`: real runtimes by the base name the shim was called by.
    pub runtime_paths: BTreeMap<String, PathBuf>,
    /// `[runtime] launcher`: the static `acctguard-launch`; `None`: beside the shim.
    pub launcher: Option<PathBuf>,
    /// `[node] cluster`.
    pub cluster: Option<String>,
    /// `[node] labels`.
    pub labels: BTreeMap<String, String>,
    /// `[supervisor] when_absent`; `None` leaves it to the policy's `onUnprotected` alone (audit records, enforce refuses).
    pub when_absent: Option<WhenAbsent>,
    /// `[daemon] standby`: whether a second keeper sleeps beside the first. Default: unless a service manager holds the descriptors.
    pub standby: Option<bool>,
    /// `[witness] kernel_audit`. Default `leave`.
    pub kernel_audit: KernelAudit,
    /// `[[sinks]]`.
    pub sinks: Vec<SinkConfig>,
    /// `[store] retention_days`. Default 30.
    pub retention_days: u32,
    /// `[store] max_mib`. Default 1024.
    pub store_max_mib: u64,
}

/// One `[[sinks]]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkConfig {
    /// `type = "json"`: JSON lines to a file (`path`), or to standard output (`path = "-"`).
    JsonLines {
        /// File, or `-`.
        path: PathBuf,
    },
    /// `type = "syslog"`: RFC 5424 to a Unix datagram socket (`address = "unix:/dev/log"`), `udp:HOST:PORT` or `tcp:HOST:PORT`.
    Syslog {
        /// Where to.
        address: SyslogAddress,
        /// Facility by name (`auth`, `authpriv`, `local0` …). Default `authpriv`.
        facility: String,
    },
}

/// Address of a syslog receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyslogAddress {
    /// Unix datagram socket.
    Unix(PathBuf),
    /// `HOST:PORT` by UDP.
    Udp(String),
    /// `HOST:PORT` by TCP.
    Tcp(String),
}

impl Config {
    /// Where the pid of the daemon stands: that of whoever is its keeper now.
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        self.run_dir.join("daemon.pid")
    }

    /// Where clients connect.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.run_dir.join("control.sock")
    }

    /// Where runtimes deliver seccomp listeners (`linux.seccomp.listenerPath`).
    #[must_use]
    pub fn listener_socket(&self) -> PathBuf {
        self.run_dir.join("listener.sock")
    }

    /// The event store.
    #[must_use]
    pub fn store_file(&self) -> PathBuf {
        self.state_dir.join("events.db")
    }

    /// Where records wait for a daemon that is away: one JSON event a file, `<event id>.json`, written by temp file, fsync, rename.
    #[must_use]
    pub fn spool_dir(&self) -> PathBuf {
        self.state_dir.join("spool")
    }
}

#[cfg(test)]
mod tests;

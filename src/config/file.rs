//! The configuration file: where it is, whether it can be trusted, what it says.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use crate::config::Config;
use crate::config::KernelAudit;
use crate::config::SinkConfig;
use crate::config::SyslogAddress;
use crate::config::WhenAbsent;
use crate::model::diagnostic::SourceError;

/// Where the configuration is when nobody says otherwise.
pub const DEFAULT_FILE: &str = "/etc/acctguard/config.toml";

/// Variable that names another file; passed over when the program runs with raised privileges.
pub const VARIABLE: &str = "ACCTGUARD_CONFIG";

/// Longest file read, configuration and policy alike.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Facilities of RFC 5424, table 1, by the names of syslog(3).
pub const FACILITIES: [&str; 20] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "local0",
    "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("read configuration {}: {reason}; {remedy}", file.display(), reason = source, remedy = remedy(source))]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not one that may be trusted, or not a file.
    #[error("configuration {}: {problem}", file.display())]
    Untrusted {
        /// Which.
        file: PathBuf,
        /// Why, and the remedy.
        problem: String,
    },
    /// The file says something that is not allowed.
    #[error("{0}")]
    Mistake(SourceError),
}

impl ConfigError {
    /// For people: with the line itself and a caret where there is one.
    #[must_use]
    pub fn diagnostic(&self) -> String {
        match self {
            Self::Mistake(error) => error.diagnostic(),
            other => other.to_string(),
        }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "create it or name another with --config",
        io::ErrorKind::PermissionDenied => "run as root, or let this user read it",
        _ => "check the path",
    }
}

/// Why the bytes of a file may not be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::config) enum ReadError {
    /// It could not be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It may not be trusted, or is no text file of a sensible size.
    #[error("{0}")]
    Untrusted(String),
}

/// The text of a file that only root and the user of this program can have written.
pub(in crate::config) fn read_trusted(path: &Path) -> Result<String, ReadError> {
    // a FIFO must not hold us up: O_NONBLOCK has no effect on regular files (open(2))
    let mut options = std::fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::custom_flags(options.read(true), nix::fcntl::OFlag::O_NONBLOCK.bits());
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(ReadError::Untrusted("is not a regular file; name a file".to_owned()));
    }
    trusted(&metadata)?;
    if metadata.len() > MAX_FILE_BYTES {
        let problem = format!("is {} bytes long; at most {MAX_FILE_BYTES} are read", metadata.len());
        return Err(ReadError::Untrusted(problem));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        ReadError::Untrusted(format!("is not UTF-8 text from byte {offset} on; save it as UTF-8"))
    })
}

/// Refuses what others than root and the user of this program can write.
pub(in crate::config) fn trusted(metadata: &std::fs::Metadata) -> Result<(), ReadError> {
    let user = nix::unistd::geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != user {
        let problem = format!("belongs to uid {}; chown it to root", metadata.uid());
        return Err(ReadError::Untrusted(problem));
    }
    if metadata.mode() & 0o022 != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(ReadError::Untrusted(format!("can be written by others (mode {mode:04o}); chmod go-w it")));
    }
    Ok(())
}

impl Config {
    /// Reads the configuration: `explicit`, else the file that [`VARIABLE`] names unless the program runs with raised
    /// privileges, else [`DEFAULT_FILE`]. Only when that last one does not exist, the defaults hold.
    ///
    /// # Errors
    /// [`ConfigError`]: the file cannot be read, can be written by others, or says something that is not allowed.
    pub fn load(explicit: Option<&Path>) -> Result<Self, ConfigError> {
        let named = explicit
            .map(Path::to_path_buf)
            .or_else(|| file_of_environment(std::env::var_os(VARIABLE), has_raised_privileges()));
        let (path, required) = match named {
            Some(path) => (path, true),
            None => (PathBuf::from(DEFAULT_FILE), false),
        };
        match read_trusted(&path) {
            Ok(text) => Self::parse(&path, &text),
            Err(ReadError::Io(error)) if !required && error.kind() == io::ErrorKind::NotFound => Ok(Self::defaults()),
            Err(ReadError::Io(source)) => Err(ConfigError::Read { file: path, source }),
            Err(ReadError::Untrusted(problem)) => Err(ConfigError::Untrusted { file: path, problem }),
        }
    }

    /// What holds without any file.
    #[must_use]
    pub fn defaults() -> Self {
        Self {
            file: None,
            run_dir: PathBuf::from("/run/acctguard"),
            state_dir: PathBuf::from("/var/lib/acctguard"),
            policy_dir: PathBuf::from("/etc/acctguard/policy.d"),
            runtime_path: None,
            runtime_paths: BTreeMap::new(),
            launcher: None,
            cluster: None,
            labels: BTreeMap::new(),
            when_absent: None,
            standby: None,
            kernel_audit: KernelAudit::default(),
            sinks: Vec::new(),
            retention_days: 30,
            store_max_mib: 1024,
        }
    }

    /// The configuration that `text`, the content of `file`, describes.
    ///
    /// # Errors
    /// [`ConfigError::Mistake`] with line, column and the line itself.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let source = Source { name: file.display().to_string(), text };
        source.config(file).map_err(ConfigError::Mistake)
    }
}

/// `ACCTGUARD_CONFIG`, unless the caller of this program could gain by setting it (ld.so(8), "secure-execution mode").
fn file_of_environment(value: Option<OsString>, raised: bool) -> Option<PathBuf> {
    value.filter(|value| !value.is_empty() && !raised).map(PathBuf::from)
}

/// Whether this program has more rights than its caller: real and effective ids differ, or the kernel says so in AT_SECURE
/// (getauxval(3)), which file capabilities set too. When it cannot be told, it counts as raised.
fn has_raised_privileges() -> bool {
    const AT_SECURE: usize = 23;
    let ids_differ = nix::unistd::getuid() != nix::unistd::geteuid() || nix::unistd::getgid() != nix::unistd::getegid();
    let Ok(vector) = std::fs::read("/proc/self/auxv") else { return true };
    let mut words = vector.chunks_exact(size_of::<usize>()).map(|word| {
        let mut bytes = [0; size_of::<usize>()];
        bytes.copy_from_slice(word);
        usize::from_ne_bytes(bytes)
    });
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        if key == AT_SECURE {
            return ids_differ || value != 0;
        }
    }
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    run_dir: Option<Spanned<PathBuf>>,
    state_dir: Option<Spanned<PathBuf>>,
    policy_dir: Option<Spanned<PathBuf>>,
    #[serde(default)]
    runtime: RawRuntime,
    #[serde(default)]
    node: RawNode,
    #[serde(default)]
    supervisor: RawSupervisor,
    #[serde(default)]
    daemon: RawDaemon,
    #[serde(default)]
    witness: RawWitness,
    #[serde(default)]
    store: RawStore,
    #[serde(default)]
    sinks: Vec<Spanned<RawSink>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawRuntime {
    path: Option<Spanned<PathBuf>>,
    #[serde(default)]
    paths: BTreeMap<String, Spanned<PathBuf>>,
    launcher: Option<Spanned<PathBuf>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawNode {
    cluster: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawSupervisor {
    when_absent: Option<WhenAbsent>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawDaemon {
    standby: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawWitness {
    #[serde(default)]
    kernel_audit: KernelAudit,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawStore {
    retention_days: Option<Spanned<u32>>,
    max_mib: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSink {
    r#type: Spanned<String>,
    path: Option<Spanned<PathBuf>>,
    address: Option<Spanned<String>>,
    facility: Option<Spanned<String>>,
}

/// The text being read, for the place of a mistake.
struct Source<'a> {
    name: String,
    text: &'a str,
}

impl Source<'_> {
    fn error<T>(&self, at: &Spanned<T>, message: String) -> SourceError {
        SourceError::at_offset(&self.name, self.text, at.span().start, message)
    }

    fn config(&self, file: &Path) -> Result<Config, SourceError> {
        let raw: RawConfig = toml::from_str(self.text).map_err(|error| {
            let message = error.message().replace('\n', " ");
            match error.span() {
                Some(span) => SourceError::at_offset(&self.name, self.text, span.start, message),
                None => SourceError::of_file(&self.name, message),
            }
        })?;
        let defaults = Config::defaults();
        let mut runtime_paths = BTreeMap::new();
        for (name, path) in raw.runtime.paths {
            if name.is_empty() || name.contains('/') {
                let message = format!("runtime name {name:?} is not a base name; write it as runc or crun");
                return Err(self.error(&path, message));
            }
            runtime_paths.insert(name, self.absolute("runtime.paths", path)?);
        }
        Ok(Config {
            file: Some(file.to_path_buf()),
            run_dir: self.directory("run_dir", raw.run_dir, defaults.run_dir)?,
            state_dir: self.directory("state_dir", raw.state_dir, defaults.state_dir)?,
            policy_dir: self.directory("policy_dir", raw.policy_dir, defaults.policy_dir)?,
            runtime_path: raw.runtime.path.map(|path| self.absolute("runtime.path", path)).transpose()?,
            runtime_paths,
            launcher: raw.runtime.launcher.map(|path| self.absolute("runtime.launcher", path)).transpose()?,
            cluster: raw.node.cluster,
            labels: raw.node.labels,
            when_absent: raw.supervisor.when_absent,
            standby: raw.daemon.standby,
            kernel_audit: raw.witness.kernel_audit,
            sinks: raw.sinks.into_iter().map(|sink| self.sink(sink)).collect::<Result<_, _>>()?,
            retention_days: self.positive("store.retention_days", raw.store.retention_days, defaults.retention_days)?,
            store_max_mib: self.positive("store.max_mib", raw.store.max_mib, defaults.store_max_mib)?,
        })
    }

    fn directory(&self, key: &str, path: Option<Spanned<PathBuf>>, default: PathBuf) -> Result<PathBuf, SourceError> {
        path.map_or(Ok(default), |path| self.absolute(key, path))
    }

    fn absolute(&self, key: &str, path: Spanned<PathBuf>) -> Result<PathBuf, SourceError> {
        let parent = path.get_ref().components().any(|part| part == std::path::Component::ParentDir);
        if path.get_ref().is_absolute() && !parent {
            return Ok(path.into_inner());
        }
        let problem = if parent { "has '..' in it" } else { "is not absolute" };
        let message = format!("{key} {:?} {problem}; write the whole path from /", path.get_ref());
        Err(self.error(&path, message))
    }

    fn positive<T: Copy + Default + PartialEq>(
        &self,
        key: &str,
        value: Option<Spanned<T>>,
        default: T,
    ) -> Result<T, SourceError> {
        match value {
            None => Ok(default),
            Some(value) if *value.get_ref() == T::default() => {
                Err(self.error(&value, format!("{key} is 0 and would keep nothing; write 1 or more")))
            }
            Some(value) => Ok(value.into_inner()),
        }
    }

    fn sink(&self, sink: Spanned<RawSink>) -> Result<SinkConfig, SourceError> {
        let at_start = Spanned::new(sink.span(), ());
        let RawSink { r#type, path, address, facility } = sink.into_inner();
        match r#type.get_ref().as_str() {
            "json" => {
                if let Some(key) = address.as_ref().or(facility.as_ref()) {
                    return Err(self.error(key, "a json sink has a path and nothing else; remove this key".to_owned()));
                }
                let Some(path) = path else {
                    let message = "a json sink needs a path; write a file, or - for standard output".to_owned();
                    return Err(self.error(&at_start, message));
                };
                if path.get_ref() == Path::new("-") {
                    return Ok(SinkConfig::JsonLines { path: path.into_inner() });
                }
                Ok(SinkConfig::JsonLines { path: self.absolute("path", path)? })
            }
            "syslog" => {
                if let Some(path) = path {
                    let message = "a syslog sink has no path; write address = \"unix:/dev/log\"".to_owned();
                    return Err(self.error(&path, message));
                }
                let address = match address {
                    Some(address) => self.syslog_address(&address)?,
                    None => SyslogAddress::Unix(PathBuf::from("/dev/log")),
                };
                let facility = match facility {
                    Some(facility) => self.facility(facility)?,
                    None => "authpriv".to_owned(),
                };
                Ok(SinkConfig::Syslog { address, facility })
            }
            other => Err(self.error(&r#type, format!("sink type {other:?} is not known; expected json or syslog"))),
        }
    }

    fn syslog_address(&self, address: &Spanned<String>) -> Result<SyslogAddress, SourceError> {
        let text = address.get_ref();
        let network = |rest: &str| {
            let valid = rest
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0));
            valid.then(|| rest.to_owned())
        };
        let parsed = match text.split_once(':') {
            Some(("unix", path)) if path.starts_with('/') => Some(SyslogAddress::Unix(PathBuf::from(path))),
            Some(("udp", rest)) => network(rest).map(SyslogAddress::Udp),
            Some(("tcp", rest)) => network(rest).map(SyslogAddress::Tcp),
            _ => None,
        };
        parsed.ok_or_else(|| {
            let message =
                format!("syslog address {text:?} is not valid; write unix:/dev/log, udp:HOST:PORT or tcp:HOST:PORT");
            self.error(address, message)
        })
    }

    fn facility(&self, facility: Spanned<String>) -> Result<String, SourceError> {
        if FACILITIES.contains(&facility.get_ref().as_str()) {
            return Ok(facility.into_inner());
        }
        let message =
            format!("facility {:?} is not known; expected one of {}", facility.get_ref(), FACILITIES.join(" "));
        Err(self.error(&facility, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_is_passed_over_with_raised_privileges() {
        let value = || Some(OsString::from("/x"));
        assert_eq!(file_of_environment(value(), false), Some(PathBuf::from("/x")));
        assert_eq!(file_of_environment(value(), true), None);
        assert_eq!(file_of_environment(Some(OsString::new()), false), None);
        assert_eq!(file_of_environment(None, false), None);
        assert!(!has_raised_privileges());
    }
}

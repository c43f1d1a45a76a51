//! Whether the daemon is there, is of our version, and knows of its containers what every event should tell.

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::cli::doctor::Check;
use crate::cli::doctor::unreadable;
use crate::config::Config;
use crate::control::ContainerStatus;
use crate::control::Request;
use crate::control::Response;
use crate::control::client::Client;
use crate::control::client::ClientError;
use crate::model::diagnostic::chain;

/// Sockets, version, and gaps in what engines tell.
pub fn checks(config: &Config) -> Vec<Check> {
    let mut checks = vec![socket(&config.control_socket()), socket(&config.listener_socket())];
    let client = match Client::connect(config) {
        Ok(client) => client,
        Err(error) => {
            checks.push(unreachable(&error));
            return checks;
        }
    };
    match client.call(&Request::Ping) {
        Ok(Response::Pong { version, pid }) => checks.push(answered(&version, pid)),
        Ok(_) => checks.push(unreachable(&ClientError::Unexpected { socket: config.control_socket() })),
        Err(error) => checks.push(unreachable(&error)),
    }
    if let Ok(Response::Containers { containers }) = client.call(&Request::Containers) {
        checks.extend(gaps(&containers));
    }
    checks
}

fn answered(version: &str, pid: u32) -> Check {
    let own = env!("CARGO_PKG_VERSION");
    if version == own {
        return Check::fine("daemon", format!("version {version}, pid {pid}"));
    }
    let detail = format!("version {version}, pid {pid}, while this command is {own}");
    Check::note("daemon", detail, "restart acctguard-daemon after an upgrade")
}

fn unreachable(error: &ClientError) -> Check {
    match error {
        ClientError::Absent { socket } => {
            let detail = format!("nobody listens on {}", socket.display());
            Check::missing("daemon", detail, "start acctguard-daemon with this configuration")
        }
        ClientError::Permission { socket } => {
            let detail = format!("no permission to connect to {}", socket.display());
            Check::missing("daemon", detail, "run this command as root")
        }
        other => Check::missing("daemon", chain(other), "look at the daemon's log, then restart it"),
    }
}

fn socket(path: &Path) -> Check {
    let what = format!("socket {}", path.display());
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            Check::missing(&what, "is no socket", "remove it and restart acctguard-daemon")
        }
        Ok(found) => {
            let told = format!("owner {}, mode {:04o}", found.uid(), found.mode() & 0o7777);
            let own = found.uid() == 0 || found.uid() == rustix::process::geteuid().as_raw();
            if own && found.mode() & 0o007 == 0 {
                Check::fine(&what, told)
            } else {
                Check::missing(&what, told, "must be root's and closed to others; restart acctguard-daemon")
            }
        }
        Err(error) => Check::missing(&what, unreadable(&error), "start acctguard-daemon"),
    }
}

/// What engines did not tell of the containers that are there now, one line for each engine and field.
fn gaps(containers: &[ContainerStatus]) -> Vec<Check> {
    let mut missing: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for container in containers.iter().map(|status| &status.workload.container) {
        let fields = [("name", container.name.is_none()), ("image", container.image.is_none())];
        for (field, _) in fields.iter().filter(|(_, absent)| *absent) {
            *missing.entry((container.engine.as_str(), field)).or_default() += 1;
        }
    }
    missing
        .into_iter()
        .map(|((engine, field), count)| {
            let who = if engine == "none" { "who started them by hand".to_owned() } else { engine.to_owned() };
            let detail = format!("{who} does not tell the {field} of {count} containers");
            Check::note("events", detail, "match such containers by what is known: acctguard containers --json")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Standing;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    #[test]
    fn sockets_must_be_sockets_of_root_closed_to_others() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("s");
        assert_eq!(socket(&path).standing, Standing::Missing);
        let _listener = UnixListener::bind(&path).expect("socket");
        for (mode, expected) in [(0o600, Standing::Fine), (0o660, Standing::Fine), (0o666, Standing::Missing)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode");
            assert_eq!(socket(&path).standing, expected, "{mode:o}");
        }
        let file = folder.path().join("f");
        std::fs::write(&file, "").expect("file");
        assert_eq!(socket(&file).standing, Standing::Missing);
    }

    #[test]
    fn another_version_is_a_note() {
        assert_eq!(answered(env!("CARGO_PKG_VERSION"), 1).standing, Standing::Fine);
        assert_eq!(answered("0.0.0", 1).standing, Standing::Note);
    }
}

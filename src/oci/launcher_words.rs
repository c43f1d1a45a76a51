//! What the shim, the static launcher and the daemon say to one another: the launcher's options, the flags by which its listener is
//! told from others, and the messages on its line. The launcher is compiled of this, too, without std.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::string::ToString;

use serde_json::json;

/// Stands in every launcher that understands the options below; to be changed with them. While a package is being replaced the launcher
/// beside a shim may be another version's, and one that does not understand its options would start nothing.
pub const OPTIONS: &str = "options of acctguard-launch, version 3";

/// The options, each with what its value follows.
pub const OWN_DESCRIPTOR: &str = "--own-descriptor=";
/// A database that is sealed; once for each.
pub const SEAL: &str = "--seal=";
/// In place of [`SEAL`].
pub const NO_SEAL: &str = "--no-seal";
/// A capability that is lent, and the sets.
pub const GIVE_BACK: &str = "--give-back=";
/// Descriptor of a connection to the daemon's listener socket.
pub const LINE: &str = "--line=";
/// Descriptor of the filter's instructions.
pub const FILTER: &str = "--filter=";
/// Beside [`LINE`]: there is no other listener, so that nothing may be started without this one.
pub const MUST_LISTEN: &str = "--must-listen";
/// The container's id.
pub const CONTAINER: &str = "--container=";
/// Id of the recorded `container.exec` event, for the process of an exec session.
pub const EXEC: &str = "--exec=";

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`, `SPEC_ALLOW` and `WAIT_KILLABLE_RECV` (linux/seccomp.h): how the launcher makes its listener.
/// `SPEC_ALLOW`: whether speculation is left alone is for the workload's own profile to say, and its filter has done so.
pub const FLAGS: u64 = NEW_LISTENER | 1 << 2 | 1 << 5;
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
pub const NEW_LISTENER: u64 = 1 << 3;

/// The name under which the listener's descriptor is sent (config-linux.md, `SeccompFdName`).
pub const SECCOMP_FD_NAME: &str = "seccompFd";

/// Of the specification that the launcher's messages follow.
const OCI_VERSION: &str = "1.0.2";
/// Metadata of the launcher's own listener.
const OF_LAUNCHER: &str = "acctguard-launch/1";
/// The same for an exec session; the id of its event follows.
pub const OF_EXEC: &str = "acctguard-launch/1 exec ";
/// Begins the metadata of a message that brings no listener.
pub const DECLINED: &str = "no listener: ";

/// What the launcher of container `id`, or of its exec session of which `exec` is the recorded event, sends with its own listener. Pids
/// are for the daemon to know: in the container's pid namespace they are others.
#[must_use]
pub fn of_launcher(id: &str, exec: Option<&str>) -> String {
    let metadata = exec.map_or_else(|| OF_LAUNCHER.to_owned(), |event| format!("{OF_EXEC}{event}"));
    launcher_message(id, &[SECCOMP_FD_NAME], &metadata)
}

/// What the launcher of container `id` sends when no listener of its own comes, and why.
#[must_use]
pub fn declined(id: &str, reason: &str) -> String {
    launcher_message(id, &[], &format!("{DECLINED}{reason}"))
}

fn launcher_message(id: &str, descriptors: &[&str], metadata: &str) -> String {
    let state =
        json!({"ociVersion": OCI_VERSION, "id": id, "status": "created", "pid": 0, "bundle": "/", "annotations": {}});
    json!({"ociVersion": OCI_VERSION, "fds": descriptors, "pid": 0, "metadata": metadata, "state": state}).to_string()
}

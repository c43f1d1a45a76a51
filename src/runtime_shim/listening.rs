//! With what the launcher makes a listener of its own, where the runtime cannot have calls wait killable
//! ([`crate::oci::launcher_listener`]): a connection to the daemon's listener socket, and the filter.

use std::fs::File;
use std::io::Read;
use std::io::Seek;
use std::os::fd::OwnedFd;

use rustix::fs::MemfdFlags;
use serde_json::Value;

use crate::control::client;
use crate::kernel::sealed_memory;
use crate::kernel::sealed_memory::Purpose;
use crate::model::diagnostic::chain;
use crate::model::policy::ground::Standing;
use crate::oci::launcher_calls;
use crate::oci::launcher_edit;
use crate::oci::launcher_listener;
use crate::oci::seccomp_closed;
use crate::oci::seccomp_closed::UnknownCalls;
use crate::oci::seccomp_merge;
use crate::oci::seccomp_merge::Listener;
use crate::oci::seccomp_merge::Merge;
use crate::oci::seccomp_profile::Profile;
use crate::oci::seccomp_program;
use crate::oci::seccomp_program::Installer;
use crate::oci::spec_edit;
use crate::runtime_shim::Call;
use crate::runtime_shim::signals;
use crate::runtime_shim::signals::Cannot;

/// What is handed to the launcher.
#[derive(Debug)]
pub struct Listening {
    /// The connection; the daemon holds its other end from now on.
    pub line: OwnedFd,
    /// The filter's instructions in sealed memory.
    pub filter: OwnedFd,
}

/// Why calls cannot wait killable, where `why` keeps the launcher from having them so.
#[must_use]
pub fn none(cannot: &Cannot, why: &str) -> String {
    format!("{}; and the launcher makes no listener of its own: {why}", cannot.reason)
}

/// A connection for the launcher of a container of `own_spec`, whose runtime cannot have calls wait killable.
///
/// # Errors
/// Why the launcher is to make no listener, in one line.
pub fn connect(call: &Call, cannot: &Cannot, own_spec: &Value) -> Result<OwnedFd, String> {
    let no = |why: &str| Err(none(cannot, why));
    let facts = launcher_edit::facts(own_spec, own_spec.get("process").unwrap_or(&Value::Null));
    // whoever takes hold of the launcher while it has given up the one listener could make itself the other
    if !facts.own_pid_namespace || facts.may_trace {
        return no("processes of other containers could take hold of it");
    }
    if let Some(refused) = launcher_calls::refused_to_listen(own_spec) {
        return no(&format!("the workload's own seccomp profile refuses {refused}"));
    }
    match (cannot.libseccomp, seccomp_program::library_version()) {
        (Some(theirs), Some(ours)) if ours >= theirs => {}
        (Some(_), _) => return no("the runtime's libseccomp is newer than acctguard's, and may know more calls"),
        (None, _) => return no("the runtime does not tell the version of its libseccomp"),
    }
    let connected = client::open(&call.config.listener_socket());
    connected.map(OwnedFd::from).or_else(|errno| no(&format!("the daemon cannot be reached ({errno})")))
}

/// The same for a sealed exec session in a container of the edited `spec`, whose runtime's listener gives way; `None` where the
/// runtime's is to stay.
pub fn of_exec(call: &Call, spec: &Value, standing: &Standing) -> Option<Listening> {
    let metadata = spec.pointer("/linux/seccomp/listenerMetadata").and_then(Value::as_str);
    // processes of the container can take hold of a launcher that has no more capabilities than they (ptrace(2), "Ptrace access
    // mode checking")
    if !standing.lend || metadata != Some(launcher_listener::METADATA) {
        return None;
    }
    let line = connect(call, &signals::wait_killable(call).err()?, &launcher_edit::own(spec)).ok()?;
    Some(Listening { line, filter: filter(spec).ok()? })
}

/// The filter of a process that has no other: that of a workload without a seccomp profile.
///
/// # Errors
/// One line.
pub fn filter_alone(call: &Call, unknown_calls: UnknownCalls) -> Result<OwnedFd, String> {
    let path = call.config.listener_socket();
    let listener = Listener { path: &path.to_string_lossy(), metadata: launcher_listener::METADATA };
    let merge = match unknown_calls {
        UnknownCalls::Refused => seccomp_closed::merge,
        UnknownCalls::AsProfile => seccomp_merge::merge,
    };
    match merge(None, listener).map_err(|error| error.to_string())? {
        Merge::Merged(merged) => {
            let profile = Profile::parse(&merged.section).map_err(|error| error.to_string())?;
            compiled(&profile, Installer::LauncherAlone)
        }
        other => Err(format!("no filter comes of no profile: {other:?}")),
    }
}

/// The filter that the launcher stacks on that of the edited `spec`.
///
/// # Errors
/// One line.
pub fn filter(spec: &Value) -> Result<OwnedFd, String> {
    let profile = Profile::parse(&spec_edit::seccomp_as_specified(spec)).map_err(|error| error.to_string())?;
    compiled(&launcher_listener::notifying(&profile), Installer::Launcher)
}

/// A profile's instructions in sealed memory.
fn compiled(profile: &Profile, installer: Installer) -> Result<OwnedFd, String> {
    let failed = |error: &dyn std::fmt::Display| format!("the launcher's filter cannot be made: {error}");
    let memory = rustix::fs::memfd_create("acctguard-filter", MemfdFlags::CLOEXEC).map_err(|errno| failed(&errno))?;
    let mut memory = File::from(memory);
    seccomp_program::write(profile, installer, &memory).map_err(|error| failed(&chain(&error)))?;
    let mut program = Vec::new();
    memory.rewind().and_then(|()| memory.read_to_end(&mut program)).map_err(|error| failed(&error))?;
    sealed_memory::make("acctguard-filter", &program, Purpose::Text).map_err(|error| failed(&chain(&error)))
}

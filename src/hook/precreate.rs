//! The precreate stage of hooks.d engines (podman): the shim's edit, from standard input to standard output.
//!
//! The engine hands over nothing but the `config.json`, so the container's id is taken from its cgroup and the bundle is
//! unknown: a policy that matches on what only the bundle tells may not match here. Interception is therefore left out only
//! when the policy that does match is `off`; the createRuntime hook and the daemon decide by the full identity.

use std::io;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Value;

use crate::config::Config;
use crate::config::WhenAbsent;
use crate::control::Request;
use crate::control::client::Client;
use crate::hook::HookError;
use crate::hook::deadline;
use crate::hook::record;
use crate::hook::subject;
use crate::model::diagnostic::chain;
use crate::model::event::Event;
use crate::model::event::Kind;
use crate::model::event::ProtectionChange;
use crate::model::event::Severity;
use crate::model::policy::Applied;
use crate::model::policy::Mode;
use crate::model::policy::OnUnprotected;
use crate::model::workload::ContainerId;
use crate::model::workload::Workload;
use crate::oci::bundle::MAX_CONFIG_BYTES;
use crate::oci::identity;
use crate::oci::identity::Known;
use crate::oci::seccomp_closed::UnknownCalls;
use crate::oci::seccomp_merge::Listener;
use crate::oci::spec_edit;
use crate::oci::spec_edit::Edit;
use crate::oci::spec_edit::Interception;
use crate::oci::spec_edit::Reader;
use crate::oci::spec_edit::Signals;

/// Id of a container whose cgroup does not tell it.
const UNKNOWN_ID: &str = "unknown";

/// Edits the `config.json` on `input` and writes it to `output`; as it came when policy lets the container start without.
///
/// # Errors
/// [`HookError`]: the engine must not go on.
pub fn run(config: &Config, input: impl Read, mut output: impl Write) -> Result<(), HookError> {
    deadline::step("reading config.json");
    let mut bytes = Vec::new();
    input.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes).map_err(HookError::Input)?;
    if bytes.len() as u64 > MAX_CONFIG_BYTES {
        return Err(HookError::Input(io::Error::new(io::ErrorKind::FileTooLarge, "more than any runtime takes")));
    }
    let spec: Value = serde_json::from_slice(&bytes).map_err(|error| HookError::Input(error.into()))?;
    deadline::step("reading the policies");
    let known = Known { cluster: config.cluster.as_deref(), ..Known::default() };
    let workload = container_id(&spec).map(|id| identity::workload(&spec, &bundle_guess(&spec), &id, &known));
    let edited = match workload {
        Some(workload) => edited(config, &spec, &workload)?,
        None => None,
    };
    let bytes = match edited {
        Some(spec) => serde_json::to_vec(&spec).map_err(|error| HookError::Output(error.into()))?,
        None => bytes,
    };
    deadline::step("writing config.json");
    output.write_all(&bytes).and_then(|()| output.flush()).map_err(HookError::Output)
}

/// The edited document; `None` when the input is to be passed through.
fn edited(config: &Config, spec: &Value, workload: &Workload) -> Result<Option<Value>, HookError> {
    let (applied, problem) = subject::policy(config, workload);
    deadline::step("asking for the daemon");
    let daemon =
        Client::connect(config).and_then(|client| client.call(&Request::Ping)).err().map(|error| chain(&error));
    let unprotected = daemon.clone().filter(|_| applied.mode != Mode::Off);
    if let Some(reason) = &unprotected {
        allow_unprotected(config, workload, &applied, reason, true, problem.as_deref())?;
    }
    let interception = match (&unprotected, applied.mode) {
        (_, Mode::Off) => Interception::Off,
        (Some(reason), _) => Interception::Unprotected { reason },
        (None, _) => Interception::Install,
    };
    // By policies that cannot be read, the daemon may still enforce.
    let unknown_calls = problem.as_ref().map_or(UnknownCalls::under(applied.mode), |_| UnknownCalls::Refused);
    match edit(config, spec, interception, unknown_calls) {
        Ok(spec) => Ok(Some(spec)),
        Err(reason) => {
            allow_unprotected(config, workload, &applied, &reason, false, problem.as_deref())?;
            note(config, workload, &applied, &reason);
            // without interception the hooks can still go in, unless it is the document that is broken
            Ok(edit(config, spec, Interception::Unprotected { reason: &reason }, unknown_calls).ok())
        }
    }
}

fn edit(
    config: &Config,
    spec: &Value,
    interception: Interception<'_>,
    unknown_calls: UnknownCalls,
) -> Result<Value, String> {
    let hook_program =
        std::env::current_exe().map_err(|error| format!("cannot tell where acctguard-hook is: {error}"))?;
    let listener = config.listener_socket();
    let path = listener.to_str().ok_or_else(|| format!("listener path {} is not UTF-8", listener.display()))?;
    let edit = Edit {
        hook_program: &hook_program,
        config_file: config.file.as_deref(),
        listener: Listener { path, metadata: "acctguard/1" },
        interception,
        unknown_calls,
        // which runtime will read the document is the engine's to know
        signals: Signals::Cancel { reason: "the precreate hook does not know the runtime; acctguard-runtime does" },
        placement: None,
        reader: Reader::AsSpecified,
    };
    spec_edit::edit(spec, &edit).map(|edited| edited.spec).map_err(|error| chain(&error))
}

/// Whether a container may start without interception for `reason`.
fn allow_unprotected(
    config: &Config,
    workload: &Workload,
    applied: &Applied,
    reason: &str,
    daemon_absent: bool,
    problem: Option<&str>,
) -> Result<(), HookError> {
    let by_policy = applied.mode != Mode::Off && applied.on_unprotected == OnUnprotected::Refuse;
    let by_node = daemon_absent && config.when_absent == Some(WhenAbsent::Refuse);
    let (true, why) =
        (by_policy || by_node, problem.unwrap_or(if by_policy { "onUnprotected: refuse" } else { "when_absent" }))
    else {
        return Ok(());
    };
    note(config, workload, applied, &format!("creation refused: {reason}"));
    let reason = format!("{reason}; policy {} forbids it without protection ({why})", applied.name);
    Err(HookError::Refused { what: format!("container {}", workload.container.id), reason })
}

fn note(config: &Config, workload: &Workload, applied: &Applied, reason: &str) {
    let event = Event {
        container: Some(workload.container.clone()),
        policy: Some(applied.reference("onUnprotected")),
        protection: Some(ProtectionChange {
            what: "interception".to_owned(),
            reason: reason.to_owned(),
            remedy: Some("run acctguard doctor".to_owned()),
        }),
        ..subject::event(config, Kind::ProtectionDegraded, Severity::High, subject::now())
    };
    if let Err(error) = record::record(config, &Request::Record(Box::new(event.clone())), &event) {
        eprintln!("acctguard-hook: {reason}; and that could not be recorded: {}", chain(&error));
    }
}

/// The id that podman puts last into the cgroup: `/libpod_parent/libpod-<id>`, or `machine.slice:libpod:<id>` with systemd.
fn container_id(spec: &Value) -> Option<ContainerId> {
    let cgroup = spec.pointer("/linux/cgroupsPath").and_then(Value::as_str).unwrap_or_default();
    let last = cgroup.rsplit(['/', ':']).next().unwrap_or_default();
    let id = last.strip_prefix("libpod-").unwrap_or(last);
    ContainerId::new(id).or_else(|_| ContainerId::new(UNKNOWN_ID)).ok()
}

/// Where podman keeps what it mounts for the container: beside the bundle in all that matters to [`identity`].
fn bundle_guess(spec: &Value) -> PathBuf {
    let mounts = spec.pointer("/mounts").and_then(Value::as_array);
    let hostname = mounts.into_iter().flatten().find(|mount| mount["destination"] == "/etc/hostname");
    let source = hostname.and_then(|mount| mount["source"].as_str()).map(Path::new);
    source.and_then(Path::parent).unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_id_is_the_end_of_the_cgroup() {
        for (cgroup, expected) in [
            ("/libpod_parent/libpod-29cbf2", "29cbf2"),
            ("machine.slice:libpod:29cbf2", "29cbf2"),
            ("/a/b/c1", "c1"),
            ("", UNKNOWN_ID),
            ("/bad/\u{1b}", UNKNOWN_ID),
        ] {
            let id = container_id(&json!({"linux": {"cgroupsPath": cgroup}})).expect("always an id");
            assert_eq!(id.as_str(), expected, "{cgroup}");
        }
    }
}

//! `exec`: who enters which container and with what, told to the daemon before the real runtime starts.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value;
use uuid::Uuid;

use crate::control::ExecRegistration;
use crate::control::Request;
use crate::control::client::Client;
use crate::kernel::process::Facts;
use crate::model::event::Container;
use crate::model::event::Kind;
use crate::model::event::ProtectionChange;
use crate::model::event::Session;
use crate::model::event::Severity;
use crate::model::policy::ground::Standing;
use crate::model::redact;
use crate::model::workload::ContainerId;
use crate::oci::bundle::Bundle;
use crate::oci::hook_state;
use crate::oci::hook_state::State;
use crate::oci::identity;
use crate::oci::spec_edit;
use crate::runtime_shim::Call;
use crate::runtime_shim::ShimError;
use crate::runtime_shim::exec_process;
use crate::runtime_shim::exec_process::Plan;
use crate::runtime_shim::exec_process::Unseen;
use crate::runtime_shim::handover::Handover;
use crate::runtime_shim::record;
use crate::supervise::ancestry;

/// Registers an exec session, and says and records where nothing sees it. A container that the real runtime does not know is the real runtime's to report.
///
/// # Errors
/// [`ShimError::ExecWithoutDaemon`] where the container's calls would fail without the daemon; [`ShimError::ExecUnseen`] where
/// nothing would intercept them and policy refuses that.
pub fn register(call: &Call) -> Result<Handover, ShimError> {
    let Some(id) = call.line.id.as_ref().and_then(|id| id.to_str()).and_then(|id| ContainerId::new(id).ok()) else {
        return Ok(Handover::unchanged(call));
    };
    let Some(state) = state(call, &id) else { return Ok(Handover::unchanged(call)) };
    let pid = std::process::id();
    let start_time_ticks = Facts::read(pid).map_err(ShimError::OwnProcess)?.start_time_ticks;
    let bundle = Bundle::open(&state.bundle).ok();
    let mut event = record::event(call, Kind::ContainerExec, Severity::Info);
    let Plan { standing, handover, launcher_listens, unseen } =
        exec_process::plan(call, &id, &event.id.to_string(), &state, bundle.as_ref());
    let ground = standing.ground;
    if unseen.is_some() {
        event.severity = Severity::Medium;
    }
    event.session = Some(session(call, standing));
    let registration = ExecRegistration {
        id: id.clone(),
        init: state.pid,
        pid,
        start_time_ticks,
        ground,
        launcher_listens,
        event: event.clone(),
    };
    let request = Request::Exec(Box::new(registration));
    let registered = Client::connect(&call.config).and_then(|client| client.order(&request));
    if let (Some(unseen), Some(bundle)) = (&unseen, &bundle) {
        tell_unseen(call, &id, bundle, unseen)?;
    }
    let Err(source) = registered else { return Ok(handover) };
    let Some(bundle) = bundle else { return Ok(handover) };
    let intercepted = spec_edit::is_intercepted(bundle.config(), &call.config.listener_socket().to_string_lossy());
    if intercepted && unseen.is_none() {
        return Err(ShimError::ExecWithoutDaemon { id: id.to_string(), source });
    }
    event.container = Some(container(call, &id, &bundle));
    record::deliver(call, event);
    Ok(handover)
}

fn container(call: &Call, id: &ContainerId, bundle: &Bundle) -> Container {
    let runtime = call.real.name();
    let known = identity::Known { cluster: call.config.cluster.as_deref(), runtime: Some(&runtime), started_at: None };
    identity::workload(bundle.config(), bundle.directory(), id, &known).container
}

/// Puts on record that nothing intercepts the calls of an exec session, or that it is refused for that.
fn tell_unseen(call: &Call, id: &ContainerId, bundle: &Bundle, unseen: &Unseen) -> Result<(), ShimError> {
    let severity = if unseen.refused { Severity::High } else { Severity::Medium };
    let mut event = record::event(call, Kind::ProtectionDegraded, severity);
    event.container = Some(container(call, id, bundle));
    event.protection = Some(ProtectionChange {
        what: if unseen.refused { "exec refused" } else { "exec session not intercepted" }.to_owned(),
        reason: unseen.reason.clone(),
        remedy: Some("use runc or crun, which give exec sessions the container's filter".to_owned()),
    });
    record::deliver(call, event);
    match unseen.refused {
        true => Err(ShimError::ExecUnseen { id: id.to_string(), reason: unseen.reason.clone() }),
        false => Ok(()),
    }
}

/// What `state ID` of the real runtime says.
fn state(call: &Call, id: &ContainerId) -> Option<State> {
    let mut command = Command::new(call.real.path());
    if let Some(root) = &call.line.root {
        command.arg("--root").arg(root);
    }
    command.arg("state").arg(id.as_str());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let state = child.stdout.take().and_then(|output| hook_state::read(output).ok());
    let done = child.wait().is_ok_and(|status| status.success());
    state.filter(|_| done)
}

fn session(call: &Call, standing: Standing) -> Session {
    let options = &call.line.options;
    let mut session = Session {
        id: Uuid::now_v7().to_string(),
        argv: redacted(&call.line.exec_arguments),
        tty: options.tty,
        user: options.user.as_ref().map(|user| redact::printable(user.as_bytes())),
        started_by: Some(ancestry::creator_of(std::os::unix::process::parent_id())),
        ground: Some(standing.ground),
        reasons: standing.reasons,
    };
    if let Some(process) = options.process.as_deref().and_then(exec_process::read_file) {
        let arguments = process.get("args").and_then(Value::as_array).into_iter().flatten();
        let arguments: Vec<OsString> = arguments.filter_map(Value::as_str).map(OsString::from).collect();
        session.argv = redacted(&arguments);
        session.tty |= process.get("terminal").and_then(Value::as_bool).unwrap_or(false);
        session.user = user(&process);
    }
    session
}

fn redacted(arguments: &[OsString]) -> Vec<String> {
    redact::argv(&arguments.iter().map(|argument| redact::printable(argument.as_bytes())).collect::<Vec<_>>())
}

/// `uid:gid` of a process file.
fn user(process: &Value) -> Option<String> {
    let number = |key: &str| process.pointer(&format!("/user/{key}")).and_then(Value::as_u64);
    process.get("user").map(|_| format!("{}:{}", number("uid").unwrap_or(0), number("gid").unwrap_or(0)))
}

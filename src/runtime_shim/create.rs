//! `create`, `run` and `restore`: which policy applies, whether the interception can be put in place, and the edit.

use std::path::Path;
use std::path::PathBuf;

use crate::config::WhenAbsent;
use crate::config::policy_files;
use crate::control::Request;
use crate::control::client::Client;
use crate::model::diagnostic::chain;
use crate::model::event::EventTime;
use crate::model::policy::Applied;
use crate::model::policy::Mode;
use crate::model::policy::OnUnprotected;
use crate::model::policy::PolicySet;
use crate::model::workload::ContainerId;
use crate::model::workload::Workload;
use crate::oci::bundle::Bundle;
use crate::oci::identity;
use crate::oci::seccomp_merge::Listener;
use crate::oci::spec_edit;
use crate::oci::spec_edit::Edit;
use crate::oci::spec_edit::EditError;
use crate::oci::spec_edit::Edited;
use crate::oci::spec_edit::HOOK_NAME;
use crate::oci::spec_edit::Interception;
use crate::runtime_shim::Call;
use crate::runtime_shim::ShimError;
use crate::runtime_shim::UnprotectedCause;
use crate::runtime_shim::record;

/// `listenerMetadata` of acctguard's listener.
const LISTENER_METADATA: &str = "acctguard/1";

/// A container that is about to be created.
struct Subject {
    bundle: Bundle,
    workload: Workload,
    applied: Applied,
    policies_broken: bool,
}

/// Edits the bundle of a create or run, or says why the container must not be made.
///
/// # Errors
/// [`ShimError`]; the bundle is then as it was.
pub fn prepare(call: &Call) -> Result<(), ShimError> {
    let Some(mut subject) = subject(call)? else { return Ok(()) };
    let hook_program = hook_program()?;
    let config_file = call.config_for_hooks();
    let listener_path = call.config.listener_socket().to_string_lossy().into_owned();
    let listener = Listener { path: &listener_path, metadata: LISTENER_METADATA };
    let edit_with = |interception: Interception<'_>| {
        let edit = Edit { hook_program: &hook_program, config_file: config_file.as_deref(), listener, interception };
        spec_edit::edit(subject.bundle.config(), &edit)
    };
    let edited = match subject.applied.mode {
        Mode::Off => edit_with(Interception::Off)?,
        Mode::Audit | Mode::Enforce => protected(call, &subject, edit_with)?,
    };
    subject.bundle.replace(edited.spec)?;
    Ok(())
}

/// The edit with the interception, or without it where policy lets the container start unprotected.
fn protected(
    call: &Call,
    subject: &Subject,
    edit_with: impl Fn(Interception<'_>) -> Result<Edited, EditError>,
) -> Result<Edited, ShimError> {
    let cause = match ping(call) {
        Err(error) => UnprotectedCause::from(error),
        Ok(()) => match edit_with(Interception::Install) {
            Ok(edited) if edited.gaps.is_empty() || !refuses(call, subject, false) => return Ok(edited),
            Ok(edited) => UnprotectedCause::Gaps(edited.gaps.join(", ")),
            Err(EditError::Conflict(conflict)) => conflict.into(),
            Err(error) => return Err(error.into()),
        },
    };
    let absent = matches!(cause, UnprotectedCause::Daemon(_));
    if !refuses(call, subject, absent) {
        let reason = chain(&cause);
        return Ok(edit_with(Interception::Unprotected { reason: &reason })?);
    }
    let error = ShimError::Unprotected {
        id: subject.workload.container.id.to_string(),
        what: if absent {
            "its calls cannot be intercepted without the daemon"
        } else {
            "its calls cannot be intercepted"
        },
        rule: refusing_rule(subject),
        source: Box::new(cause),
    };
    record::refused(call, &subject.workload, &subject.applied, &chain(&error));
    Err(error)
}

/// Whether a container that cannot be protected is refused.
fn refuses(call: &Call, subject: &Subject, absent: bool) -> bool {
    subject.policies_broken
        || subject.applied.on_unprotected == OnUnprotected::Refuse
        || absent && call.config.when_absent == Some(WhenAbsent::Refuse)
}

fn refusing_rule(subject: &Subject) -> String {
    if subject.policies_broken {
        "an unreadable policy".to_owned()
    } else if subject.applied.on_unprotected == OnUnprotected::Refuse {
        format!("onUnprotected of policy {:?}", subject.applied.name)
    } else {
        "when_absent of the configuration".to_owned()
    }
}

fn ping(call: &Call) -> Result<(), crate::control::client::ClientError> {
    Client::connect(&call.config)?.call(&Request::Ping).map(|_| ())
}

/// Refuses a restore where policy enforces.
///
/// # Errors
/// [`ShimError::RestoreInEnforce`], or why the bundle cannot be read.
pub fn check_restore(call: &Call) -> Result<(), ShimError> {
    let Some(subject) = subject(call)? else { return Ok(()) };
    if subject.applied.mode != Mode::Enforce && !subject.policies_broken {
        return Ok(());
    }
    let id = subject.workload.container.id.to_string();
    let error = ShimError::RestoreInEnforce { id, policy: subject.applied.name.clone() };
    record::refused(call, &subject.workload, &subject.applied, &chain(&error));
    Err(error)
}

/// Reads bundle and policies; `None` when there is no id, which the real runtime is to say.
fn subject(call: &Call) -> Result<Option<Subject>, ShimError> {
    let Some(id) = &call.line.id else { return Ok(None) };
    let id = ContainerId::new(&id.to_string_lossy())?;
    let options = &call.line.options;
    let path = options.bundle.as_deref().unwrap_or(Path::new("."));
    let bundle = Bundle::open_with(path, options.config_file.as_deref())?;
    let runtime = call.real.name();
    let known = identity::Known {
        cluster: call.config.cluster.as_deref(),
        runtime: Some(&runtime),
        started_at: Some(EventTime(jiff::Timestamp::now())),
    };
    let workload = identity::workload(bundle.config(), bundle.directory(), &id, &known);
    let (policies, policies_broken) = match policy_files::load(&call.config.policy_dir) {
        Ok(policies) => (policies, false),
        Err(errors) => {
            // The daemon keeps its last good set and decides by it, so the interception is put in place all the same.
            eprintln!(
                "acctguard: {} mistakes in {}; the first: {}",
                errors.len(),
                call.config.policy_dir.display(),
                first(&errors)
            );
            (PolicySet::default(), true)
        }
    };
    let applied = policies.apply(&workload);
    Ok(Some(Subject { bundle, workload, applied, policies_broken }))
}

fn first<E: std::fmt::Display>(errors: &[E]) -> String {
    errors.first().map(ToString::to_string).unwrap_or_default()
}

/// `acctguard-hook` lies beside this program.
fn hook_program() -> Result<PathBuf, ShimError> {
    let own = std::fs::read_link("/proc/self/exe").map_err(ShimError::OwnPath)?;
    let path = own.with_file_name(HOOK_NAME);
    if path.is_file() { Ok(path) } else { Err(ShimError::NoHookProgram { path }) }
}

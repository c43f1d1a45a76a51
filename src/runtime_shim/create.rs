//! `create`, `run` and `restore`: which policy applies, whether the interception can be put in place, and the edit.

use std::path::Path;
use std::path::PathBuf;

use serde_json::Value;

use crate::config::WhenAbsent;
use crate::config::policy_files;
use crate::control::Request;
use crate::control::client::Client;
use crate::kernel::assembled_root::AssembledRoot;
use crate::model::diagnostic::chain;
use crate::model::event::EventTime;
use crate::model::policy::Applied;
use crate::model::policy::Ground;
use crate::model::policy::Mode;
use crate::model::policy::OnUnprotected;
use crate::model::policy::PolicySet;
use crate::model::policy::ground::Standing;
use crate::model::policy::rule::Landlock;
use crate::model::workload::ContainerId;
use crate::model::workload::Workload;
use crate::oci::bundle::Bundle;
use crate::oci::identity;
use crate::oci::launcher_edit::Launcher;
use crate::oci::seccomp_closed::UnknownCalls;
use crate::oci::seccomp_merge::Listener;
use crate::oci::spec_edit;
use crate::oci::spec_edit::Edit;
use crate::oci::spec_edit::EditError;
use crate::oci::spec_edit::Edited;
use crate::oci::spec_edit::HOOK_NAME;
use crate::oci::spec_edit::Interception;
use crate::oci::spec_edit::Placement;
use crate::oci::spec_edit::Reader;
use crate::oci::spec_edit::Signals;
use crate::runtime_shim::Call;
use crate::runtime_shim::ShimError;
use crate::runtime_shim::UnprotectedCause;
use crate::runtime_shim::handover::Handover;
use crate::runtime_shim::handover::Seat;
use crate::runtime_shim::listening;
use crate::runtime_shim::listening::Listening;
use crate::runtime_shim::program_search;
use crate::runtime_shim::record;
use crate::runtime_shim::signals;
use crate::runtime_shim::signals::Cannot;
use crate::runtime_shim::standing;
use crate::runtime_shim::standing::Decided;

/// `listenerMetadata` of acctguard's listener.
const LISTENER_METADATA: &str = "acctguard/1";

/// The release of youki whose reading of a `config.json` is known ([`Reader::Youki`]); it differs from what is specified, and what
/// another makes of the edit cannot be told.
const YOUKI: [u32; 2] = [0, 7];

/// A container that is about to be created.
struct Subject {
    bundle: Bundle,
    /// Its document without the launcher of an earlier edit.
    own_spec: Value,
    workload: Workload,
    applied: Applied,
    policies_broken: bool,
}

/// Edits the bundle of a create or run, or says why the container must not be made.
///
/// # Errors
/// [`ShimError`]; the bundle is then as it was.
pub fn prepare(call: &Call) -> Result<Handover, ShimError> {
    let Some(mut subject) = subject(call)? else { return Ok(Handover::unchanged(call)) };
    let hook_program = hook_program()?;
    let config_file = call.config_for_hooks();
    let listener_path = call.config.listener_socket().to_string_lossy().into_owned();
    let listener = Listener { path: &listener_path, metadata: LISTENER_METADATA };
    let mut decided = decided(call, &subject);
    let cannot = match subject.applied.mode {
        Mode::Off => None,
        Mode::Audit | Mode::Enforce => signals::wait_killable(call).err(),
    };
    let launching = launching(call, &subject, &mut decided, cannot.as_ref());
    let runtime_copy = runtime_copy(call).filter(|_| launching.as_ref().is_ok_and(|launching| launching.lend));
    // By policies that cannot be read, the daemon may still enforce.
    let unknown_calls = match subject.policies_broken {
        true => UnknownCalls::Refused,
        false => UnknownCalls::under(subject.applied.mode),
    };
    let youki = if subject.applied.mode == Mode::Off { None } else { signals::youki(call) };
    let reader = if youki.is_some() { Reader::Youki } else { Reader::AsSpecified };
    let unknown_youki = youki.filter(|version| !version.starts_with(&YOUKI));
    let id = subject.workload.container.id.to_string();
    let edit_as = |signals: Signals<'_>| {
        let listens = signals == Signals::WaitByLauncher;
        let launching = launching.as_ref().ok().filter(|launching| launching.seals || listens);
        let launcher = launching.map(|Launching { seat, lend, seals }| Launcher {
            descriptor: seat.number(),
            databases: seals.then_some(subject.applied.databases.as_slice()),
            lend: *lend,
            listening: listens.then(|| seat.listening(&id, None)),
        });
        let placement = Some(Placement {
            ground: decided.standing.ground,
            reasons: &decided.standing.reasons,
            launcher,
            runtime_copy: runtime_copy.as_deref(),
        });
        let edit_with = |interception: Interception<'_>| {
            let (hook_program, config_file) = (hook_program.as_path(), config_file.as_deref());
            let edit =
                Edit { hook_program, config_file, listener, interception, unknown_calls, signals, placement, reader };
            spec_edit::edit(subject.bundle.config(), &edit)
        };
        match subject.applied.mode {
            Mode::Off => Ok(edit_with(Interception::Off)?),
            Mode::Audit | Mode::Enforce => protected(call, &subject, &decided.standing, unknown_youki, edit_with),
        }
    };
    let (edited, listening) = match &cannot {
        None => (edit_as(Signals::Wait)?, None),
        Some(cannot) => match &launching {
            Ok(_) => with_launchers_listener(call, cannot, &subject.own_spec, edit_as)?,
            Err(reason) => (edit_as(Signals::Cancel { reason })?, None),
        },
    };
    let launched = edited.intercepted;
    subject.bundle.replace(edited.spec)?;
    match launching.ok().filter(|launching| launched && (launching.seals || listening.is_some())) {
        Some(launching) => Ok(Handover::with_launcher(call, launching.seat, listening, None)?),
        None => Ok(Handover::unchanged(call)),
    }
}

/// The launcher in front of the container's own process.
struct Launching {
    seat: Seat,
    /// Whether it is lent capabilities.
    lend: bool,
    /// Whether it seals; else it is there for its own listener only.
    seals: bool,
}

/// The launcher where it seals, or where it can have calls wait killable that `cannot` otherwise; else why calls cannot.
fn launching(
    call: &Call,
    subject: &Subject,
    decided: &mut Decided,
    cannot: Option<&Cannot>,
) -> Result<Launching, String> {
    if let Some(seat) = decided.seat.take() {
        return Ok(Launching { seat, lend: decided.standing.lend, seals: true });
    }
    let Some(cannot) = cannot else { return Err(String::new()) };
    if subject.applied.mode != Mode::Enforce {
        return Err(cannot.reason.clone());
    }
    let process = subject.own_spec.get("process").unwrap_or(&Value::Null);
    let seat = standing::listener_only(call, &subject.own_spec, process, || root_to_be(subject));
    let lend = process.get("noNewPrivileges") != Some(&Value::Bool(true));
    seat.map(|seat| Launching { seat, lend, seals: false }).map_err(|why| listening::none(cannot, &why))
}

/// The edit with the launcher's own listener, or without where there can be none.
fn with_launchers_listener(
    call: &Call,
    cannot: &Cannot,
    own_spec: &Value,
    edit_as: impl Fn(Signals<'_>) -> Result<Edited, ShimError>,
) -> Result<(Edited, Option<Listening>), ShimError> {
    let reason = match listening::connect(call, cannot, own_spec) {
        Ok(line) => match edit_as(Signals::WaitByLauncher) {
            Ok(edited) if !edited.intercepted => return Ok((edited, None)),
            Ok(edited) => match listening::filter(&edited.spec) {
                Ok(filter) => return Ok((edited, Some(Listening { line, filter }))),
                Err(reason) => reason,
            },
            Err(ShimError::Edit(EditError::LauncherListener(why))) => listening::none(cannot, &why),
            Err(error) => return Err(error),
        },
        Err(reason) => reason,
    };
    Ok((edit_as(Signals::Cancel { reason: &reason })?, None))
}

/// The root file system as the container will have it.
fn root_to_be(subject: &Subject) -> Result<AssembledRoot, String> {
    program_search::root_to_be(&subject.own_spec, subject.bundle.directory())
        .map_err(|errno| format!("its root file system cannot be opened ({errno}); the runtime reports that itself"))
}

/// On which ground the container's own process is put.
fn decided(call: &Call, subject: &Subject) -> Decided {
    let process = subject.own_spec.get("process").unwrap_or(&Value::Null);
    standing::decide(call, &subject.applied, &subject.own_spec, process, || root_to_be(subject))
}

/// crun's own copy of `config.json`, out of which it takes what an exec does not say.
fn runtime_copy(call: &Call) -> Option<PathBuf> {
    if !call.real.name().contains("crun") {
        return None;
    }
    let root = call.line.root.clone().unwrap_or_else(|| PathBuf::from("/run/crun"));
    let copy = root.join(call.line.id.as_ref()?).join("config.json");
    std::path::absolute(copy).ok()
}

/// The edit with the interception, or without it where policy lets the container start unprotected.
fn protected(
    call: &Call,
    subject: &Subject,
    standing: &Standing,
    unknown_youki: Option<[u32; 3]>,
    edit_with: impl Fn(Interception<'_>) -> Result<Edited, EditError>,
) -> Result<Edited, ShimError> {
    let cause = match ping(call) {
        Err(error) => UnprotectedCause::from(error),
        Ok(()) if let Some([major, minor, patch]) = unknown_youki => UnprotectedCause::Youki { major, minor, patch },
        Ok(()) if lacks_required_seal(subject, standing) && refuses(call, subject, false) => {
            UnprotectedCause::NotSealed(standing.reasons.join("; "))
        }
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
        what: match cause {
            UnprotectedCause::Daemon(_) => "its calls cannot be intercepted without the daemon",
            UnprotectedCause::NotSealed(_) => "it cannot be sealed",
            UnprotectedCause::Conflict(_) | UnprotectedCause::Gaps(_) | UnprotectedCause::Youki { .. } => {
                "its calls cannot be intercepted"
            }
        },
        rule: refusing_rule(subject),
        source: Box::new(cause),
    };
    record::refused(call, &subject.workload, &subject.applied, &chain(&error));
    Err(error)
}

/// Whether the container stands on less than `landlock: required` demands.
fn lacks_required_seal(subject: &Subject, standing: &Standing) -> bool {
    subject.applied.mode == Mode::Enforce
        && subject.applied.landlock == Landlock::Required
        && standing.ground != Ground::Seal
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
    let own_spec = spec_edit::own(bundle.config());
    let workload = identity::workload(&own_spec, bundle.directory(), &id, &known);
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
    Ok(Some(Subject { bundle, own_spec, workload, applied, policies_broken }))
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

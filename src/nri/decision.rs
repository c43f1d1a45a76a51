//! What an engine is answered about a container: policy, daemon, edit. Nothing here refuses a container: the createRuntime hook, which
//! sees all of it, does where policy says so.
//!
//! Where the interception cannot be put in place the hooks still are, with the reason; where not even they can, the engine is told
//! to change nothing, which is put on record.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::Config;
use crate::config::policy_files;
use crate::control::Request;
use crate::control::client::Client;
use crate::model::diagnostic::chain;
use crate::model::policy::Mode;
use crate::nri::creation::Creation;
use crate::nri::creation::CreationError;
use crate::nri::messages::ContainerAdjustment;
use crate::oci::seccomp_closed::UnknownCalls;
use crate::oci::seccomp_merge::Listener;
use crate::oci::spec_edit::Edit;
use crate::oci::spec_edit::HOOK_NAME;
use crate::oci::spec_edit::Interception;
use crate::oci::spec_edit::Reader;
use crate::oci::spec_edit::Signals;

/// Where packages install the hook, for a plugin that was copied into the engine's folder instead of linked.
const PACKAGED_HOOK: &str = "/usr/libexec/acctguard/acctguard-hook";
/// Why calls that are being answered do not wait killable.
const NOT_KILLABLE: &str = "the NRI plugin does not know the runtime; acctguard-runtime does";

/// What the engine is answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// A change, and why it is less than policy asks for.
    Adjust(Box<ContainerAdjustment>, Option<String>),
    /// No change: acctguard's hook is there already.
    Guarded,
    /// No change, for want of something.
    Unguarded(String),
}

/// Decides about the container `creation` within the time that the daemon may take for an answer.
#[must_use]
pub fn decide(config: &Config, creation: &Creation, patience: Duration) -> Decision {
    let workload = creation.workload(config.cluster.as_deref());
    let (mode, unknown_calls, problem) = match policy_files::load(&config.policy_dir) {
        Ok(policies) => {
            let mode = policies.apply(&workload).mode;
            (mode, UnknownCalls::under(mode), None)
        }
        // the daemon decides by its last good set, and may enforce
        Err(errors) => (Mode::Audit, UnknownCalls::Refused, errors.first().map(|error| chain(error))),
    };
    if mode == Mode::Off {
        return edited(config, creation, Interception::Off, unknown_calls, None);
    }
    let daemon = || {
        let answer = Client::connect(config).and_then(|client| client.within(patience).call(&Request::Ping));
        answer.err().map(|error| chain(&error))
    };
    match creation.obstacle().map(ToOwned::to_owned).or_else(daemon) {
        Some(reason) => without_interception(config, creation, &reason),
        None => edited(config, creation, Interception::Install, unknown_calls, problem),
    }
}

/// The hooks alone, with the reason for them to put on record.
#[must_use]
pub fn without_interception(config: &Config, creation: &Creation, reason: &str) -> Decision {
    let interception = Interception::Unprotected { reason };
    edited(config, creation, interception, UnknownCalls::AsProfile, Some(reason.to_owned()))
}

fn edited(
    config: &Config,
    creation: &Creation,
    interception: Interception<'_>,
    unknown_calls: UnknownCalls,
    note: Option<String>,
) -> Decision {
    if creation.is_guarded() {
        return Decision::Guarded;
    }
    // a runtime refuses a container that has a hook without a program
    let hook_program = match hook_program() {
        Ok(program) => program,
        Err(reason) => return Decision::Unguarded(reason),
    };
    let socket = config.listener_socket();
    let edit = Edit {
        hook_program: &hook_program,
        config_file: config.file.as_deref(),
        // a path that is not UTF-8 fails in the edit of the hooks' arguments, or is nobody's
        listener: Listener { path: &socket.to_string_lossy(), metadata: "acctguard/1" },
        interception,
        unknown_calls,
        signals: Signals::Cancel { reason: NOT_KILLABLE },
        placement: None,
        reader: Reader::AsSpecified,
    };
    match creation.adjustment(&edit) {
        Ok(adjustment) => Decision::Adjust(Box::new(adjustment), note),
        Err(error) if interception == Interception::Install => again(config, creation, &error),
        Err(error) => Decision::Unguarded(chain(&error)),
    }
}

fn again(config: &Config, creation: &Creation, error: &CreationError) -> Decision {
    without_interception(config, creation, &chain(error))
}

/// `acctguard-hook`: beside this program, or where packages put it.
fn hook_program() -> Result<PathBuf, String> {
    let own =
        std::fs::read_link("/proc/self/exe").map_err(|error| format!("cannot tell where this program is: {error}"))?;
    let beside = own.with_file_name(HOOK_NAME);
    let found = [beside.clone(), PathBuf::from(PACKAGED_HOOK)].into_iter().find(|path| is_executable(path));
    found.ok_or_else(|| {
        format!("{} and {PACKAGED_HOOK} are not there or cannot be executed; install acctguard-hook", beside.display())
    })
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

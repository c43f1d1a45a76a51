//! The process of an exec session: what it is to run, on which ground, and the process object under the launcher.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::Value;

use crate::config::policy_files;
use crate::kernel::assembled_root::AssembledRoot;
use crate::model::policy::Ground;
use crate::model::policy::Mode;
use crate::model::policy::ground::Standing;
use crate::model::policy::rule::ExecSessions;
use crate::model::workload::ContainerId;
use crate::oci::bundle::Bundle;
use crate::oci::exec_words;
use crate::oci::exec_words::Flavour;
use crate::oci::hook_state::State;
use crate::oci::identity;
use crate::oci::launcher_edit;
use crate::oci::launcher_edit::Launcher;
use crate::oci::spec_edit;
use crate::runtime_shim::Call;
use crate::runtime_shim::exec_by_launcher;
use crate::runtime_shim::handover::Handover;
use crate::runtime_shim::listening;
use crate::runtime_shim::standing;
use crate::runtime_shim::standing::Decided;

/// Largest process file that is read.
const MAX_PROCESS_BYTES: u64 = 16 * 1024 * 1024;

/// An exec session before it starts.
#[derive(Debug)]
pub struct Plan {
    /// On which ground it is put, and why.
    pub standing: Standing,
    /// What the real runtime is handed.
    pub handover: Handover,
    /// Whether its launcher makes a listener of its own.
    pub launcher_listens: bool,
    /// That nothing intercepts its calls, under a runtime that gives it no filter ([`exec_by_launcher`]).
    pub unseen: Option<Unseen>,
}

/// An exec session whose calls are not intercepted though its container's are.
#[derive(Debug)]
pub struct Unseen {
    /// One line.
    pub reason: String,
    /// Whether policy has it refused.
    pub refused: bool,
}

impl Plan {
    /// The exec as it was asked for.
    pub fn unchanged(call: &Call, standing: Standing) -> Self {
        Self { standing, handover: Handover::unchanged(call), launcher_listens: false, unseen: None }
    }
}

/// A process file. Only a regular file is read: a pipe would be empty for the real runtime afterwards.
pub fn read_file(path: &Path) -> Option<Value> {
    let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MAX_PROCESS_BYTES).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// What is to be done about an exec into the container `id`, recorded as `event`.
pub fn plan(call: &Call, id: &ContainerId, event: &str, state: &State, bundle: Option<&Bundle>) -> Plan {
    let Some(bundle) = bundle else {
        return Plan::unchanged(call, Standing::plain(Ground::None));
    };
    if !spec_edit::is_intercepted(bundle.config(), &call.config.listener_socket().to_string_lossy()) {
        return Plan::unchanged(call, Standing::plain(Ground::None));
    }
    if spec_edit::execs_by_launcher(bundle.config()) {
        return exec_by_launcher::plan(call, id, event, state, bundle);
    }
    let spec = launcher_edit::own(bundle.config());
    let known = identity::Known { cluster: call.config.cluster.as_deref(), runtime: None, started_at: None };
    let workload = identity::workload(&spec, bundle.directory(), id, &known);
    // broken policies: the daemon decides by its last good set, and what it may have to broker is called so
    let Ok(policies) = policy_files::load(&call.config.policy_dir) else {
        return Plan::unchanged(call, Standing::plain(Ground::Broker));
    };
    let applied = policies.apply(&workload);
    if applied.mode != Mode::Enforce || applied.exec == ExecSessions::Brokered {
        return unsealed(call, &spec, bundle, Standing::plain(Ground::of_listener(applied.mode)));
    }
    let process = match process(call, &spec, Flavour::of(&call.real.name())) {
        Ok(process) => process,
        Err(reason) => {
            let reasons = vec![format!("not sealed: {reason}")];
            return unsealed(call, &spec, bundle, Standing { ground: Ground::Broker, reasons, lend: false });
        }
    };
    let Decided { standing, seat } = standing::decide(call, &applied, &spec, &process, || {
        let root = format!("/proc/{}/root", state.pid);
        AssembledRoot::open(root.as_bytes()).map_err(|errno| format!("the container's root cannot be opened ({errno})"))
    });
    let Some(seat) = seat else { return unsealed(call, &spec, bundle, standing) };
    let mut process = process;
    let means = listening::of_exec(call, bundle.config(), &standing);
    let launcher = Launcher {
        descriptor: seat.number(),
        databases: Some(&applied.databases),
        lend: standing.lend,
        listening: means.is_some().then(|| seat.listening(id.as_str(), Some(event))),
    };
    if !launcher_edit::put_in(&mut process, &launcher) {
        let reasons = vec!["not sealed: its process has no arguments".to_owned()];
        return unsealed(call, &spec, bundle, Standing { ground: Ground::Broker, reasons, lend: false });
    }
    let launcher_listens = means.is_some();
    match Handover::with_launcher(call, seat, means, Some(&process)) {
        Ok(handover) => Plan { standing, handover, launcher_listens, unseen: None },
        Err(error) => {
            let reasons = vec![format!("not sealed: {}", crate::model::diagnostic::chain(&error))];
            unsealed(call, &spec, bundle, Standing { ground: Ground::Broker, reasons, lend: false })
        }
    }
}

/// The exec as it was asked for; where the runtime would take the capabilities that the process file leaves out from what
/// the container's launcher was lent, they are written out as the engine meant them.
fn unsealed(call: &Call, spec: &Value, bundle: &Bundle, standing: Standing) -> Plan {
    let process = call.line.options.process.as_deref().and_then(read_file);
    let silent = process.filter(|process| process.get("capabilities").is_none_or(Value::is_null));
    let (true, Some(mut process), true) =
        (spec_edit::was_launched(bundle.config()), silent, call.line.process_can_be_replaced())
    else {
        return Plan::unchanged(call, standing);
    };
    let own = spec.pointer("/process/capabilities").filter(|own| own.is_object());
    process["capabilities"] = own.cloned().unwrap_or_else(|| serde_json::json!({}));
    match Handover::with_process(call, &process) {
        Ok(handover) => Plan { standing, handover, launcher_listens: false, unseen: None },
        Err(_) => Plan::unchanged(call, standing),
    }
}

/// The process object of the exec: its file, or what its words mean to a runtime of that flavour.
///
/// # Errors
/// Why that cannot be said, in one line.
pub fn process(call: &Call, spec: &Value, flavour: Option<Flavour>) -> Result<Value, String> {
    let options = &call.line.options;
    if let Some(file) = &options.process {
        if !call.line.process_can_be_replaced() {
            return Err("its process file is named in letters put together".to_owned());
        }
        let mut process = read_file(file).ok_or("its process file cannot be read")?;
        // youki takes none from the container
        if process.get("capabilities").is_none_or(Value::is_null) && flavour != Some(Flavour::Youki) {
            let own = spec.pointer("/process/capabilities").filter(|own| own.is_object());
            process["capabilities"] = own.cloned().unwrap_or_else(|| serde_json::json!({}));
        }
        return Ok(process);
    }
    if !call.line.process_can_be_replaced() {
        return Err("behind an option that is not known it cannot be told where its words begin".to_owned());
    }
    let unknown = || format!("what the words of an exec mean to {} is not known", call.real.name());
    let flavour = flavour.ok_or_else(unknown)?;
    exec_words::process(flavour, spec, options, &call.line.exec_arguments)
}

//! exec under a runtime that gives exec sessions no seccomp filter, not even the container's own: youki (0.7.0, libcontainer
//! src/container/tenant_builder.rs, `adapt_spec_for_tenant`, makes `linux` anew from namespaces and control group). There the launcher
//! installs acctguard's filter in front of the program, in audit too, with a listener of its own.
//!
//! * The filter is the one of a workload without a profile: what the container's own refuses, youki lets exec sessions do.
//! * Until it is installed, nobody in the container may take hold of the process and keep it unfiltered. So the launcher is lent
//!   capabilities wherever that is safe, under `noNewPrivileges` too: a tracer needs those that its tracee has (ptrace(2), "Ptrace
//!   access mode checking"), and youki's own init has them before.
//! * What cannot be filtered is [`Unseen`]: refused where policy refuses the unprotected, on record where not.

use std::path::Path;

use serde_json::Value;
use serde_json::json;

use crate::config::policy_files;
use crate::control::client;
use crate::kernel::assembled_root::AssembledRoot;
use crate::kernel::features;
use crate::model::diagnostic::chain;
use crate::model::policy::Applied;
use crate::model::policy::Ground;
use crate::model::policy::Mode;
use crate::model::policy::OnUnprotected;
use crate::model::policy::PolicySet;
use crate::model::policy::ground::Standing;
use crate::model::policy::rule::ExecSessions;
use crate::model::workload::ContainerId;
use crate::oci::bundle::Bundle;
use crate::oci::exec_words::Flavour;
use crate::oci::hook_state::State;
use crate::oci::identity;
use crate::oci::launcher_edit;
use crate::oci::launcher_edit::Launcher;
use crate::oci::launcher_edit::Listening as Listens;
use crate::oci::launcher_words::GIVE_BACK;
use crate::oci::seccomp_closed::UnknownCalls;
use crate::oci::spec_edit;
use crate::runtime_shim::Call;
use crate::runtime_shim::exec_process;
use crate::runtime_shim::exec_process::Plan;
use crate::runtime_shim::exec_process::Unseen;
use crate::runtime_shim::handover::Handover;
use crate::runtime_shim::handover::Seat;
use crate::runtime_shim::listening;
use crate::runtime_shim::listening::Listening;
use crate::runtime_shim::standing;
use crate::runtime_shim::standing::Decided;

/// An exec session that is to be filtered.
struct Subject<'a> {
    call: &'a Call,
    id: &'a ContainerId,
    event: &'a str,
    state: &'a State,
    spec: Value,
    applied: Applied,
    policies_broken: bool,
}

/// What is to be done about an exec into the container `id`, recorded as `event`.
pub fn plan(call: &Call, id: &ContainerId, event: &str, state: &State, bundle: &Bundle) -> Plan {
    let spec = spec_edit::own(bundle.config());
    let known = identity::Known { cluster: call.config.cluster.as_deref(), runtime: None, started_at: None };
    let workload = identity::workload(&spec, bundle.directory(), id, &known);
    // by policies that cannot be read, the daemon may still enforce
    let (policies, policies_broken) = match policy_files::load(&call.config.policy_dir) {
        Ok(policies) => (policies, false),
        Err(_) => (PolicySet::default(), true),
    };
    let subject = Subject { call, id, event, state, spec, applied: policies.apply(&workload), policies_broken };
    if subject.applied.mode == Mode::Off && !policies_broken {
        return Plan::unchanged(call, Standing::plain(Ground::None));
    }
    match subject.filtered() {
        Ok(plan) => plan,
        Err(reason) => {
            let reason = format!("its calls are not intercepted: {reason}");
            let standing = Standing { ground: Ground::None, reasons: vec![reason.clone()], lend: false };
            let unseen = Some(Unseen { reason, refused: subject.refuses() });
            Plan { unseen, ..Plan::unchanged(call, standing) }
        }
    }
}

impl Subject<'_> {
    fn enforced(&self) -> bool {
        self.applied.mode == Mode::Enforce || self.policies_broken
    }

    fn refuses(&self) -> bool {
        self.policies_broken || self.enforced() && self.applied.on_unprotected == OnUnprotected::Refuse
    }

    /// The exec behind the launcher, or why that cannot be.
    fn filtered(&self) -> Result<Plan, String> {
        if !features::can_wait_killable() {
            return Err("the launcher's listener needs Linux 5.19".to_owned());
        }
        let mut process = exec_process::process(self.call, &self.spec, Some(Flavour::Youki))?;
        let (standing, seat) = self.ground(&process)?;
        let lend = self.lends(&process, &seat)?;
        if lend {
            spell_capabilities_out(&mut process)?;
        }
        let sealed = standing.ground == Ground::Seal;
        let launcher = Launcher {
            descriptor: seat.number(),
            databases: sealed.then_some(self.applied.databases.as_slice()),
            lend,
            listening: Some(Listens { must: self.refuses(), ..seat.listening(self.id.as_str(), Some(self.event)) }),
        };
        if !launcher_edit::put_in(&mut process, &launcher) {
            return Err("its process has no arguments".to_owned());
        }
        let connected = client::open(&self.call.config.listener_socket());
        let line = connected.map_err(|errno| format!("the daemon cannot be reached ({errno})"))?.into();
        let unknown_calls = if self.enforced() { UnknownCalls::Refused } else { UnknownCalls::AsProfile };
        let means = Listening { line, filter: listening::filter_alone(self.call, unknown_calls)? };
        let handover = Handover::with_launcher(self.call, seat, Some(means), Some(&process));
        let handover = handover.map_err(|error| chain(&error))?;
        Ok(Plan { standing, handover, launcher_listens: true, unseen: None })
    }

    /// On which ground it is put, and the launcher.
    fn ground(&self, process: &Value) -> Result<(Standing, Seat), String> {
        let mut reasons = Vec::new();
        if self.applied.mode == Mode::Enforce && self.applied.exec == ExecSessions::Sealed {
            let decided = standing::decide(self.call, &self.applied, &self.spec, process, || self.root());
            match decided {
                Decided { standing, seat: Some(seat) } => return Ok((standing, seat)),
                Decided { standing, seat: None } => reasons = standing.reasons,
            }
        }
        let seat = standing::listener_only(self.call, &self.spec, process, || self.root())?;
        let mode = if self.enforced() { Mode::Enforce } else { Mode::Audit };
        Ok((Standing { ground: Ground::of_listener(mode), reasons, lend: false }, seat))
    }

    fn root(&self) -> Result<AssembledRoot, String> {
        let root = format!("/proc/{}/root", self.state.pid);
        AssembledRoot::open(Path::new(&root).as_os_str().as_encoded_bytes())
            .map_err(|errno| format!("the container's root cannot be opened ({errno})"))
    }

    /// Whether the launcher is lent capabilities; else why it must not be and cannot do without.
    fn lends(&self, process: &Value, seat: &Seat) -> Result<bool, String> {
        let facts = launcher_edit::facts(&self.spec, process);
        if facts.own_pid_namespace && !facts.may_trace {
            return Ok(true);
        }
        if !would_lend(process, seat) || facts.no_new_privileges && !self.enforced() {
            return Ok(false);
        }
        let why =
            if facts.may_trace { "CAP_SYS_PTRACE is granted in the container" } else { "its pid namespace is shared" };
        Err(format!("others could take hold of its launcher: {why}"))
    }
}

/// Whether the process lacks anything of what the launcher is lent.
fn would_lend(process: &Value, seat: &Seat) -> bool {
    let mut tried = process.clone();
    let launcher = Launcher { descriptor: seat.number(), databases: None, lend: true, listening: None };
    let put = launcher_edit::put_in(&mut tried, &launcher);
    let words = tried.get("args").and_then(Value::as_array).into_iter().flatten().take_while(|word| *word != "--");
    put && words.filter_map(Value::as_str).any(|word| word.starts_with(GIVE_BACK))
}

/// Writes out what a process without `capabilities` keeps under youki, its own: lending would make an object of only what is lent.
fn spell_capabilities_out(process: &mut Value) -> Result<(), String> {
    if process.get("capabilities").is_some_and(Value::is_object) {
        return Ok(());
    }
    let read = |set| {
        let held =
            caps::read(None, set).map_err(|error| format!("the runtime's capabilities cannot be read: {error}"))?;
        let mut names: Vec<String> = held.iter().map(ToString::to_string).collect();
        names.sort();
        Ok::<_, String>(names)
    };
    let permitted = read(caps::CapSet::Permitted)?;
    process["capabilities"] =
        json!({"bounding": read(caps::CapSet::Bounding)?, "effective": permitted, "permitted": permitted});
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_capabilities_keeps_the_runtimes() {
        let mut process = json!({"args": ["sh"]});
        spell_capabilities_out(&mut process).expect("readable");
        let bounding = caps::read(None, caps::CapSet::Bounding).expect("read").len();
        assert_eq!(process["capabilities"]["bounding"].as_array().map(Vec::len), Some(bounding));
        let mut own = json!({"capabilities": {"bounding": ["CAP_KILL"]}});
        let before = own.clone();
        spell_capabilities_out(&mut own).expect("nothing to read");
        assert_eq!(own, before);
    }
}

//! Who a hook is about: the state on its standard input, and the bundle that the state names.

use std::path::PathBuf;

use serde_json::Value;
use serde_json::json;
use uuid::Uuid;

use crate::config::Config;
use crate::config::node;
use crate::config::policy_files;
use crate::kernel::process::Facts;
use crate::model::diagnostic::chain;
use crate::model::event::Event;
use crate::model::event::EventTime;
use crate::model::event::Kind;
use crate::model::event::Severity;
use crate::model::policy::Applied;
use crate::model::policy::OnUnprotected;
use crate::model::workload::ContainerId;
use crate::model::workload::Workload;
use crate::oci::bundle::Bundle;
use crate::oci::hook_state::State;
use crate::oci::identity;
use crate::oci::identity::Known;
use crate::oci::spec_edit;

/// A container as its hooks see it.
#[derive(Debug)]
pub struct Subject {
    /// Who.
    pub workload: Workload,
    /// Its `config.json`; when that cannot be read, only the annotations that the state has.
    pub spec: Value,
    /// The same without the launcher: what the engine asked for.
    pub own_spec: Value,
    /// Its bundle, absolute where it could be opened.
    pub bundle: PathBuf,
    /// Why the bundle could not be read.
    pub problem: Option<String>,
}

impl Subject {
    /// The container `id` of `state`.
    pub fn of(config: &Config, id: &ContainerId, state: &State, runtime: Option<&str>, now: EventTime) -> Self {
        let (spec, bundle, problem) = match Bundle::open(&state.bundle) {
            Ok(bundle) => (bundle.config().clone(), bundle.directory().to_owned(), None),
            Err(error) => (json!({"annotations": state.annotations}), state.bundle.clone(), Some(chain(&error))),
        };
        let known = Known { cluster: config.cluster.as_deref(), runtime, started_at: Some(now) };
        let own_spec = spec_edit::own(&spec);
        let workload = identity::workload(&own_spec, &bundle, id, &known);
        Self { workload, spec, own_spec, bundle, problem }
    }
}

/// The policy for `workload`, and why it is not the one of the policy folder. An unusable folder counts as one that refuses
/// what is not protected: which container it wanted to protect is not known. The daemon decides by its last good set.
pub fn policy(config: &Config, workload: &Workload) -> (Applied, Option<String>) {
    match policy_files::load(&config.policy_dir) {
        Ok(policies) => (policies.apply(workload), None),
        Err(errors) => {
            let first = errors.first().map_or_else(|| config.policy_dir.display().to_string(), |error| chain(error));
            let applied = Applied { on_unprotected: OnUnprotected::Refuse, ..Applied::built_in() };
            (applied, Some(format!("the policies cannot be used: {first}")))
        }
    }
}

/// Base name of the runtime that runs this hook. A runtime that re-executed itself from memory (runc's cloned binary,
/// CVE-2019-5736) has no path, and one that did so from a private mount (crun) has `/`; then the name that the kernel keeps counts.
pub fn runtime_name(runtime: &Facts) -> Option<String> {
    let exe = runtime.exe.as_deref().map(String::from_utf8_lossy);
    let name = exe.as_deref().filter(|path| !path.starts_with("/memfd:") && !path.ends_with(" (deleted)"));
    // crun's copy of itself is a mount of its own, of which the kernel says no more than `/`
    let name = name.and_then(|path| path.rsplit('/').next()).filter(|name| !name.is_empty()).map(str::to_owned);
    let name =
        name.unwrap_or_else(|| String::from_utf8_lossy(&runtime.comm).split(':').next().unwrap_or("").to_owned());
    let plain = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    (!name.is_empty() && name.chars().all(plain)).then_some(name)
}

/// This moment.
pub fn now() -> EventTime {
    EventTime(jiff::Timestamp::now())
}

/// An event of this node, made now.
pub fn event(config: &Config, kind: Kind, severity: Severity, time: EventTime) -> Event {
    Event::new(Uuid::now_v7(), time, kind, severity, node::host(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(exe: Option<&str>, comm: &str) -> Option<String> {
        let mut facts = Facts::read(std::process::id()).expect("own facts");
        facts.exe = exe.map(|exe| exe.as_bytes().to_vec());
        facts.comm = comm.as_bytes().to_vec();
        runtime_name(&facts)
    }

    #[test]
    fn runtimes_are_named_by_their_file_or_by_the_kernel() {
        for (exe, comm, expected) in [
            (Some("/usr/sbin/runc"), "x", Some("runc")),
            (Some("/usr/local/bin/crun-1.28"), "crun", Some("crun-1.28")),
            (Some("/memfd:runc_cloned:/proc/self/exe (deleted)"), "runc:[1:CHILD]", Some("runc")),
            (None, "crun", Some("crun")),
            (Some("/"), "crun", Some("crun")),
            (Some("/tmp/we ird"), "crun", None),
        ] {
            assert_eq!(facts(exe, comm).as_deref(), expected, "{exe:?}");
        }
    }
}

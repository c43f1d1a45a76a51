//! A container that an engine is about to create, and the same edit that the shim and the precreate hook make, told as an adjustment.
//!
//! The engine tells a part of the container's config.json. What the edit needs of it is put into a document of that form, the edit is
//! made, and what came to differ is the adjustment: hooks, which an engine adds at the end of their stage, and the seccomp profile,
//! which it puts in the place of the one that is there.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use serde_json::json;

use crate::model::diagnostic::chain;
use crate::model::workload::ContainerId;
use crate::model::workload::Workload;
use crate::nri::engine::Engine;
use crate::nri::messages::Container;
use crate::nri::messages::ContainerAdjustment;
use crate::nri::messages::CreateContainerRequest;
use crate::nri::messages::Hook;
use crate::nri::messages::Hooks;
use crate::nri::messages::LinuxContainerAdjustment;
use crate::nri::messages::UNCONFINED;
use crate::nri::seccomp;
use crate::nri::seccomp::Inexpressible;
use crate::oci::identity;
use crate::oci::identity::Known;
use crate::oci::spec_edit;
use crate::oci::spec_edit::Edit;
use crate::oci::spec_edit::EditError;

/// Annotations that are acctguard's own. Engines put only those into a config.json that they are configured to let through.
const OWN_ANNOTATIONS: &str = "acctguard.io/";
/// CRI-O's annotation of the profile that a container has.
const CRIO_PROFILE: &str = "io.kubernetes.cri-o.SeccompProfilePath";

/// A container that is about to be created.
#[derive(Debug, Clone)]
pub struct Creation {
    id: ContainerId,
    /// As much of its config.json as is known and needed.
    document: Value,
    /// Annotations that are to be in its config.json, too.
    passed_on: BTreeMap<String, String>,
    /// Why a profile of acctguard's cannot be put in the place of its own; `None` when it can.
    obstacle: Option<String>,
    /// Whether its own profile is known.
    profile_known: bool,
}

/// Why there is no adjustment.
#[derive(Debug, thiserror::Error)]
pub enum CreationError {
    /// No container, or one without a usable id.
    #[error("the engine names no container that could be guarded: {0}")]
    Subject(String),
    /// The edit.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// What came of it cannot be told.
    #[error(transparent)]
    Inexpressible(#[from] Inexpressible),
}

impl Creation {
    /// The container of a request.
    ///
    /// # Errors
    /// [`CreationError::Subject`].
    pub fn of(request: &CreateContainerRequest, engine: &Engine) -> Result<Self, CreationError> {
        let container = request.container.clone().unwrap_or_default();
        let id = ContainerId::new(&container.id).map_err(|error| CreationError::Subject(chain(&error)))?;
        let mut annotations = container.annotations.clone();
        for (key, value) in request.pod.iter().flat_map(|pod| &pod.annotations) {
            if key.starts_with(OWN_ANNOTATIONS) {
                annotations.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        let linux = container.linux.clone().unwrap_or_default();
        let known = profile_known(&container, engine);
        let obstacle = match (engine.takes_seccomp(), &known) {
            (false, _) => Some(format!(
                "{} takes no seccomp profile of an NRI plugin, containerd 2.2 and CRI-O 1.34 do",
                engine.shown()
            )),
            (true, Err(reason)) => Some(reason.clone()),
            (true, Ok(())) => None,
        };
        let mut document = json!({ "annotations": annotations, "hooks": hooks(container.hooks.as_ref()) });
        if let (Some(object), Some(policy)) = (document.as_object_mut(), &linux.seccomp_policy) {
            object.insert("linux".to_owned(), json!({ "seccomp": seccomp::section(policy) }));
        }
        let passed_on = annotations.into_iter().filter(|(key, _)| key.starts_with(OWN_ANNOTATIONS)).collect();
        Ok(Self { id, document, passed_on, obstacle, profile_known: known.is_ok() })
    }

    /// Who it is, as far as the engine tells: not its capabilities, so that no policy about privileged containers matches here.
    #[must_use]
    pub fn workload(&self, cluster: Option<&str>) -> Workload {
        let known = Known { cluster, ..Known::default() };
        identity::workload(&self.document, Path::new("/"), &self.id, &known)
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Why its calls cannot be intercepted whatever policy says; `None` when they can.
    #[must_use]
    pub fn obstacle(&self) -> Option<&str> {
        self.obstacle.as_deref()
    }

    /// Whether acctguard's hook is there already: by another plugin, or by the engine's own base document.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        spec_edit::has_own_hook(&self.document)
    }

    /// What the engine is to change.
    ///
    /// # Errors
    /// [`CreationError::Edit`], [`CreationError::Inexpressible`].
    pub fn adjustment(&self, edit: &Edit<'_>) -> Result<ContainerAdjustment, CreationError> {
        let edited = spec_edit::edit(&self.document, edit)?;
        let own = |stage: &str| last_hook(&edited.spec, stage).map(|hook| self.told(hook)).into_iter().collect();
        let hooks = Hooks { create_runtime: own("createRuntime"), poststop: own("poststop") };
        let profile = |spec: &Value| spec.pointer("/linux/seccomp").cloned();
        let new = profile(&edited.spec).filter(|new| Some(new) != profile(&self.document).as_ref());
        let linux = match new {
            Some(section) => Some(LinuxContainerAdjustment { seccomp_policy: Some(seccomp::message(&section)?) }),
            None => None,
        };
        Ok(ContainerAdjustment { annotations: self.passed_on.clone(), hooks: Some(hooks), linux })
    }

    /// A hook without what the engine did not tell: the hook then reads the profile in the bundle.
    fn told(&self, mut hook: Hook) -> Hook {
        if !self.profile_known
            && let Some(at) = hook.args.iter().position(|word| word == spec_edit::OWN_SECCOMP)
        {
            hook.args.drain(at..hook.args.len().min(at + 2));
        }
        hook
    }
}

/// Whether the container's own profile is known, or why not. A profile of ours that does not hold what its own refuses would take
/// from its security.
fn profile_known(container: &Container, engine: &Engine) -> Result<(), String> {
    let linux = container.linux.clone().unwrap_or_default();
    let told = linux.seccomp_policy.is_some() || engine.tells_seccomp();
    let unconfined = linux.seccomp_profile.is_some_and(|profile| profile.profile_type == UNCONFINED);
    let crio = container.annotations.get(CRIO_PROFILE).is_some_and(|profile| profile == "Unconfined");
    if told || unconfined || crio {
        return Ok(());
    }
    Err(format!("{} does not tell the container's own seccomp profile, which ours would replace", engine.shown()))
}

/// Hooks as a config.json has them.
fn hooks(hooks: Option<&Hooks>) -> Value {
    let list = |hooks: &[Hook]| -> Vec<Value> {
        hooks.iter().map(|hook| json!({ "path": hook.path, "args": hook.args, "env": hook.env })).collect()
    };
    let hooks = hooks.cloned().unwrap_or_default();
    json!({ "createRuntime": list(&hooks.create_runtime), "poststop": list(&hooks.poststop) })
}

/// The last hook of a stage, which is where the edit puts acctguard's.
fn last_hook(spec: &Value, stage: &str) -> Option<Hook> {
    let hook = spec.get("hooks")?.get(stage)?.as_array()?.last()?;
    let words = |key: &str| {
        let words = hook.get(key).and_then(Value::as_array).into_iter().flatten();
        words.filter_map(|word| word.as_str().map(ToOwned::to_owned)).collect()
    };
    Some(Hook { path: hook.get("path")?.as_str()?.to_owned(), args: words("args"), env: words("env") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nri::messages::LinuxContainer;
    use crate::nri::messages::PodSandbox;
    use crate::nri::messages::SecurityProfile;
    use crate::oci::seccomp_closed::UnknownCalls;
    use crate::oci::seccomp_merge::Listener;
    use crate::oci::spec_edit::Interception;
    use crate::oci::spec_edit::Reader;
    use crate::oci::spec_edit::Signals;

    fn captured(name: &str) -> Value {
        let file = format!("{}/integration/fixtures/captures/{name}", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_slice(&std::fs::read(file).expect("captured")).expect("JSON")
    }

    /// What an engine that tells everything would ask about the container of `spec`.
    fn request(spec: &Value, told: bool) -> CreateContainerRequest {
        let annotations = serde_json::from_value(spec["annotations"].clone()).expect("texts");
        let policy = spec.pointer("/linux/seccomp").filter(|_| told);
        let linux = LinuxContainer {
            seccomp_profile: Some(SecurityProfile { profile_type: 0 }),
            seccomp_policy: policy.map(|policy| seccomp::message(policy).expect("expressible")),
        };
        let pod = PodSandbox {
            annotations: [("acctguard.io/mode", "enforce"), ("example.com/other", "x")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        };
        let container = Container { id: "c1".to_owned(), annotations, hooks: None, linux: Some(linux) };
        CreateContainerRequest { pod: Some(pod), container: Some(container) }
    }

    fn with(interception: Interception<'_>, unknown_calls: UnknownCalls) -> Edit<'_> {
        Edit {
            hook_program: Path::new("/usr/libexec/acctguard/acctguard-hook"),
            config_file: None,
            listener: Listener { path: "/run/acctguard/listener.sock", metadata: "acctguard/1" },
            interception,
            unknown_calls,
            signals: Signals::Cancel { reason: "a reason" },
            placement: None,
            reader: Reader::AsSpecified,
        }
    }

    /// What an engine makes of an adjustment: it adds the hooks and replaces the profile (nri `pkg/runtime-tools/generate`).
    fn applied(spec: &Value, adjustment: &ContainerAdjustment) -> Value {
        let mut spec = spec.clone();
        for (stage, hooks) in hooks(adjustment.hooks.as_ref()).as_object().expect("object") {
            let list = spec["hooks"].as_object_mut().map(|own| own.entry(stage).or_insert(json!([])));
            match list {
                Some(list) => list.as_array_mut().expect("list").extend(hooks.as_array().expect("list").clone()),
                None => spec["hooks"][stage] = hooks.clone(),
            }
        }
        if let Some(policy) = adjustment.linux.as_ref().and_then(|linux| linux.seccomp_policy.as_ref()) {
            spec["linux"]["seccomp"] = seccomp::section(policy);
        }
        spec
    }

    /// The same members, in whatever order; empty lists are none, as in an engine's types.
    fn normal(spec: &Value) -> Value {
        let mut spec = spec.clone();
        let profile = spec["linux"]["seccomp"].take();
        spec["linux"]["seccomp"] = seccomp::section(&seccomp::message(&profile).expect("expressible"));
        spec
    }

    #[test]
    fn the_adjusted_document_is_the_one_that_the_precreate_hook_makes() {
        let engine = Engine::new("containerd", "2.3.4");
        for name in ["containerd21-config.json", "containerd21-nrihook-config.json", "containerd17-userns-config.json"]
        {
            for unknown in [UnknownCalls::AsProfile, UnknownCalls::Refused] {
                let spec = captured(name);
                let edit = with(Interception::Install, unknown);
                let creation = Creation::of(&request(&spec, true), &engine).expect("a container");
                assert!(creation.obstacle().is_none() && !creation.is_guarded());
                let adjustment = creation.adjustment(&edit).expect("adjusts");
                let expected = spec_edit::edit(&spec, &edit).expect("edits");
                assert!(expected.intercepted);
                assert_eq!(normal(&applied(&spec, &adjustment)), normal(&expected.spec), "{name}");
                let twice = spec_edit::edit(&applied(&spec, &adjustment), &edit).expect("edits");
                assert_eq!(normal(&twice.spec), normal(&expected.spec), "the shim behind it changes nothing");
            }
        }
    }

    #[test]
    fn annotations_of_the_pod_that_are_ours_are_passed_on() {
        let creation =
            Creation::of(&request(&captured("containerd21-config.json"), true), &Engine::new("containerd", "2.3.4"))
                .expect("a container");
        let adjustment = creation.adjustment(&with(Interception::Off, UnknownCalls::AsProfile)).expect("adjusts");
        assert_eq!(adjustment.annotations.get("acctguard.io/mode").map(String::as_str), Some("enforce"));
        assert!(adjustment.annotations.keys().all(|key| key.starts_with("acctguard.io/")));
        assert!(adjustment.linux.is_none(), "nothing to intercept");
        assert_eq!(creation.workload(None).annotations["acctguard.io/mode"], "enforce");
        assert_eq!(creation.workload(None).container.pod.expect("a pod").name, "labpod");
    }

    #[test]
    fn a_profile_that_is_not_told_is_not_replaced() {
        let spec = captured("containerd21-config.json");
        for (version, words) in [("2.1.9", "takes no seccomp profile"), ("2.2.1", "does not tell")] {
            let creation =
                Creation::of(&request(&spec, false), &Engine::new("containerd", version)).expect("a container");
            let obstacle = creation.obstacle().expect("an obstacle");
            assert!(obstacle.contains(words) && obstacle.contains(version), "{obstacle}");
            let edit = with(Interception::Unprotected { reason: obstacle }, UnknownCalls::AsProfile);
            let adjustment = creation.adjustment(&edit).expect("adjusts");
            assert!(adjustment.linux.is_none());
            let hook = &adjustment.hooks.expect("hooks").create_runtime[0];
            assert_eq!(hook.args, ["acctguard-hook", "createRuntime", "--unprotected", obstacle]);
        }
    }

    #[test]
    fn no_profile_is_known_where_it_is_told_or_can_be_told() {
        let mut unconfined = request(&json!({"annotations": {}}), false);
        let known = |request: &CreateContainerRequest, engine, version| {
            Creation::of(request, &Engine::new(engine, version)).expect("a container").obstacle().is_none()
        };
        assert!(!known(&unconfined, "containerd", "2.2.0") && known(&unconfined, "containerd", "2.3.0"));
        let crio = json!({"annotations": {CRIO_PROFILE: "Unconfined"}});
        assert!(known(&request(&crio, false), "cri-o", "1.36.3"));
        assert!(!known(&request(&captured("crio-config.json"), false), "cri-o", "1.36.3"));
        let linux = unconfined.container.as_mut().and_then(|container| container.linux.as_mut()).expect("is there");
        linux.seccomp_profile = Some(SecurityProfile { profile_type: UNCONFINED });
        assert!(known(&unconfined, "containerd", "2.2.0"));
    }

    #[test]
    fn what_is_guarded_already_is_seen() {
        let mut request = request(&captured("containerd21-config.json"), true);
        let hook = Hook { path: "/x/acctguard-hook".to_owned(), ..Hook::default() };
        request.container.as_mut().expect("is there").hooks =
            Some(Hooks { create_runtime: vec![hook], poststop: Vec::new() });
        assert!(Creation::of(&request, &Engine::default()).expect("a container").is_guarded());
        request.container.as_mut().expect("is there").id = "no\nid".to_owned();
        assert!(Creation::of(&request, &Engine::default()).is_err());
        assert!(Creation::of(&CreateContainerRequest::default(), &Engine::default()).is_err());
    }
}

use std::collections::BTreeMap;

use super::*;
use crate::model::attempt::Attempt;
use crate::model::attempt::Effect;
use crate::model::event::Container;
use crate::model::event::Creator;
use crate::model::event::Image;
use crate::model::event::Pod;
use crate::model::policy::decide::Decision;
use crate::model::policy::decide::EPERM;
use crate::model::policy::decide::decide;
use crate::model::policy::decide::judge_creation;
use crate::model::workload::ContainerId;

fn workload() -> Workload {
    Workload {
        container: Container {
            id: ContainerId::new("c1").unwrap(),
            name: Some("main".to_owned()),
            image: Some(Image {
                name: "registry.example/team/app".to_owned(),
                tag: Some("1.0".to_owned()),
                digest: Some("sha256:0123".to_owned()),
                id: None,
            }),
            engine: "containerd".to_owned(),
            runtime: None,
            pod: Some(Pod { namespace: "prod-eu".to_owned(), name: "app-1".to_owned(), uid: None }),
            started_at: None,
        },
        annotations: BTreeMap::from([("team".to_owned(), "blue".to_owned())]),
        cluster: Some("eu-1".to_owned()),
        privileged: false,
    }
}

fn set(specs: &[&str]) -> PolicySet {
    let documents = specs.iter().enumerate().flat_map(|(position, spec)| {
        let text = format!(
            "apiVersion: acctguard.io/v1alpha1\nkind: AccountPolicy\nmetadata: {{name: p{position}}}\nspec: {spec}\n"
        );
        parse::parse_documents("p.yaml", &text).unwrap_or_else(|error| panic!("{}", error.diagnostic()))
    });
    PolicySet { documents: documents.collect() }
}

fn attempt(effect: Effect) -> Attempt {
    Attempt {
        call: "openat",
        effect,
        database: None,
        path_as_asked: None,
        object_path: None,
        object: None,
        flags: Vec::new(),
    }
}

#[test]
fn all_conditions_must_hold_and_lists_are_alternatives() {
    for (matching, expected) in [
        ("{}", true),
        ("{namespaces: [prod-*]}", true),
        ("{namespaces: [dev, prod-eu]}", true),
        ("{namespaces: [dev]}", false),
        ("{images: [registry.example/team/app]}", true),
        ("{images: ['registry.example/*:1.0']}", true),
        ("{images: ['registry.example/*@sha256:*']}", true),
        ("{images: ['registry.example/team/app:1.0@sha256:0123']}", true),
        ("{images: ['registry.example/team/app:2.0']}", false),
        ("{images: [app]}", false),
        ("{pods: [app-?]}", true),
        ("{containers: [main]}", true),
        ("{containers: [c1]}", false),
        ("{engines: [docker, containerd]}", true),
        ("{engines: [docker]}", false),
        ("{clusters: ['eu-*']}", true),
        ("{annotations: {team: b*}}", true),
        ("{annotations: {team: red}}", false),
        ("{annotations: {team: b*, tier: '*'}}", false),
        ("{privileged: false}", true),
        ("{privileged: true}", false),
        ("{namespaces: [prod-*], engines: [docker]}", false),
        ("{namespaces: [prod-*], engines: [containerd]}", true),
    ] {
        let set = set(&[&format!("{{mode: enforce, match: {matching}}}")]);
        let name = if expected { "p0" } else { BUILT_IN_NAME };
        assert_eq!(set.apply(&workload()).name, name, "{matching}");
        assert_eq!(set.trace(&workload()).1.is_some(), expected, "{matching}");
    }
}

#[test]
fn what_an_engine_does_not_tell_does_not_match() {
    let mut bare = workload();
    bare.container.image = None;
    bare.container.pod = None;
    bare.container.name = None;
    bare.cluster = None;
    for matching in ["{namespaces: ['*']}", "{images: ['*']}", "{pods: ['*']}", "{clusters: ['*']}"] {
        let set = set(&[&format!("{{mode: enforce, match: {matching}}}")]);
        assert_eq!(set.apply(&bare).name, BUILT_IN_NAME, "{matching}");
        assert!(set.trace(&bare).0[0].1.to_string().contains("has none"), "{matching}");
    }
    assert_eq!(set(&["{mode: enforce, match: {containers: [c1]}}"]).apply(&bare).name, "p0");
}

#[test]
fn the_first_that_matches_decides() {
    let set =
        set(&["{mode: off, match: {namespaces: [dev]}}", "{mode: enforce, match: {pods: [app-*]}}", "{mode: off}"]);
    let applied = set.apply(&workload());
    assert_eq!((applied.name.as_str(), applied.mode), ("p1", Mode::Enforce));
    assert_eq!(applied.on_unprotected, OnUnprotected::Refuse);
    let (passed, decides) = set.trace(&workload());
    assert_eq!(passed[0].1.to_string(), "namespaces: prod-eu is not among [\"dev\"]");
    assert_eq!(decides.map(|document| document.name.as_str()), Some("p1"));
    let default = PolicySet::default().apply(&workload());
    assert_eq!((default.name.as_str(), default.mode), (BUILT_IN_NAME, Mode::Audit));
    assert_eq!(default.on_unprotected, OnUnprotected::Record);
    assert_eq!(default.databases.len(), DatabasePath::BUILT_IN.len());
}

#[test]
fn own_databases_are_added_once() {
    let applied = set(&["{mode: audit, databases: [/opt/users, /etc/passwd]}"]).apply(&workload());
    assert_eq!(applied.databases.len(), DatabasePath::BUILT_IN.len() + 1);
    assert_eq!(applied.databases.last().unwrap().as_str(), "/opt/users");
}

#[test]
fn an_annotation_tightens_and_never_loosens() {
    for (spec, annotation, mode, on_unprotected, source) in [
        ("off", "audit", Mode::Audit, OnUnprotected::Record, "annotation acctguard.io/mode"),
        ("audit", "enforce", Mode::Enforce, OnUnprotected::Refuse, "annotation acctguard.io/mode"),
        ("audit", "off", Mode::Audit, OnUnprotected::Record, "mode"),
        ("enforce", "off", Mode::Enforce, OnUnprotected::Refuse, "mode"),
        ("enforce", "audit", Mode::Enforce, OnUnprotected::Refuse, "mode"),
        ("enforce", "enforce", Mode::Enforce, OnUnprotected::Refuse, "mode"),
        ("audit", "Enforce", Mode::Audit, OnUnprotected::Record, "mode"),
        (
            "audit, onUnprotected: record",
            "enforce",
            Mode::Enforce,
            OnUnprotected::Record,
            "annotation acctguard.io/mode",
        ),
    ] {
        let mut workload = workload();
        workload.annotations.insert(MODE_ANNOTATION.to_owned(), annotation.to_owned());
        let applied = set(&[&format!("{{mode: {spec}}}")]).apply(&workload);
        let found = (applied.mode, applied.on_unprotected, applied.mode_source);
        assert_eq!(found, (mode, on_unprotected, source), "{spec} with {annotation}");
        assert_eq!(applied.ignored_annotation.is_some(), annotation == "Enforce");
    }
    let mut workload = workload();
    workload.annotations.insert(MODE_ANNOTATION.to_owned(), "enforce".to_owned());
    assert_eq!(PolicySet::default().apply(&workload).mode, Mode::Enforce);
}

#[test]
fn enforce_refuses_all_but_running_a_tool() {
    let effects = [
        Effect::Writes,
        Effect::Replaces,
        Effect::Aliases,
        Effect::ReplacesAncestor,
        Effect::RunsAccountTool,
        Effect::Bypasses,
        Effect::Unresolved,
    ];
    for mode in ["off", "audit", "enforce, allow: [{reason: r}]"] {
        let applied = set(&[&format!("{{mode: {mode}}}")]).apply(&workload());
        for effect in effects {
            let decision = decide(&applied, &attempt(effect));
            let blocked = applied.mode == Mode::Enforce && effect != Effect::RunsAccountTool;
            match decision {
                Decision::Block { errno, rule } => {
                    assert!(blocked && errno == EPERM && rule == "mode", "{mode} {effect:?}");
                }
                Decision::Allow { .. } => assert!(!blocked, "{mode} {effect:?}"),
                Decision::RefusedByKernel { .. } => panic!("{mode} {effect:?} is for policy to decide"),
            }
        }
        let decision = decide(&applied, &attempt(Effect::Listens));
        assert!(matches!(decision, Decision::RefusedByKernel { .. }), "{mode}: {decision:?}");
    }
}

#[test]
fn creations_are_judged() {
    let creator = Creator { uid: 1000, user: Some("ci".to_owned()), ..Creator::default() };
    let mut sandbox = workload();
    sandbox.container.image = None;
    let unknown = sandbox.clone();
    sandbox.annotations.insert("io.kubernetes.cri.container-type".to_owned(), "sandbox".to_owned());
    for (workload, rule, expected, refused) in [
        (&workload(), "{}", true, false),
        (&workload(), "{images: ['registry.example/*@sha256:*']}", true, false),
        (&workload(), "{images: [other/*]}", false, false),
        (&workload(), "{images: [other/*], onUnexpected: refuse}", false, true),
        (&workload(), "{images: ['*'], onUnexpected: refuse}", true, false),
        (&workload(), "{creators: [ci]}", true, false),
        (&workload(), "{creators: ['uid:1000']}", true, false),
        (&workload(), "{creators: ['system:serviceaccount:ci:*'], onUnexpected: refuse}", false, true),
        (&unknown, "{images: ['*'], onUnexpected: refuse}", false, true),
        (&sandbox, "{images: ['*'], onUnexpected: refuse}", true, false),
    ] {
        let applied = set(&[&format!("{{mode: audit, creation: {rule}}}")]).apply(workload);
        let verdict = judge_creation(&applied, workload, &creator);
        assert_eq!(verdict.result, if expected { "expected" } else { "unexpected" }, "{rule}");
        assert_eq!(verdict.refused, refused, "{rule}");
        assert_eq!(verdict.reasons.is_empty(), expected, "{rule}");
    }
    let verdict = judge_creation(&Applied::built_in(), &workload(), &creator);
    assert_eq!((verdict.result.as_str(), verdict.refused), ("expected", false));
}

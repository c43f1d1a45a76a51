use std::time::Duration;

use super::*;
use crate::model::policy::Mode;
use crate::model::policy::OnUnprotected;
use crate::model::policy::rule::ExecSessions;
use crate::model::policy::rule::Landlock;
use crate::model::policy::rule::OnUnexpected;
use crate::model::policy::rule::UidRule;

/// The document of the contract, whole.
const CONTRACT: &str = r#"apiVersion: acctguard.io/v1alpha1
kind: AccountPolicy
metadata: {name: production}
spec:
  match:                      # all given must hold; lists are alternatives; globs
    namespaces: ["prod-*"]
    images: ["registry.example/*"]
    # also: pods, containers, engines, clusters, annotations, privileged
  mode: enforce               # off | audit | enforce
  landlock: preferred         # required | preferred | off
  exec: brokered              # brokered | sealed: exec sessions
  onUnprotected: refuse       # refuse | record: the protection cannot be put in place
  databases: ["/opt/app/users"]        # beyond the built-in ones
  allow:                      # exceptions, each with a reason
  - reason: entrypoint registers its own random uid
    accounts: {names: ["default", "app"], uid: self}   # self | "1000-1999" | never 0 unless said
    changes: [account_added]
    by: ["/usr/local/bin/entrypoint.sh"]   # exe or script, optional
    within: 60s                            # of the container's start, optional
  creation:                   # what is expected of a new container (DC0072)
    images: ["registry.example/*@sha256:*"]
    creators: ["system:serviceaccount:ci:*"]
    onUnexpected: record      # record | refuse
"#;

fn document(spec: &str) -> String {
    format!("apiVersion: acctguard.io/v1alpha1\nkind: AccountPolicy\nmetadata: {{name: p}}\nspec:\n{spec}")
}

#[test]
fn the_document_of_the_contract_is_understood() {
    let documents = parse_documents("c.yaml", CONTRACT).unwrap();
    let [policy] = documents.as_slice() else { panic!("one document") };
    assert_eq!((policy.name.as_str(), policy.line, policy.mode), ("production", 1, Mode::Enforce));
    assert_eq!(policy.matching.namespaces.as_ref().unwrap()[0].as_str(), "prod-*");
    assert_eq!((policy.landlock, policy.exec), (Landlock::Preferred, ExecSessions::Brokered));
    assert_eq!(policy.on_unprotected, Some(OnUnprotected::Refuse));
    assert_eq!(policy.databases[0].as_str(), "/opt/app/users");
    let allow = &policy.allow[0];
    assert_eq!((allow.uid, allow.within), (UidRule::OwnUid, Some(Duration::from_secs(60))));
    assert_eq!(allow.changes.as_deref(), Some(&["account_added".to_owned()][..]));
    assert_eq!(allow.names.as_ref().unwrap().len(), 2);
    let creation = policy.creation.as_ref().unwrap();
    assert_eq!(creation.on_unexpected, OnUnexpected::Record);
    assert_eq!(creation.creators.as_ref().unwrap()[0].as_str(), "system:serviceaccount:ci:*");
    assert!(policy.digest.starts_with("sha256:"));
}

#[test]
fn every_word_of_a_choice_is_understood() {
    for (spec, check) in [
        ("  mode: off\n", (|p| p.mode == Mode::Off) as fn(&PolicyDocument) -> bool),
        ("  mode: audit\n", |p| p.mode == Mode::Audit && p.on_unprotected.is_none()),
        ("  {mode: audit, landlock: off}\n", |p| p.landlock == Landlock::Off),
        ("  {mode: audit, landlock: required, exec: sealed}\n", |p| {
            p.landlock == Landlock::Required && p.exec == ExecSessions::Sealed
        }),
        ("  {mode: audit, onUnprotected: record}\n", |p| p.on_unprotected == Some(OnUnprotected::Record)),
        ("  {mode: audit, match: {privileged: true, annotations: {team: 'a*'}}}\n", |p| {
            p.matching.privileged == Some(true) && p.matching.annotations[0].0 == "team"
        }),
        ("  {mode: enforce, allow: [{reason: r, accounts: {uid: 1000-1999}}]}\n", |p| {
            p.allow[0].uid == UidRule::Range { first: 1000, last: 1999 }
        }),
        ("  {mode: enforce, allow: [{reason: r, accounts: {uid: 0}}]}\n", |p| {
            p.allow[0].uid == UidRule::Range { first: 0, last: 0 }
        }),
        ("  {mode: enforce, allow: [{reason: r, within: 2h}]}\n", |p| {
            p.allow[0].within == Some(Duration::from_secs(7200)) && p.allow[0].uid == UidRule::AnyButZero
        }),
        ("  {mode: audit, creation: {onUnexpected: refuse}}\n", |p| {
            p.creation.as_ref().unwrap().on_unexpected == OnUnexpected::Refuse
        }),
    ] {
        let documents = parse_documents("p.yaml", &document(spec)).unwrap_or_else(|error| panic!("{spec}: {error}"));
        assert!(check(&documents[0]), "{spec}: {:?}", documents[0]);
    }
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (spec, place, message) in [
        ("  mode: loud\n", "5:9", "loud"),
        ("  mode: audit\n  modes: x\n", "6:3", "modes"),
        ("  mode: audit\n  match: {namespace: [a]}\n", "6:11", "namespace"),
        ("  mode: audit\n  match: {namespaces: []}\n", "6:23", "empty list"),
        ("  mode: audit\n  match: {images: ['[a']}\n", "6:20", "malformed"),
        ("  mode: audit\n  match: {images: ['']}\n", "6:20", "empty"),
        ("  mode: audit\n  databases: [etc/passwd]\n", "6:15", "not absolute"),
        ("  mode: audit\n  databases: [/a/../b]\n", "6:15", "not clean"),
        ("  mode: enforce\n  allow: [{accounts: {uid: self}}]\n", "6:12", "reason"),
        ("  mode: enforce\n  allow: [{reason: ' '}]\n", "6:20", "reason"),
        ("  mode: enforce\n  allow: [{reason: r, accounts: {uid: 0-9}}]\n", "6:39", "holds 0"),
        ("  mode: enforce\n  allow: [{reason: r, accounts: {uid: 9-1}}]\n", "6:39", "ends before"),
        ("  mode: enforce\n  allow: [{reason: r, accounts: {uid: root}}]\n", "6:39", "not valid"),
        ("  mode: enforce\n  allow: [{reason: r, changes: [user_added]}]\n", "6:33", "not known"),
        ("  mode: enforce\n  allow: [{reason: r, by: [useradd]}]\n", "6:28", "absolute"),
        ("  mode: enforce\n  allow: [{reason: r, within: 5}]\n", "6:31", "duration"),
        ("  mode: enforce\n  allow: [{reason: r, within: 0s}]\n", "6:31", "duration"),
        ("  mode: audit\n  mode: off\n", "6:3", "uplicate"),
        ("  landlock: off\n", "", "mode"),
        ("  mode: [\n", "", ""),
    ] {
        let error = parse_documents("p.yaml", &document(spec)).expect_err(spec);
        let text = error.to_string();
        assert!(text.starts_with(&format!("p.yaml:{place}")), "{spec}: {text}");
        assert!(text.contains(message), "{spec}: {text}");
        assert!(!text.contains('\n'), "{text}");
        let lines: Vec<String> = error.diagnostic().lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(document(spec).lines().any(|line| line == &lines[1][2..]), "{lines:?}");
    }
    for (text, message) in [
        ("apiVersion: v2\nkind: AccountPolicy\nmetadata: {name: p}\nspec: {mode: audit}\n", "1:13: apiVersion"),
        ("apiVersion: acctguard.io/v1alpha1\nkind: Pod\nmetadata: {name: p}\nspec: {mode: audit}\n", "2:7: kind"),
        ("just text\n", "1:1"),
        (
            "apiVersion: acctguard.io/v1alpha1\nkind: AccountPolicy\nmetadata: {name: built-in}\nspec: {mode: audit}",
            "3:18",
        ),
        ("apiVersion: acctguard.io/v1alpha1\nkind: AccountPolicy\nmetadata: {name: A b}\nspec: {mode: audit}", "3:18"),
    ] {
        let error = parse_documents("p.yaml", text).expect_err(text).to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn a_file_may_hold_several_documents_and_each_has_its_digest() {
    let one = document("  mode: audit\n");
    let two = one.replace("name: p", "name: q");
    let text = format!("# head\n---\n{one}---\n# nothing here\n---\n{two}...\n# tail\n");
    let documents = parse_documents("p.yaml", &text).unwrap();
    let told: Vec<_> = documents.iter().map(|document| (document.name.as_str(), document.line)).collect();
    assert_eq!(told, [("p", 3), ("q", 11)]);
    assert_ne!(documents[0].digest, documents[1].digest);
    let text = format!("---\n{one}---\n{}", two.replace("audit", "loud"));
    let error = parse_documents("p.yaml", &text).unwrap_err();
    assert_eq!((error.line, error.column, error.excerpt.as_str()), (12, 9, "  mode: loud"));
    for empty in ["", "\n", "# only a comment\n", "---\n", "---\n---\n...\n"] {
        assert_eq!(parse_documents("p.yaml", empty), Ok(Vec::new()), "{empty:?}");
    }
    assert_eq!(parse_documents("p.yaml", &format!("%YAML 1.2\n---\n{one}")).map(|documents| documents.len()), Ok(1));
}

#[test]
fn hostile_documents_end_in_an_error() {
    let bomb = (0..20).fold("a: &a [x]\n".to_owned(), |text, level| {
        let before = if level == 0 { "a".to_owned() } else { format!("b{}", level - 1) };
        text + &format!("b{level}: &b{level} [{}]\n", vec![format!("*{before}"); 9].join(","))
    });
    assert!(parse_documents("p.yaml", &bomb).is_err());
    assert!(parse_documents("p.yaml", &"[".repeat(100_000)).is_err());
}

proptest::proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in "[a-z:\\[\\]{}\"'&*|>#%. \n-]{0,120}") {
        if let Err(error) = parse_documents("p.yaml", &text) {
            assert!(error.line <= text.lines().count().max(1));
            let _ = error.diagnostic();
        }
    }
}

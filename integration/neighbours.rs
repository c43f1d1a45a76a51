//! Two containers that share a pid namespace: one reaches for the other's database. Whose database it is decides.

use acctguard::model::event::{Event, Kind, Outcome};
use serde_json::{Value, json};

use crate::harness::bundle::{Bundle, Spec};
use crate::harness::command::finish;
use crate::harness::events::{changes, of};
use crate::harness::node::{Node, Runtime};

const WRITES: &str = "echo 'mallory:x:0:0::/root:/bin/sh' >> /proc/1/root/etc/passwd";

/// A policy for the container whose database it is, and one for the other.
fn policies(victim: &str, other: &str) -> String {
    let document = |name: &str, matching: &str, mode: &str| {
        format!(
            "apiVersion: acctguard.io/v1alpha1\nkind: AccountPolicy\nmetadata: {{name: {name}}}\n\
             spec:\n{matching}  mode: {mode}\n"
        )
    };
    let matching = "  match: {annotations: {role: victim}}\n";
    format!("{}---\n{}", document("victim", matching, victim), document("other", "", other))
}

fn pid_of(node: &Node, bundle: &Bundle) -> u64 {
    let state = finish(node.bare().arg("state").arg(&bundle.id)).ok().stdout;
    let state: Value = serde_json::from_str(&state).expect("state");
    state["pid"].as_u64().expect("pid")
}

/// Gives the container whose database is at stake, the one that reaches for it, and the exit status of that.
fn reach(node: &Node) -> (Bundle, Bundle, i32) {
    let mut spec = Spec::idle();
    spec.annotations.push(("role".to_owned(), "victim".to_owned()));
    let victim = node.launch(&spec);
    let other = node.bundle(&Spec::shell(WRITES));
    let mut config = other.config();
    let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
    namespaces.retain(|namespace| namespace["type"] != "pid");
    namespaces.push(json!({"type": "pid", "path": format!("/proc/{}/ns/pid", pid_of(node, &victim))}));
    other.write_config(&config);
    let code = node.run(&other).code();
    (victim, other, code)
}

fn finding(node: &Node, id: &str) -> Event {
    node.wait_for("a finding", |events| of(events, Kind::AccountFinding, id).first().map(|event| (*event).clone()))
}

fn a_neighbours_database_is_its_own_policys_to_decide(runtime: Runtime) {
    for (victim_mode, other_mode) in
        [("audit", "audit"), ("audit", "enforce"), ("enforce", "audit"), ("enforce", "enforce")]
    {
        let node = Node::start(runtime, &policies(victim_mode, other_mode));
        let (victim, other, code) = reach(&node);
        let case = format!("{victim_mode} beside {other_mode} on {}", runtime.name());
        let is_changed = victim.text("/etc/passwd").contains("mallory");
        assert_eq!((code == 0, is_changed), (victim_mode == "audit", victim_mode == "audit"), "{case}");
        let finding = finding(&node, &victim.id);
        let expected = if victim_mode == "audit" { Outcome::Allowed } else { Outcome::Blocked };
        let verdict = finding.verdict.as_ref().expect("verdict");
        assert_eq!(verdict.result, expected, "{case}: {finding:?}");
        assert!(verdict.witness.contains(&"notify".to_owned()), "{case}: {finding:?}");
        let actor = finding.actor.as_ref().expect("actor");
        assert_eq!(actor.container.as_ref(), Some(&other.id), "{case}");
        assert_eq!(finding.policy.as_ref().map(|policy| policy.name.as_str()), Some("victim"), "{case}");
        if victim_mode == "audit" {
            assert_eq!(changes(&[&finding]), ["account_added mallory"], "{case}");
        }
        assert_eq!(of(&node.events(), Kind::AccountFinding, &other.id), Vec::<&Event>::new(), "{case}");
    }
}

#[test]
fn runc_a_neighbours_database_is_its_own_policys_to_decide() {
    a_neighbours_database_is_its_own_policys_to_decide(Runtime::Runc);
}

#[test]
fn crun_a_neighbours_database_is_its_own_policys_to_decide() {
    a_neighbours_database_is_its_own_policys_to_decide(Runtime::Crun);
}

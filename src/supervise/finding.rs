//! The events of a case: attempts, findings, and what could not be told.

use uuid::Uuid;

use crate::model::account;
use crate::model::account::Databases;
use crate::model::attempt::Effect;
use crate::model::event;
use crate::model::event::Change;
use crate::model::event::Event;
use crate::model::event::Kind;
use crate::model::event::Operation;
use crate::model::event::Outcome;
use crate::model::event::PolicyReference;
use crate::model::event::ProtectionChange;
use crate::model::event::Severity;
use crate::model::event::Verdict;
use crate::model::redact;
use crate::supervise::account_tools;
use crate::supervise::actor::Acting;
use crate::supervise::attribution::Writer;
use crate::supervise::case::Identity;
use crate::supervise::incident::Act;
use crate::supervise::incident::Sighting;
use crate::supervise::moment::Moment;
use crate::supervise::witness::Witness;

/// An event about the case's container.
pub fn bare(identity: &Identity, kind: Kind, severity: Severity, now: Moment) -> Event {
    let mut event = Event::new(Uuid::now_v7(), now.wall, kind, severity, identity.host.clone());
    event.container = Some(identity.container.clone());
    event
}

/// The event of one attempt that `witness` saw, or of `count` equal ones.
pub fn attempt(
    identity: &Identity,
    (sighting, witness): (&Sighting, Witness),
    incident: event::Incident,
    count: Option<u64>,
) -> Event {
    let mut event = bare(identity, Kind::AccountAttempt, attempt_severity(sighting), sighting.at);
    event.policy = Some(sighting.policy.clone());
    event.session.clone_from(&sighting.session);
    event.actor = Some(sighting.acting.actor.clone());
    event.operation = Some(operation(sighting));
    event.verdict = Some(verdict(sighting.outcome, vec![witness.word()], sighting.errno(witness)));
    event.incident = Some(incident);
    event.count = count;
    event
}

fn attempt_severity(sighting: &Sighting) -> Severity {
    match (sighting.outcome, sighting.seen.attempt.effect) {
        // its own program does not get what it wants; no account is concerned
        (_, Effect::Listens) => Severity::Medium,
        (Outcome::Blocked, _) => Severity::High,
        (_, Effect::RunsAccountTool) => Severity::Low,
        _ => Severity::Medium,
    }
}

fn operation(sighting: &Sighting) -> Operation {
    let attempt = &sighting.seen.attempt;
    Operation {
        call: attempt.call.to_owned(),
        path: attempt.path_as_asked.as_deref().map(redact::printable),
        object: attempt.object_path.as_deref().map(redact::printable),
        database: attempt.database.as_ref().map(ToString::to_string),
        effect: effect_word(attempt.effect).to_owned(),
        flags: attempt.flags.iter().map(|flag| (*flag).to_owned()).collect(),
    }
}

const fn effect_word(effect: Effect) -> &'static str {
    match effect {
        Effect::Writes => "writes",
        Effect::Replaces => "replaces",
        Effect::Aliases => "aliases",
        Effect::ReplacesAncestor => "replaces_ancestor",
        Effect::RunsAccountTool => "runs_account_tool",
        Effect::Bypasses => "bypasses",
        Effect::Listens => "listens",
        Effect::Unresolved => "unresolved",
    }
}

fn verdict(result: Outcome, witnesses: Vec<&str>, errno: &str) -> Verdict {
    Verdict {
        result,
        witness: witnesses.into_iter().map(str::to_owned).collect(),
        errno: (result == Outcome::Blocked).then(|| errno.to_owned()),
    }
}

/// The finding of an act that changed something or was refused something.
pub fn of_act(identity: &Identity, act: &Act, before: &Databases, now: Moment) -> Event {
    let changed = !act.changes.is_empty();
    let mut changes = act.changes.clone();
    if act.has_untold_refusal() {
        changes.extend(intended(act, before));
    }
    let outcome = if changed { Outcome::Allowed } else { Outcome::Blocked };
    let mut witnesses = act.witnesses();
    witnesses.extend(act.seen_by_fanotify.then_some("fanotify"));
    witnesses.extend(changed.then_some("content"));
    let mut event = bare(identity, Kind::AccountFinding, severity(&changes, outcome), now);
    if let Some(sighting) = act.decisive() {
        event.policy = Some(sighting.policy.clone());
        event.session.clone_from(&sighting.session);
        event.actor = Some(sighting.acting.actor.clone());
        event.operation = Some(operation(sighting));
    }
    event.verdict = Some(verdict(outcome, witnesses, act.errno()));
    event.changes = Some(changes);
    event.incident = Some(act.published());
    event
}

/// What the refused attempts of an act were about to do: by the content they wanted to put in place, else by the arguments of
/// the account tool, of the actor or of one of its ancestors.
fn intended(act: &Act, before: &Databases) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    for sighting in act.sightings().filter(|sighting| sighting.outcome == Outcome::Blocked) {
        for change in proposed_changes(sighting, before) {
            if !changes.contains(&change) {
                changes.push(change);
            }
        }
    }
    if !changes.is_empty() || !act.changes.is_empty() {
        return changes;
    }
    let of_tools = act.sightings().map(|sighting| &sighting.seen.tool_arguments);
    let of_actors = act.sightings().map(|sighting| &sighting.acting.actor.argv);
    let of_ancestors =
        act.sightings().flat_map(|sighting| sighting.acting.actor.ancestry.iter().map(|process| &process.argv));
    let mut told = of_tools.chain(of_actors).chain(of_ancestors).map(|argv| account_tools::intended_changes(argv));
    told.find(|changes| !changes.is_empty()).unwrap_or_default()
}

fn proposed_changes(sighting: &Sighting, before: &Databases) -> Vec<Change> {
    match (&sighting.seen.attempt.database, &sighting.seen.proposed) {
        (Some(database), Some(proposed)) if !database.is_directory() => account::intended(before, database, proposed),
        _ => Vec::new(),
    }
}

/// Whether the act was let put just this change in place, by a rename or link of a file with it.
pub fn put_in_place(act: &Act, before: &Databases, change: &Change) -> bool {
    let is_it = |intended: &Change| {
        (&intended.change, &intended.database, &intended.name, &intended.member)
            == (&change.change, &change.database, &change.name, &change.member)
    };
    act.sightings()
        .filter(|sighting| sighting.touched(&change.database))
        .any(|sighting| proposed_changes(sighting, before).iter().any(is_it))
}

/// The finding of changes that no attempt explains.
pub fn unexplained(
    identity: &Identity,
    policy: PolicyReference,
    changes: Vec<Change>,
    writers: &[Writer],
    first: Moment,
    now: Moment,
) -> Event {
    let concerned = |writer: &&Writer| changes.iter().any(|change| writer.wrote(&change.database));
    let writers: Vec<&Writer> = writers.iter().filter(concerned).collect();
    let witnesses = if writers.is_empty() { vec!["content"] } else { vec!["fanotify", "content"] };
    let mut event = bare(identity, Kind::AccountFinding, severity(&changes, Outcome::Observed), now);
    event.policy = Some(policy);
    let acting = writers.iter().find_map(|writer| writer.acting.as_ref()).map(|acting| acting.actor.clone());
    event.actor = acting.or_else(|| writers.first().map(|writer| Acting::gone(writer.pid).actor));
    event.verdict = Some(verdict(Outcome::Observed, witnesses, ""));
    event.changes = Some(changes);
    event.incident =
        Some(event::Incident { id: Uuid::now_v7(), attempts: 0, blocked: 0, first: first.wall, last: now.wall });
    event
}

/// A change of where accounts are looked up weighs as much as an added account: it lets in accounts nobody has seen.
fn severity(changes: &[Change], outcome: Outcome) -> Severity {
    const HIGH: [&str; 2] = ["account_added", "lookup_changed"];
    const CRITICAL_FLAGS: [&str; 2] = ["uid_zero", "no_password"];
    let is_critical = |change: &Change| {
        change.change == "password_set" || change.flags.iter().any(|flag| CRITICAL_FLAGS.contains(&flag.as_str()))
    };
    if changes.iter().any(is_critical) {
        Severity::Critical
    } else if outcome == Outcome::Blocked || changes.iter().any(|change| HIGH.contains(&change.change.as_str())) {
        Severity::High
    } else {
        Severity::Medium
    }
}

/// That some of the databases cannot be read.
pub fn unreadable(identity: &Identity, databases: &Databases, now: Moment) -> Event {
    let reasons: Vec<String> = databases.unreadable().map(|(path, reason)| format!("{path}: {reason}")).collect();
    let mut event = bare(identity, Kind::ProtectionDegraded, Severity::High, now);
    event.protection = Some(ProtectionChange {
        what: "changes of some databases cannot be told".to_owned(),
        reason: reasons.join("; "),
        remedy: None,
    });
    event
}

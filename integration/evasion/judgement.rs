//! Whether what became of a technique is right, by the databases and by the record.

use acctguard::model::event::{Event, Kind, Outcome};

use super::databases::Difference;
use super::technique::Right;
use super::technique::Stop;
use super::trial::Entry;
use super::trial::Trial;
use crate::harness::events::{container_id, of};

/// What is asked of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Nobody guards: does the technique change the database at all?
    Control,
    /// Is it found?
    Audit,
    /// Is it blocked?
    Enforce,
}

impl Question {
    /// As the table says it; for a guarded container the mode of its policy.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Audit => "audit",
            Self::Enforce => "enforce",
        }
    }
}

/// The answer.
#[derive(Debug, Clone)]
pub struct Judgement {
    /// Whether it is as it must be.
    pub right: bool,
    /// One word for the table, and the first letters of the witnesses.
    pub word: String,
    /// What to know of a miss.
    pub detail: String,
    /// `creation.protection.ground` of the container that the technique ran in; empty in a control.
    pub ground: String,
}

/// Judges `trial` by the events of its node.
pub fn judge(question: Question, trial: &Trial, events: &[Event]) -> Judgement {
    let (right, word) = match &trial.changed {
        Err(_) => (false, "ERROR".to_owned()),
        Ok(changed) => judge_changes(question, trial, changed, events),
    };
    Judgement { right, word, detail: detail(trial, events), ground: ground(trial, events) }
}

fn judge_changes(question: Question, trial: &Trial, changed: &Difference, events: &[Event]) -> (bool, String) {
    let happened = changed.bytes.iter().any(|path| path == trial.technique.changes);
    let found = finding(trial, events);
    match (question, trial.technique.right) {
        (Question::Control, _) if happened => (true, "changes".to_owned()),
        (Question::Control, _) => (false, "NOTHING".to_owned()),
        (Question::Audit, _) | (Question::Enforce, Right::Observed) if !happened => (false, "DIFFERS".to_owned()),
        (Question::Audit, _) | (Question::Enforce, Right::Observed) => match found {
            Some((witnesses, true)) => (true, format!("found {witnesses}")),
            // What is found when the container ends is as good as unseen while it lives.
            Some((witnesses, false)) => (false, format!("LATE {witnesses}")),
            None => (false, "UNSEEN".to_owned()),
        },
        (Question::Enforce, _) if !changed.is_empty() => {
            (false, found.map_or("CHANGED,unseen".to_owned(), |(witnesses, _)| format!("CHANGED {witnesses}")))
        }
        (Question::Enforce, _) if is_blocked(trial, events) => (true, "blocked".to_owned()),
        (Question::Enforce, Right::BlockedOrStopped(stop)) if is_stopped(stop, trial, events) => {
            (true, "stopped".to_owned())
        }
        (Question::Enforce, _) => (false, "UNTOLD".to_owned()),
    }
}

/// The first letters of the witnesses of a finding of this change in the right container, and whether it came before the
/// container was told to end.
fn finding(trial: &Trial, events: &[Event]) -> Option<(String, bool)> {
    let findings = of(events, Kind::AccountFinding, &trial.victim);
    let is_it = |event: &&&Event| {
        let changes = event.changes.iter().flatten();
        let happened = event.verdict.as_ref().is_some_and(|verdict| verdict.result != Outcome::Blocked);
        happened && changes.into_iter().any(|change| concerns(&change.database, trial.technique.changes))
    };
    let event = findings.iter().find(is_it)?;
    let witnesses = event.verdict.iter().flat_map(|verdict| verdict.witness.iter());
    let in_time = trial.ended.is_none_or(|ended| event.time.0 < ended);
    Some((witnesses.filter_map(|witness| witness.chars().next()).collect(), in_time))
}

fn concerns(database: &str, path: &str) -> bool {
    database == path || (database.ends_with('/') && path.starts_with(database))
}

/// Whether a refusal is on record, of the container that acted or of the one whose databases were at stake.
fn is_blocked(trial: &Trial, events: &[Event]) -> bool {
    events.iter().any(|event| {
        let concerned = container_id(event).is_some_and(|id| id == trial.acting || id == trial.victim);
        let told = matches!(event.kind, Kind::AccountAttempt | Kind::AccountFinding);
        concerned && told && event.verdict.as_ref().is_some_and(|verdict| verdict.result == Outcome::Blocked)
    })
}

/// Whether the technique ended with the errno of `stop`, where that can be.
fn is_stopped(stop: Stop, trial: &Trial, events: &[Event]) -> bool {
    let (can_be, errno) = match stop {
        Stop::Seal => (trial.entry == Entry::Container && ground(trial, events) == "seal", nix::libc::EPERM),
        Stop::ClosedProfile => (true, nix::libc::ENOSYS),
    };
    can_be && trial.output.lines().any(|line| line == format!("ended {errno}"))
}

fn ground(trial: &Trial, events: &[Event]) -> String {
    let created = of(events, Kind::ContainerCreated, &trial.acting);
    let creation = created.first().and_then(|event| event.creation.as_ref());
    creation.map(|creation| creation.protection.ground.as_str().to_owned()).unwrap_or_default()
}

/// What changed, what the technique said, what is on record.
fn detail(trial: &Trial, events: &[Event]) -> String {
    let record = events.iter().filter(|event| {
        let concerned = container_id(event).is_some_and(|id| id == trial.acting || id == trial.victim);
        concerned && matches!(event.kind, Kind::AccountAttempt | Kind::AccountFinding | Kind::ProtectionDegraded)
    });
    let lines: Vec<String> = record.map(line).collect();
    let said = trial.output.lines().rev().take(3).collect::<Vec<_>>().join(" | ");
    let changed = match &trial.changed {
        Ok(changed) => format!("changed bytes {:?}, rights {:?}", changed.bytes, changed.rights),
        Err(reason) => reason.clone(),
    };
    format!(
        "{changed}; it said: {said}; on record: {}",
        if lines.is_empty() { "nothing".to_owned() } else { lines.join(", ") }
    )
}

fn line(event: &Event) -> String {
    let result = event.verdict.as_ref().map(|verdict| format!("{:?}", verdict.result).to_lowercase());
    let operation = event.operation.as_ref();
    let call = operation.map(|operation| format!(" {} {}", operation.call, operation.effect));
    let database = operation.and_then(|operation| operation.database.as_deref()).unwrap_or("-");
    let changes: Vec<String> =
        event.changes.iter().flatten().map(|change| format!("{} of {}", change.change, change.database)).collect();
    format!(
        "{} {}{} {database}{}",
        event.kind.as_str(),
        result.unwrap_or_default(),
        call.unwrap_or_default(),
        if changes.is_empty() { String::new() } else { format!(" ({})", changes.join("; ")) }
    )
}

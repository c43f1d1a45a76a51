//! Events as a script sees them: the lines of `acctguard events --json`, each checked against the shipped schema.

use std::sync::OnceLock;

use acctguard::model::event::{Event, Kind};

use super::machine::repository;

/// Parses the lines and checks each.
///
/// # Panics
/// When a line is no valid event of the shipped schema.
#[track_caller]
pub fn parse(lines: &str) -> Vec<Event> {
    lines.lines().map(parse_line).collect()
}

#[track_caller]
fn parse_line(line: &str) -> Event {
    let value = serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON: {error}: {line}"));
    if let Err(error) = schema().validate(&value) {
        panic!("event against the shipped schema: {error} at {}: {line}", error.instance_path());
    }
    serde_json::from_str(line).unwrap_or_else(|error| panic!("no event: {error}: {line}"))
}

fn schema() -> &'static jsonschema::Validator {
    static SCHEMA: OnceLock<jsonschema::Validator> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let path = repository().join("packaging/schema/acctguard.event-1.schema.json");
        let text = std::fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        let schema = serde_json::from_slice(&text).expect("parse the schema");
        jsonschema::options().should_validate_formats(true).build(&schema).expect("a valid schema")
    })
}

/// Those of `kind` in container `id`.
pub fn of<'a>(events: &'a [Event], kind: Kind, id: &str) -> Vec<&'a Event> {
    events.iter().filter(|event| event.kind == kind && container_id(event) == Some(id)).collect()
}

/// Id of the container an event is about.
pub fn container_id(event: &Event) -> Option<&str> {
    event.container.as_ref().map(|container| container.id.as_str())
}

/// Arguments of the process that acted.
pub fn actor_argv(event: &Event) -> &[String] {
    event.actor.as_ref().map_or(&[], |actor| &actor.argv)
}

/// `change name` of every change of the findings, for example `account_added mallory`.
pub fn changes(events: &[&Event]) -> Vec<String> {
    let changes = events.iter().flat_map(|event| event.changes.iter().flatten());
    changes.map(|change| format!("{} {}", change.change, change.name.as_deref().unwrap_or("-"))).collect()
}

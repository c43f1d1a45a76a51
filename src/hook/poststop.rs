//! The poststop hook: the container is gone. It records that and fails for nobody.

use std::io::Read;

use crate::config::Config;
use crate::control::Request;
use crate::hook::HookError;
use crate::hook::deadline;
use crate::hook::record;
use crate::hook::subject;
use crate::hook::subject::Subject;
use crate::model::diagnostic::chain;
use crate::model::event::Event;
use crate::model::event::Exit;
use crate::model::event::Kind;
use crate::model::event::Severity;
use crate::model::workload::ContainerId;
use crate::oci::hook_state;

/// Records the end of the container whose state `input` holds.
///
/// # Errors
/// [`HookError`], for the message only.
pub fn run(config: &Config, input: impl Read) -> Result<(), HookError> {
    deadline::step("reading the container's state");
    let state = hook_state::read(input)?;
    let what = format!("record of the end of container {}", state.id.chars().take(80).collect::<String>());
    let refused = |reason| HookError::Refused { what: what.clone(), reason };
    let id = ContainerId::new(&state.id).map_err(|error| refused(error.to_string()))?;
    deadline::step("reading the bundle");
    let mut subject = Subject::of(config, &id, &state, None, subject::now());
    // when it was created is in the record of its creation
    subject.workload.container.started_at = None;
    let (applied, _) = subject::policy(config, &subject.workload);
    let event = Event {
        policy: Some(applied.reference(applied.mode_source)),
        container: Some(subject.workload.container),
        exit: Some(Exit { witness: "poststop".to_owned() }),
        ..subject::event(config, Kind::ContainerExited, Severity::Info, subject::now())
    };
    let request = Request::Exited { id, event: Box::new(event.clone()) };
    record::record(config, &request, &event).map_err(|error| refused(chain(&error)))
}

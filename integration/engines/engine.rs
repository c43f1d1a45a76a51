//! What every engine is asked to do, and what it tells.

use serde_json::Value;

use crate::harness::command::Done;

/// A container that ran to its end.
pub struct Ran {
    /// Its id, as the runtime knows it.
    pub id: String,
    /// What came of it: its exit code and its output as the engine hands it on.
    pub done: Done,
}

/// What a field of an event must hold.
#[derive(Debug, Clone)]
pub enum Expected {
    /// Something.
    Told,
    /// This.
    Is(Value),
    /// A text that begins so.
    Begins(String),
}

/// One field: a JSON pointer into the event, and what must be there.
pub type Field = (&'static str, Expected);

/// An engine with acctguard registered in one way.
pub trait Engine {
    /// Its name.
    fn name(&self) -> &'static str;
    /// How acctguard is registered.
    fn way(&self) -> &'static str;
    /// Its version and its runtime's.
    fn version(&self) -> String;
    /// Runs `script` by a shell as the own program of a new container, to its end.
    fn run(&self, name: &str, script: &str) -> Ran;
    /// Starts a container that does nothing; its id.
    fn launch(&self, name: &str) -> String;
    /// Runs `script` by a shell in a running container.
    fn exec(&self, id: &str, script: &str) -> Done;
    /// Ends and deletes a container, whatever became of it.
    fn remove(&self, id: &str);
    /// Whether exec goes through the shim, so that it is known who started it.
    fn knows_who_executes(&self) -> bool {
        true
    }
    /// Login uid with which exec is called here, where that comes through.
    fn exec_login(&self) -> Option<u32> {
        None
    }
    /// What a creation's record tells of a container of this `name` beyond what every record does.
    fn fields(&self, name: &str) -> Vec<Field>;
    /// What the engine tells of such a container after its creation, in one event; empty: everything in time, so that there is none.
    fn told_late(&self) -> Vec<Field> {
        Vec::new()
    }
    /// The engine's own operations, each with what came of it.
    fn operations(&self) -> Vec<(&'static str, Result<(), String>)>;
}

/// A text.
pub fn is(text: &str) -> Expected {
    Expected::Is(Value::from(text))
}

/// What every creation record tells, whatever the engine.
pub fn common_fields(engine: &str, runtime: &str) -> Vec<Field> {
    let mut fields = vec![
        ("/container/engine", is(engine)),
        ("/creation/source/engine", is(engine)),
        ("/container/runtime", is(runtime)),
        ("/creation/creator/uid", Expected::Is(Value::from(0))),
        ("/creation/creator/user", is("root")),
        ("/creation/verdict/result", is("expected")),
        ("/creation/protection/intercepted", Expected::Is(Value::from(true))),
        ("/creation/accounts/uid_zero/0", is("root")),
        ("/creation/accounts/digest", Expected::Begins("sha256:".to_owned())),
        ("/creation/parameters/args/0", is("/bin/sh")),
    ];
    fields.extend(
        [
            "/container/id",
            "/container/started_at",
            "/creation/creator/ancestry/0/exe",
            "/creation/accounts/count",
            "/creation/parameters/user",
            "/creation/parameters/cwd",
            "/creation/parameters/capabilities/bounding",
            "/creation/parameters/mounts/0/destination",
            "/creation/parameters/env_names",
            "/creation/parameters/hostname",
            "/creation/parameters/seccomp",
            "/policy/digest",
            "/host/name",
        ]
        .map(|pointer| (pointer, Expected::Told)),
    );
    fields
}

/// Whether `event` holds the field.
pub fn holds(event: &Value, (pointer, expected): &Field) -> Result<(), String> {
    let value = event.pointer(pointer).ok_or_else(|| "is absent".to_owned())?;
    let right = match expected {
        Expected::Told => !value.is_null() && value != "",
        Expected::Is(wanted) => value == wanted,
        Expected::Begins(start) => value.as_str().is_some_and(|text| text.starts_with(start.as_str())),
    };
    if right { Ok(()) } else { Err(format!("is {value}, wanted {expected:?}")) }
}

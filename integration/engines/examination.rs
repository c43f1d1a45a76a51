//! The same questions for every engine: is the creation recorded in full, is an account found and blocked, by the container's
//! own program and by exec, and is everything else as without acctguard?

use acctguard::model::event::{Attack, Event, Kind, Outcome};
use serde_json::Value;

use crate::engine::{Engine, Field, Ran, holds, is};
use crate::harness::command::Done;
use crate::harness::events::{changes, of};
use crate::place::{Place, said};
use crate::report::{Column, Report};

/// Looks at accounts and writes everything else.
const BENIGN: &str = "id root && cp /etc/passwd /tmp/copy && echo x >> /tmp/copy && mkdir /srv/own && \
    echo 127.0.0.2 other > /etc/other && mv /etc/other /etc/another && echo all is well";

/// A program that adds `account` by the tool, ends with the tool's code, and shows whether the account is there.
pub fn add_by_tool(account: &str) -> String {
    format!("useradd {account}; code=$?; grep ^{account}: /etc/passwd; exit $code")
}

/// The same by hand.
fn add_by_hand(account: &str) -> String {
    format!("echo '{account}:x:0:0::/root:/bin/sh' >> /etc/passwd; code=$?; grep ^{account}: /etc/passwd; exit $code")
}

/// Asks everything of one way of registration, in audit and in enforce.
pub fn examine(place: &Place, engine: &dyn Engine, report: &mut Report) {
    for mode in ["audit", "enforce"] {
        place.set_mode(mode);
        Examination { place, engine, mode, policy: format!("test-{mode}"), round: mode }.whole(report);
    }
}

/// What is asked of an engine whose containers have one mode now.
pub struct Examination<'a> {
    /// Where it runs.
    pub place: &'a Place,
    /// The engine.
    pub engine: &'a dyn Engine,
    /// `audit` or `enforce`.
    pub mode: &'static str,
    /// Name of the document that says so.
    pub policy: String,
    /// A word that no other examination of this engine in this place has: names of containers end with it.
    pub round: &'static str,
}

impl Examination<'_> {
    /// Asks everything.
    pub fn whole(&self, report: &mut Report) {
        self.benign(report);
        self.process(report, "tool", &add_by_tool("mallory"), "mallory");
        self.process(report, "hand", &add_by_hand("eve"), "eve");
        self.exec(report);
        for (what, outcome) in self.engine.operations() {
            report.check(Column::Operations, &format!("{what} ({})", self.mode), outcome);
        }
    }

    fn enforced(&self) -> bool {
        self.mode == "enforce"
    }

    /// Name of the container that is asked about `word`.
    pub fn name(&self, word: &str) -> String {
        format!("guarded-{word}-{}", self.round)
    }

    /// A container that changes no account, and its record.
    fn benign(&self, report: &mut Report) {
        let name = self.name("benign");
        let Ran { id, done } = self.engine.run(&name, BENIGN);
        report.check(Column::Benign, &format!("own program ({})", self.mode), unharmed(&done));
        self.record(report, &id, &name, &done);
        self.engine.remove(&id);
        report.check(Column::Benign, &format!("no finding ({})", self.mode), self.no_finding(&id));
    }

    /// The DC0072 record, field by field.
    fn record(&self, report: &mut Report, id: &str, name: &str, done: &Done) {
        let event = || of(&self.place.node.events(), Kind::ContainerCreated, id).first().map(|&event| event.clone());
        let there = crate::patiently(|| event().map(|_| ()).ok_or_else(|| format!("no record; it {}", said(done))));
        if there.is_err() {
            report.check(Column::Fields, &format!("record ({})", self.mode), there);
            return;
        }
        let event = serde_json::to_value(event()).expect("an event is JSON");
        let by_name = ("/policy/name", is(&self.policy));
        for field in self.engine.fields(name).into_iter().chain([by_name]) {
            report.check(Column::Fields, &format!("{} ({})", field.0, self.mode), holds(&event, &field));
        }
        let late = self.engine.told_late();
        let second = || self.told_late(id, &event["id"], !late.is_empty());
        report.check(Column::Fields, &format!("told late ({})", self.mode), crate::patiently(|| second().map(drop)));
        for field in &late {
            let outcome = second().and_then(|event| holds(&event, field));
            report.check(Column::Fields, &format!("late {} ({})", field.0, self.mode), outcome);
        }
    }

    /// The one event that completes the creation, where there is to be one; null where not.
    fn told_late(&self, id: &str, creation: &Value, expected: bool) -> Result<Value, String> {
        let events = self.place.node.events();
        match of(&events, Kind::ContainerIdentified, id).as_slice() {
            [] if !expected => Ok(Value::Null),
            [event] if expected => {
                let event = serde_json::to_value(event).expect("an event is JSON");
                let right = event["identification"]["creation"] == *creation;
                if right { Ok(event) } else { Err(format!("is of another creation: {event}")) }
            }
            other => Err(format!("there are {}, wanted {}", other.len(), u8::from(expected))),
        }
    }

    /// A container whose own program is `script`, which tries to add `account`.
    pub fn process(&self, report: &mut Report, word: &str, script: &str, account: &str) {
        let name = self.name(word);
        let Ran { id, done } = self.engine.run(&name, script);
        let outcome = self.outcome(&done, account).and_then(|()| self.finding(&id, &name, account, false));
        let column = if self.enforced() { Column::BlockedProcess } else { Column::FoundProcess };
        report.check(column, word, outcome);
        self.engine.remove(&id);
    }

    /// A program that tries to add `account`, executed in the container `id` that has this `name`.
    pub fn exec_adds(&self, report: &mut Report, what: &str, (id, name): (&str, &str), account: &str, script: &str) {
        let done = self.engine.exec(id, script);
        let outcome = self.outcome(&done, account).and_then(|()| self.finding(id, name, account, true));
        let column = if self.enforced() { Column::BlockedExec } else { Column::FoundExec };
        report.check(column, what, outcome);
    }

    fn exec(&self, report: &mut Report) {
        let name = self.name("idle");
        let id = self.engine.launch(&name);
        let done = self.engine.exec(&id, BENIGN);
        report.check(Column::Benign, &format!("exec ({})", self.mode), unharmed(&done));
        report.check(Column::Benign, &format!("no finding of exec ({})", self.mode), self.no_finding(&id));
        report.check(Column::Fields, &format!("/session/started_by ({})", self.mode), self.session(&id));
        self.exec_adds(report, "tool", (&id, &name), "mallory", &add_by_tool("mallory"));
        self.exec_adds(report, "hand", (&id, &name), "eve", &add_by_hand("eve"));
        self.engine.remove(&id);
    }

    /// Whether the record of an exec says who started it, where that can be known.
    fn session(&self, id: &str) -> Result<(), String> {
        let events = self.place.node.events();
        let records = of(&events, Kind::ContainerExec, id);
        let session = records.first().and_then(|event| event.session.as_ref()).ok_or("no record of the exec")?;
        let known = session.started_by.as_ref().is_some_and(|creator| !creator.ancestry.is_empty());
        let login = session.started_by.as_ref().and_then(|creator| creator.login_uid);
        let right_login = self.engine.exec_login().is_none_or(|wanted| login == Some(wanted));
        if known == self.engine.knows_who_executes() && right_login {
            Ok(())
        } else {
            Err(format!("is {:?}", session.started_by))
        }
    }

    /// Whether the account is there, or not, and the program was told so.
    fn outcome(&self, done: &Done, account: &str) -> Result<(), String> {
        let there = done.stdout.contains(&format!("{account}:x:"));
        if self.enforced() == there || self.enforced() == (done.code() == 0) {
            return Err(format!(
                "in {} the account is {}; {}",
                self.mode,
                if there { "there" } else { "not there" },
                said(done)
            ));
        }
        Ok(())
    }

    /// Whether the right finding is there, and tells of the container what its creation does. Who is refused when it opens a database
    /// has not said what it wants to write.
    fn finding(&self, id: &str, name: &str, account: &str, by_exec: bool) -> Result<(), String> {
        let named = !self.enforced() || account != "eve";
        let wanted = if self.enforced() { Outcome::Blocked } else { Outcome::Allowed };
        let is_it = |event: &Event| {
            let names = changes(&[event]).iter().any(|change| *change == format!("account_added {account}"));
            (names || !named)
                && event.attack == Attack::account_creation()
                && event.verdict.as_ref().is_some_and(|verdict| verdict.result == wanted)
                && event.policy.as_ref().is_some_and(|policy| policy.name == self.policy)
                && event.actor.as_ref().is_some_and(|actor| actor.session.is_some() == by_exec)
        };
        let of_container =
            self.engine.fields(name).into_iter().filter(|(pointer, _)| pointer.starts_with("/container/"));
        let of_container: Vec<Field> = of_container.collect();
        let found = || {
            let events = self.place.node.events();
            of(&events, Kind::AccountFinding, id).into_iter().find(|event| is_it(event)).cloned()
        };
        // a finding comes when the act is over
        let deadline = std::time::Instant::now() + crate::harness::node::PATIENCE;
        loop {
            if let Some(event) = found() {
                let event = serde_json::to_value(event).expect("an event is JSON");
                let told = |field: &Field| holds(&event, field).map_err(|reason| format!("{} {reason}", field.0));
                return of_container.iter().try_for_each(told);
            }
            if std::time::Instant::now() > deadline {
                return Err(format!("no such AN1239 finding; there is {}", self.told(id)));
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    fn told(&self, id: &str) -> String {
        let events = self.place.node.events();
        let lines: Vec<String> = events
            .iter()
            .filter(|event| crate::harness::events::container_id(event) == Some(id))
            .filter(|event| event.kind != Kind::ContainerCreated)
            .map(|event| serde_json::to_string(event).expect("an event is JSON"))
            .collect();
        format!("of {id}: {lines:?}")
    }

    fn no_finding(&self, id: &str) -> Result<(), String> {
        let events = self.place.node.events();
        let unwanted = [Kind::AccountFinding, Kind::AccountAttempt, Kind::ProtectionDegraded];
        let any = unwanted.iter().any(|kind| !of(&events, *kind, id).is_empty());
        if any { Err(self.told(id)) } else { Ok(()) }
    }
}

fn unharmed(done: &Done) -> Result<(), String> {
    let right = done.code() == 0 && done.stdout.contains("uid=0(root)") && done.stdout.contains("all is well");
    if right { Ok(()) } else { Err(said(done)) }
}

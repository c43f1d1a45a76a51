//! The same questions for every engine: is the creation recorded in full, is an account found and blocked, by the container's
//! own program and by exec, and is everything else as without acctguard?

use acctguard::model::event::{Attack, Event, Kind, Outcome};
use serde_json::Value;

use crate::engine::{Engine, Ran, holds};
use crate::harness::command::Done;
use crate::harness::events::{changes, of};
use crate::place::{Place, said};
use crate::report::{Column, Report};

/// Ends with the tool's code, and shows whether the account is there.
const ADD_BY_TOOL: &str = "useradd mallory; code=$?; grep ^mallory: /etc/passwd; exit $code";
/// The same by hand.
const ADD_BY_HAND: &str = "echo 'eve:x:0:0::/root:/bin/sh' >> /etc/passwd; code=$?; grep ^eve: /etc/passwd; exit $code";
/// Looks at accounts and writes everything else.
const BENIGN: &str = "id root && cp /etc/passwd /tmp/copy && echo x >> /tmp/copy && mkdir /srv/own && \
    echo 127.0.0.2 other > /etc/other && mv /etc/other /etc/another && echo all is well";

/// Asks everything of one way of registration. Names of containers are unique by `way`.
pub fn examine(place: &Place, engine: &dyn Engine, report: &mut Report) {
    for mode in ["audit", "enforce"] {
        place.set_mode(mode);
        let examination = Examination { place, engine, mode };
        examination.benign(report);
        examination.process(report, "tool", ADD_BY_TOOL, "mallory");
        examination.process(report, "hand", ADD_BY_HAND, "eve");
        examination.exec(report);
        for (what, outcome) in engine.operations() {
            report.check(Column::Operations, &format!("{what} ({mode})"), outcome);
        }
    }
}

struct Examination<'a> {
    place: &'a Place,
    engine: &'a dyn Engine,
    mode: &'static str,
}

impl Examination<'_> {
    fn enforced(&self) -> bool {
        self.mode == "enforce"
    }

    fn name(&self, word: &str) -> String {
        format!("guarded-{word}-{}", self.mode)
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
        for field in self.engine.fields(name) {
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

    fn process(&self, report: &mut Report, word: &str, script: &str, account: &str) {
        let Ran { id, done } = self.engine.run(&self.name(word), script);
        let outcome = self.outcome(&done, account).and_then(|()| self.finding(&id, account, false));
        let column = if self.enforced() { Column::BlockedProcess } else { Column::FoundProcess };
        report.check(column, word, outcome);
        self.engine.remove(&id);
    }

    fn exec(&self, report: &mut Report) {
        let id = self.engine.launch(&self.name("idle"));
        let done = self.engine.exec(&id, BENIGN);
        report.check(Column::Benign, &format!("exec ({})", self.mode), unharmed(&done));
        report.check(Column::Benign, &format!("no finding of exec ({})", self.mode), self.no_finding(&id));
        report.check(Column::Fields, &format!("/session/started_by ({})", self.mode), self.session(&id));
        let column = if self.enforced() { Column::BlockedExec } else { Column::FoundExec };
        for (word, script, account) in [("tool", ADD_BY_TOOL, "mallory"), ("hand", ADD_BY_HAND, "eve")] {
            let done = self.engine.exec(&id, script);
            let outcome = self.outcome(&done, account).and_then(|()| self.finding(&id, account, true));
            report.check(column, word, outcome);
        }
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

    /// Whether the right finding is there. Who is refused when it opens a database has not said what it wants to write.
    fn finding(&self, id: &str, account: &str, by_exec: bool) -> Result<(), String> {
        let named = !self.enforced() || account == "mallory";
        let wanted = if self.enforced() { Outcome::Blocked } else { Outcome::Allowed };
        let is_it = |event: &Event| {
            let names = changes(&[event]).iter().any(|change| *change == format!("account_added {account}"));
            (names || !named)
                && event.attack == Attack::account_creation()
                && event.verdict.as_ref().is_some_and(|verdict| verdict.result == wanted)
                && event.actor.as_ref().is_some_and(|actor| actor.session.is_some() == by_exec)
        };
        let found = || {
            let events = self.place.node.events();
            of(&events, Kind::AccountFinding, id).into_iter().any(is_it)
        };
        // a finding comes when the act is over
        let deadline = std::time::Instant::now() + crate::harness::node::PATIENCE;
        while !found() {
            if std::time::Instant::now() > deadline {
                return Err(format!("no such AN1239 finding; there is {}", self.told(id)));
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Ok(())
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

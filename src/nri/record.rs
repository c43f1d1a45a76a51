//! What goes wrong beside the way: a line of the log, and a record that says that a container starts without acctguard.

use std::time::Duration;

use uuid::Uuid;

use crate::config::Config;
use crate::config::node;
use crate::control::Request;
use crate::control::client::Client;
use crate::model::diagnostic::chain;
use crate::model::event::Event;
use crate::model::event::EventTime;
use crate::model::event::Kind;
use crate::model::event::ProtectionChange;
use crate::model::event::Severity;
use crate::model::redact;
use crate::model::workload::Workload;
use crate::store::spool;

/// Longest wait for the daemon.
const LIMIT: Duration = Duration::from_secs(5);

/// One line of the log, whatever the text is made of.
pub fn log(text: &str) {
    eprintln!("acctguard-nri: {}", redact::printable(text.as_bytes()));
}

/// That a container starts without hooks and without interception, for `reason`: to the daemon, or to the spool.
pub fn unguarded(config: &Config, workload: Option<&Workload>, reason: &str) {
    let time = EventTime(jiff::Timestamp::now());
    let event = Event {
        container: workload.map(|workload| workload.container.clone()),
        protection: Some(ProtectionChange {
            what: "creation by NRI".to_owned(),
            reason: redact::printable(reason.as_bytes()),
            remedy: Some("look at the log of acctguard-nri and run acctguard doctor".to_owned()),
        }),
        ..Event::new(Uuid::now_v7(), time, Kind::ProtectionDegraded, Severity::High, node::host(config))
    };
    let request = Request::Record(Box::new(event));
    if Client::connect(config).and_then(|client| client.within(LIMIT).order(&request)).is_ok() {
        return;
    }
    let Request::Record(event) = request else { return };
    if let Err(error) = spool::put(&config.spool_dir(), &event) {
        log(&format!("cannot keep the record of an unguarded container: {}", chain(&error)));
    }
}

//! Events the shim itself makes: to the daemon, or to the spool while the daemon is away.

use uuid::Uuid;

use crate::config::node;
use crate::control::Request;
use crate::control::client::Client;
use crate::model::event::Event;
use crate::model::event::EventTime;
use crate::model::event::Kind;
use crate::model::event::ProtectionChange;
use crate::model::event::Severity;
use crate::model::policy::Applied;
use crate::model::workload::Workload;
use crate::runtime_shim::Call;
use crate::store::spool;

/// A new event of this node.
pub fn event(call: &Call, kind: Kind, severity: Severity) -> Event {
    let time = EventTime(jiff::Timestamp::now());
    Event::new(Uuid::now_v7(), time, kind, severity, node::host(&call.config))
}

/// Records that a container was refused. The refusal stands whether or not that succeeds, so a failure is only told.
pub fn refused(call: &Call, workload: &Workload, applied: &Applied, reason: &str) {
    let mut event = event(call, Kind::ProtectionDegraded, Severity::High);
    event.container = Some(workload.container.clone());
    event.policy = Some(applied.reference("onUnprotected"));
    event.protection = Some(ProtectionChange {
        what: "container refused".to_owned(),
        reason: reason.to_owned(),
        remedy: Some("see acctguard doctor".to_owned()),
    });
    deliver(call, event);
}

/// Gives an event to the daemon, or to the spool.
pub fn deliver(call: &Call, event: Event) {
    let request = Request::Record(Box::new(event));
    if Client::connect(&call.config).and_then(|client| client.order(&request)).is_ok() {
        return;
    }
    let Request::Record(event) = request else { return };
    if let Err(error) = spool::put(&call.config.spool_dir(), &event) {
        eprintln!("acctguard: cannot keep the record of a refused or unwatched container: {error}");
    }
}

//! Findings at a real syslog receiver: Debian's rsyslog, which parses RFC 5424 itself, by UDP, TCP and Unix socket.

use std::time::{Duration, Instant};

use acctguard::model::event::{Event, Kind};
use serde_json::Value;

use crate::harness::bundle::Spec;
use crate::harness::events::{changes, of, parse};
use crate::harness::node::{Node, PATIENCE, Runtime, policy};
use crate::harness::rsyslog::{Receiver, free_ports};

fn event_of(message: &Value) -> Option<Event> {
    let text = message["message"].as_str().expect("message").trim_start_matches('\u{feff}').trim();
    parse(text).pop()
}

#[test]
fn findings_reach_a_real_receiver() {
    let node = Node::prepare(Runtime::Runc, &policy("enforce"), "");
    let (udp, tcp) = free_ports();
    let receiver = Receiver::start(&node, udp, tcp);
    let socket = receiver.root.path("/run/log.sock");
    let addresses =
        [format!("udp:127.0.0.1:{udp}"), format!("tcp:127.0.0.1:{tcp}"), format!("unix:{}", socket.display())];
    let sinks = addresses
        .map(|address| format!("[[sinks]]\ntype = \"syslog\"\naddress = \"{address}\"\nfacility = \"local3\"\n\n"));
    node.write_config(&sinks.concat());
    node.start_daemon();
    // A name with everything that separates fields and lines.
    let bundle = node.bundle(&Spec::new(&["/bin/sh", "-c", "useradd mallory; : ']\"\\ \n<13>1 - forged - - - -'"]));
    node.run(&bundle);
    let finding = node.wait_for("a finding", |events| of(events, Kind::AccountFinding, &bundle.id).pop().cloned());
    for input in ["udp", "tcp", "unix"] {
        let message = arrived(&receiver, input, &finding);
        assert_eq!(message["version"], "1", "{input}");
        assert_eq!(message["application"], "acctguard", "{input}");
        let data = message["data"].as_str().expect("structured data");
        assert!(data.contains("kind=\"account.finding\""), "{input}: {data}");
        assert!(data.contains(&bundle.id) && data.contains(&finding.id.to_string()), "{input}: {data}");
        let priority: u32 = message["pri"].as_str().and_then(|text| text.parse().ok()).expect("priority");
        assert_eq!(priority >> 3, 19, "{input}: facility local3");
        let event = event_of(&message).expect("the event");
        assert_eq!(event, finding, "{input}");
        assert_eq!(changes(&[&event]), changes(&[&finding]));
        let forged = receiver.messages(input).iter().any(|message| message["application"] != "acctguard");
        assert!(!forged, "{input}: a container forged a message of its own");
    }
}

fn arrived(receiver: &Receiver, input: &str, finding: &Event) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let messages = receiver.messages(input);
        let own = messages
            .iter()
            .find(|message| message["data"].as_str().is_some_and(|data| data.contains(&finding.id.to_string())));
        if let Some(message) = own {
            return message.clone();
        }
        assert!(Instant::now() < deadline, "nothing of the finding by {input}; there are {messages:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

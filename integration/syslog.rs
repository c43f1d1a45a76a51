//! Findings at a real syslog receiver: Debian's rsyslog, which parses RFC 5424 itself, by UDP, TCP and Unix socket.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use acctguard::model::event::{Event, Kind};
use serde_json::Value;

use crate::harness::bundle::{Bundle, Spec};
use crate::harness::events::{changes, of, parse};
use crate::harness::node::{Node, PATIENCE, Runtime, policy};

/// rsyslogd in a root file system of its own; ended when dropped.
struct Receiver {
    daemon: Child,
    root: Bundle,
}

impl Receiver {
    fn start(node: &Node, udp: u16, tcp: u16) -> Self {
        let mut spec = Spec::shell("true");
        spec.rootfs = "large";
        let root = node.bundle(&spec);
        let config = format!(
            r#"module(load="imudp")
module(load="imtcp")
module(load="imuxsock" SysSock.Use="off")
template(name="parsed" type="list" option.jsonf="on") {{
    property(outname="pri" name="pri" format="jsonf")
    property(outname="version" name="protocol-version" format="jsonf")
    property(outname="host" name="hostname" format="jsonf")
    property(outname="application" name="app-name" format="jsonf")
    property(outname="data" name="structured-data" format="jsonf")
    property(outname="message" name="msg" format="jsonf")
}}
ruleset(name="udp") {{ action(type="omfile" file="/udp.log" template="parsed") }}
ruleset(name="tcp") {{ action(type="omfile" file="/tcp.log" template="parsed") }}
ruleset(name="unix") {{ action(type="omfile" file="/unix.log" template="parsed") }}
input(type="imudp" address="127.0.0.1" port="{udp}" ruleset="udp")
input(type="imtcp" address="127.0.0.1" port="{tcp}" ruleset="tcp")
input(type="imuxsock" socket="/run/log.sock" useSpecialParser="off" parseHostname="on" ruleset="unix")
$MaxMessageSize 64k
"#
        );
        root.put("/own.conf", config.as_bytes(), 0o644);
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "chroot"]).arg(root.path("/"));
        command.args(["/usr/sbin/rsyslogd", "-n", "-f", "/own.conf", "-i", "NONE"]).stdin(Stdio::null());
        let log = fs::File::create(node.scratch.path().join("rsyslog.log")).expect("create");
        let daemon = command.stdout(log.try_clone().expect("dup")).stderr(log).spawn().expect("start rsyslogd");
        let receiver = Self { daemon, root };
        let deadline = Instant::now() + PATIENCE;
        while !receiver.root.path("/run/log.sock").exists() {
            let log = fs::read_to_string(node.scratch.path().join("rsyslog.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "rsyslogd did not come up: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
        receiver
    }

    /// The messages of one input, as rsyslog parsed them.
    fn messages(&self, input: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.root.path(&format!("/{input}.log"))).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Err(error) = self.daemon.kill().and_then(|()| self.daemon.wait()) {
            eprintln!("end rsyslogd: {error}");
        }
    }
}

fn free_ports() -> (u16, u16) {
    let udp = UdpSocket::bind("127.0.0.1:0").expect("bind").local_addr().expect("address").port();
    let tcp = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address").port();
    (udp, tcp)
}

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

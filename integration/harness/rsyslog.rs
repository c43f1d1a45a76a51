//! Debian's rsyslog as a receiver: it parses RFC 5424 itself, by UDP, TCP and Unix socket.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::bundle::{Bundle, Spec};
use super::node::{Node, PATIENCE};

/// rsyslogd in a root file system of its own; ended when dropped. What comes by TCP is in its file as soon as it was read.
pub struct Receiver {
    daemon: Option<Child>,
    /// Its root file system.
    pub root: Bundle,
    log: std::path::PathBuf,
}

impl Receiver {
    /// Starts it on these ports.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(node: &Node, udp: u16, tcp: u16) -> Self {
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
ruleset(name="tcp" queue.type="Direct") {{ action(type="omfile" file="/tcp.log" template="parsed") }}
ruleset(name="unix") {{ action(type="omfile" file="/unix.log" template="parsed") }}
input(type="imudp" address="127.0.0.1" port="{udp}" ruleset="udp")
input(type="imtcp" address="127.0.0.1" port="{tcp}" ruleset="tcp")
input(type="imuxsock" socket="/run/log.sock" useSpecialParser="off" parseHostname="on" ruleset="unix")
$MaxMessageSize 64k
"#
        );
        root.put("/own.conf", config.as_bytes(), 0o644);
        let log = node.scratch.path().join("rsyslog.log");
        let mut receiver = Self { daemon: None, root, log };
        receiver.run();
        receiver
    }

    /// Runs it, again when it was killed; what it received before stays.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn run(&mut self) {
        let socket = self.root.path("/run/log.sock");
        // what a killed one left would look like one that is up
        let _ = fs::remove_file(&socket);
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "chroot"]).arg(self.root.path("/"));
        command.args(["/usr/sbin/rsyslogd", "-n", "-f", "/own.conf", "-i", "NONE"]).stdin(Stdio::null());
        let log = fs::File::options().create(true).append(true).open(&self.log).expect("open");
        let daemon = command.stdout(log.try_clone().expect("dup")).stderr(log).spawn().expect("start rsyslogd");
        self.daemon = Some(daemon);
        let deadline = Instant::now() + PATIENCE;
        while !socket.exists() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            assert!(Instant::now() < deadline, "rsyslogd did not come up: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        if let Err(error) = daemon.kill().and_then(|()| daemon.wait()) {
            eprintln!("end rsyslogd: {error}");
        }
    }

    /// What one input wrote, a line a message.
    pub fn text(&self, input: &str) -> String {
        fs::read_to_string(self.root.path(&format!("/{input}.log"))).unwrap_or_default()
    }

    /// The messages of one input, as rsyslog parsed them.
    pub fn messages(&self, input: &str) -> Vec<Value> {
        self.text(input)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody listens at, for UDP and for TCP.
pub fn free_ports() -> (u16, u16) {
    let udp = UdpSocket::bind("127.0.0.1:0").expect("bind").local_addr().expect("address").port();
    let tcp = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address").port();
    (udp, tcp)
}

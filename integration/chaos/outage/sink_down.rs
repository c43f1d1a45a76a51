//! A syslog receiver that is away while events come, crashes while it takes them, and sees the daemon restart.

use std::time::{Duration, Instant};

use acctguard::model::event::Event;
use nix::sys::signal::Signal;

use super::events;
use crate::harness::node::{Node, Runtime, policy};
use crate::harness::rsyslog::{Receiver, free_ports};

/// A sink that failed for long tries again after a minute at most.
const PATIENCE: Duration = Duration::from_secs(900);
/// Structured data in rsyslog's JSON.
const MARK: &str = " id=\\\"";

/// `count` events while the receiver is away; then it comes, is killed on its way, and the daemon is restarted.
pub fn run(count: usize) {
    let node = Node::prepare(Runtime::Runc, &policy("audit"), "");
    let (udp, tcp) = free_ports();
    node.write_config(&format!("[[sinks]]\ntype = \"syslog\"\naddress = \"tcp:127.0.0.1:{tcp}\"\n"));
    node.start_daemon();
    let begun = Instant::now();
    events::give(&node, count);
    let recorded = begun.elapsed();
    let expected = events::ids(&events::stored(&node));
    assert_eq!(expected.len(), count);

    let back = Instant::now();
    let mut receiver = Receiver::start(&node, udp, tcp);
    until(&node, &receiver, count / 3);
    receiver.kill();
    std::thread::sleep(Duration::from_millis(300));
    receiver.run();
    until(&node, &receiver, count / 3 * 2);
    assert_eq!(node.stop_daemon(Signal::SIGTERM), 0);
    node.start_daemon();
    events::give(&node, 10);
    let stored: Vec<Event> = events::stored(&node);
    let expected = events::ids(&stored);
    until(&node, &receiver, expected.len());
    let received = events::ids_in(&receiver.text("tcp"), MARK);
    let doubles = events::doubles(&expected, &received);
    println!(
        "sink down: {} events recorded in {:.1} s ({:.0} a second), all at rsyslog {:.1} s after it came back, in order, {doubles} doubles after a crash of it and a restart of the daemon",
        expected.len(),
        recorded.as_secs_f64(),
        count as f64 / recorded.as_secs_f64(),
        back.elapsed().as_secs_f64()
    );
}

/// Waits until so many different events are there.
fn until(node: &Node, receiver: &Receiver, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut received = events::ids_in(&receiver.text("tcp"), MARK);
        received.sort_unstable();
        received.dedup();
        if received.len() >= count {
            return;
        }
        assert!(Instant::now() < deadline, "{} of {count} events came:\n{}", received.len(), node.log_text());
        std::thread::sleep(Duration::from_millis(if count > 10_000 { 1000 } else { 50 }));
    }
}

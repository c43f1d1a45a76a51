//! Events given to the daemon as its clients do, and ids of what came out at the other end.

use std::collections::HashSet;
use std::ops::ControlFlow;

use acctguard::control::client::Client;
use acctguard::control::{EventQuery, Request};
use acctguard::model::event::{Event, EventTime, Host, Kind, ProtectionChange, Severity};
use uuid::Uuid;

use crate::harness::node::Node;

/// Clients that give events at the same time.
const CLIENTS: usize = 8;

fn event(number: usize) -> Event {
    let time = EventTime(jiff::Timestamp::now());
    let host = Host { name: "chaos".to_owned(), kernel: "none".to_owned(), ..Host::default() };
    let mut event = Event::new(Uuid::now_v7(), time, Kind::ProtectionRestored, Severity::Info, host);
    event.protection =
        Some(ProtectionChange { what: "nothing".to_owned(), reason: format!("number {number}"), remedy: None });
    event
}

/// Gives the daemon `count` events by several clients. Each is on record when this returns.
pub fn give(node: &Node, count: usize) {
    let socket = node.control_socket();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let socket = &socket;
            scope.spawn(move || {
                let connection = Client::connect_to(socket).expect("connect");
                for number in (client..count).step_by(CLIENTS) {
                    connection.order(&Request::Record(Box::new(event(number)))).expect("record");
                }
            });
        }
    });
}

/// Gives events one after the other until `enough` says so; their ids.
pub fn give_until(node: &Node, enough: impl Fn() -> bool) -> Vec<Uuid> {
    let connection = Client::connect_to(&node.control_socket()).expect("connect");
    let mut given = Vec::new();
    while !enough() {
        let event = event(given.len());
        given.push(event.id);
        connection.order(&Request::Record(Box::new(event))).expect("record");
        assert!(given.len() < 20_000, "{} events changed nothing:\n{}", given.len(), node.log_text());
    }
    given
}

/// Everything the daemon has, in its order.
pub fn stored(node: &Node) -> Vec<Event> {
    let client = Client::connect_to(&node.control_socket()).expect("connect");
    let mut events = Vec::new();
    let taken = client.events(EventQuery::default(), |event| {
        events.push(event);
        ControlFlow::Continue(())
    });
    taken.expect("read the events");
    events
}

/// Ids of `events`.
pub fn ids(events: &[Event]) -> Vec<Uuid> {
    events.iter().map(|event| event.id).collect()
}

/// Of each line the first id that follows `mark`.
pub fn ids_in(text: &str, mark: &str) -> Vec<Uuid> {
    let id = |line: &str| line.split_once(mark).and_then(|(_, rest)| rest.get(..36)?.parse().ok());
    text.lines().filter_map(id).collect()
}

/// How many of `received` are doubles. What came, without them, must be `expected` in its order.
///
/// # Panics
/// When something is missing, or came out of order.
#[track_caller]
pub fn doubles(expected: &[Uuid], received: &[Uuid]) -> usize {
    let mut seen = HashSet::new();
    let first: Vec<Uuid> = received.iter().copied().filter(|id| seen.insert(*id)).collect();
    let missing = expected.iter().filter(|id| !seen.contains(id)).count();
    assert_eq!(missing, 0, "of {} events {missing} are missing", expected.len());
    let wrong = expected.iter().zip(&first).position(|(expected, first)| expected != first);
    assert_eq!(wrong, None, "out of order");
    received.len() - first.len()
}

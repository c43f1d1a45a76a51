//! fanotify's records: what is read is in the buffer, once.

use acctguard::kernel::fanotify::{Event, parse};

/// What read(2) gave.
pub fn check(data: &[u8]) {
    let Some(events) = parse(data) else { return };
    let told = |event: &Event| match event {
        Event::Change(change) => change.name.len(),
        Event::Overflow => 0,
    };
    // an event has a head of 24 bytes
    assert!(events.len() * 24 + events.iter().map(told).sum::<usize>() <= data.len());
    assert!(events.iter().all(|event| !matches!(event, Event::Change(change) if change.name.contains(&0))));
    if !data.is_empty() {
        assert!(parse(&data[..data.len() - 1]).is_none_or(|fewer| fewer.len() < events.len() || fewer == events));
    }
    let twice = parse(&[data, data].concat()).expect("whole events after whole events are whole");
    assert_eq!(twice.len(), 2 * events.len());
}

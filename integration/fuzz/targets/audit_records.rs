//! Audit records of the kernel: what is kept is bounded, whatever the kernel relays of a container's.

use std::time::{Duration, Instant};

use acctguard::kernel::audit_netlink::record::{MAX_BLOCKERS, MAX_VALUE_BYTES, parse};
use acctguard::kernel::audit_netlink::refusal::Assembly;

const KINDS: [u16; 6] = [1300, 1320, 1327, 1423, 1424, 1400];

/// A line a record; its first byte chooses the type.
pub fn check(data: &[u8]) {
    let mut assembly = Assembly::default();
    let now = Instant::now();
    for line in data.split(|byte| *byte == b'\n') {
        let Some((first, text)) = line.split_first() else { continue };
        let kind = KINDS[usize::from(*first) % KINDS.len()];
        let Some(record) = parse(kind, text) else { continue };
        assert_eq!(parse(kind, text).as_ref(), Some(&record), "the same text is another record");
        assert_eq!(parse(kind, &[text, b"\0"].concat()).as_ref(), Some(&record), "the kernel's NUL changes it");
        assembly.take(record, now);
    }
    let later = now + Duration::from_secs(1);
    for refusal in assembly.complete(later) {
        assert!(refusal.blockers.len() <= MAX_BLOCKERS && refusal.blockers.iter().all(|blocker| blocker.len() <= 64));
        assert!(refusal.path.is_none_or(|path| path.len() <= MAX_VALUE_BYTES));
        let caller = refusal.caller.iter();
        assert!(caller.flat_map(|caller| &caller.argv).map(Vec::len).sum::<usize>() <= MAX_VALUE_BYTES);
    }
    assert_eq!(assembly.wait(later), None, "something waits after everything was told");
}

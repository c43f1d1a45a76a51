//! Packets between keeper and worker.

use acctguard::daemon::hand_over::{MAX_LABEL_BYTES, Message};

/// One packet.
pub fn check(data: &[u8]) {
    let data = &data[..data.len().min(MAX_LABEL_BYTES)];
    let Some(message) = Message::decode(data) else { return };
    let packet = message.encode();
    assert_eq!(Message::decode(&packet), Some(message), "{packet:?}");
    assert!(packet.len() <= data.len());
}

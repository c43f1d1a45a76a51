//! Notifications: every architecture, number and argument is decoded, and as wide as the kernel takes it.

use acctguard::supervise::decode::{Decoded, decode};

const ARCHITECTURES: [u32; 6] = [0xC000_003E, 0x4000_0003, 0xC000_00B7, 0x4000_0028, 0xC000_003F, 0];

/// An architecture, a number and six arguments, little-endian; what is missing is zero.
pub fn check(data: &[u8]) {
    let mut bytes = [0_u8; 53];
    let length = data.len().min(bytes.len());
    bytes[..length].copy_from_slice(&data[..length]);
    let architecture = ARCHITECTURES[usize::from(bytes[0]) % ARCHITECTURES.len()];
    let number = i32::from_le_bytes(bytes[1..5].try_into().expect("four bytes"));
    let (arguments, _) = bytes[5..].as_chunks::<8>();
    let arguments: [u64; 6] = std::array::from_fn(|index| u64::from_le_bytes(arguments[index]));
    let decoded = decode(architecture, number, arguments);
    assert_eq!(decode(architecture, number, arguments), decoded);
    let Decoded::Request(request) = decoded else { return };
    assert_eq!(request.abi.call(request.abi.number(request.call).expect("it has a number")), Some(request.call));
    if request.abi.has_32_bit_arguments() {
        let noisy = arguments.map(|argument| argument ^ 0xFFFF_FFFF_0000_0000);
        assert_eq!(decode(architecture, number, noisy), decoded, "the upper half of an argument means something");
    }
    // the same call as another argument word must not become another call
    let Decoded::Request(other) = decode(architecture, number, [0; 6]) else { panic!("another call") };
    assert_eq!(other.call, request.call);
}

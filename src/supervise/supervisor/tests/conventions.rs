//! Calls by another calling convention than the native one.

use super::*;

/// A program of one loaded page: `code`, in which `ADDRESS` stands for the address of `/etc/passwd`.
fn tiny_program(code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let path_address = u32::try_from(BASE + HEADERS).expect("low address") + u32::try_from(code.len()).expect("short");
    let marker = ADDRESS.to_le_bytes();
    let position = code.windows(4).position(|window| window == marker).expect("marker");
    let mut code = code.to_vec();
    code.splice(position..position + 4, path_address.to_le_bytes());
    code.extend(b"/etc/passwd\0");
    let size = HEADERS + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2_u16, 62].iter().flat_map(|half| half.to_le_bytes())); // executable, x86-64
    file.extend(1_u32.to_le_bytes());
    file.extend([BASE + HEADERS, 64, 0].iter().flat_map(|word| word.to_le_bytes())); // entry, program headers
    file.extend(0_u32.to_le_bytes());
    file.extend([64_u16, 56, 1, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    file.extend([1_u32, 5].iter().flat_map(|half| half.to_le_bytes())); // loaded, readable and executable
    file.extend([0, BASE, BASE, size, size, 0x1000].iter().flat_map(|word| word.to_le_bytes()));
    file.extend(code);
    file
}

const ADDRESS: u32 = 0x5A5A_5A5A;

/// pitfalls 23: "int 0x80 from 64-bit code works; x32 uses nr|0x40000000".
#[test]
fn other_calling_conventions_are_no_way_around() {
    let address = ADDRESS.to_le_bytes();
    let exit = [0xF7, 0xD8, 0x89, 0xC3, 0xB8, 1, 0, 0, 0, 0xCD, 0x80]; // neg eax; mov ebx, eax; mov eax, 1; int 0x80
    let i386 = [&[0xB8, 5, 0, 0, 0, 0xBB], &address[..], &[0xB9, 1, 0, 0, 0, 0x31, 0xD2, 0xCD, 0x80], &exit].concat();
    let x32 = [&[0xB8, 2, 0, 0, 0x40, 0xBF], &address[..], &[0xBE, 1, 0, 0, 0, 0x31, 0xD2, 0x0F, 0x05], &exit].concat();
    for (name, code) in [("i386", i386), ("x32", x32)] {
        let program = tiny_program(&code);
        let story = run(Mode::Enforce, || {
            fs::write("/tmp/program", &program).expect("program");
            fs::set_permissions("/tmp/program", std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
            let _ = nix::unistd::execve(c"/tmp/program", &[c"program"], &[] as &[&std::ffi::CStr]);
            96
        });
        assert_eq!((story.exit, story.told()), (1, vec!["open writes /etc/passwd".to_owned()]), "{name}");
    }
}

use super::*;
use crate::supervise::decode::abi::Call;

const X86_64: u32 = 0xC000_003E;
const ARCHITECTURES: [(Abi, u32, u32); 5] = [
    (Abi::X86_64, X86_64, 0),
    (Abi::X32, X86_64, 0x4000_0000),
    (Abi::I386, 0x4000_0003, 0),
    (Abi::Aarch64, 0xC000_00B7, 0),
    (Abi::Arm, 0x4000_0028, 0),
];

/// Upper halves are the caller's to choose: every case is decoded with this noise as well where the argument is an int.
const NOISE: u64 = 0xDEAD_BEEF_0000_0000;
const CWD: u64 = 0xFFFF_FF9C; // AT_FDCWD, zero-extended

fn decoded(abi: Abi, call: Call, arguments: [u64; 6]) -> Option<Operation> {
    let (_, architecture, bit) = ARCHITECTURES.iter().find(|(known, ..)| *known == abi).copied().expect("architecture");
    let number = abi.number(call)? | bit;
    match decode(architecture, number.cast_signed(), arguments) {
        Decoded::Request(request) => {
            assert_eq!((request.call, request.abi), (call, abi));
            Some(request.operation)
        }
        other => panic!("{call:?} on {abi:?}: {other:?}"),
    }
}

fn at(base: Base, pointer: u64, follow: Follow) -> PathArgument {
    PathArgument { base, pointer, empty_is_base: false, follow }
}

fn or_empty(path: PathArgument) -> PathArgument {
    PathArgument { empty_is_base: true, ..path }
}

fn flags(word: u64) -> OpenFlags {
    OpenFlags::new(Abi::X86_64, word)
}

/// (call, arguments, what they mean); arguments without bits above 32, so that they hold for every architecture.
fn cases() -> Vec<(Call, [u64; 6], Operation)> {
    use Follow::Entry;
    use Follow::Last;
    use Follow::NoLast;
    let cwd = |pointer, follow| at(Base::Cwd, pointer, follow);
    let fd = |number, pointer, follow| at(Base::Descriptor(number), pointer, follow);
    let open = |path, word| Operation::Open { path, flags: flags(word) };
    let path_change = |path| Operation::Change { object: ObjectArgument::Path(path) };
    let fd_change = |fd| Operation::Change { object: ObjectArgument::Descriptor(fd) };
    let configure = |value| Operation::Configure { context: 3, key: 1, value };
    vec![
        (Call::Open, [1, 0o1, 0, 0, 0, 0], open(cwd(1, Last), 0o1)),
        (Call::Open, [1, 0o301, 0, 0, 0, 0], open(cwd(1, NoLast), 0o301)),
        (Call::Creat, [1, 0o600, 0, 0, 0, 0], open(cwd(1, Last), 0o1101)),
        (Call::Openat, [CWD, 1, 0o2, 0, 0, 0], open(cwd(1, Last), 0o2)),
        (Call::Openat, [7, 1, 0o102, 0, 0, 0], open(fd(7, 1, Last), 0o102)),
        (
            Call::Openat2,
            [7, 1, 2, 24, 0, 0],
            Operation::OpenHow { base: Base::Descriptor(7), pointer: 1, how: 2, how_bytes: 24 },
        ),
        (
            Call::OpenByHandleAt,
            [7, 1, 0o2, 0, 0, 0],
            Operation::OpenByHandle { mount: 7, handle: 1, flags: flags(0o2) },
        ),
        (Call::Rename, [1, 2, 0, 0, 0, 0], Operation::Rename { old: cwd(1, Entry), new: cwd(2, Entry), flags: 0 }),
        (
            Call::Renameat,
            [3, 1, CWD, 2, 2, 0],
            Operation::Rename { old: fd(3, 1, Entry), new: cwd(2, Entry), flags: 0 },
        ),
        (
            Call::Renameat2,
            [3, 1, 4, 2, 2, 0],
            Operation::Rename { old: fd(3, 1, Entry), new: fd(4, 2, Entry), flags: 2 },
        ),
        (Call::Link, [1, 2, 0, 0, 0, 0], Operation::Link { old: cwd(1, NoLast), new: cwd(2, Entry) }),
        (Call::Linkat, [3, 1, 4, 2, 0, 0], Operation::Link { old: fd(3, 1, NoLast), new: fd(4, 2, Entry) }),
        (Call::Linkat, [3, 1, 4, 2, 0x400, 0], Operation::Link { old: fd(3, 1, Last), new: fd(4, 2, Entry) }),
        (
            Call::Linkat,
            [3, 1, 4, 2, 0x1000, 0],
            Operation::Link { old: or_empty(fd(3, 1, NoLast)), new: fd(4, 2, Entry) },
        ),
        (Call::Symlink, [1, 2, 0, 0, 0, 0], Operation::MakeEntry { new: cwd(2, Entry) }),
        (Call::Symlinkat, [1, 3, 2, 0, 0, 0], Operation::MakeEntry { new: fd(3, 2, Entry) }),
        (Call::Mknod, [1, 0, 0, 0, 0, 0], Operation::MakeEntry { new: cwd(1, Entry) }),
        (Call::Mknodat, [3, 1, 0, 0, 0, 0], Operation::MakeEntry { new: fd(3, 1, Entry) }),
        (Call::Unlink, [1, 0, 0, 0, 0, 0], Operation::Unlink { path: cwd(1, Entry), directory: false }),
        (Call::Unlinkat, [3, 1, 0, 0, 0, 0], Operation::Unlink { path: fd(3, 1, Entry), directory: false }),
        (Call::Unlinkat, [3, 1, 0x200, 0, 0, 0], Operation::Unlink { path: fd(3, 1, Entry), directory: true }),
        (Call::Truncate, [1, 0, 0, 0, 0, 0], path_change(cwd(1, Last))),
        (Call::Truncate64, [1, 0, 5, 6, 0, 0], path_change(cwd(1, Last))),
        (Call::Chmod, [1, 0o777, 0, 0, 0, 0], path_change(cwd(1, Last))),
        (Call::Fchmod, [5, 0o777, 0, 0, 0, 0], fd_change(5)),
        (Call::Fchmodat, [3, 1, 0o777, 0x100, 0, 0], path_change(fd(3, 1, Last))),
        (Call::Fchmodat2, [3, 1, 0o777, 0x100, 0, 0], path_change(fd(3, 1, NoLast))),
        (Call::Fchmodat2, [3, 1, 0o777, 0x1000, 0, 0], path_change(or_empty(fd(3, 1, Last)))),
        (Call::Chown, [1, 0, 0, 0, 0, 0], path_change(cwd(1, Last))),
        (Call::Chown32, [1, 0, 0, 0, 0, 0], path_change(cwd(1, Last))),
        (Call::Lchown, [1, 0, 0, 0, 0, 0], path_change(cwd(1, NoLast))),
        (Call::Lchown32, [1, 0, 0, 0, 0, 0], path_change(cwd(1, NoLast))),
        (Call::Fchown, [5, 0, 0, 0, 0, 0], fd_change(5)),
        (Call::Fchown32, [5, 0, 0, 0, 0, 0], fd_change(5)),
        (Call::Fchownat, [3, 1, 0, 0, 0x100, 0], path_change(fd(3, 1, NoLast))),
        (Call::Fchownat, [3, 1, 0, 0, 0x1000, 0], path_change(or_empty(fd(3, 1, Last)))),
        (Call::Setxattr, [1, 2, 3, 4, 5, 0], path_change(cwd(1, Last))),
        (Call::Lsetxattr, [1, 2, 3, 4, 5, 0], path_change(cwd(1, NoLast))),
        (Call::Fsetxattr, [5, 2, 3, 4, 5, 0], fd_change(5)),
        (Call::Setxattrat, [3, 1, 0x100, 2, 4, 5], path_change(fd(3, 1, NoLast))),
        (Call::Removexattr, [1, 2, 0, 0, 0, 0], path_change(cwd(1, Last))),
        (Call::Lremovexattr, [1, 2, 0, 0, 0, 0], path_change(cwd(1, NoLast))),
        (Call::Fremovexattr, [5, 2, 0, 0, 0, 0], fd_change(5)),
        (Call::Removexattrat, [3, 1, 0x1000, 2, 0, 0], path_change(or_empty(fd(3, 1, Last)))),
        (
            Call::Mount,
            [1, 2, 3, 4096, 5, 0],
            Operation::Mount { source: cwd(1, Last), target: cwd(2, Last), flags: 4096, kind: 3, data: 5 },
        ),
        (
            Call::MoveMount,
            [3, 1, 4, 2, 0, 0],
            Operation::MoveMount { source: fd(3, 1, NoLast), target: fd(4, 2, NoLast) },
        ),
        (
            Call::MoveMount,
            [3, 1, 4, 2, 0x55, 0],
            Operation::MoveMount { source: or_empty(fd(3, 1, Last)), target: or_empty(fd(4, 2, Last)) },
        ),
        (Call::Fsconfig, [3, 0, 1, 0, 0, 0], configure(SettingArgument::Nothing)),
        (Call::Fsconfig, [3, 1, 1, 2, 0, 0], configure(SettingArgument::Text(2))),
        (Call::Fsconfig, [3, 2, 1, 2, 9, 0], configure(SettingArgument::Nothing)),
        (Call::Fsconfig, [3, 3, 1, 2, CWD, 0], configure(SettingArgument::Path(cwd(2, Last)))),
        (Call::Fsconfig, [3, 4, 1, 2, 7, 0], configure(SettingArgument::Path(or_empty(fd(7, 2, Last))))),
        (Call::Fsconfig, [3, 5, 1, 0, 7, 0], configure(SettingArgument::Descriptor(7))),
        (Call::Fsconfig, [3, 6, 1, 0, 0, 0], configure(SettingArgument::Nothing)),
        (Call::OpenTree, [3, 1, 1, 0, 0, 0], Operation::OpenTree { path: fd(3, 1, Last), clone: true }),
        (Call::OpenTree, [3, 1, 0x100, 0, 0, 0], Operation::OpenTree { path: fd(3, 1, NoLast), clone: false }),
        (Call::Umount, [1, 0, 0, 0, 0, 0], Operation::Unmount { path: cwd(1, Last) }),
        (Call::Umount2, [1, 8, 0, 0, 0, 0], Operation::Unmount { path: cwd(1, NoLast) }),
        (Call::PivotRoot, [1, 2, 0, 0, 0, 0], Operation::PivotRoot { new_root: cwd(1, Last) }),
        (Call::Chroot, [1, 0, 0, 0, 0, 0], Operation::ChangeRoot),
        (Call::IoUringSetup, [8, 1, 0, 0, 0, 0], Operation::IoUringSetup),
        (Call::Rmdir, [1, 0, 0, 0, 0, 0], Operation::Unlink { path: cwd(1, Entry), directory: true }),
        (Call::Acct, [1, 0, 0, 0, 0, 0], Operation::Accounting { on: true }),
        (Call::Acct, [0, 0, 0, 0, 0, 0], Operation::Accounting { on: false }),
        (Call::Seccomp, [1, 0x28, 5, 0, 0, 0], Operation::InstallFilter { listener: true }),
        (Call::Seccomp, [1, 8, 0, 0, 0, 0], Operation::InstallFilter { listener: false }),
        (Call::Seccomp, [1, 7, 5, 0, 0, 0], Operation::InstallFilter { listener: false }),
        (Call::Seccomp, [2, 8, 5, 0, 0, 0], Operation::InstallFilter { listener: false }),
    ]
}

#[test]
fn every_call_means_the_same_on_every_architecture() {
    let cases = cases();
    for (call, arguments, expected) in &cases {
        for (abi, ..) in ARCHITECTURES {
            let Some(operation) = decoded(abi, *call, *arguments) else { continue };
            if *call == Call::Open && abi.has_arm_open_flags() {
                continue; // flags have other values there: see `flags`
            }
            assert_eq!(operation, *expected, "{call:?} on {abi:?}");
        }
    }
    for call in Call::ALL {
        let tested = cases.iter().any(|(known, ..)| known == call);
        assert!(tested || matches!(call, Call::Execve | Call::Execveat), "{call:?} has no case");
    }
}

#[test]
fn upper_halves_mean_nothing() {
    for (call, arguments, expected) in cases() {
        for (abi, ..) in ARCHITECTURES {
            // on 32-bit architectures all of it is noise; elsewhere that of pointers and sizes is not
            let noisy = if abi.has_32_bit_arguments() {
                arguments.map(|argument| argument | NOISE)
            } else {
                let ints: &[usize] = match call {
                    Call::Openat | Call::OpenByHandleAt => &[0, 2],
                    Call::Seccomp => &[0, 1],
                    Call::Renameat2 | Call::Linkat | Call::MoveMount => &[0, 2, 4],
                    Call::Renameat => &[0, 2],
                    Call::Unlinkat | Call::OpenTree | Call::Setxattrat | Call::Removexattrat => &[0, 2],
                    Call::Fchmodat2 => &[0, 2, 3],
                    Call::Fchownat => &[0, 2, 3, 4],
                    Call::Fchmod | Call::Fchown | Call::Fsetxattr | Call::Fremovexattr => &[0],
                    Call::Umount2 => &[1],
                    Call::Fsconfig => &[0, 1, 4],
                    _ => &[],
                };
                let mut noisy = arguments;
                for index in ints {
                    noisy[*index] |= NOISE;
                }
                noisy
            };
            if abi.has_arm_open_flags() && call == Call::Open {
                continue;
            }
            if let Some(operation) = decoded(abi, call, noisy) {
                assert_eq!(operation, expected, "{call:?} on {abi:?} with {noisy:x?}");
            }
        }
    }
}

#[test]
fn execve_carries_the_width_of_its_pointers() {
    let cases = [(Abi::X86_64, 8), (Abi::X32, 4), (Abi::I386, 4), (Abi::Aarch64, 8), (Abi::Arm, 4)];
    for (abi, pointer_bytes) in cases {
        let path = at(Base::Cwd, 1, Follow::Last);
        assert_eq!(
            decoded(abi, Call::Execve, [1, 2, 3, 0, 0, 0]),
            Some(Operation::Execute { path, argv: 2, pointer_bytes })
        );
        let path = or_empty(at(Base::Descriptor(5), 1, Follow::Last));
        assert_eq!(
            decoded(abi, Call::Execveat, [5, 1, 2, 3, 0x1000, 0]),
            Some(Operation::Execute { path, argv: 2, pointer_bytes })
        );
    }
}

#[test]
fn other_calls_and_architectures_are_told_apart() {
    assert_eq!(decode(X86_64, 0, [0; 6]), Decoded::NotWatched); // read
    assert_eq!(decode(X86_64, 0x4000_003B, [0; 6]), Decoded::NotWatched); // x32 has no call 59
    assert_eq!(decode(0x1234, 2, [0; 6]), Decoded::UnknownArchitecture);
}

proptest::proptest! {
    /// "decoded totally": any registers give an answer.
    #[test]
    fn decoding_is_total(architecture in 0_usize..6, number: i32, arguments: [u64; 6]) {
        let known = ARCHITECTURES.get(architecture).map_or(0, |(_, value, _)| *value);
        let _ = decode(known, number, arguments);
        let _ = decode(known, number % 600, arguments);
    }
}

//! The one table of intercepted system calls (`architecture.md` §7), and the profiles that are made from it.
//!
//! An entry says which call is handed to the daemon and under which test of its arguments. The test has a form that a
//! seccomp filter can do: comparisons under a mask. The files in `seccomp-profiles/` say the same; a test keeps them equal.

use serde_json::Value;
use serde_json::json;

use crate::oci::seccomp_condition::Condition;

/// `O_WRONLY`, `O_RDWR` and the access mode 3, one bit each (open(2); fcntl.h: `O_ACCMODE`).
const ACCESS_MODE_BITS: [u64; 2] = [0o1, 0o2];
/// `O_CREAT` (asm-generic/fcntl.h; the same on x86, arm and arm64).
const O_CREAT: u64 = 0o100;
/// `O_TRUNC`, which truncates even with `O_RDONLY` (open(2), NOTES).
const O_TRUNC: u64 = 0o1000;
/// `__O_TMPFILE`, the bit of `O_TMPFILE` that is not `O_DIRECTORY` (asm-generic/fcntl.h).
const O_TMPFILE_BIT: u64 = 0o20_000_000;

/// The bits of which any one makes an open a write.
pub const WRITE_INTENT_BITS: [u64; 5] = [ACCESS_MODE_BITS[0], ACCESS_MODE_BITS[1], O_CREAT, O_TRUNC, O_TMPFILE_BIT];

/// All [`WRITE_INTENT_BITS`].
pub const WRITE_INTENT_MASK: u64 =
    WRITE_INTENT_BITS[0] | WRITE_INTENT_BITS[1] | WRITE_INTENT_BITS[2] | WRITE_INTENT_BITS[3] | WRITE_INTENT_BITS[4];

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER` (linux/seccomp.h). No operation of seccomp(2) but `SECCOMP_SET_MODE_FILTER` takes flags.
const NEW_LISTENER_BITS: [u64; 1] = [1 << 3];

/// Which calls of one name are intercepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgumentTest {
    /// Every one.
    Always,
    /// Those whose flags word has a write bit ([`WRITE_INTENT_MASK`]).
    WriteIntent {
        /// Index of the flags argument.
        flags_argument: u32,
    },
    /// Those that ask for a seccomp listener.
    NewListener {
        /// Index of the flags argument.
        flags_argument: u32,
    },
}

impl ArgumentTest {
    /// The test as conditions of which no two hold together, so that their order in a filter never matters:
    /// "this bit, and none of the ones before". Empty for [`ArgumentTest::Always`].
    #[must_use]
    pub fn intercepted_when(self) -> Vec<Condition> {
        let Some((flags_argument, bits)) = self.any_bit_of() else { return Vec::new() };
        let mut mask = 0;
        let mut conditions = Vec::with_capacity(bits.len());
        for bit in bits {
            mask |= bit;
            conditions.push(Condition::masked(flags_argument, mask, *bit));
        }
        conditions
    }

    /// The argument and the bits of which it must have one; `None` for [`ArgumentTest::Always`].
    const fn any_bit_of(self) -> Option<(u32, &'static [u64])> {
        match self {
            Self::Always => None,
            Self::WriteIntent { flags_argument } => Some((flags_argument, &WRITE_INTENT_BITS)),
            Self::NewListener { flags_argument } => Some((flags_argument, &NEW_LISTENER_BITS)),
        }
    }

    /// The same as one mask.
    fn mask(self) -> Option<(u32, u64)> {
        self.any_bit_of().map(|(argument, bits)| (argument, bits.iter().fold(0, |mask, bit| mask | bit)))
    }

    /// When a call is not intercepted; `None` for [`ArgumentTest::Always`].
    #[must_use]
    pub fn let_go_when(self) -> Option<Condition> {
        self.mask().map(|(argument, mask)| Condition::masked(argument, mask, 0))
    }

    /// Whether a call with these arguments is intercepted. The kernel uses the low half of a flags word only.
    #[must_use]
    pub fn holds(self, arguments: &[u64; 6]) -> bool {
        let Some((argument, mask)) = self.mask() else { return true };
        let flags = usize::try_from(argument).ok().and_then(|index| arguments.get(index));
        flags.is_none_or(|flags| flags & mask != 0)
    }
}

/// One intercepted call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterceptedCall {
    /// Name as libseccomp knows it. A name the installed libseccomp does not know is skipped by the runtime.
    pub name: &'static str,
    /// Which of its calls.
    pub test: ArgumentTest,
}

/// Calls that are intercepted for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Why, as the profiles' `comment` says it.
    pub comment: &'static str,
    /// Which calls.
    pub names: &'static [&'static str],
    /// Under which test.
    pub test: ArgumentTest,
}

/// The table.
pub const GROUPS: [Group; 14] = [
    Group {
        comment: "open for writing: any of O_WRONLY, O_RDWR, access mode 3, O_CREAT, O_TRUNC, O_TMPFILE; reading stays native",
        names: &["open"],
        test: ArgumentTest::WriteIntent { flags_argument: 1 },
    },
    Group {
        comment: "open for writing relative to a directory or by handle: the same bits in the third argument",
        names: &["openat", "open_by_handle_at"],
        test: ArgumentTest::WriteIntent { flags_argument: 2 },
    },
    Group {
        comment: "always a write, or its flags lie behind a pointer that a filter cannot follow",
        names: &["creat", "openat2"],
        test: ArgumentTest::Always,
    },
    Group {
        comment: "a database is replaced by renaming a new file over it",
        names: &["rename", "renameat", "renameat2"],
        test: ArgumentTest::Always,
    },
    Group {
        comment: "a second name for a database, or a name that leads elsewhere",
        names: &["link", "linkat", "symlink", "symlinkat"],
        test: ArgumentTest::Always,
    },
    Group { comment: "a database is removed", names: &["unlink", "unlinkat"], test: ArgumentTest::Always },
    Group {
        comment: "a directory beside the databases is removed: the seal refuses it to the workload, the broker does it",
        names: &["rmdir"],
        test: ArgumentTest::Always,
    },
    Group {
        comment: "a database is cut or made by path",
        names: &["truncate", "truncate64", "mknod", "mknodat"],
        test: ArgumentTest::Always,
    },
    Group {
        comment: "mode and owner decide who may write a database",
        names: &[
            "chmod",
            "fchmod",
            "fchmodat",
            "fchmodat2",
            "chown",
            "chown32",
            "lchown",
            "lchown32",
            "fchown",
            "fchown32",
            "fchownat",
        ],
        test: ArgumentTest::Always,
    },
    Group {
        comment: "access control lists are extended attributes",
        names: &[
            "setxattr",
            "lsetxattr",
            "fsetxattr",
            "setxattrat",
            "removexattr",
            "lremovexattr",
            "fremovexattr",
            "removexattrat",
        ],
        test: ArgumentTest::Always,
    },
    Group {
        comment: "another file system or root puts other databases in place",
        names: &["mount", "fsconfig", "move_mount", "open_tree", "umount", "umount2", "pivot_root", "chroot"],
        test: ArgumentTest::Always,
    },
    Group {
        comment: "account tools, and the moment at which the runtime's init becomes the workload",
        names: &["execve", "execveat"],
        test: ArgumentTest::Always,
    },
    Group {
        comment: "io_uring opens files past every seccomp filter, and for acct the kernel itself appends to a file",
        names: &["io_uring_setup", "acct"],
        test: ArgumentTest::Always,
    },
    Group {
        comment: "a listener of its own, which the kernel refuses: a task has one at most; other filters stay native",
        names: &["seccomp"],
        test: ArgumentTest::NewListener { flags_argument: 1 },
    },
];

/// Every intercepted call, in the table's order.
pub fn calls() -> impl Iterator<Item = InterceptedCall> {
    GROUPS.iter().flat_map(|group| group.names.iter().map(|name| InterceptedCall { name, test: group.test }))
}

/// The entry of `name`.
#[must_use]
pub fn find(name: &str) -> Option<InterceptedCall> {
    calls().find(|call| call.name == name)
}

/// Architectures that a filter on an x86-64 host must list, so that `int 0x80` and x32 calls stay possible
/// (a filter without them kills such calls, seccomp_arch_add(3)).
pub const X86_64_ARCHITECTURES: [&str; 3] = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
/// The same on an arm64 host.
pub const AARCH64_ARCHITECTURES: [&str; 2] = ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];

/// The architectures of this host with all it can run besides; empty where acctguard does not know them
/// (the runtime then uses its native one).
#[must_use]
pub fn host_architectures() -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" => &X86_64_ARCHITECTURES,
        "aarch64" => &AARCH64_ARCHITECTURES,
        _ => &[],
    }
}

/// The rules of one group as entries of a profile with default `SCMP_ACT_ALLOW`.
fn profile_rules(group: &Group) -> Vec<Value> {
    let rule = |args: Vec<Value>| {
        let mut entry = json!({"comment": group.comment, "names": group.names, "action": "SCMP_ACT_NOTIFY"});
        if !args.is_empty() {
            entry["args"] = Value::Array(args);
        }
        entry
    };
    let conditions = group.test.intercepted_when();
    if conditions.is_empty() {
        vec![rule(Vec::new())]
    } else {
        conditions.iter().map(|condition| rule(vec![condition.to_json()])).collect()
    }
}

/// The profile for places where neither the shim nor a hook may edit the spec (`seccomp-profiles/acctguard-localhost-*.json`):
/// everything is allowed as without a profile, the intercepted calls go to the daemon.
#[must_use]
pub fn localhost_profile(architectures: &[&str], listener_path: &str, listener_metadata: &str) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": architectures,
        "listenerPath": listener_path,
        "listenerMetadata": listener_metadata,
        "syscalls": GROUPS.iter().flat_map(profile_rules).collect::<Vec<_>>(),
    })
}

/// The table as the file `seccomp-profiles/intercepted.json`.
#[must_use]
pub fn table() -> Value {
    let group = |group: &Group| {
        let when = group
            .test
            .mask()
            .map_or_else(|| json!("always"), |(argument, mask)| json!({"argument": argument, "any_bit_of": mask}));
        json!({"comment": group.comment, "names": group.names, "intercepted": when})
    };
    json!({
        "comment": "The system calls that acctguard intercepts. Kept equal to src/oci/intercepted.rs by a test.",
        "groups": GROUPS.iter().map(group).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn write_intent_is_split_without_overlap_and_without_gap() {
        let test = ArgumentTest::WriteIntent { flags_argument: 2 };
        for flags in (0..0o2000_u64).chain([0o20_000_000, 0o20_200_000, 0o20_200_002, 0o100_000, 0o2_000_000, 1 << 32])
        {
            let arguments = [7, 7, flags, 7, 7, 7];
            let matching = test.intercepted_when().iter().filter(|one| one.holds(&arguments)).count();
            let let_go = test.let_go_when().expect("has one").holds(&arguments);
            assert_eq!(matching, usize::from(test.holds(&arguments)), "flags {flags:#o}");
            assert_eq!(let_go, !test.holds(&arguments), "flags {flags:#o}");
        }
    }

    #[test]
    fn of_filters_only_those_with_a_listener_are_intercepted() {
        let test = find("seccomp").expect("listed").test;
        for (arguments, expected) in [
            ([1, 0, 7, 0, 0, 0], false),
            ([1, 0b11_0111, 7, 0, 0, 0], false),
            ([1, 1 << 3, 7, 0, 0, 0], true),
            ([1, 0b10_1001, 7, 0, 0, 0], true),
            ([2, 0, 7, 8, 8, 8], false),
        ] {
            assert_eq!(test.holds(&arguments), expected, "{arguments:?}");
            assert_eq!(test.intercepted_when().iter().any(|one| one.holds(&arguments)), expected, "{arguments:?}");
            assert_eq!(test.let_go_when().expect("has one").holds(&arguments), !expected, "{arguments:?}");
        }
    }

    #[test]
    fn no_name_is_listed_twice() {
        let mut names: Vec<_> = calls().map(|call| call.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn shipped_files_say_what_the_table_says() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seccomp-profiles");
        let listener = "/run/acctguard/listener.sock";
        let expected = [
            ("intercepted.json", table()),
            ("acctguard-localhost-x86_64.json", localhost_profile(&X86_64_ARCHITECTURES, listener, "acctguard/1")),
            ("acctguard-localhost-aarch64.json", localhost_profile(&AARCH64_ARCHITECTURES, listener, "acctguard/1")),
        ];
        for (name, value) in expected {
            let file = folder.join(name);
            let mut text = serde_json::to_string_pretty(&value).expect("prints");
            text.push('\n');
            if std::env::var_os("ACCTGUARD_UPDATE_PROFILES").is_some() {
                std::fs::write(&file, &text).expect("the file can be written");
            }
            let found = std::fs::read_to_string(&file).expect("the file is shipped");
            assert!(found == text, "{name} differs from the table; run this test with ACCTGUARD_UPDATE_PROFILES=1");
        }
    }
}

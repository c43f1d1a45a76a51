//! The calling conventions a notification can come from, and the numbers of the intercepted calls in each.
//!
//! Sources: Linux `arch/x86/entry/syscalls/syscall_{64,32}.tbl`, `arch/arm/tools/syscall.tbl`,
//! `include/uapi/asm-generic/unistd.h`, `include/uapi/linux/audit.h`. A test compares them with libseccomp.

/// Bit that marks an x32 call in an `AUDIT_ARCH_X86_64` notification (`__X32_SYSCALL_BIT`).
const X32_BIT: u32 = 0x4000_0000;

/// A calling convention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Abi {
    /// 64-bit x86.
    X86_64,
    /// x32: 64-bit registers, 32-bit pointers in memory.
    X32,
    /// 32-bit x86, also reachable by `int 0x80` from 64-bit code.
    I386,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM (EABI).
    Arm,
}

impl Abi {
    /// The convention and the number without the x32 bit; `None` for an architecture that is not known.
    #[must_use]
    pub const fn of(audit_architecture: u32, number: i32) -> Option<(Self, u32)> {
        let number = number.cast_unsigned();
        match audit_architecture {
            0xC000_003E if number & X32_BIT != 0 => Some((Self::X32, number & !X32_BIT)),
            0xC000_003E => Some((Self::X86_64, number)),
            0x4000_0003 => Some((Self::I386, number)),
            0xC000_00B7 => Some((Self::Aarch64, number)),
            0x4000_0028 => Some((Self::Arm, number)),
            _ => None,
        }
    }

    /// Whether arguments are 32 bits wide, so that whatever stands above them is noise.
    #[must_use]
    pub const fn has_32_bit_arguments(self) -> bool {
        matches!(self, Self::I386 | Self::Arm)
    }

    /// Bytes of one pointer in an array in memory (`argv`).
    #[must_use]
    pub const fn pointer_bytes(self) -> usize {
        match self {
            Self::X86_64 | Self::Aarch64 => 8,
            Self::X32 | Self::I386 | Self::Arm => 4,
        }
    }

    /// Whether `O_DIRECTORY`, `O_NOFOLLOW` and their neighbours have ARM's values (`arch/arm/include/uapi/asm/fcntl.h`).
    #[must_use]
    pub const fn has_arm_open_flags(self) -> bool {
        matches!(self, Self::Aarch64 | Self::Arm)
    }

    /// The intercepted call with this number, if it is one.
    #[must_use]
    pub fn call(self, number: u32) -> Option<Call> {
        TABLE.iter().find(|row| row.number(self) == Some(number)).map(|row| row.call)
    }

    /// The number of `call` in this convention, when it exists there.
    #[must_use]
    pub fn number(self, call: Call) -> Option<u32> {
        TABLE.iter().find(|row| row.call == call).and_then(|row| row.number(self))
    }
}

/// Number of a call that a convention does not have.
const NONE: u16 = u16::MAX;

struct Row {
    call: Call,
    x86_64: u16,
    x32: u16,
    i386: u16,
    aarch64: u16,
    arm: u16,
}

impl Row {
    const fn new(call: Call, x86_64: u16, x32: u16, i386: u16, aarch64: u16, arm: u16) -> Self {
        Self { call, x86_64, x32, i386, aarch64, arm }
    }

    fn number(&self, abi: Abi) -> Option<u32> {
        let number = match abi {
            Abi::X86_64 => self.x86_64,
            Abi::X32 => self.x32,
            Abi::I386 => self.i386,
            Abi::Aarch64 => self.aarch64,
            Abi::Arm => self.arm,
        };
        (number != NONE).then_some(u32::from(number))
    }
}

macro_rules! calls {
    ($($call:ident $name:literal $count:literal $x86_64:tt $x32:tt $i386:tt $aarch64:tt $arm:tt)*) => {
        /// An intercepted call (`architecture.md` §7), named as in syscalls(2); the 32-bit variants keep their own names.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Call {
            $(#[doc = concat!("`", $name, "`")] $call,)*
        }

        impl Call {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$call),*];

            /// How many arguments it has, the most of any architecture; what is in the other registers means nothing.
            #[must_use]
            pub const fn argument_count(self) -> usize {
                match self { $(Self::$call => $count,)* }
            }

            /// The name in syscalls(2).
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$call => $name,)* }
            }
        }

        const TABLE: &[Row] = &[
            $(Row::new(Call::$call, calls!(@ $x86_64), calls!(@ $x32), calls!(@ $i386), calls!(@ $aarch64), calls!(@ $arm)),)*
        ];
    };
    (@ -) => { NONE };
    (@ $number:literal) => { $number };
}

calls! {
//  call             name                # x86_64 x32 i386 aarch64 arm
    Open             "open"              3 2   2   5   -   5
    Creat            "creat"             2 85  85  8   -   8
    Openat           "openat"            4 257 257 295 56  322
    Openat2          "openat2"           4 437 437 437 437 437
    OpenByHandleAt   "open_by_handle_at" 3 304 304 342 265 371
    Rename           "rename"            2 82  82  38  -   38
    Renameat         "renameat"          4 264 264 302 38  329
    Renameat2        "renameat2"         5 316 316 353 276 382
    Link             "link"              2 86  86  9   -   9
    Linkat           "linkat"            5 265 265 303 37  330
    Symlink          "symlink"           2 88  88  83  -   83
    Symlinkat        "symlinkat"         3 266 266 304 36  331
    Unlink           "unlink"            1 87  87  10  -   10
    Unlinkat         "unlinkat"          3 263 263 301 35  328
    Rmdir            "rmdir"             1 84  84  40  -   40
    Truncate         "truncate"          2 76  76  92  45  92
    Truncate64       "truncate64"        4 -   -   193 -   193
    Mknod            "mknod"             3 133 133 14  -   14
    Mknodat          "mknodat"           4 259 259 297 33  324
    Chmod            "chmod"             2 90  90  15  -   15
    Fchmod           "fchmod"            2 91  91  94  52  94
    Fchmodat         "fchmodat"          3 268 268 306 53  333
    Fchmodat2        "fchmodat2"         4 452 452 452 452 452
    Chown            "chown"             3 92  92  182 -   182
    Chown32          "chown32"           3 -   -   212 -   212
    Lchown           "lchown"            3 94  94  16  -   16
    Lchown32         "lchown32"          3 -   -   198 -   198
    Fchown           "fchown"            3 93  93  95  55  95
    Fchown32         "fchown32"          3 -   -   207 -   207
    Fchownat         "fchownat"          5 260 260 298 54  325
    Setxattr         "setxattr"          5 188 188 226 5   226
    Lsetxattr        "lsetxattr"         5 189 189 227 6   227
    Fsetxattr        "fsetxattr"         5 190 190 228 7   228
    Setxattrat       "setxattrat"        6 463 463 463 463 463
    Removexattr      "removexattr"       2 197 197 235 14  235
    Lremovexattr     "lremovexattr"      2 198 198 236 15  236
    Fremovexattr     "fremovexattr"      2 199 199 237 16  237
    Removexattrat    "removexattrat"     4 466 466 466 466 466
    Mount            "mount"             5 165 165 21  40  21
    MoveMount        "move_mount"        5 429 429 429 429 429
    Fsconfig         "fsconfig"          5 431 431 431 431 431
    OpenTree         "open_tree"         3 428 428 428 428 428
    Umount           "umount"            1 -   -   22  -   -
    Umount2          "umount2"           2 166 166 52  39  52
    PivotRoot        "pivot_root"        2 155 155 217 41  218
    Chroot           "chroot"            1 161 161 61  51  61
    Execve           "execve"            3 59  520 11  221 11
    Execveat         "execveat"          5 322 545 358 281 387
    IoUringSetup     "io_uring_setup"    2 425 425 425 425 425
    Acct             "acct"              1 163 163 51  89  51
    Seccomp          "seccomp"           3 317 317 354 277 383
}

#[cfg(test)]
mod tests {
    use super::*;
    use libseccomp::ScmpArch;
    use libseccomp::ScmpSyscall;

    /// Younger than the libseccomp 2.5.4 of Debian 12, so it has no opinion on them.
    const YOUNGER: [&str; 3] = ["fchmodat2", "setxattrat", "removexattrat"];

    /// libseccomp is an independent source of the same kernel tables.
    #[test]
    fn numbers_are_those_of_libseccomp() {
        let architectures = [
            (Abi::X86_64, ScmpArch::X8664),
            (Abi::X32, ScmpArch::X32),
            (Abi::I386, ScmpArch::X86),
            (Abi::Aarch64, ScmpArch::Aarch64),
            (Abi::Arm, ScmpArch::Arm),
        ];
        for (abi, architecture) in architectures {
            for call in Call::ALL {
                if YOUNGER.contains(&call.name()) {
                    continue;
                }
                let theirs = ScmpSyscall::from_name_by_arch(call.name(), architecture).expect("known name");
                let theirs = i32::from(theirs);
                // negative: pseudo number of a call that the architecture lacks
                let theirs = (theirs >= 0).then(|| theirs.cast_unsigned() & !X32_BIT);
                assert_eq!(abi.number(*call), theirs, "{} on {abi:?}", call.name());
            }
        }
    }

    #[test]
    fn numbers_are_unique_and_lead_back() {
        for abi in [Abi::X86_64, Abi::X32, Abi::I386, Abi::Aarch64, Abi::Arm] {
            for call in Call::ALL {
                if let Some(number) = abi.number(*call) {
                    assert_eq!(abi.call(number), Some(*call), "{} on {abi:?}", call.name());
                }
            }
        }
    }

    #[test]
    fn x32_is_told_by_its_bit() {
        assert_eq!(Abi::of(0xC000_003E, 257), Some((Abi::X86_64, 257)));
        assert_eq!(Abi::of(0xC000_003E, 0x4000_0101), Some((Abi::X32, 257)));
        assert_eq!(Abi::of(0x4000_0003, 5), Some((Abi::I386, 5)));
        assert_eq!(Abi::of(0x1234_5678, 5), None);
        assert_eq!(Abi::of(0xC000_003E, -1).and_then(|(abi, number)| abi.call(number)), None);
    }
}

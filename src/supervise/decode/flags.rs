//! Flag arguments as values, and their names in the man pages.

use crate::supervise::decode::abi::Abi;

/// Flags of open(2), the same on every architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFlags(u32);

/// x86's values (`include/uapi/asm-generic/fcntl.h`), to which others are translated.
const O_ACCMODE: u32 = 0o3;
const O_WRONLY: u32 = 0o1;
const O_RDWR: u32 = 0o2;
const O_CREAT: u32 = 0o100;
const O_EXCL: u32 = 0o200;
const O_TRUNC: u32 = 0o1000;
const O_APPEND: u32 = 0o2000;
const O_DIRECT: u32 = 0o40_000;
const O_DIRECTORY: u32 = 0o200_000;
const O_NOFOLLOW: u32 = 0o400_000;
const O_PATH: u32 = 0o10_000_000;
const O_TMPFILE_BIT: u32 = 0o20_000_000;

/// ARM's values of the flags that differ (`arch/arm/include/uapi/asm/fcntl.h`, `arch/arm64/…`).
const ARM_O_DIRECTORY: u32 = 0o40_000;
const ARM_O_NOFOLLOW: u32 = 0o100_000;
const ARM_O_DIRECT: u32 = 0o200_000;

impl OpenFlags {
    /// What creat(2) stands for: `O_CREAT|O_WRONLY|O_TRUNC`.
    pub const CREAT: Self = Self(O_CREAT | O_WRONLY | O_TRUNC);

    /// The flags word of a call; `int`, so its upper half is noise (openat2's is checked by the kernel).
    #[must_use]
    pub const fn new(abi: Abi, word: u64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "flags is an int; the kernel takes the low half")]
        let word = word as u32;
        if !abi.has_arm_open_flags() {
            return Self(word);
        }
        let mut flags = word & !(ARM_O_DIRECTORY | ARM_O_NOFOLLOW | ARM_O_DIRECT);
        if word & ARM_O_DIRECTORY != 0 {
            flags |= O_DIRECTORY;
        }
        if word & ARM_O_NOFOLLOW != 0 {
            flags |= O_NOFOLLOW;
        }
        if word & ARM_O_DIRECT != 0 {
            flags |= O_DIRECT;
        }
        Self(flags)
    }

    /// The flags word, in the values of x86.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// `O_PATH` makes the kernel ignore everything but `O_DIRECTORY` and `O_NOFOLLOW` (open(2)).
    #[must_use]
    pub const fn is_path(self) -> bool {
        self.0 & O_PATH != 0
    }

    /// Whether an existing file could be written to: access mode 1, 2 or 3, or `O_TRUNC`, which truncates even with `O_RDONLY`
    /// (open(2): "the effect of O_RDONLY | O_TRUNC varies among implementations. On many systems the file is actually truncated").
    #[must_use]
    pub const fn writes(self) -> bool {
        !self.is_path() && (self.0 & O_ACCMODE != 0 || self.0 & O_TRUNC != 0)
    }

    /// Whether a missing file would be created under its name (not `O_TMPFILE`).
    #[must_use]
    pub const fn creates(self) -> bool {
        !self.is_path() && !self.is_unnamed() && self.0 & O_CREAT != 0
    }

    /// Whether an existing file makes the call fail.
    #[must_use]
    pub const fn is_exclusive(self) -> bool {
        self.creates() && self.0 & O_EXCL != 0
    }

    /// Whether `O_DIRECTORY` is asked for.
    #[must_use]
    pub const fn is_directory(self) -> bool {
        self.0 & O_DIRECTORY != 0
    }

    /// Whether `O_NOFOLLOW` is asked for.
    #[must_use]
    pub const fn is_no_follow(self) -> bool {
        self.0 & O_NOFOLLOW != 0
    }

    /// Whether an unnamed file in a directory is asked for.
    #[must_use]
    pub const fn is_unnamed(self) -> bool {
        !self.is_path() && self.0 & O_TMPFILE_BIT != 0
    }

    /// Whether a symbolic link as last component is followed: not with `O_NOFOLLOW`, not with `O_CREAT|O_EXCL` (open(2)).
    #[must_use]
    pub const fn follows(self) -> bool {
        self.0 & O_NOFOLLOW == 0 && !self.is_exclusive()
    }

    /// The names of those that matter.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        let access = match self.0 & O_ACCMODE {
            0 => "O_RDONLY",
            O_WRONLY => "O_WRONLY",
            O_RDWR => "O_RDWR",
            _ => "O_ACCMODE",
        };
        let others = [
            (O_CREAT, "O_CREAT"),
            (O_EXCL, "O_EXCL"),
            (O_TRUNC, "O_TRUNC"),
            (O_APPEND, "O_APPEND"),
            (O_NOFOLLOW, "O_NOFOLLOW"),
            (O_PATH, "O_PATH"),
            (O_TMPFILE_BIT, "O_TMPFILE"),
        ];
        let mut names = vec![access];
        names.extend(others.iter().filter(|(bit, _)| self.0 & bit != 0).map(|(_, name)| *name));
        names
    }
}

/// `AT_*` flags of the `…at` calls (`include/uapi/linux/fcntl.h`).
pub mod at {
    /// Follow no link as last component.
    pub const SYMLINK_NOFOLLOW: u32 = 0x100;
    /// unlinkat(2) acts as rmdir(2).
    pub const REMOVEDIR: u32 = 0x200;
    /// Follow a link as last component.
    pub const SYMLINK_FOLLOW: u32 = 0x400;
    /// An empty path means the descriptor itself.
    pub const EMPTY_PATH: u32 = 0x1000;
}

/// Flags of renameat2(2).
pub mod rename {
    /// Fail when the new name exists.
    pub const NOREPLACE: u32 = 1;
    /// Swap both.
    pub const EXCHANGE: u32 = 2;
    /// All names.
    pub const NAMES: [(u64, &str); 3] = [(1, "RENAME_NOREPLACE"), (2, "RENAME_EXCHANGE"), (4, "RENAME_WHITEOUT")];
}

/// Flags of mount(2) that tell a new mount from a change of an old one.
pub mod mount {
    /// Change flags of an existing mount.
    pub const REMOUNT: u64 = 32;
    /// Bind mount.
    pub const BIND: u64 = 4096;
    /// Move a mount.
    pub const MOVE: u64 = 8192;
    const MAGIC_MASK: u64 = 0xFFFF_0000;
    const MAGIC_VALUE: u64 = 0xC0ED_0000;

    /// The flags without the `MS_MGC_VAL` that old programs put in front of them (mount(2), NOTES): as `path_mount` strips it.
    #[must_use]
    pub const fn without_magic(flags: u64) -> u64 {
        if flags & MAGIC_MASK == MAGIC_VALUE { flags & !MAGIC_MASK } else { flags }
    }

    /// Propagation changes: `MS_UNBINDABLE|MS_PRIVATE|MS_SLAVE|MS_SHARED`.
    pub const PROPAGATION: u64 = (1 << 17) | (1 << 18) | (1 << 19) | (1 << 20);
    /// All names worth showing.
    pub const NAMES: [(u64, &str); 4] = [(1, "MS_RDONLY"), (4096, "MS_BIND"), (8192, "MS_MOVE"), (16384, "MS_REC")];
}

/// The names of the bits set in `word`.
#[must_use]
pub fn names(word: u64, table: &[(u64, &'static str)]) -> Vec<&'static str> {
    table.iter().filter(|(bit, _)| word & bit != 0).map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutating_spelling_is_write_intent() {
        let cases: &[(u64, bool, bool)] = &[
            // flags, writes, creates
            (0, false, false),
            (0o1, true, false),
            (0o2, true, false),
            (0o3, true, false),
            (0o1000, true, false),
            (0o100, false, true),
            (0o102, true, true),
            (0o10_000_002, false, false),
            (0o10_000_100, false, false),
            (0o20_200_002, true, false),
            (0xFFFF_FFFF_0000_0000, false, false),
            (0xFFFF_FFFF_0000_0001, true, false),
        ];
        for (word, writes, creates) in cases {
            let flags = OpenFlags::new(Abi::X86_64, *word);
            assert_eq!((flags.writes(), flags.creates()), (*writes, *creates), "{word:#o}");
        }
    }

    #[test]
    fn exclusive_creation_and_nofollow_do_not_follow() {
        assert!(OpenFlags::new(Abi::X86_64, 0o101).follows());
        assert!(!OpenFlags::new(Abi::X86_64, 0o301).follows());
        assert!(!OpenFlags::new(Abi::X86_64, 0o400_001).follows());
        assert!(OpenFlags::new(Abi::X86_64, 0o201).follows());
        // ARM: 0100000 is O_NOFOLLOW there and O_LARGEFILE on x86
        assert!(!OpenFlags::new(Abi::Aarch64, 0o100_001).follows());
        assert!(OpenFlags::new(Abi::X86_64, 0o100_001).follows());
    }
}

//! What an intercepted call asks for: numbers and registers turned into a [`Request`]. Pure and total.
//!
//! Arguments that are pointers stay pointers; reading them is [`crate::supervise::observe`]'s. A new watched call is one row in
//! [`abi`], one arm in `operation` and one line of the seccomp profile.
//!
//! 32-bit arguments (`dirfd`, flags, modes) lose their upper halves as they do in the kernel: those are the caller's to choose
//! and mean nothing.

pub mod abi;
pub mod flags;

use crate::kernel::foreign_root::Base;
use crate::kernel::foreign_root::Follow;
use crate::supervise::decode::abi::Abi;
use crate::supervise::decode::abi::Call;
use crate::supervise::decode::flags::OpenFlags;
use crate::supervise::decode::flags::at;

/// One path argument of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathArgument {
    /// Where a relative path starts.
    pub base: Base,
    /// Address of the path in the target.
    pub pointer: u64,
    /// Whether an empty path means the base itself (`AT_EMPTY_PATH`).
    pub empty_is_base: bool,
    /// Whether a symbolic link as last component is followed.
    pub follow: Follow,
}

/// The object of a call that takes a path or a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectArgument {
    /// By path.
    Path(PathArgument),
    /// By open descriptor.
    Descriptor(i32),
}

/// What fsconfig(2) sets something to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingArgument {
    /// `FSCONFIG_SET_STRING`: the address of a text.
    Text(u64),
    /// `FSCONFIG_SET_PATH`, `FSCONFIG_SET_PATH_EMPTY`.
    Path(PathArgument),
    /// `FSCONFIG_SET_FD`.
    Descriptor(i32),
    /// A flag, a block of bytes, or a command: leads to no file.
    Nothing,
}

/// What is asked, with remote pointers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// open, creat, openat.
    Open {
        /// What.
        path: PathArgument,
        /// How.
        flags: OpenFlags,
    },
    /// openat2: its flags lie in memory.
    OpenHow {
        /// Where a relative path starts.
        base: Base,
        /// Address of the path.
        pointer: u64,
        /// Address of `struct open_how`.
        how: u64,
        /// Its size as the caller says.
        how_bytes: u64,
    },
    /// open_by_handle_at: names no path.
    OpenByHandle {
        /// Descriptor of anything on the file system; -100 (`AT_FDCWD`): the working directory.
        mount: i32,
        /// Address of `struct file_handle`.
        handle: u64,
        /// How.
        flags: OpenFlags,
    },
    /// rename, renameat, renameat2.
    Rename {
        /// From.
        old: PathArgument,
        /// To.
        new: PathArgument,
        /// `RENAME_*`.
        flags: u32,
    },
    /// link, linkat.
    Link {
        /// The existing file.
        old: PathArgument,
        /// Its new name.
        new: PathArgument,
    },
    /// symlink, symlinkat, mknod, mknodat: a new entry of another kind.
    MakeEntry {
        /// Its name.
        new: PathArgument,
    },
    /// unlink, unlinkat.
    Unlink {
        /// What.
        path: PathArgument,
        /// As rmdir(2) would.
        directory: bool,
    },
    /// truncate, truncate64, and every change of mode, owner or extended attributes.
    Change {
        /// Of what.
        object: ObjectArgument,
    },
    /// mount.
    Mount {
        /// Source, for bind mounts and moves.
        source: PathArgument,
        /// Mount point.
        target: PathArgument,
        /// `MS_*`.
        flags: u64,
        /// Address of the type of a new file system.
        kind: u64,
        /// Address of its options.
        data: u64,
    },
    /// fsconfig: a setting of a file system to come.
    Configure {
        /// Descriptor of what fsopen(2) gave.
        context: i32,
        /// Address of the setting's name.
        key: u64,
        /// What it is set to.
        value: SettingArgument,
    },
    /// move_mount.
    MoveMount {
        /// What.
        source: PathArgument,
        /// Mount point.
        target: PathArgument,
    },
    /// open_tree.
    OpenTree {
        /// What.
        path: PathArgument,
        /// `OPEN_TREE_CLONE`: makes a bind mount.
        clone: bool,
    },
    /// umount, umount2.
    Unmount {
        /// Mount point.
        path: PathArgument,
    },
    /// pivot_root: another root for everybody in the caller's mount namespace.
    PivotRoot {
        /// What becomes the root.
        new_root: PathArgument,
    },
    /// chroot: changes how the caller's later paths are read; concerns no database itself.
    ChangeRoot,
    /// execve, execveat.
    Execute {
        /// Program.
        path: PathArgument,
        /// Address of `argv`.
        argv: u64,
        /// Bytes of one of its pointers.
        pointer_bytes: usize,
    },
    /// io_uring_setup.
    IoUringSetup,
    /// acct.
    Accounting {
        /// Whether it is switched on: a null pointer switches it off.
        on: bool,
    },
    /// seccomp.
    InstallFilter {
        /// Whether a filter is to be installed with a listener of its own. A null pointer in the place of the filter only asks
        /// whether the kernel knows the flags (seccomp(2), "ERRORS", EFAULT; libseccomp's `_sys_chk_flag_kernel`).
        listener: bool,
    },
}

/// A decoded call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Which call.
    pub call: Call,
    /// In which convention.
    pub abi: Abi,
    /// What it asks.
    pub operation: Operation,
}

/// What became of decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded {
    /// A call of `architecture.md` §7.
    Request(Request),
    /// Another call of a known architecture: whoever wrote the filter wanted it, we do not.
    NotWatched,
    /// An architecture that is not known: nothing can be said about the call.
    UnknownArchitecture,
}

/// Decodes a notification's architecture, number and arguments.
#[must_use]
pub fn decode(audit_architecture: u32, number: i32, arguments: [u64; 6]) -> Decoded {
    let Some((abi, number)) = Abi::of(audit_architecture, number) else {
        return Decoded::UnknownArchitecture;
    };
    let Some(call) = abi.call(number) else {
        return Decoded::NotWatched;
    };
    let arguments =
        if abi.has_32_bit_arguments() { arguments.map(|argument| argument & 0xFFFF_FFFF) } else { arguments };
    Decoded::Request(Request { call, abi, operation: operation(call, abi, arguments) })
}

/// `int` and `unsigned int` arguments: the low half.
#[expect(clippy::cast_possible_truncation, reason = "the kernel takes the low half of an int argument")]
const fn word(argument: u64) -> u32 {
    argument as u32
}

const fn base(argument: u64) -> Base {
    match word(argument).cast_signed() {
        -100 => Base::Cwd, // AT_FDCWD, also when zero-extended
        fd => Base::Descriptor(fd),
    }
}

const fn path(base: Base, pointer: u64, follow: Follow) -> PathArgument {
    PathArgument { base, pointer, empty_is_base: false, follow }
}

/// A path relative to the working directory, links followed.
const fn followed(pointer: u64) -> PathArgument {
    path(Base::Cwd, pointer, Follow::Last)
}

/// A path relative to the working directory that names an entry, whatever stands there.
const fn entry(pointer: u64) -> PathArgument {
    path(Base::Cwd, pointer, Follow::Entry)
}

const fn entry_at(directory: u64, pointer: u64) -> PathArgument {
    path(base(directory), pointer, Follow::Entry)
}

/// A path relative to the working directory whose last component is not followed.
const fn not_followed(pointer: u64) -> PathArgument {
    path(Base::Cwd, pointer, Follow::NoLast)
}

/// The path of a call whose flags know `AT_EMPTY_PATH` and `AT_SYMLINK_NOFOLLOW`.
const fn path_at(directory: u64, pointer: u64, at_flags: u64) -> PathArgument {
    let at_flags = word(at_flags);
    let follow = if at_flags & at::SYMLINK_NOFOLLOW != 0 { Follow::NoLast } else { Follow::Last };
    PathArgument { base: base(directory), pointer, empty_is_base: at_flags & at::EMPTY_PATH != 0, follow }
}

const fn change(path: PathArgument) -> Operation {
    Operation::Change { object: ObjectArgument::Path(path) }
}

const fn change_descriptor(fd: u64) -> Operation {
    Operation::Change { object: ObjectArgument::Descriptor(word(fd).cast_signed()) }
}

fn open(directory: Base, pointer: u64, flags: OpenFlags) -> Operation {
    let follow = if flags.follows() { Follow::Last } else { Follow::NoLast };
    Operation::Open { path: path(directory, pointer, follow), flags }
}

/// The one table of what each call means.
fn operation(call: Call, abi: Abi, [a, b, c, d, e, _]: [u64; 6]) -> Operation {
    match call {
        Call::Open => open(Base::Cwd, a, OpenFlags::new(abi, b)),
        Call::Creat => open(Base::Cwd, a, OpenFlags::CREAT),
        Call::Openat => open(base(a), b, OpenFlags::new(abi, c)),
        Call::Openat2 => Operation::OpenHow { base: base(a), pointer: b, how: c, how_bytes: d },
        Call::OpenByHandleAt => {
            Operation::OpenByHandle { mount: word(a).cast_signed(), handle: b, flags: OpenFlags::new(abi, c) }
        }
        Call::Rename => Operation::Rename { old: entry(a), new: entry(b), flags: 0 },
        Call::Renameat => Operation::Rename { old: entry_at(a, b), new: entry_at(c, d), flags: 0 },
        Call::Renameat2 => Operation::Rename { old: entry_at(a, b), new: entry_at(c, d), flags: word(e) },
        Call::Link => Operation::Link { old: not_followed(a), new: entry(b) },
        Call::Linkat => Operation::Link { old: link_source(a, b, e), new: entry_at(c, d) },
        Call::Symlink => Operation::MakeEntry { new: entry(b) },
        Call::Symlinkat => Operation::MakeEntry { new: entry_at(b, c) },
        Call::Mknod => Operation::MakeEntry { new: entry(a) },
        Call::Mknodat => Operation::MakeEntry { new: entry_at(a, b) },
        Call::Unlink => Operation::Unlink { path: entry(a), directory: false },
        Call::Unlinkat => Operation::Unlink { path: entry_at(a, b), directory: word(c) & at::REMOVEDIR != 0 },
        Call::Rmdir => Operation::Unlink { path: entry(a), directory: true },
        Call::PivotRoot => Operation::PivotRoot { new_root: followed(a) },
        Call::Chroot => Operation::ChangeRoot,
        Call::IoUringSetup => Operation::IoUringSetup,
        Call::Acct => Operation::Accounting { on: a != 0 },
        Call::Seccomp => Operation::InstallFilter { listener: asks_for_listener([a, b, c]) },
        Call::Execve => execute(followed(a), b, abi),
        Call::Execveat => execute(path_at(a, b, e), c, abi),
        Call::Mount | Call::MoveMount | Call::OpenTree | Call::Umount | Call::Umount2 => {
            mount_operation(call, [a, b, c, d, e])
        }
        Call::Fsconfig => configure([a, b, c, d, e]),
        _ => attribute_operation(call, [a, b, c, d, e]),
    }
}

/// Whether seccomp(2) with these arguments installs a filter with a listener (linux/seccomp.h).
const fn asks_for_listener([operation, flags, filter]: [u64; 3]) -> bool {
    const SET_MODE_FILTER: u32 = 1;
    const NEW_LISTENER: u32 = 1 << 3;
    word(operation) == SET_MODE_FILTER && word(flags) & NEW_LISTENER != 0 && filter != 0
}

/// truncate and the calls that change mode, owner or extended attributes.
fn attribute_operation(call: Call, [a, b, c, d, e]: [u64; 5]) -> Operation {
    match call {
        Call::Fchmod | Call::Fchown | Call::Fchown32 | Call::Fsetxattr | Call::Fremovexattr => change_descriptor(a),
        Call::Lchown | Call::Lchown32 | Call::Lsetxattr | Call::Lremovexattr => change(not_followed(a)),
        // the system call fchmodat has no flags argument (chmod(2), "C library/kernel differences")
        Call::Fchmodat => change(path_at(a, b, 0)),
        Call::Fchmodat2 => change(path_at(a, b, d)),
        Call::Fchownat => change(path_at(a, b, e)),
        Call::Setxattrat | Call::Removexattrat => change(path_at(a, b, c)),
        _ => change(followed(a)),
    }
}

fn mount_operation(call: Call, [a, b, c, d, e]: [u64; 5]) -> Operation {
    const MOVE_FROM_SYMLINKS: u32 = 0x1;
    const MOVE_FROM_EMPTY_PATH: u32 = 0x4;
    const MOVE_TO_SYMLINKS: u32 = 0x10;
    const MOVE_TO_EMPTY_PATH: u32 = 0x40;
    const OPEN_TREE_CLONE: u32 = 0x1;
    const UMOUNT_NOFOLLOW: u32 = 0x8;
    match call {
        Call::MoveMount => {
            let flags = word(e);
            let end = |directory, pointer, links: u32, empty: u32| PathArgument {
                base: base(directory),
                pointer,
                empty_is_base: flags & empty != 0,
                follow: if flags & links != 0 { Follow::Last } else { Follow::NoLast },
            };
            Operation::MoveMount {
                source: end(a, b, MOVE_FROM_SYMLINKS, MOVE_FROM_EMPTY_PATH),
                target: end(c, d, MOVE_TO_SYMLINKS, MOVE_TO_EMPTY_PATH),
            }
        }
        Call::OpenTree => Operation::OpenTree { path: path_at(a, b, c), clone: word(c) & OPEN_TREE_CLONE != 0 },
        Call::Umount => Operation::Unmount { path: followed(a) },
        Call::Umount2 => {
            let path = if word(b) & UMOUNT_NOFOLLOW != 0 { not_followed(a) } else { followed(a) };
            Operation::Unmount { path }
        }
        _ => Operation::Mount { source: followed(a), target: followed(b), flags: d, kind: c, data: e },
    }
}

/// include/uapi/linux/mount.h, `enum fsconfig_command`.
fn configure([context, command, key, value, auxiliary]: [u64; 5]) -> Operation {
    const SET_STRING: u32 = 1;
    const SET_PATH: u32 = 3;
    const SET_PATH_EMPTY: u32 = 4;
    const SET_FD: u32 = 5;
    let path = path(base(auxiliary), value, Follow::Last);
    let value = match word(command) {
        SET_STRING => SettingArgument::Text(value),
        SET_PATH => SettingArgument::Path(path),
        SET_PATH_EMPTY => SettingArgument::Path(PathArgument { empty_is_base: true, ..path }),
        SET_FD => SettingArgument::Descriptor(word(auxiliary).cast_signed()),
        _ => SettingArgument::Nothing,
    };
    Operation::Configure { context: word(context).cast_signed(), key, value }
}

/// linkat(2): follows its source only with `AT_SYMLINK_FOLLOW`.
const fn link_source(directory: u64, pointer: u64, at_flags: u64) -> PathArgument {
    let at_flags = word(at_flags);
    let follow = if at_flags & at::SYMLINK_FOLLOW != 0 { Follow::Last } else { Follow::NoLast };
    PathArgument { base: base(directory), pointer, empty_is_base: at_flags & at::EMPTY_PATH != 0, follow }
}

const fn execute(path: PathArgument, argv: u64, abi: Abi) -> Operation {
    Operation::Execute { path, argv, pointer_bytes: abi.pointer_bytes() }
}

#[cfg(test)]
mod tests;

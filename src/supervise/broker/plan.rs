//! What a helper has to do so that a call has been made: [`Request`] and arguments in, [`Plan`] out. The one table of what each
//! call does, beside the table of what it means for the databases ([`crate::supervise::observe`]).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::kernel::Errno;
use crate::kernel::broker::Operation as Deed;
use crate::kernel::broker::Subject;
use crate::kernel::foreign_root::Follow;
use crate::supervise::argument::Argument;
use crate::supervise::broker::attributes;
use crate::supervise::broker::layers;
use crate::supervise::broker::mounts;
use crate::supervise::decode::Operation;
use crate::supervise::decode::PathArgument;
use crate::supervise::decode::Request;
use crate::supervise::decode::abi::Abi;
use crate::supervise::decode::abi::Call;
use crate::supervise::decode::flags::at;
use crate::supervise::decode::flags::rename;
use crate::supervise::target::Object;
use crate::supervise::target::ObjectKind;
use crate::supervise::target::Place;
use crate::supervise::target::Target;
use crate::supervise::target::TargetError;

/// Longest name of an entry (limits.h).
const NAME_MAX: usize = 255;

/// What is to be done for the process.
#[derive(Debug)]
pub enum Plan {
    /// By a helper.
    Perform {
        /// What.
        deed: Deed,
        /// On what, in the deed's order.
        on: Vec<Arc<OwnedFd>>,
        /// Whether a descriptor that is opened closes on exec in the process.
        close_on_exec: bool,
    },
    /// Nothing: the call succeeds and changes nothing.
    Nothing,
    /// Nothing can be exchanged that would matter: the kernel may read the arguments again.
    LetGo,
}

/// A plan, or the errno with which the call fails for the process itself ([`TargetError::Nowhere`], [`TargetError::Unreadable`]).
pub type PlanOrError = Result<Plan, TargetError>;

/// A call to be planned.
pub struct Planner<'a> {
    /// The call.
    pub request: &'a Request,
    /// Its six arguments, as wide as its architecture has them.
    pub arguments: [u64; 6],
    /// Who made it.
    pub target: &'a dyn Target,
    /// Whether it may open files by handle (CAP_DAC_READ_SEARCH, open_by_handle_at(2)).
    pub may_open_by_handle: bool,
    /// Whether it may search every directory, by capability.
    pub searches_everything: bool,
}

/// A deed on `on`.
pub fn perform(deed: Deed, on: Vec<Arc<OwnedFd>>) -> PlanOrError {
    Ok(Plan::Perform { deed, on, close_on_exec: false })
}

/// The call fails so, once its paths were looked up.
pub fn fails<T>(errno: Errno) -> Result<T, TargetError> {
    Err(TargetError::Nowhere(errno))
}

/// The call fails so before any path is looked up.
pub fn fails_at_once<T>(errno: Errno) -> Result<T, TargetError> {
    Err(TargetError::Unreadable { address: 0, errno })
}

/// Low half of an argument: the kernel takes no more of an `int`.
#[expect(clippy::cast_possible_truncation, reason = "the kernel takes the low half of an int argument")]
pub const fn word(argument: u64) -> u32 {
    argument as u32
}

/// The handle on an object; every real one has it.
pub fn handle(object: &Object) -> Result<Arc<OwnedFd>, TargetError> {
    object.handle.clone().ok_or_else(|| TargetError::Unable("an object has no handle".to_owned()))
}

impl Planner<'_> {
    /// What is to be done.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn plan(&self) -> PlanOrError {
        let [_, b, c, _, e, _] = self.arguments;
        self.check_numbers()?;
        match self.request.operation {
            Operation::Open { path, flags } => self.open_path(path, flags),
            Operation::OpenHow { base, pointer, how, how_bytes } => self.open_how(base, pointer, how, how_bytes),
            Operation::OpenByHandle { mount, handle, .. } => self.open_by_handle(mount, handle, word(c)),
            Operation::Rename { old, new, flags } => self.rename(old, new, flags),
            Operation::Link { old, new } => self.link(old, new),
            Operation::MakeEntry { new } => self.make_entry(new),
            Operation::Unlink { path, directory } => {
                let entry = self.entry(path)?;
                perform(Deed::Unlink { name: entry.name, directory }, vec![entry.directory])
            }
            Operation::Change { object } => attributes::plan(self, object),
            Operation::Mount { source, target, flags, kind, data } => {
                mounts::mount(self, source, target, flags, [kind, data])
            }
            Operation::Configure { context, key, value } => layers::configure(self, context, key, value),
            Operation::MoveMount { source, target } => mounts::move_mount(self, source, target, word(e)),
            Operation::Unmount { path } => mounts::unmount(self, path, word(b)),
            // open_tree gives an `O_PATH` descriptor, which no other process can hand over (ADDFD: EBADF); what is done with it
            // is intercepted. The others change no file.
            Operation::OpenTree { .. }
            | Operation::PivotRoot { .. }
            | Operation::ChangeRoot
            | Operation::Execute { .. }
            | Operation::Accounting { .. }
            | Operation::InstallFilter { .. }
            | Operation::IoUringSetup => Ok(Plan::LetGo),
        }
    }

    /// What the kernel refuses by numbers alone, before it looks at any path.
    fn check_numbers(&self) -> Result<(), TargetError> {
        const LINK_FLAGS: u32 = at::SYMLINK_FOLLOW | at::EMPTY_PATH;
        const OBJECT_FLAGS: u32 = at::SYMLINK_NOFOLLOW | at::EMPTY_PATH;
        const ALL_RENAME_FLAGS: u32 = 7;
        let [_, b, c, d, e, _] = self.arguments;
        let exchanges_and_more = |flags: u32| flags & rename::EXCHANGE != 0 && flags != rename::EXCHANGE;
        let is_wrong = match self.request.call {
            Call::Renameat2 => word(e) & !ALL_RENAME_FLAGS != 0 || exchanges_and_more(word(e)),
            Call::Linkat => word(e) & !LINK_FLAGS != 0,
            Call::Unlinkat => word(c) & !at::REMOVEDIR != 0,
            Call::Fchownat => word(e) & !OBJECT_FLAGS != 0,
            Call::Fchmodat2 => word(d) & !OBJECT_FLAGS != 0,
            Call::Truncate | Call::Truncate64 => attributes::length(self) < 0,
            Call::Fsconfig => layers::is_wrong_setting(self.arguments),
            Call::Mknod => return check_node(word(b)),
            Call::Mknodat => return check_node(word(c)),
            _ => false,
        };
        if is_wrong { fails_at_once(Errno::INVAL) } else { Ok(()) }
    }

    /// Whether an entry lies in a directory of the process's own in a procfs, where it may look things up and a helper may not.
    pub fn is_for_the_process_alone(&self, place: &Place) -> bool {
        let is_own = |directory| self.target.is_own_process_directory(directory);
        !self.searches_everything && place.directory.as_deref().is_some_and(is_own)
    }

    /// The directory and name of an entry that is made or removed. What is there already is not made, whatever becomes of it
    /// meanwhile: EEXIST comes before every permission but that to search (fs/namei.c, `filename_create`). In a directory of the process's own in a procfs neither can be
    /// done (fs/proc/fd.c has no operation for it), so it is said without a helper.
    pub fn entry(&self, path: PathArgument) -> Result<Entry, TargetError> {
        let argument = Argument::read(self.target, path)?;
        let place = &argument.place;
        let removes = matches!(self.request.operation, Operation::Unlink { .. });
        if !removes && place.object.is_some() {
            return fails(Errno::EXIST);
        }
        if self.is_for_the_process_alone(place) {
            let removes_directory = matches!(self.request.operation, Operation::Unlink { directory: true, .. });
            return fails(match &place.object {
                None => Errno::NOENT,
                Some(object) if removes_directory && object.kind != ObjectKind::Directory => Errno::NOTDIR,
                Some(_) => Errno::PERM,
            });
        }
        Entry::of(&argument)
    }

    /// fs/namei.c, `do_renameat2`: both directories first, then whether they are of one mount, then what stands there.
    fn rename(&self, old: PathArgument, new: PathArgument, flags: u32) -> PlanOrError {
        let (old, new) = (Argument::read(self.target, old)?, Argument::read(self.target, new)?);
        let is_own = |argument: &Argument| self.is_for_the_process_alone(&argument.place);
        match (is_own(&old), is_own(&new)) {
            (false, false) => {}
            (true, true) if old.place.object.is_none() => return fails(Errno::NOENT),
            (true, true) if flags & rename::NOREPLACE != 0 && new.place.object.is_some() => return fails(Errno::EXIST),
            // "If oldpath and newpath are existing hard links referring to the same file, then rename() does nothing"
            (true, true) if old.place.name == new.place.name => return Ok(Plan::Nothing),
            (true, true) => return fails(Errno::PERM),
            _ => return fails(Errno::XDEV),
        }
        let (old, new) = (Entry::of(&old)?, Entry::of(&new)?);
        perform(Deed::Rename { old: old.name, new: new.name, flags }, vec![old.directory, new.directory])
    }

    /// What the path leads to.
    pub fn object(&self, path: PathArgument) -> Result<(Argument, Object), TargetError> {
        let argument = Argument::read(self.target, path)?;
        match argument.place.object.clone() {
            Some(object) => Ok((argument, object)),
            None => fails(Errno::NOENT),
        }
    }

    fn link(&self, old: PathArgument, new: PathArgument) -> PlanOrError {
        let source = Argument::read(self.target, old)?;
        // looked up to its end before the new name is looked at (fs/namei.c, `do_linkat`)
        if source.place.object.is_none() {
            return fails(Errno::NOENT);
        }
        let entry = self.entry(new)?;
        if source.asked.is_empty() || old.follow == Follow::Last {
            let Some(object) = &source.place.object else { return fails(Errno::NOENT) };
            return perform(Deed::LinkObject { new: entry.name }, vec![handle(object)?, entry.directory]);
        }
        if self.is_for_the_process_alone(&source.place) {
            let new = Argument::read(self.target, new)?.place;
            return fails(match new.name.len() {
                length if length > NAME_MAX => Errno::NAMETOOLONG,
                _ if new.slash => Errno::NOENT,
                _ => Errno::XDEV,
            });
        }
        let source = Entry::of(&source)?;
        perform(Deed::LinkEntry { old: source.name, new: entry.name }, vec![source.directory, entry.directory])
    }

    fn make_entry(&self, new: PathArgument) -> PlanOrError {
        let [a, b, c, d, ..] = self.arguments;
        let entry = |path| self.entry(path);
        match self.request.call {
            Call::Symlink | Call::Symlinkat => {
                let text = self.target.path(a)?;
                if text.is_empty() {
                    return fails_at_once(Errno::NOENT);
                }
                let entry = entry(new)?;
                perform(Deed::Symlink { text, name: entry.name }, vec![entry.directory])
            }
            call => {
                let (mode, device) = if call == Call::Mknod { (b, c) } else { (c, d) };
                let entry = entry(new)?;
                let deed = Deed::MakeNode { name: entry.name, mode: word(mode) & 0o177_777, device: word(device) };
                perform(deed, vec![entry.directory])
            }
        }
    }

    /// Whether numbers of users and groups are 16 bits wide (chown(2), "C library/kernel differences").
    #[must_use]
    pub fn has_16_bit_ids(&self) -> bool {
        matches!(self.request.abi, Abi::I386 | Abi::Arm)
            && matches!(self.request.call, Call::Chown | Call::Lchown | Call::Fchown)
    }
}

/// A directory and a name in it.
pub struct Entry {
    /// The directory.
    pub directory: Arc<OwnedFd>,
    /// The name, with the slash that the path ended in: the kernel then demands a directory itself.
    pub name: Vec<u8>,
}

impl Entry {
    /// Of a resolved path. What ends in `.`, `..` or `/` is handed to the kernel as just that, which refuses it as it always does.
    pub fn of(argument: &Argument) -> Result<Self, TargetError> {
        let place = &argument.place;
        if let Some(directory) = &place.directory {
            let mut name = place.name.clone();
            name.extend(place.slash.then_some(b'/'));
            return Ok(Self { directory: Arc::clone(directory), name });
        }
        match (&place.object, last_word(&argument.asked)) {
            (Some(object), Some(word)) => Ok(Self { directory: handle(object)?, name: word.to_vec() }),
            _ => fails(Errno::NOTDIR),
        }
    }

    /// The same object, not followed when it is a link.
    #[must_use]
    pub fn subject(self) -> (Subject, Arc<OwnedFd>) {
        (Subject::Entry(self.name), self.directory)
    }
}

/// fs/namei.c, `may_mknod`: a directory is EPERM, what is no type EINVAL.
fn check_node(mode: u32) -> Result<(), TargetError> {
    match mode & 0o170_000 {
        0 | 0o100_000 | 0o020_000 | 0o060_000 | 0o010_000 | 0o140_000 => Ok(()),
        0o040_000 => fails_at_once(Errno::PERM),
        _ => fails_at_once(Errno::INVAL),
    }
}

/// `.`, `..` or `/` when that is what a path ends in.
pub fn last_word(path: &[u8]) -> Option<&'static [u8]> {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last.saturating_add(1));
    match path.get(..end)?.rsplit(|byte| *byte == b'/').next()? {
        b"" => Some(b"/"),
        b"." => Some(b"."),
        b".." => Some(b".."),
        _ => None,
    }
}

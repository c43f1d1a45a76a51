//! What a helper has to do so that a call has been made: [`Request`] and arguments in, [`Plan`] out. The one table of what each
//! call does, beside the table of what it means for the databases ([`crate::supervise::observe`]).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::kernel::Errno;
use crate::kernel::broker::Operation as Deed;
use crate::kernel::broker::Subject;
use crate::kernel::foreign_root::Base;
use crate::supervise::argument::Argument;
use crate::supervise::argument::OpenHow;
use crate::supervise::broker::attributes;
use crate::supervise::broker::mounts;
use crate::supervise::decode::Operation;
use crate::supervise::decode::PathArgument;
use crate::supervise::decode::Request;
use crate::supervise::decode::abi::Abi;
use crate::supervise::decode::abi::Call;
use crate::supervise::decode::flags::OpenFlags;
use crate::supervise::target::Object;
use crate::supervise::target::ObjectKind;
use crate::supervise::target::Target;
use crate::supervise::target::TargetError;

/// `O_CLOEXEC` (open(2)), the same everywhere.
const O_CLOEXEC: u32 = 0o2_000_000;

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
}

/// A deed on `on`.
pub fn perform(deed: Deed, on: Vec<Arc<OwnedFd>>) -> PlanOrError {
    Ok(Plan::Perform { deed, on, close_on_exec: false })
}

/// The call fails so.
pub fn fails<T>(errno: Errno) -> Result<T, TargetError> {
    Err(TargetError::Nowhere(errno))
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
        let [_, b, c, d, e, _] = self.arguments;
        match self.request.operation {
            Operation::Open { path, flags } => {
                let (word, mode) = match self.request.call {
                    Call::Open => (word(b), c),
                    Call::Creat => (OpenFlags::CREAT.bits(), b),
                    _ => (word(c), d),
                };
                self.open(&Argument::read(self.target, path)?, flags, word, mode)
            }
            Operation::OpenHow { base, pointer, how, how_bytes } => self.open_how(base, pointer, how, how_bytes),
            Operation::OpenByHandle { mount, handle, .. } => self.open_by_handle(mount, handle, word(c)),
            Operation::Rename { old, new, flags } => {
                let (old, new) = (self.entry(old)?, self.entry(new)?);
                perform(Deed::Rename { old: old.name, new: new.name, flags }, vec![old.directory, new.directory])
            }
            Operation::Link { old, new } => self.link(old, new),
            Operation::MakeEntry { new } => self.make_entry(new),
            Operation::Unlink { path, directory } => {
                let entry = self.entry(path)?;
                perform(Deed::Unlink { name: entry.name, directory }, vec![entry.directory])
            }
            Operation::Change { object } => attributes::plan(self, object),
            Operation::Mount { source, target, flags } => mounts::mount(self, source, target, flags, [c, e]),
            Operation::MoveMount { source, target } => mounts::move_mount(self, source, target, word(e)),
            Operation::Unmount { path } => mounts::unmount(self, path, word(b)),
            // open_tree gives an `O_PATH` descriptor, which no other process can hand over (ADDFD: EBADF); what is done with it
            // is intercepted. The others change no file.
            Operation::OpenTree { .. }
            | Operation::PivotRoot { .. }
            | Operation::ChangeRoot
            | Operation::Execute { .. }
            | Operation::IoUringSetup => Ok(Plan::LetGo),
        }
    }

    /// The directory and name of an entry.
    pub fn entry(&self, path: PathArgument) -> Result<Entry, TargetError> {
        Entry::of(&Argument::read(self.target, path)?)
    }

    /// What the path leads to.
    pub fn object(&self, path: PathArgument) -> Result<(Argument, Object), TargetError> {
        let argument = Argument::read(self.target, path)?;
        match argument.place.object.clone() {
            Some(object) => Ok((argument, object)),
            None => fails(Errno::NOENT),
        }
    }

    fn open(&self, argument: &Argument, flags: OpenFlags, word: u32, mode: u64) -> PlanOrError {
        let mode = self::word(mode) & 0o7777;
        let close_on_exec = word & O_CLOEXEC != 0;
        let place = &argument.place;
        let creates = flags.creates();
        let (deed, on) = match &place.object {
            // reached by a link that is no text: there is no entry that could be created
            Some(object) if !creates || (place.directory.is_none() && last_word(&argument.asked).is_none()) => {
                (Deed::Open { flags: word, mode }, self.device(object)?)
            }
            None if !creates => return fails(Errno::NOENT),
            object => {
                let entry = Entry::of(argument)?;
                let existing = object.as_ref().map(|object| (object.id.device, object.id.inode));
                (Deed::Create { name: entry.name, flags: word, mode, existing }, entry.directory)
            }
        };
        Ok(Plan::Perform { deed, on: vec![on], close_on_exec })
    }

    /// What is opened for an object: itself, but for `/dev/tty`, which is the terminal of whoever opens it (tty(4)).
    fn device(&self, object: &Object) -> Result<Arc<OwnedFd>, TargetError> {
        if object.kind == ObjectKind::Other && object.handle.as_ref().is_some_and(is_dev_tty) {
            return self.target.controlling_terminal().and_then(|terminal| handle(&terminal));
        }
        handle(object)
    }

    /// openat2(2). What it restricts, the kernel itself checks on the way; what it leads to is then the object decided about.
    fn open_how(&self, base: Base, pointer: u64, how: u64, how_bytes: u64) -> PlanOrError {
        const O_PATH: u64 = 0o10_000_000;
        const O_DIRECTORY: u64 = 0o200_000;
        const RESOLVE_CACHED: u64 = 0x20;
        let how = OpenHow::read(self.target, how, how_bytes)?;
        let flags = OpenFlags::new(self.request.abi, how.flags);
        if how.flags > u64::from(u32::MAX) || how.mode > 0o7777 {
            return fails(Errno::INVAL);
        }
        if how.mode != 0 && !flags.creates() && !flags.is_unnamed() {
            return fails(Errno::INVAL);
        }
        // "EAGAIN: … or RESOLVE_CACHED was set, and the open operation cannot be performed cached"
        if how.resolve & RESOLVE_CACHED != 0 {
            return fails(Errno::AGAIN);
        }
        let argument = how.argument(self.target, base, pointer, flags)?;
        if how.resolve != 0 {
            self.target.check_restrictions(base, &argument.asked, how.resolve, &argument.place)?;
        }
        if how.flags & O_PATH == 0 {
            return self.open(&argument, flags, word(how.flags), how.mode);
        }
        // an `O_PATH` descriptor cannot be handed over, and its flags lie in memory: a directory is opened for reading instead
        match &argument.place.object {
            None => fails(Errno::NOENT),
            Some(object) if object.kind == ObjectKind::Directory => {
                let flags = word(how.flags & !O_PATH | O_DIRECTORY);
                let deed = Deed::Open { flags, mode: 0 };
                Ok(Plan::Perform { deed, on: vec![handle(object)?], close_on_exec: flags & O_CLOEXEC != 0 })
            }
            Some(_) => fails(Errno::NOSYS),
        }
    }

    fn open_by_handle(&self, mount: i32, pointer: u64, flags: u32) -> PlanOrError {
        if !self.may_open_by_handle {
            return fails(Errno::PERM);
        }
        let argument = Argument::of_handle(self.target, mount, pointer)?;
        let Some(object) = &argument.place.object else { return fails(Errno::STALE) };
        let deed = Deed::Open { flags, mode: 0 };
        Ok(Plan::Perform { deed, on: vec![handle(object)?], close_on_exec: flags & O_CLOEXEC != 0 })
    }

    fn link(&self, old: PathArgument, new: PathArgument) -> PlanOrError {
        use crate::kernel::foreign_root::Follow;
        let source = Argument::read(self.target, old)?;
        let entry = self.entry(new)?;
        if source.asked.is_empty() || old.follow == Follow::Last {
            let Some(object) = &source.place.object else { return fails(Errno::NOENT) };
            return perform(Deed::LinkObject { new: entry.name }, vec![handle(object)?, entry.directory]);
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
                    return fails(Errno::NOENT);
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

/// `.`, `..` or `/` when that is what a path ends in.
fn last_word(path: &[u8]) -> Option<&'static [u8]> {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last.saturating_add(1));
    match path.get(..end)?.rsplit(|byte| *byte == b'/').next()? {
        b"" => Some(b"/"),
        b"." => Some(b"."),
        b".." => Some(b".."),
        _ => None,
    }
}

fn is_dev_tty(device: &Arc<OwnedFd>) -> bool {
    rustix::fs::fstat(device)
        .is_ok_and(|status| status.st_mode & 0o170_000 == 0o020_000 && status.st_rdev == rustix::fs::makedev(5, 0))
}

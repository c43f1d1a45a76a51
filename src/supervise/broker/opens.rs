//! open(2), openat2(2) and open_by_handle_at(2): what is opened itself, and what by its entry.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::kernel::Errno;
use crate::kernel::broker;
use crate::kernel::broker::Operation as Deed;
use crate::kernel::foreign_root::Base;
use crate::kernel::foreign_root::Follow;
use crate::kernel::foreign_root::Restrictions;
use crate::supervise::argument::Argument;
use crate::supervise::argument::OpenHow;
use crate::supervise::broker::plan::Entry;
use crate::supervise::broker::plan::Plan;
use crate::supervise::broker::plan::PlanOrError;
use crate::supervise::broker::plan::Planner;
use crate::supervise::broker::plan::fails;
use crate::supervise::broker::plan::fails_at_once;
use crate::supervise::broker::plan::handle;
use crate::supervise::broker::plan::last_word;
use crate::supervise::broker::plan::word;
use crate::supervise::decode::PathArgument;
use crate::supervise::decode::abi::Call;
use crate::supervise::decode::flags::OpenFlags;
use crate::supervise::target::Object;
use crate::supervise::target::ObjectKind;
use crate::supervise::target::TargetError;

/// `O_CLOEXEC` (open(2)), the same everywhere.
const O_CLOEXEC: u32 = 0o2_000_000;

impl Planner<'_> {
    /// open(2), openat(2), creat(2).
    pub fn open_path(&self, path: PathArgument, flags: OpenFlags) -> PlanOrError {
        let [_, b, c, d, ..] = self.arguments;
        let (word, mode) = match self.request.call {
            Call::Open => (word(b), c),
            Call::Creat => (OpenFlags::CREAT.bits(), b),
            _ => (word(c), d),
        };
        broker::check_open_flags(word).or_else(fails_at_once)?;
        // an `O_PATH` descriptor, which no other process can hand over (ADDFD: EBADF) and through which nothing is written; what
        // is done with it is intercepted, and the flag lies in a register
        if flags.is_path() {
            return Ok(Plan::LetGo);
        }
        self.check_descriptors(path.pointer)?;
        self.refuse_trailing_slash(path.base, path.pointer, flags, Restrictions::NONE)?;
        self.open(&Argument::read(self.target, path)?, flags, word, mode)
    }

    /// fs/open.c, `do_sys_openat2`: the number is taken before anything is looked up, so that nothing is made or emptied for want
    /// of one; but a path that cannot be read, or is empty, fails first.
    fn check_descriptors(&self, pointer: u64) -> Result<(), TargetError> {
        let is_empty = self.target.path(pointer)?.is_empty();
        if is_empty || self.target.has_free_descriptor() { Ok(()) } else { fails_at_once(Errno::MFILE) }
    }

    fn open(&self, argument: &Argument, flags: OpenFlags, word: u32, mode: u64) -> PlanOrError {
        let mode = self::word(mode) & 0o7777;
        let close_on_exec = word & O_CLOEXEC != 0;
        let place = &argument.place;
        let is_missing_or_link = place.object.as_ref().is_none_or(|object| object.kind == ObjectKind::Symlink);
        if is_missing_or_link && self.is_for_the_process_alone(place) {
            return fails(match &place.object {
                Some(_) if flags.is_exclusive() => Errno::EXIST,
                Some(_) if flags.is_directory() => Errno::NOTDIR,
                Some(_) => Errno::LOOP,
                None if flags.creates() => Errno::ACCESS,
                None => Errno::NOENT,
            });
        }
        let (deed, on) = match &place.object {
            Some(object) if !self.is_opened_by_entry(argument, object, flags) => {
                (Deed::Open { flags: word, mode }, self.device(object)?)
            }
            None if !flags.creates() => return fails(Errno::NOENT),
            object => {
                let entry = Entry::of(argument)?;
                let existing = object.as_ref().map(|object| (object.id.device, object.id.inode));
                (Deed::OpenEntry { name: entry.name, flags: word, mode, existing }, entry.directory)
            }
        };
        Ok(Plan::Perform { deed, on: vec![on], close_on_exec })
    }

    /// Whether an object that is there is opened by its entry: where the directory, or not following, is part of what the kernel
    /// checks. Else it is opened itself, whatever has become of its entry.
    fn is_opened_by_entry(&self, argument: &Argument, object: &Object, flags: OpenFlags) -> bool {
        const STICKY: u32 = 0o1000;
        let Some(directory) = &argument.place.directory else {
            // reached by a link that is no text there is no entry; by `.`, `..` or `/` there is, for the kernel to refuse
            return flags.creates() && last_word(&argument.asked).is_some();
        };
        // proc(5), fs.protected_regular and fs.protected_fifos: in sticky directories only
        let is_sticky = || rustix::fs::fstat(directory).is_ok_and(|status| status.st_mode & STICKY != 0);
        flags.is_exclusive()
            || flags.is_no_follow()
            || (flags.creates() && (object.kind == ObjectKind::Directory || is_sticky()))
    }

    /// What is opened for an object: itself, but for `/dev/tty`, which is the terminal of whoever opens it (tty(4)).
    fn device(&self, object: &Object) -> Result<Arc<OwnedFd>, TargetError> {
        if object.kind == ObjectKind::Other && object.handle.as_ref().is_some_and(is_dev_tty) {
            return self.target.controlling_terminal().and_then(|terminal| handle(&terminal));
        }
        handle(object)
    }

    /// openat2(2). What it restricts is asked on the way to the object that was decided about.
    pub fn open_how(&self, base: Base, pointer: u64, how: u64, how_bytes: u64) -> PlanOrError {
        const O_PATH: u64 = 0o10_000_000;
        const O_DIRECTORY: u64 = 0o200_000;
        const RESOLVE_CACHED: u64 = 0x20;
        let how = OpenHow::read(self.target, how, how_bytes)?;
        let flags = OpenFlags::new(self.request.abi, how.flags);
        broker::check_open_how(how.flags, how.mode, how.resolve).or_else(fails_at_once)?;
        // "EAGAIN: … or RESOLVE_CACHED was set, and the open operation cannot be performed cached"
        if how.resolve & RESOLVE_CACHED != 0 {
            return fails_at_once(Errno::AGAIN);
        }
        self.check_descriptors(pointer)?;
        self.refuse_trailing_slash(base, pointer, flags, Restrictions::new(how.resolve))?;
        let argument = how.argument(self.target, base, pointer, flags)?;
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

    /// fs/namei.c, `lookup_fast_for_open`: with `O_CREAT` a name and a slash at the end of a path are EISDIR, whatever stands there.
    fn refuse_trailing_slash(
        &self,
        base: Base,
        pointer: u64,
        flags: OpenFlags,
        restrictions: Restrictions,
    ) -> Result<(), TargetError> {
        if !flags.creates() {
            return Ok(());
        }
        let asked = self.target.path(pointer)?;
        if !asked.ends_with(b"/") || last_word(&asked).is_some() {
            return Ok(());
        }
        self.target.resolve_restricted(base, &asked, Follow::Entry, restrictions)?;
        fails(Errno::ISDIR)
    }

    pub fn open_by_handle(&self, mount: i32, pointer: u64, flags: u32) -> PlanOrError {
        if !self.may_open_by_handle {
            return fails_at_once(Errno::PERM);
        }
        let argument = Argument::of_handle(self.target, mount, pointer)?;
        let Some(object) = &argument.place.object else { return fails(Errno::STALE) };
        if !self.target.has_free_descriptor() {
            return fails(Errno::MFILE);
        }
        let deed = Deed::Open { flags, mode: 0 };
        Ok(Plan::Perform { deed, on: vec![handle(object)?], close_on_exec: flags & O_CLOEXEC != 0 })
    }
}

fn is_dev_tty(device: &Arc<OwnedFd>) -> bool {
    rustix::fs::fstat(device)
        .is_ok_and(|status| status.st_mode & 0o170_000 == 0o020_000 && status.st_rdev == rustix::fs::makedev(5, 0))
}

//! What a request means for the account databases: [`Request`] and [`Target`] in, attempts out.
//!
//! The table of effects is the one `match` over the operation. Calls that concern no database give [`Observation::Nothing`].
//! An argument that the kernel could not read either gives [`Observation::Fails`] with the kernel's errno, so that it is never
//! answered with CONTINUE; an argument that *we* cannot resolve gives an attempt with [`Effect::Unresolved`].

use std::cell::OnceCell;

use crate::kernel::Errno;
use crate::kernel::foreign_root::Base;
use crate::model::attempt::Attempt;
use crate::model::attempt::Effect;
use crate::model::database_path::DatabasePath;
use crate::model::workload::ContainerId;
use crate::supervise::account_tools;
use crate::supervise::argument::Argument;
use crate::supervise::argument::OpenHow;
use crate::supervise::databases::Ancestors;
use crate::supervise::databases::Located;
use crate::supervise::databases::RootView;
use crate::supervise::decode::ObjectArgument;
use crate::supervise::decode::Operation;
use crate::supervise::decode::PathArgument;
use crate::supervise::decode::Request;
use crate::supervise::decode::abi::Abi;
use crate::supervise::decode::flags;
use crate::supervise::decode::flags::OpenFlags;
use crate::supervise::neighbours::Neighbours;
use crate::supervise::neighbours::devices_of;
use crate::supervise::program_arguments;
use crate::supervise::target::ObjectKind;
use crate::supervise::target::Place;
use crate::supervise::target::Target;
use crate::supervise::target::TargetError;

/// Most bytes read of a file that is about to become a database.
const MAX_PROPOSED_BYTES: usize = 4 * 1024 * 1024;

/// One attempt, and what was at hand only while the process waited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What was tried.
    pub attempt: Attempt,
    /// Content that would take the database's place (rename or link over it), bounded.
    pub proposed: Option<Vec<u8>>,
    /// Arguments of the account tool about to run, unredacted: for deriving changes only.
    pub tool_arguments: Vec<String>,
    /// The other container whose database it is.
    pub neighbour: Option<ContainerId>,
}

/// What a request comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// No account database is concerned.
    Nothing,
    /// The kernel could not carry the call out either; its errno.
    Fails(Errno),
    /// The process is gone.
    Gone,
    /// Account databases are concerned.
    Attempts(Vec<Seen>),
}

/// The container's databases: its root and which they are.
pub struct Guarded<'a> {
    /// The container's own root.
    pub root: &'a dyn RootView,
    /// What is protected.
    pub databases: &'a [DatabasePath],
    /// Other containers, with theirs.
    pub neighbours: &'a dyn Neighbours,
}

/// Says what `request`, made by `target`, means for the databases.
#[must_use]
pub fn observe(request: &Request, target: &dyn Target, guarded: &Guarded<'_>) -> Observation {
    let own = Databases::new(guarded.root, guarded.databases);
    let observer = Observer { call: request.call.name(), abi: request.abi, target, guarded, own };
    match observer.seen(&request.operation) {
        Ok(seen) if seen.is_empty() => Observation::Nothing,
        Ok(seen) => Observation::Attempts(seen),
        Err(TargetError::Unreadable { errno, .. }) => Observation::Fails(errno),
        Err(TargetError::Nowhere(_)) => Observation::Nothing,
        Err(TargetError::Gone) => Observation::Gone,
        Err(TargetError::Unable(_)) => {
            Observation::Attempts(vec![observer.without_database(Effect::Unresolved, None, Vec::new())])
        }
    }
}

/// An attempt of which nothing is known but that it was made.
#[must_use]
pub fn unresolved(call: &'static str) -> Seen {
    let attempt = Attempt {
        call,
        effect: Effect::Unresolved,
        database: None,
        path_as_asked: None,
        object_path: None,
        object: None,
        flags: Vec::new(),
    };
    Seen { attempt, proposed: None, tool_arguments: Vec::new(), neighbour: None }
}

/// The databases below one root, looked up when first asked for and once for a call: its arguments are read before.
struct Databases<'a> {
    root: &'a dyn RootView,
    databases: &'a [DatabasePath],
    located: OnceCell<Located<'a>>,
    ancestors: OnceCell<Ancestors<'a>>,
}

impl<'a> Databases<'a> {
    fn new(root: &'a dyn RootView, databases: &'a [DatabasePath]) -> Self {
        Self { root, databases, located: OnceCell::new(), ancestors: OnceCell::new() }
    }

    fn located(&self) -> &Located<'a> {
        self.located.get_or_init(|| Located::look_up(self.root, self.databases))
    }

    fn ancestors(&self) -> &Ancestors<'a> {
        self.ancestors.get_or_init(|| Ancestors::look_up(self.root, self.databases))
    }
}

struct Observer<'a> {
    call: &'static str,
    abi: Abi,
    target: &'a dyn Target,
    guarded: &'a Guarded<'a>,
    own: Databases<'a>,
}

type SeenOrError = Result<Vec<Seen>, TargetError>;
/// Finds one of the databases.
type Find<'a> = dyn Fn(&Databases<'_>) -> Option<DatabasePath> + 'a;

impl Observer<'_> {
    /// The table of effects.
    fn seen(&self, operation: &Operation) -> SeenOrError {
        match *operation {
            Operation::Open { path, flags } => self.open(path, flags),
            Operation::OpenHow { base, pointer, how, how_bytes } => self.open_how(base, pointer, how, how_bytes),
            Operation::OpenByHandle { mount, handle, flags } if flags.writes() => {
                self.open_by_handle(mount, handle, flags)
            }
            Operation::Rename { old, new, flags } => self.rename(old, new, flags),
            Operation::Link { old, new } => self.link(old, new),
            Operation::MakeEntry { new } => {
                let new = self.argument(new)?;
                // where a directory of databases is missing, a link there puts another in place
                let missing = |new: &Argument| new.place.object.is_none().then(|| self.ancestor(new, &[])).flatten();
                Ok(self.entry(Effect::Replaces, &new, Vec::new()).or_else(|| missing(&new)).into_iter().collect())
            }
            Operation::Unlink { path, directory: false } => {
                let path = self.argument(path)?;
                Ok(self.entry(Effect::Replaces, &path, Vec::new()).into_iter().collect())
            }
            Operation::Change { object } => self.change(object),
            Operation::Mount { source, target, flags, kind, data } => self.mount(source, target, flags, [kind, data]),
            Operation::Configure { key, value, .. } => self.configure(key, value),
            Operation::MoveMount { source, target } => self.move_mount(source, target),
            Operation::OpenTree { path, clone: true } => {
                let path = self.argument(path)?;
                Ok(self.object(Effect::Aliases, &path, vec!["OPEN_TREE_CLONE"]).into_iter().collect())
            }
            Operation::Unmount { path } => self.unmount(path),
            Operation::Execute { path, argv, pointer_bytes } => self.execute(path, argv, pointer_bytes),
            Operation::PivotRoot { new_root } => self.pivot_root(new_root),
            // acct(2): the kernel appends a record with a name that a process chooses, whoever may write the file
            Operation::IoUringSetup | Operation::Accounting { on: true } => {
                Ok(vec![self.without_database(Effect::Bypasses, None, Vec::new())])
            }
            Operation::InstallFilter { listener: true } => {
                Ok(vec![self.without_database(Effect::Listens, None, vec!["SECCOMP_FILTER_FLAG_NEW_LISTENER"])])
            }
            // an empty directory holds no database, and chroot only changes how the caller's later paths are read
            Operation::Unlink { directory: true, .. }
            | Operation::OpenByHandle { .. }
            | Operation::OpenTree { clone: false, .. }
            | Operation::Accounting { on: false }
            | Operation::InstallFilter { listener: false }
            | Operation::ChangeRoot => Ok(Vec::new()),
        }
    }

    fn argument(&self, path: PathArgument) -> Result<Argument, TargetError> {
        Argument::read(self.target, path)
    }

    fn attempt(&self, effect: Effect, database: &DatabasePath, argument: &Argument, flags: Vec<&'static str>) -> Seen {
        let attempt = Attempt {
            call: self.call,
            effect,
            database: Some(database.clone()),
            path_as_asked: (!argument.asked.is_empty()).then(|| argument.asked.clone()),
            object_path: argument.place.path.clone(),
            object: argument.place.object.as_ref().map(|object| object.id),
            flags,
        };
        Seen { attempt, proposed: None, tool_arguments: Vec::new(), neighbour: None }
    }

    fn without_database(&self, effect: Effect, argument: Option<&Argument>, flags: Vec<&'static str>) -> Seen {
        let mut seen = unresolved(self.call);
        seen.attempt.effect = effect;
        seen.attempt.flags = flags;
        if let Some(argument) = argument {
            seen.attempt.path_as_asked = Some(argument.asked.clone());
            seen.attempt.object_path.clone_from(&argument.place.path);
            seen.attempt.object = argument.place.object.as_ref().map(|object| object.id);
        }
        seen
    }

    /// An attempt on the directory entry at `argument`, when it is a database's.
    fn entry(&self, effect: Effect, argument: &Argument, flags: Vec<&'static str>) -> Option<Seen> {
        self.anywhere(effect, argument, flags, &|databases| databases.located().by_entry(&argument.place).cloned())
    }

    /// An attempt on the database that `find` finds: among this container's, else among those of another that has some on the
    /// same file system.
    fn anywhere(&self, effect: Effect, argument: &Argument, flags: Vec<&'static str>, find: &Find<'_>) -> Option<Seen> {
        if let Some(database) = find(&self.own) {
            return Some(self.attempt(effect, &database, argument, flags));
        }
        let neighbours = self.guarded.neighbours.near(&devices_of(&argument.place));
        neighbours.into_iter().find_map(|neighbour| {
            let _visit = neighbour.visit()?;
            let root = neighbour.case.root();
            let database = find(&Databases::new(root.as_ref(), &neighbour.databases))?;
            let seen = self.attempt(effect, &database, argument, flags.clone());
            Some(Seen { neighbour: Some(neighbour.id.clone()), ..seen })
        })
    }

    /// An attempt on the object at `argument`, when it is a database.
    fn object(&self, effect: Effect, argument: &Argument, flags: Vec<&'static str>) -> Option<Seen> {
        let kind = argument.place.object.as_ref().map(|object| object.kind)?;
        if !matches!(kind, ObjectKind::Regular | ObjectKind::Symlink) {
            return None; // spares the look-up for what is opened most: devices, pipes, directories
        }
        self.anywhere(effect, argument, flags, &|databases| databases.located().by_object(&argument.place).cloned())
    }

    fn open(&self, path: PathArgument, flags: OpenFlags) -> SeenOrError {
        if !flags.writes() && !flags.creates() {
            return Ok(Vec::new());
        }
        let argument = self.argument(path)?;
        Ok(self.opened(&argument, flags).into_iter().collect())
    }

    fn opened(&self, argument: &Argument, flags: OpenFlags) -> Option<Seen> {
        match argument.place.object {
            // O_CREAT|O_EXCL on what exists fails with EEXIST; O_TMPFILE never touches an entry
            Some(_) if flags.is_exclusive() || flags.is_unnamed() || !flags.writes() => None,
            Some(_) => self.object(Effect::Writes, argument, flags.names()),
            None if flags.creates() => self.entry(Effect::Replaces, argument, flags.names()),
            None => None,
        }
    }

    fn open_how(&self, base: Base, pointer: u64, how: u64, how_bytes: u64) -> SeenOrError {
        let how = OpenHow::read(self.target, how, how_bytes)?;
        let flags = OpenFlags::new(self.abi, how.flags);
        if !flags.writes() && !flags.creates() {
            return Ok(Vec::new());
        }
        let argument = how.argument(self.target, base, pointer, flags)?;
        Ok(self.opened(&argument, flags).into_iter().collect())
    }

    fn open_by_handle(&self, mount: i32, handle: u64, flags: OpenFlags) -> SeenOrError {
        let argument = Argument::of_handle(self.target, mount, handle)?;
        Ok(self.object(Effect::Writes, &argument, flags.names()).into_iter().collect())
    }

    /// pivot_root(2): "changes the root mount in the mount namespace of the calling process", and with it the root of all
    /// processes there. In a mount namespace of the caller's own it takes no database from anybody else.
    fn pivot_root(&self, new_root: PathArgument) -> SeenOrError {
        let theirs = self.target.mount_namespace()?;
        if self.guarded.root.mount_namespace().is_some_and(|namespace| namespace != theirs) {
            return Ok(Vec::new());
        }
        let new_root = self.argument(new_root)?;
        let ancestors = self.own.ancestors();
        let database = ancestors.any().or(self.guarded.databases.first());
        Ok(database
            .map(|database| self.attempt(Effect::ReplacesAncestor, database, &new_root, Vec::new()))
            .into_iter()
            .collect())
    }

    fn proposed(&self, from: &Argument) -> Option<Vec<u8>> {
        let object = from.place.object.as_ref().filter(|object| object.kind == ObjectKind::Regular)?;
        self.target.content(object, MAX_PROPOSED_BYTES)
    }

    /// An attempt that would put `from`'s content in the place of the database whose entry is `onto`.
    fn replaced(&self, from: &Argument, onto: &Argument, flags: &[&'static str]) -> Option<Seen> {
        let mut seen = self.entry(Effect::Replaces, onto, flags.to_vec())?;
        seen.proposed = self.proposed(from);
        Some(seen)
    }

    fn ancestor(&self, argument: &Argument, flags: &[&'static str]) -> Option<Seen> {
        let find = |databases: &Databases<'_>| databases.ancestors().find(&argument.place).cloned();
        self.anywhere(Effect::ReplacesAncestor, argument, flags.to_vec(), &find)
    }

    fn rename(&self, old: PathArgument, new: PathArgument, flags: u32) -> SeenOrError {
        let (old, new) = (self.argument(old)?, self.argument(new)?);
        if old.place.object.is_none() || old.place.name.is_empty() || new.place.name.is_empty() {
            return Ok(Vec::new()); // ENOENT, or EBUSY for what ends in `.`, `..` or `/`
        }
        let exchange = flags & flags::rename::EXCHANGE != 0;
        let names = flags::names(u64::from(flags), &flags::rename::NAMES);
        let away = self.entry(Effect::Replaces, &old, names.clone()).map(|mut seen| {
            seen.proposed = if exchange { self.proposed(&new) } else { None };
            seen
        });
        let mut seen: Vec<Seen> = away.into_iter().chain(self.replaced(&old, &new, &names)).collect();
        if is_directory_or_link(&old.place) || (exchange && is_directory_or_link(&new.place)) {
            seen.extend([&old, &new].into_iter().filter_map(|end| self.ancestor(end, &names)));
        }
        Ok(seen)
    }

    fn link(&self, old: PathArgument, new: PathArgument) -> SeenOrError {
        let (old, new) = (self.argument(old)?, self.argument(new)?);
        if old.place.object.is_none() {
            return Ok(Vec::new()); // ENOENT
        }
        let alias = self.object(Effect::Aliases, &old, Vec::new());
        // a second name of a link, where a directory of databases is missing
        let is_second_name = is_directory_or_link(&old.place) && new.place.object.is_none();
        let ancestor = if is_second_name { self.ancestor(&new, &[]) } else { None };
        Ok(alias.into_iter().chain(self.replaced(&old, &new, &[])).chain(ancestor).collect())
    }

    fn change(&self, object: ObjectArgument) -> SeenOrError {
        let argument = match object {
            ObjectArgument::Path(path) => self.argument(path)?,
            ObjectArgument::Descriptor(fd) => {
                let object = self.target.object(Base::Descriptor(fd))?;
                Argument { asked: Vec::new(), place: Place { object: Some(object), ..Place::default() } }
            }
        };
        Ok(self.object(Effect::Writes, &argument, Vec::new()).into_iter().collect())
    }

    /// What a mount at `target` would hide: a database, or a directory above one.
    fn covered(&self, target: &Argument, flags: &[&'static str]) -> Option<Seen> {
        self.object(Effect::Replaces, target, flags.to_vec()).or_else(|| {
            let directory = target.place.object.as_ref()?.kind == ObjectKind::Directory;
            if directory { self.ancestor(target, flags) } else { None }
        })
    }

    /// mount(2), "the operation performed depends on": the order in which the flags are looked at is that of `path_mount`.
    fn mount(&self, source: PathArgument, target: PathArgument, flags: u64, [kind, data]: [u64; 2]) -> SeenOrError {
        use flags::mount as ms;
        let flags = ms::without_magic(flags);
        let is = |bit: u64| flags & bit != 0;
        if is(ms::REMOUNT) || (!is(ms::BIND) && is(ms::PROPAGATION)) {
            return Ok(Vec::new());
        }
        let names = flags::names(flags, &ms::NAMES);
        let target = self.argument(target)?;
        if !is(ms::BIND) && !is(ms::MOVE) {
            let layers = self.new_file_system(kind, data, &names)?;
            return Ok(layers.into_iter().chain(self.covered(&target, &names)).collect());
        }
        let source = self.argument(source)?;
        Ok(self.mounted(&source, &target, is(ms::MOVE) && !is(ms::BIND), &names))
    }

    fn move_mount(&self, source: PathArgument, target: PathArgument) -> SeenOrError {
        let (source, target) = (self.argument(source)?, self.argument(target)?);
        Ok(self.mounted(&source, &target, false, &[]))
    }

    /// `source` becomes visible at `target`; when it is `moved`, what it hid comes to light.
    fn mounted(&self, source: &Argument, target: &Argument, moved: bool, flags: &[&'static str]) -> Vec<Seen> {
        let at_source =
            if moved { self.covered(source, flags) } else { self.object(Effect::Aliases, source, flags.to_vec()) };
        let mut at_target = self.covered(target, flags);
        if let Some(seen) = at_target.as_mut().filter(|seen| seen.attempt.effect == Effect::Replaces) {
            seen.proposed = self.proposed(source);
        }
        at_source.into_iter().chain(at_target).collect()
    }

    /// umount2(2): "EINVAL target is not a mount point". The root of the process cannot hide a database from itself.
    fn unmount(&self, path: PathArgument) -> SeenOrError {
        let path = self.argument(path)?;
        let Some(object) = &path.place.object else { return Ok(Vec::new()) };
        if self.target.is_mount_root(object) == Some(false) || self.own.ancestors().is_root(&path.place) {
            return Ok(Vec::new());
        }
        Ok(self.covered(&path, &[]).into_iter().collect())
    }

    fn execute(&self, path: PathArgument, argv: u64, pointer_bytes: usize) -> SeenOrError {
        let program = self.argument(path)?;
        if program.place.object.is_none() {
            return Ok(Vec::new()); // ENOENT
        }
        let resolved = program.place.path.as_deref().unwrap_or(&program.place.name);
        let beginning = program_arguments::strings(self.target, argv, pointer_bytes, 2)?;
        if !account_tools::is_account_tool(&[resolved, &program.asked], &beginning) {
            return Ok(Vec::new());
        }
        let mut seen = self.without_database(Effect::RunsAccountTool, Some(&program), Vec::new());
        seen.tool_arguments = program_arguments::lossy(self.target, argv, pointer_bytes)?;
        Ok(vec![seen])
    }
}

fn is_directory_or_link(place: &Place) -> bool {
    place.object.as_ref().is_some_and(|object| matches!(object.kind, ObjectKind::Directory | ObjectKind::Symlink))
}

mod layers;

#[cfg(test)]
mod tests;

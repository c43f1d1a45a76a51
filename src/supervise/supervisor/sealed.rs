//! What may be left to the kernel under the seal: Landlock refuses every write to a sealed file, whoever wins a race.
//!
//! Not left to it: what lies directly in a sealed directory (`/`, `/etc`, and each directory on the way to a database) or below
//! something that was made there later, which Landlock refuses to the workload and the broker carries out for it; and what Landlock
//! has no right for (chmod(2), chown(2), setxattr(2), open_by_handle_at(2); landlock(7)).

use std::collections::BTreeSet;

use serde::Deserialize;
use serde::Serialize;

use crate::model::attempt::ObjectId;
use crate::model::database_path::DatabasePath;
use crate::model::policy::Ground;
use crate::supervise::argument::Argument;
use crate::supervise::argument::OpenHow;
use crate::supervise::databases::RootView;
use crate::supervise::decode::Operation;
use crate::supervise::decode::PathArgument;
use crate::supervise::decode::Request;
use crate::supervise::decode::abi::Call;
use crate::supervise::decode::flags::OpenFlags;
use crate::supervise::observe::Guarded;
use crate::supervise::supervisor::Supervisor;
use crate::supervise::target::Place;
use crate::supervise::target::Target;
use crate::supervise::target::TargetError;

/// Names looked at in one sealed directory.
const MAX_CHILDREN: usize = 4096;

/// What the launcher grants the workload: everything that was there, directly in a sealed directory, when it was sealed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Granted {
    sealed: BTreeSet<String>,
    children: BTreeSet<ObjectId>,
}

impl Granted {
    /// What lies in the sealed directories now, while the first execve of the workload is held.
    pub(super) fn look_around(root: &dyn RootView, databases: &[DatabasePath]) -> Self {
        let mut sealed = BTreeSet::from(["/".to_owned()]);
        for database in databases {
            let ends = database.as_str().match_indices('/').skip(1);
            sealed.extend(ends.filter_map(|(end, _)| database.as_str().get(..end)).map(str::to_owned));
        }
        let mut children = BTreeSet::new();
        for directory in &sealed {
            for name in root.names(directory, MAX_CHILDREN) {
                let object = std::str::from_utf8(&name).ok().and_then(|name| root.entry(directory, name).object);
                children.extend(object.map(|object| object.id));
            }
        }
        Self { sealed, children }
    }

    /// Whether `path` lies below something granted. A path that means something else by now costs an errno or a helper's
    /// work, never a database: Landlock stands behind it.
    fn reaches(&self, path: &[u8], root: &dyn RootView) -> bool {
        let Some(parts) = std::str::from_utf8(path).ok().and_then(|path| path.strip_prefix('/')) else { return false };
        let mut here = String::from("/");
        for part in parts.split('/') {
            let below = format!("{}/{part}", here.trim_end_matches('/'));
            if !self.sealed.contains(&below) {
                // directly in a sealed directory only what lies below it is granted
                let is_last = parts.rsplit('/').next() == Some(part) && below.as_bytes() == path;
                let object = root.entry(&here, part).object;
                return !is_last && object.is_some_and(|object| self.children.contains(&object.id));
            }
            here = below;
        }
        false
    }
}

impl Supervisor {
    /// Whether the kernel may carry `request` out because a seal stands behind it.
    pub(super) fn rests_on_seal(&self, request: &Request, target: &dyn Target, guarded: &Guarded<'_>) -> bool {
        let Some(granted) = self.granted.as_ref().filter(|_| self.origin.ground == Ground::Seal) else { return false };
        match places(request, target) {
            Ok(places) => places.iter().all(|place| {
                place.parent.is_some() && place.path.as_ref().is_some_and(|path| granted.reaches(path, guarded.root))
            }),
            // the broker gives the process the errno; an argument that only we cannot tell is the seal's
            Err(TargetError::Unable(_)) => true,
            Err(_) => false,
        }
    }
}

/// Where the arguments of a call lead that Landlock has a right for; [`TargetError::Gone`] for one that it has not.
fn places(request: &Request, target: &dyn Target) -> Result<Vec<Place>, TargetError> {
    let read = |paths: &[PathArgument]| {
        paths.iter().map(|path| Argument::read(target, *path).map(|argument| argument.place)).collect()
    };
    match request.operation {
        Operation::Open { path, .. } => read(&[path]),
        Operation::OpenHow { base, pointer, how, how_bytes } => {
            let how = OpenHow::read(target, how, how_bytes)?;
            let flags = OpenFlags::new(request.abi, how.flags);
            Ok(vec![how.argument(target, base, pointer, flags)?.place])
        }
        Operation::Rename { old, new, .. } | Operation::Link { old, new } => read(&[old, new]),
        Operation::MakeEntry { new } => read(&[new]),
        Operation::Unlink { path, .. } => read(&[path]),
        Operation::Change { object: crate::supervise::decode::ObjectArgument::Path(path) }
            if matches!(request.call, Call::Truncate | Call::Truncate64) =>
        {
            read(&[path])
        }
        // a sealed process cannot mount (Landlock refuses mount(2) and its kin); the others change no file
        Operation::Mount { .. }
        | Operation::Configure { .. }
        | Operation::MoveMount { .. }
        | Operation::OpenTree { .. }
        | Operation::Unmount { .. }
        | Operation::PivotRoot { .. }
        | Operation::ChangeRoot
        | Operation::Execute { .. }
        | Operation::Accounting { .. }
        | Operation::InstallFilter { .. }
        | Operation::IoUringSetup => Ok(Vec::new()),
        Operation::Change { .. } | Operation::OpenByHandle { .. } => Err(TargetError::Gone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::foreign_root::Follow;
    use crate::supervise::target::Object;
    use crate::supervise::target::ObjectKind;

    /// Paths, each with a number; directories end in nothing special.
    struct Tree(Vec<(&'static str, u64)>);

    impl RootView for Tree {
        fn entry(&self, directory: &str, name: &str) -> Place {
            let path = format!("{}/{name}", directory.trim_end_matches('/'));
            let found = self.0.iter().find(|(known, _)| *known == path);
            let object = found.map(|(_, inode)| Object {
                id: ObjectId { device: 1, inode: *inode },
                kind: ObjectKind::Directory,
                likeness: None,
                handle: None,
            });
            Place { object, ..Place::default() }
        }

        fn look_up(&self, _: &str, _: Follow) -> Place {
            Place::default()
        }

        fn mount_namespace(&self) -> Option<ObjectId> {
            None
        }

        fn names(&self, directory: &str, _: usize) -> Vec<Vec<u8>> {
            let below = |path: &&'static str| {
                let rest = path.strip_prefix(directory.trim_end_matches('/'))?.strip_prefix('/')?;
                (!rest.contains('/')).then(|| rest.as_bytes().to_vec())
            };
            self.0.iter().filter_map(|(path, _)| below(path)).collect()
        }
    }

    #[test]
    fn what_was_there_is_granted_and_what_came_later_is_not() {
        let databases = ["/etc/passwd", "/run/userdb/"].map(|path| DatabasePath::new(path).expect("path"));
        let mut tree =
            Tree(vec![("/etc", 1), ("/etc/ssl", 2), ("/etc/hosts", 3), ("/tmp", 4), ("/run", 5), ("/run/lock", 6)]);
        let granted = Granted::look_around(&tree, &databases);
        tree.0.push(("/run/later", 7));
        for (path, expected) in [
            ("/tmp/x", true),
            ("/tmp/a/b/c", true),
            ("/etc/ssl/x", true),
            ("/run/lock/x", true),
            ("/tmp", false),
            ("/etc/hosts", false),
            ("/etc/new.conf", false),
            ("/run/pid", false),
            ("/run/later/x", false),
            ("/run/userdb/x", false),
            ("/new/x", false),
            ("/", false),
            ("tmp/x", false),
        ] {
            assert_eq!(granted.reaches(path.as_bytes(), &tree), expected, "{path}");
        }
    }
}

//! Which objects of a container are account databases now. By identity, never by the text of a path.
//!
//! Two identities count (`pitfalls.md` 18, 19): the *object* (device and inode, or a [`Likeness`] on overlays), which hard links, bind mounts and
//! `/proc/self/fd/N` all lead to, and the *directory entry* (directory, name), which exists before and after the object does.
//! A database that is a symbolic link has two entries: the link, and what it leads to.
//! Everything is looked up afresh for each call that needs it, because a rename over a database changes its object.

use std::collections::BTreeSet;

use crate::kernel::foreign_root::Follow;
use crate::model::attempt::ObjectId;
use crate::model::database_path::DatabasePath;
use crate::supervise::target::Likeness;
use crate::supervise::target::Object;
use crate::supervise::target::ObjectKind;
use crate::supervise::target::Place;

/// Names looked at in a directory of databases; more are matched by their directory alone.
const MAX_NAMES: usize = 256;

/// The container's own root, whoever asks.
pub trait RootView {
    /// The entry `name` in `directory` (an absolute path; links in it are followed, `name` is not).
    /// A directory that does not exist gives a place without parent.
    fn entry(&self, directory: &str, name: &str) -> Place;

    /// The entries `names` in `directory`, as [`RootView::entry`] gives each.
    fn entries(&self, directory: &str, names: &[&str]) -> Vec<Place> {
        names.iter().map(|name| self.entry(directory, name)).collect()
    }

    /// Where `path` leads, last link followed or not.
    fn look_up(&self, path: &str, follow: Follow) -> Place;

    /// The container's mount namespace; `None` when it is not known.
    fn mount_namespace(&self) -> Option<ObjectId>;

    /// Names in a directory, at most `max`; none when it does not exist.
    fn names(&self, directory: &str, max: usize) -> Vec<Vec<u8>>;
}

/// One directory entry and what stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    parent: Option<ObjectId>,
    name: Vec<u8>,
    object: Option<ObjectId>,
    likeness: Option<Likeness>,
}

impl Entry {
    fn of(place: Place) -> Self {
        let (object, likeness) = place.object.map(|object| (object.id, object.likeness)).unzip();
        Self { parent: place.parent, name: place.name, object, likeness: likeness.flatten() }
    }

    /// Whether `object` is what stands there, by whatever name it was reached.
    fn holds(&self, object: &Object) -> bool {
        self.object == Some(object.id) || (self.likeness.is_some() && self.likeness == object.likeness)
    }

    fn is_at(&self, place: &Place) -> bool {
        self.parent.is_some() && self.parent == place.parent && self.name == place.name
    }
}

/// The databases as they are at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Located<'a> {
    files: Vec<(&'a DatabasePath, Entry)>,
    directories: Vec<(&'a DatabasePath, ObjectId, Vec<Entry>)>,
}

/// The directories above the databases as they are at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ancestors<'a> {
    entries: Vec<(&'a DatabasePath, Entry)>,
    root: Option<ObjectId>,
}

/// `/a/b` → (`/a`, `b`); `/a` → (`/`, `a`).
fn split(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((directory, name)) => (directory, name),
        None => ("/", path),
    }
}

/// The entry `place` of `path`, and where it leads when it is a symbolic link.
fn followed(view: &dyn RootView, path: &str, place: Place) -> impl Iterator<Item = Entry> + use<> {
    let is_link = matches!(&place.object, Some(Object { kind: ObjectKind::Symlink, .. }));
    let end = is_link.then(|| Entry::of(view.look_up(path, Follow::Last)));
    std::iter::once(Entry::of(place)).chain(end)
}

/// The entry of `path`, and where it leads when it is a symbolic link.
fn entries(view: &dyn RootView, path: &str) -> impl Iterator<Item = Entry> + use<> {
    let (directory, name) = split(path);
    followed(view, path, view.entry(directory, name))
}

impl<'a> Located<'a> {
    /// Looks all of `databases` up.
    #[must_use]
    pub fn look_up(view: &dyn RootView, databases: &'a [DatabasePath]) -> Self {
        let mut located = Self::default();
        let directory_of = |database: &DatabasePath| split(database.as_str()).0.to_owned();
        // neighbours in one directory are looked up together
        for together in databases.chunk_by(|one, next| directory_of(one) == directory_of(next)) {
            let Some(directory) = together.first().map(directory_of) else { continue };
            if together.iter().any(DatabasePath::is_directory) {
                together.iter().for_each(|database| located.look_up_directory(view, database));
                continue;
            }
            let names: Vec<&str> = together.iter().map(|database| split(database.as_str()).1).collect();
            for (database, place) in together.iter().zip(view.entries(&directory, &names)) {
                located.files.extend(followed(view, database.as_str(), place).map(|entry| (database, entry)));
            }
        }
        located
    }

    fn look_up_directory(&mut self, view: &dyn RootView, database: &'a DatabasePath) {
        let directory = database.as_str().trim_end_matches('/');
        let place = view.look_up(directory, Follow::Last);
        let Some(Object { id, kind: ObjectKind::Directory, .. }) = place.object else { return };
        let names = view.names(directory, MAX_NAMES);
        let names: Vec<&str> = names.iter().filter_map(|name| std::str::from_utf8(name).ok()).collect();
        let places = names.iter().zip(view.entries(directory, &names));
        let contained =
            places.flat_map(|(name, place)| followed(view, &format!("{directory}/{name}"), place)).collect();
        self.directories.push((database, id, contained));
    }

    /// The database whose content lies in the object at `place`.
    #[must_use]
    pub fn by_object(&self, place: &Place) -> Option<&'a DatabasePath> {
        let object = place.object.as_ref()?;
        let by_file = self.files.iter().find(|(_, entry)| entry.holds(object));
        by_file.map(|(database, _)| *database).or_else(|| {
            let held = |(_, directory, contained): &&(&DatabasePath, ObjectId, Vec<Entry>)| {
                place.parent == Some(*directory) || contained.iter().any(|entry| entry.holds(object))
            };
            self.directories.iter().find(held).map(|(database, ..)| *database)
        })
    }

    /// The database whose directory entry is at `place`, whether something stands there or not.
    #[must_use]
    pub fn by_entry(&self, place: &Place) -> Option<&'a DatabasePath> {
        let by_file = self.files.iter().find(|(_, entry)| entry.is_at(place));
        by_file.map(|(database, _)| *database).or_else(|| {
            let held = |(_, directory, _): &&(&DatabasePath, ObjectId, Vec<Entry>)| place.parent == Some(*directory);
            self.directories.iter().find(held).map(|(database, ..)| *database)
        })
    }
}

/// Databases, each with the file systems that it and the directories above it lie on, by device number.
pub type Devices = Vec<(DatabasePath, BTreeSet<u64>)>;

/// The file systems that `databases` and the directories above them lie on.
#[must_use]
pub fn devices(view: &dyn RootView, databases: &[DatabasePath]) -> Devices {
    let of_root = view.look_up("/", Follow::Last).object.map(|object| object.id.device);
    let of = |database: &DatabasePath| {
        let path = database.as_str().trim_end_matches('/');
        let above = path.match_indices('/').map(|(end, _)| {
            let (directory, name) = split(path.get(..end).unwrap_or_default());
            view.entry(directory, name)
        });
        let places = above.chain(std::iter::once(view.look_up(path, Follow::Last)));
        let devices = places.flat_map(|place| {
            let object = place.object.map(|object| object.id.device);
            place.parent.map(|parent| parent.device).into_iter().chain(object)
        });
        (database.clone(), devices.chain(of_root).collect())
    };
    databases.iter().map(of).collect()
}

impl<'a> Ancestors<'a> {
    /// Looks up every directory above one of `databases`, and the directories that are databases themselves.
    #[must_use]
    pub fn look_up(view: &dyn RootView, databases: &'a [DatabasePath]) -> Self {
        let mut ancestors =
            Self { entries: Vec::new(), root: view.look_up("/", Follow::Last).object.map(|object| object.id) };
        let mut seen: Vec<&str> = Vec::new();
        for database in databases {
            let text = database.as_str();
            // every '/' but the first ends the path of a directory above the database (or of the database directory)
            for (end, _) in text.match_indices('/').skip(1) {
                let Some(prefix) = text.get(..end) else { continue };
                if !seen.contains(&prefix) {
                    seen.push(prefix);
                    ancestors.entries.extend(entries(view, prefix).map(|entry| (database, entry)));
                }
            }
        }
        ancestors
    }

    /// A database below the directory (or the link to one) whose entry is at `place`, or which stands there.
    #[must_use]
    pub fn find(&self, place: &Place) -> Option<&'a DatabasePath> {
        let id = place.object.as_ref().map(|object| object.id);
        let matches = |entry: &Entry| entry.is_at(place) || (id.is_some() && entry.object == id);
        let found = self.entries.iter().find(|(_, entry)| matches(entry)).map(|(database, _)| *database);
        found.or_else(|| {
            let is_root = id.is_some() && id == self.root;
            self.any().filter(|_| is_root)
        })
    }

    /// Any database: what a new root takes away.
    #[must_use]
    pub fn any(&self) -> Option<&'a DatabasePath> {
        self.entries.first().map(|(database, _)| *database)
    }

    /// Whether the object at `place` is the container's root itself.
    #[must_use]
    pub fn is_root(&self, place: &Place) -> bool {
        self.root.is_some() && place.object.as_ref().map(|object| object.id) == self.root
    }
}

//! The witness of the file systems: one fanotify group and one thread for all containers. A change in a watched directory is
//! told to the case of every container that has this directory.
//!
//! The directories of a case's databases are watched for changes, and those above them for new names: when a directory on the way to
//! a database is made or moved into place, the case's watches are set anew and its databases read again.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use crate::daemon::case_thread::OpenCase;
use crate::kernel::fanotify::CREATED;
use crate::kernel::fanotify::Change;
use crate::kernel::fanotify::DirectoryKey;
use crate::kernel::fanotify::MOVED_TO;
use crate::kernel::fanotify::WatchError;
use crate::kernel::fanotify::Watcher;
use crate::kernel::foreign_root;
use crate::kernel::foreign_root::Found;
use crate::model::database_path::DatabasePath;
use crate::model::diagnostic::chain;
use crate::supervise::moment::Moment;

const STACK_BYTES: usize = 512 * 1024;

/// What a directory is watched for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    /// Databases lie in it.
    Databases,
    /// An entry of this name is on the way to a database.
    Awaits(Vec<u8>),
}

struct Watch {
    open_case: Arc<OpenCase>,
    directory: Arc<OwnedFd>,
    purpose: Purpose,
}

/// The watched directories of all containers.
pub struct ChangeWatch {
    watcher: Watcher,
    watches: Mutex<HashMap<DirectoryKey, Vec<Watch>>>,
}

impl std::fmt::Debug for ChangeWatch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ChangeWatch").field("watcher", &self.watcher).finish_non_exhaustive()
    }
}

/// `/etc/passwd` → `/etc`, `/etc/userdb/` → `/etc/userdb`.
pub(in crate::daemon) fn directory_of(database: &DatabasePath) -> String {
    let text = database.as_str();
    match text.strip_suffix('/') {
        Some(directory) => directory.to_owned(),
        None => text
            .rsplit_once('/')
            .map(|(directory, _)| directory)
            .filter(|path| !path.is_empty())
            .unwrap_or("/")
            .to_owned(),
    }
}

/// What is to be watched for `databases`: each of their directories, and for each part of its path the directory that has it.
fn wanted(databases: &[DatabasePath]) -> BTreeSet<(String, Purpose)> {
    let mut all = BTreeSet::new();
    for directory in databases.iter().map(directory_of) {
        let mut above = String::from("/");
        for part in directory.split('/').filter(|part| !part.is_empty()) {
            all.insert((above.clone(), Purpose::Awaits(part.as_bytes().to_vec())));
            if above != "/" {
                above.push('/');
            }
            above.push_str(part);
        }
        all.insert((directory, Purpose::Databases));
    }
    all
}

impl ChangeWatch {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`WatchError::Init`] when there is no fanotify.
    pub fn start() -> Result<Arc<Self>, WatchError> {
        let watch = Arc::new(Self { watcher: Watcher::new()?, watches: Mutex::default() });
        let of_thread = Arc::clone(&watch);
        let thread = std::thread::Builder::new().name("fanotify".to_owned()).stack_size(STACK_BYTES);
        if let Err(error) = thread.spawn(move || of_thread.run()) {
            tracing::error!("cannot make a thread for fanotify: {error}");
        }
        Ok(watch)
    }

    /// Watches the directories of the case's databases, and then no longer what was watched for it before and is not one of
    /// them: so that nothing is missed between.
    pub fn watch(&self, open_case: &Arc<OpenCase>) {
        let root = open_case.case.root();
        let mut placed = Vec::new();
        let mut opened: Option<(String, Option<Arc<OwnedFd>>)> = None;
        for (path, purpose) in wanted(&open_case.case.policy().databases) {
            // what is not there yet is awaited in the directory above; one that is watched for several things is opened once
            if opened.as_ref().is_none_or(|(of, _)| *of != path) {
                let found = foreign_root::identify_in_root(root.as_fd(), path.as_bytes()).ok().flatten();
                let directory = found.filter(Found::is_directory).map(|found| Arc::new(found.fd));
                opened = Some((path.clone(), directory));
            }
            let Some(directory) = opened.as_ref().and_then(|(_, directory)| directory.clone()) else { continue };
            let key = match purpose {
                Purpose::Databases => self.watcher.watch_directory(directory.as_fd()),
                Purpose::Awaits(_) => self.watcher.await_names(directory.as_fd()),
            };
            match key {
                Ok(key) => placed.push((key, Watch { open_case: Arc::clone(open_case), directory, purpose })),
                Err(error) => tracing::warn!("changes of {path} in a container are not witnessed: {}", chain(&error)),
            }
        }
        self.replace(open_case, placed);
    }

    /// Ends the watches of a case. A directory that another container has too stays watched.
    pub fn unwatch(&self, open_case: &Arc<OpenCase>) {
        self.replace(open_case, Vec::new());
    }

    fn replace(&self, open_case: &Arc<OpenCase>, placed: Vec<(DirectoryKey, Watch)>) {
        let mut watches = self.watches();
        let is_of_case = |watch: &mut Watch| Arc::ptr_eq(&watch.open_case, open_case);
        let mut removed: Vec<(DirectoryKey, Watch)> = Vec::new();
        for (key, of_directory) in watches.iter_mut() {
            removed.extend(of_directory.extract_if(.., is_of_case).map(|watch| (key.clone(), watch)));
        }
        for (key, watch) in placed {
            watches.entry(key).or_default().push(watch);
        }
        watches.retain(|_, of_directory| !of_directory.is_empty());
        for (_, watch) in removed.into_iter().filter(|(key, _)| !watches.contains_key(key)) {
            if let Err(error) = self.watcher.unwatch(watch.directory.as_fd()) {
                tracing::warn!("{}", chain(&error));
            }
        }
    }

    /// Sets the watches of a case anew and has its databases read again, in a thread of its own: a file system of the container's that
    /// hangs holds up nobody else. While one is at it, another comes after it.
    fn watch_again(self: &Arc<Self>, open_case: &Arc<OpenCase>) {
        self.watch_within(open_case, Duration::ZERO);
    }

    /// The same, and waits until it is done, for as long as `patience`.
    pub fn watch_within(self: &Arc<Self>, open_case: &Arc<OpenCase>, patience: Duration) {
        if !open_case.begin_watching() {
            return;
        }
        let (done, is_done) = std::sync::mpsc::channel();
        let (watch, of_thread) = (Arc::clone(self), Arc::clone(open_case));
        let thread = std::thread::Builder::new().name("watches".to_owned()).stack_size(STACK_BYTES);
        let spawned = thread.spawn(move || {
            loop {
                watch.watch(&of_thread);
                of_thread.case.request_check(Moment::now());
                of_thread.poke();
                if of_thread.has_watched() {
                    break;
                }
            }
            if of_thread.has_ended() {
                watch.unwatch(&of_thread);
            }
            // nobody waits for it any more when it took long
            let _ = done.send(());
        });
        if let Err(error) = spawned {
            open_case.has_watched();
            tracing::error!("cannot make a thread that watches new directories: {error}");
        }
        // what comes later comes all the same
        let _ = is_done.recv_timeout(patience);
    }

    fn run(self: &Arc<Self>) {
        loop {
            match self.watcher.read(None) {
                Ok(changes) => {
                    let now = Moment::now();
                    for change in changes {
                        self.tell(&change, now);
                    }
                }
                Err(WatchError::Overflow) => {
                    tracing::warn!("fanotify lost changes; the databases of all containers are read again");
                    for open_case in self.all_cases() {
                        self.watch_again(&open_case);
                    }
                }
                Err(error) => {
                    tracing::error!("{}", chain(&error));
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
        }
    }

    fn tell(self: &Arc<Self>, change: &Change, now: Moment) {
        for (open_case, purpose) in self.watches_of(&change.directory) {
            match purpose {
                Purpose::Databases => {
                    open_case.case.note_change(&change.name, change.pid, now);
                    open_case.poke();
                }
                Purpose::Awaits(name) => {
                    if change.name == name && change.mask & (CREATED | MOVED_TO) != 0 {
                        self.watch_again(&open_case);
                    }
                }
            }
        }
    }

    fn watches_of(&self, directory: &DirectoryKey) -> Vec<(Arc<OpenCase>, Purpose)> {
        let watches = self.watches();
        let of_directory = watches.get(directory).into_iter().flatten();
        of_directory.map(|watch| (Arc::clone(&watch.open_case), watch.purpose.clone())).collect()
    }

    /// Every case once.
    fn all_cases(&self) -> Vec<Arc<OpenCase>> {
        let mut cases: Vec<Arc<OpenCase>> = Vec::new();
        for watch in self.watches().values().flatten() {
            if !cases.iter().any(|known| Arc::ptr_eq(known, &watch.open_case)) {
                cases.push(Arc::clone(&watch.open_case));
            }
        }
        cases
    }

    fn watches(&self) -> std::sync::MutexGuard<'_, HashMap<DirectoryKey, Vec<Watch>>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_each_database_is_awaited_part_by_part() {
        let databases = ["/etc/passwd", "/var/lib/extrausers/", "/top"];
        let databases: Vec<DatabasePath> =
            databases.iter().map(|path| DatabasePath::new(path).expect("path")).collect();
        let awaits = |name: &str| Purpose::Awaits(name.as_bytes().to_vec());
        let expected = [
            ("/", Purpose::Databases),
            ("/", awaits("etc")),
            ("/", awaits("var")),
            ("/etc", Purpose::Databases),
            ("/var", awaits("lib")),
            ("/var/lib", awaits("extrausers")),
            ("/var/lib/extrausers", Purpose::Databases),
        ];
        let found: Vec<(String, Purpose)> = wanted(&databases).into_iter().collect();
        assert_eq!(found, expected.map(|(path, purpose)| (path.to_owned(), purpose)));
    }
}

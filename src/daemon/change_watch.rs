//! The witness of the file systems: one fanotify group and one thread for all containers. A change in a watched directory is
//! told to the case of every container that has this directory.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::daemon::case_thread::OpenCase;
use crate::kernel::fanotify::DirectoryKey;
use crate::kernel::fanotify::WatchError;
use crate::kernel::fanotify::Watcher;
use crate::kernel::foreign_root;
use crate::model::attempt::DatabasePath;
use crate::model::diagnostic::chain;
use crate::supervise::moment::Moment;

const STACK_BYTES: usize = 512 * 1024;

struct Watch {
    open_case: Arc<OpenCase>,
    directory: OwnedFd,
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
fn directory_of(database: &DatabasePath) -> String {
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

    /// Watches the directories of the case's databases, in place of those watched for it before.
    pub fn watch(&self, open_case: &Arc<OpenCase>) {
        self.unwatch(open_case);
        let root = open_case.case.root();
        let policy = open_case.case.policy();
        let directories: BTreeSet<String> = policy.databases.iter().map(directory_of).collect();
        for path in directories {
            // what is not there yet is seen by the other witnesses
            let Ok(Some(found)) = foreign_root::identify_in_root(root.as_fd(), path.as_bytes()) else { continue };
            if !found.is_directory() {
                continue;
            }
            match self.watcher.watch_directory(found.fd.as_fd()) {
                Ok(key) => {
                    let watch = Watch { open_case: Arc::clone(open_case), directory: found.fd };
                    self.watches().entry(key).or_default().push(watch);
                }
                Err(error) => tracing::warn!("changes of {path} in a container are not witnessed: {}", chain(&error)),
            }
        }
    }

    /// Ends the watches of a case. A directory that another container has too stays watched.
    pub fn unwatch(&self, open_case: &Arc<OpenCase>) {
        let mut watches = self.watches();
        watches.retain(|_, of_directory| {
            let Some(last) = of_directory.iter().rposition(|watch| Arc::ptr_eq(&watch.open_case, open_case)) else {
                return true;
            };
            let removed = of_directory.swap_remove(last);
            if of_directory.is_empty()
                && let Err(error) = self.watcher.unwatch(removed.directory.as_fd())
            {
                tracing::warn!("{}", chain(&error));
            }
            !of_directory.is_empty()
        });
    }

    fn run(&self) {
        loop {
            match self.watcher.read(None) {
                Ok(changes) => {
                    let now = Moment::now();
                    for change in changes {
                        for open_case in self.cases_of(&change.directory) {
                            open_case.case.note_change(&change.name, change.pid, now);
                            open_case.poke();
                        }
                    }
                }
                Err(WatchError::Overflow) => {
                    tracing::warn!("fanotify lost changes; the databases of all containers are read again");
                    for open_case in self.all_cases() {
                        open_case.case.request_check(Moment::now());
                        open_case.poke();
                    }
                }
                Err(error) => {
                    tracing::error!("{}", chain(&error));
                    std::thread::sleep(std::time::Duration::from_secs(1));
                }
            }
        }
    }

    fn cases_of(&self, directory: &DirectoryKey) -> Vec<Arc<OpenCase>> {
        let watches = self.watches();
        watches.get(directory).into_iter().flatten().map(|watch| Arc::clone(&watch.open_case)).collect()
    }

    fn all_cases(&self) -> Vec<Arc<OpenCase>> {
        self.watches().values().flatten().map(|watch| Arc::clone(&watch.open_case)).collect()
    }

    fn watches(&self) -> std::sync::MutexGuard<'_, HashMap<DirectoryKey, Vec<Watch>>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

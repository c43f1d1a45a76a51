//! The directories, locks and sockets of a daemon.

use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use rustix::fs::FlockOperation;
use rustix::fs::Mode;
use rustix::fs::OFlags;

use crate::config::Config;
use crate::daemon::last_good::write_private;

/// How long a daemon that is ending may keep its successor waiting.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);

/// Why a daemon cannot have its places.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// A directory.
    #[error("cannot use directory {}; {remedy}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What to do about it.
        remedy: &'static str,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// Another user's directory.
    #[error("directory {} belongs to uid {uid}; it must belong to the daemon's user", path.display())]
    Owner {
        /// Which.
        path: PathBuf,
        /// Whose.
        uid: u32,
    },
    /// Another daemon.
    #[error("another acctguard-daemon runs with directory {}; stop it, or give this one another run_dir and state_dir", path.display())]
    Running {
        /// Where.
        path: PathBuf,
    },
    /// A socket.
    #[error("cannot listen on {}; the path must be writable and shorter than 108 bytes", path.display())]
    Socket {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
}

/// Makes `path` with mode 0700, or narrows what is there to it.
///
/// # Errors
/// [`PlaceError`].
pub fn prepare_directory(path: &Path) -> Result<(), PlaceError> {
    let failed = |remedy| {
        let path = path.to_owned();
        move |source| PlaceError::Directory { path, remedy, source }
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("its parent must be a writable directory"))?;
    let metadata = path.symlink_metadata().map_err(failed("it must be readable"))?;
    if !metadata.is_dir() {
        return Err(failed("it must be a directory, not a link to one")(std::io::ErrorKind::NotADirectory.into()));
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(PlaceError::Owner { path: path.to_owned(), uid: metadata.uid() });
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!("directory {} was open to other users and is closed to them now", path.display());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
            .map_err(failed("its mode must be 0700"))?;
    }
    Ok(())
}

/// Holds for as long as the descriptor is open.
///
/// # Errors
/// [`PlaceError::Running`], [`PlaceError::Directory`].
pub fn lock(directory: &Path) -> Result<OwnedFd, PlaceError> {
    let file = directory.join("daemon.lock");
    let failed = |errno: rustix::io::Errno| PlaceError::Directory {
        path: directory.to_owned(),
        remedy: "it must be writable and its file system must support flock(2)",
        source: errno.into(),
    };
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let descriptor = rustix::fs::open(&file, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(&descriptor, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(descriptor),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(PlaceError::Running { path: directory.to_owned() }),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
}

/// The socket that an earlier keeper had, if its path is still there, or another.
///
/// # Errors
/// [`PlaceError::Socket`].
pub fn listen_again(path: &Path, stored: Option<OwnedFd>) -> Result<UnixListener, PlaceError> {
    match stored {
        Some(socket) if path.exists() => Ok(UnixListener::from(socket)),
        _ => listen(path),
    }
}

/// The lock is held, so a socket that is there was left by a daemon that is gone.
fn listen(path: &Path) -> Result<UnixListener, PlaceError> {
    let failed = |source| PlaceError::Socket { path: path.to_owned(), source };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let socket = UnixListener::bind(path).map_err(failed)?;
    // for a while two workers may wait for whoever comes
    socket.set_nonblocking(true).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(socket)
}

/// Workers start with the configuration that this daemon started with, whatever becomes of the file.
///
/// # Errors
/// [`PlaceError::Directory`].
pub fn snapshot(config: &Config) -> Result<PathBuf, PlaceError> {
    let path = config.run_dir.join("config.toml");
    let text = match &config.file {
        Some(file) => std::fs::read(file),
        None => Ok(Vec::new()),
    };
    text.and_then(|text| write_private(&path, &text)).map_err(|source| PlaceError::Directory {
        path: config.run_dir.clone(),
        remedy: "a copy of the configuration must find room in it",
        source,
    })?;
    Ok(path)
}

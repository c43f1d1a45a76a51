//! A copy of the policy that was last in force, in the run directory: what a worker starts with when its predecessor died and
//! the policy folder has a mistake in it by then.

use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use crate::config::Config;
use crate::config::policy_files;

/// Where the copy is.
#[must_use]
pub fn directory(config: &Config) -> PathBuf {
    config.run_dir.join("policy.last-good")
}

/// Replaces the copy by the files that are now in the policy folder. A failure is logged: it costs the copy only.
pub fn save(config: &Config) {
    if let Err(error) = copy(config) {
        tracing::warn!("cannot keep a copy of the policy in {}: {error}", config.run_dir.display());
    }
}

fn copy(config: &Config) -> std::io::Result<()> {
    let files = policy_files::list(&config.policy_dir).map_err(|error| std::io::Error::other(error.to_string()))?;
    let fresh = config.run_dir.join("policy.new");
    remove(&fresh)?;
    std::fs::DirBuilder::new().mode(0o700).create(&fresh)?;
    for file in files {
        let Some(name) = file.file_name() else { continue };
        write_private(&fresh.join(name), &std::fs::read(&file)?)?;
    }
    remove(&directory(config))?;
    std::fs::rename(&fresh, directory(config))
}

fn remove(directory: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes a file that only its owner can read, in place of what was there.
///
/// # Errors
/// Those of the file system.
pub fn write_private(path: &Path, text: &[u8]) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text)
}

//! Swaps of the daemon's program under load, by `acctguard-daemon upgrade`.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::chaos::figures::Figures;
use crate::chaos::kill::{Bounds, worker_of};
use crate::chaos::load::{Load, Program, clock, parts};
use crate::harness::command::finish;
use crate::harness::machine::program;

/// A pause in which the load goes on with the new worker.
const PAUSE: Duration = Duration::from_millis(700);

/// The whole program: 20 containers of all kinds. True when nothing is wrong.
///
/// # Errors
/// What is wrong with `words`.
pub fn run(words: &[String]) -> Result<bool, String> {
    let bounds = Bounds::parse(words, "--swaps", 50)?;
    let parts = parts(&[Program::C, Program::Shell, Program::Python, Program::Go, Program::C], 20);
    let mut load = Load::prepare("");
    let installed = load.node.scratch.folder("bin").join("acctguard-daemon");
    install(&installed);
    load.node.start_daemon_at(&installed);
    load.start(&parts);
    let started = Instant::now();
    let (origin, nanoseconds) = clock();
    let mut moments = Vec::new();
    let mut wrongs = Vec::new();
    while moments.len() < bounds.count && started.elapsed().as_secs() < bounds.seconds {
        load.start_another();
        std::thread::sleep(PAUSE);
        install(&installed);
        moments.push(nanoseconds + i64::try_from(origin.elapsed().as_nanos()).unwrap_or(i64::MAX));
        wrongs.extend(swap(&load, &installed).err());
    }
    let figures = Figures::take(&mut load, &moments);
    figures.print("swaps of the program", moments.len(), started.elapsed().as_secs());
    for wrong in &wrongs {
        println!("WRONG {wrong}");
    }
    Ok(figures.is_right() && wrongs.is_empty() && !moments.is_empty())
}

/// Another copy of the program comes to lie at `path`, as a package manager has it: by rename(2).
fn install(path: &Path) {
    let new = path.with_extension("new");
    fs::copy(program("acctguard-daemon"), &new).expect("copy the daemon");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("set mode");
    fs::rename(&new, path).expect("install the daemon");
}

/// One swap: the command ends with 0, and the worker runs the file that is installed now.
fn swap(load: &Load, installed: &Path) -> Result<(), String> {
    let mut command = Command::new(installed);
    let done = finish(command.arg("upgrade").env("ACCTGUARD_CONFIG", load.node.config()).stdin(Stdio::null()));
    if done.code() != 0 {
        return Err(format!("upgrade ended with {}: {}", done.code(), done.stderr.trim()));
    }
    let worker = worker_of(load.node.daemon_pid()).ok_or("there is no worker after an upgrade")?;
    let inode = |path: PathBuf| fs::metadata(path).map(|metadata| metadata.ino()).ok();
    if inode(program_of(worker)) == inode(installed.to_owned()) {
        Ok(())
    } else {
        Err(format!("worker {worker} does not run the program that is installed"))
    }
}

fn program_of(pid: Pid) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/exe"))
}

//! The end of a hook that hangs: on a runtime that keeps standard input open, on a root file system that does not answer.
//!
//! runc and crun wait for ever for a hook without a `timeout` (`integration.md` §2), and runc waits for everything that holds
//! its output, so the hook ends itself.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

/// More than all bounded waits for the daemon together (connect, send and answer, 5 s each).
const LIMIT: Duration = Duration::from_secs(20);

static STEP: Mutex<&str> = Mutex::new("starting");

/// From now on this process ends with exit code `code` after [`LIMIT`].
pub fn start(code: i32) {
    std::thread::spawn(move || {
        std::thread::sleep(LIMIT);
        let step = *STEP.lock().unwrap_or_else(PoisonError::into_inner);
        eprintln!("acctguard-hook: gave up after {} s while {step}", LIMIT.as_secs());
        std::process::exit(code);
    });
}

/// Notes what is being done, for the message of the end.
pub fn step(what: &'static str) {
    *STEP.lock().unwrap_or_else(PoisonError::into_inner) = what;
}

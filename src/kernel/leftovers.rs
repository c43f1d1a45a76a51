//! Processes that were killed and are not gone yet: a file system that hangs may keep one from dying (a FUSE request that its server
//! has taken is waited for whatever signal comes; fs/fuse/dev.c, `request_wait_answer`). Whoever lets a child go does not wait for that.

use std::process::Child;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

/// Something that is dropped when a child is gone.
pub type Held = Box<dyn std::fmt::Debug + Send + Sync>;

/// A process that was killed is gone in less, unless something holds it: so many looks, so long a pause between two.
const LOOKS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(1);

static LEFT: Mutex<Vec<(Child, Option<Held>)>> = Mutex::new(Vec::new());

/// Kills `child` and takes its exit status, now or when it has one.
pub fn end(mut child: Child, held: Option<Held>) {
    // a child that is gone already cannot be killed, and needs not be
    let _ = child.kill();
    for _ in 0..LOOKS {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(PAUSE);
    }
    LEFT.lock().unwrap_or_else(PoisonError::into_inner).push((child, held));
    reap();
}

/// Takes the exit status of those that are gone by now. Their number is bounded by what they hold.
pub fn reap() {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.retain_mut(|(child, _)| matches!(child.try_wait(), Ok(None)));
}

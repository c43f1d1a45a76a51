//! Opens that wait for somebody: each with its helper, in a thread of its own, until it is done or nobody waits for it any more.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;

use crate::kernel::Errno;
use crate::kernel::broker::BrokerError;
use crate::kernel::broker::Done;
use crate::kernel::broker::Helper;
use crate::kernel::interruption::Interruption;
use crate::kernel::interruption::Watch;
use crate::kernel::pidfd::Process;
use crate::kernel::placed;
use crate::kernel::seccomp_notify::Added;
use crate::kernel::seccomp_notify::Answer;
use crate::kernel::seccomp_notify::Listener;
use crate::kernel::seccomp_notify::Notification;
use crate::kernel::shared_area::Ledger;
use crate::kernel::shared_area::Slot;
use crate::supervise::broker::CannotCarryOut;
use crate::supervise::broker::KeptSlot;
use crate::supervise::broker::quota::Place;

/// How often it is looked whether the process still waits.
const STEP: Duration = Duration::from_millis(20);
/// How long a helper may take to end.
const END_LIMIT: Duration = Duration::from_millis(200);
const STACK_BYTES: usize = 128 * 1024;

/// What a call that is held up is answered when something else waits for its caller.
pub const fn interrupted_by(interruption: Interruption) -> Answer {
    match interruption {
        Interruption::Certain => Answer::Interrupted,
        Interruption::Likely => Answer::Errno(Errno::INTR),
    }
}

/// Those that wait.
#[derive(Debug, Default)]
pub struct Waiting {
    /// For which thread which helper waits, or has waited.
    helpers: Vec<(u32, Arc<Process>)>,
}

impl Waiting {
    /// Thread `tid` makes another call, so it waits for none before: a signal has ended that (open(2), `EINTR`). While its helper
    /// still has a FIFO half open, others would find a writer or reader there.
    pub fn end_of(&mut self, tid: u32) {
        for (_, helper) in self.helpers.extract_if(.., |(of, _)| *of == tid) {
            // one that is gone already needs no end
            let _ = helper.signal(Signal::KILL).and_then(|()| helper.outlives(END_LIMIT));
        }
    }

    /// Waits for what `helper` was asked last, and answers `notification` with it. The place among those that wait is given back when
    /// it is over; `kept` is where the next worker finds the call.
    pub fn add(
        &mut self,
        notification: &Notification,
        (helper, place): (Helper, Place),
        listener: Arc<Listener>,
        close_on_exec: bool,
        kept: Option<Slot>,
    ) -> Result<(), CannotCarryOut> {
        let Notification { id, tid, .. } = *notification;
        let kept = kept.map(KeptSlot);
        self.helpers.retain(|(_, helper)| helper.still_alive().unwrap_or(false));
        self.helpers.push((tid, Arc::clone(helper.process())));
        let thread = std::thread::Builder::new().name("waits".to_owned()).stack_size(STACK_BYTES).spawn(move || {
            let ledger = kept.as_ref().map(|kept| kept.0.ledger());
            wait(tid, helper, &listener, id, close_on_exec, ledger.as_ref());
            drop((kept, place));
        });
        thread.map(drop).map_err(|error| CannotCarryOut::Helper(BrokerError::Start(error)))
    }
}

fn wait(tid: u32, helper: Helper, listener: &Listener, id: u64, close_on_exec: bool, ledger: Option<&Ledger>) {
    let mut watch = Watch::new(tid);
    // an answer that finds nobody any more, or a listener that is closed, is nobody's loss
    let _ = loop {
        match helper.wait(STEP) {
            Err(BrokerError::Slow(_)) => {
                let interrupted = watch.look().map(interrupted_by);
                if !listener.is_valid(id) {
                    return;
                }
                if let Some(answer) = interrupted {
                    // before the caller runs on: others would find somebody at the other end of a FIFO
                    drop(helper);
                    break listener.answer(id, answer);
                }
            }
            Ok(Done::Descriptor(file)) => {
                let added = placed::place(
                    listener,
                    id,
                    &file,
                    close_on_exec,
                    ledger.map(|ledger| |number| ledger.note_placed(number)),
                );
                drop(file);
                break match added {
                    Ok(Added::Number(number)) => listener.answer(id, Answer::Value(i64::from(number))),
                    Ok(Added::Refused(errno)) => listener.answer(id, Answer::Errno(errno)),
                    Ok(Added::TargetGone) | Err(_) => return,
                };
            }
            Ok(Done::Value(value)) => break listener.answer(id, Answer::Value(value)),
            Ok(Done::Failed(errno)) => break listener.answer(id, Answer::Errno(errno)),
            // what was decided about is not there any more, or the helper is gone: as if interrupted by a signal
            Ok(Done::Again) | Err(_) => break listener.answer(id, Answer::Errno(Errno::INTR)),
        }
    };
}

//! Calls that an earlier worker left: what it began for one is not begun again, under whatever id the call comes.
//!
//! This worker may be killed, too, at any moment of it, and then the next one finds what is left by then. So nothing by which a worker learns
//! what came of a call is taken away, be it the mark of a descriptor, a helper's word or the helper, before what it says is put
//! down for the next worker.

use std::sync::Arc;

use crate::kernel::seccomp_notify::Answer;
use crate::kernel::seccomp_notify::ListenerError;
use crate::kernel::seccomp_notify::Notification;
use crate::kernel::shared_area::Entry;
use crate::supervise::decode::decode;
use crate::supervise::moment::Moment;
use crate::supervise::supervisor::Reply;
use crate::supervise::supervisor::Supervisor;
use crate::supervise::supervisor::meant;
use crate::supervise::supervisor::reply::Kept;
use crate::supervise::supervisor::reply::Meant;

impl Supervisor {
    /// What the call that is served opened is in its thread's table as `number`: so the next worker finds it.
    pub fn note_placed(&self, number: i32) {
        if let Some(broker) = &self.broker {
            broker.note_placed(number);
        }
    }

    /// Answers `notification`, beside which an earlier worker left `entry`: with what came of it, which `wait` waits for, where that is
    /// to be had, else as any other. A call that a signal has cancelled gets it when it comes again. What `wait` is given keeps the outcome
    /// for the next worker, until this one has told the caller or keeps it itself.
    ///
    /// # Errors
    /// Those of [`Supervisor::serve`].
    pub fn serve_left(
        &mut self,
        notification: &Notification,
        entry: Entry,
        wait: impl FnOnce(&mut dyn FnMut(i64)) -> Option<i64>,
    ) -> Result<(), ListenerError> {
        let (unsettled, hand) = (Arc::clone(&self.unsettled), self.hand());
        let call = meant(notification, &decode(notification.arch, notification.nr, notification.args));
        let begun = Meant::left(&call, entry.meant);
        if let (Some(hand), true) = (&hand, entry.meant != 0) {
            unsettled.calls().begins(hand, begun.clone(), call);
        }
        let mut kept = None;
        let outcome = wait(&mut |value| {
            kept = self.broker.as_ref().and_then(|broker| broker.keep_outcome(&call, entry.meant, value));
        });
        let mut calls = unsettled.calls();
        let last = hand.as_ref().and_then(|hand| calls.as_it_came_last(hand)).unwrap_or(call);
        hand.iter().for_each(|hand| calls.ends(hand));
        if let Some(value) = outcome {
            let reply = Reply::Answer(Answer::Value(value));
            self.last_deed = Some(Kept::new(begun.clone(), begun, reply, Moment::now()));
            let delivery = self.listener.answer(last.id, Answer::Value(value))?;
            self.note(&call, delivery, &mut calls);
            drop(kept);
            return Ok(());
        }
        drop(calls);
        if self.listener.is_valid(last.id) { self.serve(&last).map(drop) } else { Ok(()) }
    }
}

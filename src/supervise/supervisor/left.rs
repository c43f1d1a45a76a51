//! Calls that an earlier worker left: what it began for one is not begun again, under whatever id the call comes.

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
    /// Answers `notification`, beside which an earlier worker left `entry`: with what came of it, which `wait` waits for, where that is
    /// to be had, else as any other. A call that a signal has cancelled gets it when it comes again.
    ///
    /// # Errors
    /// Those of [`Supervisor::serve`].
    pub fn serve_left(
        &mut self,
        notification: &Notification,
        entry: Entry,
        wait: impl FnOnce() -> Option<i64>,
    ) -> Result<(), ListenerError> {
        let (unsettled, hand) = (Arc::clone(&self.unsettled), self.hand());
        let call = meant(notification, &decode(notification.arch, notification.nr, notification.args));
        let begun = Meant::left(&call, entry.meant);
        if let (Some(hand), true) = (&hand, entry.meant != 0) {
            unsettled.calls().begins(hand, begun.clone(), call);
        }
        let outcome = wait();
        let mut calls = unsettled.calls();
        let last = hand.as_ref().and_then(|hand| calls.as_it_came_last(hand)).unwrap_or(call);
        hand.iter().for_each(|hand| calls.ends(hand));
        if let Some(value) = outcome {
            let reply = Reply::Answer(Answer::Value(value));
            self.last_deed = Some(Kept::new(begun.clone(), begun, reply, Moment::now()));
            let delivery = self.listener.answer(last.id, Answer::Value(value))?;
            self.note(&call, delivery, &mut calls);
            return Ok(());
        }
        drop(calls);
        if self.listener.is_valid(last.id) { self.serve(&last).map(drop) } else { Ok(()) }
    }
}

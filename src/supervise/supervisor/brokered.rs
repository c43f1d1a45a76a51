//! A call of an enforced workload: decided on arguments read once, and carried out on those by the broker, so that nothing rests
//! on a check that is followed by CONTINUE (seccomp_unotify(2), "time-of-check to time-of-use").

use std::sync::Arc;

use crate::kernel::Errno;
use crate::kernel::pidfd;
use crate::kernel::seccomp_notify::Answer;
use crate::kernel::seccomp_notify::ContinueReason;
use crate::kernel::seccomp_notify::Notification;
use crate::model::event::Kind;
use crate::model::event::ProtectionChange;
use crate::model::event::Severity;
use crate::model::policy::Applied;
use crate::model::policy::Ground;
use crate::model::policy::OnUnprotected;
use crate::supervise::broker;
use crate::supervise::broker::Caller;
use crate::supervise::broker::CannotCarryOut;
use crate::supervise::broker::CarriedOut;
use crate::supervise::broker::remembering::Memory;
use crate::supervise::broker::remembering::Remembering;
use crate::supervise::decode::Request;
use crate::supervise::live_target::LiveTarget;
use crate::supervise::moment::Moment;
use crate::supervise::observe;
use crate::supervise::observe::Guarded;
use crate::supervise::observe::Observation;
use crate::supervise::supervisor::Reply;
use crate::supervise::supervisor::Supervisor;
use crate::supervise::supervisor::reply::Kept;
use crate::supervise::supervisor::reply::Meant;

/// How often a call is decided again because somebody exchanged what was decided about.
const MAX_EXCHANGES: usize = 64;

impl Supervisor {
    /// Decides `request` and carries it out.
    pub(super) fn serve_by_broker(
        &mut self,
        notification: &Notification,
        request: &Request,
        policy: &Arc<Applied>,
        is_first_execve: bool,
        now: Moment,
    ) -> Reply {
        for _ in 0..MAX_EXCHANGES {
            let listener = Arc::clone(&self.listener);
            let mut target = LiveTarget::new(&listener, notification);
            // under the seal most calls need no broker, and to read whose they are costs more than to keep where they searched
            let may_rest_on_seal = self.origin.ground == Ground::Seal;
            let broker = self.broker.as_mut().filter(|_| !may_rest_on_seal);
            let caller = broker.and_then(|broker| broker.caller(notification.tid).ok());
            if !caller.as_ref().is_some_and(Caller::searches_everything) {
                target = target.keeping_searched();
            }
            let target = Remembering::new(target);
            let root = self.case.root();
            let neighbours = Arc::clone(&self.neighbours);
            let guarded =
                Guarded { root: root.as_ref(), databases: &policy.databases, neighbours: neighbours.as_ref() };
            let observation = observe::observe(request, &target, &guarded);
            if let Some(reply) = self.kept(notification, &target, now) {
                return reply;
            }
            let seen = match observation {
                Observation::Nothing => Vec::new(),
                Observation::Attempts(seen) => seen,
                Observation::Gone if self.listener.is_valid(notification.id) => {
                    vec![observe::unresolved(request.call.name())]
                }
                Observation::Gone => return Reply::let_go(ContinueReason::NotAnAccountDatabase),
                Observation::Fails(errno) => {
                    return Reply::Answer(Answer::Errno(broker::failure(request, notification, &target, errno)));
                }
            };
            let mut reason = ContinueReason::NotAnAccountDatabase;
            if !seen.is_empty() {
                let decided = self.reissued(notification, &seen, now);
                match decided.unwrap_or_else(|| self.decide(notification, seen, policy, is_first_execve, now)) {
                    Answer::Continue(allowed) => reason = allowed,
                    refused => return Reply::Answer(refused),
                }
            }
            if self.rests_on_seal(request, &target, &guarded) {
                return Reply::let_go(ContinueReason::Sealed);
            }
            let Some(broker) = &mut self.broker else { return Reply::let_go(reason) };
            let begun = Meant::new(notification, target.read_so_far());
            broker.note_meant(begun.digest());
            self.unsettled.calls().begins(&broker.hand(), begun.clone(), *notification);
            let reply = match broker.carry_out(&listener, notification, request, &target, caller) {
                Ok(CarriedOut::Again) => continue,
                Ok(CarriedOut::LetGo | CarriedOut::Gone) => return Reply::let_go(reason),
                Ok(CarriedOut::Later) => return Reply::Later,
                // nothing was done: it comes again as a new call
                Ok(CarriedOut::Interrupted(answer)) => return Reply::Answer(answer),
                Ok(CarriedOut::Value(value)) => Reply::Answer(Answer::Value(value)),
                // opened while it waits, so that it is no other
                Ok(CarriedOut::Exceeded) => return Reply::exceeded(pidfd::open_thread(notification.tid)),
                Ok(CarriedOut::Failed(errno)) => return Reply::Answer(Answer::Errno(errno)),
                Ok(CarriedOut::Opened { file, close_on_exec }) => Reply::Inject { file, close_on_exec },
                // answered by somebody else meanwhile: for want of time, or by a signal
                Err(_) if !listener.is_valid(notification.id) => return Reply::let_go(ContinueReason::OwnFailure),
                Err(error) => return self.cannot_carry_out(&error, policy, now),
            };
            // a deed may have taken long: whether its call comes again is a matter of the time after it
            let meant = Meant::new(notification, target.read_so_far());
            self.last_deed = Some(Kept::new(meant, begun, reply.clone(), Moment::now()));
            return reply;
        }
        Reply::Answer(Answer::Errno(Errno::AGAIN))
    }

    /// The reply to the same call on the same arguments, carried out already or about to be, that a signal kept from its caller.
    fn kept(&mut self, notification: &Notification, target: &Remembering<'_>, now: Moment) -> Option<Reply> {
        let mut calls = self.unsettled.calls();
        if calls.is_begun(self.hand().as_ref(), notification, target, |id| self.listener.is_valid(id)) {
            return Some(Reply::Later);
        }
        let kept = calls.take(notification, target, now)?;
        drop(calls);
        self.last_deed = Some(kept.clone());
        Some(kept.reply)
    }

    /// The operation could not be carried out for want of something of ours: the first promise (never break a workload) and the
    /// second (nothing gets around) collide, and the policy's `onUnprotected` says which holds. Not where the container brought it
    /// about: it would get round everything by as many opens that wait.
    fn cannot_carry_out(&mut self, error: &CannotCarryOut, policy: &Applied, now: Moment) -> Reply {
        let own_doing = error.is_the_containers_doing();
        let refuses = own_doing || policy.on_unprotected == OnUnprotected::Refuse;
        if !std::mem::replace(&mut self.told_broken_broker, true) {
            let mut event = self.case.event(Kind::ProtectionDegraded, Severity::High, now);
            event.protection = Some(ProtectionChange {
                what: "operations cannot be carried out for the container".to_owned(),
                reason: crate::model::diagnostic::chain(error),
                remedy: Some(if own_doing {
                    "they are refused while it is so; see what the container's processes wait for".to_owned()
                } else if refuses {
                    "they are refused, as onUnprotected: refuse says; see the daemon's log".to_owned()
                } else {
                    "they are let go after a check that a race can beat; onUnprotected: refuse would refuse them"
                        .to_owned()
                }),
            });
            self.recorder.record_or_keep(event);
        }
        if refuses { Reply::Answer(Answer::Errno(Errno::PERM)) } else { Reply::let_go(ContinueReason::OwnFailure) }
    }
}

//! What policy says of what was seen, put on record before it is answered.

use std::sync::Arc;

use crate::kernel::Errno;
use crate::kernel::seccomp_notify::Answer;
use crate::kernel::seccomp_notify::ContinueReason;
use crate::kernel::seccomp_notify::Notification;
use crate::model::attempt::Effect;
use crate::model::event::Outcome;
use crate::model::policy::Applied;
use crate::model::policy::Mode;
use crate::model::policy::decide::Decision;
use crate::model::policy::decide::decide;
use crate::supervise::RecordError;
use crate::supervise::Recorder;
use crate::supervise::actor::Acting;
use crate::supervise::case::Case;
use crate::supervise::incident::Sighting;
use crate::supervise::moment::Moment;
use crate::supervise::observe::Seen;
use crate::supervise::supervisor::Supervisor;

/// Whose databases were reached for: policy, acts and record are that container's, whoever reached.
struct Concerned {
    case: Arc<Case>,
    recorder: Arc<dyn Recorder>,
    policy: Arc<Applied>,
    is_neighbour: bool,
}

impl Supervisor {
    pub(super) fn decide(
        &mut self,
        notification: &Notification,
        seen: Vec<Seen>,
        policy: &Arc<Applied>,
        is_first_execve: bool,
        now: Moment,
    ) -> Answer {
        // the first execve is by the runtime's own program, which is nobody of the container
        let process = if is_first_execve { None } else { self.threads.process_of(notification.tid) };
        if !self.listener.is_valid(notification.id) {
            return Answer::Continue(ContinueReason::NotAnAccountDatabase);
        }
        let judged: Vec<(Seen, Concerned, Decision)> = seen
            .into_iter()
            .map(|seen| {
                let concerned = self.concerned(&seen, policy);
                let decision = decide(&concerned.policy, &seen.attempt);
                (seen, concerned, decision)
            })
            .collect();
        let is_blocked = judged.iter().any(|(_, _, decision)| matches!(decision, Decision::Block { .. }));
        let outcome = if is_blocked { Outcome::Blocked } else { Outcome::Allowed };
        let mut answer = if is_blocked { Answer::Errno(Errno::PERM) } else { let_go(policy, &judged) };
        let mut known_acting = None;
        for (mut seen, concerned, decision) in judged {
            if seen.attempt.effect == Effect::ReplacesAncestor {
                concerned.case.root().forget();
            }
            if process.is_some_and(|process| concerned.case.note_repeat(process, &mut seen, outcome, now)) {
                continue;
            }
            let acting = known_acting.take().or_else(|| self.acting(notification, is_first_execve, &seen));
            let Some(acting) = acting else { return Answer::Continue(ContinueReason::NotAnAccountDatabase) };
            known_acting = Some(Arc::clone(&acting));
            if self.put_on_record((seen, acting), &concerned, decision, outcome, now).is_err() {
                let refuses = policy.mode == Mode::Enforce || concerned.policy.mode == Mode::Enforce;
                answer =
                    if refuses { Answer::Errno(Errno::PERM) } else { Answer::Continue(ContinueReason::OwnFailure) };
            }
        }
        self.remember(notification, answer, now);
        answer
    }

    fn concerned(&self, seen: &Seen, policy: &Arc<Applied>) -> Concerned {
        match seen.neighbour.as_ref().and_then(|id| self.neighbours.get(id)) {
            Some(neighbour) => Concerned {
                policy: neighbour.case.policy(),
                case: neighbour.case,
                recorder: neighbour.recorder,
                is_neighbour: true,
            },
            None => Concerned {
                case: Arc::clone(&self.case),
                recorder: Arc::clone(&self.recorder),
                policy: Arc::clone(policy),
                is_neighbour: false,
            },
        }
    }

    fn put_on_record(
        &self,
        (seen, acting): (Seen, Arc<Acting>),
        concerned: &Concerned,
        decision: Decision,
        outcome: Outcome,
        now: Moment,
    ) -> Result<(), RecordError> {
        let (Decision::Allow { rule } | Decision::Block { rule, .. }) = decision;
        // a session of the neighbour's container is none of this one
        let (acting, session) = if concerned.is_neighbour {
            (Arc::new(acting.seen_by_neighbour(self.case.container_id().as_str())), None)
        } else {
            (acting, self.origin.session.clone())
        };
        let sighting = Sighting { seen, acting, session, outcome, policy: concerned.policy.reference(&rule), at: now };
        let recorded = record(concerned, sighting, now);
        if let Err(error) = &recorded {
            concerned.case.note_unrecorded(&error.reason);
        }
        recorded
    }
}

fn record(concerned: &Concerned, sighting: Sighting, now: Moment) -> Result<(), RecordError> {
    let Some(event) = concerned.case.note_attempt(sighting) else { return Ok(()) };
    concerned.recorder.record(event)?;
    match concerned.case.take_unrecorded(now) {
        Some(event) => concerned.recorder.record(event),
        None => Ok(()),
    }
}

fn let_go(policy: &Applied, judged: &[(Seen, Concerned, Decision)]) -> Answer {
    let only_programs = judged.iter().all(|(seen, ..)| seen.attempt.effect == Effect::RunsAccountTool);
    Answer::Continue(match policy.mode {
        Mode::Off | Mode::Audit => ContinueReason::AuditOnly,
        Mode::Enforce if only_programs => ContinueReason::StartsProgram,
        Mode::Enforce => ContinueReason::AllowedByPolicy,
    })
}

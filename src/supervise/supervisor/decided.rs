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
    acting: Arc<Acting>,
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
        let Some(mut acting) = self.acting(notification) else {
            return Answer::Continue(ContinueReason::NotAnAccountDatabase);
        };
        if let Some(tool) = seen.first().filter(|seen| is_first_execve && !seen.tool_arguments.is_empty()) {
            // what runs until now is the runtime's own program, which is nobody of the container
            acting.becomes(tool.attempt.object_path.as_deref(), &tool.tool_arguments);
        }
        let acting = Arc::new(acting);
        let judged: Vec<(Seen, Concerned, Decision)> = seen
            .into_iter()
            .map(|seen| {
                let concerned = self.concerned(&seen, policy, &acting);
                let decision = decide(&concerned.policy, &seen.attempt);
                (seen, concerned, decision)
            })
            .collect();
        let is_blocked = judged.iter().any(|(_, _, decision)| matches!(decision, Decision::Block { .. }));
        let mut answer = if is_blocked { Answer::Errno(Errno::PERM) } else { let_go(policy, &judged) };
        for (seen, concerned, decision) in judged {
            if seen.attempt.effect == Effect::ReplacesAncestor {
                concerned.case.root().forget();
            }
            if self.put_on_record(seen, &concerned, decision, is_blocked, now).is_err() {
                let refuses = policy.mode == Mode::Enforce || concerned.policy.mode == Mode::Enforce;
                answer =
                    if refuses { Answer::Errno(Errno::PERM) } else { Answer::Continue(ContinueReason::OwnFailure) };
            }
        }
        self.remember(notification, answer, now);
        answer
    }

    fn concerned(&self, seen: &Seen, policy: &Arc<Applied>, acting: &Arc<Acting>) -> Concerned {
        match seen.neighbour.as_ref().and_then(|id| self.neighbours.get(id)) {
            Some(neighbour) => Concerned {
                policy: neighbour.case.policy(),
                case: neighbour.case,
                recorder: neighbour.recorder,
                acting: Arc::new(acting.seen_by_neighbour(self.case.container_id().as_str())),
                is_neighbour: true,
            },
            None => Concerned {
                case: Arc::clone(&self.case),
                recorder: Arc::clone(&self.recorder),
                policy: Arc::clone(policy),
                acting: Arc::clone(acting),
                is_neighbour: false,
            },
        }
    }

    fn put_on_record(
        &self,
        seen: Seen,
        concerned: &Concerned,
        decision: Decision,
        is_blocked: bool,
        now: Moment,
    ) -> Result<(), RecordError> {
        let (Decision::Allow { rule } | Decision::Block { rule, .. }) = decision;
        let sighting = Sighting {
            seen,
            acting: Arc::clone(&concerned.acting),
            // a session of the neighbour's container is none of this one
            session: if concerned.is_neighbour { None } else { self.origin.session.clone() },
            outcome: if is_blocked { Outcome::Blocked } else { Outcome::Allowed },
            policy: concerned.policy.reference(&rule),
            at: now,
        };
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

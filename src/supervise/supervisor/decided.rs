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
        let attempts = seen.iter().map(|seen| seen.attempt.clone()).collect();
        let judged: Vec<(Seen, Concerned, Decision)> = seen
            .into_iter()
            .map(|seen| {
                let concerned = self.concerned(&seen, policy);
                let decision = decide(&concerned.policy, &seen.attempt);
                (seen, concerned, decision)
            })
            .collect();
        let is_blocked = judged.iter().any(|(_, _, decision)| matches!(decision, Decision::Block { .. }));
        let is_refused = judged.iter().any(|(_, _, decision)| !matches!(decision, Decision::Allow { .. }));
        let outcome = if is_refused { Outcome::Blocked } else { Outcome::Allowed };
        let mut answer = if is_blocked { Answer::Errno(Errno::PERM) } else { let_go(policy, &judged) };
        let mut known_acting = None;
        for (mut seen, concerned, decision) in judged {
            if seen.attempt.effect == Effect::ReplacesAncestor {
                concerned.case.root().forget();
            }
            if process.is_some_and(|process| concerned.case.note_repeat(process, &mut seen, outcome, now)) {
                concerned.recorder.note_counted();
                continue;
            }
            let acting = known_acting.take().or_else(|| self.acting(notification, is_first_execve, &seen));
            let Some(acting) = acting else { return Answer::Continue(ContinueReason::NotAnAccountDatabase) };
            known_acting = Some(Arc::clone(&acting));
            if self.put_on_record((seen, acting), &concerned, decision, outcome, now) == OnRecord::Refused {
                answer = Answer::Errno(Errno::PERM);
            }
        }
        self.remember(notification, attempts, answer, now);
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
    ) -> OnRecord {
        let (Decision::Allow { rule } | Decision::Block { rule, .. } | Decision::RefusedByKernel { rule }) = decision;
        // a session of the neighbour's container is none of this one
        let (acting, session) = if concerned.is_neighbour {
            (Arc::new(acting.seen_by_neighbour(self.case.container_id().as_str())), None)
        } else {
            (acting, self.origin.session.clone())
        };
        let sighting = Sighting { seen, acting, session, outcome, policy: concerned.policy.reference(&rule), at: now };
        record(concerned, sighting)
    }
}

/// What a record that was to be made came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnRecord {
    /// It is durable, or kept until it can be: the answer stands.
    Yes,
    /// It could not be made durable, and policy refuses what it tells of for that.
    Refused,
}

/// A record that cannot be made durable is kept, and `audit` lets go what it tells of. `enforce` refuses that, as it does nearly always
/// anyway; but running a program changes nothing and is let go.
fn record(concerned: &Concerned, sighting: Sighting) -> OnRecord {
    let is_change = sighting.seen.attempt.effect != Effect::RunsAccountTool;
    let Some(mut event) = concerned.case.note_attempt(sighting) else {
        concerned.recorder.note_counted();
        return OnRecord::Yes;
    };
    let Err(reason) = concerned.recorder.record(&event) else { return OnRecord::Yes };
    let refuses = concerned.policy.mode == Mode::Enforce && is_change;
    if refuses && let Some(verdict) = &mut event.verdict {
        verdict.result = Outcome::Blocked;
        verdict.errno.get_or_insert_with(|| "EPERM".to_owned());
    }
    concerned.recorder.keep(event, reason);
    if refuses { OnRecord::Refused } else { OnRecord::Yes }
}

fn let_go(policy: &Applied, judged: &[(Seen, Concerned, Decision)]) -> Answer {
    if judged.iter().any(|(_, _, decision)| matches!(decision, Decision::RefusedByKernel { .. })) {
        return Answer::Continue(ContinueReason::RefusedByKernel);
    }
    let only_programs = judged.iter().all(|(seen, ..)| seen.attempt.effect == Effect::RunsAccountTool);
    Answer::Continue(match policy.mode {
        Mode::Off | Mode::Audit => ContinueReason::AuditOnly,
        Mode::Enforce if only_programs => ContinueReason::StartsProgram,
        Mode::Enforce => ContinueReason::AllowedByPolicy,
    })
}

//! Decisions within a limit of time. An engine closes a plugin that does not answer in time (2 s, if it is not configured otherwise), and
//! creates its containers without it from then on; a file system or a daemon that hangs must not come to that.
//!
//! One thread decides. When it is late, the container gets its hooks without the interception, which needs nobody's answer; so do all
//! others until it is back.

use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::SyncSender;
use std::time::Duration;
use std::time::Instant;

use crate::config::Config;
use crate::model::workload::Workload;
use crate::nri::creation::Creation;
use crate::nri::decision;
use crate::nri::decision::Decision;
use crate::nri::record;

/// Records that may wait for the thread; what is beyond is in the log only.
const WAITING: usize = 64;

/// Work for the thread.
enum Job {
    /// A decision that somebody waits for.
    Decide { number: u64, creation: Box<Creation>, patience: Duration },
    /// A record that nobody waits for.
    Record { workload: Option<Box<Workload>>, reason: String },
}

/// How a decision is made; another in tests.
pub type Decide = fn(&Config, &Creation, Duration) -> Decision;

/// The thread and what it was asked last.
pub struct Decider {
    config: Config,
    jobs: SyncSender<Job>,
    decisions: Receiver<(u64, Decision)>,
    asked: u64,
    answered: u64,
}

impl Decider {
    /// With a thread of its own.
    #[must_use]
    pub fn start(config: Config, decide: Decide) -> Self {
        let (jobs, work) = mpsc::sync_channel(WAITING);
        let (finished, decisions) = mpsc::channel();
        let of_thread = config.clone();
        std::thread::spawn(move || {
            for job in work {
                match job {
                    Job::Decide { number, creation, patience } => {
                        let decision = decide(&of_thread, &creation, patience);
                        if finished.send((number, decision)).is_err() {
                            return;
                        }
                    }
                    Job::Record { workload, reason } => record::unguarded(&of_thread, workload.as_deref(), &reason),
                }
            }
        });
        Self { config, jobs, decisions, asked: 0, answered: 0 }
    }

    /// What the engine is to be told about a container, within `limit`.
    pub fn decide(&mut self, creation: Creation, limit: Duration) -> Decision {
        let begun = Instant::now();
        while let Ok((number, _)) = self.decisions.try_recv() {
            self.answered = number;
        }
        if self.answered < self.asked {
            return self.late(&creation, "it still waits for policy or daemon for another container");
        }
        let number = self.asked + 1;
        let job = Job::Decide { number, creation: Box::new(creation.clone()), patience: limit / 2 };
        if self.jobs.try_send(job).is_err() {
            return self.late(&creation, "it still writes records");
        }
        self.asked = number;
        match self.decisions.recv_timeout(limit.saturating_sub(begun.elapsed())) {
            Ok((answered, decision)) => {
                self.answered = answered;
                decision
            }
            Err(RecvTimeoutError::Timeout) => {
                let reason = format!("policy and daemon gave it no answer within {} ms", limit.as_millis());
                self.late(&creation, &reason)
            }
            Err(RecvTimeoutError::Disconnected) => self.late(&creation, "the thread that decides has ended"),
        }
    }

    fn late(&self, creation: &Creation, why: &str) -> Decision {
        decision::without_interception(&self.config, creation, &format!("the NRI plugin had to answer: {why}"))
    }

    /// Has it recorded that a container starts unguarded.
    pub fn record(&self, workload: Option<Workload>, reason: &str) {
        let job = Job::Record { workload: workload.map(Box::new), reason: reason.to_owned() };
        if self.jobs.try_send(job).is_err() {
            record::log("too many records wait; the last one is in this log only");
        }
    }

    /// The configuration it decides by.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nri::engine::Engine;
    use crate::nri::messages::Container;
    use crate::nri::messages::CreateContainerRequest;

    fn creation(id: &str) -> Creation {
        let container = Container { id: id.to_owned(), ..Container::default() };
        let request = CreateContainerRequest { pod: None, container: Some(container) };
        Creation::of(&request, &Engine::new("containerd", "2.3.4")).expect("a container")
    }

    #[test]
    fn a_late_decision_is_replaced_and_never_taken_for_another_containers() {
        let slow: Decide = |_, creation, _| {
            if creation.id().as_str() == "slow" {
                std::thread::sleep(Duration::from_millis(600));
            }
            Decision::Unguarded(creation.id().to_string())
        };
        let mut decider = Decider::start(Config::defaults(), slow);
        let limit = Duration::from_millis(200);
        let quick = Duration::from_millis(450);
        let own = |id: &str| Decision::Unguarded(id.to_owned());
        assert_eq!(decider.decide(creation("first"), limit), own("first"));
        let begun = Instant::now();
        for (id, ours) in [("slow", false), ("second", false)] {
            let decision = decider.decide(creation(id), limit);
            assert_eq!(decision == own(id), ours, "{decision:?}");
        }
        assert!(begun.elapsed() < quick, "the second does not wait");
        std::thread::sleep(Duration::from_millis(700));
        assert_eq!(decider.decide(creation("third"), limit), own("third"));
    }
}

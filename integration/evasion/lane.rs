//! A lane: one runtime and one question, on a node of its own, for any number of techniques.

use std::time::{Duration, Instant};

use acctguard::model::event::{Event, Kind};

use super::judgement::{Judgement, Question, judge};
use super::technique::Technique;
use super::trial::{Entry, Guard, Stage, Trial};
use crate::harness::events::of;
use crate::harness::node::{Node, PATIENCE, Runtime, policy};

/// Where in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// On which runtime.
    pub runtime: Runtime,
    /// What is asked.
    pub question: Question,
}

impl Lane {
    /// Carries out `techniques`, each by every way in, in the order of [`Entry::ALL`], and judges each.
    ///
    /// # Panics
    /// When the node does not come up.
    pub fn run(self, techniques: &[Technique]) -> Vec<(Trial, Judgement)> {
        let (node, guard) = if self.question == Question::Control {
            (Node::prepare(self.runtime, &policy("off"), ""), Guard::None)
        } else {
            (Node::start(self.runtime, &policy(self.question.name())), Guard::Shim)
        };
        let mut stage = Stage::new(&node, guard);
        let each = techniques.iter().flat_map(|technique| Entry::ALL.map(|entry| (*technique, entry)));
        let mut trials: Vec<Trial> = each.map(|(technique, entry)| stage.carry_out(technique, entry)).collect();
        stage.clear(&mut trials);
        let events = if guard == Guard::Shim { settled(&node, &trials) } else { Vec::new() };
        let judged = |trial: Trial| {
            let judgement = judge(self.question, &trial, &events);
            (trial, judgement)
        };
        trials.into_iter().map(judged).collect()
    }
}

/// The events, once the end of every container is among them; the findings have come by then.
fn settled(node: &Node, trials: &[Trial]) -> Vec<Event> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let events = node.events();
        let ended = |trial: &Trial| !of(&events, Kind::ContainerExited, &trial.victim).is_empty();
        if trials.iter().all(|trial| trial.victim.is_empty() || ended(trial)) || Instant::now() > deadline {
            return events;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

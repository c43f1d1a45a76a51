//! Which act made which change.

use std::collections::VecDeque;

use crate::model::account::Databases;
use crate::model::event::Change;
use crate::supervise::actor::Acting;
use crate::supervise::finding;
use crate::supervise::incident::Act;

/// Somebody who changed something in a watched directory, as fanotify tells.
#[derive(Debug, Clone)]
pub struct Writer {
    pub name: Vec<u8>,
    pub pid: u32,
    pub acting: Option<Acting>,
}

impl Writer {
    pub fn wrote(&self, database: &str) -> bool {
        database.rsplit('/').next().is_some_and(|name| name.as_bytes() == self.name)
    }
}

/// Gives each change to the act that explains it; returns those that none does.
pub fn share_out(
    acts: &mut [Act],
    remembered: &mut VecDeque<Act>,
    writers: &[Writer],
    before: &Databases,
    changes: Vec<Change>,
    is_alive: &dyn Fn(&Acting) -> bool,
) -> Vec<Change> {
    let mut unexplained = Vec::new();
    for change in changes {
        let writers: Vec<&Writer> = writers.iter().filter(|writer| writer.wrote(&change.database)).collect();
        let question = Question { change: &change, writers: &writers, before, is_alive };
        let act = match question.author(acts, remembered) {
            Some(Author::Acting(position)) => acts.get_mut(position),
            Some(Author::Remembered(position)) => remembered.get_mut(position),
            None => None,
        };
        match act {
            Some(act) => {
                act.seen_by_fanotify |= !writers.is_empty();
                act.changes.push(change);
            }
            None => unexplained.push(change),
        }
    }
    unexplained
}

/// Where the act stands that made a change.
enum Author {
    /// Among those in progress.
    Acting(usize),
    /// Among those remembered for the descriptors they opened.
    Remembered(usize),
}

/// Who made `change`?
struct Question<'a> {
    change: &'a Change,
    writers: &'a [&'a Writer],
    before: &'a Databases,
    is_alive: &'a dyn Fn(&Acting) -> bool,
}

impl Question<'_> {
    /// In this order: the act in progress that put just this change in place; the one whose process fanotify names, told apart by
    /// the account's name among its arguments; the act of before whose process fanotify names; the last act in progress that
    /// touched the database, or may have by some other way; the only one of before that touched it and still runs.
    fn author(&self, acts: &[Act], remembered: &VecDeque<Act>) -> Option<Author> {
        let database = &self.change.database;
        let candidates: Vec<(usize, &Act)> =
            acts.iter().enumerate().filter(|(_, act)| act.may_have_changed(database)).collect();
        let find = |test: &dyn Fn(&Act) -> bool| candidates.iter().rev().find(|(_, act)| test(act)).map(|(at, _)| *at);
        let first = candidates.iter().find(|(_, act)| finding::put_in_place(act, self.before, self.change));
        let acting = |position| Some(Author::Acting(position));
        first
            .map(|(position, _)| *position)
            .or_else(|| find(&|act| self.wrote(act) && self.names(act)))
            .or_else(|| find(&|act| self.wrote(act)))
            .and_then(acting)
            .or_else(|| remembered.iter().rposition(|act| self.wrote(act)).map(Author::Remembered))
            .or_else(|| find(&|act| act.touched(database) && self.names(act)).and_then(acting))
            .or_else(|| find(&|act| act.touched(database)).and_then(acting))
            .or_else(|| find(&|_| true).and_then(acting))
            .or_else(|| self.only_holder(remembered).map(Author::Remembered))
    }

    fn wrote(&self, act: &Act) -> bool {
        self.writers.iter().any(|writer| act.has_process(writer.pid)) && act.may_have_changed(&self.change.database)
    }

    fn names(&self, act: &Act) -> bool {
        self.change.name.as_deref().is_some_and(|name| act.mentions(name))
    }

    fn only_holder(&self, remembered: &VecDeque<Act>) -> Option<usize> {
        let holds = |act: &Act| {
            act.sightings().any(|sighting| sighting.touched(&self.change.database) && (self.is_alive)(&sighting.acting))
        };
        let mut holders = remembered.iter().enumerate().filter(|(_, act)| holds(act)).map(|(position, _)| position);
        let only = holders.next().filter(|_| self.writers.is_empty())?;
        holders.next().is_none().then_some(only)
    }
}

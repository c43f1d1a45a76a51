//! The event store after a power cut: its write-ahead log cut at every byte of the last commit, and its database torn at any byte of a
//! checkpoint. Each time it opens, has every event that was acknowledged, and none twice.
//!
//! What a disk has after a cut is what was synchronised, and of what came after any part (<https://sqlite.org/atomiccommit.html>): a
//! shorter file, zeroes, garbage, or what was there before.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use acctguard::model::event::{Event, EventTime, Host, Kind, Severity};
use acctguard::store::{Filter, Retention, Row, Store, Write};
use uuid::Uuid;

use crate::harness::machine::Scratch;

const KEEP: Retention = Retention::new(30, 1024);
/// Events of the last commit: several callers that came together.
const LAST_COMMIT: usize = 3;
/// Length of a frame of the log: a header and a page (<https://sqlite.org/fileformat2.html#walformat>).
const FRAME_BYTES: usize = 24 + 4096;
const LOG_HEADER_BYTES: usize = 32;
/// Bytes between two cuts of a checkpoint, no multiple or divisor of a page.
const CHECKPOINT_STEP: usize = 7;

/// The store is written to as well after cuts at multiples of this, and beside frames' borders.
const GOING_ON: usize = 16;

/// Whether a cut is beside or at the border of a frame.
const fn is_border(cut: usize) -> bool {
    (cut.saturating_sub(LOG_HEADER_BYTES) + 1) % FRAME_BYTES <= 2
}

/// How far apart the cuts are.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes between two cuts of the last commit; those beside a frame's border are always made.
    pub step: usize,
    /// Bytes between two cuts of a checkpoint.
    pub checkpoint_step: usize,
}

/// The program: `[--step BYTES]`.
pub fn main(words: &[&str]) -> ExitCode {
    let step = match words {
        [] => Some(1),
        ["--step", step] => step.parse().ok().filter(|step| *step > 0),
        _ => None,
    };
    let Some(step) = step else {
        eprintln!("power-cut takes no argument, or --step BYTES");
        return ExitCode::from(64);
    };
    if run(Bounds { step, checkpoint_step: CHECKPOINT_STEP.max(step) }) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Cuts everywhere and prints what came of it. Whether all was well.
pub fn run(bounds: Bounds) -> bool {
    let scratch = Scratch::new();
    let scenes: [(&str, MakeScene); 3] =
        [("last commit, new log", new_log), ("last commit, log used again", reused_log), ("checkpoint", checkpoint)];
    println!(
        "{:<28} {:>8} {:>8} {:>7} {:>8} {:>8} {:>7}",
        "power cut", "from", "to", "cuts", "trials", "failures", "s"
    );
    let mut all_well = true;
    for (index, (name, make)) in scenes.into_iter().enumerate() {
        let scene = make(&scratch.folder(&format!("scene-{index}")));
        let begun = Instant::now();
        let tally = scene.cut_everywhere(&scratch.folder("trial"), bounds);
        let (from, to) = scene.range();
        let seconds = begun.elapsed().as_secs();
        let failures = tally.failures.len();
        println!("{name:<28} {from:>8} {to:>8} {:>7} {:>8} {failures:>8} {seconds:>7}", tally.cuts, tally.trials);
        for failure in tally.failures.iter().take(10) {
            println!("  {failure}");
        }
        all_well &= failures == 0 && tally.trials > 0;
    }
    all_well
}

/// The store's files as a disk has them.
#[derive(Debug, Clone)]
struct Disk {
    database: Vec<u8>,
    log: Vec<u8>,
    /// Never synchronised, so any old one may be there.
    index: Vec<u8>,
}

fn beside(file: &Path, ending: &str) -> PathBuf {
    PathBuf::from(format!("{}{ending}", file.display()))
}

impl Disk {
    fn read(file: &Path) -> Self {
        let read = |ending| fs::read(beside(file, ending)).expect("read a file of the store");
        Self { database: read(""), log: read("-wal"), index: read("-shm") }
    }

    fn write(&self, file: &Path) {
        for (ending, bytes) in [("", &self.database), ("-wal", &self.log), ("-shm", &self.index)] {
            fs::write(beside(file, ending), bytes).expect("write a file of the store");
        }
    }
}

/// What is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Torn {
    Log,
    Database,
}

type MakeScene = fn(&Path) -> Scene;

struct Scene {
    before: Disk,
    after: Disk,
    torn: Torn,
    /// Acknowledged before the cut.
    stored: Vec<Event>,
    /// Of the commit that is cut: all or none of them.
    last: Vec<Event>,
}

struct Tally {
    cuts: usize,
    trials: usize,
    failures: Vec<String>,
}

fn event() -> Event {
    let time = EventTime(jiff::Timestamp::now());
    let mut event = Event::new(Uuid::now_v7(), time, Kind::AccountAttempt, Severity::Medium, Host::default());
    event.host.labels.insert("padding".to_owned(), "x".repeat(300));
    event
}

fn open(folder: &Path) -> (Store, PathBuf) {
    let file = folder.join("events.db");
    (Store::open(&file, KEEP).expect("open a new store"), file)
}

fn append(store: &Store, stored: &mut Vec<Event>) {
    let event = event();
    store.append(&event).expect("append");
    stored.push(event);
}

fn rows(events: &[Event]) -> Vec<Write> {
    events.iter().map(|event| Write::Event(Row::new(event).expect("a row"))).collect()
}

fn last_commit(store: &Store, file: &Path, stored: Vec<Event>) -> Scene {
    let before = Disk::read(file);
    let last: Vec<Event> = (0..LAST_COMMIT).map(|_| event()).collect();
    store.write(rows(&last)).expect("commit");
    Scene { before, after: Disk::read(file), torn: Torn::Log, stored, last }
}

/// The log grows with the last commit.
fn new_log(folder: &Path) -> Scene {
    let (store, file) = open(folder);
    let mut stored = Vec::new();
    for _ in 0..10 {
        append(&store, &mut stored);
    }
    last_commit(&store, &file, stored)
}

/// Another connection has the log written into the database, as SQLite does by itself when it is long
/// (<https://sqlite.org/pragma.html#pragma_wal_checkpoint>).
fn have_checkpoint(file: &Path, kind: &str) {
    let connection = rusqlite::Connection::open(file).expect("open beside the store");
    let busy: i64 = connection
        .query_row(&format!("PRAGMA wal_checkpoint({kind})"), [], |row| row.get(0))
        .expect("write the log into the database");
    assert_eq!(busy, 0, "the checkpoint did not finish");
}

/// The last commit goes over older frames: the log began anew after a checkpoint.
fn reused_log(folder: &Path) -> Scene {
    let (store, file) = open(folder);
    let mut stored = Vec::new();
    for _ in 0..10 {
        append(&store, &mut stored);
    }
    have_checkpoint(&file, "RESTART");
    append(&store, &mut stored);
    last_commit(&store, &file, stored)
}

/// The log is whole, the database is torn while the log goes into it.
fn checkpoint(folder: &Path) -> Scene {
    let (store, file) = open(folder);
    let mut stored = Vec::new();
    append(&store, &mut stored);
    have_checkpoint(&file, "PASSIVE");
    for _ in 0..20 {
        append(&store, &mut stored);
    }
    let before = Disk::read(&file);
    have_checkpoint(&file, "PASSIVE");
    Scene { before, after: Disk::read(&file), torn: Torn::Database, stored, last: Vec::new() }
}

impl Scene {
    fn torn_file<'a>(&self, disk: &'a Disk) -> &'a [u8] {
        match self.torn {
            Torn::Log => &disk.log,
            Torn::Database => &disk.database,
        }
    }

    /// Where the file changed: first byte, and the one behind the last.
    fn range(&self) -> (usize, usize) {
        let (before, after) = (self.torn_file(&self.before), self.torn_file(&self.after));
        let differs = |index: &usize| before.get(*index) != after.get(*index);
        let first = (0..after.len()).find(differs).expect("a change");
        let last = (0..after.len()).rev().find(differs).expect("a change");
        (first, last + 1)
    }

    fn cuts(&self, bounds: Bounds) -> Vec<usize> {
        let (from, to) = self.range();
        if self.torn == Torn::Database {
            return (from..to).step_by(bounds.checkpoint_step).chain([to]).collect();
        }
        let borders = (from..to).filter(|cut| is_border(*cut));
        let mut cuts: Vec<usize> = (from..to).step_by(bounds.step).chain(borders).collect();
        cuts.push(to);
        cuts.sort_unstable();
        cuts.dedup();
        cuts
    }

    /// By as many threads as there are processors.
    fn cut_everywhere(&self, folder: &Path, bounds: Bounds) -> Tally {
        let cuts = self.cuts(bounds);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = cuts.len().div_ceil(threads);
        let tallies: Vec<Tally> = std::thread::scope(|scope| {
            let trial = |(number, cuts)| scope.spawn(move || self.cut_at(cuts, &folder.join(format!("{number}.db"))));
            let running: Vec<_> = cuts.chunks(share).enumerate().map(trial).collect();
            running.into_iter().map(|thread| thread.join().expect("a thread of trials")).collect()
        });
        Tally {
            cuts: cuts.len(),
            trials: tallies.iter().map(|tally| tally.trials).sum(),
            failures: tallies.into_iter().flat_map(|tally| tally.failures).collect(),
        }
    }

    fn cut_at(&self, cuts: &[usize], file: &Path) -> Tally {
        let mut tally = Tally { cuts: cuts.len(), trials: 0, failures: Vec::new() };
        let (_, end) = self.range();
        for cut in cuts.iter().copied() {
            for (tail, disk) in self.disks(cut) {
                tally.trials += 1;
                let outcome = self
                    .examine(&disk, file, cut >= end)
                    .and_then(|store| if is_border(cut) || cut % GOING_ON == 0 { self.go_on(&store) } else { Ok(()) });
                if let Err(reason) = outcome {
                    tally.failures.push(format!("cut at byte {cut}, {tail}: {reason}"));
                }
            }
        }
        tally
    }

    /// What the disk may have when everything up to `cut` came to it.
    fn disks(&self, cut: usize) -> Vec<(&'static str, Disk)> {
        let (before, after) = (self.torn_file(&self.before), self.torn_file(&self.after));
        let (head, lost) = after.split_at(cut);
        // any fixed disorder will do, and the same each time
        let garbage = (0..lost.len()).map(|index| (index.wrapping_mul(167) ^ (index >> 8) ^ 0x5a).to_le_bytes()[0]);
        let older = before.get(cut..).unwrap_or_default().to_vec();
        let tails = match self.torn {
            Torn::Log => vec![
                ("shorter", Vec::new()),
                ("zeroes behind", vec![0; lost.len()]),
                ("garbage behind", garbage.collect()),
                ("older bytes behind", older),
            ],
            // the log is whole and mends pages that it has; those that it has not were written before
            Torn::Database => vec![("older bytes behind", older)],
        };
        let disk = |tail: Vec<u8>| {
            let torn = [head, &tail].concat();
            match self.torn {
                Torn::Log => {
                    Disk { database: self.before.database.clone(), log: torn, index: self.after.index.clone() }
                }
                Torn::Database => {
                    Disk { database: torn, log: self.after.log.clone(), index: self.before.index.clone() }
                }
            }
        };
        // a log that was shorter before has no older bytes
        let differs = |(name, tail): &(&str, Vec<u8>)| *name != "older bytes behind" || !tail.is_empty();
        tails.into_iter().filter(differs).map(|(name, tail)| (name, disk(tail))).collect()
    }

    /// Opens the store on `disk`: everything acknowledged is there once and in order, the last commit whole or not at all.
    fn examine(&self, disk: &Disk, file: &Path, is_whole: bool) -> Result<Store, String> {
        disk.write(file);
        let store = Store::open(file, KEEP).map_err(|error| format!("does not open: {error}"))?;
        let found = ids(&store)?;
        let stored: Vec<Uuid> = self.stored.iter().map(|event| event.id).collect();
        let with_last: Vec<Uuid> = self.stored.iter().chain(&self.last).map(|event| event.id).collect();
        if found != with_last && (is_whole || found != stored) {
            return Err(format!("{} events found of {} acknowledged", found.len(), stored.len()));
        }
        Ok(store)
    }

    /// The store takes the last commit again without doubling it, and something new.
    fn go_on(&self, store: &Store) -> Result<(), String> {
        let new = event();
        let again = store.write(rows(&self.last)).and_then(|()| store.append(&new));
        again.map_err(|error| format!("takes nothing any more: {error}"))?;
        let expected: Vec<Uuid> = self.stored.iter().chain(&self.last).chain([&new]).map(|event| event.id).collect();
        if ids(store)? == expected { Ok(()) } else { Err("events are missing or doubled after going on".to_owned()) }
    }
}

/// Ids in order; sequence numbers without a gap.
fn ids(store: &Store) -> Result<Vec<Uuid>, String> {
    let filter = Filter { limit: usize::MAX, ..Filter::default() };
    let page = store.events(&filter).map_err(|error| format!("cannot be read: {error}"))?;
    let is_counted = page.events.iter().zip(1..).all(|(stored, number)| stored.seq == number);
    if !is_counted || !page.unreadable.is_empty() {
        return Err("sequence numbers have gaps, or events cannot be read".to_owned());
    }
    Ok(page.events.iter().map(|stored| stored.event.id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_cut_costs_no_acknowledged_event() {
        assert!(run(Bounds { step: 2039, checkpoint_step: 4093 }));
    }
}

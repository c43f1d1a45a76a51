//! acctguard in front of real engines: what `integration/engines/run` runs. Starts each engine, asks it the same questions in
//! every way of registration, prints a table, and ends non-zero on any miss.

// A part of what the tests use.
#[expect(dead_code, reason = "the rest of the harness is the tests'")]
#[path = "../harness/mod.rs"]
mod harness;

#[path = "../harness/files.rs"]
mod files;

mod conmon;
mod containerd;
mod direct;
mod docker;
mod docker_traps;
mod engine;
mod examination;
mod image;
mod kubernetes;
mod kubernetes_traps;
mod nri;
mod place;
mod podman;
mod podman_traps;
mod report;
mod together;
mod youki;

use std::collections::{BTreeMap, VecDeque};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::place::Place;
use crate::report::{Column, Report};

/// Examines an engine in one or more ways.
type Examine = fn() -> Vec<Report>;

/// The engines, and how each is examined: in places of their own, several at one time.
const ENGINES: [(&str, Examine); 18] = [
    ("together", together::examine),
    ("docker", docker::by_default),
    ("docker", docker::by_option),
    ("containerd", containerd::by_class),
    ("containerd", containerd::by_default),
    ("containerd", containerd::by_ctr),
    ("nri", nri::from_outside),
    ("nri", nri::pre_installed),
    ("podman", podman::by_option),
    ("podman", podman::in_pod),
    ("podman", podman::by_hooks),
    ("podman", podman::by_configuration),
    ("podman", podman::on_runc),
    ("conmon", conmon::examine),
    ("direct", direct::runc),
    ("direct", direct::crun),
    ("youki", direct::youki),
    ("youki", podman::on_youki),
];
/// So many at one time: they wait more than they work.
const AT_ONE_TIME: usize = 4;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = words.iter().find(|word| ENGINES.iter().all(|(name, _)| name != word)) {
        eprintln!("there is no engine {unknown}");
        return ExitCode::from(64);
    }
    let wanted = |(_, (name, _)): &(usize, (&str, _))| words.is_empty() || words.iter().any(|word| word == name);
    let left = Mutex::new(ENGINES.into_iter().enumerate().filter(wanted).collect::<VecDeque<_>>());
    let done = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONE_TIME {
            scope.spawn(|| {
                while let Some((number, (name, examine))) = next(&left) {
                    let reports = examined(name, examine);
                    done.lock().expect("no holder panics").insert(number, reports);
                }
            });
        }
    });
    let reports: Vec<Report> = done.into_inner().expect("no holder panicked").into_values().flatten().collect();
    if report::print(&reports) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn next<T>(queue: &Mutex<VecDeque<T>>) -> Option<T> {
    queue.lock().expect("no holder panics").pop_front()
}

/// Examines in a thread of its own, whose mount namespace ends with it.
fn examined(name: &str, examine: Examine) -> Vec<Report> {
    let begun = Instant::now();
    let reports = std::thread::spawn(examine).join().unwrap_or_else(|_| {
        let mut report = Report::new(name, "?", "?");
        let reason = "it was not examined to the end; the reason is printed above".to_owned();
        report.check(Column::Operations, "examination", Err(reason));
        vec![report]
    });
    eprintln!("{name}: {} s", begun.elapsed().as_secs());
    reports
}

/// Ends everything of `place`; what was left behind is a miss of `report`.
fn leave(place: &Place, report: &mut Report) {
    let left = place.leave();
    let outcome = if left.is_empty() { Ok(()) } else { Err(left.join("; ")) };
    report.check(Column::Operations, "nothing is left behind", outcome);
}

/// The first number with a dot in it that a program says of itself.
fn first_version(text: &str) -> String {
    let mut words = text.split_whitespace().filter(|word| word.contains('.'));
    words.find(|word| word.chars().next().is_some_and(|character| character.is_ascii_digit())).unwrap_or("?").to_owned()
}

/// Tries again for a few seconds, for what comes a moment later.
fn patiently(mut question: impl FnMut() -> Result<(), String>) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = question();
        if answer.is_ok() || Instant::now() > deadline {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A word that no other call gets.
fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("n{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

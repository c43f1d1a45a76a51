//! The fuzz targets (`integration/fuzz`) over their corpus, and over a fixed number of inputs made from it. Needs no root.

#[path = "fuzz/targets/mod.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use targets::{TARGETS, Target};

/// Inputs made for each target.
const INPUTS: usize = 2_000;
/// Longest input that is made.
const MAX_BYTES: usize = 8_192;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/fuzz/corpus")
}

/// The inputs of a target, by their names.
fn seeds(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = corpus().join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut seeds: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            let entry = entry.expect("entry");
            (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("read"))
        })
        .collect();
    seeds.sort();
    seeds
}

/// Numbers that look like chance and are the same each time (xorshift64*, Vigna 2016).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).expect("31 bits") % limit.max(1)
    }

    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        let end = start + self.below((length - start).min(32) + 1);
        start..end
    }
}

/// One input: a seed with one to four changes.
fn changed(seeds: &[(String, Vec<u8>)], chance: &mut Chance) -> Vec<u8> {
    const BYTES: &[u8] = b"\0\n\xff\x01 \"\\:=-/{}[],'#%\x1b\x80\x7f09az";
    let mut input = seeds[chance.below(seeds.len())].1.clone();
    for _ in 0..=chance.below(4) {
        let at = chance.below(input.len() + 1);
        match chance.below(7) {
            0 if at < input.len() => input[at] ^= 1 << chance.below(8),
            1 if at < input.len() => input[at] = BYTES[chance.below(BYTES.len())],
            2 => input.insert(at, BYTES[chance.below(BYTES.len())]),
            3 => drop(input.drain(chance.range(input.len()))),
            4 => input.truncate(at),
            5 => {
                let part = input[chance.range(input.len())].to_vec();
                input.splice(at..at, part);
            }
            _ => {
                let other = &seeds[chance.below(seeds.len())].1;
                let part = other[chance.range(other.len())].to_vec();
                input.splice(at..at, part);
            }
        }
    }
    input.truncate(MAX_BYTES);
    input
}

#[track_caller]
fn holds(target: Target, what: &str, input: &[u8]) {
    let (name, check) = target;
    let outcome = catch_unwind(AssertUnwindSafe(|| check(input)));
    assert!(outcome.is_ok(), "{name} fails on {what}: b\"{}\"", input.escape_ascii());
}

fn run(name: &str) {
    let target = *TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    let seeds = seeds(name);
    assert!(!seeds.is_empty(), "no corpus for {name}");
    for (file, bytes) in &seeds {
        holds(target, file, bytes);
    }
    let mut chance = Chance(0x9E37_79B9_7F4A_7C15);
    for number in 0..INPUTS {
        holds(target, &format!("input {number}"), &changed(&seeds, &mut chance));
    }
}

macro_rules! each {
    ($($name:ident)*) => {
        $(#[test] fn $name() { run(stringify!($name)); })*

        /// A target that is not run here, or a folder that no target reads, is a mistake.
        #[test]
        fn every_target_is_run() {
            let run = BTreeSet::from([$(stringify!($name).to_owned()),*]);
            assert_eq!(run, TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect());
            let folders = fs::read_dir(corpus()).expect("corpus");
            let folders = folders.map(|folder| folder.expect("folder").file_name().to_string_lossy().into_owned());
            assert_eq!(run, folders.collect());
        }
    };
}

each! {
    accounts audit_records command_lines config_edit configuration containerd_answers control_messages decoding
    fanotify_events hand_over nri paths redaction seccomp_profiles states
}

/// A target that takes everything would be worth nothing: one that fails is told with its input.
#[test]
fn a_failing_target_is_told() {
    let failing: Target = ("failing", |data| assert!(!data.contains(&b'x'), "an x"));
    holds(failing, "good", b"abc");
    let told = catch_unwind(|| holds(failing, "bad", b"a\nx")).expect_err("it fails");
    assert_eq!(told.downcast_ref::<String>().map(String::as_str), Some("failing fails on bad: b\"a\\nx\""));
}

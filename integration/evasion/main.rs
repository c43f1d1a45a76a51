//! Every way round the interception that we know, on real containers: what `integration/evasion/run` runs. Prints a table and
//! ends non-zero on any miss.

// The suite uses a part of what the tests use.
#[expect(dead_code, reason = "the rest of the harness is the tests'")]
#[path = "../harness/mod.rs"]
mod harness;

#[path = "mod.rs"]
mod evasion;

mod lanes;
mod races;
mod table;

use std::process::ExitCode;

use crate::evasion::technique::{Technique, all};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "races") {
        return match races::Bounds::parse(&words[1..]) {
            Ok(bounds) => exit_code(races::run(&bounds)),
            Err(message) => {
                eprintln!("{message}");
                ExitCode::from(64)
            }
        };
    }
    let named =
        |technique: &Technique| words.is_empty() || words.iter().any(|word| technique.name.contains(word.as_str()));
    let techniques: Vec<Technique> = all().filter(named).collect();
    if techniques.is_empty() {
        eprintln!("no technique has a name with one of {words:?} in it");
        return ExitCode::from(64);
    }
    let results = lanes::run(&techniques);
    exit_code(table::print(&techniques, &results))
}

fn exit_code(right: bool) -> ExitCode {
    if right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

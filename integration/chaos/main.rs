//! What goes wrong around acctguard and in it, made to go wrong: what `integration/chaos/run` runs. Prints figures and ends non-zero on
//! any failure.

// The programs use a part of what the tests use.
#[allow(dead_code, reason = "the rest of the harness is the tests'")]
#[path = "../harness/mod.rs"]
mod harness;

#[path = "mod.rs"]
mod chaos;

mod soak;
mod upgrade;

use std::process::ExitCode;

use crate::chaos::kill;
use crate::chaos::neighbours;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (name, words) = words.split_first().map_or(("", &words[..]), |(name, words)| (name.as_str(), words));
    let plain: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match name {
        "kill-worker" => kill::run(kill::Victim::Worker, words),
        "kill-keeper" => kill::run(kill::Victim::Keeper, words),
        "upgrade" => upgrade::run(words),
        "neighbours" => neighbours::run(words),
        "soak" => soak::run(words),
        "power-cut" => return chaos::power_cut::main(&plain),
        "outage" => return chaos::outage::main(&plain),
        _ => Err(format!("no program {name:?}: see integration/chaos/run --help")),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(64)
        }
    }
}

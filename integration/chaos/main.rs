//! acctguard's failures on purpose: what `integration/chaos/run` runs.

// They use a part of what the tests use.
#[expect(dead_code, reason = "the rest of the harness is the tests'")]
#[path = "../harness/mod.rs"]
mod harness;

#[path = "mod.rs"]
mod chaos;

mod upgrade;

use std::process::ExitCode;

use crate::chaos::kill;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (name, words) = words.split_first().map_or(("", &words[..]), |(name, words)| (name.as_str(), words));
    let outcome = match name {
        "kill-worker" => kill::run(kill::Victim::Worker, words),
        "kill-keeper" => kill::run(kill::Victim::Keeper, words),
        "upgrade" => upgrade::run(words),
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

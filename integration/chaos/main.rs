//! What goes wrong on a node: what `integration/chaos/run` runs. The first word says which program.

// The programs use a part of what the tests use.
#[expect(dead_code, reason = "the rest of the harness is the tests'")]
#[path = "../harness/mod.rs"]
mod harness;

mod neighbours;
mod obedient;
mod soak;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let outcome = match words.next().as_deref() {
        Some("neighbours") => neighbours::run(words),
        Some("soak") => soak::run(words),
        other => Err(format!("say which program: neighbours or soak, not {other:?}")),
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

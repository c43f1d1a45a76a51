//! The targets for libFuzzer; the variable FUZZ_TARGET names the one to run. `integration/fuzz/run` builds and runs it.
#![no_main]

mod targets;

use std::sync::OnceLock;

static CHECK: OnceLock<fn(&[u8])> = OnceLock::new();

/// The target that is asked for, or an end that says which there are.
fn chosen() -> fn(&[u8]) {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    match targets::TARGETS.iter().find(|(known, _)| *known == name) {
        Some((_, check)) => *check,
        None => {
            let names: Vec<&str> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
            eprintln!("FUZZ_TARGET must be one of: {}", names.join(" "));
            std::process::exit(64)
        }
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| CHECK.get_or_init(chosen)(data));

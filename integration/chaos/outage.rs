//! What events go through is away: a sink for a hundred thousand events, sinks that hang, the disk, the daemon. Nothing is lost, the order
//! is kept, and nobody waits.

use std::process::ExitCode;

mod daemon_away;
mod disk_full;
mod events;
mod hung_sinks;
mod sink_down;

/// Events of the whole program.
const EVENTS: usize = 100_000;

/// The program: `[--events N]`.
pub fn main(words: &[&str]) -> ExitCode {
    let events = match words {
        [] => Some(EVENTS),
        ["--events", number] => number.parse().ok().filter(|number| *number >= 100),
        _ => None,
    };
    let Some(events) = events else {
        eprintln!("outage takes no argument, or --events N, at least 100");
        return ExitCode::from(64);
    };
    sink_down::run(events);
    hung_sinks::run(events.min(5000));
    for mode in ["audit", "enforce"] {
        disk_full::run(mode);
    }
    daemon_away::run(10);
    println!("nothing was lost, nothing came out of order");
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_that_was_down_gets_everything_in_order() {
        sink_down::run(600);
    }

    #[test]
    fn sinks_that_hang_hold_up_nothing() {
        hung_sinks::run(400);
    }

    #[test]
    fn a_full_disk_in_audit() {
        disk_full::run("audit");
    }

    #[test]
    fn a_full_disk_in_enforce() {
        disk_full::run("enforce");
    }

    #[test]
    fn containers_made_while_the_daemon_is_away() {
        daemon_away::run(3);
    }
}

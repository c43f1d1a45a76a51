//! What goes wrong, made to go wrong: nothing may be lost, doubled or let through. Each program has a short version among the tests.
//!
//! For death under load: a load that checks itself ([`load`]), what is done to the daemon meanwhile ([`kill`]), and what became of
//! calls, effects and record ([`figures`]).

pub mod figures;
pub mod kill;
pub mod load;
pub mod obedient;
pub mod outage;
pub mod outcome;
pub mod power_cut;
pub mod starts;

#[cfg(test)]
mod short;

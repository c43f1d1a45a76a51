//! What goes wrong, made to go wrong: nothing may be lost, doubled or let through. Each program has a short version among the tests.
//!
//! For death under load: a load that checks itself ([`load`]), what is done to the daemon meanwhile ([`kill`]), and what became of
//! calls, effects and record ([`figures`]). For what one container costs another ([`neighbours`]): containers that do what they are told
//! ([`obedient`]).

pub mod figures;
pub mod kill;
pub mod load;
pub mod neighbours;
pub mod obedient;
pub mod outage;
pub mod outcome;
pub mod power_cut;
pub mod starts;

#[cfg(test)]
mod short;

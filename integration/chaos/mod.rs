//! Failures on purpose: a load that checks itself ([`load`]), what is done to the daemon meanwhile ([`kill`]), and what became of
//! calls, effects and record ([`figures`]).

pub mod figures;
pub mod kill;
pub mod load;
pub mod outcome;
pub mod starts;

#[cfg(test)]
mod short;

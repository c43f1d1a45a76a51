//! Ways round the interception: what they are ([`technique`]), and what becomes of one of them ([`trial`], [`judgement`]).
//!
//! A technique counts only when it changes a database of a container that nobody guards (the control). Guarded, it must be
//! found in audit and blocked in enforce.

pub mod databases;
pub mod judgement;
pub mod lane;
pub mod scripts;
pub mod technique;
pub mod trial;

#[cfg(test)]
mod selection;

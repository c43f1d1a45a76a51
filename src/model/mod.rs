//! Accounts, events, workloads, policies and attempts as plain values.
//!
//! Floor 0: knows no other room and no operating system: no `std::{fs,net,env,process}`, no clock, no `libc`, no `rustix`.
//! Callers pass bytes and timestamps. Everything here is total on hostile input.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::arithmetic_side_effects))]

pub mod account;
pub mod attempt;
pub mod database_path;
pub mod diagnostic;
pub mod event;
pub mod policy;
pub mod redact;
pub mod workload;

/// A SHA-256 as events show it: `sha256:<hex>`.
#[must_use]
pub fn digest_text(digest: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in digest {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

//! First program of a sealed container; see the library.
#![no_std]
#![no_main]

#[path = "../kernel/raw/launcher/start.rs"]
mod start;

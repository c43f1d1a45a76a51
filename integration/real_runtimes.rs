//! acctguard from outside: its programs on the real runc and the real crun, in real containers.

mod accounts;
mod bad_input;
mod calls;
mod cli;
mod creation;
mod daemon;
mod harness;
mod landlock;
mod programs;
mod shim;
mod syslog;
mod witnesses;

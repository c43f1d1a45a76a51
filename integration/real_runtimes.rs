//! acctguard from outside: its programs on the real runc and the real crun, in real containers.

mod accounts;
mod bad_input;
mod call_findings;
mod calls;
mod cli;
mod creation;
mod daemon;
mod evasion;
mod fidelity;
mod harness;
mod landlock;
mod programs;
mod seal;
mod seal_roots;
mod shim;
mod syslog;
mod witnesses;

//! A node of its own for every test: scratch folder, configuration, policies, daemon, real runtime, containers.
//!
//! Everything lives in a mount namespace of the test's own thread and in a tmpfs there, so nothing is left behind when the
//! test ends, however it ends. A missing privilege or kernel feature fails the test with a line that says what to do.

pub mod auditing;
pub mod built;
pub mod bundle;
pub mod command;
#[cfg(target_arch = "x86_64")]
pub mod death;
pub mod events;
pub mod machine;
pub mod node;
pub mod rsyslog;

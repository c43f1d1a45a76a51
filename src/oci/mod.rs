//! The files and messages of the OCI runtime specification: bundles and their `config.json`, the seccomp section in it,
//! the state that hooks and listeners are handed, and the command line of a runtime.
//!
//! Floor 1: uses `model` only. Lower floors return errors; nothing here logs. Everything read is bounded before it is
//! read. Not here on purpose: running anything, policy, the daemon.
//!
//! * [`intercepted`] is the one table of intercepted calls; `seccomp-profiles/` is generated from it and tested against it.
//! * [`seccomp_merge`] merges it into a workload's own profile, [`seccomp_closed`] where policy
//!   enforces; [`seccomp_profile`] and [`seccomp_condition`] are their ground.
//! * [`launcher_listener`] has a sealed workload's filter replaced by the launcher's, which is compiled here.
//! * [`identity`] tells who a container is, [`containerd_api`] asks containerd what its bundle does not tell.
//! * [`spec_edit`] is the whole edit of a `config.json`; [`bundle`] reads and replaces the file.
#![forbid(unsafe_code)]

pub mod bundle;
pub mod containerd_api;
pub mod engine_profile;
pub mod exec_words;
pub mod hook_state;
pub mod identity;
pub mod intercepted;
pub mod known_calls;
pub mod launcher_calls;
pub mod launcher_edit;
pub mod launcher_listener;
pub mod launcher_words;
pub mod listener_state;
pub mod owner;
pub mod parameters;
pub mod runtime_args;
pub mod runtime_features;
pub mod runtime_options;
pub mod seccomp_closed;
pub mod seccomp_condition;
pub mod seccomp_flags;
pub mod seccomp_merge;
pub mod seccomp_profile;
pub mod seccomp_program;
#[cfg(test)]
mod seccomp_proof;
pub mod seccomp_youki;
pub mod service_account;
pub mod spec_edit;

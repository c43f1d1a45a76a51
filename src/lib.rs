//! acctguard guards the account databases of running containers.
//!
//! It records every container creation (MITRE ATT&CK data component DC0072), intercepts account creation inside running
//! containers (analytic AN1239), says which account, in which workload, by whom, and allows or blocks it by policy.
//!
//! # The rooms, by floor
//! | floor | room | what it knows |
//! | --- | --- | --- |
//! | 0 | [`model`] | accounts, events, workloads, policy, attempts: values, no operating system |
//! | 0 | [`kernel`] | file descriptors and system calls: never accounts; `kernel::raw` holds the only `unsafe` |
//! | 1 | [`config`] | node configuration and policy files |
//! | 1 | [`engines`] | the engines' configuration files, and registering the shim in them |
//! | 1 | [`oci`] | bundles, the edit of `config.json`, hook and listener state, runtime command lines |
//! | 1 | [`store`] | the durable event store |
//! | 1 | [`sinks`] | where events are shipped to |
//! | 1 | [`control`] | messages between the daemon and its clients |
//! | 2 | [`supervise`] | from a notification to an answer: decode, observe, decide, incident |
//! | 3 | [`daemon`], [`runtime_shim`], [`hook`], [`nri`], [`cli`] | the programs; they never use each other |
//! | 3 | `launch` | the static launcher: a package of its own, without std |
//!
//! Data moves one way: notification → [`kernel`] bytes → `supervise::decode` → [`model::attempt::Attempt`] →
//! `model::policy::decide` → the answer to the kernel and an [`model::event::Event`] to the [`store`], from there to the [`sinks`].
//! `integration/layers.rs` keeps the floors.

// `model` and `oci` have files that the static launcher is compiled of, too
extern crate alloc;

pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod engines;
pub mod hook;
pub mod kernel;
pub mod model;
pub mod nri;
pub mod oci;
pub mod runtime_shim;
pub mod sinks;
pub mod store;
pub mod supervise;

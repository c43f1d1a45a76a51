//! System calls on file descriptors and processes: what acctguard asks the kernel, and nothing about accounts.
//!
//! Floor 0: uses no other room. May use: [`rustix`], [`nix`], std. [`raw`] holds the only `unsafe` of the product; every other
//! module here is safe code over it.
//!
//! Invariants: whatever is read from another process is bounded before it is allocated; what is read through a notification's
//! thread id counts only while that notification is still valid ([`remote_memory::Unverified`]); files that a container controls are opened with
//! `O_PATH` only, with the exceptions of [`foreign_root::read_file_in_root`] and [`assembled_root::Object::head`], which first make sure of
//! a regular file.
//! Deliberately absent: any decision, any logging, any name of an account database.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::arithmetic_side_effects))]

pub mod allocator;
pub mod assembled_root;
pub mod audit_netlink;
pub mod broker;
pub mod exec;
pub mod fanotify;
pub mod fd_passing;
pub mod features;
pub mod foreign_root;
pub mod inherited;
pub mod interruption;
pub mod leftovers;
pub mod pidfd;
pub mod placed;
pub mod process;
pub mod program_format;
pub mod progress;
pub mod raw;
pub mod remote_memory;
pub mod sealed_memory;
pub mod seccomp_notify;
pub mod shared_area;
pub mod thread;

/// An error number of the kernel, errno(3). Positive, as in user space; [`seccomp_notify::Listener::answer`] takes care of the sign.
pub use rustix::io::Errno;

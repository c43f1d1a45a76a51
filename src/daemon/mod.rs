//! `acctguard-daemon`: a keeper process ([`keeper`]) and a worker process ([`worker_process`]).
//!
//! A program: may use every lower floor and no other program.
//!
//! - The **keeper** is what systemd or a person starts. It holds sockets, listeners and the memory of notifications in flight, reads
//!   nothing that a container wrote, and keeps a worker running.
//! - The **worker** answers: a thread a listener ([`worker`]), a thread a container for its case ([`case_thread`]), one for the
//!   file systems' witness ([`change_watch`]), one for Landlock's ([`refusal_watch`]), one a sink ([`shipper`]), one a connection, one that
//!   asks engines what they tell late of a container ([`late_identity`]), and one that sees to it that no call waits for a thread that
//!   is stuck ([`deadline_watch`]) or at a slow call ([`set_aside`]).
//!
//! Invariants: a panic anywhere ends the worker at once, and the keeper starts another; no container waits for another's
//! work; what a client is told to be done is on disk, unless the disk takes nothing and policy does not refuse for that ([`journal`]).
#![forbid(unsafe_code)]

pub mod baselines;
pub mod case_thread;
pub mod cases;
pub mod change_watch;
pub mod conclusion;
pub mod confinement;
pub mod control_server;
pub mod deadline_watch;
pub mod delivered;
pub mod grants;
pub mod hand_over;
pub mod housekeeping;
pub mod identification;
pub mod journal;
pub mod keeper;
pub mod last_good;
pub mod late_identity;
pub mod lines;
pub mod listener_server;
pub mod log;
mod lost;
pub mod namesakes;
mod neighbours;
pub mod places;
pub mod post;
pub mod refusal_watch;
pub mod registry;
pub mod retirement;
pub mod service;
pub mod service_manager;
pub mod set_aside;
pub mod shipper;
pub mod startup;
pub mod upgrade;
pub mod worker;
pub mod worker_process;

pub use startup::command;
pub use startup::main;

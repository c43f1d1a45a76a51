//! Account databases and the file that says where accounts are looked up: their formats, a snapshot of all of them, and what changed between two snapshots.
//!
//! Parsers work on bytes, are total, and keep what they do not understand. Password hashes never leave this room but
//! in what is kept for another process ([`kept`]): every value that does is one of the words of [`shadow::Password`]. Names are shown through
//! [`crate::model::redact::printable`], so an unprintable name cannot pose as another.

pub mod arguments;
pub mod diff;
mod families;
pub mod group;
pub mod gshadow;
pub mod kept;
pub mod lookup;
pub mod passwd;
pub mod permissions;
pub mod shadow;
pub mod snapshot;
pub mod subid;
pub mod table;

pub use arguments::from_arguments;
pub use arguments::is_account_tool;
pub use diff::diff;
pub use diff::intended;
pub use permissions::Permissions;
pub use snapshot::Databases;

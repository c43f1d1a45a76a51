//! `/etc/subuid` and `/etc/subgid`, subuid(5) and subgid(5).

use crate::model::account::table::Entry;
use crate::model::account::table::fields;
use crate::model::account::table::number;

/// `owner:first id:count`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SubidEntry {
    /// Login name or uid of the owner.
    pub owner: Vec<u8>,
    /// First id of the range.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl Entry for SubidEntry {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = fields(line, 3);
        let owner = fields.next()?.to_vec();
        let first = number(fields.next()?)?;
        let count = number(fields.next()?)?;
        Some(Self { owner, first, count })
    }

    fn name(&self) -> &[u8] {
        &self.owner
    }
}

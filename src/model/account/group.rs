//! `/etc/group`, group(5).

use crate::model::account::table::Entry;
use crate::model::account::table::fields;
use crate::model::account::table::is_compat;
use crate::model::account::table::names;
use crate::model::account::table::number;

/// `group_name:password:GID:user_list`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GroupEntry {
    /// Name.
    pub name: Vec<u8>,
    /// Password field: `x` when it is in gshadow.
    pub password: Vec<u8>,
    /// Gid; `None` only in NIS compatibility entries.
    pub gid: Option<u32>,
    /// Members.
    pub members: Vec<Vec<u8>>,
}

impl Entry for GroupEntry {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = fields(line, 4);
        let name = fields.next()?.to_vec();
        let password = fields.next();
        let gid = fields.next().and_then(number);
        if !is_compat(&name) && (password.is_none() || gid.is_none()) {
            return None;
        }
        Some(Self {
            name,
            password: password.unwrap_or_default().to_vec(),
            gid,
            members: names(fields.next().unwrap_or_default()),
        })
    }

    fn name(&self) -> &[u8] {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_a_list() {
        let entry = GroupEntry::parse(b"sudo:x:27:alice,, bob").unwrap();
        assert_eq!(entry.members, [b"alice".to_vec(), b"bob".to_vec()]);
        assert_eq!(GroupEntry::parse(b"sudo:x:27").map(|entry| entry.members.len()), Some(0));
        assert_eq!(GroupEntry::parse(b"sudo:x:many:"), None);
    }
}

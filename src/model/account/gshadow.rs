//! `/etc/gshadow`, gshadow(5).

use crate::model::account::table::Entry;
use crate::model::account::table::fields;
use crate::model::account::table::names;

/// `group_name:password:administrators:members`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GshadowEntry {
    /// Name of the group.
    pub name: Vec<u8>,
    /// Password field. Never leaves this room.
    pub password: Vec<u8>,
    /// Who may change members and password.
    pub administrators: Vec<Vec<u8>>,
    /// Members.
    pub members: Vec<Vec<u8>>,
}

impl Entry for GshadowEntry {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = fields(line, 4);
        let name = fields.next()?.to_vec();
        let password = fields.next()?.to_vec();
        let administrators = names(fields.next().unwrap_or_default());
        let members = names(fields.next().unwrap_or_default());
        Some(Self { name, password, administrators, members })
    }

    fn name(&self) -> &[u8] {
        &self.name
    }
}

//! `/etc/passwd`, passwd(5).

use crate::model::account::table::Entry;
use crate::model::account::table::fields;
use crate::model::account::table::is_compat;
use crate::model::account::table::number;

/// `name:password:UID:GID:GECOS:directory:shell`. As glibc does, everything behind the gid may be missing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PasswdEntry {
    /// Login name.
    pub name: Vec<u8>,
    /// Password field: `x` when the password is in the shadow file.
    pub password: Vec<u8>,
    /// Uid; `None` only in NIS compatibility entries.
    pub uid: Option<u32>,
    /// Gid; `None` only in NIS compatibility entries.
    pub gid: Option<u32>,
    /// Comment.
    pub gecos: Vec<u8>,
    /// Home directory.
    pub home: Vec<u8>,
    /// Shell; takes the rest of the line, further colons and a carriage return included.
    pub shell: Vec<u8>,
}

impl Entry for PasswdEntry {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = fields(line, 7);
        let name = fields.next()?.to_vec();
        let compat = is_compat(&name);
        let mut next = || fields.next().map(<[u8]>::to_vec);
        let password = next();
        let uid = next().as_deref().and_then(number);
        let gid = next().as_deref().and_then(number);
        if !compat && (password.is_none() || uid.is_none() || gid.is_none()) {
            return None;
        }
        Some(Self {
            name,
            password: password.unwrap_or_default(),
            uid,
            gid,
            gecos: next().unwrap_or_default(),
            home: next().unwrap_or_default(),
            shell: next().unwrap_or_default(),
        })
    }

    fn name(&self) -> &[u8] {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::account::table::Table;

    #[test]
    fn lines_that_the_c_library_accepts_are_entries() {
        for (line, uid) in [
            (&b"root:x:0:0:root:/root:/bin/bash"[..], Some(0)),
            (b"evil::0:0", Some(0)),
            (b"  evil::0:0:::", Some(0)),
            (b"evil:x:0:0:::/bin/sh:more", Some(0)),
            (b"evil:x:0:0:::/bin/sh\0:ignored", Some(0)),
            (b"\xff\xfe:x:1:1:::", Some(1)),
            (b"::0:0:::", Some(0)),
            (b"+::::::", None),
            (b"+@admins", None),
            (b"-bad", None),
        ] {
            let table = Table::<PasswdEntry>::parse(line);
            let entry = table.entries().next().unwrap_or_else(|| panic!("{line:?} is an entry"));
            assert_eq!(entry.uid, uid, "{line:?}");
        }
    }

    #[test]
    fn other_lines_are_kept_but_are_no_entries() {
        for (line, malformed) in [
            (&b""[..], false),
            (b"\n", false),
            (b"   \n", false),
            (b"# comment\n", false),
            (b"root\n", true),
            (b"root:x\n", true),
            (b"root:x:zero:0:::\n", true),
            (b"root:x:0::::\n", true),
            (b"roo\0t:x:0:0:::\n", true),
        ] {
            let table = Table::<PasswdEntry>::parse(line);
            assert_eq!(table.entries().count(), 0, "{line:?}");
            assert_eq!(table.malformed().count() == 1, malformed, "{line:?}");
            assert_eq!(table.print(), line);
        }
    }
}

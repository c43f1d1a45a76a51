//! Who may read and write a database: mode, owner, access list, and under how many names it can be reached.

use serde::Deserialize;
use serde::Serialize;

use crate::model::event::AccountState;
use crate::model::event::Change;

/// Header of the value of `system.posix_acl_access`: version 2, little-endian (`linux/posix_acl_xattr.h`).
const ACL_VERSION: [u8; 4] = [2, 0, 0, 0];
/// Bytes of one entry: tag, permissions, id.
const ACL_ENTRY_BYTES: usize = 8;
/// Most entries that are shown.
const MAX_ACL_ENTRIES: usize = 64;
/// Write permission of all others.
const OTHERS_WRITE: u32 = 0o002;
/// Read permission of all others.
const OTHERS_READ: u32 = 0o004;

/// Permissions of one database at one moment. Ids are those of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions {
    /// Permission bits, the lower twelve of `st_mode` (inode(7)).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of hard links.
    pub links: u64,
    /// Value of `system.posix_acl_access` (acl(5)), when there is one.
    pub acl: Option<Vec<u8>>,
}

impl Permissions {
    fn state(&self) -> AccountState {
        AccountState {
            mode: Some(format!("{:04o}", self.mode)),
            owner: Some(format!("{}:{}", self.uid, self.gid)),
            acl: self.acl.as_deref().map(acl_text),
            links: Some(self.links),
            ..AccountState::default()
        }
    }

    /// The change from `self` to `after`, named for `path`. Fewer hard links are none: an overlay drops the others when
    /// it copies a file up.
    pub(super) fn change(&self, after: &Self, path: &str) -> Option<Change> {
        let alias = after.links > self.links;
        let same = (self.mode, self.uid, self.gid, &self.acl) == (after.mode, after.uid, after.gid, &after.acl);
        if same && !alias {
            return None;
        }
        let gained = |bit: u32| self.mode & bit == 0 && after.mode & bit != 0;
        let flags = [
            (alias, "alias"),
            (gained(OTHERS_WRITE), "world_writable"),
            (gained(OTHERS_READ) && path.ends_with("shadow"), "world_readable"),
            (self.acl != after.acl, "acl"),
        ];
        Some(Change {
            change: "permissions_changed".to_owned(),
            database: path.to_owned(),
            before: Some(self.state()),
            after: Some(after.state()),
            flags: flags.iter().filter(|(set, _)| *set).map(|(_, flag)| (*flag).to_owned()).collect(),
            ..Change::default()
        })
    }
}

/// `user::rw-,user:1000:rw-,group::r--` as getfacl(1) prints it; what is no access list is told as such.
fn acl_text(value: &[u8]) -> String {
    let Some(entries) = value.strip_prefix(&ACL_VERSION).filter(|rest| rest.len() % ACL_ENTRY_BYTES == 0) else {
        return format!("{} bytes", value.len());
    };
    let shown = entries.chunks_exact(ACL_ENTRY_BYTES).take(MAX_ACL_ENTRIES).filter_map(acl_entry);
    shown.collect::<Vec<_>>().join(",")
}

fn acl_entry(entry: &[u8]) -> Option<String> {
    let (tag, rest) = entry.split_first_chunk::<2>()?;
    let (permissions, id) = rest.split_first_chunk::<2>()?;
    let id = u32::from_le_bytes(*id.first_chunk::<4>()?);
    let who = match u16::from_le_bytes(*tag) {
        0x01 => "user:".to_owned(),
        0x02 => format!("user:{id}"),
        0x04 => "group:".to_owned(),
        0x08 => format!("group:{id}"),
        0x10 => "mask:".to_owned(),
        0x20 => "other:".to_owned(),
        other => format!("{other:#x}"),
    };
    let permissions = u16::from_le_bytes(*permissions);
    let letter = |bit: u16, letter: char| if permissions & bit != 0 { letter } else { '-' };
    Some(format!("{who}:{}{}{}", letter(4, 'r'), letter(2, 'w'), letter(1, 'x')))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Permissions = Permissions { mode: 0o640, uid: 0, gid: 42, links: 1, acl: None };

    fn flags(path: &str, after: Permissions) -> Option<String> {
        BASE.change(&after, path).map(|change| change.flags.join(" "))
    }

    #[test]
    fn what_lets_others_in_is_called_out() {
        assert_eq!(flags("/etc/shadow", BASE), None);
        assert_eq!(flags("/etc/shadow", Permissions { links: 0, ..BASE }), None);
        for (after, expected) in [
            (Permissions { mode: 0o600, ..BASE }, ""),
            (Permissions { gid: 0, ..BASE }, ""),
            (Permissions { links: 2, ..BASE }, "alias"),
            (Permissions { mode: 0o646, ..BASE }, "world_writable world_readable"),
            (Permissions { acl: Some(Vec::new()), ..BASE }, "acl"),
        ] {
            assert_eq!(flags("/etc/shadow", after).as_deref(), Some(expected));
        }
        assert_eq!(flags("/etc/group", Permissions { mode: 0o644, ..BASE }).as_deref(), Some(""));
    }

    #[test]
    fn access_lists_are_shown_as_getfacl_does() {
        let mut acl = ACL_VERSION.to_vec();
        for (tag, permissions, id) in
            [(1_u16, 6_u16, u32::MAX), (2, 6, 1000), (4, 4, u32::MAX), (0x10, 7, 0), (0x99, 1, 0)]
        {
            acl.extend(tag.to_le_bytes());
            acl.extend(permissions.to_le_bytes());
            acl.extend(id.to_le_bytes());
        }
        assert_eq!(acl_text(&acl), "user::rw-,user:1000:rw-,group::r--,mask::rwx,0x99:--x");
        assert_eq!(acl_text(&acl[..7]), "7 bytes");
        assert_eq!(acl_text(b""), "0 bytes");
    }
}

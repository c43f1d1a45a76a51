//! `/etc/shadow`, shadow(5), and what a password field means.

use crate::model::account::table::Entry;
use crate::model::account::table::fields;

/// `name:password:last change:min:max:warn:inactive:expire:reserved`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ShadowEntry {
    /// Login name.
    pub name: Vec<u8>,
    /// Password field. Never leaves this room.
    pub password: Vec<u8>,
    /// Date of the last change, as written.
    pub last_change: Vec<u8>,
    /// Everything behind it: ageing and expiry, as written.
    pub ageing: Vec<u8>,
}

impl Entry for ShadowEntry {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = fields(line, 4);
        let name = fields.next()?.to_vec();
        let password = fields.next()?.to_vec();
        Some(Self {
            name,
            password,
            last_change: fields.next().unwrap_or_default().to_vec(),
            ageing: fields.next().unwrap_or_default().to_vec(),
        })
    }

    fn name(&self) -> &[u8] {
        &self.name
    }
}

/// What is known of a password, without the password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Password {
    /// There is a hash.
    Set,
    /// No password can match (`*`, `!`, `!hash`).
    Locked,
    /// There is none at all: `x` in passwd and no line in shadow.
    Missing,
    /// The field is empty: no password is asked for.
    Empty,
}

impl Password {
    /// The word that events use for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Set => crate::model::redact::REDACTED,
            Self::Locked => "locked",
            Self::Missing => "none",
            Self::Empty => "empty",
        }
    }

    /// What a password field of shadow, group or gshadow says; `x`, which is no hash, locks it.
    #[must_use]
    pub fn of_field(field: &[u8]) -> Self {
        match field {
            b"" => Self::Empty,
            b"x" => Self::Locked,
            [b'!' | b'*', ..] => Self::Locked,
            _ => Self::Set,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_field_is_read_without_its_hash() {
        for (field, expected) in [
            (&b""[..], "empty"),
            (b"*", "locked"),
            (b"!", "locked"),
            (b"!!", "locked"),
            (b"!$6$salt$hash", "locked"),
            (b"*LK*", "locked"),
            (b"x", "locked"),
            (b"$6$salt$hash", "[redacted]"),
            (b"abJnggxhB/yWI", "[redacted]"),
        ] {
            assert_eq!(Password::of_field(field).as_str(), expected, "{field:?}");
        }
    }

    #[test]
    fn short_lines_are_entries() {
        assert_eq!(ShadowEntry::parse(b"root:").map(|entry| entry.password), Some(Vec::new()));
        assert_eq!(ShadowEntry::parse(b"root"), None);
    }
}

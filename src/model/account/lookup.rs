//! `/etc/nsswitch.conf`, nsswitch.conf(5): where accounts are looked up, and in which order.
//!
//! It holds no account, but one more source on its line `passwd` lets any number of accounts in, those of uid 0 among them.
//! Lines for anything else than accounts (`hosts`, `services` …) are kept and not compared.

use crate::model::account::table::Entry;
use crate::model::account::table::Table;

/// The lines that say where accounts are looked up: those of nsswitch.conf(5) with their pseudo-databases of compatibility
/// mode, `gshadow` (glibc nss/databases.def), and `subid` (subuid(5)).
const OF_ACCOUNTS: [&str; 9] =
    ["passwd", "passwd_compat", "group", "group_compat", "shadow", "shadow_compat", "gshadow", "initgroups", "subid"];

/// `database: service [STATUS=action] …`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LookupEntry {
    /// Which kind of names.
    pub database: Vec<u8>,
    /// The services in their order, and the actions between them, as written.
    pub sources: Vec<Vec<u8>>,
}

impl Entry for LookupEntry {
    /// As glibc's `nss_database_reload_1` and `process_line` do (nss/nss_database.c): `#` ends the line wherever it is, and
    /// the name ends at white space or a colon.
    fn parse(line: &[u8]) -> Option<Self> {
        let line = line.split(|byte| *byte == b'#').next().unwrap_or_default();
        let length = line.iter().position(|byte| *byte == b':' || is_space(*byte)).filter(|length| *length > 0)?;
        let (database, rest) = line.split_at_checked(length)?;
        let rest = rest.get(1..).unwrap_or_default();
        let sources = rest.split(|byte| is_space(*byte)).filter(|source| !source.is_empty());
        Some(Self { database: database.to_vec(), sources: sources.map(<[u8]>::to_vec).collect() })
    }

    fn name(&self) -> &[u8] {
        &self.database
    }
}

/// isspace(3) in the C locale.
const fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

/// The sources of every kind of account names that has a line. Of several lines for one, glibc takes the last.
pub(in crate::model::account) fn of_accounts(
    table: Option<&Table<LookupEntry>>,
) -> impl Iterator<Item = (&'static str, Option<&[Vec<u8>]>)> {
    OF_ACCOUNTS.into_iter().map(move |database| {
        let lines = table.into_iter().flat_map(Table::entries).filter(|entry| entry.database == database.as_bytes());
        (database, lines.last().map(|entry| entry.sources.as_slice()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(text: &str) -> Vec<String> {
        let table = Table::parse(text.as_bytes());
        of_accounts(Some(&table))
            .filter_map(|(database, sources)| Some((database, sources?)))
            .map(|(database, sources)| {
                let sources: Vec<_> = sources.iter().map(|source| String::from_utf8_lossy(source)).collect();
                format!("{database}={}", sources.join(" "))
            })
            .collect()
    }

    #[test]
    fn lines_are_read_as_the_c_library_reads_them() {
        for (text, expected) in [
            ("passwd: files systemd\n", "passwd=files systemd"),
            ("passwd:\tcompat\n", "passwd=compat"),
            ("passwd:files", "passwd=files"),
            ("  passwd:   files   # systemd\n", "passwd=files"),
            ("passwd: nis [NOTFOUND=return] files\n", "passwd=nis [NOTFOUND=return] files"),
            ("passwd files\n", "passwd=files"),
            ("passwd : files\n", "passwd=: files"),
            ("passwd:\n", "passwd="),
            ("passwd: files\npasswd: hesiod\n", "passwd=hesiod"),
            ("passwd: files\0 hesiod\n", "passwd=files"),
            ("passwd: files\r\n", "passwd=files"),
            ("passwd: files \\\n ldap\n", "passwd=files \\"),
            ("gshadow: files\nsubid: sss\ninitgroups: db\n", "gshadow=files subid=sss initgroups=db"),
        ] {
            let mut expected: Vec<String> = vec![expected.to_owned()];
            if text.starts_with("gshadow") {
                expected = ["gshadow=files", "initgroups=db", "subid=sss"].map(str::to_owned).to_vec();
            }
            assert_eq!(sources(text), expected, "{text:?}");
        }
        for nothing in ["", "\n", "# passwd: files\n", "passwd\n", ": files\n", "hosts: files dns\n", "Passwd: files\n"]
        {
            assert!(sources(nothing).is_empty(), "{nothing:?}");
        }
    }
}

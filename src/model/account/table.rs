//! A line-based account file: lines kept as they are, beside what was understood of them.

/// One entry of an account file.
pub trait Entry: Sized + Clone + PartialEq + Eq + std::hash::Hash {
    /// Understands one line without its newline, or not.
    fn parse(line: &[u8]) -> Option<Self>;

    /// Name of the account or group; two entries of one name are duplicates.
    fn name(&self) -> &[u8];
}

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<E> {
    /// The line's bytes, its newline included where it has one.
    pub bytes: Vec<u8>,
    /// What it says; `None` for comments, blank lines and lines that are malformed.
    pub entry: Option<E>,
}

/// All lines of an account file, in order. Printing it gives the very bytes it was parsed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table<E> {
    lines: Vec<Line<E>>,
}

impl<E: Entry> Table<E> {
    /// Parses `bytes`. Never fails: a line that is no entry is kept as it is.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let lines = bytes
            .split_inclusive(|byte| *byte == b'\n')
            .map(|line| Line { bytes: line.to_vec(), entry: entry_of(line) })
            .collect();
        Self { lines }
    }

    /// The bytes of the file.
    #[must_use]
    pub fn print(&self) -> Vec<u8> {
        self.lines.iter().flat_map(|line| line.bytes.iter().copied()).collect()
    }

    /// All lines.
    #[must_use]
    pub fn lines(&self) -> &[Line<E>] {
        &self.lines
    }

    /// All entries in file order, duplicates included.
    pub fn entries(&self) -> impl Iterator<Item = &E> {
        self.lines.iter().filter_map(|line| line.entry.as_ref())
    }

    /// The entry that a look-up by `name` finds: the first one.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<&E> {
        self.entries().find(|entry| entry.name() == name)
    }

    /// Lines that are neither entries nor comments nor blank.
    pub fn malformed(&self) -> impl Iterator<Item = &[u8]> {
        self.lines.iter().filter(|line| line.entry.is_none()).map(|line| line.bytes.as_slice()).filter(|bytes| {
            let body = significant(bytes);
            !body.is_empty() && body.first() != Some(&b'#')
        })
    }
}

/// What the C library looks at: from the first character that is not white space up to the newline or the first NUL
/// (glibc nss/nss_files/files-XXX.c `internal_getent`, which reads with fgets and works on C strings).
fn significant(line: &[u8]) -> &[u8] {
    let body = line.strip_suffix(b"\n").unwrap_or(line);
    let body = body.split(|byte| *byte == 0).next().unwrap_or_default();
    let blank = body.iter().take_while(|byte| byte.is_ascii_whitespace() || **byte == 0x0b).count();
    body.get(blank..).unwrap_or_default()
}

fn entry_of<E: Entry>(line: &[u8]) -> Option<E> {
    let body = significant(line);
    match body.first() {
        None | Some(b'#') => None,
        Some(_) => E::parse(body),
    }
}

/// The fields of a line: at most `limit`, the last one takes the rest.
pub(in crate::model::account) fn fields(line: &[u8], limit: usize) -> impl Iterator<Item = &[u8]> {
    line.splitn(limit, |byte| *byte == b':')
}

/// A number as glibc's `INT_FIELD` reads it (nss/nss_files/files-parse.c): strtoul(3) in base 10, white space and a sign
/// before it allowed, clipped to 32 bits, nothing behind it.
pub(in crate::model::account) fn number(field: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(field).ok()?;
    let text = text.trim_start_matches([' ', '\t', '\r', '\x0b', '\x0c']);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let magnitude = digits.parse::<u64>();
    let value = match (magnitude, negative) {
        (Ok(magnitude), true) => magnitude.wrapping_neg(),
        (Ok(magnitude), false) => magnitude,
        (Err(_), _) => u64::MAX,
    };
    Some(u32::try_from(value).unwrap_or(u32::MAX))
}

/// A comma-separated list of names; empty names are skipped, white space before a name too
/// (glibc nss/nss_files/files-parse.c `parse_list`).
pub(in crate::model::account) fn names(field: &[u8]) -> Vec<Vec<u8>> {
    field
        .split(|byte| *byte == b',')
        .map(|name| name.trim_ascii_start())
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect()
}

/// Whether `name` is a NIS compatibility entry (`+`, `-`, `+user`, `+@netgroup`: nsswitch.conf(5), "compat").
pub(in crate::model::account) fn is_compat(name: &[u8]) -> bool {
    matches!(name.first(), Some(b'+' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_the_c_library_reads_them() {
        for (field, expected) in [
            (&b"0"[..], Some(0)),
            (b"1000", Some(1000)),
            (b"007", Some(7)),
            (b" 0", Some(0)),
            (b"+0", Some(0)),
            (b"-0", Some(0)),
            (b"-1", Some(u32::MAX)),
            (b"4294967295", Some(u32::MAX)),
            (b"4294967296", Some(u32::MAX)),
            (b"-18446744073709551615", Some(1)),
            (b"99999999999999999999999", Some(u32::MAX)),
            (b"", None),
            (b"0x0", None),
            (b"0 ", None),
            (b"\xff", None),
        ] {
            assert_eq!(number(field), expected, "{field:?}");
        }
    }
}

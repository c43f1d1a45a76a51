//! The text of audit records. Total: whatever does not look like the kernel's own words is no record.
//!
//! The form is that of `audit_log_format` and `audit_log_untrustedstring` (kernel/audit.c): `audit(SECONDS.MILLISECONDS:SERIAL): ` and
//! fields `name=value`. A value of the container's making stands in double quotes when it has no control character, space or
//! quote in it, else it is a bare string of hexadecimal digits; so no value can look like another field.

/// `AUDIT_SYSCALL`.
const SYSCALL: u16 = 1300;
/// `AUDIT_EOE`: the last record of an event.
const END_OF_EVENT: u16 = 1320;
/// `AUDIT_PROCTITLE`.
const PROCESS_TITLE: u16 = 1327;
/// `AUDIT_LANDLOCK_ACCESS`, Linux 6.15.
const LANDLOCK_ACCESS: u16 = 1423;
/// `AUDIT_LANDLOCK_DOMAIN`, Linux 6.15.
const LANDLOCK_DOMAIN: u16 = 1424;

/// Most fields looked at; the kernel writes thirty at most.
const MAX_FIELDS: usize = 64;
/// Most blockers kept; there are sixteen rights.
pub const MAX_BLOCKERS: usize = 32;
/// Longest decoded value: a path.
pub const MAX_VALUE_BYTES: usize = 4096;
/// What the kernel shows for a login uid that was never set.
const UNSET: u32 = u32::MAX;

/// Which event a record is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventId {
    seconds: u64,
    milliseconds: u32,
    serial: u64,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Of which event.
    pub event: EventId,
    /// What it tells.
    pub body: Body,
}

/// What it tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A domain refused something.
    Access(Access),
    /// A domain refused something for the first time: who made it.
    DomainMade {
        /// Its number.
        domain: u64,
        /// Who made it.
        pid: u32,
        /// Whose program.
        exe: Option<Vec<u8>>,
    },
    /// A domain is no more.
    DomainGone {
        /// Its number.
        domain: u64,
    },
    /// The system call of the event.
    Syscall(Syscall),
    /// Arguments of the process of the event, cut to 128 bytes.
    ProcessTitle(Vec<u8>),
    /// Nothing more of this event comes.
    End,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Number of the domain.
    pub domain: u64,
    /// The rights that were missing: `fs.write_file` …
    pub blockers: Vec<String>,
    /// The object, where it has a path.
    pub path: Option<Vec<u8>>,
    /// Its inode number.
    pub inode: Option<u64>,
}

/// A system call, and whose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Syscall {
    /// `AUDIT_ARCH_…`.
    pub architecture: u32,
    /// Its number there.
    pub number: i32,
    /// What it returned.
    pub exit: i32,
    /// Thread group id in the initial pid namespace.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Effective uid in the initial user namespace.
    pub effective_uid: u32,
    /// Effective gid there.
    pub effective_gid: u32,
    /// Login uid; `None` when unset.
    pub login_uid: Option<u32>,
    /// Program.
    pub exe: Option<Vec<u8>>,
}

/// Four bytes of a message as the machine's number.
#[must_use]
pub fn number_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
}

/// Understands the record of type `kind`; `None` for types that tell nothing of Landlock's refusals, and for what no kernel writes.
#[must_use]
pub fn parse(kind: u16, text: &[u8]) -> Option<Record> {
    if !matches!(kind, SYSCALL | END_OF_EVENT | PROCESS_TITLE | LANDLOCK_ACCESS | LANDLOCK_DOMAIN) {
        return None;
    }
    let text = text.split(|byte| *byte == 0).next()?;
    let text = text.strip_prefix(b"audit(")?;
    let close = text.iter().position(|byte| *byte == b')')?;
    let event = stamp(text.get(..close)?)?;
    let fields = fields(text.get(close.checked_add(1)?..)?.strip_prefix(b":")?);
    let body = match kind {
        SYSCALL => Body::Syscall(syscall(&fields)?),
        PROCESS_TITLE => Body::ProcessTitle(fields.text("proctitle")?),
        LANDLOCK_ACCESS => Body::Access(access(&fields)?),
        LANDLOCK_DOMAIN => domain(&fields)?,
        _ => Body::End,
    };
    Some(Record { event, body })
}

/// `SECONDS.MILLISECONDS:SERIAL`.
fn stamp(text: &[u8]) -> Option<EventId> {
    let text = std::str::from_utf8(text).ok()?;
    let (time, serial) = text.split_once(':')?;
    let (seconds, milliseconds) = time.split_once('.')?;
    Some(EventId {
        seconds: seconds.parse().ok()?,
        milliseconds: milliseconds.parse().ok()?,
        serial: serial.parse().ok()?,
    })
}

/// A value, and whether it stood in quotes.
struct Value<'a> {
    name: &'a [u8],
    text: &'a [u8],
    quoted: bool,
}

struct Fields<'a>(Vec<Value<'a>>);

fn fields(mut text: &[u8]) -> Fields<'_> {
    let mut found = Vec::new();
    while found.len() < MAX_FIELDS {
        let start = text.iter().position(|byte| *byte != b' ').unwrap_or(text.len());
        text = text.get(start..).unwrap_or_default();
        let Some(equals) = text.iter().position(|byte| *byte == b'=') else { break };
        let (name, after) = text.split_at(equals);
        let after = after.get(1..).unwrap_or_default();
        let (value, quoted) = match after.strip_prefix(b"\"") {
            Some(inside) => (inside.split(|byte| *byte == b'"').next().unwrap_or_default(), true),
            None => (after.split(|byte| *byte == b' ').next().unwrap_or_default(), false),
        };
        let skipped = value.len().saturating_add(if quoted { 2 } else { 0 });
        text = after.get(skipped..).unwrap_or_default();
        found.push(Value { name, text: value, quoted });
    }
    Fields(found)
}

impl Fields<'_> {
    /// The first field of that name: the kernel's own come before anything else.
    fn get(&self, name: &str) -> Option<&Value<'_>> {
        self.0.iter().find(|value| value.name == name.as_bytes())
    }

    fn word(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.get(name)?.text).ok()
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.word(name)?.parse().ok()
    }

    fn hexadecimal(&self, name: &str) -> Option<u64> {
        u64::from_str_radix(self.word(name)?, 16).ok()
    }

    /// A value of somebody else's making, `audit_log_untrustedstring`. `None` for the kernel's `(null)`, `(none)`, `?`.
    fn text(&self, name: &str) -> Option<Vec<u8>> {
        let value = self.get(name)?;
        let bytes = if value.quoted { value.text.to_vec() } else { from_hexadecimal(value.text)? };
        (bytes.len() <= MAX_VALUE_BYTES).then_some(bytes)
    }
}

fn from_hexadecimal(digits: &[u8]) -> Option<Vec<u8>> {
    if digits.is_empty() || digits.len() > MAX_VALUE_BYTES.saturating_mul(2) {
        return None;
    }
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    pairs.iter().map(|[high, low]| digit(*high)?.checked_mul(16)?.checked_add(digit(*low)?)).collect()
}

fn access(fields: &Fields<'_>) -> Option<Access> {
    let blockers = fields.word("blockers")?.split(',').take(MAX_BLOCKERS);
    let is_right = |word: &&str| {
        word.len() <= 64 && word.bytes().all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'.' | b'_'))
    };
    Some(Access {
        domain: fields.hexadecimal("domain")?,
        blockers: blockers.filter(is_right).map(str::to_owned).collect(),
        path: fields.text("path"),
        inode: fields.number("ino"),
    })
}

fn domain(fields: &Fields<'_>) -> Option<Body> {
    let domain = fields.hexadecimal("domain")?;
    match fields.word("status")? {
        "allocated" => Some(Body::DomainMade { domain, pid: fields.number("pid")?, exe: fields.text("exe") }),
        "deallocated" => Some(Body::DomainGone { domain }),
        _ => None,
    }
}

fn syscall(fields: &Fields<'_>) -> Option<Syscall> {
    Some(Syscall {
        architecture: u32::try_from(fields.hexadecimal("arch")?).ok()?,
        number: fields.number("syscall")?,
        exit: fields.number("exit").unwrap_or(0),
        pid: fields.number("pid")?,
        parent: fields.number("ppid")?,
        effective_uid: fields.number("euid")?,
        effective_gid: fields.number("egid")?,
        login_uid: fields.number("auid").filter(|uid| *uid != UNSET),
        exe: fields.text("exe"),
    })
}

#[cfg(test)]
mod tests;

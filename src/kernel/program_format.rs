//! What kind of program a file is, by its first bytes, as execve(2) looks at it: elf(5) and `#!`.

/// How much of a file's beginning is looked at. Linkers put the program headers and the interpreter's path into the first page.
pub const HEAD_BYTES: usize = 16 * 1024;
/// What the kernel reads of a `#!` line (execve(2), "Interpreter scripts"; Linux 5.1).
const SCRIPT_LINE_BYTES: usize = 255;
/// `PT_INTERP`, elf(5).
const INTERPRETER_SEGMENT: u64 = 3;

/// A kind of program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgramFormat {
    /// ELF without an interpreter: it needs nothing of the root file system it runs in.
    Static,
    /// ELF with a dynamic linker at this path.
    Dynamic(Vec<u8>),
    /// A script for the interpreter at this path.
    Script(Vec<u8>),
    /// Neither; execve(2) gives ENOEXEC unless binfmt_misc knows better.
    Unknown,
}

impl ProgramFormat {
    /// The format of a file that begins with `head`.
    #[must_use]
    pub fn of(head: &[u8]) -> Self {
        if let Some(line) = head.strip_prefix(b"#!") {
            return script(line);
        }
        elf(head).unwrap_or(Self::Unknown)
    }
}

fn script(line: &[u8]) -> ProgramFormat {
    let line = line.get(..line.len().min(SCRIPT_LINE_BYTES)).unwrap_or_default();
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    words.next().map_or(ProgramFormat::Unknown, |word| ProgramFormat::Script(word.to_vec()))
}

/// Offsets of what is needed, which differ between the classes.
struct Layout {
    word: usize,
    headers_at: usize,
    header_size_at: usize,
    segment_offset_at: usize,
    segment_size_at: usize,
}

const LAYOUT_32: Layout =
    Layout { word: 4, headers_at: 28, header_size_at: 42, segment_offset_at: 4, segment_size_at: 16 };
const LAYOUT_64: Layout =
    Layout { word: 8, headers_at: 32, header_size_at: 54, segment_offset_at: 8, segment_size_at: 32 };

/// A little-endian number of `size` bytes.
fn number(head: &[u8], at: usize, size: usize) -> Option<u64> {
    let bytes = head.get(at..at.checked_add(size)?)?;
    let mut word = [0; 8];
    word.get_mut(..size)?.copy_from_slice(bytes);
    Some(u64::from_le_bytes(word))
}

fn elf(head: &[u8]) -> Option<ProgramFormat> {
    let layout = match head.get(..6)? {
        [0x7f, b'E', b'L', b'F', 1, 1] => LAYOUT_32,
        [0x7f, b'E', b'L', b'F', 2, 1] => LAYOUT_64,
        _ => return None,
    };
    let start = usize::try_from(number(head, layout.headers_at, layout.word)?).ok()?;
    let size = usize::try_from(number(head, layout.header_size_at, 2)?).ok()?;
    let count = usize::try_from(number(head, layout.header_size_at.checked_add(2)?, 2)?).ok()?;
    for index in 0..count {
        let header = start.checked_add(index.checked_mul(size)?)?;
        if number(head, header, 4)? != INTERPRETER_SEGMENT {
            continue;
        }
        let at = number(head, header.checked_add(layout.segment_offset_at)?, layout.word)?;
        let length = number(head, header.checked_add(layout.segment_size_at)?, layout.word)?;
        let at = usize::try_from(at).ok()?;
        let path = head.get(at..at.checked_add(usize::try_from(length).ok()?)?)?;
        let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
        return Some(ProgramFormat::Dynamic(path.to_vec()));
    }
    // program headers that were not read could hold anything
    Some(ProgramFormat::Static)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_name_their_interpreter() {
        for (text, expected) in [
            (&b"#!/bin/sh\necho"[..], ProgramFormat::Script(b"/bin/sh".to_vec())),
            (b"#! \t/usr/bin/env python\n", ProgramFormat::Script(b"/usr/bin/env".to_vec())),
            (b"#!\n/bin/sh", ProgramFormat::Unknown),
            (b"echo", ProgramFormat::Unknown),
            (b"", ProgramFormat::Unknown),
            (b"\x7fELF", ProgramFormat::Unknown),
        ] {
            assert_eq!(ProgramFormat::of(text), expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn this_test_is_dynamic_and_a_cut_header_is_nothing() {
        let own = std::fs::read("/proc/self/exe").expect("own program");
        let ProgramFormat::Dynamic(path) = ProgramFormat::of(&own[..HEAD_BYTES]) else {
            panic!("the test program has a dynamic linker");
        };
        assert!(std::path::Path::new(&String::from_utf8(path).expect("a path")).exists());
        assert_eq!(ProgramFormat::of(&own[..70]), ProgramFormat::Unknown);
    }

    #[test]
    fn an_elf_file_without_an_interpreter_is_static() {
        let mut head = vec![0; 64 + 56];
        head[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        head[32] = 64;
        head[54] = 56;
        head[56] = 1;
        head[64] = 1;
        assert_eq!(ProgramFormat::of(&head), ProgramFormat::Static);
        head[64] = 3;
        assert_eq!(ProgramFormat::of(&head), ProgramFormat::Dynamic(Vec::new()));
    }
}

//! Paths as the kernel takes them: bytes.

use alloc::vec::Vec;

/// The parts of a path, without those that mean nothing.
pub fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."))
}

/// The path of `rest` below `folder`, or of `folder` itself.
#[must_use]
pub fn join(folder: &[u8], rest: &[u8]) -> Vec<u8> {
    let between: &[u8] = if rest.is_empty() || folder.ends_with(b"/") { b"" } else { b"/" };
    [folder, between, rest].concat()
}

/// What is left of `path` below `folder`, or of `folder` itself; for paths without double slashes and dots.
#[must_use]
pub fn below<'a>(path: &'a [u8], folder: &[u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(folder.strip_suffix(b"/").unwrap_or(folder))?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
}

/// The directory in which an absolute `path` lies, or the root.
#[must_use]
pub fn parent(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) | None => b"/",
        Some(at) => path.get(..at).unwrap_or(b"/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart_and_put_together() {
        assert!(names(b"//a/./b/../c/").eq([b"a".as_slice(), b"b", b"..", b"c"]));
        assert_eq!(join(b"/", b"a"), b"/a");
        assert_eq!(join(b"/a", b"b/c"), b"/a/b/c");
        assert_eq!(join(b"/a", b""), b"/a");
        assert_eq!(below(b"/a/b", b"/"), Some(b"a/b".as_slice()));
        assert_eq!(below(b"/a/b", b"/a/b"), Some(b"".as_slice()));
        assert_eq!(below(b"/ab", b"/a"), None);
        assert_eq!(
            (parent(b"/a/b"), parent(b"/a"), parent(b"/")),
            (b"/a".as_slice(), b"/".as_slice(), b"/".as_slice())
        );
    }
}

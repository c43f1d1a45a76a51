//! Layers of overlays in the options of mount(2) and the settings of fsconfig(2), as text.
//!
//! What is written to an overlay is written to its *upper* layer: an overlay whose upper layer holds a database is a second way
//! to it, by a file with other numbers. The other layers are read only: a file is copied up before it is written
//! (Documentation/filesystems/overlayfs.rst, "Non-directories"). Source of what follows: Linux `fs/overlayfs/params.c`.

/// The file system that has layers.
pub const OVERLAY: &[u8] = b"overlay";
/// Names the layer that is written to.
pub const UPPER: &[u8] = b"upperdir";

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting<'a> {
    /// Its name.
    pub key: &'a [u8],
    /// What follows the first `=`, with its backslashes.
    pub value: Option<&'a [u8]>,
}

impl Setting<'_> {
    /// The path of an upper layer, as it is looked up.
    #[must_use]
    pub fn upper(&self) -> Option<Vec<u8>> {
        self.value.filter(|_| self.key == UPPER).map(unescaped)
    }
}

/// The options of a new overlay: `ovl_next_opt` "allows escaping of commas", by a backslash.
#[must_use]
pub fn settings(options: &[u8]) -> Vec<Setting<'_>> {
    split(options, b',').into_iter().map(setting).collect()
}

fn setting(option: &[u8]) -> Setting<'_> {
    match option.iter().position(|byte| *byte == b'=') {
        Some(end) => Setting { key: option.get(..end).unwrap_or_default(), value: option.get(end.saturating_add(1)..) },
        None => Setting { key: option, value: None },
    }
}

/// The pieces of `text` between separators that no backslash precedes.
#[must_use]
pub fn split(text: &[u8], separator: u8) -> Vec<&[u8]> {
    let mut escaped = false;
    let ends = move |byte: &u8| {
        let is_end = *byte == separator && !escaped;
        escaped = *byte == b'\\' && !escaped;
        is_end
    };
    text.split(ends).collect()
}

/// `ovl_unescape`: a backslash stands for what follows it.
#[must_use]
pub fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = text.iter();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if *byte == b'\\' {
            plain.extend(bytes.next());
        } else {
            plain.push(*byte);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uppers(options: &str) -> Vec<String> {
        let uppers = settings(options.as_bytes()).iter().filter_map(Setting::upper).collect::<Vec<_>>();
        uppers.into_iter().map(|path| String::from_utf8(path).expect("text")).collect()
    }

    #[test]
    fn options_are_told_apart_as_overlayfs_does() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("upperdir=/a", &["/a"]),
            ("lowerdir=/l,upperdir=/a,workdir=/w", &["/a"]),
            ("upperdir=/a,upperdir=/b", &["/a", "/b"]),
            ("upperdir=/a=b", &["/a=b"]),
            (r"lowerdir=/l\,upperdir=/a", &[]),
            (r"lowerdir=/l\\,upperdir=/a", &["/a"]),
            (r"upperdir=/a\,b\\c\:d,ro", &[r"/a,b\c:d"]),
            (r"upperdir=/a\", &["/a"]),
            ("upperdir", &[]),
            (",,upperdir=,", &[""]),
            ("xupperdir=/a,upperdirx=/b, upperdir=/c", &[]),
        ];
        for (options, expected) in cases {
            assert_eq!(uppers(options), *expected, "{options}");
        }
    }
}

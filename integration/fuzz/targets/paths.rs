//! Bytes that a container calls a path: what is shown is safe, what is looked up stays below the root.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::OnceLock;

use acctguard::kernel::foreign_root;
use acctguard::model::database_path::DatabasePath;
use acctguard::model::redact::{MAX_PRINTABLE_CHARACTERS, printable};
use acctguard::model::workload::ContainerId;

use super::assert_shown_safely;

/// A small root, with links that lead out of it wherever a root is not taken for one.
struct Root {
    directory: std::fs::File,
    inodes: BTreeSet<(u64, u64)>,
    _folder: tempfile::TempDir,
}

fn root() -> &'static Root {
    static ROOT: OnceLock<Root> = OnceLock::new();
    ROOT.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let base = folder.path();
        std::fs::create_dir_all(base.join("etc/a")).expect("folders");
        std::fs::write(base.join("etc/passwd"), b"root:x:0:0::/root:/bin/sh\n").expect("a file");
        std::fs::hard_link(base.join("etc/passwd"), base.join("etc/p")).expect("a name");
        for (target, link) in [
            ("/", "r"),
            ("..", "u"),
            ("../../../..", "etc/a/up"),
            ("/etc/passwd", "etc/l"),
            ("loop", "loop"),
            ("/proc/self/root", "out"),
        ] {
            symlink(target, base.join(link)).expect("a link");
        }
        let mut inodes = BTreeSet::new();
        for path in ["", "etc", "etc/a", "etc/passwd", "r", "u", "etc/a/up", "etc/l", "loop", "out"] {
            let found = base.join(path).symlink_metadata().expect("it is there");
            inodes.insert((found.dev(), found.ino()));
        }
        Root { directory: std::fs::File::open(base).expect("the folder"), inodes, _folder: folder }
    })
}

/// The bytes, as they are.
pub fn check(data: &[u8]) {
    let text = printable(data);
    assert_shown_safely(&text);
    assert!(text.chars().count() <= 12 * MAX_PRINTABLE_CHARACTERS + 1);
    if let Ok(text) = std::str::from_utf8(data) {
        names(text);
    }
    let root = root();
    if let Ok(Some(found)) = foreign_root::identify_in_root(root.directory.as_fd(), data) {
        assert!(root.inodes.contains(&(found.device, found.inode)), "{data:?} leads out of the root");
    }
    if let Ok(Some(file)) = foreign_root::read_file_in_root(root.directory.as_fd(), data, 1000) {
        assert_eq!(file.bytes, b"root:x:0:0::/root:/bin/sh\n", "{data:?} is another file");
    }
}

/// What is taken for a path or an id is a clean one: it can be a file's name, or part of one.
fn names(text: &str) {
    if let Ok(path) = DatabasePath::new(text) {
        assert!(path.as_str().starts_with('/') && !path.as_str().contains("/../") && !path.as_str().contains('\0'));
    }
    match ContainerId::new(text) {
        Ok(id) => {
            assert_shown_safely(id.as_str());
            assert!(!id.as_str().contains('/') && id.as_str() != ".." && id.as_str().len() <= 1024);
        }
        Err(error) => assert_shown_safely(&error.to_string()),
    }
}

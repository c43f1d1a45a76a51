//! Whether a program about to run is an account tool, and what its arguments say it was about to do.

use crate::model::account;
use crate::model::event::Change;

/// Most arguments of a tool that are looked at.
pub const MAX_ARGUMENTS: usize = 64;

/// Programs that are many: the first argument may name the tool (`busybox.static` is one as well).
const MULTI_CALL: [&str; 2] = ["busybox", "toybox"];

fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

fn is_tool(path: &[u8]) -> bool {
    account::is_account_tool(base_name(path))
}

fn is_multi_call(path: &[u8]) -> bool {
    MULTI_CALL.iter().any(|program| base_name(path).starts_with(program.as_bytes()))
}

/// Whether a program known by `paths` (as asked, as resolved), run with arguments that begin with `argv`, is an account tool.
#[must_use]
pub fn is_account_tool(paths: &[&[u8]], argv: &[Vec<u8>]) -> bool {
    let name = argv.first().map_or(&b""[..], Vec::as_slice);
    let applet = argv.get(1).map_or(&b""[..], Vec::as_slice);
    let multi_call = is_multi_call(name) || paths.iter().any(|path| is_multi_call(path));
    is_tool(name) || paths.iter().any(|path| is_tool(path)) || (multi_call && is_tool(applet))
}

/// What the arguments of an account tool say it was about to do, an interpreter or multi-call program before them left out;
/// empty where they do not tell (`chpasswd`, `--help`).
#[must_use]
pub fn intended_changes(argv: &[String]) -> Vec<Change> {
    match argv {
        [program, applet, ..] if !is_tool(program.as_bytes()) && is_tool(applet.as_bytes()) => {
            account::from_arguments(argv.get(1..).unwrap_or_default())
        }
        [program, ..] if is_tool(program.as_bytes()) => account::from_arguments(argv),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_told_by_object_and_by_name() {
        let cases: &[(&str, &[&str], bool)] = &[
            ("/usr/sbin/useradd", &["useradd", "-m"], true),
            ("/usr/sbin/useradd", &["harmless"], true),
            ("/bin/busybox", &["adduser", "x"], true),
            ("/bin/busybox", &["busybox", "adduser"], true),
            ("/bin/busybox", &["/bin/busybox", "sh"], false),
            ("/bin/busybox.static", &["busybox", "passwd"], true),
            ("/bin/sh", &["sh", "useradd"], false),
            ("/tmp/x", &[], false),
        ];
        for (path, argv, expected) in cases {
            let argv: Vec<Vec<u8>> = argv.iter().map(|argument| argument.as_bytes().to_vec()).collect();
            assert_eq!(is_account_tool(&[path.as_bytes()], &argv), *expected, "{path} {argv:?}");
        }
    }

    #[test]
    fn interpreters_and_multi_call_programs_are_looked_through() {
        for argv in
            [&["useradd", "eve"][..], &["busybox", "adduser", "eve"], &["/usr/bin/perl", "/usr/sbin/adduser", "eve"]]
        {
            let argv: Vec<String> = argv.iter().map(|argument| (*argument).to_owned()).collect();
            let names: Vec<_> = intended_changes(&argv).into_iter().filter_map(|change| change.name).collect();
            assert_eq!(names, ["eve"], "{argv:?}");
        }
        assert_eq!(intended_changes(&["sh".to_owned(), "-c".to_owned()]), []);
    }
}

//! The runtime's command line: what is passed on is what came, and what is put in is found again.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use acctguard::oci::runtime_args::{Command, CommandLine};

/// Words are apart by NUL, as execve(2) has them.
pub fn check(data: &[u8]) {
    let argv: Vec<OsString> = data.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
    let Ok(line) = CommandLine::parse(&argv) else { return };
    assert!(argv.len() - line.forwarded.len() <= 2 && (line.acctguard_config.is_some() || line.forwarded == argv));
    assert_eq!(line.with(None, None), line.forwarded, "a line that nothing is put into changes");
    if line.acctguard_config.is_none() {
        assert_eq!(CommandLine::parse(&argv).as_ref(), Ok(&line));
    }
    if !matches!(line.command, Command::Create | Command::Run | Command::Exec) || line.options.help {
        return;
    }
    let counted = CommandLine::parse(&line.with(Some(3), None)).expect("no option of acctguard's is put in");
    assert_eq!(counted.options.preserve_fds.as_deref(), Some("3".as_ref()), "{:?}", counted.forwarded);
    assert_eq!((counted.command, &counted.id), (line.command, &line.id), "{:?}", counted.forwarded);
    if line.command == Command::Exec && line.process_can_be_replaced() {
        let file = Path::new("/run/process.json");
        let other = CommandLine::parse(&line.with(None, Some(file))).expect("as above");
        assert_eq!(other.options.process.as_deref(), Some(file), "{:?}", other.forwarded);
        // behind an option that nobody knows it is a guess, which the runtime's own reading need not share
        if !line.has_unknown_option {
            assert_eq!(other.id, line.id, "{:?}", other.forwarded);
        }
    }
}

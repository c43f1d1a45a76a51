//! The real launcher against the real kernel: in a private mount namespace with an `/etc` of its own, so that nothing of the
//! host is touched. Needs root and Linux 6.2; anything missing fails.

#[path = "harness/built.rs"]
mod built;
#[path = "../packaging/launcher_words.rs"]
mod launcher_words;

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::ffi::CString;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::process::Output;

use acctguard::model::database_path::DatabasePath;
use acctguard::oci::launcher_calls;
use acctguard::oci::launcher_edit;
use acctguard::oci::launcher_edit::Launcher;
use acctguard::oci::launcher_edit::Listening;
use acctguard_launch::command_line;
use acctguard_launch::command_line::CommandLine;
use acctguard_launch::command_line::Request;
use clap::CommandFactory as _;
use clap::Parser as _;
use libseccomp::ScmpSyscall;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::sys::wait::WaitPidFlag;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use proptest::prelude::*;
use serde_json::json;

use crate::built::launcher;
use crate::launcher_words::Words;

/// A directory with a small `/etc`, bound over the real one for the commands of one test.
struct Etc {
    folder: tempfile::TempDir,
}

impl Etc {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let etc = folder.path();
        std::fs::set_permissions(etc, std::fs::Permissions::from_mode(0o755)).expect("mode");
        for (name, text) in [
            ("passwd", "root:x:0:0::/root:/bin/sh\n"),
            ("shadow", "root:*:1::::::\n"),
            ("group", "root:x:0:\n"),
            ("gshadow", "root:*::\n"),
            ("hosts", "127.0.0.1 localhost\n"),
        ] {
            std::fs::write(etc.join(name), text).expect("file");
        }
        std::fs::create_dir(etc.join("app")).expect("directory");
        Self { folder }
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).expect("file")
    }

    /// Runs the launcher with `options`, then `-- PROGRAM…`, under our `/etc`.
    fn launch(&self, options: &[&str], program: &[&str]) -> Output {
        let script = "set -e; mount --bind \"$0\" /etc; exec \"$@\"";
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .arg(self.folder.path())
            .arg(launcher())
            .args(options)
            .arg("--")
            .args(program)
            .env("LC_ALL", "C")
            .output()
            .expect("unshare(1) runs")
    }

    /// The error number (0 for none) that a Perl expression which is true on success leaves, under the seal.
    fn errno_of(&self, expression: &str) -> i32 {
        let program = format!("{expression} ? print 0 : print $!+0");
        let output = self.launch(&[], &["perl", "-MFcntl", "-e", &program]);
        assert!(output.status.success(), "{expression}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).parse().expect("a number")
    }
}

#[test]
fn databases_cannot_be_changed_and_everything_else_can() {
    let etc = Etc::new();
    let before: Vec<String> = ["passwd", "shadow", "group", "gshadow"].iter().map(|name| etc.read(name)).collect();
    let eacces = nix::errno::Errno::EACCES as i32;
    let exdev = nix::errno::Errno::EXDEV as i32;
    for refused in [
        r#"open(F, ">>", "/etc/passwd")"#,
        r#"open(F, ">", "/etc/shadow")"#,
        r#"sysopen(F, "/etc/group", O_RDWR)"#,
        r#"sysopen(F, "/proc/self/root/etc/passwd", O_WRONLY)"#,
        r#"truncate("/etc/passwd", 0)"#,
        r#"rename("/etc/hosts", "/etc/passwd")"#,
        r#"unlink("/etc/gshadow")"#,
        r#"open(F, ">", "/etc/passwd+")"#,
        r#"open(F, ">", "/etc/new.conf")"#,
        r#"symlink("/tmp/x", "/etc/passwd.new")"#,
        // a directory may be made, and is as sealed as the one it is in
        r#"do { mkdir("/etc/later"); open(F, ">", "/etc/later/x") }"#,
        r#"rename("/etc/app", "/etc/moved")"#,
    ] {
        assert_eq!(etc.errno_of(refused), eacces, "{refused} must be refused with EACCES");
    }
    // a rename from elsewhere: the kernel says EXDEV where LANDLOCK_ACCESS_FS_REFER is missing or the mounts differ
    let from_elsewhere = r#"do { open(F, ">", "/etc/app/x"); close F; rename("/etc/app/x", "/etc/passwd") }"#;
    assert!([eacces, exdev].contains(&etc.errno_of(from_elsewhere)), "{from_elsewhere}");
    // the same files by the path from which they are mounted
    let alias = format!(r#"open(F, ">>", "{}/passwd")"#, etc.folder.path().display());
    assert_eq!(etc.errno_of(&alias), eacces, "{alias}");
    let after: Vec<String> = ["passwd", "shadow", "group", "gshadow"].iter().map(|name| etc.read(name)).collect();
    assert_eq!(after, before, "the databases are as they were");

    assert_eq!(
        etc.errno_of(r#"do { open(F, ">>", "/etc/hosts") && print(F "10.0.0.1 db\n") }"#),
        0,
        "/etc/hosts in place"
    );
    for allowed in [
        r#"open(F, "<", "/etc/passwd")"#,
        r#"open(F, ">", "/etc/app/own.conf")"#,
        r#"rename("/etc/app/own.conf", "/etc/app/other.conf")"#,
        r#"open(F, ">", "/dev/null")"#,
        r#"mkdir("/etc/another")"#,
        r#"do { use Socket; socket(S, PF_UNIX, SOCK_STREAM, 0) && bind(S, pack_sockaddr_un("/etc/own.sock")) }"#,
        r#"do { my $p = "/var/tmp/acctguard-launch.$$"; open(F, ">", $p) && unlink($p) }"#,
    ] {
        assert_eq!(etc.errno_of(allowed), 0, "{allowed} must work");
    }
    assert!(etc.read("hosts").contains("10.0.0.1 db"));
}

#[test]
fn the_same_calls_succeed_without_the_seal() {
    // proves that the refusals above come from the seal and not from the set-up
    let etc = Etc::new();
    let output =
        etc.launch(&["--seal", "/nowhere/else"], &["sh", "-c", "echo mallory:x:0:0::/:/bin/sh >> /etc/passwd"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(etc.read("passwd").contains("mallory"));
}

#[test]
fn a_database_of_one_s_own_is_sealed_too() {
    let etc = Etc::new();
    std::fs::write(etc.folder.path().join("app/users"), "").expect("file");
    let output = etc.launch(&["--seal", "/etc/app/users"], &["sh", "-c", "echo x >> /etc/app/users"]);
    assert!(!output.status.success() && etc.read("app/users").is_empty());
}

#[test]
fn exit_codes_and_messages() {
    let etc = Etc::new();
    std::fs::write(etc.folder.path().join("app/plain"), "#!/bin/sh\n").expect("file");
    let no_format = etc.folder.path().join("app/no-format");
    std::fs::write(&no_format, "echo a shell ran this\n").expect("file");
    std::fs::set_permissions(&no_format, std::fs::Permissions::from_mode(0o755)).expect("mode");
    for (options, program, code, words) in [
        (&[][..], &["no-such-program"][..], 127, "executable file not found in $PATH"),
        (&[], &["/no/such/program"], 127, "No such file"),
        (&[], &["/etc/app/plain"], 126, "Permission denied"),
        (&[], &["/etc/app/no-format"], 126, "Exec format error"),
        (&["--seal", "relative"], &["true"], 64, "not absolute"),
        (&["--give-back", "CAP_NONSENSE"], &["true"], 64, "no capability"),
        (&[], &["sh", "-c", "exit 7"], 7, ""),
        (&["--no-seal", "--line=77", "--filter=78", "--container=c"], &["true"], 0, ""),
        (
            &["--no-seal", "--line=77", "--filter=78", "--container=c", "--must-listen"],
            &["true"],
            125,
            "no other listener",
        ),
    ] {
        let output = etc.launch(options, program);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{program:?}: {message}");
        assert!(message.contains(words), "{program:?}: {message}");
        assert!(message.lines().count() <= 1, "one line: {message}");
    }
}

#[test]
fn without_the_power_to_seal_nothing_starts() {
    // where another user may run it
    let shared = tempfile::tempdir().expect("folder");
    std::fs::set_permissions(shared.path(), std::fs::Permissions::from_mode(0o755)).expect("mode");
    let copy = shared.path().join("launch");
    std::fs::copy(launcher(), &copy).expect("copy");
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--clear-groups"])
        .arg(&copy)
        .args(["--", "echo", "started"])
        .output()
        .expect("setpriv(1) runs");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{message}");
    assert!(message.contains("CAP_SYS_ADMIN") && output.stdout.is_empty(), "{message}");
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--clear-groups", "--no-new-privs"])
        .arg(&copy)
        .args(["--", "echo", "started"])
        .output()
        .expect("setpriv(1) runs");
    assert_eq!(output.stdout, b"started\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn lent_capabilities_are_gone_from_all_sets() {
    let etc = Etc::new();
    let status = |options: &[&str]| -> Vec<u64> {
        let output = etc.launch(options, &["cat", "/proc/self/status"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
            .iter()
            .map(|name| {
                let line = text.lines().find(|line| line.starts_with(name)).expect("a line of status");
                u64::from_str_radix(line.split_whitespace().nth(1).expect("a value"), 16).expect("hex")
            })
            .collect()
    };
    let lent = 1 << caps::Capability::CAP_SYS_ADMIN.index() | 1 << caps::Capability::CAP_SETPCAP.index();
    let kept = status(&[]);
    let given_back = status(&["--give-back", "CAP_SYS_ADMIN", "--give-back", "CAP_SETPCAP"]);
    let expected: Vec<u64> = kept.iter().map(|set| set & !lent).collect();
    assert_eq!(given_back, expected, "nothing but the lent ones is gone");
    assert_ne!(kept, given_back);
}

#[test]
fn the_launcher_leaves_no_descriptor_and_keeps_arguments_and_environment() {
    let etc = Etc::new();
    let script = "ls /proc/self/fd | wc -l; printf '%s|' \"$@\"; env | grep -v '^_=' | sort";
    let plain = Command::new("sh").args(["-c", script, "argv0", "a b", ""]).env("LC_ALL", "C").output().expect("sh");
    let launched = etc.launch(&[], &["sh", "-c", script, "argv0", "a b", ""]);
    assert_eq!(String::from_utf8_lossy(&launched.stdout), String::from_utf8_lossy(&plain.stdout));
    assert!(String::from_utf8_lossy(&launched.stdout).contains("a b||"));
}

/// What the launcher calls from its execve(2) to the program's, by ptrace(2).
#[cfg(target_arch = "x86_64")]
fn calls_of_the_launcher(options: &[&str]) -> BTreeSet<String> {
    let mut stopped = Command::new("sh");
    stopped.args(["-c", "kill -STOP $$; exec \"$@\"", "sh"]).arg(launcher()).args(options).args(["--", "true"]);
    let mut child = stopped.spawn().expect("sh(1) runs");
    let process = Pid::from_raw(child.id().cast_signed());
    waitpid(process, Some(WaitPidFlag::WUNTRACED)).expect("it stops");
    let options = ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_TRACEEXEC;
    ptrace::seize(process, options | ptrace::Options::PTRACE_O_EXITKILL).expect("seize");
    kill(process, Signal::SIGCONT).expect("let it go on");
    let (mut calls, mut programs) = (BTreeSet::new(), 0);
    while programs < 2 {
        match waitpid(process, Some(WaitPidFlag::__WALL)).expect("its next call") {
            WaitStatus::PtraceEvent(_, _, event) if event == ptrace::Event::PTRACE_EVENT_EXEC as i32 => programs += 1,
            WaitStatus::PtraceSyscall(_) if programs == 1 => {
                let number = ptrace::getregs(process).expect("registers").orig_rax;
                let call = ScmpSyscall::from(i32::try_from(number).expect("a number"));
                calls.insert(call.get_name().expect("a name"));
            }
            WaitStatus::Exited(_, code) => panic!("it ended with {code}"),
            _ => {}
        }
        ptrace::syscall(process, None).expect("go on");
    }
    ptrace::detach(process, None).or_else(|_| kill(process, Signal::SIGKILL)).expect("let it go");
    child.wait().expect("its end");
    calls
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_launcher_makes_no_call_that_is_not_listed() {
    for (options, more) in
        [(&["--give-back=CAP_SYS_TTY_CONFIG"][..], launcher_calls::TO_GIVE_BACK), (&["--own-descriptor=77"], &[])]
    {
        let listed: BTreeSet<&str> =
            [launcher_calls::TO_START, launcher_calls::TO_SEAL, more].concat().into_iter().collect();
        let called = calls_of_the_launcher(options);
        let mut unlisted = called.iter().filter(|call| !listed.contains(call.as_str()));
        assert_eq!(unlisted.next(), None, "{called:?}");
        assert!(called.contains("landlock_restrict_self") && called.len() > 12, "{called:?}");
    }
}

#[test]
fn help_is_the_manual_page_and_says_which_options_are_understood() {
    let told = |option: &str| {
        let output = Command::new(launcher()).arg(option).output().expect("the launcher runs");
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let written: String =
        Words::command().render_long_help().to_string().lines().map(|line| format!("{}\n", line.trim_end())).collect();
    assert_eq!(told("--help"), written, "src/launch/help.txt is to be what clap makes of packaging/launcher_words.rs");
    assert!(written.contains(acctguard::oci::launcher_words::OPTIONS));
    assert_eq!(told("--version"), Words::command().render_version());
}

/// What the launcher reads in these words, after its own name.
fn read(words: &[String]) -> Option<CommandLine> {
    let words: Vec<CString> = words.iter().map(|word| CString::new(word.as_str()).expect("no NUL")).collect();
    let words: Vec<&CStr> = words.iter().map(CString::as_c_str).collect();
    match command_line::read(&words) {
        Ok(Request::Launch(read)) => Some(read),
        _ => None,
    }
}

/// Everything in a command line, as the launcher and as clap read it.
fn everything(words: &[String]) -> [Option<String>; 2] {
    // two types with fields of the same names
    macro_rules! shown {
        ($read:expr, $loans:expr, $program:expr) => {{
            let seal: Vec<String> = $read.seal.iter().map(ToString::to_string).collect();
            let numbers = ($read.line, $read.filter, $read.own_descriptor);
            format!(
                "{:?}",
                (seal, $read.no_seal, $loans, numbers, $read.must_listen, $read.container, $read.exec, $program)
            )
        }};
    }
    let of_launcher = read(words).map(|read| shown!(read, read.give_back, &words[read.program..]));
    let of_clap = Words::try_parse_from(words).ok().and_then(|read| {
        let loans = read.give_back.iter().map(|text| acctguard_launch::capabilities::parse(text).ok());
        let loans = loans.collect::<Option<Vec<_>>>()?;
        let program: Vec<String> = read.program.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        Some(shown!(read, loans, program))
    });
    [of_launcher, of_clap]
}

#[test]
fn what_the_shim_writes_is_read() {
    let databases = DatabasePath::BUILT_IN.map(|path| DatabasePath::new(path).expect("a path"));
    let listening = Listening { line: 4, filter: 5, must: true, container: "c1", exec: Some("e") };
    for databases in [Some(&databases[..]), None] {
        for listening in [Some(listening), Some(Listening { exec: None, must: false, ..listening }), None] {
            for lend in [true, false] {
                let mut process = json!({"args": ["sh", "-c", "--", "--line=9"], "user": {"uid": 7}});
                let launcher = Launcher { descriptor: 3, databases, lend, listening };
                assert!(launcher_edit::put_in(&mut process, &launcher));
                let words = process["args"].as_array().expect("words").iter();
                let words: Vec<String> = words.map(|word| word.as_str().expect("text").to_owned()).collect();
                let [of_launcher, of_clap] = everything(&words);
                assert_eq!(of_launcher.is_some(), databases.is_some() || listening.is_some(), "{words:?}");
                assert_eq!(of_launcher, of_clap);
            }
        }
    }
}

fn word() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "--",
        "--",
        "--",
        "sh",
        "-c",
        "",
        "--seal=/etc/passwd",
        "--seal=/a/",
        "--seal=etc",
        "--seal=",
        "--seal",
        "/etc/group",
        "--no-seal",
        "--no-seal=",
        "--must-listen",
        "--give-back=CAP_KILL",
        "--give-back=kill=bounding,ambient",
        "--give-back",
        "--give-back=CAP_NONE",
        "--line=4",
        "--line",
        "4",
        "--line=+4",
        "--line=",
        "--line=-1",
        "--filter=5",
        "--filter= 5",
        "--filter",
        "--container=c",
        "--container",
        "--container=",
        "--exec=e",
        "--exec=",
        "--own-descriptor=3",
        "--own-descriptor=99999999999",
        "--help",
        "--version",
        "--new=1",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]
    #[test]
    fn clap_reads_the_same(words in prop::collection::vec(word(), 0..12)) {
        let words: Vec<String> = ["acctguard-launch"].into_iter().chain(words).map(str::to_owned).collect();
        let [of_launcher, of_clap] = everything(&words);
        prop_assert_eq!(of_launcher, of_clap);
    }
}

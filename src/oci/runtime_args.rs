//! The command line of runc and crun, as far as the shim must understand it. Nothing is refused and nothing is changed: a
//! line that this module does not understand is the real runtime's to refuse.
//!
//! How the runtimes read it: global options up to the first other word, the command. create, run and restore take options
//! before and after the container's id (urfave/cli reorders, argp permutes); for exec everything after the id is the
//! command to run, whatever it looks like. Options come as `--flag value`, `--flag=value`, `-flag value` (Go), `-b X`,
//! `-bX`, and bundled, as `-dt` (argp).
//!
//! Options that nobody has heard of yet: `--x=y` is one word. After a global `--x`, the next word is its value unless it is
//! a known command. After a command's `--x`, the next word is a value if another word for the id follows: the id of
//! create, run, restore, and of an exec with a process file, is the last word that is no option.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::oci::runtime_options::COMMAND_WITH_VALUE;
use crate::oci::runtime_options::COMMAND_WITHOUT_VALUE;
use crate::oci::runtime_options::COMMANDS;
use crate::oci::runtime_options::GLOBAL_WITH_VALUE;
use crate::oci::runtime_options::GLOBAL_WITHOUT_VALUE;
use crate::oci::runtime_options::Known;
use crate::oci::runtime_options::look_up;

/// What the runtime is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Command {
    /// `create`.
    Create,
    /// `run`.
    Run,
    /// `restore`.
    Restore,
    /// `exec`.
    Exec,
    /// Anything else, or nothing.
    #[default]
    Other,
}

/// A command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// acctguard's own `--config FILE`.
    pub acctguard_config: Option<PathBuf>,
    /// The line without it, `argv[0]` included: what the real runtime gets.
    pub forwarded: Vec<OsString>,
    /// Global `--root`.
    pub root: Option<PathBuf>,
    /// Global `--log`.
    pub log: Option<PathBuf>,
    /// Global `--log-format`.
    pub log_format: Option<OsString>,
    /// The command.
    pub command: Command,
    /// Where the command's word stands in [`CommandLine::forwarded`].
    pub command_position: Option<usize>,
    /// Options of the command.
    pub options: CommandOptions,
    /// The container's id.
    pub id: Option<OsString>,
    /// What an exec runs, when no process file says it.
    pub exec_arguments: Vec<OsString>,
    /// Where `--preserve-fds` stands in [`CommandLine::forwarded`].
    pub preserve_fds_at: Vec<Words>,
    /// Where `--process` stands there.
    pub process_at: Vec<Words>,
    /// Whether `--process` is a letter behind others, so that it stands in no word of its own.
    pub process_in_letters: bool,
    /// Whether the command has an option that nobody knows, and whose next word may be its value or not.
    pub has_unknown_option: bool,
}

/// Options of create, run, restore and exec.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandOptions {
    /// `--bundle`.
    pub bundle: Option<PathBuf>,
    /// crun's `--config`: another name for the bundle's config.json.
    pub config_file: Option<PathBuf>,
    /// `--process`.
    pub process: Option<PathBuf>,
    /// `--pid-file`.
    pub pid_file: Option<PathBuf>,
    /// `--console-socket`.
    pub console_socket: Option<PathBuf>,
    /// `--tty`.
    pub tty: bool,
    /// `--detach`.
    pub detach: bool,
    /// `--help` or `--usage`: nothing is created.
    pub help: bool,
    /// `--user`.
    pub user: Option<OsString>,
    /// `--cwd`.
    pub cwd: Option<OsString>,
    /// `--env`, each.
    pub env: Vec<OsString>,
    /// `--preserve-fds`.
    pub preserve_fds: Option<OsString>,
    /// `--no-new-privs`.
    pub no_new_privileges: bool,
    /// Full names of the other options with a value.
    pub others: Vec<&'static str>,
}

/// Words of a command line that are one option: its own and, where that stands apart, its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Words {
    /// Where it begins.
    pub first: usize,
    /// How many they are.
    pub count: usize,
}

/// A command line of acctguard-runtime that is wrong in acctguard's own part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandLineError {
    /// `--config` as the last word.
    #[error("--config needs a file; write acctguard-runtime --config FILE COMMAND …")]
    ConfigWithoutFile,
}

/// An option's word, taken apart.
struct Word<'a> {
    name: &'a str,
    value: Option<&'a [u8]>,
    /// One dash only, so that it may be letters put together.
    single: bool,
}

fn take_apart(word: &OsStr) -> Option<Word<'_>> {
    let bytes = word.as_bytes();
    let body = bytes.strip_prefix(b"-").filter(|body| !body.is_empty())?;
    let (single, body) = match body.strip_prefix(b"-") {
        Some(long) => (false, long),
        None => (true, body),
    };
    let (name, value) = match body.iter().position(|byte| *byte == b'=') {
        Some(position) => (&body[..position], Some(&body[position + 1..])),
        None => (body, None),
    };
    Some(Word { name: std::str::from_utf8(name).unwrap_or(""), value, single })
}

impl CommandLine {
    /// Reads a command line, `argv[0]` included.
    ///
    /// # Errors
    /// [`CommandLineError`] for acctguard's own option; never for the runtime's.
    pub fn parse(argv: &[OsString]) -> Result<Self, CommandLineError> {
        let mut line = Self { forwarded: argv.to_vec(), ..Self::default() };
        line.take_own_config()?;
        let words = line.forwarded.clone();
        let mut position = 1;
        while let Some(word) = words.get(position) {
            if word == "--" {
                position += 1;
                break;
            }
            let Some(option) = take_apart(word) else { break };
            position += 1 + usize::from(line.global_option(&option, words.get(position + 1)));
        }
        let Some(word) = words.get(position) else { return Ok(line) };
        line.command_position = Some(position);
        line.command = match word.to_str() {
            Some("create") => Command::Create,
            Some("run") => Command::Run,
            Some("restore") => Command::Restore,
            Some("exec") => Command::Exec,
            _ => return Ok(line),
        };
        line.command_words(words.get(position + 1..).unwrap_or_default(), position + 1);
        Ok(line)
    }

    fn take_own_config(&mut self) -> Result<(), CommandLineError> {
        let Some(option) = self.forwarded.get(1).and_then(|word| take_apart(word)).filter(|word| word.name == "config")
        else {
            return Ok(());
        };
        if let Some(value) = option.value {
            self.acctguard_config = Some(path(value));
            self.forwarded.remove(1);
        } else {
            let value = self.forwarded.get(2).cloned().ok_or(CommandLineError::ConfigWithoutFile)?;
            self.acctguard_config = Some(PathBuf::from(value));
            self.forwarded.drain(1..3);
        }
        Ok(())
    }

    /// Notes a global option. True if the next word is its value.
    fn global_option(&mut self, option: &Word<'_>, next: Option<&OsString>) -> bool {
        match look_up(option.name, &GLOBAL_WITH_VALUE, &GLOBAL_WITHOUT_VALUE) {
            Known::WithValue(name) => {
                let value = option.value.or_else(|| next.map(|next| next.as_bytes()));
                match (name, value) {
                    ("root" | "r", Some(value)) => self.root = Some(path(value)),
                    ("log" | "l", Some(value)) => self.log = Some(path(value)),
                    ("log-format", Some(value)) => self.log_format = Some(text(value)),
                    _ => {}
                }
                option.value.is_none()
            }
            Known::WithoutValue(_) => false,
            Known::Unknown => {
                let is_command = |next: &OsString| COMMANDS.iter().any(|command| next == *command);
                let is_option = |next: &OsString| next.as_bytes().starts_with(b"-");
                option.value.is_none() && next.is_some_and(|next| !is_command(next) && !is_option(next))
            }
        }
    }

    /// Reads the words after the command, the first of which is word `offset` of the line.
    fn command_words(&mut self, words: &[OsString], offset: usize) {
        let in_order = self.command == Command::Exec;
        let mut position = 0;
        let mut positional: Vec<OsString> = Vec::new();
        let mut uncertain = false;
        while let Some(word) = words.get(position) {
            position += 1;
            if word == "--" {
                positional.extend(words.get(position..).unwrap_or_default().iter().cloned());
                break;
            }
            let Some(option) = take_apart(word) else {
                positional.push(word.clone());
                if in_order && !(uncertain && self.options.process.is_none() && positional.len() < 2) {
                    positional.extend(words.get(position..).unwrap_or_default().iter().cloned());
                    break;
                }
                continue;
            };
            let (takes_next, unknown) = self.command_option(&option, words.get(position));
            self.note_place(&option, Words { first: offset + position - 1, count: 1 + usize::from(takes_next) });
            uncertain |= unknown;
            position += usize::from(takes_next);
        }
        self.has_unknown_option = uncertain;
        self.positional(positional, uncertain);
    }

    /// Notes where an option stands that may have to be replaced.
    fn note_place(&mut self, option: &Word<'_>, words: Words) {
        let known = look_up(option.name, &COMMAND_WITH_VALUE, &COMMAND_WITHOUT_VALUE);
        let process_letter = option.single && option.name.starts_with('p') && known == Known::Unknown;
        match known {
            Known::WithValue("preserve-fds") => self.preserve_fds_at.push(words),
            Known::WithValue("process" | "p") => self.process_at.push(words),
            _ if process_letter => self.process_at.push(words),
            _ => {}
        }
    }

    /// Whether [`CommandLine::with`] can put another process in the place of the one asked for: letters put together cannot
    /// be taken apart, and behind an option that nobody knows it cannot be told where the words of an exec begin.
    #[must_use]
    pub fn process_can_be_replaced(&self) -> bool {
        match &self.options.process {
            Some(_) => !self.process_at.is_empty() && !self.process_in_letters,
            None => !self.has_unknown_option,
        }
    }

    /// The line with `--preserve-fds COUNT` when given, and with `--process FILE` in the place of a process file or of the words of an
    /// exec, when given.
    #[must_use]
    pub fn with(&self, preserve_fds: Option<u32>, process: Option<&std::path::Path>) -> Vec<OsString> {
        let counts = self.preserve_fds_at.iter().filter(|_| preserve_fds.is_some());
        let replaced = counts.chain(self.process_at.iter().filter(|_| process.is_some()));
        let replaced: Vec<usize> = replaced.flat_map(|words| words.first..words.first + words.count).collect();
        let words_of_exec = if process.is_some() { self.exec_arguments.len() } else { 0 };
        let end = self.forwarded.len().saturating_sub(words_of_exec);
        let mut line = Vec::new();
        for (position, word) in self.forwarded.iter().take(end).enumerate() {
            if !replaced.contains(&position) {
                line.push(word.clone());
            }
            if self.command_position == Some(position) {
                line.extend(preserve_fds.iter().flat_map(|count| ["--preserve-fds".into(), count.to_string().into()]));
                line.extend(process.iter().flat_map(|file| ["--process".into(), file.as_os_str().to_owned()]));
            }
        }
        line
    }

    fn positional(&mut self, mut positional: Vec<OsString>, uncertain: bool) {
        if self.command != Command::Exec || uncertain && self.options.process.is_some() {
            self.id = positional.pop();
        } else if !positional.is_empty() {
            self.id = Some(positional.remove(0));
            self.exec_arguments = positional;
        }
    }

    /// Notes an option of the command. Whether the next word is its value, and whether nobody knows.
    fn command_option(&mut self, option: &Word<'_>, next: Option<&OsString>) -> (bool, bool) {
        match look_up(option.name, &COMMAND_WITH_VALUE, &COMMAND_WITHOUT_VALUE) {
            Known::WithValue(name) => {
                if let Some(value) = option.value.or_else(|| next.map(|next| next.as_bytes())) {
                    self.set(name, value);
                }
                (option.value.is_none(), false)
            }
            Known::WithoutValue(name) => {
                if option.value != Some(b"false") {
                    self.set(name, b"");
                }
                (false, false)
            }
            Known::Unknown if option.single => self.letters(option, next),
            Known::Unknown => (false, option.value.is_none()),
        }
    }

    /// Letters put together: `-dt`, `-bDIR`, `-dtu0`.
    fn letters(&mut self, option: &Word<'_>, next: Option<&OsString>) -> (bool, bool) {
        let mut rest = option.name;
        while let Some(letter) = rest.get(..1) {
            let is_first = rest.len() == option.name.len();
            rest = rest.get(1..).unwrap_or_default();
            let known = look_up(letter, &COMMAND_WITH_VALUE, &COMMAND_WITHOUT_VALUE);
            self.process_in_letters |= !is_first && matches!(known, Known::WithValue("process" | "p"));
            match known {
                Known::WithValue(name) if rest.is_empty() && option.value.is_none() => {
                    if let Some(next) = next {
                        self.set(name, next.as_bytes());
                    }
                    return (true, false);
                }
                Known::WithValue(name) => {
                    let mut value = rest.as_bytes().to_vec();
                    if let Some(after) = option.value {
                        value.push(b'=');
                        value.extend_from_slice(after);
                    }
                    self.set(name, &value);
                    return (false, false);
                }
                Known::WithoutValue(name) => self.set(name, b""),
                Known::Unknown => return (false, option.value.is_none()),
            }
        }
        (false, option.name.is_empty())
    }

    fn set(&mut self, name: &str, value: &[u8]) {
        let options = &mut self.options;
        match name {
            "b" | "bundle" => options.bundle = Some(path(value)),
            "f" | "config" => options.config_file = Some(path(value)),
            "p" | "process" => options.process = Some(path(value)),
            "pid-file" => options.pid_file = Some(path(value)),
            "console-socket" => options.console_socket = Some(path(value)),
            "t" | "tty" => options.tty = true,
            "d" | "detach" => options.detach = true,
            "h" | "?" | "help" | "usage" => options.help = true,
            "u" | "user" => options.user = Some(text(value)),
            "cwd" => options.cwd = Some(text(value)),
            "e" | "env" => options.env.push(text(value)),
            "preserve-fds" => options.preserve_fds = Some(text(value)),
            "no-new-privs" => options.no_new_privileges = true,
            name => options.others.extend(COMMAND_WITH_VALUE.iter().filter(|known| **known == name)),
        }
    }
}

fn text(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(text(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn parse(line: &str) -> CommandLine {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        CommandLine::parse(&words).expect("parses")
    }

    #[test]
    fn create_and_run() {
        for line in [
            "runc --root /r --log /l --log-format json create --bundle /b --pid-file /p ID",
            "runc --log-format=json --log=/l --root=/r create --bundle=/b --pid-file=/p ID",
            "crun --systemd-cgroup --root=/r --log /l --log-format json --cgroup-manager cgroupfs create -b /b --pid-file /p ID",
            "crun --debug --root=/r --log /l --log-format json create -b/b --pid-file /p ID",
            "runc -root /r -log /l -log-format json create -bundle /b -pid-file /p -no-pivot ID",
            "runc --root /r --log /l --log-format json -- create --bundle /b --pid-file /p -- ID",
            "runc --future yes --root /r --log /l --log-format json --other=a create --bundle /b --pid-file /p --later --sooner 3 ID",
            "crun --root /r --log /l --log-format json create ID --bundle /b --pid-file /p",
        ] {
            let found = parse(line);
            assert_eq!(found.command, Command::Create, "{line}");
            assert_eq!(found.options.bundle.as_deref(), Some(Path::new("/b")), "{line}");
            assert_eq!(found.options.pid_file.as_deref(), Some(Path::new("/p")), "{line}");
            assert_eq!(found.root.as_deref(), Some(Path::new("/r")), "{line}");
            assert_eq!(found.log.as_deref(), Some(Path::new("/l")), "{line}");
            assert_eq!(found.log_format.as_deref(), Some(OsStr::new("json")), "{line}");
            assert_eq!(found.id.as_deref(), Some(OsStr::new("ID")), "{line}");
        }
        let run = parse("runc run --detach --keep ID");
        assert_eq!((run.command, run.options.detach, run.options.bundle), (Command::Run, true, None));
    }

    #[test]
    fn exec() {
        for (line, process, arguments, tty) in [
            ("runc exec --process /p --detach ID", true, "", false),
            ("runc exec --process=/p --pid-file /f ID", true, "", false),
            ("runc exec -p /p ID", true, "", false),
            ("crun exec -p/p -dt ID", true, "", true),
            ("runc exec --future 7 --process /p ID", true, "", false),
            (
                "crun --root=/a --root=/b exec -d --console-socket=/c --tty --pid-file=/f ID create --bundle /x",
                false,
                "create --bundle /x",
                true,
            ),
            ("runc exec -t -u 0:0 -e A=B --env C=D --cwd / ID sh -c create", false, "sh -c create", true),
            ("runc exec -tu0 ID -- sh", false, "-- sh", true),
            ("runc exec -- ID run", false, "run", false),
            ("runc exec --tty=false ID sh --process /x", false, "sh --process /x", false),
        ] {
            let found = parse(line);
            assert_eq!(found.command, Command::Exec, "{line}");
            assert_eq!(found.id.as_deref(), Some(OsStr::new("ID")), "{line}");
            assert_eq!(found.options.process.as_deref(), process.then(|| Path::new("/p")), "{line}");
            let expected: Vec<_> = arguments.split_whitespace().map(OsString::from).collect();
            assert_eq!(found.exec_arguments, expected, "{line}");
            assert_eq!(found.options.tty, tty, "{line}");
        }
        let user = parse("crun exec -tu0 -eA=B -e C=D ID sh");
        assert_eq!(user.options.user.as_deref(), Some(OsStr::new("0")));
        assert_eq!(user.options.env, ["A=B", "C=D"]);
    }

    #[test]
    fn preserved_descriptors_and_the_process_are_replaced_and_nothing_else() {
        let shown = |line: &str, process: Option<&str>| {
            parse(line).with(Some(4), process.map(Path::new)).join(OsStr::new(" ")).into_string().expect("text")
        };
        for (line, process, expected) in [
            ("runc --root /r create --bundle /b ID", None, "runc --root /r create --preserve-fds 4 --bundle /b ID"),
            ("runc run --preserve-fds 3 ID", None, "runc run --preserve-fds 4 ID"),
            ("crun run -d ID --preserve-fds=3", None, "crun run --preserve-fds 4 -d ID"),
            ("crun run --preserve 3 --detach ID", None, "crun run --preserve-fds 4 --detach ID"),
            ("runc exec --process /p -d ID", Some("/q"), "runc exec --preserve-fds 4 --process /q -d ID"),
            ("runc exec --process=/p ID", Some("/q"), "runc exec --preserve-fds 4 --process /q ID"),
            ("crun exec -p/p -d ID", Some("/q"), "crun exec --preserve-fds 4 --process /q -d ID"),
            ("runc exec -p /p ID", None, "runc exec --preserve-fds 4 -p /p ID"),
            ("runc exec --cwd / ID sh -c --process", Some("/q"), "runc exec --preserve-fds 4 --process /q --cwd / ID"),
            ("runc exec ID sh --preserve-fds 9", None, "runc exec --preserve-fds 4 ID sh --preserve-fds 9"),
        ] {
            assert_eq!(shown(line, process), expected, "{line}");
        }
        assert_eq!(parse("runc exec --cap CAP_KILL --no-new-privs ID sh").options.others, ["cap"]);
    }

    #[test]
    fn everything_else_is_other() {
        for line in [
            "runc",
            "runc --version",
            "runc features",
            "runc state create",
            "runc kill exec 9",
            "runc help create",
            "crun --usage",
            "runc --root create list",
            "runc delete --force run",
            "runc spec --bundle create",
            "runc - x",
        ] {
            assert_eq!(parse(line).command, Command::Other, "{line}");
        }
    }

    #[test]
    fn own_config_is_taken_out() {
        for line in ["x --config /c --root /r create ID", "x --config=/c --root /r create ID"] {
            let found = parse(line);
            assert_eq!(found.acctguard_config.as_deref(), Some(Path::new("/c")));
            assert_eq!(found.forwarded.join(OsStr::new(" ")), "x --root /r create ID");
        }
        let crun = parse("x create --config /c ID");
        assert_eq!((crun.acctguard_config, crun.options.config_file), (None, Some(PathBuf::from("/c"))));
        assert!(CommandLine::parse(&["x".into(), "--config".into()]).is_err());
    }

    #[test]
    fn every_captured_line() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/fixtures/captures");
        let mut seen = 0;
        for file in fs::read_dir(folder).expect("the captures are there") {
            let path = file.expect("lists").path();
            if !path.to_string_lossy().contains("-argv") {
                continue;
            }
            for line in fs::read_to_string(&path).expect("reads").lines() {
                let Some((_, line)) = line.split_once(" : ") else { continue };
                let found = parse(line);
                let expected =
                    ["create", "exec", "run", "restore"].iter().find(|word| line.contains(&format!(" {word} ")));
                let command = match expected {
                    Some(&"create") => Command::Create,
                    Some(&"exec") => Command::Exec,
                    Some(_) => panic!("{line}"),
                    None => Command::Other,
                };
                assert_eq!(found.command, command, "{line}");
                if command != Command::Other {
                    let last = line.split_whitespace().next_back().map(OsString::from);
                    assert_eq!(found.id, last, "{line}");
                    assert_eq!(found.options.bundle.is_some(), command == Command::Create, "{line}");
                    assert_eq!(found.options.process.is_some(), command == Command::Exec, "{line}");
                }
                seen += 1;
            }
        }
        assert!(seen > 100, "{seen} lines");
    }
}

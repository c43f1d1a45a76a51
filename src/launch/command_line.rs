//! The command line: as the shim writes it, and as people do. Read without a library: every container's start waits for it, and clap
//! took a tenth of a millisecond. `integration/launch.rs` holds it to clap's reading of the same words, of which the manual page is made.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::fmt;
use core::str::FromStr;

use crate::capabilities;
use crate::capabilities::Loan;
use crate::database_path::DatabasePath;
use crate::launcher_words;
use crate::listen::Means;

/// clap's text of these options, and [`launcher_words::OPTIONS`].
pub const HELP: &str = include_str!("help.txt");

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Prepare and run the program.
    Launch(CommandLine),
    /// Say this on standard output.
    Tell(String),
}

/// What a program is run with.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// Databases to seal; none: all that acctguard knows.
    pub seal: Vec<DatabasePath>,
    /// Seal nothing.
    pub no_seal: bool,
    /// Capabilities to give up for good before the program starts.
    pub give_back: Vec<Loan>,
    /// Connection to the daemon, to hand it a seccomp listener in place of the runtime's.
    pub line: Option<i32>,
    /// Descriptor of the filter for that.
    pub filter: Option<i32>,
    /// There is no other listener: nothing may be started without this one.
    pub must_listen: bool,
    /// Id of this container.
    pub container: Option<String>,
    /// Id of the recorded event of this exec session.
    pub exec: Option<String>,
    /// Descriptor by which this program was run, closed before the program starts.
    pub own_descriptor: Option<i32>,
    /// Where among the words the program and its arguments begin.
    pub program: usize,
}

/// Why a command line is none: one line.
#[derive(Debug, PartialEq, Eq)]
pub struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Reads all words of a process, its own name first.
///
/// # Errors
/// [`UsageError`].
pub fn read(words: &[&CStr]) -> Result<Request, UsageError> {
    let mut read = CommandLine::default();
    let mut at = 1;
    loop {
        let Some(word) = words.get(at) else {
            return Err(UsageError("no program: write -- PROGRAM ARGS".to_owned()));
        };
        at += 1;
        let word = text(word)?;
        match word {
            "-h" | "--help" => return Ok(Request::Tell(HELP.to_owned())),
            "-V" | "--version" => {
                return Ok(Request::Tell(format!("acctguard-launch {}\n", env!("CARGO_PKG_VERSION"))));
            }
            "--" => break,
            launcher_words::NO_SEAL if !read.no_seal => read.no_seal = true,
            launcher_words::MUST_LISTEN if !read.must_listen => read.must_listen = true,
            _ => {
                // the name ends with its `=`
                let (name, value) = match word.find('=').and_then(|equals| word.split_at_checked(equals + 1)) {
                    Some((name, value)) => (name.to_owned(), value),
                    None => {
                        let value = words.get(at).copied().filter(|value| !value.to_bytes().starts_with(b"-"));
                        let value =
                            value.ok_or_else(|| UsageError(format!("{word:?} is no option, or lacks its value")))?;
                        at += 1;
                        (format!("{word}="), text(value)?)
                    }
                };
                read.take(&name, value)?;
            }
        }
    }
    read.program = at;
    if at >= words.len() {
        return Err(UsageError("no program after --".to_owned()));
    }
    read.checked()
}

fn text(word: &CStr) -> Result<&str, UsageError> {
    word.to_str()
        .map_err(|_| UsageError(format!("an option is not UTF-8: {:?}", String::from_utf8_lossy(word.to_bytes()))))
}

impl CommandLine {
    fn take(&mut self, name: &str, value: &str) -> Result<(), UsageError> {
        match name {
            launcher_words::SEAL => self.seal.push(DatabasePath::new(value).map_err(|error| of(name, &error))?),
            launcher_words::GIVE_BACK => {
                self.give_back.push(capabilities::parse(value).map_err(|error| of(name, &error))?);
            }
            launcher_words::LINE => once(&mut self.line, name, value)?,
            launcher_words::FILTER => once(&mut self.filter, name, value)?,
            launcher_words::CONTAINER => once(&mut self.container, name, value)?,
            launcher_words::EXEC => once(&mut self.exec, name, value)?,
            launcher_words::OWN_DESCRIPTOR => once(&mut self.own_descriptor, name, value)?,
            _ => return Err(UsageError(format!("{:?} is no option, or was given before", name.trim_end_matches('=')))),
        }
        Ok(())
    }

    fn checked(self) -> Result<Request, UsageError> {
        let wrong = if self.line.is_some() && (self.filter.is_none() || self.container.is_none()) {
            "--line needs --filter and --container"
        } else if self.no_seal && !self.seal.is_empty() {
            "--no-seal and --seal exclude one another"
        } else if (self.no_seal || self.must_listen) && self.line.is_none() {
            "--no-seal and --must-listen need --line"
        } else {
            return Ok(Request::Launch(self));
        };
        Err(UsageError(wrong.to_owned()))
    }

    /// With what a listener is made, where one is.
    #[must_use]
    pub fn means(&self) -> Option<Means> {
        let (line, filter) = (self.line?, self.filter?);
        Some(Means {
            line,
            filter,
            must: self.must_listen,
            container: self.container.clone()?,
            exec: self.exec.clone(),
        })
    }
}

fn of(name: &str, error: &dyn fmt::Display) -> UsageError {
    UsageError(format!("{}: {error}", name.trim_end_matches('=')))
}

/// Sets what may be given once.
fn once<T: FromStr<Err: ToString>>(place: &mut Option<T>, name: &str, value: &str) -> Result<(), UsageError> {
    if place.is_some() {
        return Err(of(name, &"was given before"));
    }
    *place = Some(value.parse().map_err(|error: T::Err| of(name, &format!("{value:?}: {}", error.to_string())))?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(words: &[&CStr]) -> String {
        read(words).expect_err("no command line").to_string()
    }

    #[test]
    fn mistakes_are_told_in_a_line() {
        for (words, wanted) in [
            (&[c"l"][..], "no program"),
            (&[c"l", c"--"], "no program"),
            (&[c"l", c"sh"], "\"sh\" is no option"),
            (&[c"l", c"--seal", c"--", c"sh"], "lacks its value"),
            (&[c"l", c"--seal=etc", c"--", c"sh"], "--seal: database path \"etc\" is not absolute"),
            (&[c"l", c"--line=x", c"--", c"sh"], "--line: \"x\": invalid digit"),
            (&[c"l", c"--exec=a", c"--exec", c"b", c"--", c"sh"], "--exec: was given before"),
            (&[c"l", c"--line=4", c"--", c"sh"], "--line needs"),
            (&[c"l", c"--no-seal", c"--", c"sh"], "need --line"),
            (&[c"l", c"--no-seal", c"--no-seal", c"--", c"sh"], "\"--no-seal\" is no option, or"),
            (&[c"l", c"--s\xff", c"--", c"sh"], "not UTF-8"),
        ] {
            assert!(error(words).contains(wanted), "{words:?}: {}", error(words));
        }
    }

    #[test]
    fn only_words_before_the_program_are_options() {
        let Ok(Request::Launch(read)) = read(&[c"l", c"--own-descriptor", c"7", c"--", c"sh", c"--help", c"--"]) else {
            panic!("a command line")
        };
        assert_eq!((read.own_descriptor, read.program), (Some(7), 4));
        assert!(matches!(super::read(&[c"l", c"--version"]), Ok(Request::Tell(_))));
    }
}

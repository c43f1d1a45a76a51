//! The command line: as people write it, and as the shim does.

use std::ffi::OsString;

use clap::Parser;

use crate::launch::capabilities;
use crate::launch::capabilities::Loan;
use crate::launch::listen::Means;
use crate::model::attempt::DatabasePath;
use crate::oci::launcher_edit;

/// Seal the account databases of this container, then run PROGRAM in place of this process.
#[derive(Debug, Default, PartialEq, Eq, Parser)]
#[command(
    name = "acctguard-launch",
    version,
    after_long_help = launcher_edit::OPTIONS,
    after_help = "Exit codes when PROGRAM was not started: 125 cannot seal, 126 PROGRAM is not executable, 127 PROGRAM not found, 64 usage."
)]
pub struct CommandLine {
    /// Database to seal, absolute; one that ends in / seals a whole directory. Default: all that acctguard knows.
    #[arg(long, value_name = "DATABASE", value_parser = parse_database)]
    pub seal: Vec<DatabasePath>,
    /// Seal nothing.
    #[arg(long, conflicts_with = "seal", requires = "line")]
    pub no_seal: bool,
    /// Capability to give up for good before PROGRAM starts, as CAP_SYS_ADMIN; out of all its sets, or out of those named:
    /// CAP_SETPCAP=bounding,effective,inheritable,permitted,ambient.
    #[arg(long, value_name = "CAP[=SETS]", value_parser = capabilities::parse)]
    pub give_back: Vec<Loan>,
    /// Connection to acctguard-daemon, to hand it a seccomp listener in place of the runtime's.
    #[arg(long, value_name = "NUMBER", requires_all = ["filter", "container"])]
    pub line: Option<i32>,
    /// Descriptor of the filter for that, a sealed memfd.
    #[arg(long, value_name = "NUMBER")]
    pub filter: Option<i32>,
    /// Id of this container.
    #[arg(long, value_name = "ID")]
    pub container: Option<String>,
    /// Id of the recorded event of this exec session.
    #[arg(long, value_name = "ID")]
    pub exec: Option<String>,
    /// Descriptor by which this program was run, closed before PROGRAM starts.
    #[arg(long, value_name = "NUMBER")]
    pub own_descriptor: Option<i32>,
    /// What to run, found as execvp(3) would, but without its fall-back to a shell.
    #[arg(last = true, required = true, value_name = "PROGRAM ARGS")]
    pub program: Vec<OsString>,
}

impl CommandLine {
    /// That of this process.
    ///
    /// # Errors
    /// What clap has to say instead: help, version, usage.
    pub fn of_process() -> Result<Self, clap::Error> {
        let words: Vec<OsString> = std::env::args_os().collect();
        Self::of_shim(&words).map_or_else(|| Self::try_parse_from(words), Ok)
    }

    /// Of words as [`launcher_edit::put_in`] writes them. They mean the same to clap, which takes a tenth of a millisecond for them, and
    /// every container's start waits for it. `None` for all others, which are clap's to judge.
    fn of_shim(words: &[OsString]) -> Option<Self> {
        let end = words.iter().position(|word| word == "--")?;
        let mut read = Self { program: words.get(end + 1..)?.to_vec(), ..Self::default() };
        for word in words.get(1..end)? {
            let word = word.to_str()?;
            if let Some(database) = word.strip_prefix(launcher_edit::SEAL) {
                read.seal.push(parse_database(database).ok()?);
            } else if let Some(loan) = word.strip_prefix(launcher_edit::GIVE_BACK) {
                read.give_back.push(capabilities::parse(loan).ok()?);
            } else if word == launcher_edit::NO_SEAL {
                once(&mut read.no_seal, false, true)?;
            } else if let Some(number) = word.strip_prefix(launcher_edit::OWN_DESCRIPTOR) {
                once(&mut read.own_descriptor, None, number.parse().ok())?;
            } else if let Some(number) = word.strip_prefix(launcher_edit::LINE) {
                once(&mut read.line, None, number.parse().ok())?;
            } else if let Some(number) = word.strip_prefix(launcher_edit::FILTER) {
                once(&mut read.filter, None, number.parse().ok())?;
            } else if let Some(id) = word.strip_prefix(launcher_edit::CONTAINER) {
                once(&mut read.container, None, Some(id.to_owned()))?;
            } else {
                once(&mut read.exec, None, Some(word.strip_prefix(launcher_edit::EXEC)?.to_owned()))?;
            }
        }
        let listens = read.line.is_some() && read.filter.is_some() && read.container.is_some();
        let sound = !read.program.is_empty()
            && (read.line.is_none() || listens)
            && (!read.no_seal || (listens && read.seal.is_empty()));
        sound.then_some(read)
    }

    /// With what a listener is made, where one is.
    #[must_use]
    pub fn means(&self) -> Option<Means> {
        let (line, filter) = (self.line?, self.filter?);
        Some(Means { line, filter, container: self.container.clone()?, exec: self.exec.clone() })
    }
}

fn parse_database(text: &str) -> Result<DatabasePath, String> {
    DatabasePath::new(text).map_err(|error| error.to_string())
}

/// Sets what has its `initial` value still; `None` when it has another or would keep it.
fn once<T: PartialEq>(place: &mut T, initial: T, value: T) -> Option<()> {
    if *place != initial || value == initial {
        return None;
    }
    *place = value;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::launcher_edit::Launcher;
    use crate::oci::launcher_edit::Listening;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn what_the_shim_writes_is_read_without_clap() {
        let databases = DatabasePath::BUILT_IN.map(|path| DatabasePath::new(path).expect("a path"));
        let listening = Listening { line: 4, filter: 5, container: "c1", exec: Some("e") };
        for databases in [Some(&databases[..]), None] {
            for listening in [Some(listening), Some(Listening { exec: None, ..listening }), None] {
                for lend in [true, false] {
                    let mut process = json!({"args": ["sh", "-c", "--", "--line=9"], "user": {"uid": 7}});
                    assert!(launcher_edit::put_in(
                        &mut process,
                        &Launcher { descriptor: 3, databases, lend, listening }
                    ));
                    let words = process["args"].as_array().expect("words").iter();
                    let words: Vec<OsString> = words.map(|word| word.as_str().expect("text").into()).collect();
                    let read = CommandLine::of_shim(&words);
                    let sound = databases.is_some() || listening.is_some();
                    assert_eq!(read.is_some(), sound, "{words:?}");
                    assert_eq!(read, CommandLine::try_parse_from(words).ok());
                }
            }
        }
    }

    fn word() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
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
            "--no-seal",
            "--no-seal=",
            "--give-back=CAP_KILL",
            "--give-back=kill=bounding,ambient",
            "--give-back=CAP_NONE",
            "--line=4",
            "--line=4",
            "--line=+4",
            "--line=",
            "--line=-1",
            "--filter=5",
            "--filter=5",
            "--filter= 5",
            "--container=c",
            "--container=c",
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
        #[test]
        fn clap_reads_the_same(words in prop::collection::vec(word(), 0..12)) {
            let words: Vec<OsString> = ["acctguard-launch"].into_iter().chain(words).map(OsString::from).collect();
            if let Some(read) = CommandLine::of_shim(&words) {
                prop_assert_eq!(Some(read), CommandLine::try_parse_from(words).ok());
            }
        }
    }
}

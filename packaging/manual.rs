//! Manual pages and shell completions out of the command lines themselves; `packaging/build` runs it: `manual FOLDER`.
//!
//! `acctguard-runtime` takes any command line of the runtime behind it, and has a page written by hand
//! (`packaging/man/acctguard-runtime.8`).

mod launcher_words;

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;

/// All are the administrator's (man-pages(7), "Sections of the manual pages").
const SECTION: &str = "8";

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: manual FOLDER");
        return ExitCode::from(64);
    };
    match pages(&folder.join("man8")).and_then(|()| completions(&folder.join("completions"))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("manual: write below {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}

/// A page for each program, and for each subcommand of `acctguard`.
fn pages(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for program in [
        acctguard::cli::command(),
        acctguard::daemon::command(),
        acctguard::hook::command(),
        launcher_words::Words::command(),
        acctguard::nri::command(),
    ] {
        let mut program = program.disable_help_subcommand(true);
        program.build();
        page(&program, folder)?;
    }
    Ok(())
}

fn page(command: &clap::Command, folder: &Path) -> io::Result<()> {
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        page(subcommand, folder)?;
    }
    let source = format!("acctguard {}", env!("CARGO_PKG_VERSION"));
    let page = Man::new(command.clone()).section(SECTION).source(source).manual("acctguard");
    page.generate_to(folder).map(drop)
}

fn completions(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut acctguard::cli::command(), "acctguard", folder)?;
    }
    Ok(())
}

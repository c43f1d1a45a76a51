//! `acctguard install` and `acctguard uninstall`: what `crate::engines` plans and does, told.

use std::io;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::cli::CommandError;
use crate::cli::Outcome;
use crate::cli::readable;
use crate::config::Config;
use crate::control::client::Client;
use crate::engines::Engine;
use crate::engines::EngineError;
use crate::engines::engine_check::Judgement;
use crate::engines::journal::JournalError;
use crate::engines::plan;
use crate::engines::plan::Node;
use crate::engines::plan::Request;
use crate::engines::registration;
use crate::engines::registration::RegistrationError;
use crate::model::diagnostic::chain;

/// Where packages put the shim.
pub const SHIM: &str = "/usr/libexec/acctguard/acctguard-runtime";

/// `acctguard install`.
#[derive(Debug, Args)]
pub struct InstallArguments {
    /// Which engine: containerd, crio, podman or docker.
    #[arg(long, value_name = "ENGINE", value_parser = engine)]
    engine: Engine,
    /// Beside the engine's default runtime instead of as that: for Kubernetes the handler of a RuntimeClass, for podman and Docker
    /// what --runtime names.
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = plan::NAME)]
    class: Option<String>,
    /// In front of a default runtime that is neither runc nor crun, which acctguard then calls.
    #[arg(long)]
    chain: bool,
    /// Also change a file whose header says that somebody else writes it.
    #[arg(long)]
    edit_managed: bool,
    /// The engine's main configuration file, when it is another than usual.
    #[arg(long, value_name = "FILE")]
    engine_config: Option<PathBuf>,
    /// The shim. Default: /usr/libexec/acctguard/acctguard-runtime, else the one beside this program.
    #[arg(long, value_name = "FILE")]
    shim: Option<PathBuf>,
    /// Change nothing; print what would be changed as a diff.
    #[arg(long)]
    dry_run: bool,
}

/// `acctguard uninstall`.
#[derive(Debug, Args)]
pub struct UninstallArguments {
    /// Which engine: containerd, crio, podman or docker.
    #[arg(long, value_name = "ENGINE", value_parser = engine)]
    engine: Engine,
    /// Change nothing; print what would be changed as a diff.
    #[arg(long)]
    dry_run: bool,
}

fn engine(name: &str) -> Result<Engine, String> {
    Engine::named(name).ok_or_else(|| "expected containerd, crio, podman or docker".to_owned())
}

/// The shim that engines are to call.
#[must_use]
pub fn shim(named: Option<PathBuf>) -> PathBuf {
    let usual = PathBuf::from(SHIM);
    named.unwrap_or_else(|| {
        let beside = std::env::current_exe().ok().map(|own| own.with_file_name("acctguard-runtime"));
        match beside {
            Some(beside) if !usual.exists() && beside.is_file() => beside,
            _ => usual,
        }
    })
}

/// Registers acctguard.
///
/// # Errors
/// [`CommandError::Registration`], [`CommandError::Output`].
pub fn install(config: &Config, arguments: InstallArguments, mut output: impl Write) -> Result<Outcome, CommandError> {
    let (engine, dry_run) = (arguments.engine, arguments.dry_run);
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let node = Node { config, shim: absolute(shim(arguments.shim)) };
    let request = Request {
        class: arguments.class,
        chain: arguments.chain,
        edit_managed: arguments.edit_managed,
        main: arguments.engine_config.map(absolute),
        dry_run,
    };
    let done = registration::install(&node, engine, &request)?;
    tell_recovered(engine, done.recovered, dry_run, &mut output)?;
    let name = engine.name();
    let version = done.installed.as_ref().map(|installed| format!(" {}", installed.version)).unwrap_or_default();
    let what = done.registration.as_ref().map_or_else(String::new, |registration| {
        let how = if registration.is_default { "its default runtime" } else { "a runtime beside its default one" };
        let behind = if done.behind.is_empty() { String::new() } else { format!(", in front of {}", done.behind) };
        format!("{} as {how}{behind} ({})", registration.name, registration.program.display())
    });
    if done.changes.is_empty() {
        line(&mut output, &format!("nothing to do: {name}{version} has {what}"))?;
        return Ok(Outcome::Done);
    }
    if dry_run {
        write!(output, "{}", done.changes.iter().map(|change| change.diff()).collect::<String>())?;
        line(&mut output, &format!("would register with {name}{version}: {what}; nothing was changed"))?;
        tell_notes(&done.notes, &mut output)?;
        return Ok(Outcome::Done);
    }
    for change in &done.changes {
        line(&mut output, &format!("changed {}", change.path.display()))?;
    }
    match &done.judgement {
        Some(Judgement::Takes { by, .. }) => line(&mut output, &format!("checked by {by}"))?,
        Some(Judgement::Unasked(why)) => line(&mut output, &format!("not checked: {why}"))?,
        None => {}
    }
    line(&mut output, &format!("registered with {name}{version}: {what}"))?;
    tell_notes(&done.notes, &mut output)?;
    tell_absent_daemon(config, &mut output)?;
    line(&mut output, &format!("to do: {}", engine.restart()))?;
    Ok(Outcome::Done)
}

/// Takes acctguard out.
///
/// # Errors
/// [`CommandError::Registration`], [`CommandError::Output`].
pub fn uninstall(
    config: &Config,
    arguments: &UninstallArguments,
    mut output: impl Write,
) -> Result<Outcome, CommandError> {
    let (engine, dry_run) = (arguments.engine, arguments.dry_run);
    let node = Node { config, shim: shim(None) };
    let done = registration::uninstall(&node, engine, dry_run)?;
    tell_recovered(engine, done.recovered, dry_run, &mut output)?;
    let name = engine.name();
    if done.changes.is_empty() && done.notes.is_empty() {
        line(&mut output, &format!("nothing to do: acctguard install changed nothing of {name}"))?;
        return Ok(Outcome::Done);
    }
    for change in &done.changes {
        if dry_run {
            write!(output, "{}", change.diff())?;
        } else {
            line(&mut output, &format!("as before: {}", change.path.display()))?;
        }
    }
    tell_notes(&done.notes, &mut output)?;
    let last =
        if dry_run { "nothing was changed".to_owned() } else { format!("to do: {}", engine.restart_to_forget()) };
    line(&mut output, &last)?;
    Ok(Outcome::Done)
}

fn tell_recovered(engine: Engine, recovered: bool, dry_run: bool, output: &mut impl Write) -> io::Result<()> {
    if !recovered {
        return Ok(());
    }
    let name = engine.name();
    let what = if dry_run { "would be taken back first" } else { "was taken back" };
    line(output, &format!("an earlier run for {name} was cut off; what it left {what}"))
}

/// Who registers acctguard on a node whose daemon does not run would learn it from containers that do not start.
fn tell_absent_daemon(config: &Config, output: &mut impl Write) -> io::Result<()> {
    let Err(error) = Client::connect(config) else { return Ok(()) };
    let then = "until the daemon answers, new containers start unprotected or not at all, as policy and [supervisor] when_absent say";
    line(output, &format!("note: {}; {then}", chain(&error)))
}

fn tell_notes(notes: &[String], output: &mut impl Write) -> io::Result<()> {
    notes.iter().try_for_each(|note| line(output, &format!("note: {note}")))
}

fn line(output: &mut impl Write, text: &str) -> io::Result<()> {
    writeln!(output, "{}", readable::sentence(text))
}

/// The published exit code of what went wrong.
#[must_use]
pub fn exit_code(error: &RegistrationError) -> u8 {
    const PERMISSION: u8 = 77;
    let is_denied = |kind: io::ErrorKind| kind == io::ErrorKind::PermissionDenied;
    match error {
        RegistrationError::Engine(EngineError::NotFound { .. }) => 69,
        RegistrationError::Engine(EngineError::Name { .. }) => 64,
        RegistrationError::Engine(EngineError::Read { source, .. })
        | RegistrationError::Journal(JournalError::Read { source, .. })
            if is_denied(source.kind()) =>
        {
            PERMISSION
        }
        RegistrationError::Apply(error) | RegistrationError::Journal(JournalError::Write(error))
            if is_denied(error.kind()) =>
        {
            PERMISSION
        }
        RegistrationError::Engine(_)
        | RegistrationError::CheckBefore { .. }
        | RegistrationError::ChangedSince { .. } => 78,
        RegistrationError::Journal(_)
        | RegistrationError::Apply(_)
        | RegistrationError::CheckAfter { .. }
        | RegistrationError::NoShim { .. } => 1,
    }
}

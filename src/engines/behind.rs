//! Which runtime acctguard stands in front of, and what the engine is to call instead.
//!
//! Engines pass some options by the base name of what they call (`integration.md` §5 for podman), and the shim finds the real runtime
//! by the name it was called by. So where the real runtime is not simply the `runc` of PATH, the engine calls a link to the shim that
//! has the real runtime's base name; where the engine names its runtime by path, a second link beside it (`NAME.real`) names it.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use crate::config::Config;
use crate::engines::Engine;
use crate::engines::EngineError;
use crate::engines::program;

/// What is appended to the name by which the shim is called, for the link to the real runtime.
pub const REAL_SUFFIX: &str = ".real";
/// Runtimes whose behaviour acctguard is tested with.
const PLAIN: [&str; 2] = ["runc", "crun"];

/// What an engine runs for one of its runtimes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// This file.
    Path(PathBuf),
    /// What is found under this name.
    Search(String),
    /// No program with runc's command line.
    Other(String),
}

/// The runtimes of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtimes {
    /// What containers get that name none.
    pub default: String,
    /// Those that its configuration names.
    pub known: BTreeMap<String, Program>,
}

/// The runtime that acctguard is to call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// Its name in the engine.
    pub name: String,
    /// Where it is, when the engine says so.
    pub path: Option<PathBuf>,
    /// Its base name.
    pub base: String,
}

/// What the engine is to call, and the links that this needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What the engine calls.
    pub program: PathBuf,
    /// Links, each with where it leads.
    pub links: Vec<(PathBuf, PathBuf)>,
}

impl Program {
    fn base(&self) -> Option<String> {
        match self {
            Self::Path(path) => Some(path.file_name()?.to_str()?.to_owned()),
            Self::Search(name) => Some(name.clone()),
            Self::Other(_) => None,
        }
    }

    /// Whether it is runc or crun, by its name.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.base().is_some_and(|base| PLAIN.contains(&base.as_str()))
    }

    /// For people.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Search(name) | Self::Other(name) => name.clone(),
        }
    }
}

impl Runtimes {
    /// The program of the runtime `name`: what the configuration says, else what is found under that name.
    #[must_use]
    pub fn program(&self, name: &str) -> Program {
        let built_in = || match name.strip_prefix('/') {
            Some(_) => Program::Path(PathBuf::from(name)),
            None => Program::Search(name.to_owned()),
        };
        self.known.get(name).cloned().unwrap_or_else(built_in)
    }

    /// The name of a runtime that calls the shim: the default one where it does, else any.
    #[must_use]
    pub fn registered(&self, is_shim: &dyn Fn(&Path) -> bool) -> Option<(&str, bool)> {
        let calls = |program: &Program| matches!(program, Program::Path(path) if is_shim(path));
        if calls(&self.program(&self.default)) {
            return Some((&self.default, true));
        }
        self.known.iter().find(|(_, program)| calls(program)).map(|(name, _)| (name.as_str(), false))
    }
}

/// The runtime to stand in front of: the engine's default one, or for a class beside it, a runc or crun.
///
/// # Errors
/// The default runtime is another and `chain` does not say that acctguard may stand in front of it; it cannot stand in front of any.
pub fn choose(
    engine: Engine,
    runtimes: &Runtimes,
    is_class: bool,
    chain: bool,
    is_shim: &dyn Fn(&Path) -> bool,
) -> Result<Behind, EngineError> {
    let mut name = runtimes.default.clone();
    let mut program = runtimes.program(&name);
    let is_ours = matches!(&program, Program::Path(path) if is_shim(path));
    if is_class && (is_ours || (!program.is_plain() && !chain)) {
        let is_plain = |name: &&str| runtimes.known.get(*name).is_some_and(Program::is_plain);
        name = PLAIN.into_iter().find(is_plain).unwrap_or("runc").to_owned();
        program = runtimes.program(&name);
    }
    let engine = engine.name();
    match &program {
        Program::Other(what) => return Err(EngineError::NotCommandLine { engine, name, what: what.clone() }),
        program if !program.is_plain() && !chain => {
            return Err(EngineError::OtherDefault { engine, name, program: program.shown() });
        }
        _ => {}
    }
    let base = program.base().unwrap_or_default();
    let path = match program {
        Program::Path(path) => Some(path),
        // the shim itself looks for these two
        Program::Search(name) if PLAIN.contains(&name.as_str()) => None,
        Program::Search(wanted) | Program::Other(wanted) => {
            let found = program::in_path(&wanted);
            Some(found.ok_or(EngineError::RuntimeNotFound { engine, name: name.clone(), program: wanted })?)
        }
    };
    Ok(Behind { name, path, base })
}

/// What the engine is to call for `shim` to stand in front of `behind`.
#[must_use]
pub fn entry(engine: Engine, shim: &Path, behind: &Behind) -> Entry {
    // podman passes its log only to what is called runc or crun; the shim by its own name looks for runc first
    let is_direct = engine != Engine::Podman && behind.path.is_none() && behind.base == "runc";
    if is_direct {
        return Entry { program: shim.to_owned(), links: Vec::new() };
    }
    let folder = shim.parent().unwrap_or_else(|| Path::new("/")).join(engine.name());
    let program = folder.join(&behind.base);
    let mut links = vec![(program.clone(), shim.to_owned())];
    if let Some(real) = &behind.path {
        links.push((folder.join(format!("{}{REAL_SUFFIX}", behind.base)), real.clone()));
    }
    Entry { program, links }
}

/// Refuses where acctguard's own configuration names another real runtime than the one that the engine uses: it would win.
///
/// # Errors
/// [`EngineError::OtherReal`].
pub fn agrees(engine: Engine, config: &Config, behind: &Behind, called: &Path) -> Result<(), EngineError> {
    let base = called.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let by_name = config.runtime_paths.get(base).map(|path| (format!("[runtime] paths.{base}"), path));
    let named = by_name.or_else(|| config.runtime_path.as_ref().map(|path| ("[runtime] path".to_owned(), path)));
    match (named, &behind.path) {
        (Some((key, configured)), Some(used)) if program::real(configured) != program::real(used) => {
            Err(EngineError::OtherReal {
                engine: engine.name(),
                key,
                configured: configured.clone(),
                used: used.clone(),
            })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIM: &str = "/usr/libexec/acctguard/acctguard-runtime";

    fn runtimes(default: &str, known: &[(&str, Program)]) -> Runtimes {
        let known = known.iter().map(|(name, program)| ((*name).to_owned(), program.clone()));
        Runtimes { default: default.to_owned(), known: known.collect() }
    }

    fn path(text: &str) -> Program {
        Program::Path(text.into())
    }

    fn is_shim(path: &Path) -> bool {
        path == Path::new(SHIM)
    }

    #[test]
    fn the_default_runtime_is_stood_in_front_of_or_refused() {
        let nvidia = path("/bin/sh");
        let kata = Program::Other("io.containerd.kata.v2".into());
        let chosen = |default: &str, known: &[(&str, Program)], is_class, chain| {
            choose(Engine::Containerd, &runtimes(default, known), is_class, chain, &is_shim)
                .map(|behind| (behind.name, behind.base, behind.path.is_some()))
                .map_err(|error| error.to_string())
        };
        let is = |name: &str, base: &str, has_path| Ok((name.to_owned(), base.to_owned(), has_path));
        assert_eq!(chosen("runc", &[], false, false), is("runc", "runc", false));
        assert_eq!(chosen("crun", &[("crun", path("/opt/crun"))], false, false), is("crun", "crun", true));
        assert!(chosen("nvidia", &[("nvidia", nvidia.clone())], false, false).unwrap_err().contains("--chain puts"));
        assert_eq!(chosen("nvidia", &[("nvidia", nvidia.clone())], false, true), is("nvidia", "sh", true));
        assert_eq!(chosen("nvidia", &[("nvidia", nvidia.clone())], true, false), is("runc", "runc", false));
        assert_eq!(chosen("nvidia", &[("nvidia", nvidia)], true, true), is("nvidia", "sh", true));
        assert!(chosen("kata", &[("kata", kata.clone())], false, true).unwrap_err().contains("no command line"));
        assert_eq!(chosen("kata", &[("kata", kata), ("crun", path("/c/crun"))], true, false), is("crun", "crun", true));
        assert_eq!(chosen("acctguard", &[("acctguard", path(SHIM))], true, false), is("runc", "runc", false));
        let lost = chosen("odd", &[("odd", Program::Search("no-such-runtime".into()))], false, true).unwrap_err();
        assert!(lost.starts_with("find no-such-runtime, the runtime odd of containerd"), "{lost}");
    }

    #[test]
    fn the_engine_calls_the_shim_or_a_link_of_the_right_name() {
        let behind = |base: &str, path: Option<&str>| Behind {
            name: "x".into(),
            base: base.into(),
            path: path.map(PathBuf::from),
        };
        let entry = |engine, base, path| {
            let entry = entry(engine, Path::new(SHIM), &behind(base, path));
            (entry.program.display().to_string(), entry.links.len())
        };
        assert_eq!(entry(Engine::Docker, "runc", None), (SHIM.to_owned(), 0));
        assert_eq!(entry(Engine::Podman, "crun", None), ("/usr/libexec/acctguard/podman/crun".to_owned(), 1));
        assert_eq!(entry(Engine::Podman, "runc", None), ("/usr/libexec/acctguard/podman/runc".to_owned(), 1));
        assert_eq!(entry(Engine::Crio, "crun", Some("/o/crun")), ("/usr/libexec/acctguard/crio/crun".to_owned(), 2));
        assert_eq!(entry(Engine::Containerd, "crun", None), ("/usr/libexec/acctguard/containerd/crun".to_owned(), 1));
    }

    #[test]
    fn another_real_runtime_in_our_own_configuration_is_found() {
        let mut config = Config::defaults();
        let behind = Behind { name: "crun".into(), base: "crun".into(), path: Some("/opt/crun".into()) };
        let agree = |config: &Config| agrees(Engine::Crio, config, &behind, Path::new("/l/crio/crun"));
        assert!(agree(&config).is_ok());
        config.runtime_path = Some("/usr/bin/runc".into());
        assert!(
            agree(&config).unwrap_err().to_string().starts_with("[runtime] path of acctguard's configuration names")
        );
        config.runtime_paths.insert("crun".into(), "/opt/crun".into());
        assert!(agree(&config).is_ok());
    }

    #[test]
    fn who_is_registered_is_seen() {
        let registered = |default: &str, known: &[(&str, Program)]| {
            runtimes(default, known).registered(&is_shim).map(|(name, is_default)| (name.to_owned(), is_default))
        };
        assert_eq!(registered("runc", &[("a", path(SHIM))]), Some(("a".into(), false)));
        assert_eq!(registered("a", &[("a", path(SHIM))]), Some(("a".into(), true)));
        assert_eq!(registered(SHIM, &[]), Some((SHIM.into(), true)), "podman names a path");
        assert_eq!(registered("runc", &[("runc", path("/usr/bin/runc"))]), None);
    }
}

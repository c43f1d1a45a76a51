//! For each container engine that is installed: whether acctguard is registered with it and how, and what that covers: exec sessions,
//! the seal, calls that wait killable, and what no engine of its kind tells.

use std::path::Path;
use std::path::PathBuf;

use crate::cli::doctor::Check;
use crate::cli::doctor::runtimes;
use crate::cli::install;
use crate::config::Config;
use crate::engines::Engine;
use crate::engines::behind::Program;
use crate::engines::behind::REAL_SUFFIX;
use crate::engines::behind::Runtimes;
use crate::engines::journal;
use crate::engines::journal::Phase;
use crate::engines::plan;
use crate::engines::plan::Found;
use crate::model::diagnostic::chain;

/// The static launcher, beside the shim.
const LAUNCHER: &str = "acctguard-launch";
/// The NRI plugin of containerd and CRI-O, as the kernel keeps its name.
const PLUGIN: &str = "acctguard-nri";
/// Where hooks.d files of podman and CRI-O lie (oci-hooks(5)).
const HOOK_FOLDERS: [&str; 2] = ["/usr/share/containers/oci/hooks.d", "/etc/containers/oci/hooks.d"];

/// A few lines for each engine that is there.
pub fn checks(config: &Config, has_landlock: bool) -> Vec<Check> {
    let shim = install::shim(None);
    let found = Engine::ALL.into_iter().filter_map(|engine| plan::find(engine, None).ok());
    found.flat_map(|found| of_engine(config, &shim, has_landlock, &found)).collect()
}

fn of_engine(config: &Config, shim: &Path, has_landlock: bool, found: &Found) -> Vec<Check> {
    let engine = found.engine;
    let version = found.installed.as_ref().map(|installed| format!(" {}", installed.version)).unwrap_or_default();
    let what = format!("engine {}{version}", engine.name());
    let mut checks = Vec::new();
    if let Ok(Some(record)) = journal::load(&config.state_dir, engine)
        && record.phase != Phase::Applied
    {
        let remedy = format!("run acctguard install or uninstall --engine {} again", engine.name());
        checks.push(Check::missing(&what, "an install or uninstall was cut off between its steps", remedy));
    }
    match plan::runtimes(found) {
        Ok(known) => {
            checks.push(registered(&what, engine, &known, shim));
            if let Some(program) = called(&known, shim) {
                checks.push(seal(&what, config, shim, has_landlock));
                checks.push(killable(&what, config, &program));
                checks.extend(untold(&what, engine));
            }
        }
        Err(error) => checks.push(Check::missing(&what, chain(&error), "put the file right; the engine reads it, too")),
    }
    checks
}

/// What the engine calls for acctguard.
fn called(known: &Runtimes, shim: &Path) -> Option<PathBuf> {
    let (name, _) = known.registered(&|path| plan::is_shim(shim, path))?;
    match known.program(name) {
        Program::Path(path) => Some(path),
        Program::Search(_) | Program::Other(_) => None,
    }
}

fn registered(what: &str, engine: Engine, known: &Runtimes, shim: &Path) -> Check {
    let install = format!("acctguard install --engine {}", engine.name());
    match known.registered(&|path| plan::is_shim(shim, path)) {
        Some((name, true)) => {
            let detail = format!("acctguard is its default runtime ({name}): creations and exec sessions are seen");
            Check::fine(what, detail)
        }
        Some((name, false)) => {
            let detail = format!(
                "acctguard is registered as {name}, beside the default runtime {}, whose containers and exec sessions are not seen",
                known.default
            );
            Check::note(what, detail, format!("have workloads name {name}, or {install} to make it the default one"))
        }
        None if has_hook(engine) => {
            let detail = "acctguard is not registered, a hook is there: creations are recorded, exec sessions are not seen, nothing is sealed";
            Check::note(what, detail, install)
        }
        None if takes_plugins(engine) && plugin_runs(Path::new("/proc")) => {
            let detail = "acctguard is not registered, its NRI plugin runs: creations are recorded, calls are intercepted where the engine \
                allows that to a plugin, nothing is sealed; while the plugin is away containers start without";
            let remedy = format!("have the engine require it (required_plugins = [\"acctguard\"]), or {install}");
            Check::note(what, detail, remedy)
        }
        None => {
            Check::note(what, "acctguard is not registered: its containers and exec sessions are not seen", install)
        }
    }
}

fn has_hook(engine: Engine) -> bool {
    let reads_hooks = matches!(engine, Engine::Podman | Engine::Crio);
    reads_hooks && HOOK_FOLDERS.iter().any(|folder| Path::new(folder).join("acctguard.json").exists())
}

const fn takes_plugins(engine: Engine) -> bool {
    matches!(engine, Engine::Containerd | Engine::Crio)
}

/// Whether a process of this name is below `proc`, whoever started it: systemd, or an engine out of its folder of plugins.
fn plugin_runs(proc: &Path) -> bool {
    let processes = std::fs::read_dir(proc).into_iter().flatten().flatten();
    processes
        .filter(|process| process.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()))
        .any(|process| std::fs::read_to_string(process.path().join("comm")).is_ok_and(|name| name.trim_end() == PLUGIN))
}

fn seal(what: &str, config: &Config, shim: &Path, has_landlock: bool) -> Check {
    let launcher = config.launcher.clone().unwrap_or_else(|| shim.with_file_name(LAUNCHER));
    if !has_landlock {
        let remedy = "use a kernel with Landlock and boot it with landlock among lsm=";
        return Check::note(what, "enforced containers cannot be sealed: the kernel has no Landlock", remedy);
    }
    if !launcher.is_file() {
        let detail = format!("enforced containers cannot be sealed: {} is not there", launcher.display());
        return Check::note(
            what,
            detail,
            "install the static acctguard-launch there, or name it as [runtime] launcher",
        );
    }
    Check::fine(what, "enforced containers can be sealed")
}

/// The real runtime behind what the engine calls, found as the shim finds it.
fn real(config: &Config, program: &Path) -> Option<PathBuf> {
    let base = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let mut beside = program.as_os_str().to_owned();
    beside.push(REAL_SUFFIX);
    let configured = config.runtime_paths.get(base).or(config.runtime_path.as_ref()).cloned();
    let beside = || Some(PathBuf::from(&beside)).filter(|path| path.exists());
    let names = if base == "crun" { ["crun", "crun"] } else { ["runc", "crun"] };
    configured.or_else(beside).or_else(|| names.into_iter().find_map(runtimes::in_path))
}

fn killable(what: &str, config: &Config, program: &Path) -> Check {
    let Some(path) = real(config, program) else {
        let remedy = "install runc or crun, or name the real runtime as [runtime] path";
        return Check::missing(what, "there is no runtime behind acctguard", remedy);
    };
    let shown = std::fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
    match runtimes::ask(path).waits_killable() {
        Ok(()) => Check::fine(what, format!("calls that are being answered wait killable ({})", shown.display())),
        Err(reason) => {
            let detail = format!(
                "signals can cancel a call that is being answered, but in enforced workloads that let acctguard-launch listen: {}: {reason}",
                shown.display()
            );
            Check::note(what, detail, "use crun 1.8.1 or later, or runc 1.5.1 or later with libseccomp 2.6")
        }
    }
}

/// What no runtime learns from such an engine, and where else it stands (`integration.md` §3 to §5, §9).
fn untold(what: &str, engine: Engine) -> Vec<Check> {
    const FOR_WHOM: (&str, &str) = (
        "it does not tell for whom it creates a container or starts an exec session",
        "look the pod's uid up in the API server's audit log",
    );
    const ACCOUNT: (&str, &str) = (
        "a pod's service account shows by its mounted token only: of pods with automountServiceAccountToken: false it is not told",
        "look up spec.serviceAccountName of the pod's uid: kubectl get pods --all-namespaces -o json",
    );
    let lines: &[(&str, &str)] = match engine {
        Engine::Containerd => &[
            FOR_WHOM,
            ACCOUNT,
            (
                "it hands on no labels of a pod, and annotations only as far as pod_annotations says: what a pod belongs to is not told without",
                "acctguard install has it hold kubernetes.io/config.*, which tells static pods; look others' ownerReferences up by their uid",
            ),
            (
                "it tells images' digests, and ctr's images, when it is asked: after a creation, as container.identified",
                "match by the event that follows; a creation's onUnexpected: refuse cannot go by a digest there",
            ),
        ],
        Engine::Crio => &[
            FOR_WHOM,
            ACCOUNT,
            (
                "it hands on labels of pods, no ownerReferences: what a pod belongs to shows where its controller labels it",
                "look ownerReferences of others up by the pod's uid: kubectl get pods --all-namespaces -o json",
            ),
        ],
        Engine::Docker => &[
            (
                "it does not tell which client of its API had a container created",
                "watch the clients: auditctl -w /var/run/docker.sock, or an authorization plugin of dockerd",
            ),
            (
                "an image that was never in a registry has no digest, its own id only",
                "push images and pull them again where policy expects digests",
            ),
        ],
        Engine::Podman => &[],
    };
    lines.iter().map(|(detail, remedy)| Check::note(what, *detail, *remedy)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Standing;

    const SHIM: &str = "/no/such/acctguard-runtime";

    fn known(default: &str, ours: &str) -> Runtimes {
        let shim = Program::Path(SHIM.into());
        Runtimes { default: default.to_owned(), known: [(ours.to_owned(), shim)].into() }
    }

    #[test]
    fn how_acctguard_is_registered_is_told_with_the_remedy() {
        let line = |known: &Runtimes| registered("engine docker", Engine::Docker, known, Path::new(SHIM));
        assert_eq!(line(&known("a", "a")).standing, Standing::Fine);
        let beside = line(&known("runc", "a"));
        assert_eq!(beside.standing, Standing::Note);
        assert!(beside.detail.contains("registered as a, beside the default runtime runc"), "{beside:?}");
        let none = line(&Runtimes { default: "runc".to_owned(), known: std::collections::BTreeMap::default() });
        assert_eq!(none.remedy.as_deref(), Some("acctguard install --engine docker"));
    }

    #[test]
    fn a_plugin_that_runs_is_seen() {
        let proc = tempfile::tempdir().expect("folder");
        for (process, name, runs) in [("self", PLUGIN, false), ("7", "bash", false), ("8", PLUGIN, true)] {
            let folder = proc.path().join(process);
            std::fs::create_dir(&folder).expect("makes");
            std::fs::write(folder.join("comm"), format!("{name}\n")).expect("writes");
            assert_eq!(plugin_runs(proc.path()), runs, "{process} {name}");
        }
    }

    #[test]
    fn what_the_seal_lacks_is_named() {
        let folder = tempfile::tempdir().expect("folder");
        let shim = folder.path().join("acctguard-runtime");
        let config = Config::defaults();
        assert!(seal("e", &config, &shim, false).detail.contains("no Landlock"));
        assert!(seal("e", &config, &shim, true).detail.contains("acctguard-launch is not there"));
        std::fs::write(folder.path().join(LAUNCHER), "").expect("writes");
        assert_eq!(seal("e", &config, &shim, true).standing, Standing::Fine);
    }

    #[test]
    fn the_runtime_behind_is_found_as_the_shim_finds_it() {
        let folder = tempfile::tempdir().expect("folder");
        let called = folder.path().join("crun");
        std::os::unix::fs::symlink("/bin/sh", folder.path().join("crun.real")).expect("links");
        let mut config = Config::defaults();
        assert_eq!(real(&config, &called), Some(folder.path().join("crun.real")));
        config.runtime_path = Some("/bin/true".into());
        assert_eq!(real(&config, &called), Some("/bin/true".into()));
        assert!(killable("e", &config, &called).detail.contains("signals can cancel"), "it is no runtime");
    }

    #[test]
    fn what_engines_do_not_tell_is_told() {
        for engine in Engine::ALL {
            let lines = untold("e", engine);
            assert_eq!(lines.is_empty(), engine == Engine::Podman);
            assert!(lines.iter().all(|line| line.standing == Standing::Note && line.remedy.is_some()));
            let told = |word: &str| lines.iter().any(|line| line.detail.contains(word));
            assert_eq!(told("belongs to"), matches!(engine, Engine::Containerd | Engine::Crio), "{engine:?}");
            assert_eq!(told("service account"), matches!(engine, Engine::Containerd | Engine::Crio), "{engine:?}");
            assert_eq!(told("digest"), matches!(engine, Engine::Containerd | Engine::Docker), "{engine:?}");
        }
    }
}

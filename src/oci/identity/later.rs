//! What an engine tells of a container only after its creation, which waits for none of it.
//!
//! containerd tells image and digest when it is asked ([`crate::oci::containerd_api`]), podman and Docker what they write into their
//! files later than they call the runtime. CRI-O tells everything in annotations.

use std::path::Path;
use std::path::PathBuf;

use crate::model::event::Container;
use crate::model::event::Process;
use crate::model::workload::ContainerId;
use crate::oci::bundle::Bundle;
use crate::oci::bundle::BundleError;
use crate::oci::containerd_api::Stored;
use crate::oci::identity;
use crate::oci::identity::Known;
use crate::oci::launcher_edit;

/// A folder of one of containerd's tasks: `<state>/io.containerd.runtime.v2.task/<namespace>/<id>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task<'a> {
    /// containerd's namespace.
    pub namespace: &'a str,
    /// Its state folder.
    pub state: &'a Path,
}

/// Whether `bundle` is the folder of a task of containerd's, and which.
#[must_use]
pub fn task<'a>(bundle: &'a Path, id: &ContainerId) -> Option<Task<'a>> {
    let of_namespace = bundle.parent().filter(|_| bundle.file_name().is_some_and(|name| name == id.as_str()))?;
    let tasks = of_namespace.parent()?;
    let is_of_tasks = tasks.file_name()?.to_str()?.starts_with("io.containerd.runtime.");
    is_of_tasks.then_some(Task { namespace: of_namespace.file_name()?.to_str()?, state: tasks.parent()? })
}

/// The socket of the containerd that had a container made, as the command line of its own shim among `ancestry` names it
/// (containerd `runtime/v2/shim/shim.go`, `-address`); else the usual one in its state folder.
#[must_use]
pub fn socket(task: &Task<'_>, ancestry: &[Process]) -> PathBuf {
    let of_shim = |process: &&Process| process.argv.first().is_some_and(|name| name.contains("containerd-shim"));
    let named = ancestry.iter().find(of_shim).and_then(|shim| {
        let words = || shim.argv.iter().map(String::as_str);
        let joined = words().find_map(|word| word.trim_start_matches('-').strip_prefix("address="));
        joined.or_else(|| words().skip_while(|word| word.trim_start_matches('-') != "address").nth(1))
    });
    let named = named.map(|address| address.strip_prefix("unix://").unwrap_or(address)).map(Path::new);
    named.filter(|path| path.is_absolute()).map_or_else(|| task.state.join("containerd.sock"), Path::to_path_buf)
}

/// Whether the engine may yet tell more.
#[must_use]
pub fn is_incomplete(container: &Container) -> bool {
    match container.engine.as_str() {
        "containerd" => container.image.as_ref().is_none_or(|image| image.digest.is_none()),
        "podman" | "docker" => container.image.is_none() || container.name.is_none(),
        _ => false,
    }
}

/// `container` with what containerd told of its image; what was known before stays.
#[must_use]
pub fn with_image(container: Container, told: Stored) -> Container {
    let mut image = match (container.image, told.image) {
        (Some(image), _) => image,
        (None, Some(reference)) => identity::split_image(&reference),
        (None, None) => return Container { image: None, ..container },
    };
    image.digest = image.digest.or(told.digest);
    Container { image: Some(image), ..container }
}

/// `container` with what its engine's files tell by now; what was known before stays.
///
/// # Errors
/// [`BundleError`]: its bundle is gone.
pub fn from_files(container: Container, bundle: &Path) -> Result<Container, BundleError> {
    let bundle = Bundle::open(bundle)?;
    let spec = launcher_edit::own(bundle.config());
    let told = identity::workload(&spec, bundle.directory(), &container.id, &Known::default()).container;
    let (name, image, pod) = (container.name.or(told.name), container.image.or(told.image), container.pod.or(told.pod));
    Ok(Container { name, image, pod, ..container })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::Image;

    fn id() -> ContainerId {
        ContainerId::new("abc").expect("valid")
    }

    fn shim(argv: &[&str]) -> Process {
        Process { argv: argv.iter().map(|word| (*word).to_owned()).collect(), ..Process::default() }
    }

    #[test]
    fn containerd_s_socket_is_the_one_that_its_shim_was_given() {
        let bundle = Path::new("/run/c/io.containerd.runtime.v2.task/lab/abc");
        let task = task(bundle, &id()).expect("a task");
        assert_eq!((task.namespace, task.state), ("lab", Path::new("/run/c")));
        let shell = shim(&["/bin/sh", "-address", "/run/of/nobody.sock"]);
        for (argv, expected) in [
            (&["/usr/bin/containerd-shim-runc-v2", "-namespace", "lab", "-address", "/run/x.sock"][..], "/run/x.sock"),
            (&["containerd-shim-runc-v2", "--address=unix:///run/x.sock"], "/run/x.sock"),
            (&["containerd-shim-runc-v2", "-address", "relative.sock"], "/run/c/containerd.sock"),
            (&["containerd-shim-runc-v2", "-address"], "/run/c/containerd.sock"),
            (&[], "/run/c/containerd.sock"),
        ] {
            assert_eq!(socket(&task, &[shell.clone(), shim(argv)]), Path::new(expected), "{argv:?}");
        }
    }

    #[test]
    fn what_is_no_folder_of_a_task_is_none() {
        for bundle in ["/run/c/io.containerd.runtime.v2.task/lab/other", "/run/c/lab/abc", "/abc", "abc", "/"] {
            assert_eq!(task(Path::new(bundle), &id()), None, "{bundle}");
        }
    }

    #[test]
    fn what_was_known_stays_and_what_was_not_is_filled_in() {
        let container = |engine: &str, image: Option<&str>| Container {
            id: id(),
            name: None,
            image: image.map(identity::split_image),
            engine: engine.to_owned(),
            runtime: None,
            pod: None,
            started_at: None,
        };
        let stored =
            |image: &str, digest: &str| Stored { image: Some(image.to_owned()), digest: Some(digest.to_owned()) };
        let of_image = |container: Container| {
            let Image { name, tag, digest, .. } = container.image.expect("has one");
            (name, tag.unwrap_or_default(), digest.unwrap_or_default())
        };
        let words = |name: &str, tag: &str, digest: &str| (name.to_owned(), tag.to_owned(), digest.to_owned());
        let bare = container("containerd", None);
        assert!(is_incomplete(&bare));
        let filled = with_image(bare.clone(), stored("localhost/a:1", "sha256:11"));
        assert!(!is_incomplete(&filled));
        assert_eq!(of_image(filled), words("localhost/a", "1", "sha256:11"));
        let by_cri = container("containerd", Some("localhost/a:1"));
        assert!(is_incomplete(&by_cri));
        assert_eq!(
            of_image(with_image(by_cri, stored("sha256:22", "sha256:11"))),
            words("localhost/a", "1", "sha256:11")
        );
        let pinned = container("containerd", Some("a@sha256:33"));
        assert_eq!(of_image(with_image(pinned, stored("b:2", "sha256:11"))), words("a", "", "sha256:33"));
        assert_eq!(with_image(bare.clone(), Stored { image: None, digest: None }), bare);
        for (engine, expected) in [("podman", true), ("docker", true), ("cri-o", false), ("none", false)] {
            assert_eq!(is_incomplete(&container(engine, None)), expected, "{engine}");
        }
    }
}

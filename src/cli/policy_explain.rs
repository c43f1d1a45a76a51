//! `acctguard policy explain --bundle DIR`: which document decides for the container of a bundle, and why not an earlier one.

use std::io;
use std::io::Write;
use std::path::Path;

use crate::config::Config;
use crate::config::policy_files;
use crate::model::policy::Applied;
use crate::model::policy::BUILT_IN_NAME;
use crate::model::policy::MODE_ANNOTATION;
use crate::model::policy::Mode;
use crate::model::policy::OnUnprotected;
use crate::model::policy::PolicySet;
use crate::model::policy::matching::image_spellings;
use crate::model::policy::parse::PolicyError;
use crate::model::redact::printable;
use crate::model::workload::ContainerId;
use crate::model::workload::Workload;
use crate::oci::bundle::Bundle;
use crate::oci::bundle::BundleError;
use crate::oci::identity;
use crate::oci::identity::Known;

/// Why nothing could be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The bundle cannot be read.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The folder's name is no container id and none was given.
    #[error("explain bundle {0:?}: its folder's name is no container id; name the container with --id")]
    NoId(String),
    /// The policies cannot be used; every mistake, with its line and a caret.
    #[error("{}", diagnostics(.0))]
    Policy(Vec<PolicyError>),
    /// The explanation could not be written.
    #[error("write explanation")]
    Write(#[from] io::Error),
}

fn diagnostics(errors: &[PolicyError]) -> String {
    errors.iter().map(PolicyError::diagnostic).collect::<Vec<_>>().join("\n")
}

/// Explains which document decides for the container `id` of `bundle`; without `id` it is told from the bundle's path, as
/// engines name their folders.
///
/// # Errors
/// [`ExplainError`]: bundle or policies cannot be read, or the output cannot be written.
pub fn explain(
    bundle: &Path,
    id: Option<ContainerId>,
    config: &Config,
    out: &mut dyn Write,
) -> Result<(), ExplainError> {
    let policies = policy_files::load(&config.policy_dir).map_err(ExplainError::Policy)?;
    let bundle = Bundle::open(bundle)?;
    let directory = bundle.directory();
    let id = match id.or_else(|| id_of(directory)) {
        Some(id) => id,
        None => return Err(ExplainError::NoId(printable(directory.as_os_str().as_encoded_bytes()))),
    };
    let known = Known { cluster: config.cluster.as_deref(), ..Known::default() };
    let workload = identity::workload(bundle.config(), directory, &id, &known);
    write_explanation(&policies, &workload, out)?;
    Ok(())
}

/// The id that a bundle's path tells: the folder's name, for podman and CRI-O the one above `userdata`.
fn id_of(bundle: &Path) -> Option<ContainerId> {
    let folder = if bundle.ends_with("userdata") { bundle.parent()? } else { bundle };
    ContainerId::new(folder.file_name()?.to_str()?).ok()
}

/// Writes what the workload is, every document that does not match with the reason, and the one that decides.
///
/// # Errors
/// Writing to `out` failed.
pub fn write_explanation(policies: &PolicySet, workload: &Workload, out: &mut dyn Write) -> io::Result<()> {
    write_workload(workload, out)?;
    let (passed, decides) = policies.trace(workload);
    for (document, mismatch) in passed {
        writeln!(out, "no match  {} ({}:{}): {mismatch}", document.name, document.file, document.line)?;
    }
    match decides {
        Some(document) => {
            writeln!(out, "decides   {} ({}:{})", document.name, document.file, document.line)?;
        }
        None => writeln!(out, "decides   {BUILT_IN_NAME}: no document matches, the audit default holds")?,
    }
    write_applied(&policies.apply(workload), out)
}

fn write_workload(workload: &Workload, out: &mut dyn Write) -> io::Result<()> {
    let container = &workload.container;
    let image = container.image.as_ref().and_then(|image| image_spellings(image).pop());
    let pod = container.pod.as_ref();
    for (field, value) in [
        ("container", Some(container.name.as_deref().unwrap_or(container.id.as_str()))),
        ("engine", Some(container.engine.as_str())),
        ("image", image.as_deref()),
        ("namespace", pod.map(|pod| pod.namespace.as_str())),
        ("pod", pod.map(|pod| pod.name.as_str())),
        ("cluster", workload.cluster.as_deref()),
        ("privileged", Some(if workload.privileged { "yes" } else { "no" })),
    ] {
        let value = value.map_or_else(|| "not told by the engine".to_owned(), |text| printable(text.as_bytes()));
        writeln!(out, "{field:<10}{value}")?;
    }
    Ok(())
}

fn write_applied(applied: &Applied, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "mode      {} (from {})", applied.mode.as_str(), applied.mode_source)?;
    let effect = match applied.mode {
        Mode::Off => "account changes are not watched",
        Mode::Audit => "account changes are recorded and allowed",
        Mode::Enforce => "account changes are recorded and refused with EPERM",
    };
    writeln!(out, "effect    {effect}")?;
    let unprotected = match applied.on_unprotected {
        OnUnprotected::Refuse => "the container is not created",
        OnUnprotected::Record => "the container is created and recorded as unprotected",
    };
    writeln!(out, "unprotected: {unprotected}")?;
    if let Some(word) = &applied.ignored_annotation {
        let word = printable(word.as_bytes());
        writeln!(
            out,
            "note: annotation {MODE_ANNOTATION} says {word:?}, which is no mode; write off, audit or enforce"
        )?;
    }
    if !applied.allow.is_empty() {
        writeln!(
            out,
            "note: allow exceptions are not in force in this version; enforce refuses what they name as well"
        )?;
    }
    let databases: Vec<&str> = applied.databases.iter().map(|database| database.as_str()).collect();
    writeln!(out, "databases {}", databases.join(" "))?;
    writeln!(out, "digest    {}", applied.digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deciding_document_and_the_passed_over_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let policies = folder.path().join("policy.d");
        std::fs::create_dir(&policies).unwrap();
        let policy = |name: &str, spec: &str| {
            format!(
                "apiVersion: acctguard.io/v1alpha1\nkind: AccountPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
            )
        };
        std::fs::write(policies.join("1.yaml"), policy("dev", "{mode: off, match: {namespaces: [dev]}}")).unwrap();
        std::fs::write(policies.join("2.yaml"), policy("rest", "{mode: audit}")).unwrap();
        let bundle = folder.path().join("c1");
        std::fs::create_dir(&bundle).unwrap();
        let spec = r#"{"ociVersion":"1.0.2","root":{"path":"rootfs"},"annotations":{"acctguard.io/mode":"enforce",
            "io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-namespace":"prod",
            "io.kubernetes.cri.sandbox-name":"web","io.kubernetes.cri.container-name":"main",
            "io.kubernetes.cri.image-name":"registry.example/app:1"}}"#;
        std::fs::write(bundle.join("config.json"), spec).unwrap();
        let config = Config { policy_dir: policies.clone(), ..Config::defaults() };
        let mut out = Vec::new();
        explain(&bundle, None, &config, &mut out).unwrap();
        let shown = String::from_utf8(out).unwrap();
        for line in [
            "container main",
            "image     registry.example/app:1",
            "cluster   not told by the engine",
            "mode      enforce (from annotation acctguard.io/mode)",
            "unprotected: the container is not created",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{line:?} in {shown}");
        }
        assert!(shown.contains("no match  dev ("), "{shown}");
        assert!(shown.contains("namespaces: prod is not among [\"dev\"]"), "{shown}");
        assert!(shown.contains("decides   rest ("), "{shown}");
        std::fs::write(policies.join("3.yaml"), "nonsense").unwrap();
        let error = explain(&bundle, None, &config, &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("3.yaml:1:1"), "{error}");
        let missing = explain(&folder.path().join("none"), None, &config, &mut Vec::new());
        assert!(matches!(missing, Err(ExplainError::Policy(_) | ExplainError::Bundle(_))));
    }

    #[test]
    fn engines_name_their_folders_by_the_id() {
        for (bundle, id) in [
            ("/run/containerd/io.containerd.runtime.v2.task/k8s.io/0123", Some("0123")),
            ("/var/lib/containers/storage/overlay-containers/4567/userdata", Some("4567")),
            ("/", None),
            ("/a b", None),
        ] {
            assert_eq!(id_of(Path::new(bundle)).as_ref().map(ContainerId::as_str), id, "{bundle}");
        }
    }
}

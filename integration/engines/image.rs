//! Images for engines: the small root file system as an archive, and OCI archives of layers made here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::command::finish;
use crate::harness::machine::rootfs;
use crate::place::Place;

/// The small root file system as a tar archive.
pub fn root_archive(place: &Place) -> PathBuf {
    let archive = place.path("root.tar");
    if !archive.exists() {
        archive_of(&rootfs("small"), &archive);
    }
    archive
}

fn archive_of(folder: &Path, archive: &Path) {
    finish(
        Command::new("tar")
            .args(["--numeric-owner", "--one-file-system", "-cf"])
            .arg(archive)
            .arg("-C")
            .arg(folder)
            .arg("."),
    )
    .ok();
}

/// A pause image: one static program that waits for its end, as an OCI archive named `name`.
pub fn pause(place: &Place, name: &str) -> PathBuf {
    let root = place.node.scratch.folder("pause-root");
    let source = place.path("pause.c");
    let text = "#include <signal.h>\n#include <unistd.h>\nstatic void end(int number) { (void)number; _exit(0); }\n\
                int main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }\n";
    fs::write(&source, text).expect("write the pause program");
    finish(Command::new("gcc").args(["-static", "-O1", "-o"]).arg(root.join("pause")).arg(&source)).ok();
    let layer = place.path("pause.tar");
    archive_of(&root, &layer);
    oci_archive(place, name, &layer, &["/pause"])
}

/// The small root file system as an OCI archive named `name`.
pub fn guarded(place: &Place, name: &str) -> PathBuf {
    let layer = root_archive(place);
    oci_archive(place, name, &layer, &["/bin/sh"])
}

/// An OCI image layout of one layer, packed (image-spec image-layout.md); made once in a place.
fn oci_archive(place: &Place, name: &str, layer: &Path, entrypoint: &[&str]) -> PathBuf {
    let plain: String =
        name.chars().map(|character| if character.is_ascii_alphanumeric() { character } else { '-' }).collect();
    let archive = place.path(&format!("{plain}.tar"));
    if archive.exists() {
        return archive;
    }
    let layout = place.node.scratch.folder(&format!("layout-{plain}"));
    let blobs = place.node.scratch.folder(&format!("layout-{plain}/blobs/sha256"));
    let layer = blob(&blobs, layer, "application/vnd.oci.image.layer.v1.tar");
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": entrypoint, "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let config = document(place, &blobs, &config, "application/vnd.oci.image.config.v1+json");
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    let mut manifest = document(place, &blobs, &manifest, "application/vnd.oci.image.manifest.v1+json");
    manifest["annotations"] = json!({"io.containerd.image.name": name});
    fs::write(layout.join("index.json"), json!({"schemaVersion": 2, "manifests": [manifest]}).to_string())
        .expect("write");
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("write");
    archive_of(&layout, &archive);
    archive
}

fn document(place: &Place, blobs: &Path, value: &Value, kind: &str) -> Value {
    let file = place.path("document.json");
    fs::write(&file, value.to_string()).expect("write");
    blob(blobs, &file, kind)
}

/// Puts a file among the blobs; its descriptor.
fn blob(blobs: &Path, file: &Path, kind: &str) -> Value {
    let sum = finish(Command::new("sha256sum").arg(file)).ok().stdout;
    let hash = sum.split_whitespace().next().expect("a hash").to_owned();
    let place = blobs.join(&hash);
    fs::copy(file, &place).expect("copy a blob");
    let size = fs::metadata(&place).expect("read its size").len();
    json!({"mediaType": kind, "digest": format!("sha256:{hash}"), "size": size})
}

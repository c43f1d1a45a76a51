//! What podman and Docker write down of a container before they call the runtime. A creation waits for it, so that files are
//! bounded in size, and of a long list one entry is parsed. What is larger, or is no such file, tells nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Told;
use super::image_id;
use super::split_image;
use crate::model::event::Image;
use crate::model::event::Pod;
use crate::model::workload::ContainerId;

/// Largest engine file that is read: ten thousand containers or images of podman.
const MAX_ENGINE_FILE_BYTES: u64 = 8 * 1024 * 1024;
/// Largest one that is parsed as a whole, which takes some ten milliseconds a mebibyte.
const MAX_PARSED_BYTES: usize = 1024 * 1024;
/// How far up from a container's root Docker's data folder is looked for.
const MAX_LEVELS: usize = 8;

/// An entry of `containers.json` (containers/storage `containers.go`); `metadata` is podman's, a JSON text.
#[derive(Debug, Deserialize)]
struct StoredContainer {
    names: Option<Vec<String>>,
    image: Option<String>,
    metadata: Option<String>,
}

/// What podman writes into `metadata` (podman `libpod/storage.go`).
#[derive(Debug, Default, Deserialize)]
struct PodmanMetadata {
    #[serde(rename = "image-name")]
    image_name: Option<String>,
    name: Option<String>,
}

/// An entry of `images.json` (containers/storage `images.go`).
#[derive(Debug, Deserialize)]
struct StoredImage {
    digest: Option<String>,
}

/// podman's bundle is `<storage>/<driver>-containers/<id>/userdata`; `containers.json` two folders up lists names and images,
/// `<driver>-images/images.json` beside it the images' digests.
pub(super) fn podman(bundle: &Path, id: &ContainerId) -> Told {
    let mut told = Told { engine: "podman", ..Told::default() };
    let folder = bundle.parent().filter(|folder| folder.file_name().is_some_and(|name| name == id.as_str()));
    let Some(storage) = folder.and_then(Path::parent) else {
        return told;
    };
    let find = |name: &str| entry::<StoredContainer>(&storage.join(name), id.as_str());
    let Some(entry) = find("containers.json").or_else(|| find("volatile-containers.json")) else {
        return told;
    };
    let metadata: PodmanMetadata = entry.metadata.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let name = entry.names.and_then(|names| names.into_iter().next()).or(metadata.name);
    told.name = name.filter(|name| !name.is_empty());
    told.image = metadata.image_name.filter(|name| !name.is_empty()).map(|name| split_image(&name));
    if let Some(image) = &mut told.image {
        image.id = entry.image.as_deref().and_then(image_id);
        if image.digest.is_none() {
            image.digest = entry.image.and_then(|id| podman_digest(storage, &id));
        }
    }
    told
}

/// The digest of the manifest of image `id`.
fn podman_digest(storage: &Path, id: &str) -> Option<String> {
    let driver = storage.file_name()?.to_str()?.strip_suffix("-containers")?;
    let images = storage.with_file_name(format!("{driver}-images")).join("images.json");
    entry::<StoredImage>(&images, id)?.digest.filter(|digest| !digest.is_empty())
}

/// The entry of this id in a list of containers/storage, which writes it without spaces and `id` first. Within a text of such
/// a list quotes have a backslash before them, so that only an entry begins so.
fn entry<T: DeserializeOwned>(path: &Path, id: &str) -> Option<T> {
    let bytes = read(path)?;
    let beginning = format!("{{\"id\":{}", Value::from(id));
    if let Some(at) = memchr::memmem::find(&bytes, beginning.as_bytes()) {
        return T::deserialize(&mut serde_json::Deserializer::from_slice(bytes.get(at..)?)).ok();
    }
    // of another writer
    let list: Vec<Value> = parse(&bytes)?;
    let found = list.into_iter().find(|entry| entry.get("id").and_then(Value::as_str) == Some(id))?;
    serde_json::from_value(found).ok()
}

/// Docker's `<data-root>/containers/<id>/config.v2.json`, whose place the mounts of `/etc/hosts` and its like, or else the root
/// path, give away.
pub(super) fn docker_file(spec: &Value, id: &ContainerId) -> Option<PathBuf> {
    let mounts = spec.get("mounts").and_then(Value::as_array).into_iter().flatten();
    let sources = mounts.filter_map(|mount| mount.get("source").and_then(Value::as_str)).map(Path::new);
    let by_mount = sources.filter_map(Path::parent).find(|folder| {
        folder.ends_with(Path::new("containers").join(id.as_str())) && folder.join("config.v2.json").is_file()
    });
    if let Some(folder) = by_mount {
        return Some(folder.join("config.v2.json"));
    }
    let root = Path::new(spec.pointer("/root/path").and_then(Value::as_str)?);
    let ancestors = root.is_absolute().then(|| root.ancestors().take(MAX_LEVELS))?;
    ancestors
        .map(|folder| folder.join("containers").join(id.as_str()).join("config.v2.json"))
        .find(|file| file.is_file())
}

/// Name, image and labels out of that file; the digest that the image was pulled by out of the data folder's
/// `image/<driver>/repositories.json` (moby `reference/store.go`). An image that was never in a registry has none.
pub(super) fn docker(file: Option<&Path>) -> Told {
    let mut told = Told { engine: "docker", ..Told::default() };
    let Some((file, config)) = file.and_then(|file| Some((file, read_json::<Value>(file)?))) else {
        return told;
    };
    let get = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).filter(|value| !value.is_empty());
    told.name = get("/Name").map(|name| name.trim_start_matches('/').to_owned());
    told.image = get("/Config/Image").map(split_image);
    if let Some(image) = &mut told.image {
        image.id = get("/Image").and_then(image_id);
        if image.digest.is_none() {
            image.digest = file.ancestors().nth(3).and_then(|data| docker_digest(data, get("/Driver")?, image));
        }
    }
    let labels = |key: &str| config.pointer("/Config/Labels")?.get(key)?.as_str().map(ToOwned::to_owned);
    // Kubernetes through cri-dockerd labels its containers as the kubelet names them.
    told.pod = labels("io.kubernetes.pod.namespace")
        .zip(labels("io.kubernetes.pod.name"))
        .map(|(namespace, name)| Pod { namespace, name, uid: labels("io.kubernetes.pod.uid") });
    told
}

/// `repositories.json`: for each repository the references (`name:tag`, `name@digest`) and the id that each stands for.
#[derive(Debug, Deserialize)]
struct Repositories {
    #[serde(rename = "Repositories")]
    by_name: BTreeMap<String, BTreeMap<String, String>>,
}

fn docker_digest(data: &Path, driver: &str, image: &Image) -> Option<String> {
    // a name of a folder, not a way out of this one
    let driver = Some(driver).filter(|driver| !driver.contains('/') && !driver.starts_with('.'))?;
    let repositories: Repositories = read_json(&data.join("image").join(driver).join("repositories.json"))?;
    let references = repositories.by_name.get(&image.name)?;
    let of_image = references.iter().filter(|(_, id)| Some(id.as_str()) == image.id.as_deref());
    of_image.into_iter().find_map(|(reference, _)| split_image(reference).digest)
}

/// A small engine file; anything wrong with it means that it tells nothing.
fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    parse(&read(path)?)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    (bytes.len() <= MAX_PARSED_BYTES).then(|| serde_json::from_slice(bytes).ok()).flatten()
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > MAX_ENGINE_FILE_BYTES {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MAX_ENGINE_FILE_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

//! The Kubernetes service account that a pod runs as, by the token that the kubelet mounts into its containers.
//!
//! No engine is told the account (`integration.md` §9); the token is a JWT whose claim `sub` is
//! `system:serviceaccount:<namespace>:<name>` (RFC 7519 §4.1.2; Kubernetes "Managing Service Accounts"). Only a token in a volume
//! that the kubelet projects, and of the pod's own namespace, counts: a pod may mount any other file at that place. The signature
//! is not checked, as nothing on the node has the key, and the token itself is never kept.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::model::event::Pod;

/// Where the kubelet mounts it; `/var/run` is a link to `/run` in most images.
const DESTINATIONS: [&str; 2] =
    ["/var/run/secrets/kubernetes.io/serviceaccount", "/run/secrets/kubernetes.io/serviceaccount"];
/// Names of the kubelet's volumes that hold tokens: projected ones, and secrets until Kubernetes 1.21.
const VOLUMES: [&str; 2] = ["kubernetes.io~projected", "kubernetes.io~secret"];
/// Largest token that is read; usual ones have a kilobyte.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;
/// Longest name of an account: a namespace of 63 and a name of 253 characters, and what stands before them.
const MAX_ACCOUNT_BYTES: usize = 400;

/// The claim that is looked at.
#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
}

/// The account of the container whose `config.json` is `spec` in `pod`, as the API server names it:
/// `system:serviceaccount:<namespace>:<name>`. `None` where no token is mounted, as for pods with
/// `automountServiceAccountToken: false`.
#[must_use]
pub fn of(spec: &Value, pod: &Pod) -> Option<String> {
    let mounts = spec.get("mounts").and_then(Value::as_array)?;
    let at_destination = |mount: &&Value| {
        let destination = mount.get("destination").and_then(Value::as_str);
        destination.is_some_and(|path| DESTINATIONS.contains(&path))
    };
    let source = Path::new(mounts.iter().find(at_destination)?.get("source").and_then(Value::as_str)?);
    if !is_of_kubelet(source, pod) {
        return None;
    }
    let account = subject(&read(&source.join("token"))?)?;
    let mut parts = account.strip_prefix("system:serviceaccount:")?.split(':');
    let (namespace, name) = (parts.next()?, parts.next()?);
    let plain = |text: &str| {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        !text.is_empty() && text.bytes().all(is_plain)
    };
    let right = namespace == pod.namespace && plain(name) && parts.next().is_none();
    (right && account.len() <= MAX_ACCOUNT_BYTES).then_some(account)
}

/// `…/pods/<uid>/volumes/<kind>/<volume>`, of this pod where its uid is known.
fn is_of_kubelet(source: &Path, pod: &Pod) -> bool {
    let mut parts = source.components().rev().skip(1).map(|part| part.as_os_str());
    let kind = parts.next().is_some_and(|part| VOLUMES.iter().any(|kind| part == *kind));
    let volumes = parts.next().is_some_and(|part| part == "volumes");
    let of_pod = parts.next().is_some_and(|part| pod.uid.as_deref().is_none_or(|uid| part == uid));
    kind && volumes && of_pod && parts.next().is_some_and(|part| part == "pods")
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MAX_TOKEN_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The claim `sub` of a JWT: header, claims and signature in base64url with dots between them (RFC 7519 §3.1).
fn subject(token: &[u8]) -> Option<String> {
    let claims = token.split(|byte| *byte == b'.').nth(1)?;
    let claims = data_encoding::BASE64URL_NOPAD.decode(claims).ok()?;
    serde_json::from_slice::<Claims>(&claims).ok().map(|claims| claims.sub)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DESTINATION: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

    fn token(claims: &str) -> String {
        format!("eyJhbGciOiJSUzI1NiJ9.{}.c2lnbmF0dXJl", data_encoding::BASE64URL_NOPAD.encode(claims.as_bytes()))
    }

    /// The account of a pod `ci/build` with uid `u-1` that has this text as its token in this volume.
    fn account(volume: &str, destination: &str, text: &str) -> Option<String> {
        let folder = tempfile::tempdir().expect("temporary folder");
        let source = folder.path().join(volume);
        std::fs::create_dir_all(&source).expect("makes");
        std::fs::write(source.join("token"), text).expect("writes");
        let spec = json!({"mounts": [{"destination": "/proc"}, {"destination": destination, "source": source}]});
        of(&spec, &Pod { namespace: "ci".to_owned(), name: "build".to_owned(), uid: Some("u-1".to_owned()) })
    }

    #[test]
    fn the_token_of_the_kubelet_names_the_account() {
        let volume = "pods/u-1/volumes/kubernetes.io~projected/kube-api-access-x";
        let text = token(r#"{"iss":"x","sub":"system:serviceaccount:ci:builder"}"#);
        let expected = Some("system:serviceaccount:ci:builder");
        assert_eq!(account(volume, DESTINATION, &text).as_deref(), expected);
        assert_eq!(account(volume, "/run/secrets/kubernetes.io/serviceaccount", &text).as_deref(), expected);
        let secret = "pods/u-1/volumes/kubernetes.io~secret/default-token-x";
        assert_eq!(account(secret, DESTINATION, &text).as_deref(), expected);
    }

    #[test]
    fn nothing_else_does() {
        let right = token(r#"{"sub":"system:serviceaccount:ci:builder"}"#);
        let volume = "pods/u-1/volumes/kubernetes.io~projected/kube-api-access-x";
        for (volume, destination, text) in [
            ("somewhere", DESTINATION, right.as_str()),
            ("pods/u-1/volumes/kubernetes.io~empty-dir/mine", DESTINATION, right.as_str()),
            ("pods/u-2/volumes/kubernetes.io~projected/other", DESTINATION, right.as_str()),
            (volume, "/elsewhere", right.as_str()),
            (volume, DESTINATION, ""),
            (volume, DESTINATION, "a.b.c"),
            (volume, DESTINATION, &token("{")),
            (volume, DESTINATION, &token(r#"{"sub":7}"#)),
            (volume, DESTINATION, &token(r#"{"sub":"alice"}"#)),
            (volume, DESTINATION, &token(r#"{"sub":"system:serviceaccount:other:builder"}"#)),
            (volume, DESTINATION, &token(r#"{"sub":"system:serviceaccount:ci:"}"#)),
            (volume, DESTINATION, &token(r#"{"sub":"system:serviceaccount:ci:a:b"}"#)),
            (volume, DESTINATION, &token("{\"sub\":\"system:serviceaccount:ci:a\\nb\"}")),
        ] {
            assert_eq!(account(volume, destination, text), None, "{volume} {destination} {text}");
        }
        assert_eq!(of(&json!({}), &Pod::default()), None);
    }
}

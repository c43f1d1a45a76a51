use super::*;
use crate::oci::containerd_api::protobuf::field;

fn timestamp(seconds: u8, nanoseconds: u8) -> Vec<u8> {
    vec![0x08, seconds, 0x10, nanoseconds]
}

fn image(digest: &str, updated_at: &[u8]) -> Vec<u8> {
    let target = [field(1, b"application/vnd.oci.image.index.v1+json"), field(2, digest.as_bytes())].concat();
    field(
        1,
        &[field(1, b"localhost/a:1"), field(3, &target), field(7, &timestamp(1, 0)), field(8, updated_at)].concat(),
    )
}

#[test]
fn an_image_s_digest_is_that_of_the_container_s_time() {
    let digest_of = |updated_at: &[u8], created_at| {
        digest(&image(&format!("sha256:{}", "1f".repeat(32)), updated_at), created_at).expect("a message")
    };
    let expected = Some(format!("sha256:{}", "1f".repeat(32)));
    assert_eq!(digest_of(&timestamp(5, 9), (5, 9)), expected);
    assert_eq!(digest_of(&timestamp(5, 9), (6, 0)), expected);
    assert_eq!(digest_of(&timestamp(5, 9), (5, 8)), None, "the name may have stood for another image");
}

#[test]
fn what_is_no_digest_is_none() {
    for text in ["", "sha256:", "sha256:xyz", "1f1f", "sha256:1f\n", &format!("sha256:{}", "1f".repeat(100))] {
        assert_eq!(digest(&image(text, &timestamp(1, 0)), (9, 0)), Ok(None), "{text:?}");
    }
}

#[test]
fn a_container_is_read_past_what_is_not_asked_for() {
    let label = [field(1, b"team"), field(2, b"blue")].concat();
    let body = [
        field(1, b"guarded"),
        field(2, &label),
        field(3, b"localhost/a:1"),
        field(5, &field(2, &[b'x'; 3000])),
        field(8, &timestamp(7, 1)),
    ];
    let known = container(&field(1, &body.concat())).expect("a message");
    assert_eq!((known.image.as_deref(), known.created_at), (Some("localhost/a:1"), (7, 1)));
    assert_eq!(container(&[]).expect("a message").image, None, "made of a folder");
}

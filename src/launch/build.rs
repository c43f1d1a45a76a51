//! Links the launcher against musl, at a fixed address: see `lib.rs` for why.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let machine = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    // Debian's, and that of distributions with one architecture
    let folders = [format!("/usr/lib/{machine}-linux-musl"), "/usr/lib/musl/lib".to_owned()];
    let found = folders.iter().find(|folder| Path::new(folder).join("libc.a").exists());
    if found.is_none() {
        println!("cargo::warning=no musl for {machine}, which the launcher is linked with: install Debian's musl-dev");
    }
    let folder = found.or(folders.first()).map(String::as_str).unwrap_or_default();
    for argument in ["-nostartfiles", "-static", "-no-pie"] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    for file in ["crt1.o", "crti.o", "libc.a", "crtn.o"] {
        println!("cargo::rustc-link-arg-bins={folder}/{file}");
    }
}

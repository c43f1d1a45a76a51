//! What cargo built.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where cargo put this package's programs.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("own path");
    let folder = own.parent().and_then(Path::parent).expect("target folder");
    let path = folder.join(name);
    assert!(path.exists(), "{} is missing: run cargo build", path.display());
    path
}

/// The static launcher. Under cargo it is built when it is not of this source yet; integration/test, demo, bench and evasion/run build it
/// before.
pub fn launcher() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if std::env::var_os("CARGO").is_some() {
            let built = Command::new(repository().join("integration/launcher"))
                .env("CARGO_TARGET_DIR", target_folder())
                .stdout(Stdio::null())
                .status()
                .expect("start integration/launcher");
            assert!(built.success(), "integration/launcher failed: see its lines above");
        }
        let path = target_folder().join("launcher/acctguard-launch");
        assert!(path.exists(), "{} is missing: run integration/launcher", path.display());
        path
    })
    .clone()
}

/// Where cargo puts everything.
pub fn target_folder() -> PathBuf {
    program("acctguard").parent().and_then(Path::parent).expect("target folder").to_owned()
}

//! The table: every technique, what it needs, what it changes, and what must become of it.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use super::scripts::SCRIPTS;
use crate::harness::machine::repository;

/// What carries a technique out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// The program of `techniques/`, which knows it by its name.
    Program,
    /// A shell script.
    Script(&'static str),
}

/// Who else takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cast {
    /// Nobody.
    Alone,
    /// The engine leaves the container a descriptor of its database.
    EngineLeavesDescriptor,
    /// A container that nobody guards has the same volume; the program's part that it plays.
    Unguarded(&'static str),
    /// The technique runs in a second guarded container that shares the first one's pid namespace, against the first one.
    SharedPids,
}

/// What must become of a technique in enforce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Refused, on record, nothing changed.
    Blocked,
    /// As [`Right::Blocked`]; or its first step fails so that it does not get as far as a database, and there is nothing to put on
    /// record.
    BlockedOrStopped(Stop),
    /// No call of the container makes the change, so it comes to pass; there is a finding of it as in audit.
    Observed,
}

/// What stops a technique before it touches a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Landlock lets no sealed process mount, in a user namespace of its own either (landlock(7)): EPERM.
    Seal,
    /// The call is younger than every libseccomp that names it, and an enforced profile lets go only what it names: ENOSYS.
    ClosedProfile,
}

/// One technique.
#[derive(Debug, Clone, Copy)]
pub struct Technique {
    /// Its name.
    pub name: &'static str,
    /// What carries it out.
    pub means: Means,
    /// Whether it needs all capabilities; else Docker's default set is enough.
    pub all_capabilities: bool,
    /// Whether Docker's default seccomp profile refuses one of its calls, so that it is tried without.
    pub unconfined: bool,
    /// Root file system `small` or `large`.
    pub rootfs: &'static str,
    /// Who else takes part.
    pub cast: Cast,
    /// The database it changes.
    pub changes: &'static str,
    /// What must become of it in enforce.
    pub right: Right,
    /// Whether the root file system comes with a hard link `/jail/passwd` to `/etc/passwd`.
    pub linked_image: bool,
}

impl Technique {
    /// A technique of the program that changes `/etc/passwd` by itself with Docker's capabilities.
    pub const fn program(name: &'static str) -> Self {
        Self {
            name,
            means: Means::Program,
            all_capabilities: false,
            unconfined: false,
            rootfs: "small",
            cast: Cast::Alone,
            changes: "/etc/passwd",
            right: Right::Blocked,
            linked_image: false,
        }
    }

    /// The same by a shell script.
    pub const fn script(name: &'static str, script: &'static str) -> Self {
        Self { means: Means::Script(script), ..Self::program(name) }
    }

    /// It needs all capabilities.
    pub const fn privileged(self) -> Self {
        Self { all_capabilities: true, ..self }
    }

    /// Docker's default seccomp profile refuses one of its calls.
    pub const fn unconfined(self) -> Self {
        Self { unconfined: true, ..self }
    }

    /// Its first step is to mount in a user namespace of its own.
    pub const fn mounting_in_user_namespace(self) -> Self {
        Self { unconfined: true, right: Right::BlockedOrStopped(Stop::Seal), ..self }
    }

    /// Its first call is one that acctguard does not know.
    pub const fn by_unknown_call(self) -> Self {
        Self { right: Right::BlockedOrStopped(Stop::ClosedProfile), ..self }
    }

    /// It needs a hard link that the root file system came with.
    pub const fn with_linked_image(self) -> Self {
        Self { linked_image: true, ..self }
    }

    /// It needs the large root file system.
    pub const fn large(self) -> Self {
        Self { rootfs: "large", ..self }
    }

    /// It changes this database.
    pub const fn on(self, changes: &'static str) -> Self {
        Self { changes, ..self }
    }

    /// It changes the database without a call of the container's, with the help of others.
    pub const fn observed(self, cast: Cast) -> Self {
        Self { cast, right: Right::Observed, ..self }
    }

    /// It runs in a second guarded container.
    pub const fn by_neighbour(self) -> Self {
        Self { cast: Cast::SharedPids, all_capabilities: true, ..self }
    }

    /// What the container's process, or the exec session, is to run.
    pub fn words(&self) -> Vec<&'static str> {
        match self.means {
            Means::Program => vec!["/evasion", self.name],
            Means::Script(script) => vec!["/bin/sh", "-c", script],
        }
    }
}

/// On a mount of its own.
const EXTRA: &str = "/var/lib/extrausers/passwd";
/// Added by policy.
const NEW: &str = "/srv/accounts/new";

const fn program(name: &'static str) -> Technique {
    Technique::program(name)
}

/// Spellings of an open, and of the path.
const OPENING: [Technique; 47] = [
    program("direct"),
    program("rewrite"),
    program("read-and-write"),
    program("truncate-by-reading"),
    program("third-access-mode"),
    program("creat"),
    program("openat2"),
    program("longer-open-how"),
    program("resolve-in-root"),
    program("upper-halves"),
    program("upper-halves-of-descriptor"),
    program("meaningless-flags"),
    program("directory-descriptor"),
    program("working-directory"),
    program("deleted-working-directory"),
    program("longest-path"),
    program("newline-in-name"),
    program("symbolic-link"),
    program("link-to-folder"),
    program("forty-links"),
    program("proc-self-root"),
    program("proc-1-root"),
    program("proc-self-cwd"),
    program("proc-self-fd"),
    program("proc-self-fd-of-path"),
    program("proc-self-fd-of-folder"),
    program("proc-thread-self-fd"),
    program("proc-map-files").privileged(),
    program("dev-fd"),
    program("dev-stdin"),
    program("int80-open"),
    program("int80-openat"),
    program("int80-truncate64"),
    program("int80-rename"),
    program("int80-upper-halves"),
    program("open-by-handle").privileged().on(EXTRA),
    program("open-by-handle-and-link").privileged().on(EXTRA),
    program("folder-by-handle").privileged().on(EXTRA),
    program("path-in-secret-memory"),
    program("path-at-end-of-page"),
    program("extrausers").on(EXTRA),
    program("subuid").on("/etc/subuid"),
    program("opasswd").on("/etc/security/opasswd"),
    program("added-by-policy").on(NEW),
    program("too-large-to-read"),
    program("truncate"),
    program("truncate-by-descriptor-link"),
];

/// Entries of directories.
const NAMING: [Technique; 30] = [
    program("rename-over"),
    program("rename-over-by-descriptors"),
    program("exchange"),
    program("move-away-and-into-place"),
    program("away-and-back"),
    program("whiteout").privileged().on(EXTRA),
    program("rename-etc"),
    program("exchange-etc"),
    program("rename-folder-of-policy").on(NEW),
    program("folder-of-policy-by-link").on(NEW),
    program("userdb").on("/etc/userdb/mallory.user"),
    program("beside-crowded-folder"),
    program("beside-looping-folder"),
    program("beside-proc-folder"),
    program("userdb-by-rename").on("/etc/userdb/mallory.user"),
    program("userdb-by-symbolic-link").on("/run/userdb/mallory.user"),
    program("userdb-by-hard-linked-link").on("/run/userdb/mallory.user"),
    program("userdb-by-hard-link").on("/run/userdb/mallory.user"),
    program("hard-link"),
    program("hard-link-of-descriptor"),
    program("hard-link-of-empty-path").privileged(),
    program("hard-link-of-image").with_linked_image(),
    program("unnamed-file"),
    program("remove-and-make"),
    program("link-in-its-place"),
    program("proc-link-in-its-place"),
    program("pipe-in-its-place"),
    program("link-for-missing").on(NEW),
    program("dangling-link").on(NEW),
    program("hard-link-for-missing").on(NEW),
];

/// Mounts, roots, namespaces.
const MOUNTING: [Technique; 31] = [
    program("mount-over").privileged(),
    program("mount-over-by-descriptor-link").privileged(),
    program("mount-over-etc").privileged(),
    program("tmpfs-over-etc").privileged(),
    program("overlay-over-etc").privileged(),
    program("move-a-mount").privileged(),
    program("move-mount").privileged(),
    program("move-mount-to-descriptor").privileged(),
    program("new-file-system").privileged(),
    program("mount-beneath").privileged().on(EXTRA),
    program("uncover").privileged().on(EXTRA),
    program("open-tree-of-database").privileged(),
    program("open-tree-of-etc").privileged(),
    program("open-tree-attr").privileged().by_unknown_call(),
    program("bound-elsewhere").privileged(),
    program("file-bound-elsewhere").privileged(),
    program("overlay-with-database-below").privileged().on(EXTRA),
    program("overlay-by-new-calls").privileged().on(EXTRA),
    program("root-bound-elsewhere").privileged(),
    program("pivot-root").privileged(),
    program("pivot-root-and-write").privileged(),
    program("chroot-to-etc"),
    program("chroot-and-out"),
    program("chroot-with-hard-link").with_linked_image(),
    program("user-namespace").unconfined(),
    program("user-namespace-and-bind").mounting_in_user_namespace(),
    program("user-namespace-and-chroot").unconfined(),
    program("mount-namespace-and-back").privileged(),
    program("below-own-cover").privileged(),
    program("foreign-proc").privileged(),
    program("mounts-of-neighbour").by_neighbour(),
];

/// Open databases.
const HOLDING: [Technique; 17] = [
    program("mmap"),
    program("written-later"),
    program("mapped-and-written-later"),
    program("sendfile"),
    program("splice"),
    program("copy-file-range"),
    program("fallocate"),
    program("ftruncate"),
    program("asynchronous-write"),
    program("io-uring").unconfined(),
    program("io-uring-rename").unconfined(),
    program("passed-by-process"),
    program("pidfd-getfd").unconfined(),
    program("held-from-before").observed(Cast::EngineLeavesDescriptor),
    program("passed-by-container").on(EXTRA).observed(Cast::Unguarded("accomplice-passes")),
    program("second-containers-volume").on(EXTRA).observed(Cast::Unguarded("accomplice-writes")),
    Technique::script("proc-pid-root-of-neighbour", "echo 'mallory:x:0:0::/root:/bin/sh' >> /proc/1/root/etc/passwd")
        .by_neighbour(),
];

/// Processes, threads, programs, rights.
const ACTING: [Technique; 28] = [
    program("thread-with-own-folder").unconfined(),
    program("thread-with-own-root").unconfined(),
    program("thread-with-own-descriptors").unconfined(),
    program("thread-with-own-link").unconfined(),
    program("proc-tid-fd").unconfined(),
    program("dead-leader"),
    program("not-dumpable"),
    program("proc-pid-task-fd"),
    program("clone-vm"),
    program("clone-vm-vfork"),
    program("clone-vm-fs-files"),
    program("orphan"),
    program("memory-of-process"),
    program("ptrace"),
    program("ptrace-suspend-seccomp").privileged(),
    program("process-accounting").privileged(),
    program("memfd-of-useradd"),
    program("copy-of-useradd"),
    program("busybox-by-hard-link"),
    program("chmod-then-other-uid"),
    program("fchmod-then-other-uid"),
    program("fchmodat2-then-other-uid"),
    program("chown-then-other-uid"),
    program("acl-then-other-uid"),
    program("acl-by-descriptor"),
    program("acl-by-setxattrat").unconfined(),
    program("capable-copy"),
    program("set-user-id-copy"),
];

/// All of them.
pub fn all() -> impl Iterator<Item = Technique> {
    OPENING.into_iter().chain(NAMING).chain(MOUNTING).chain(HOLDING).chain(ACTING).chain(SCRIPTS)
}

/// A static program made of the C files `sources` below `integration/evasion/`.
///
/// # Panics
/// Without gcc.
pub fn compile(sources: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("temporary folder");
    let output = folder.path().join("program");
    let own: &Path = &repository().join("integration/evasion");
    let status = Command::new("gcc")
        .args(["-static", "-O1", "-pthread", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&output)
        .args(sources.iter().map(|source| own.join(source)))
        .status()
        .expect("start gcc: install the Debian packages gcc and libc6-dev");
    assert!(status.success(), "gcc could not compile {sources:?}: see its lines above");
    std::fs::read(output).expect("read the compiled program")
}

/// The program of `techniques/`.
pub fn techniques_program() -> &'static [u8] {
    const FAMILIES: [&str; 7] = ["main", "opens", "names", "mounts", "descriptors", "processes", "rights"];
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let sources = FAMILIES.map(|family| format!("techniques/{family}.c"));
        compile(&sources.iter().map(String::as_str).collect::<Vec<_>>())
    })
}

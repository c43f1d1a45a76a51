//! The container engines of a node: where each keeps its configuration, which runtimes it knows, and the smallest change that puts
//! acctguard's shim among them.
//!
//! Floor 1: uses `model` and `config`. One file an engine (`containerd`, `crio`, `podman`, `docker`) reads its texts and plans new
//! ones, without touching anything: `view` is what it reads from, and `plan` makes a list of changes of it. `registration` puts a plan into force and takes it back, by
//! `apply` (one file at a time, atomically) and `journal` (what was before, on disk before anything is changed), and lets the engine
//! itself judge the result (`engine_check`).
//!
//! Invariants: what somebody else set is never overwritten; a change that does not leave everything else in a file as it was is not
//! made; after a power cut between any two steps the next run finds the journal and goes on from it; no daemon and no container is
//! started, stopped or signalled.
#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::model::diagnostic::SourceError;

pub mod apply;
pub mod behind;
pub mod change;
pub mod containerd;
pub mod crio;
pub mod docker;
pub mod engine_check;
pub mod header;
pub mod journal;
pub mod json_text;
pub mod plan;
pub mod podman;
pub mod program;
pub mod registration;
pub mod toml_text;
pub mod view;

/// An engine that acctguard can be registered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// containerd: through CRI, by its `config.toml`.
    Containerd,
    /// CRI-O.
    Crio,
    /// podman.
    Podman,
    /// Docker Engine.
    Docker,
}

impl Engine {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Containerd, Self::Crio, Self::Podman, Self::Docker];

    /// Its name on acctguard's command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Crio => "crio",
            Self::Podman => "podman",
            Self::Docker => "docker",
        }
    }

    /// The engine of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|engine| engine.name() == name)
    }

    /// The program that reads its configuration.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Docker => "dockerd",
            other => other.name(),
        }
    }

    /// Its main configuration file, where nobody names another: containerd-config.toml(5), crio.conf(5), containers.conf(5) and
    /// the reference page of dockerd.
    #[must_use]
    pub const fn main_file(self) -> &'static str {
        match self {
            Self::Containerd => "/etc/containerd/config.toml",
            Self::Crio => "/etc/crio/crio.conf",
            Self::Podman => "/etc/containers/containers.conf",
            Self::Docker => "/etc/docker/daemon.json",
        }
    }

    /// What is to be done for it to read its configuration anew.
    #[must_use]
    pub const fn restart(self) -> &'static str {
        match self {
            Self::Containerd => "systemctl restart containerd; containers that run go on as they are",
            Self::Crio => "systemctl restart crio; containers that run go on as they are",
            Self::Podman => {
                "nothing is to be restarted; containers that are there keep the runtime that they were created with"
            }
            Self::Docker => {
                "systemctl reload docker; containers that are there keep the runtime that they were created with (a restart stops them, unless live-restore is set)"
            }
        }
    }

    /// What is to be done for it to forget what its configuration no longer says. At a reload dockerd takes up what its file names, and
    /// keeps what the file does not name any more (moby `daemon/reload_unix.go`; seen with 20.10.24).
    #[must_use]
    pub const fn restart_to_forget(self) -> &'static str {
        match self {
            Self::Docker => {
                "systemctl restart docker, and acctguard-runtime stays where it is until then: a reload keeps the runtime that the file no longer names (a restart stops containers that are there, unless live-restore is set)"
            }
            other => other.restart(),
        }
    }
}

/// Why nothing can be planned for an engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There is no such engine here.
    #[error("find {engine}: neither {program} nor {} is there; install the engine, or name its file with --engine-config", folder.display())]
    NotFound {
        /// Its name.
        engine: &'static str,
        /// Its program.
        program: &'static str,
        /// Where its configuration would be.
        folder: PathBuf,
    },
    /// A file could not be read.
    #[error("read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A file is no text.
    #[error("read {}: it is not UTF-8 text; save it as UTF-8", path.display())]
    NotText {
        /// Which.
        path: PathBuf,
    },
    /// A configuration that its engine could not read either.
    #[error("{0}")]
    Mistake(SourceError),
    /// Somebody else writes the file.
    #[error("change {}: its line {line} says that somebody else writes it ({header:?}), who would undo the change; set it there, or pass --edit-managed", path.display())]
    Managed {
        /// Which.
        path: PathBuf,
        /// Line of the header, from 1.
        line: usize,
        /// The line.
        header: String,
    },
    /// The default runtime is neither runc nor crun.
    #[error(
        "{engine} has the default runtime {name} ({program}), which is neither runc nor crun; --chain puts acctguard in front of it, --class puts acctguard beside it"
    )]
    OtherDefault {
        /// Engine.
        engine: &'static str,
        /// The runtime's name there.
        name: String,
        /// Its program.
        program: String,
    },
    /// The default runtime is no program with runc's command line.
    #[error(
        "{engine} has the default runtime {name} ({what}), which has no command line like runc's, so that acctguard cannot stand in front of it; --class puts acctguard beside it"
    )]
    NotCommandLine {
        /// Engine.
        engine: &'static str,
        /// The runtime's name there.
        name: String,
        /// What it is.
        what: String,
    },
    /// The runtime that acctguard would call is not there.
    #[error(
        "find {program}, the runtime {name} of {engine}: it is not in PATH; install it, or name it by its whole path in {engine}'s configuration"
    )]
    RuntimeNotFound {
        /// Engine.
        engine: &'static str,
        /// The runtime's name there.
        name: String,
        /// Its program.
        program: String,
    },
    /// acctguard's configuration names another real runtime.
    #[error("{key} of acctguard's configuration names {}, and {engine} uses {}; make them agree, or take {key} out", configured.display(), used.display())]
    OtherReal {
        /// Engine.
        engine: &'static str,
        /// Which key.
        key: String,
        /// What it names.
        configured: PathBuf,
        /// What the engine uses.
        used: PathBuf,
    },
    /// A runtime of that name is there and is not acctguard's.
    #[error(
        "register {name} with {engine}: a runtime of that name is there already and is not acctguard's; choose another name with --class NAME"
    )]
    NameTaken {
        /// Engine.
        engine: &'static str,
        /// Which.
        name: String,
    },
    /// Not a name that engines and Kubernetes take.
    #[error("the name {name:?} cannot be a runtime's; use up to 63 of a-z, 0-9 and -, a letter first")]
    Name {
        /// Which.
        name: String,
    },
    /// A file that is read after acctguard's sets the default runtime.
    #[error("{} is read after {} and sets {key}; rename it so that it sorts before, or use --class", later.display(), own.display())]
    ReadLater {
        /// The other file.
        later: PathBuf,
        /// acctguard's.
        own: PathBuf,
        /// The key.
        key: &'static str,
    },
    /// A file uses something that acctguard does not edit.
    #[error("{}: {what}; {remedy}", path.display())]
    Unsupported {
        /// Which file.
        path: PathBuf,
        /// What it uses.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
}

/// A new text for a file of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Which file.
    pub path: PathBuf,
    /// What it is to be.
    pub text: String,
    /// Whether the file is acctguard's alone.
    pub is_own: bool,
}

/// As what acctguard is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Name of the runtime in the engine.
    pub name: String,
    /// Whether it is what containers get that name none.
    pub is_default: bool,
    /// What the engine is to call: the shim, or a link to it.
    pub program: PathBuf,
}

/// The first line of every file that is acctguard's alone.
pub const OWN_HEADER: &str = "# acctguard install wrote this file, and acctguard uninstall removes it.\n";

/// Name of acctguard's own drop-in files, without their ending.
pub const OWN_FILE: &str = "99-acctguard";

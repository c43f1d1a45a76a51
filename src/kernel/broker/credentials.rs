//! Whose file operations they are: ids, groups, capabilities and umask of a thread, credentials(7), and putting them on.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::process::Gid;
use rustix::process::Uid;
use rustix::thread::CapabilitySet;
use rustix::thread::CapabilitySets;
use serde::Deserialize;
use serde::Serialize;

use crate::kernel::Errno;
use crate::kernel::process::ProcessError;
use crate::kernel::thread::StatusFile;
use crate::kernel::thread::ThreadCredentials;

/// Capabilities that a helper needs to take others' ids on (setresuid(2), setgroups(2)).
pub(super) const CHANGE_IDS: CapabilitySet = CapabilitySet::SETUID.union(CapabilitySet::SETGID);

/// Why a thread's credentials cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// `/proc` did not tell.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Its namespaces could not be told, or opened.
    #[error("cannot open a namespace of thread {tid}")]
    Namespace {
        /// Which thread.
        tid: u32,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
}

/// What file operations are checked against. Ids as our user namespace numbers them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    uid: u32,
    gid: u32,
    fs_uid: u32,
    fs_gid: u32,
    groups: Vec<u32>,
    capabilities: u64,
    umask: u32,
    /// The helper has the ids since before it entered the thread's user namespace.
    is_brought_along: bool,
}

/// Device and inode of a namespace (namespaces(7)).
type Identity = (u64, u64);

/// Where a thread lives: what a helper must enter before it acts for it.
#[derive(Debug)]
pub struct Home {
    tid: u32,
    mount: Identity,
    user: Identity,
    /// Whether its user namespace is another than ours.
    pub has_user: bool,
    /// Capabilities that anything there may have: the bounding set.
    pub capabilities: u64,
    /// Ids that a helper must have before it enters the user namespace.
    pub brings: Option<Credentials>,
}

impl Home {
    /// Whether both are the same namespaces with the same bounds.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let are_equal = match (&self.brings, &other.brings) {
            (Some(one), Some(other)) => (one.uid, one.gid, &one.groups) == (other.uid, other.gid, &other.groups),
            (one, other) => one.is_none() && other.is_none(),
        };
        are_equal && (self.mount, self.user, self.capabilities) == (other.mount, other.user, other.capabilities)
    }

    /// The mount namespace, and the user namespace when it is not ours, while the thread still lives there.
    ///
    /// # Errors
    /// [`CredentialError::Namespace`].
    pub(super) fn open(&self) -> Result<Vec<OwnedFd>, CredentialError> {
        let failed = |source| CredentialError::Namespace { tid: self.tid, source };
        let wanted = [("mnt", self.mount, true), ("user", self.user, self.has_user)];
        let open = |(kind, identity, _)| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(CWD, format!("/proc/{}/ns/{kind}", self.tid), flags, Mode::empty())?;
            let status = rustix::fs::fstat(&opened)?;
            // the number may be another thread's by now
            if (status.st_dev, status.st_ino) == identity { Ok(opened) } else { Err(Errno::STALE) }
        };
        wanted.into_iter().filter(|(.., is_entered)| *is_entered).map(|one| open(one).map_err(failed)).collect()
    }
}

impl Credentials {
    /// Reads the credentials of thread `tid`, and where it lives.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn of_thread(tid: u32) -> Result<(Self, Home), CredentialError> {
        Self::read(&StatusFile::open(tid)?)
    }

    /// Reads the credentials of the thread that `status` is of, and where it lives.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn read(status: &StatusFile) -> Result<(Self, Home), CredentialError> {
        let found = status.credentials()?;
        let home = home(status.tid(), &found)?;
        if !home.has_user {
            return Ok((Self::as_we_number(&found), home));
        }
        // an id may have no number there, and groups may not be set there at all (user_namespaces(7), "/proc/pid/setgroups"): all are
        // brought along
        let credentials = Self { is_brought_along: true, ..Self::as_we_number(&found) };
        Ok((credentials.clone(), Home { brings: Some(credentials), ..home }))
    }

    fn as_we_number(found: &ThreadCredentials) -> Self {
        Self {
            uid: found.effective_uid,
            gid: found.effective_gid,
            fs_uid: found.fs_uid,
            fs_gid: found.fs_gid,
            groups: found.groups.clone(),
            capabilities: found.effective_capabilities,
            umask: found.umask,
            is_brought_along: false,
        }
    }

    /// Whether capability number `bit` is effective (linux/capability.h).
    #[must_use]
    pub fn has_capability(&self, bit: u32) -> bool {
        self.capabilities.checked_shr(bit).unwrap_or(0) & 1 == 1
    }

    /// Whether every directory of the machine may be searched with them, by capability: in our own user namespace only.
    #[must_use]
    pub fn may_search_everything(&self, home: &Home) -> bool {
        let held = CapabilitySet::from_bits_retain(self.capabilities);
        !home.has_user && held.intersects(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH)
    }

    /// Puts them on, in place of those of the calling thread, which must be the process's only one. `ceiling`: what it keeps
    /// in its permitted set, to put on others later.
    pub(super) fn wear(&self, ceiling: CapabilitySet) -> Result<(), (&'static str, Errno)> {
        let of = |step: &'static str| move |errno: Errno| (step, errno);
        set_capabilities(ceiling, ceiling).map_err(of("take capabilities up"))?;
        if !self.is_brought_along {
            self.take_ids_on(true)?;
        }
        rustix::process::umask(Mode::from_raw_mode(self.umask));
        let effective = CapabilitySet::from_bits_retain(self.capabilities).intersection(ceiling);
        set_capabilities(effective, ceiling).map_err(of("leave capabilities"))
    }

    /// Takes the ids and groups on; the real and saved ids too unless they are `kept`, to take others on later.
    pub(super) fn take_ids_on(&self, keeps_real: bool) -> Result<(), (&'static str, Errno)> {
        let of = |step: &'static str| move |errno: Errno| (step, errno);
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let (real_uid, real_gid) = if keeps_real { (None, None) } else { (Some(uid), Some(gid)) };
        let groups: Vec<Gid> = self.groups.iter().map(|id| Gid::from_raw(*id)).collect();
        rustix::thread::set_thread_groups(&groups).map_err(of("take groups on"))?;
        rustix::thread::set_thread_res_gid(real_gid, gid, real_gid).map_err(of("take a gid on"))?;
        rustix::thread::set_thread_res_uid(real_uid, uid, real_uid).map_err(of("take a uid on"))?;
        // both give the id before, and no error (setfsuid(2)): the file system ids follow the effective ones unless they differ
        if self.fs_gid != self.gid {
            nix::unistd::setfsgid(nix::unistd::Gid::from_raw(self.fs_gid));
        }
        if self.fs_uid != self.uid {
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(self.fs_uid));
        }
        Ok(())
    }
}

/// Sets the effective and permitted set of the calling thread; it inherits none.
pub(super) fn set_capabilities(effective: CapabilitySet, permitted: CapabilitySet) -> Result<(), Errno> {
    let sets = CapabilitySets { effective, permitted, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)
}

fn home(tid: u32, credentials: &ThreadCredentials) -> Result<Home, CredentialError> {
    let failed = |source| CredentialError::Namespace { tid, source };
    let mount = identity(&format!("/proc/{tid}/ns/mnt")).map_err(failed)?;
    let user = identity(&format!("/proc/{tid}/ns/user")).map_err(failed)?;
    Ok(Home {
        tid,
        mount,
        user,
        has_user: user != own_user_namespace().map_err(failed)?,
        capabilities: credentials.bounding_capabilities | credentials.effective_capabilities,
        brings: None,
    })
}

fn identity(path: &str) -> Result<Identity, Errno> {
    rustix::fs::statat(CWD, path, AtFlags::empty()).map(|status| (status.st_dev, status.st_ino))
}

/// The supervisor never changes its own.
fn own_user_namespace() -> Result<Identity, Errno> {
    static OWN: OnceLock<Identity> = OnceLock::new();
    match OWN.get() {
        Some(own) => Ok(*own),
        None => identity("/proc/self/ns/user").map(|own| *OWN.get_or_init(|| own)),
    }
}

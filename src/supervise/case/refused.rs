//! What Landlock refused in the container, as the audit log tells it: an attempt that was blocked, whoever saw it before.
//!
//! The log names the object that a right was missing on: for an open or truncation the file itself, for what was to be made,
//! removed or renamed the directory. So an entry that was refused in a sealed directory is told as unresolved, unless the
//! process's arguments name a database there.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::kernel::audit_netlink::Caller;
use crate::kernel::audit_netlink::Refusal;
use crate::kernel::foreign_root;
use crate::model::attempt::Attempt;
use crate::model::attempt::Effect;
use crate::model::attempt::ObjectId;
use crate::model::database_path::DatabasePath;
use crate::model::event::Actor;
use crate::model::event::Event;
use crate::model::event::Outcome;
use crate::model::policy::Mode;
use crate::model::redact;
use crate::supervise::actor;
use crate::supervise::actor::Acting;
use crate::supervise::case::Case;
use crate::supervise::decode::abi::Abi;
use crate::supervise::incident::Act;
use crate::supervise::incident::Sighting;
use crate::supervise::moment::Moment;
use crate::supervise::observe::Seen;
use crate::supervise::witness::Witness;

/// Rights whose lack keeps a file's content as it is.
const CONTENT_RIGHTS: [&str; 2] = ["fs.write_file", "fs.truncate"];
/// Rights whose lack keeps a directory's entries as they are.
const ENTRY_RIGHTS: [&str; 10] = [
    "fs.remove_dir",
    "fs.remove_file",
    "fs.make_char",
    "fs.make_dir",
    "fs.make_reg",
    "fs.make_sock",
    "fs.make_fifo",
    "fs.make_block",
    "fs.make_sym",
    "fs.refer",
];
/// What a mount lacks in any domain.
const TOPOLOGY: &str = "fs.change_topology";
/// In the path of the launcher's own program, which is a memory file of that name.
const LAUNCHER: &[u8] = b"acctguard-launch";

/// How a refusal concerns the databases.
#[derive(Debug, PartialEq, Eq)]
struct Concern {
    effect: Effect,
    database: Option<DatabasePath>,
    object: Option<ObjectId>,
}

impl Concern {
    fn of(effect: Effect, database: Option<&DatabasePath>) -> Self {
        Self { effect, database: database.cloned(), object: None }
    }
}

impl Case {
    /// Takes in that Landlock refused something in this container. Gives the event of a blocked attempt when it is the first of
    /// its kind in its act; `None` also when no database is concerned.
    pub fn note_refusal(&self, refusal: &Refusal, now: Moment) -> Option<Event> {
        let policy = self.policy();
        if policy.mode == Mode::Off {
            return None;
        }
        let root = self.root();
        let arguments = refusal.caller.as_ref().map_or(&[][..], |caller| caller.argv.as_slice());
        let concern = concern(refusal, &policy.databases, arguments, root.as_fd())?;
        let acting = match self.acting_again(refusal) {
            Some(known) => known,
            None => Arc::new(self.refused_process(refusal)),
        };
        let mut state = self.state();
        let mut sighting = Sighting {
            seen: Seen {
                attempt: attempt(refusal, concern),
                proposed: None,
                tool_arguments: Vec::new(),
                neighbour: None,
            },
            acting,
            session: None,
            outcome: Outcome::Blocked,
            policy: policy.reference("landlock"),
            at: now,
        };
        let act = state.acts.iter().find(|act| act.takes(&sighting));
        sighting.session = act.and_then(|act| act.sightings().find_map(|known| known.session.clone()));
        state.counts.blocked = state.counts.blocked.saturating_add(1);
        state.take(sighting, Witness::Landlock { errno: errno_name(refusal.caller.as_ref()) })
    }

    /// Who was refused, where that process is in an act in progress with the same program: a flood is not looked at one by one.
    fn acting_again(&self, refusal: &Refusal) -> Option<Arc<Acting>> {
        let caller = refusal.caller.as_ref()?;
        let exe = caller.exe.as_deref().map(redact::printable);
        let state = self.state();
        let mut known = state.acts.iter().flat_map(Act::sightings).map(|sighting| &sighting.acting);
        known.find(|known| known.pid() == caller.pid && known.actor.exe == exe).map(Arc::clone)
    }

    /// Who was refused: as it is now, where it is still the program that the log names, else as the log has it, with what was learned
    /// of the same process before.
    fn refused_process(&self, refusal: &Refusal) -> Acting {
        let Some(caller) = &refusal.caller else { return Acting::gone(0) };
        let init = self.init();
        let exe = caller.exe.as_deref().map(redact::printable);
        let alive = self.surroundings.acting(caller.pid, init);
        if let Some(alive) = alive.filter(|acting| acting.actor.exe == exe) {
            return alive;
        }
        let mut gone = logged(caller, init);
        let state = self.state();
        let all = state.acts.iter().chain(&state.remembered).flat_map(Act::sightings);
        if let Some(known) = all.map(|sighting| &sighting.acting).find(|known| known.pid() == gone.pid()) {
            complete(&mut gone, known);
        }
        gone
    }
}

fn logged(caller: &Caller, init: u32) -> Acting {
    let mut acting = Acting::gone(caller.pid);
    acting.actor.exe = caller.exe.as_deref().map(redact::printable);
    let argv: Vec<String> = caller.argv.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect();
    acting.actor.argv = actor::shown(&argv);
    acting.actor.uid = caller.effective_uid;
    acting.actor.gid = caller.effective_gid;
    acting.actor.login_uid = caller.login_uid;
    acting.lineage.extend((caller.parent != init && caller.parent != 0).then_some(caller.parent));
    acting
}

/// Adds what was learned of the same process while it lived: what its program and arguments do not change.
fn complete(gone: &mut Acting, known: &Acting) {
    let Actor { container_pid, container_uid, container_gid, capabilities, ancestry, session, .. } = &known.actor;
    gone.actor.container_pid = *container_pid;
    gone.actor.container_uid = *container_uid;
    gone.actor.container_gid = *container_gid;
    gone.actor.capabilities.clone_from(capabilities);
    gone.actor.ancestry.clone_from(ancestry);
    gone.actor.session.clone_from(session);
    gone.lineage.clone_from(&known.lineage);
}

fn attempt(refusal: &Refusal, concern: Concern) -> Attempt {
    let call = refusal.caller.as_ref().and_then(|caller| {
        let (abi, number) = Abi::of(caller.architecture, caller.number)?;
        abi.call(number)
    });
    Attempt {
        call: call.map_or("unknown", |call| call.name()),
        effect: concern.effect,
        database: concern.database,
        path_as_asked: None,
        object_path: refusal.path.clone(),
        object: concern.object,
        flags: Vec::new(),
    }
}

/// By what the call returned: Landlock answers `EACCES`, `EXDEV` for a link or rename from one directory to another, `EPERM` for mounts.
fn errno_name(caller: Option<&Caller>) -> &'static str {
    match caller.map(|caller| caller.exit.saturating_neg()) {
        Some(1) => "EPERM",
        Some(18) => "EXDEV",
        _ => "EACCES",
    }
}

/// What `refusal` has to do with `databases`, which lie below `root`; `None`: nothing.
fn concern(
    refusal: &Refusal,
    databases: &[DatabasePath],
    arguments: &[Vec<u8>],
    root: BorrowedFd<'_>,
) -> Option<Concern> {
    let lacks = |rights: &[&str]| refusal.blockers.iter().any(|blocker| rights.contains(&blocker.as_str()));
    let (content, entries, topology) = (lacks(&CONTENT_RIGHTS), lacks(&ENTRY_RIGHTS), lacks(&[TOPOLOGY]));
    let path = refusal.path.as_deref().filter(|_| content || entries || topology)?;
    let file_effect = if content { Effect::Writes } else { Effect::Replaces };
    if let Some(database) = databases.iter().find(|database| holds(database, path)) {
        return Some(Concern::of(file_effect, Some(database)));
    }
    if let Some((database, object)) = by_object(refusal, databases, root) {
        return Some(Concern { object: Some(object), ..Concern::of(file_effect, Some(database)) });
    }
    let is_of_seal =
        refusal.maker_exe.as_ref().is_none_or(|exe| exe.windows(LAUNCHER.len()).any(|part| part == LAUNCHER));
    if !is_of_seal {
        // a sandbox that the workload made for itself
        return None;
    }
    let is_above = databases.iter().any(|database| is_above(path, database));
    if topology {
        return (is_above && path != b"/").then(|| Concern::of(Effect::ReplacesAncestor, None));
    }
    if entries && is_above {
        let named = databases.iter().find(|database| {
            directory_of(database) == path && arguments.iter().any(|word| word == database.as_str().as_bytes())
        });
        return Some(
            named.map_or(Concern::of(Effect::Unresolved, None), |named| Concern::of(Effect::Replaces, Some(named))),
        );
    }
    databases.iter().any(|database| is_companion(path, database)).then(|| Concern::of(Effect::Unresolved, None))
}

/// Whether `path` is `database`, or a file directly in that directory.
fn holds(database: &DatabasePath, path: &[u8]) -> bool {
    let text = database.as_str().as_bytes();
    match path.strip_prefix(text) {
        Some([]) => true,
        Some(below) => database.is_directory() && !below.contains(&b'/'),
        None => false,
    }
}

/// The database whose object it is, whatever name the process used. Landlock refuses nothing but what is sealed, so that the
/// inode number of another file system's file is not met here.
fn by_object<'a>(
    refusal: &Refusal,
    databases: &'a [DatabasePath],
    root: BorrowedFd<'_>,
) -> Option<(&'a DatabasePath, ObjectId)> {
    let inode = refusal.inode?;
    databases.iter().filter(|database| !database.is_directory()).find_map(|database| {
        let found = foreign_root::identify_in_root(root, database.as_str().as_bytes()).ok().flatten()?;
        let object = ObjectId { device: found.device, inode: found.inode };
        (found.inode == inode && found.is_regular()).then_some((database, object))
    })
}

/// The directory in which the entry of `database` lies, or which it is.
fn directory_of(database: &DatabasePath) -> &[u8] {
    let text = database.as_str();
    let directory = text.rsplit_once('/').map_or("/", |(directory, _)| directory);
    if directory.is_empty() { b"/" } else { directory.as_bytes() }
}

/// Whether the directory `path` leads to `database`.
fn is_above(path: &[u8], database: &DatabasePath) -> bool {
    let text = database.as_str().as_bytes();
    path == b"/" || text.strip_prefix(path).is_some_and(|below| below.starts_with(b"/"))
}

/// Whether `path` is a file beside `database` by which shadow(5) tools lock and replace it.
fn is_companion(path: &[u8], database: &DatabasePath) -> bool {
    let rest = path.strip_prefix(database.as_str().as_bytes());
    let lock = path.strip_prefix(directory_of(database)).map(|name| name.strip_prefix(b"/").unwrap_or(name));
    matches!(rest, Some(b"-" | b"+" | b".lock")) || lock == Some(b".pwd.lock")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn databases() -> Vec<DatabasePath> {
        let all = ["/etc/passwd", "/etc/userdb/", "/var/lib/extrausers/"];
        all.iter().map(|path| DatabasePath::new(path).expect("path")).collect()
    }

    fn refusal(path: &str, blockers: &[&str]) -> Refusal {
        Refusal {
            domain: 1,
            maker: Some(7),
            maker_exe: Some(b"/memfd:acctguard-launch (deleted)".to_vec()),
            blockers: blockers.iter().map(|word| (*word).to_owned()).collect(),
            path: Some(path.as_bytes().to_vec()),
            inode: Some(u64::MAX),
            caller: None,
        }
    }

    fn told(refusal: &Refusal, arguments: &[&str]) -> Option<(Effect, Option<String>)> {
        let root = std::fs::File::open("/").expect("root");
        let arguments: Vec<Vec<u8>> = arguments.iter().map(|word| word.as_bytes().to_vec()).collect();
        let concern = concern(refusal, &databases(), &arguments, root.as_fd())?;
        Some((concern.effect, concern.database.map(|database| database.to_string())))
    }

    #[test]
    fn what_was_refused_tells_how_a_database_is_concerned() {
        let passwd = || Some("/etc/passwd".to_owned());
        for (path, blockers, arguments, expected) in [
            ("/etc/passwd", &["fs.write_file"][..], &[][..], Some((Effect::Writes, passwd()))),
            ("/etc/passwd", &["fs.truncate"], &[], Some((Effect::Writes, passwd()))),
            ("/etc/passwd", &["fs.change_topology"], &[], Some((Effect::Replaces, passwd()))),
            ("/etc/userdb/x", &["fs.write_file"], &[], Some((Effect::Writes, Some("/etc/userdb/".to_owned())))),
            (
                "/etc",
                &["fs.remove_file", "fs.make_reg"],
                &["mv", "a", "/etc/passwd"],
                Some((Effect::Replaces, passwd())),
            ),
            ("/etc", &["fs.make_reg"], &["touch", "/etc/x"], Some((Effect::Unresolved, None))),
            ("/", &["fs.make_dir"], &[], Some((Effect::Unresolved, None))),
            ("/var/lib", &["fs.remove_dir"], &[], Some((Effect::Unresolved, None))),
            ("/etc/passwd+", &["fs.write_file"], &[], Some((Effect::Unresolved, None))),
            ("/etc/.pwd.lock", &["fs.write_file"], &[], Some((Effect::Unresolved, None))),
            ("/etc", &["fs.change_topology"], &[], Some((Effect::ReplacesAncestor, None))),
            ("/", &["fs.change_topology"], &[], None),
            ("/etc/passwd", &["fs.read_file"], &[], None),
            ("/etc/userdb/x/y", &["fs.write_file"], &[], None),
            ("/etc/hosts", &["fs.write_file"], &[], None),
            ("/home", &["fs.make_reg"], &[], None),
        ] {
            assert_eq!(told(&refusal(path, blockers), arguments), expected, "{path} {blockers:?}");
        }
    }

    #[test]
    fn a_sandbox_of_the_workload_s_own_is_told_for_databases_only() {
        let own =
            |path: &str| Refusal { maker_exe: Some(b"/usr/bin/browser".to_vec()), ..refusal(path, &ENTRY_RIGHTS) };
        assert_eq!(told(&own("/etc"), &[]), None);
        assert!(told(&own("/etc/passwd"), &[]).is_some());
        let unknown = Refusal { maker_exe: None, ..own("/etc") };
        assert_eq!(told(&unknown, &[]), Some((Effect::Unresolved, None)));
    }

    #[test]
    fn a_database_is_known_by_its_object() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::create_dir(folder.path().join("etc")).expect("etc");
        std::fs::write(folder.path().join("etc/passwd"), "x").expect("passwd");
        let found = rustix::fs::stat(folder.path().join("etc/passwd")).expect("stat");
        let root = std::fs::File::open(folder.path()).expect("root");
        let alias = Refusal { inode: Some(found.st_ino), ..refusal("/tmp/alias", &["fs.write_file"]) };
        let concern = concern(&alias, &databases(), &[], root.as_fd()).expect("a database");
        assert_eq!(concern.database.map(|database| database.to_string()).as_deref(), Some("/etc/passwd"));
        assert_eq!(concern.object, Some(ObjectId { device: found.st_dev, inode: found.st_ino }));
    }
}

use super::*;
use crate::model::event::Container;
use crate::model::workload::ContainerId;
use crate::store::Filter;
use crate::store::Retention;
use nix::mount::MntFlags;
use nix::mount::MsFlags;

/// A small file system of its own, in a mount namespace of this thread's own.
struct Disk {
    folder: tempfile::TempDir,
    refuge: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("unshare a mount namespace: root is needed");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("make mounts private");
        let folder = tempfile::tempdir().expect("folder");
        let (kind, options) = (Some("tmpfs"), Some("size=4m"));
        nix::mount::mount(kind, folder.path(), kind, MsFlags::empty(), options).expect("mount a tmpfs");
        Self { folder, refuge: tempfile::tempdir().expect("folder") }
    }

    fn store(&self) -> Arc<Store> {
        Arc::new(Store::open(&self.folder.path().join("state/events.db"), Retention::new(30, 1024)).expect("open"))
    }

    fn journal(&self, store: &Arc<Store>, max_bytes: usize) -> Arc<Journal> {
        let refuge = self.refuge.path().join("unstored");
        Journal::start(Arc::clone(store), Host::default(), refuge, max_bytes).expect("start")
    }

    fn fill(&self) {
        let mut file = std::fs::File::create(self.folder.path().join("ballast")).expect("create");
        let block = vec![0_u8; 4096];
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(self.folder.path().join("ballast")).expect("remove");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.folder.path(), MntFlags::MNT_DETACH);
    }
}

fn event(container: &str) -> Event {
    let now = crate::daemon::service::now();
    let mut event = Event::new(uuid::Uuid::now_v7(), now, Kind::AccountAttempt, Severity::Low, Host::default());
    // more than a page, so that a full disk cannot take it
    event.host.labels.insert("padding".to_owned(), "x".repeat(8192));
    event.container = Some(Container {
        id: ContainerId::new(container).expect("id"),
        name: None,
        image: None,
        engine: "none".to_owned(),
        runtime: None,
        pod: None,
        started_at: None,
    });
    event
}

fn stored(store: &Store) -> Vec<Event> {
    let page = store.events(&Filter { limit: 10_000, ..Filter::default() }).expect("read");
    page.events.into_iter().map(|stored| stored.event).collect()
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Records until the disk takes no more; what was recorded and kept so far.
fn record_until_full(disk: &Disk, journal: &Journal) -> Vec<Event> {
    disk.fill();
    let mut made = Vec::new();
    loop {
        let next = event("c1");
        let outcome = journal.record(&next);
        made.push(next);
        if let Err(error) = outcome {
            journal.keep(made.last().expect("one"), &[], &chain(&error));
            return made;
        }
        assert!(made.len() < 5000, "a full disk takes everything");
    }
}

fn ids(events: &[Event]) -> Vec<uuid::Uuid> {
    events.iter().map(|event| event.id).collect()
}

#[test]
fn what_a_full_disk_did_not_take_is_stored_in_order_and_once() {
    let disk = Disk::new();
    let store = disk.store();
    let journal = disk.journal(&store, MEMORY_BYTES);
    let mut made = record_until_full(&disk, &journal);
    for _ in 0..50 {
        made.push(event("c1"));
        assert!(matches!(journal.record(&made[made.len() - 1]), Err(StoreError::Waiting { .. })), "none goes before");
        journal.record_or_keep(&made[made.len() - 1]);
    }
    disk.free();
    until("everything is stored", || stored(&store).last().is_some_and(|last| last.kind == Kind::ProtectionRestored));
    let all = stored(&store);
    let (own, others): (Vec<Event>, Vec<Event>) = all.into_iter().partition(|event| event.container.is_some());
    assert_eq!(ids(&own), ids(&made));
    let told: Vec<(Kind, &str)> =
        others.iter().filter_map(|event| Some((event.kind, event.protection.as_ref()?.what.as_str()))).collect();
    assert_eq!(
        told,
        [(Kind::ProtectionDegraded, "events cannot be stored"), (Kind::ProtectionRestored, "events are stored again")]
    );
    until("the journal is as before", || journal.record(&event("c1")).is_ok());
}

#[test]
fn what_found_no_room_is_counted_for_its_container() {
    let disk = Disk::new();
    let store = disk.store();
    let journal = disk.journal(&store, 256 * 1024);
    let mut kept = record_until_full(&disk, &journal);
    kept.push(event("c2"));
    journal.record_or_keep(&kept[kept.len() - 1]);
    let mut later = Vec::new();
    for _ in 0..20 {
        later.push(event("c1"));
        journal.record_or_keep(&later[later.len() - 1]);
    }
    disk.free();
    until("everything is stored", || stored(&store).last().is_some_and(|last| last.kind == Kind::ProtectionRestored));
    let all = stored(&store);
    let lost: Vec<&Event> = all
        .iter()
        .filter(|event| event.protection.as_ref().is_some_and(|told| told.what == "events were lost"))
        .collect();
    assert_eq!(lost.len(), 1, "{lost:?}");
    let count = lost[0].suppressed.expect("a count");
    assert_eq!(lost[0].container.as_ref().map(|container| container.id.as_str()), Some("c1"));
    let attempts = all.iter().filter(|event| event.kind == Kind::AccountAttempt).count();
    assert_eq!(attempts as u64 + count, (kept.len() + later.len()) as u64);
    assert!(ids(&all).contains(&kept[kept.len() - 1].id), "a noisy container pushes out no other");
}

#[test]
fn what_a_stopping_daemon_cannot_store_goes_to_the_refuge_and_the_next_one_takes_it_once() {
    let disk = Disk::new();
    let store = disk.store();
    let journal = disk.journal(&store, MEMORY_BYTES);
    let mut made = record_until_full(&disk, &journal);
    for _ in 0..10 {
        made.push(event("c1"));
        journal.record_or_keep(&made[made.len() - 1]);
    }
    journal.stop(Duration::from_secs(1));
    disk.free();
    for _ in 0..2 {
        let taken = spool::take_all(&journal.refuge, |event| {
            store.append(&event).map(|_| spool::Then::Remove).map_err(Failure::from)
        });
        assert!(taken.is_ok(), "{taken:?}");
    }
    let own: Vec<Event> = stored(&store).into_iter().filter(|event| event.container.is_some()).collect();
    assert_eq!(ids(&own), ids(&made));
}

#[test]
fn what_waits_is_in_the_refuge_for_whoever_follows_a_killed_worker_and_leaves_it_when_it_is_stored() {
    let disk = Disk::new();
    let store = disk.store();
    let journal = disk.journal(&store, MEMORY_BYTES);
    let mut made = record_until_full(&disk, &journal);
    let waiting = (0..10).map(|_| event("c1")).collect::<Vec<_>>();
    waiting.iter().for_each(|event| journal.record_or_keep(event));
    made.extend(waiting.iter().cloned());
    let refuge = || std::fs::read_dir(&journal.refuge).map(|entries| entries.count()).unwrap_or_default();
    let saved = |event: &Event| journal.refuge.join(format!("{}.json", event.id)).is_file();
    assert!(waiting.iter().all(saved), "{} files", refuge());
    disk.free();
    until("everything is stored", || stored(&store).last().is_some_and(|last| last.kind == Kind::ProtectionRestored));
    let own: Vec<Event> = stored(&store).into_iter().filter(|event| event.container.is_some()).collect();
    assert_eq!(ids(&own), ids(&made));
    until("the refuge is left", || refuge() == 0);
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Spool(#[from] spool::SpoolError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

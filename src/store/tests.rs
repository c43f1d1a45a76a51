use std::sync::Barrier;

use super::*;
use crate::model::event::Container;
use crate::model::event::EventTime;
use crate::model::event::Host;
use crate::model::event::Kind;
use crate::model::event::Severity;
use crate::model::workload::ContainerId;

const KEEP: Retention = Retention::new(30, 1024);

fn event(container: &str, kind: Kind) -> Event {
    let time = EventTime(jiff::Timestamp::now());
    let mut event = Event::new(uuid::Uuid::now_v7(), time, kind, Severity::Info, Host::default());
    event.container = Some(Container {
        id: ContainerId::new(container).unwrap(),
        name: None,
        image: None,
        engine: "none".to_owned(),
        runtime: None,
        pod: None,
        started_at: None,
    });
    event
}

fn ids(page: &Page) -> Vec<uuid::Uuid> {
    page.events.iter().map(|stored| stored.event.id).collect()
}

#[test]
fn what_was_appended_is_there_after_reopening_and_only_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state/events.db");
    let event = event("c1", Kind::ContainerCreated);
    {
        let store = Store::open(&file, KEEP).unwrap();
        store.append(&event).unwrap();
        store.append(&event).unwrap();
    }
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(file.parent().unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let store = Store::open(&file, KEEP).unwrap();
    store.append(&event).unwrap();
    let page = store.events(&Filter::default()).unwrap();
    assert_eq!(page.events.len(), 1);
    assert_eq!(page.events[0].event, event);
    assert_eq!(store.event(&event.id.to_string()).unwrap(), Some(event));
}

#[test]
fn the_file_is_in_wal_mode_with_full_synchronisation() {
    let dir = tempfile::tempdir().unwrap();
    let connection = schema::open_writer(&dir.path().join("events.db")).unwrap();
    let journal: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    let synchronous: i64 = connection.query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap();
    let vacuum: i64 = connection.query_row("PRAGMA auto_vacuum", [], |row| row.get(0)).unwrap();
    // "FULL (2)", "2 or INCREMENTAL" (https://sqlite.org/pragma.html)
    assert_eq!((journal.as_str(), synchronous, vacuum), ("wal", 2, 2));
}

#[test]
fn an_append_survives_the_death_of_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("events.db");
    let store = Store::open(&file, KEEP).unwrap();
    store.append(&event("c1", Kind::AccountFinding)).unwrap();
    // as after kill -9: the files as they are, no shutdown of the writer
    let copy = dir.path().join("copy.db");
    std::fs::copy(&file, &copy).unwrap();
    std::fs::copy(dir.path().join("events.db-wal"), dir.path().join("copy.db-wal")).unwrap();
    assert_eq!(Store::open(&copy, KEEP).unwrap().events(&Filter::default()).unwrap().events.len(), 1);
}

#[test]
fn concurrent_callers_are_all_served_and_numbered_without_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("events.db"), KEEP).unwrap());
    let start = Arc::new(Barrier::new(8));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (store, start) = (Arc::clone(&store), Arc::clone(&start));
            std::thread::spawn(move || {
                start.wait();
                for _ in 0..25 {
                    store.append(&event("c1", Kind::AccountAttempt)).unwrap();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let page = store.events(&Filter::default()).unwrap();
    assert_eq!(page.events.iter().map(|stored| stored.seq).collect::<Vec<_>>(), (1..=200).collect::<Vec<_>>());
    assert_eq!((page.last_seq, store.latest()), (Some(200), 200));
}

#[test]
fn events_are_found_by_every_part_of_the_filter() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("events.db"), KEEP).unwrap();
    let mut old = event("abc1", Kind::ContainerCreated);
    old.time = EventTime(jiff::Timestamp::now() - jiff::SignedDuration::from_hours(2));
    let finding = event("abc2", Kind::AccountFinding);
    let exec = event("xyz", Kind::ContainerExec);
    for one in [&old, &finding, &exec] {
        store.append(one).unwrap();
    }
    let hour_ago = EventTime(jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1));
    let cases = [
        (Filter::default(), vec![&old, &finding, &exec]),
        (Filter { after: 1, ..Filter::default() }, vec![&finding, &exec]),
        (Filter { since: Some(hour_ago), ..Filter::default() }, vec![&finding, &exec]),
        (Filter { container: Some("abc".to_owned()), ..Filter::default() }, vec![&old, &finding]),
        (Filter { container: Some("xyz".to_owned()), ..Filter::default() }, vec![&exec]),
        (Filter { container: Some("%".to_owned()), ..Filter::default() }, vec![]),
        (Filter { kinds: vec![Kind::ContainerExec, Kind::AccountFinding], ..Filter::default() }, vec![&finding, &exec]),
        (Filter { attack: Some("AN1239".to_owned()), ..Filter::default() }, vec![&finding]),
        (Filter { attack: Some("DC0072".to_owned()), limit: 1, ..Filter::default() }, vec![&old]),
    ];
    for (filter, expected) in cases {
        let page = store.events(&filter).unwrap();
        assert_eq!(ids(&page), expected.iter().map(|event| event.id).collect::<Vec<_>>(), "{filter:?}");
    }
}

#[test]
fn a_write_of_several_is_all_or_nothing_and_containers_and_cursors_persist() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("events.db");
    let container = StoredContainer { id: "c1".to_owned(), json: "{}".to_owned() };
    {
        let store = Store::open(&file, KEEP).unwrap();
        let row = Row::new(&event("c1", Kind::ContainerCreated)).unwrap();
        store.write(vec![Write::Event(row), Write::PutContainer(container.clone())]).unwrap();
        store.write(vec![Write::Cursor { sink: "json:-".to_owned(), seq: 7 }]).unwrap();
    }
    let store = Store::open(&file, KEEP).unwrap();
    assert_eq!(store.containers().unwrap(), vec![container]);
    assert_eq!((store.cursor("json:-").unwrap(), store.cursor("other").unwrap()), (Some(7), None));
    store.write(vec![Write::RemoveContainer("c1".to_owned())]).unwrap();
    assert_eq!(store.containers().unwrap(), vec![]);
}

#[test]
fn age_and_size_bound_the_store_and_the_newest_stay() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("events.db");
    let connection = schema::open_writer(&file).unwrap();
    let store = Store::open(&file, KEEP).unwrap();
    let mut old = event("old", Kind::ContainerCreated);
    old.time = EventTime(jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24 * 31));
    store.append(&old).unwrap();
    for number in 0..600 {
        let mut one = event("c1", Kind::AccountAttempt);
        one.host.name = format!("{number} {}", "x".repeat(4000));
        store.write(vec![Write::Event(Row::new(&one).unwrap())]).unwrap();
    }
    drop(store);
    let used = |connection: &rusqlite::Connection| -> i64 {
        let pragma = |name: &str| -> i64 { connection.query_row(name, [], |row| row.get(0)).unwrap() };
        pragma("PRAGMA page_count") * pragma("PRAGMA page_size")
    };
    assert!(used(&connection) > 2 * 1024 * 1024);
    while retention::step(&connection, Retention::new(30, 1)).unwrap() {}
    assert!(used(&connection) <= 1024 * 1024 + 4096 * 8, "{}", used(&connection));
    let store = Store::open(&file, KEEP).unwrap();
    assert!(store.oldest().unwrap().unwrap() > 1);
    let page = store.events(&Filter { limit: 1000, ..Filter::default() }).unwrap();
    assert!(page.events.last().unwrap().event.host.name.starts_with("599 "));
    assert_eq!(store.latest(), 601);
}

#[test]
fn a_newer_schema_a_damaged_file_and_a_bad_place_are_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    let newer = dir.path().join("newer.db");
    schema::open_writer(&newer).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let damaged = dir.path().join("damaged.db");
    std::fs::write(&damaged, "this is no database, and long enough to be seen as such by its header".repeat(20))
        .unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let cases = [
        (newer, "has schema version 99"),
        (damaged, "is damaged"),
        (file.join("events.db"), "cannot open event store"),
    ];
    for (path, text) in cases {
        let message = Store::open(&path, KEEP).unwrap_err().to_string();
        assert!(message.contains(text) && message.contains(path.to_str().unwrap()), "{message}");
        assert!(!message.contains('\n'));
    }
}

#[test]
fn a_full_disk_fails_the_write_and_later_writes_work_again() {
    let dir = tempfile::tempdir().unwrap();
    let mount = dir.path().join("small");
    std::fs::create_dir(&mount).unwrap();
    let _mounted = SmallDisk::mount(&mount);
    let file = mount.join("events.db");
    let store = Store::open(&file, KEEP).unwrap();
    store.append(&event("c1", Kind::ContainerCreated)).unwrap();
    let filler = mount.join("filler");
    let _ = std::fs::write(&filler, vec![0; 4 * 1024 * 1024]);
    let mut large = event("c1", Kind::AccountAttempt);
    large.host.name = "x".repeat(300_000);
    let error = store.append(&large).unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(error.to_string().contains("the disk or its quota is full"));
    std::fs::remove_file(&filler).unwrap();
    store.append(&event("c1", Kind::ContainerExited)).unwrap();
    assert_eq!(store.events(&Filter::default()).unwrap().events.len(), 2);
}

struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Self {
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some("size=2m"))
            .expect("cannot mount a tmpfs; run the tests as root");
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn waiting_ends_with_a_new_event_with_time_and_with_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("events.db"), KEEP).unwrap());
    assert!(!store.wait_after(0, Duration::from_millis(10)));
    let other = Arc::clone(&store);
    let waiting = std::thread::spawn(move || other.wait_after(0, Duration::from_secs(60)));
    store.append(&event("c1", Kind::ContainerCreated)).unwrap();
    assert!(waiting.join().unwrap());
    let other = Arc::clone(&store);
    let waiting = std::thread::spawn(move || other.wait_after(1, Duration::from_secs(60)));
    store.wake_all();
    assert!(!waiting.join().unwrap());
}

#[test]
fn the_spool_gives_every_event_once_and_puts_aside_what_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let spool = dir.path().join("spool");
    let first = event("c1", Kind::ContainerCreated);
    let second = event("c1", Kind::ContainerExited);
    assert_eq!(spool::take_all(&spool, |_| Ok::<_, spool::SpoolError>(spool::Then::Remove)).unwrap().events, 0);
    spool::put(&spool, &first).unwrap();
    spool::put(&spool, &second).unwrap();
    spool::put(&spool, &second).unwrap();
    std::fs::write(spool.join("garbage.json"), "{").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", spool.join("link.json")).unwrap();
    let store = Store::open(&dir.path().join("events.db"), KEEP).unwrap();
    let refused: Result<_, spool::SpoolError> = spool::take_all(&spool, |_| {
        Err(spool::SpoolError::File {
            operation: "store",
            path: spool.clone(),
            source: std::io::ErrorKind::Other.into(),
        })
    });
    assert!(refused.is_err());
    let taken = spool::take_all(&spool, |event| {
        store.append(&event).unwrap();
        Ok::<_, spool::SpoolError>(spool::Then::Remove)
    })
    .unwrap();
    assert_eq!((taken.events, taken.rejected.len()), (2, 2), "{taken:?}");
    assert_eq!(ids(&store.events(&Filter::default()).unwrap()), vec![first.id, second.id]);
    let left: Vec<_> = std::fs::read_dir(&spool).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name.to_string_lossy().ends_with(".rejected")), "{left:?}");
}

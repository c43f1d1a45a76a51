use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::PoisonError;

use super::*;
use crate::model::attempt::Attempt;
use crate::model::attempt::Effect;
use crate::model::database_path::DatabasePath;
use crate::model::event::Actor;
use crate::model::event::EventTime;
use crate::supervise::actor::Acting;
use crate::supervise::observe::Seen;

mod folding;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/usr/sbin/nologin\n";
const SHADOW: &str = "root:*:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n";
const EVE: &str = "eve:x:1000:1000::/home/eve:/bin/sh\n";
const BOB: &str = "bob:x:1001:1001::/home/bob:/bin/sh\n";

/// Files of a container and the processes that run in it.
#[derive(Default)]
struct Inside {
    files: BTreeMap<String, String>,
    alive: BTreeSet<u32>,
}

#[derive(Clone, Default)]
struct FakeSurroundings(Arc<Mutex<Inside>>);

impl FakeSurroundings {
    fn get(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Surroundings for FakeSurroundings {
    fn snapshot(&self, databases: &[DatabasePath]) -> Databases {
        let wanted = |(path, text): (&String, &String)| {
            let path = DatabasePath::new(path).expect("path");
            databases.contains(&path).then(|| (path, text.clone().into_bytes()))
        };
        Databases::parse(self.get().files.iter().filter_map(wanted).collect())
    }

    fn devices(&self, _: &[DatabasePath]) -> Devices {
        Devices::new()
    }

    fn follow_root(&self, _: u32) {}

    fn is_alive(&self, acting: &Acting) -> bool {
        self.get().alive.contains(&acting.pid())
    }

    fn acting(&self, pid: u32, _: u32) -> Option<Acting> {
        self.get().alive.contains(&pid).then(|| process(pid, &[], &["stranger"]))
    }
}

/// A story: what processes do, and when.
struct Story {
    case: Case,
    world: FakeSurroundings,
    now_ms: u64,
    attempts: Vec<Event>,
}

fn at(milliseconds: u64) -> Moment {
    let wall = jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_millis(milliseconds.cast_signed());
    Moment { wall: EventTime(wall), steady: Duration::from_millis(milliseconds) }
}

/// Process `pid` below `ancestors` (the nearest first, without the container's init).
fn process(pid: u32, ancestors: &[u32], argv: &[&str]) -> Acting {
    let argv = argv.iter().map(|argument| (*argument).to_owned()).collect();
    let lineage = [&[pid], ancestors].concat();
    Acting { actor: Actor { pid, argv, ..Actor::default() }, lineage, start_time_ticks: u64::from(pid) }
}

fn event_container() -> Container {
    Container {
        id: crate::model::workload::ContainerId::new("c1").expect("id"),
        name: None,
        image: None,
        engine: "none".to_owned(),
        runtime: None,
        pod: None,
        started_at: None,
    }
}

impl Story {
    fn begin() -> Self {
        let world = FakeSurroundings::default();
        world.get().files.insert("/etc/passwd".to_owned(), PASSWD.to_owned());
        world.get().files.insert("/etc/shadow".to_owned(), SHADOW.to_owned());
        let identity = Identity {
            host: Host::default(),
            container: event_container(),
            init: 1,
            policy: LivePolicy::new(Applied::built_in()),
        };
        let root = std::fs::File::open("/").expect("root").into();
        let root = Arc::new(RwLock::new(Arc::new(ContainerRoot::new(root))));
        let case = Case::with_surroundings(identity, root, Box::new(world.clone()));
        Self { case, world, now_ms: 1_000_000, attempts: Vec::new() }
    }

    fn after(&mut self, milliseconds: u64) -> &mut Self {
        self.now_ms += milliseconds;
        self
    }

    fn starts(&mut self, pid: u32) -> &mut Self {
        self.world.get().alive.insert(pid);
        self
    }

    fn ends(&mut self, pid: u32) -> &mut Self {
        self.world.get().alive.remove(&pid);
        self
    }

    fn sees(&mut self, acting: &Acting, effect: Effect, database: Option<&str>, outcome: Outcome) -> &mut Self {
        self.sees_proposed(acting, effect, database, outcome, None)
    }

    fn sees_proposed(
        &mut self,
        acting: &Acting,
        effect: Effect,
        database: Option<&str>,
        outcome: Outcome,
        proposed: Option<&str>,
    ) -> &mut Self {
        let attempt = Attempt {
            call: if effect == Effect::Writes { "openat" } else { "rename" },
            effect,
            database: database.map(|path| DatabasePath::new(path).expect("path")),
            path_as_asked: None,
            object_path: None,
            object: None,
            flags: Vec::new(),
        };
        let tool_arguments = if effect == Effect::RunsAccountTool { acting.actor.argv.clone() } else { Vec::new() };
        let mut seen =
            Seen { attempt, proposed: proposed.map(|text| text.as_bytes().to_vec()), tool_arguments, neighbour: None };
        let key = ProcessKey { pid: acting.pid(), start_time_ticks: acting.start_time_ticks };
        if self.case.note_repeat(key, &mut seen, outcome, at(self.now_ms)) {
            return self;
        }
        let event = self.case.note_attempt(Sighting {
            seen,
            acting: Arc::new(acting.clone()),
            session: None,
            outcome,
            policy: Applied::built_in().reference("mode"),
            at: at(self.now_ms),
        });
        self.attempts.extend(event);
        self
    }

    /// A rename over a database: seen, let go, carried out.
    fn renames(&mut self, acting: &Acting, database: &str, text: &str) -> &mut Self {
        self.sees_proposed(acting, Effect::Replaces, Some(database), Outcome::Allowed, Some(text));
        self.writes(database, text)
    }

    fn writes(&mut self, database: &str, text: &str) -> &mut Self {
        self.world.get().files.insert(database.to_owned(), text.to_owned());
        self
    }

    fn fanotify(&mut self, name: &str, pid: u32) -> &mut Self {
        self.case.note_change(name.as_bytes(), pid, at(self.now_ms));
        self
    }

    fn due(&mut self) -> Vec<Event> {
        self.case.due(at(self.now_ms))
    }

    /// Lets time pass as the daemon's thread does, waking when the case asks for it; what was found meanwhile.
    fn waits(&mut self, milliseconds: u64) -> Vec<Event> {
        let until = self.now_ms + milliseconds;
        let mut events = Vec::new();
        while let Some(wait) = self.case.wait(at(self.now_ms)) {
            let step = u64::try_from(wait.as_millis()).expect("short").max(1);
            if self.now_ms + step > until {
                break;
            }
            self.now_ms += step;
            events.extend(self.due());
        }
        self.now_ms = until;
        events
    }
}

/// A finding in one line: verdict, changes, actor's pid, witnesses, attempts.
fn told(events: &[Event]) -> Vec<String> {
    let findings = events.iter().filter(|event| event.kind == Kind::AccountFinding);
    findings
        .map(|event| {
            let verdict = event.verdict.as_ref().expect("verdict");
            let incident = event.incident.as_ref().expect("incident");
            let changes = event.changes.as_ref().expect("changes").iter();
            let changes: Vec<String> = changes
                .map(|change| {
                    format!("{} {} ({})", change.change, change.name.clone().unwrap_or_default(), change.evidence)
                })
                .collect();
            let actor = event.actor.as_ref().map_or("nobody".to_owned(), |actor| actor.pid.to_string());
            format!(
                "{:?}: {} by {actor} [{}] {}/{}",
                verdict.result,
                changes.join(", "),
                verdict.witness.join(" "),
                incident.blocked,
                incident.attempts
            )
        })
        .collect()
}

fn with(base: &str, line: &str) -> String {
    format!("{base}{line}")
}

/// What was changed before the case's successor began, and not told, is told by that; what was told is not.
#[test]
fn a_case_goes_on_where_another_ended() {
    let mut story = Story::begin();
    let told = story.case.told().expect("nothing is in progress");
    story.writes("/etc/passwd", &format!("{PASSWD}eve:x:1000:1000::/:/bin/sh\n"));
    let mut later = Story::begin();
    later.world.get().files.clone_from(&story.world.get().files);
    later.case.replace_root(later.case.root(), 1);
    assert!(later.after(2_000).due().is_empty(), "it begins with what is there");
    later.case.go_on_from(told, at(later.now_ms));
    later.case.replace_root(later.case.root(), 1);
    let findings = later.after(2_000).due();
    let names: Vec<_> =
        findings.iter().flat_map(|event| event.changes.iter().flatten()).map(|change| &change.name).collect();
    assert_eq!(names, [&Some("eve".to_owned())]);
    assert!(later.after(2_000).due().is_empty());
}

#[test]
fn useradd_is_one_finding() {
    let mut story = Story::begin();
    let useradd = process(41, &[40], &["useradd", "eve"]);
    story.starts(41).sees(&useradd, Effect::RunsAccountTool, None, Outcome::Allowed);
    story.after(10).sees(&useradd, Effect::Writes, Some("/etc/passwd"), Outcome::Allowed);
    story.after(1).sees(&useradd, Effect::Writes, Some("/etc/shadow"), Outcome::Allowed);
    story.after(30).renames(&useradd, "/etc/passwd", &with(PASSWD, EVE)).fanotify("passwd", 41);
    assert_eq!(told(&story.due()), [""; 0], "not while it goes on");
    story
        .after(20)
        .renames(&useradd, "/etc/shadow", &with(SHADOW, "eve:!:19000:0:99999:7:::\n"))
        .fanotify("shadow", 41);
    story.after(5).ends(41);
    let events = story.waits(5000);
    let findings = told(&events);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].starts_with("Allowed: account_added eve (content)"), "{findings:?}");
    assert!(findings[0].ends_with("by 41 [notify fanotify content] 0/5"), "{findings:?}");
    assert_eq!(events[0].severity, Severity::High);
    assert_eq!(story.attempts.len(), 5, "every kind of attempt is told at once");
    let incidents: BTreeSet<_> =
        story.attempts.iter().chain(&events).map(|event| event.incident.as_ref().expect("incident").id).collect();
    assert_eq!(incidents.len(), 1);
    assert_eq!(story.waits(60_000), []);
}

#[test]
fn adduser_and_its_children_are_one_finding_despite_a_pause() {
    let mut story = Story::begin();
    let adduser = process(50, &[], &["/usr/bin/perl", "/usr/sbin/adduser", "eve"]);
    let useradd = process(51, &[50], &["useradd", "eve"]);
    let chage = process(52, &[50], &["chage", "eve"]);
    story.starts(50).sees(&adduser, Effect::RunsAccountTool, None, Outcome::Allowed);
    story.after(600);
    let mut events = story.waits(0);
    story.starts(51).sees(&useradd, Effect::RunsAccountTool, None, Outcome::Allowed);
    story.after(50).renames(&useradd, "/etc/passwd", &with(PASSWD, EVE)).after(5).ends(51);
    events.extend(story.waits(700)); // copies /etc/skel; adduser still lives
    story.starts(52).renames(&chage, "/etc/shadow", &with(SHADOW, "eve:!:19000:0:90:7:::\n")).ends(52);
    events.extend(story.after(100).ends(50).waits(5000));
    let findings = told(&events);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].starts_with("Allowed: account_added eve"), "{findings:?}");
    assert!(findings[0].contains("by 51 "), "{findings:?}");
}

#[test]
fn sed_in_place_removes_an_account() {
    let mut story = Story::begin();
    let sed = process(60, &[], &["sed", "-i", "/daemon/d", "/etc/passwd"]);
    story.starts(60).renames(&sed, "/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n").ends(60);
    assert_eq!(story.after(249).due(), []);
    let findings = told(&story.after(1).due());
    assert_eq!(findings, ["Allowed: account_removed daemon (content) by 60 [notify content] 0/1"]);
}

#[test]
fn appending_from_the_containers_own_shell() {
    let mut story = Story::begin();
    let shell = process(1, &[], &["sh", "-c", "echo >> /etc/passwd"]);
    story.starts(1).sees(&shell, Effect::Writes, Some("/etc/passwd"), Outcome::Allowed);
    story.after(1).writes("/etc/passwd", &with(PASSWD, "toor:x:0:0::/:/bin/sh\n"));
    let events = story.waits(1100);
    assert_eq!(told(&events), ["Allowed: account_added toor (content) by 1 [notify content] 0/1"]);
    assert_eq!(events[0].severity, Severity::Critical);
}

#[test]
fn what_was_blocked_is_told_with_what_was_intended() {
    let mut story = Story::begin();
    let sed = process(60, &[], &["sed", "-i", "$a eve", "/etc/passwd"]);
    story.sees_proposed(&sed, Effect::Replaces, Some("/etc/passwd"), Outcome::Blocked, Some(&with(PASSWD, EVE)));
    let events = story.waits(2000);
    assert_eq!(told(&events), ["Blocked: account_added eve (intended) by 60 [notify] 1/1"]);
    assert_eq!(events[0].verdict.as_ref().and_then(|verdict| verdict.errno.as_deref()), Some("EPERM"));
    assert_eq!(story.waits(60_000), [], "told once");

    let useradd = process(61, &[], &["useradd", "-m", "mallory"]);
    story.sees(&useradd, Effect::RunsAccountTool, None, Outcome::Allowed);
    story.after(1).sees(&useradd, Effect::Writes, Some("/etc/passwd"), Outcome::Blocked);
    assert_eq!(told(&story.waits(2000)), ["Blocked: account_added mallory (arguments) by 61 [notify] 1/2"]);

    let echo = process(62, &[], &["sh", "-c", "echo >> /etc/passwd"]);
    story.sees(&echo, Effect::Writes, Some("/etc/passwd"), Outcome::Blocked);
    assert_eq!(told(&story.waits(2000)), ["Blocked:  by 62 [notify] 1/1"]);
}

#[test]
fn what_changed_and_was_refused_nothing_is_no_finding() {
    let mut story = Story::begin();
    let help = process(70, &[], &["useradd", "--help"]);
    story.sees(&help, Effect::RunsAccountTool, None, Outcome::Allowed);
    assert_eq!(story.waits(5000), []);
    let touch = process(71, &[], &["touch", "/etc/passwd"]);
    story.sees(&touch, Effect::Writes, Some("/etc/passwd"), Outcome::Allowed);
    assert_eq!(story.waits(5000), []);
    assert!(story.case.wait(at(story.now_ms)) > Some(Duration::from_secs(1)), "nothing is in progress");
    assert_eq!(story.attempts.len(), 2, "the attempts themselves are on record");
}

#[test]
fn a_descriptor_held_for_long_still_names_who_opened_it() {
    for witnessed in [true, false] {
        let mut story = Story::begin();
        let holder = process(80, &[], &["python3", "holder.py"]);
        story.starts(80).sees(&holder, Effect::Writes, Some("/etc/passwd"), Outcome::Allowed);
        assert_eq!(story.waits(60_000), []);
        story.writes("/etc/passwd", &with(PASSWD, EVE));
        let expected = if witnessed {
            story.fanotify("passwd", 80);
            "Allowed: account_added eve (content) by 80 [notify fanotify content] 0/1"
        } else {
            story.case.request_check(at(story.now_ms));
            "Allowed: account_added eve (content) by 80 [notify content] 0/1"
        };
        assert_eq!(told(&story.waits(1000)), [expected]);
    }
}

#[test]
fn what_no_attempt_explains_is_observed() {
    let mut story = Story::begin();
    story.writes("/etc/passwd", &with(PASSWD, EVE)).starts(90).fanotify("passwd", 90);
    assert_eq!(told(&story.waits(1000)), ["Observed: account_added eve (content) by 90 [fanotify content] 0/0"]);
    story.writes("/etc/passwd", PASSWD).fanotify("passwd", 0);
    assert_eq!(told(&story.waits(1000)), ["Observed: account_removed eve (content) by nobody [content] 0/0"]);
    // a process that once opened the database is not blamed for what fanotify says another did
    let opener = process(91, &[], &["vi", "/etc/passwd"]);
    story.sees(&opener, Effect::Writes, Some("/etc/passwd"), Outcome::Allowed).waits(5000);
    story.writes("/etc/passwd", &with(PASSWD, EVE)).fanotify("passwd", 90);
    assert_eq!(told(&story.waits(1000)), ["Observed: account_added eve (content) by 90 [fanotify content] 0/0"]);
    // what was blocked explains no change
    let blocked = process(92, &[], &["sh"]);
    story.sees(&blocked, Effect::Writes, Some("/etc/passwd"), Outcome::Blocked).writes("/etc/passwd", PASSWD);
    let findings = told(&story.waits(2000));
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings[1].starts_with("Observed: account_removed eve"), "{findings:?}");
}

#[test]
fn repeats_are_counted_never_lost() {
    let mut story = Story::begin();
    let shell = process(95, &[], &["sh"]);
    for _ in 0..1000 {
        story.sees(&shell, Effect::Writes, Some("/etc/passwd"), Outcome::Blocked);
    }
    assert_eq!(story.attempts.len(), 1);
    let events = story.waits(2000);
    let repeats: Vec<_> =
        events.iter().filter(|event| event.kind == Kind::AccountAttempt).map(|event| event.count).collect();
    assert_eq!(repeats, [Some(999)]);
    assert_eq!(told(&events), ["Blocked:  by 95 [notify] 1000/1000"]);
    assert_eq!(story.case.counts(), Counts { attempts: 1000, blocked: 1000, findings: 1 });
}

#[test]
fn two_acts_at_the_same_time_get_their_own_changes() {
    let mut story = Story::begin();
    let first = process(101, &[], &["useradd", "eve"]);
    let second = process(102, &[], &["useradd", "bob"]);
    story.renames(&first, "/etc/passwd", &with(PASSWD, EVE)).fanotify("passwd", 101);
    story.after(20).renames(&second, "/etc/passwd", &with(&with(PASSWD, EVE), BOB)).fanotify("passwd", 102);
    let findings = told(&story.waits(3000));
    assert_eq!(
        findings,
        [
            "Allowed: account_added eve (content) by 101 [notify fanotify content] 0/1",
            "Allowed: account_added bob (content) by 102 [notify fanotify content] 0/1",
        ]
    );
}

#[test]
fn bursts_end_with_a_pause_or_after_a_limit() {
    let mut story = Story::begin();
    let shell = process(110, &[], &["sh"]);
    story.starts(110).sees(&shell, Effect::Writes, Some("/etc/passwd"), Outcome::Blocked);
    story.after(900).sees(&shell, Effect::Writes, Some("/etc/shadow"), Outcome::Blocked);
    assert_eq!(told(&story.waits(1500)), ["Blocked:  by 110 [notify] 2/2"]);
    story.sees(&shell, Effect::Writes, Some("/etc/shadow"), Outcome::Blocked);
    let first = story.attempts[0].incident.as_ref().expect("incident").id;
    let last = story.attempts[2].incident.as_ref().expect("incident").id;
    assert_ne!(first, last);
    // without any pause, a finding comes after the limit all the same
    let mut findings = Vec::new();
    for _ in 0..400 {
        findings.extend(told(&story.waits(100)));
        story.sees(&shell, Effect::Writes, Some("/etc/shadow"), Outcome::Blocked);
    }
    assert_eq!(findings.len(), 1, "{findings:?}");
}

#[test]
fn the_end_of_a_container_tells_everything() {
    let mut story = Story::begin();
    let useradd = process(120, &[], &["useradd", "eve"]);
    story.renames(&useradd, "/etc/passwd", &with(PASSWD, EVE)).writes("/etc/shadow", "");
    let findings = told(&story.case.finish(at(story.now_ms)));
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings[0].starts_with("Allowed: account_added eve"), "{findings:?}");
    assert!(findings[1].starts_with("Observed: "), "{findings:?}");
    assert_eq!(story.case.finish(at(story.now_ms)), []);
}

#[test]
fn relations_between_processes() {
    let of = |pid, ancestors: &[u32]| process(pid, ancestors, &[]);
    assert!(of(5, &[]).is_related_to(&of(5, &[])));
    assert!(of(6, &[5]).is_related_to(&of(5, &[])));
    assert!(of(5, &[]).is_related_to(&of(7, &[6, 5])));
    assert!(of(6, &[5]).is_related_to(&of(7, &[5])));
    assert!(!of(6, &[]).is_related_to(&of(7, &[])), "children of the container's init are strangers");
    assert!(!of(6, &[4, 3]).is_related_to(&of(7, &[5, 3])), "cousins are strangers");
}

#[test]
fn what_is_written_through_a_mapping_is_found_while_it_lasts_and_after_it_was_left_to_another() {
    let mut story = Story::begin();
    let daemon = process(70, &[], &["daemon"]);
    story.starts(70).sees(&daemon, Effect::Writes, Some("/etc/passwd"), Outcome::Allowed);
    assert_eq!(told(&story.waits(60_000)), [""; 0]);
    story.writes("/etc/passwd", &with(PASSWD, EVE)); // and nobody tells
    let findings = told(&story.waits(1_100));
    assert_eq!(findings, ["Allowed: account_added eve (content) by 70 [notify content] 0/1"]);
    story.ends(70).writes("/etc/passwd", &with(PASSWD, BOB));
    assert_eq!(told(&story.waits(1_100)), [""; 0]);
    assert_eq!(told(&story.waits(15_000)).len(), 1);
}

#[test]
fn a_held_descriptor_is_told_apart_from_an_act_in_progress() {
    let mut story = Story::begin();
    let holder = process(130, &[], &["python3"]);
    story.starts(130).sees(&holder, Effect::Writes, Some("/etc/passwd"), Outcome::Allowed).waits(5000);
    let touch = process(131, &[], &["touch", "/etc/passwd"]);
    story.sees(&touch, Effect::Writes, Some("/etc/passwd"), Outcome::Allowed);
    story.writes("/etc/passwd", &with(PASSWD, EVE)).fanotify("passwd", 130);
    assert_eq!(told(&story.waits(3000)), ["Allowed: account_added eve (content) by 130 [notify fanotify content] 0/1"]);
}

#[test]
fn databases_that_a_new_policy_adds_begin_as_they_are() {
    let mut story = Story::begin();
    story.writes("/opt/users", "one\n");
    let mut applied = Applied::built_in();
    applied.databases.push(DatabasePath::new("/opt/users").expect("path"));
    story.case.replace_policy(applied, at(story.now_ms));
    assert_eq!(told(&story.waits(1000)), [""; 0]);
    story.writes("/opt/users", "one\ntwo\n").fanotify("users", 0);
    assert_eq!(told(&story.waits(1000)), ["Observed: database_changed  (content) by nobody [content] 0/0"]);
}

/// What the audit log tells of process `pid` that wanted to write to `/etc/passwd`.
fn refusal(pid: Option<u32>, exe: &str) -> crate::kernel::audit_netlink::Refusal {
    crate::kernel::audit_netlink::Refusal {
        domain: 1,
        maker: Some(1),
        maker_exe: None,
        blockers: vec!["fs.write_file".to_owned()],
        path: Some(b"/etc/passwd".to_vec()),
        inode: None,
        caller: pid.map(|pid| crate::kernel::audit_netlink::Caller {
            pid,
            parent: 1,
            architecture: 0xc000_003e,
            number: 257,
            exit: -13,
            effective_uid: 5,
            effective_gid: 6,
            login_uid: None,
            exe: Some(exe.as_bytes().to_vec()),
            argv: vec![b"sh".to_vec(), b"-c".to_vec()],
        }),
    }
}

fn witness_words(event: &Event) -> Vec<&str> {
    event.verdict.iter().flat_map(|verdict| verdict.witness.iter().map(String::as_str)).collect()
}

#[test]
fn what_the_notifier_let_go_and_landlock_refused_is_one_finding() {
    let mut story = Story::begin();
    let shell = process(40, &[], &["sh"]);
    story.starts(40).sees(&shell, Effect::Writes, Some("/etc/passwd"), Outcome::Allowed);
    story.after(1);
    let attempt = story.case.note_refusal(&refusal(Some(40), "/bin/sh"), at(story.now_ms)).expect("an attempt");
    assert_eq!(witness_words(&attempt), ["landlock"]);
    assert_eq!(attempt.verdict.as_ref().and_then(|verdict| verdict.errno.as_deref()), Some("EACCES"));
    assert_eq!(attempt.operation.as_ref().map(|operation| operation.call.as_str()), Some("openat"));
    assert_eq!(
        attempt.incident.as_ref().map(|incident| incident.id),
        story.attempts[0].incident.as_ref().map(|i| i.id)
    );
    // again: counted, not told one by one
    assert_eq!(story.case.note_refusal(&refusal(Some(40), "/bin/sh"), at(story.now_ms)), None);
    story.ends(40).after(2000);
    let events = story.due();
    let findings: Vec<&Event> = events.iter().filter(|event| event.kind == Kind::AccountFinding).collect();
    let [finding] = findings.as_slice() else { panic!("{events:#?}") };
    assert_eq!(witness_words(finding), ["notify", "landlock"]);
    assert_eq!(finding.verdict.as_ref().map(|verdict| verdict.result), Some(Outcome::Blocked));
    assert_eq!(finding.verdict.as_ref().and_then(|verdict| verdict.errno.as_deref()), Some("EACCES"));
    let incident = finding.incident.as_ref().expect("incident");
    assert_eq!((incident.attempts, incident.blocked), (1, 2));
    assert_eq!(story.case.counts().blocked, 2);
}

#[test]
fn a_refusal_that_nobody_else_saw_is_a_finding_and_a_process_that_is_gone_is_marked() {
    let mut story = Story::begin();
    story.case.note_refusal(&refusal(Some(41), "/tmp/evil"), at(story.now_ms)).expect("an attempt");
    story.after(2000);
    let events = story.due();
    let finding = events.iter().find(|event| event.kind == Kind::AccountFinding).expect("a finding");
    assert_eq!(witness_words(finding), ["landlock"]);
    let actor = finding.actor.as_ref().expect("actor");
    assert_eq!((actor.pid, actor.gone, actor.exe.as_deref(), actor.uid), (41, true, Some("/tmp/evil"), 5));
    assert_eq!(actor.argv, ["sh", "-c"]);
    // a task of which the log names nobody
    let alone = story.case.note_refusal(&refusal(None, ""), at(story.now_ms)).expect("an attempt");
    let actor = alone.actor.expect("actor");
    assert_eq!((actor.pid, actor.gone), (0, true));
}

#[test]
fn a_change_by_a_process_that_is_gone_has_its_number() {
    let mut story = Story::begin();
    story.writes("/etc/passwd", &format!("{PASSWD}{EVE}")).fanotify("passwd", 77).after(2000);
    let events = story.due();
    let finding = events.iter().find(|event| event.kind == Kind::AccountFinding).expect("a finding");
    let actor = finding.actor.as_ref().expect("actor");
    assert_eq!((actor.pid, actor.gone), (77, true));
}

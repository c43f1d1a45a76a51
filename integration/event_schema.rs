//! The shipped JSON Schema and the Rust event agree: every kind of event, filled and minimal, is valid; what is wrong is not;
//! every published field is in both.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use acctguard::model::event::*;
use acctguard::model::policy::Ground;
use acctguard::model::workload::ContainerId;
use serde_json::Value;
use serde_json::json;

const SCHEMA: &str = include_str!("../packaging/schema/acctguard.event-1.schema.json");

const KINDS: [Kind; 8] = [
    Kind::ContainerCreated,
    Kind::ContainerExec,
    Kind::ContainerExited,
    Kind::ContainerIdentified,
    Kind::AccountAttempt,
    Kind::AccountFinding,
    Kind::ProtectionDegraded,
    Kind::ProtectionRestored,
];

fn schema() -> Value {
    serde_json::from_str(SCHEMA).expect("the schema is JSON")
}

fn problems(event: &Value) -> Vec<String> {
    let validator = jsonschema::draft202012::new(&schema()).expect("the schema is a schema");
    validator.iter_errors(event).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

fn list(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

fn time() -> EventTime {
    EventTime("2026-11-22T04:40:01.5Z".parse().expect("a time"))
}

fn digest() -> String {
    format!("sha256:{}", "0f".repeat(32))
}

// Every literal below names all fields, so that a field added to a struct does not compile before it is filled here.

fn process() -> Process {
    Process { pid: 41, container_pid: Some(7), exe: text("/bin/sh"), argv: list(&["sh", "-c", "x"]), uid: 0 }
}

fn creator() -> Creator {
    Creator {
        uid: 0,
        user: text("root"),
        login_uid: Some(1000),
        login_user: text("alice"),
        audit_session: Some(2),
        ancestry: vec![process()],
        service_account: text("system:serviceaccount:ci:deployer"),
        principal: text("alice@example.org"),
        owner: Some(owner()),
    }
}

fn owner() -> Owner {
    Owner { kind: "ReplicaSet".into(), name: text("web-6b8f"), told_by: "label pod-template-hash".into() }
}

fn host() -> Host {
    Host {
        name: "node".into(),
        machine_id: text("0123"),
        boot_id: text("4567"),
        kernel: "6.18".into(),
        cluster: text("east"),
        labels: BTreeMap::from([("rack".into(), "7".into())]),
    }
}

fn container() -> Container {
    Container {
        id: ContainerId::new("c1").expect("an id"),
        name: text("web"),
        image: Some(Image {
            name: "registry.example/web".into(),
            tag: text("1"),
            digest: text(&digest()),
            id: text(&digest()),
        }),
        engine: "containerd".into(),
        runtime: text("runc"),
        pod: Some(Pod { namespace: "prod".into(), name: "web-0".into(), uid: text("u") }),
        started_at: Some(time()),
    }
}

fn policy() -> PolicyReference {
    PolicyReference { name: "production".into(), mode: "enforce".into(), rule: "mode".into(), digest: digest() }
}

fn parameters() -> Parameters {
    Parameters {
        args: list(&["sleep", "60"]),
        user: Some(UserParameter { uid: 1000, gid: 1000, additional_gids: vec![5] }),
        cwd: text("/"),
        terminal: true,
        capabilities: BTreeMap::from([("bounding".into(), list(&["CAP_CHOWN"]))]),
        mounts: vec![MountParameter {
            destination: "/data".into(),
            source: text("/srv"),
            kind: text("bind"),
            options: list(&["ro"]),
        }],
        host_namespaces: list(&["network"]),
        devices: list(&["/dev/fuse"]),
        privileged: false,
        read_only_root: true,
        no_new_privileges: true,
        seccomp: "SCMP_ACT_ERRNO".into(),
        apparmor: text("docker-default"),
        selinux: text("system_u:system_r:container_t:s0"),
        resources: Some(json!({"pids": {"limit": 10}})),
        env_names: list(&["PATH"]),
        hostname: text("web-0"),
    }
}

fn creation() -> Creation {
    Creation {
        creator: creator(),
        source: Source { engine: "containerd".into(), control_plane: text("kubernetes") },
        target: CreationTarget { namespace: text("prod"), service: text("web-0"), role: text("container") },
        parameters: parameters(),
        accounts: Some(AccountBaseline {
            count: 19,
            digest: digest(),
            uid_zero: list(&["root"]),
            databases: list(&["/etc/passwd"]),
        }),
        protection: Protection {
            intercepted: true,
            ground: Ground::Notify,
            installer: text("runtime"),
            wait_killable: Some(false),
            not_killable: text("an old runtime"),
            reasons: list(&["seen late"]),
        },
        verdict: CreationVerdict { result: "unexpected".into(), reasons: list(&["image"]), refused: false },
    }
}

fn session() -> Session {
    Session {
        id: "3f2".into(),
        argv: list(&["sh"]),
        tty: true,
        user: text("0:0"),
        started_by: Some(creator()),
        ground: Some(Ground::Seal),
        reasons: list(&["a reason"]),
    }
}

fn actor() -> Actor {
    Actor {
        pid: 4100,
        container_pid: Some(41),
        exe: text("/usr/sbin/useradd"),
        argv: list(&["useradd", "mallory"]),
        uid: 0,
        gid: 0,
        container_uid: Some(0),
        container_gid: Some(0),
        login_uid: Some(1000),
        capabilities: list(&["CAP_CHOWN"]),
        ancestry: vec![process()],
        session: text("3f2"),
        container: Some("9c1f".into()),
        gone: true,
    }
}

fn state() -> AccountState {
    AccountState {
        uid: Some(1000),
        gid: Some(1000),
        gecos: text("M"),
        home: text("/home/mallory"),
        shell: text("/bin/sh"),
        password: text("[redacted]"),
        members: Some(list(&["alice"])),
        sources: Some(list(&["files", "systemd"])),
        mode: text("0640"),
        owner: text("0:42"),
        acl: text("user::rw-"),
        links: Some(1),
    }
}

fn change() -> Change {
    Change {
        change: "account_added".into(),
        database: "/etc/passwd".into(),
        name: text("mallory"),
        member: text("alice"),
        uid: Some(0),
        gid: Some(0),
        home: text("/home/mallory"),
        shell: text("/bin/sh"),
        before: Some(state()),
        after: Some(state()),
        flags: list(&["uid_zero"]),
        evidence: "content".into(),
    }
}

fn operation() -> Operation {
    Operation {
        call: "openat".into(),
        path: text("/etc/passwd"),
        object: text("/etc/passwd"),
        database: text("/etc/passwd"),
        effect: "writes".into(),
        flags: list(&["O_WRONLY"]),
    }
}

/// An event of `kind` with every field that this kind may carry.
fn full(kind: Kind) -> Event {
    let base = Event::new(uuid::Uuid::now_v7(), time(), kind, Severity::High, host());
    let is = |kinds: &[Kind]| kinds.contains(&kind);
    let account = is(&[Kind::AccountAttempt, Kind::AccountFinding]);
    let protection = is(&[Kind::ProtectionDegraded, Kind::ProtectionRestored]);
    Event {
        schema: base.schema,
        id: base.id,
        time: base.time,
        kind: base.kind,
        severity: base.severity,
        attack: base.attack,
        host: base.host,
        container: Some(container()),
        policy: Some(policy()),
        creation: is(&[Kind::ContainerCreated]).then(|| Box::new(creation())),
        session: (account || protection || is(&[Kind::ContainerExec])).then(session),
        actor: account.then(actor),
        operation: account.then(operation),
        verdict: account.then(|| Verdict {
            result: Outcome::Blocked,
            witness: list(&["notify", "content"]),
            errno: text("EPERM"),
        }),
        changes: is(&[Kind::AccountFinding]).then(|| vec![change()]),
        incident: account.then(|| Incident {
            id: uuid::Uuid::now_v7(),
            attempts: 4,
            blocked: 1,
            first: time(),
            last: time(),
        }),
        exit: is(&[Kind::ContainerExited]).then(|| Exit { witness: "poststop".into() }),
        identification: is(&[Kind::ContainerIdentified])
            .then(|| Identification { creation: uuid::Uuid::now_v7(), verdict: Some(creation().verdict) }),
        protection: protection.then(|| ProtectionChange {
            what: "interception".into(),
            reason: "the daemon is away".into(),
            remedy: text("start acctguard-daemon"),
        }),
        count: Some(3),
        suppressed: Some(0),
    }
}

/// An event of `kind` with nothing but what it must have.
fn minimal(kind: Kind) -> Event {
    let bare = Container {
        id: ContainerId::new("c1").expect("an id"),
        name: None,
        image: None,
        engine: "none".into(),
        runtime: None,
        pod: None,
        started_at: None,
    };
    let empty = Event::new(uuid::Uuid::now_v7(), time(), kind, Severity::Info, Host::default());
    let creation = Creation {
        verdict: CreationVerdict { result: "expected".into(), ..CreationVerdict::default() },
        ..Creation::default()
    };
    let verdict = Verdict { result: Outcome::Observed, witness: Vec::new(), errno: None };
    let operation = Operation { call: "open".into(), effect: "unresolved".into(), ..Operation::default() };
    let container = Some(bare);
    let policy = Some(policy());
    match kind {
        Kind::ContainerCreated => Event { container, policy, creation: Some(Box::new(creation)), ..empty },
        Kind::ContainerExec => Event { container, session: Some(Session::default()), ..empty },
        Kind::ContainerExited => Event { container, exit: Some(Exit { witness: "listener".into() }), ..empty },
        Kind::ContainerIdentified => Event {
            container,
            policy,
            identification: Some(Identification { creation: uuid::Uuid::now_v7(), verdict: None }),
            ..empty
        },
        Kind::AccountAttempt => Event {
            container,
            policy,
            actor: Some(Actor::default()),
            operation: Some(operation),
            verdict: Some(verdict),
            ..empty
        },
        Kind::AccountFinding => Event { container, policy, verdict: Some(verdict), changes: Some(Vec::new()), ..empty },
        Kind::ProtectionDegraded | Kind::ProtectionRestored => {
            Event { protection: Some(ProtectionChange::default()), ..empty }
        }
    }
}

#[test]
fn full_and_minimal_events_of_every_kind_are_valid_and_come_back_unchanged() {
    for kind in KINDS {
        for event in [full(kind), minimal(kind)] {
            let value = serde_json::to_value(&event).expect("an event is JSON");
            assert_eq!(problems(&value), Vec::<String>::new(), "{}: {value:#}", kind.as_str());
            let back: Event = serde_json::from_value(value).expect("an event reads back");
            assert_eq!(back, event);
        }
    }
}

#[test]
fn events_that_are_wrong_are_refused() {
    type Damage = fn(&mut Value);
    let cases: [(&str, Kind, Damage); 14] = [
        ("another schema", Kind::AccountFinding, |event| event["schema"] = json!("acctguard.event/2")),
        ("an unknown field", Kind::AccountFinding, |event| event["extra"] = json!(1)),
        ("an unknown field below", Kind::AccountFinding, |event| event["actor"]["extra"] = json!(1)),
        ("null instead of absent", Kind::AccountFinding, |event| event["container"]["name"] = json!(null)),
        ("an unknown kind", Kind::AccountFinding, |event| event["kind"] = json!("account.rumour")),
        ("a creation without its record", Kind::ContainerCreated, |event| {
            event.as_object_mut().expect("object").remove("creation");
        }),
        ("an identification of no creation", Kind::ContainerIdentified, |event| {
            event["identification"].as_object_mut().expect("object").remove("creation");
        }),
        ("an end with an identification", Kind::ContainerExited, |event| {
            event["identification"] = json!({"creation": "01a201ae-41ef-75de-b665-8314e0d14802"});
        }),
        ("a finding without changes", Kind::AccountFinding, |event| {
            event.as_object_mut().expect("object").remove("changes");
        }),
        ("a finding that calls itself DC0072", Kind::AccountFinding, |event| {
            event["attack"] = json!({"data_component": "DC0072"});
        }),
        ("a creation with an actor", Kind::ContainerCreated, |event| {
            event["actor"] = serde_json::to_value(actor()).expect("JSON");
        }),
        ("a time without nanoseconds", Kind::ContainerExited, |event| event["time"] = json!("2026-11-22T04:40:01Z")),
        ("a password hash", Kind::AccountFinding, |event| {
            event["changes"][0]["after"]["password"] = json!("$6$salt$hash");
        }),
        ("a negative pid", Kind::AccountFinding, |event| event["actor"]["pid"] = json!(-1)),
    ];
    for (what, kind, damage) in cases {
        let mut value = serde_json::to_value(full(kind)).expect("an event is JSON");
        damage(&mut value);
        assert!(!problems(&value).is_empty(), "{what} must not be valid");
    }
}

#[test]
fn the_words_of_changes_and_exits_are_the_published_ones() {
    let schema = schema();
    let published: BTreeSet<&str> = schema["$defs"]["change"]["properties"]["change"]["enum"]
        .as_array()
        .expect("an enumeration")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(published, acctguard::model::account::diff::KINDS.into_iter().collect());
    let published = &schema["$defs"]["exit"]["properties"]["witness"]["enum"];
    assert_eq!(*published, json!(Exit::WITNESSES));
}

/// `definition.property` for every property of every object in the schema.
fn published() -> BTreeSet<String> {
    let schema = schema();
    let names = |owner: &str, object: &Value| -> Vec<String> {
        object["properties"].as_object().into_iter().flatten().map(|(name, _)| format!("{owner}.{name}")).collect()
    };
    let mut found: BTreeSet<String> = names("event", &schema).into_iter().collect();
    for (owner, object) in schema["$defs"].as_object().expect("$defs") {
        found.extend(names(owner, object));
    }
    found
}

#[test]
fn every_published_field_is_one_of_the_structs_and_the_other_way_round() {
    let fields = |owner: &str, value: Value| -> Vec<String> {
        value.as_object().expect("an object").keys().map(|name| format!("{owner}.{name}")).collect()
    };
    let json = |value: &dyn erased::Json| value.json();
    let mut known: BTreeSet<String> = BTreeSet::new();
    for kind in KINDS {
        known.extend(fields("event", json(&full(kind))));
    }
    let finding = full(Kind::AccountFinding);
    for (owner, value) in [
        ("host", json(&host())),
        ("container", json(&container())),
        ("image", json(&container().image)),
        ("pod", json(&container().pod)),
        ("policy", json(&policy())),
        ("process", json(&process())),
        ("creator", json(&creator())),
        ("owner", json(&owner())),
        ("creation", json(&creation())),
        ("source", json(&creation().source)),
        ("target", json(&creation().target)),
        ("parameters", json(&parameters())),
        ("user", json(&parameters().user)),
        ("mount", json(&parameters().mounts[0])),
        ("accounts", json(&creation().accounts)),
        ("protection", json(&creation().protection)),
        ("creation_verdict", json(&creation().verdict)),
        ("session", json(&session())),
        ("actor", json(&actor())),
        ("operation", json(&operation())),
        ("verdict", json(&finding.verdict)),
        ("account_state", json(&state())),
        ("change", json(&change())),
        ("incident", json(&finding.incident)),
        ("identification", json(&full(Kind::ContainerIdentified).identification)),
        ("exit", json(&Exit { witness: "poststop".into() })),
        ("protection_change", json(&full(Kind::ProtectionDegraded).protection)),
        ("data_component", json(&Attack::container_creation())),
        ("analytic", json(&Attack::account_creation())),
    ] {
        known.extend(fields(owner, value));
    }
    assert_eq!(known, published(), "left: structs, right: schema");
}

mod erased {
    /// Serialisation behind a reference, so that values of many types fit one table.
    pub trait Json {
        fn json(&self) -> serde_json::Value;
    }
    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> serde_json::Value {
            serde_json::to_value(self).expect("serialises")
        }
    }
}

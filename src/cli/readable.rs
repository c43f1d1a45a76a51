//! An event as a person reads it: one line, what happened first, who did it, and what became of it.
//!
//! Every string out of an event is data. What is not a plain word is shown in quotes with everything escaped that could leave
//! the line, move the cursor or turn the reading direction, so no container can forge a line or a part of one.

use crate::model::event::AccountState;
use crate::model::event::Actor;
use crate::model::event::Change;
use crate::model::event::Container;
use crate::model::event::Creation;
use crate::model::event::Creator;
use crate::model::event::Event;
use crate::model::event::Kind;
use crate::model::event::Operation;
use crate::model::event::Outcome;
use crate::model::event::Session;
use crate::model::event::Severity;

/// Longest string shown, in characters.
const MAX_CHARACTERS: usize = 200;
/// Most changes spelled out in one line.
const MAX_CHANGES: usize = 8;
/// Most arguments of a command shown.
const MAX_ARGUMENTS: usize = 12;
/// Characters of a session id that tell it apart: the whole time in a UUIDv7 (RFC 9562 §5.7).
const SESSION_CHARACTERS: usize = 13;

/// The line for `event`, without its end.
#[must_use]
pub fn line(event: &Event) -> String {
    let what = match event.kind {
        Kind::ContainerCreated => created(event),
        Kind::ContainerExec => executed(event),
        Kind::ContainerExited => exited(event),
        Kind::ContainerIdentified => identified(event),
        Kind::AccountAttempt => attempt(event),
        Kind::AccountFinding => finding(event),
        Kind::ProtectionDegraded | Kind::ProtectionRestored => protection(event),
    };
    let mut line = format!("{} {} {what}", event.time.0.strftime("%Y-%m-%d %H:%M:%SZ"), severity(event.severity));
    if let Some(count) = event.count.filter(|count| *count > 1) {
        line.push_str(&format!(", {count} times"));
    }
    if let Some(suppressed) = event.suppressed.filter(|suppressed| *suppressed > 0) {
        line.push_str(&format!(", {suppressed} more like it folded away"));
    }
    line
}

const fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "INFO",
        Severity::Low => "LOW",
        Severity::Medium => "MEDIUM",
        Severity::High => "HIGH",
        Severity::Critical => "CRITICAL",
    }
}

fn created(event: &Event) -> String {
    let Some(creation) = &event.creation else {
        return format!("{} created", place(event));
    };
    let verdict = &creation.verdict;
    let mut line = if verdict.refused {
        format!("creation of {} refused", place(event))
    } else {
        format!("{} created", place(event))
    };
    line.push_str(&format!(" by {}", creator(&creation.creator)));
    line.push_str(&notable_parameters(creation));
    if let Some(accounts) = &creation.accounts {
        line.push_str(&format!(", {} accounts, uid 0: {}", accounts.count, words(&accounts.uid_zero, MAX_ARGUMENTS)));
    }
    line.push_str(&format!(" — {}", text(&verdict.result)));
    if !verdict.reasons.is_empty() {
        line.push_str(&format!(" ({})", sentences(&verdict.reasons)));
    }
    line.push_str(if creation.protection.intercepted { ", intercepted" } else { ", not intercepted" });
    if !creation.protection.reasons.is_empty() {
        line.push_str(&format!(" ({})", sentences(&creation.protection.reasons)));
    }
    line + &policy(event, ", ")
}

/// What makes a container dangerous to its host.
fn notable_parameters(creation: &Creation) -> String {
    let parameters = &creation.parameters;
    let mut line = String::new();
    if !parameters.args.is_empty() {
        line.push_str(&format!(" to run {}", words(&parameters.args, MAX_ARGUMENTS)));
    }
    if parameters.privileged {
        line.push_str(", privileged");
    }
    let shared: Vec<String> = parameters
        .host_namespaces
        .iter()
        .filter(|name| matches!(name.as_str(), "pid" | "network" | "ipc" | "mount" | "uts"))
        .cloned()
        .collect();
    if !shared.is_empty() {
        line.push_str(&format!(", host {}", shared.join("+")));
    }
    line
}

fn executed(event: &Event) -> String {
    let Some(session) = &event.session else {
        return format!("exec in {}", place(event));
    };
    let user = session.user.as_deref().map(|user| format!(" as {}", text(user))).unwrap_or_default();
    let terminal = if session.tty { " on a terminal" } else { "" };
    let by = session.started_by.as_ref().map(|who| format!(" started by {}", creator(who))).unwrap_or_default();
    let argv = words(&session.argv, MAX_ARGUMENTS);
    let name = session_name(session);
    format!("exec session {name} in {}{by} runs {argv}{user}{terminal}{}", place(event), policy(event, ", "))
}

fn exited(event: &Event) -> String {
    let witness = event.exit.as_ref().map(|exit| format!(" (seen by {})", text(&exit.witness))).unwrap_or_default();
    format!("{} exited{witness}", place(event))
}

fn identified(event: &Event) -> String {
    let image = event.container.as_ref().and_then(|container| container.image.as_ref());
    let digest = image.and_then(|image| image.digest.as_deref());
    let mut line = format!("{} named by its engine", place(event));
    digest.iter().for_each(|digest| line.push_str(&format!(", digest {}", text(digest))));
    let verdict = event.identification.as_ref().and_then(|identification| identification.verdict.as_ref());
    if let Some(verdict) = verdict {
        line.push_str(&format!(" — {}", text(&verdict.result)));
        if !verdict.reasons.is_empty() {
            line.push_str(&format!(" ({})", sentences(&verdict.reasons)));
        }
    }
    line + &policy(event, ", ")
}

fn attempt(event: &Event) -> String {
    let what = event.operation.as_ref().map_or_else(|| "an attempt".to_owned(), operation);
    format!("{what} in {}{} — {}{}", place(event), by(event), outcome(event), policy(event, " by "))
}

fn finding(event: &Event) -> String {
    let changes = event.changes.as_deref().unwrap_or_default();
    let mut what: Vec<String> = changes.iter().take(MAX_CHANGES).map(change).collect();
    if changes.len() > MAX_CHANGES {
        what.push(format!("{} more changes", changes.len() - MAX_CHANGES));
    }
    if what.is_empty() {
        let database = event.operation.as_ref().and_then(|operation| operation.database.as_deref());
        what.push(format!("attempt to change {}", database.map_or_else(|| "the accounts".to_owned(), text)));
    }
    let attempts = event.incident.as_ref().filter(|incident| incident.attempts > 1).map(|incident| {
        let blocked = if incident.blocked > 0 { format!(", {} blocked", incident.blocked) } else { String::new() };
        format!(" in {} calls{blocked}", incident.attempts)
    });
    format!(
        "{} in {}{}{} — {}{}",
        what.join("; "),
        place(event),
        by(event),
        attempts.unwrap_or_default(),
        outcome(event),
        policy(event, " by ")
    )
}

fn protection(event: &Event) -> String {
    let state = if event.kind == Kind::ProtectionDegraded { "protection missing" } else { "protection restored" };
    let place = if event.container.is_some() { format!(" for {}", place(event)) } else { String::new() };
    let Some(change) = &event.protection else {
        return format!("{state}{place}");
    };
    let remedy = change.remedy.as_deref().map(|remedy| format!("; remedy: {}", sentence(remedy))).unwrap_or_default();
    format!("{state}{place}: {}: {}{remedy}", sentence(&change.what), sentence(&change.reason))
}

/// `container c1 (pod prod/web, image x:1)`.
fn place(event: &Event) -> String {
    let Some(container) = &event.container else {
        return "an unknown container".to_owned();
    };
    let details = details(container);
    let details = if details.is_empty() { String::new() } else { format!(" ({})", details.join(", ")) };
    format!("container {}{details}", text(container.id.as_str()))
}

fn details(container: &Container) -> Vec<String> {
    let mut details = Vec::new();
    if let Some(pod) = &container.pod {
        details.push(format!("pod {}/{}", text(&pod.namespace), text(&pod.name)));
    }
    if let Some(name) = container.name.as_deref().filter(|name| *name != container.id.as_str()) {
        details.push(format!("name {}", text(name)));
    }
    if let Some(image) = &container.image {
        let tag = image.tag.as_deref().map(|tag| format!(":{}", text(tag))).unwrap_or_default();
        details.push(format!("image {}{tag}", text(&image.name)));
    }
    details
}

/// ` by useradd (pid 41, uid 0), exec session 3f2… started by root (login alice)`.
fn by(event: &Event) -> String {
    let actor = event.actor.as_ref().map(|actor| format!(" by {}", process(actor))).unwrap_or_default();
    let session = event.session.as_ref().map(|session| format!(", {}", exec(session))).unwrap_or_default();
    actor + &session
}

fn process(actor: &Actor) -> String {
    let program = actor.exe.as_deref().or(actor.argv.first().map(String::as_str)).unwrap_or("an unknown program");
    let name = program.rsplit('/').find(|part| !part.is_empty()).unwrap_or(program);
    let pid = actor.container_pid.unwrap_or(actor.pid);
    let uid = actor.container_uid.unwrap_or(actor.uid);
    let of = actor.container.as_ref().map(|id| format!(" of container {}", text(id))).unwrap_or_default();
    format!("{} (pid {pid}, uid {uid}){of}", text(name))
}

fn exec(session: &Session) -> String {
    let by = session.started_by.as_ref().map(|who| format!(" started by {}", creator(who))).unwrap_or_default();
    format!("exec session {}{by}", session_name(session))
}

fn session_name(session: &Session) -> String {
    let short: String = session.id.chars().take(SESSION_CHARACTERS).collect();
    let more = if short.len() < session.id.len() { "…" } else { "" };
    format!("{}{more}", text(&short))
}

/// `root (login alice)`.
fn creator(creator: &Creator) -> String {
    let who = creator.principal.as_deref().or(creator.service_account.as_deref()).or(creator.user.as_deref());
    let who = who.map_or_else(|| format!("uid {}", creator.uid), text);
    let login = match (&creator.login_user, creator.login_uid) {
        (Some(login), _) => format!(" (login {})", text(login)),
        (None, Some(uid)) => format!(" (login uid {uid})"),
        (None, None) => String::new(),
    };
    who + &login
}

fn operation(operation: &Operation) -> String {
    let object = operation.path.as_deref().or(operation.object.as_deref());
    let object = object.map(|object| format!(" {}", text(object))).unwrap_or_default();
    let flags = if operation.flags.is_empty() { String::new() } else { format!(" [{}]", operation.flags.join(" ")) };
    let database = operation.database.as_deref().map(|database| format!(" {}", text(database))).unwrap_or_default();
    format!("{}{object}{flags} ({}{database})", text(&operation.call), operation.effect.replace('_', " "))
}

fn outcome(event: &Event) -> String {
    let Some(verdict) = &event.verdict else {
        return "recorded".to_owned();
    };
    match verdict.result {
        Outcome::Allowed => "allowed".to_owned(),
        Outcome::Blocked => match &verdict.errno {
            Some(errno) => format!("blocked ({})", text(errno)),
            None => "blocked".to_owned(),
        },
        Outcome::Observed => format!("observed after the fact ({})", words(&verdict.witness, MAX_ARGUMENTS)),
    }
}

/// `policy built-in (audit)`, after `before`.
fn policy(event: &Event, before: &str) -> String {
    event
        .policy
        .as_ref()
        .map(|policy| format!("{before}policy {} ({})", text(&policy.name), text(&policy.mode)))
        .unwrap_or_default()
}

fn change(change: &Change) -> String {
    let name = change.name.as_deref().map_or_else(|| "?".to_owned(), text);
    let member = change.member.as_deref().map_or_else(|| "?".to_owned(), text);
    let database = text(&change.database);
    // a blocked act has not happened
    let done = |verb: &str| {
        if change.evidence == "content" { verb.to_owned() } else { format!("would have been {verb}") }
    };
    let what = match change.change.as_str() {
        "account_added" => format!("account {name}{} {}", account(change), done("added")),
        "account_removed" => format!("account {name}{} {}", account(change), done("removed")),
        "account_modified" => format!("account {name} {}{}", done("modified"), differences(change)),
        "password_set" => format!("password of {name} {}", done("set")),
        "password_removed" => format!("password of {name} {}", done("removed")),
        "group_added" => format!("group {name}{} {}", account(change), done("added")),
        "group_removed" => format!("group {name}{} {}", account(change), done("removed")),
        "group_modified" => format!("group {name} {}{}", done("modified"), differences(change)),
        "membership_added" => format!("{member} {} to group {name}", done("added")),
        "membership_removed" => format!("{member} {} from group {name}", done("removed")),
        "lookup_changed" => format!("look-up of {name} {}{}", done("changed"), differences(change)),
        "database_created" => format!("database {database} {}", done("created")),
        "database_removed" => format!("database {database} {}", done("removed")),
        "database_changed" => format!("database {database} {}", done("changed")),
        "permissions_changed" => format!("permissions of {database} {}{}", done("changed"), differences(change)),
        other => format!("{} of {name} in {database}", text(other)),
    };
    if change.flags.is_empty() { what } else { format!("{what} [{}]", words(&change.flags, MAX_ARGUMENTS)) }
}

/// ` (uid 1000, gid 1000, shell /bin/sh)`.
fn account(change: &Change) -> String {
    let mut parts = Vec::new();
    parts.extend(change.uid.map(|uid| format!("uid {uid}")));
    parts.extend(change.gid.map(|gid| format!("gid {gid}")));
    parts.extend(
        change.shell.as_deref().filter(|shell| !shell.is_empty()).map(|shell| format!("shell {}", text(shell))),
    );
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

/// ` (uid 1000 → 0, shell /bin/false → /bin/sh)`.
fn differences(change: &Change) -> String {
    let (Some(before), Some(after)) = (&change.before, &change.after) else {
        return String::new();
    };
    let parts: Vec<String> = fields(before)
        .into_iter()
        .zip(fields(after))
        .filter(|((_, before), (_, after))| before != after)
        .map(|((name, before), (_, after))| {
            let shown = |value: Option<String>| value.map_or_else(|| "nothing".to_owned(), |value| text(&value));
            format!("{name} {} → {}", shown(before), shown(after))
        })
        .collect();
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

fn fields(state: &AccountState) -> [(&'static str, Option<String>); 12] {
    [
        ("uid", state.uid.map(|uid| uid.to_string())),
        ("gid", state.gid.map(|gid| gid.to_string())),
        ("comment", state.gecos.clone()),
        ("home", state.home.clone()),
        ("shell", state.shell.clone()),
        ("password", state.password.clone()),
        ("members", state.members.as_ref().map(|members| members.join(","))),
        ("sources", state.sources.as_ref().map(|sources| sources.join(" "))),
        ("mode", state.mode.clone()),
        ("owner", state.owner.clone()),
        ("acl", state.acl.clone()),
        ("names", state.links.map(|links| links.to_string())),
    ]
}

/// A string as one word: as it is when it is plain, else quoted and escaped.
#[must_use]
pub fn text(value: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "_-./:@+=,%$~*?#[]!^&".contains(character);
    if !value.is_empty() && value.len() <= MAX_CHARACTERS && value.chars().all(plain) {
        return value.to_owned();
    }
    quoted(value)
}

/// Prose of our own that may hold names out of a container: kept readable when it is one plain line.
#[must_use]
pub fn sentence(value: &str) -> String {
    let plain = |character: char| character.is_ascii_graphic() || character == ' ';
    if value.len() <= 4 * MAX_CHARACTERS && value.chars().all(plain) { value.to_owned() } else { quoted(value) }
}

/// Rust's own escapes (`char::escape_debug`): control characters, quotes, backslashes, and what is not printable, which the
/// marks that turn the reading direction are.
fn quoted(value: &str) -> String {
    let shown: String = value.chars().take(MAX_CHARACTERS).collect();
    let more = if shown.len() < value.len() { "…" } else { "" };
    format!("{shown:?}{more}")
}

fn words(values: &[String], most: usize) -> String {
    let mut shown: Vec<String> = values.iter().take(most).map(|value| text(value)).collect();
    if values.len() > most {
        shown.push("…".to_owned());
    }
    if shown.is_empty() { "nothing".to_owned() } else { shown.join(" ") }
}

fn sentences(values: &[String]) -> String {
    values.iter().map(|value| sentence(value)).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::*;
    use crate::model::policy::Ground;
    use crate::model::workload::ContainerId;

    fn event(kind: Kind, severity: Severity) -> Event {
        let time = EventTime("2026-11-22T04:40:01.123456789Z".parse().expect("a time"));
        let mut event = Event::new(uuid::Uuid::nil(), time, kind, severity, Host::default());
        event.container = Some(Container {
            id: ContainerId::new("c1").expect("an id"),
            name: None,
            image: None,
            engine: "none".into(),
            runtime: None,
            pod: Some(Pod { namespace: "prod".into(), name: "web".into(), uid: None }),
            started_at: None,
        });
        event.policy = Some(PolicyReference {
            name: "built-in".into(),
            mode: "audit".into(),
            rule: "mode".into(),
            digest: String::new(),
        });
        event
    }

    fn alice() -> Creator {
        Creator {
            user: Some("root".into()),
            login_uid: Some(1000),
            login_user: Some("alice".into()),
            ..Creator::default()
        }
    }

    fn useradd() -> Actor {
        Actor { pid: 4100, container_pid: Some(41), exe: Some("/usr/sbin/useradd".into()), ..Actor::default() }
    }

    fn mallory() -> Change {
        Change {
            change: "account_added".into(),
            database: "/etc/passwd".into(),
            name: Some("mallory".into()),
            uid: Some(1000),
            gid: Some(1000),
            shell: Some("/bin/sh".into()),
            evidence: "content".into(),
            ..Change::default()
        }
    }

    fn verdict(result: Outcome, errno: Option<&str>) -> Option<Verdict> {
        Some(Verdict { result, witness: vec!["notify".into()], errno: errno.map(str::to_owned) })
    }

    #[test]
    fn a_finding_reads_as_an_operator_wants_it() {
        let mut found = event(Kind::AccountFinding, Severity::High);
        found.changes = Some(vec![mallory()]);
        found.actor = Some(useradd());
        found.session = Some(Session {
            id: "01a201ae-41ef-75de-b665-8314e0d14802".into(),
            started_by: Some(alice()),
            ..Session::default()
        });
        found.verdict = verdict(Outcome::Allowed, None);
        assert_eq!(
            line(&found),
            "2026-11-22 04:40:01Z HIGH account mallory (uid 1000, gid 1000, shell /bin/sh) added in container c1 (pod prod/web) \
             by useradd (pid 41, uid 0), exec session 01a201ae-41ef… started by root (login alice) — allowed by policy built-in (audit)"
        );
    }

    #[test]
    fn a_blocked_act_has_not_happened() {
        let mut found = event(Kind::AccountFinding, Severity::Critical);
        let flags = vec!["uid_zero".into()];
        found.changes = Some(vec![Change { evidence: "intended".into(), flags, ..mallory() }]);
        found.actor = Some(useradd());
        found.incident =
            Some(Incident { id: uuid::Uuid::nil(), attempts: 4, blocked: 4, first: found.time, last: found.time });
        found.verdict = verdict(Outcome::Blocked, Some("EPERM"));
        assert_eq!(
            line(&found),
            "2026-11-22 04:40:01Z CRITICAL account mallory (uid 1000, gid 1000, shell /bin/sh) would have been added [uid_zero] \
             in container c1 (pod prod/web) by useradd (pid 41, uid 0) in 4 calls, 4 blocked — blocked (EPERM) by policy built-in (audit)"
        );
        found.changes = Some(Vec::new());
        assert!(line(&found).contains("attempt to change the accounts in container c1"), "{}", line(&found));
    }

    #[test]
    fn every_kind_has_its_sentence() {
        let mut created = event(Kind::ContainerCreated, Severity::Info);
        created.creation = Some(Box::new(Creation {
            creator: alice(),
            parameters: Parameters {
                args: vec!["sleep".into(), "60".into()],
                privileged: true,
                host_namespaces: vec!["network".into(), "user".into()],
                ..Parameters::default()
            },
            accounts: Some(AccountBaseline { count: 19, uid_zero: vec!["root".into()], ..AccountBaseline::default() }),
            protection: Protection { intercepted: true, ground: Ground::Notify, ..Protection::default() },
            verdict: CreationVerdict { result: "expected".into(), ..CreationVerdict::default() },
            ..Creation::default()
        }));
        let mut refused = created.clone();
        if let Some(creation) = refused.creation.as_mut() {
            creation.protection = Protection { reasons: vec!["the daemon is away".into()], ..Protection::default() };
            creation.verdict.refused = true;
        }
        let mut executed = event(Kind::ContainerExec, Severity::Info);
        executed.session = Some(Session {
            id: "3f2".into(),
            argv: vec!["sh".into(), "-c".into(), "echo hi".into()],
            tty: true,
            user: Some("0:0".into()),
            started_by: Some(alice()),
            ..Session::default()
        });
        let mut exited = event(Kind::ContainerExited, Severity::Info);
        exited.exit = Some(Exit { witness: "poststop".into() });
        let mut identified = event(Kind::ContainerIdentified, Severity::Medium);
        if let Some(container) = identified.container.as_mut() {
            container.image = Some(Image {
                name: "lab/a\u{1b}".into(),
                tag: Some("1".into()),
                digest: Some("sha256:11".into()),
                id: None,
            });
        }
        identified.identification = Some(Identification {
            creation: uuid::Uuid::nil(),
            verdict: Some(CreationVerdict {
                result: "unexpected".into(),
                reasons: vec!["image lab/a:1 is not among b/*".into()],
                refused: false,
            }),
        });
        let mut attempt = event(Kind::AccountAttempt, Severity::Medium);
        attempt.actor = Some(useradd());
        attempt.operation = Some(Operation {
            call: "openat".into(),
            path: Some("/etc/passwd".into()),
            database: Some("/etc/passwd".into()),
            effect: "replaces_ancestor".into(),
            flags: vec!["O_WRONLY".into()],
            ..Operation::default()
        });
        attempt.verdict = verdict(Outcome::Observed, None);
        attempt.count = Some(3);
        attempt.suppressed = Some(2);
        let mut degraded = event(Kind::ProtectionDegraded, Severity::High);
        degraded.protection = Some(ProtectionChange {
            what: "interception".into(),
            reason: "foreign listenerPath".into(),
            remedy: Some("remove it".into()),
        });
        let restored = event(Kind::ProtectionRestored, Severity::Info);
        for (event, expected) in [
            (
                created,
                "INFO container c1 (pod prod/web) created by root (login alice) to run sleep 60, privileged, host network, 19 accounts, uid 0: root — expected, intercepted, policy built-in (audit)",
            ),
            (
                refused,
                "INFO creation of container c1 (pod prod/web) refused by root (login alice) to run sleep 60, privileged, host network, 19 accounts, uid 0: root — expected, not intercepted (the daemon is away), policy built-in (audit)",
            ),
            (
                executed,
                "INFO exec session 3f2 in container c1 (pod prod/web) started by root (login alice) runs sh -c \"echo hi\" as 0:0 on a terminal, policy built-in (audit)",
            ),
            (exited, "INFO container c1 (pod prod/web) exited (seen by poststop)"),
            (
                identified,
                "MEDIUM container c1 (pod prod/web, image \"lab/a\\u{1b}\":1) named by its engine, digest sha256:11 — unexpected (image lab/a:1 is not among b/*), policy built-in (audit)",
            ),
            (
                attempt,
                "MEDIUM openat /etc/passwd [O_WRONLY] (replaces ancestor /etc/passwd) in container c1 (pod prod/web) by useradd (pid 41, uid 0) — observed after the fact (notify) by policy built-in (audit), 3 times, 2 more like it folded away",
            ),
            (
                degraded,
                "HIGH protection missing for container c1 (pod prod/web): interception: foreign listenerPath; remedy: remove it",
            ),
            (restored, "INFO protection restored for container c1 (pod prod/web)"),
        ] {
            assert_eq!(line(&event), format!("2026-11-22 04:40:01Z {expected}"));
        }
    }

    #[test]
    fn every_change_has_its_phrase() {
        let state = |uid, shell: &str| {
            Some(AccountState { uid: Some(uid), shell: Some(shell.into()), ..AccountState::default() })
        };
        let base = Change { member: Some("mallory".into()), name: Some("sudo".into()), ..mallory() };
        for (kind, expected) in [
            ("account_removed", "account sudo (uid 1000, gid 1000, shell /bin/sh) removed"),
            ("account_modified", "account sudo modified (uid 7 → 0, shell /bin/false → /bin/sh)"),
            ("password_set", "password of sudo set"),
            ("membership_added", "mallory added to group sudo"),
            ("membership_removed", "mallory removed from group sudo"),
            ("lookup_changed", "look-up of sudo changed (uid 7 → 0, shell /bin/false → /bin/sh)"),
            ("database_changed", "database /etc/passwd changed"),
            ("something_new", "something_new of sudo in /etc/passwd"),
        ] {
            let changed = Change {
                change: kind.into(),
                before: state(7, "/bin/false"),
                after: state(0, "/bin/sh"),
                ..base.clone()
            };
            assert_eq!(change(&changed), expected);
        }
    }

    #[test]
    fn hostile_strings_stay_inside_their_quotes() {
        for (hostile, expected) in [
            ("a\nb", "\"a\\nb\""),
            ("x) added in container prod — allowed", "\"x) added in container prod — allowed\""),
            ("\u{1b}[2J", "\"\\u{1b}[2J\""),
            ("\u{202e}gnp", "\"\\u{202e}gnp\""),
            ("\u{200b}", "\"\\u{200b}\""),
            ("\u{2028}", "\"\\u{2028}\""),
            ("a\"b", "\"a\\\"b\""),
            ("", "\"\""),
            ("plain-1.2/x:y@z", "plain-1.2/x:y@z"),
        ] {
            assert_eq!(text(hostile), expected);
        }
        let mut found = event(Kind::AccountFinding, Severity::High);
        let evil = "m\n2026-11-22 04:40:01Z INFO all is well\u{1b}[31m";
        found.changes = Some(vec![Change { name: Some(evil.into()), shell: Some(evil.into()), ..mallory() }; 20]);
        found.actor = Some(Actor { exe: Some(format!("/tmp/{evil}")), ..useradd() });
        found.operation = Some(Operation { path: Some(evil.into()), ..Operation::default() });
        let shown = line(&found);
        assert!(!shown.chars().any(char::is_control), "{shown}");
        assert!(shown.contains("12 more changes"), "{shown}");
        assert!(text(&"x".repeat(5000)).len() < 300, "long strings are cut");
    }
}

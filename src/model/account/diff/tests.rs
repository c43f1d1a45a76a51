use std::collections::BTreeMap;

use super::*;

const BASE_PASSWD: &str =
    "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/:/usr/sbin/nologin\nalice:x:1000:1000::/home/alice:/bin/bash\n";
const BASE_SHADOW: &str = "root:*:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\nalice:$6$s$h:19000:0:99999:7:::\n";
const BASE_GROUP: &str = "root:x:0:\nsudo:x:27:alice\nalice:x:1000:\n";
const BASE_GSHADOW: &str = "root:*::\nsudo:*::alice\nalice:!::\n";

fn databases(files: &[(&str, &str)]) -> Databases {
    let files = files.iter().map(|(path, text)| (DatabasePath::new(path).unwrap(), text.as_bytes().to_vec()));
    Databases::parse(files.collect())
}

fn base() -> Databases {
    databases(&[
        ("/etc/passwd", BASE_PASSWD),
        ("/etc/shadow", BASE_SHADOW),
        ("/etc/group", BASE_GROUP),
        ("/etc/gshadow", BASE_GSHADOW),
    ])
}

/// The base with some databases replaced.
fn changed(files: &[(&str, String)]) -> Databases {
    files.iter().fold(base(), |databases, (path, text)| {
        databases.with(&DatabasePath::new(path).unwrap(), Some(text.as_bytes()))
    })
}

/// Changes as one line each: kind, database, name, member, flags.
fn told(changes: &[Change]) -> Vec<String> {
    changes
        .iter()
        .map(|change| {
            assert_eq!(change.evidence, "content");
            assert!(KINDS.contains(&change.change.as_str()), "{}", change.change);
            let mut text = format!("{} {}", change.change, change.database);
            for part in [&change.name, &change.member].into_iter().flatten() {
                text.push(' ');
                text.push_str(part);
            }
            if !change.flags.is_empty() {
                text.push_str(&format!(" [{}]", change.flags.join(" ")));
            }
            text
        })
        .collect()
}

#[track_caller]
fn assert_told(files: &[(&str, String)], expected: &[&str]) {
    assert_eq!(told(&diff(&base(), &changed(files))), expected);
}

fn plus(base: &str, line: &str) -> String {
    format!("{base}{line}")
}

#[test]
fn what_useradd_does_is_told_once() {
    assert_told(
        &[
            ("/etc/passwd", plus(BASE_PASSWD, "mallory:x:1001:1001::/home/mallory:/bin/sh\n")),
            ("/etc/shadow", plus(BASE_SHADOW, "mallory:!:20000:0:99999:7:::\n")),
            ("/etc/group", plus(BASE_GROUP, "mallory:x:1001:\n")),
            ("/etc/gshadow", plus(BASE_GSHADOW, "mallory:!::\n")),
            ("/etc/subuid", "mallory:165536:65536\n".to_owned()),
        ],
        &[
            "account_added /etc/passwd mallory",
            "group_added /etc/group mallory",
            "database_created /etc/subuid",
            "database_changed /etc/subuid mallory [range_added]",
        ],
    );
    let after = changed(&[
        ("/etc/passwd", plus(BASE_PASSWD, "mallory:x:1001:1001:M:/home/mallory:/bin/sh\n")),
        ("/etc/shadow", plus(BASE_SHADOW, "mallory:!:20000:0:99999:7:::\n")),
    ]);
    let change = &diff(&base(), &after)[0];
    assert_eq!(change.uid, Some(1001));
    assert_eq!(change.gid, Some(1001));
    assert_eq!(change.home.as_deref(), Some("/home/mallory"));
    assert_eq!(change.shell.as_deref(), Some("/bin/sh"));
    assert_eq!(change.before, None);
    let state = change.after.as_ref().unwrap();
    assert_eq!((state.gecos.as_deref(), state.password.as_deref()), (Some("M"), Some("locked")));
}

/// Databases of a fixture (`integration/fixtures/accounts`), those of `before` where the command left them alone.
macro_rules! fixture {
    ($folder:literal: $($file:literal)*) => {
        [$((
            concat!("/etc/", $file),
            include_str!(concat!("../../../../integration/fixtures/accounts/", $folder, "/", $file)),
        )),*]
    };
}

#[test]
fn what_real_tools_write_is_told() {
    let before = databases(&fixture!("before": "passwd" "shadow" "group" "gshadow" "subuid" "subgid"));
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: [Case<'_>; 9] = [
        (
            &fixture!("useradd": "passwd" "shadow" "group" "gshadow" "subuid" "subgid"),
            &[
                "account_added /etc/passwd mallory",
                "group_added /etc/group mallory",
                "database_changed /etc/subgid mallory [range_added]",
                "database_changed /etc/subuid mallory [range_added]",
            ],
        ),
        (
            &fixture!("useradd_p": "passwd" "shadow" "group" "gshadow" "subuid" "subgid"),
            &[
                "account_added /etc/passwd mallory",
                "password_set /etc/shadow mallory",
                "group_added /etc/group mallory",
                "membership_added /etc/group sudo mallory [privileged_group]",
                "database_changed /etc/subgid mallory [range_added]",
                "database_changed /etc/subuid mallory [range_added]",
            ],
        ),
        (
            &fixture!("adduser": "passwd" "shadow" "group" "gshadow" "subuid" "subgid"),
            &[
                "account_added /etc/passwd bob",
                "group_added /etc/group bob",
                "membership_added /etc/group users bob",
                "database_changed /etc/subgid bob [range_added]",
                "database_changed /etc/subuid bob [range_added]",
            ],
        ),
        (
            &fixture!("adduser_system": "passwd" "shadow" "group" "gshadow"),
            &["account_added /etc/passwd svc", "group_added /etc/group svc"],
        ),
        (&fixture!("append": "passwd"), &["account_added /etc/passwd evil [uid_zero duplicate_uid no_password]"]),
        (&fixture!("sed": "passwd"), &["password_removed /etc/passwd root [uid_zero no_password]"]),
        (&fixture!("chpasswd": "shadow"), &["password_set /etc/shadow root [uid_zero]"]),
        (
            &fixture!("usermod": "passwd" "shadow" "group" "gshadow" "subuid" "subgid"),
            &[
                "account_added /etc/passwd a [no_password]",
                "group_added /etc/group a",
                "membership_added /etc/group sudo a [privileged_group]",
                "database_changed /etc/subgid a [range_added]",
                "database_changed /etc/subuid a [range_added]",
            ],
        ),
        (
            &fixture!("userdel": "passwd" "shadow" "group" "gshadow"),
            &["account_removed /etc/passwd games", "group_removed /etc/group games"],
        ),
    ];
    for (files, expected) in cases {
        let after = files.iter().fold(before.clone(), |databases, (path, text)| {
            databases.with(&DatabasePath::new(path).unwrap(), Some(text.as_bytes()))
        });
        assert_eq!(told(&diff(&before, &after)), expected);
    }
}

#[test]
fn a_password_of_a_new_account_is_told_by_shadow() {
    assert_told(
        &[
            ("/etc/passwd", plus(BASE_PASSWD, "mallory:x:1001:1001:::\n")),
            ("/etc/shadow", plus(BASE_SHADOW, "mallory:$6$salt$hash:20000::::::\n")),
        ],
        &["account_added /etc/passwd mallory", "password_set /etc/shadow mallory"],
    );
}

#[test]
fn busybox_adduser_and_plain_appends_are_told() {
    // busybox adduser -D
    assert_told(
        &[
            ("/etc/passwd", plus(BASE_PASSWD, "bob:x:1001:1001:Linux User,,,:/home/bob:/bin/ash\n")),
            ("/etc/shadow", plus(BASE_SHADOW, "bob:!:20000:0:99999:7:::\n")),
            ("/etc/group", plus(BASE_GROUP, "bob:x:1001:\n")),
        ],
        &["account_added /etc/passwd bob", "group_added /etc/group bob"],
    );
    for (line, expected) in [
        ("evil::0:0:::", "account_added /etc/passwd evil [uid_zero duplicate_uid no_password]"),
        ("evil:x:0:0::/root:/bin/sh\n", "account_added /etc/passwd evil [uid_zero duplicate_uid]"),
        ("evil:x:1000:0:::\r\n", "account_added /etc/passwd evil [duplicate_uid]"),
        ("root:x:0:0:::\n", "account_added /etc/passwd root [uid_zero duplicate_name]"),
        ("+::0:0:::\n", "account_added /etc/passwd + [uid_zero duplicate_uid no_password compat_entry]"),
        ("\u{202e}live:x:7:7:::\n", "account_added /etc/passwd \\u{202e}live"),
        ("half a line", "database_changed /etc/passwd [malformed_lines]"),
        ("# a comment\n", "database_changed /etc/passwd [layout]"),
        ("\n", "database_changed /etc/passwd [layout]"),
    ] {
        assert_told(&[("/etc/passwd", plus(BASE_PASSWD, line))], &[expected]);
    }
}

#[test]
fn duplicates_are_told_one_by_one() {
    let second = "alice:x:0:0::/:/bin/sh\n";
    let doubled = changed(&[("/etc/passwd", plus(BASE_PASSWD, second))]);
    assert_eq!(told(&diff(&doubled, &base())), ["account_removed /etc/passwd alice [duplicate_name]"]);
    // which of two comes first decides who logs in
    let swapped = changed(&[("/etc/passwd", plus(second, BASE_PASSWD))]);
    let changes = diff(&doubled, &swapped);
    assert_eq!(told(&changes), ["account_modified /etc/passwd alice [uid_zero duplicate_uid]"]);
    assert_eq!(changes[0].before.as_ref().unwrap().uid, Some(1000));
    // of two members of a name only the one that differs is told
    let first_only = changed(&[("/etc/group", plus("sudo:x:28:\n", BASE_GROUP))]);
    assert_eq!(told(&diff(&first_only, &base())), ["group_removed /etc/group sudo [duplicate_name]"]);
    let both = changed(&[("/etc/group", plus("sudo:x:28:\nsudo:x:29:\n", BASE_GROUP))]);
    let changes = diff(&both, &first_only);
    assert_eq!((changes.len(), changes[0].gid), (1, Some(29)));
}

#[test]
fn an_append_to_a_file_without_a_last_newline_changes_the_last_account() {
    let unterminated = BASE_PASSWD.trim_end();
    let before = changed(&[("/etc/passwd", unterminated.to_owned())]);
    let after = changed(&[("/etc/passwd", plus(unterminated, "evil::0:0:::\n"))]);
    let changes = diff(&before, &after);
    assert_eq!(told(&changes), ["account_modified /etc/passwd alice"]);
    assert_eq!(changes[0].shell.as_deref(), Some("/bin/bashevil::0:0:::"));
    assert!(diff(&before, &base())[0].flags == ["layout"]);
}

#[test]
fn what_sed_does_is_told() {
    for (from, to, expected) in [
        ("daemon:x:1:1", "daemon:x:0:1", &["account_modified /etc/passwd daemon [uid_zero duplicate_uid]"][..]),
        ("root:x:0", "root::0", &["password_removed /etc/passwd root [uid_zero no_password]"]),
        ("root:x:0", "root:$1$s$h:0", &["password_set /etc/passwd root [uid_zero]"]),
        ("alice:x:1000", "alice:*:1000", &["password_locked /etc/passwd alice"]),
        ("/usr/sbin/nologin", "/bin/sh", &["account_modified /etc/passwd daemon"]),
        (
            "alice:x:1000:1000",
            "root2:x:1000:1000",
            &["account_removed /etc/passwd alice", "account_added /etc/passwd root2 [reused_uid]"],
        ),
        ("alice:x:1000:1000::/home/alice:/bin/bash\n", "", &["account_removed /etc/passwd alice"]),
    ] {
        assert_told(&[("/etc/passwd", BASE_PASSWD.replace(from, to))], expected);
    }
}

#[test]
fn changes_of_shadow_are_told() {
    for (from, to, expected) in [
        ("root:*:", "root:$6$s$h:", &["password_set /etc/shadow root [uid_zero]"][..]),
        ("root:*:", "root::", &["password_removed /etc/shadow root [uid_zero no_password]"]),
        ("alice:$6$s$h:", "alice:$6$s$other:", &["password_set /etc/shadow alice"]),
        ("alice:$6$s$h:", "alice:!$6$s$h:", &["password_locked /etc/shadow alice"]),
        ("alice:$6$s$h:19000:0:99999:7:::\n", "", &["password_removed /etc/shadow alice"]),
        ("alice:$6$s$h:19000:0:", "alice:$6$s$h:19000:9:", &["account_modified /etc/shadow alice [ageing]"]),
        ("root:*:", "root:!:", &["account_modified /etc/shadow root [uid_zero locked]"]),
        (
            "daemon:*:19000",
            "ghost::1:::::::\ndaemon:*:19000",
            &["account_added /etc/shadow ghost [no_passwd_entry no_password]"],
        ),
    ] {
        assert_told(&[("/etc/shadow", BASE_SHADOW.replace(from, to))], expected);
    }
    let locked = changed(&[("/etc/shadow", BASE_SHADOW.replace("alice:$", "alice:!$"))]);
    assert_eq!(told(&diff(&locked, &base())), ["password_set /etc/shadow alice [unlocked]"]);
}

#[test]
fn changes_of_groups_are_told() {
    for (files, expected) in [
        (
            &[("/etc/group", "sudo:x:27:alice", "sudo:x:27:alice,daemon")][..],
            &["membership_added /etc/group sudo daemon [privileged_group]"][..],
        ),
        (
            &[
                ("/etc/group", "sudo:x:27:alice", "sudo:x:27:alice,daemon"),
                ("/etc/gshadow", "sudo:*::alice", "sudo:*::alice,daemon"),
            ],
            &["membership_added /etc/group sudo daemon [privileged_group]"],
        ),
        (
            &[("/etc/gshadow", "sudo:*::alice", "sudo:*::alice,daemon")],
            &["membership_added /etc/gshadow sudo daemon [privileged_group]"],
        ),
        (&[("/etc/group", "sudo:x:27:alice", "sudo:x:27:")], &["membership_removed /etc/group sudo alice"]),
        (&[("/etc/group", "alice:x:1000", "alice:x:0")], &["group_modified /etc/group alice [gid_zero]"]),
        (&[("/etc/group", "alice:x:1000:\n", "")], &["group_removed /etc/group alice"]),
        (&[("/etc/gshadow", "sudo:*:", "sudo:$6$s$h:")], &["password_set /etc/gshadow sudo [group_password]"]),
        (&[("/etc/gshadow", "sudo:*::", "sudo:*:daemon:")], &["group_modified /etc/gshadow sudo [administrators]"]),
        (&[("/etc/group", "root:x:0:\n", "root:x:0:\ntoor:x:0:daemon\n")], &["group_added /etc/group toor [gid_zero]"]),
    ] {
        let texts: BTreeMap<&str, &str> = [("/etc/group", BASE_GROUP), ("/etc/gshadow", BASE_GSHADOW)].into();
        let files: Vec<(&str, String)> =
            files.iter().map(|(path, from, to)| (*path, texts[path].replacen(from, to, 1))).collect();
        assert_told(&files, expected);
    }
}

#[test]
fn databases_come_and_go_and_others_change_as_a_whole() {
    let passwd = DatabasePath::new("/etc/passwd").unwrap();
    let without = base().with(&passwd, None);
    assert_eq!(told(&diff(&base(), &without)), ["database_removed /etc/passwd"]);
    let changes = diff(&without, &base());
    assert_eq!(changes[0].change, "database_created");
    assert_eq!(changes.iter().filter(|change| change.change == "account_added").count(), 3);
    assert_told(&[("/etc/userdb/evil.user", "{}".to_owned())], &["database_created /etc/userdb/evil.user"]);
    let before = changed(&[("/opt/app/users", "a".to_owned())]);
    let after = changed(&[("/opt/app/users", "b".to_owned())]);
    assert_eq!(told(&diff(&before, &after)), ["database_changed /opt/app/users"]);
}

#[test]
fn where_accounts_are_looked_up_is_told() {
    const PATH: &str = "/etc/nsswitch.conf";
    const BASE: &str = "# Debian's\npasswd:         files systemd\ngroup:          files\nhosts:          files dns\n";
    let of = |text: &str| databases(&[(PATH, text)]);
    for (after, expected) in [
        (BASE.to_owned(), &[][..]),
        (BASE.replace("# Debian's", "# mine"), &[]),
        (BASE.replace("files systemd", "files  systemd # both"), &[]),
        (BASE.replace("files dns", "dns"), &[]),
        (plus(BASE, "sudoers: ldap\n"), &[]),
        ("group: files\npasswd: files systemd\n".to_owned(), &[]),
        (BASE.replace("files systemd", "hesiod files systemd"), &["passwd [source_added]"]),
        (BASE.replace("files systemd", "systemd files"), &["passwd"]),
        (BASE.replace("files systemd", "files"), &["passwd [source_removed]"]),
        (BASE.replace("passwd: ", "#passwd: "), &["passwd [source_removed]"]),
        (BASE.replace("files systemd", "files [SUCCESS=continue] systemd"), &["passwd [source_added]"]),
        (plus(BASE, "passwd: extrausers\n"), &["passwd [source_added source_removed]"]),
        (plus(BASE, "initgroups: ldap\nsubid: sss\n"), &["initgroups [source_added]", "subid [source_added]"]),
    ] {
        let expected: Vec<String> = expected.iter().map(|line| format!("lookup_changed {PATH} {line}")).collect();
        assert_eq!(told(&diff(&of(BASE), &of(&after))), expected, "{after}");
    }
    let changes = diff(&of(BASE), &of(&BASE.replace("files systemd", "hesiod")));
    let sources = |state: &Option<crate::model::event::AccountState>| state.clone().expect("is told").sources;
    assert_eq!(sources(&changes[0].before), Some(vec!["files".to_owned(), "systemd".to_owned()]));
    assert_eq!(sources(&changes[0].after), Some(vec!["hesiod".to_owned()]));
    assert_eq!(told(&diff(&of(BASE), &databases(&[]))), ["database_removed /etc/nsswitch.conf"]);
    assert_eq!(
        told(&diff(&databases(&[]), &of("passwd: ldap\n"))),
        ["database_created /etc/nsswitch.conf", "lookup_changed /etc/nsswitch.conf passwd [source_added]"]
    );
    let proposed = intended(&of(BASE), &DatabasePath::new(PATH).unwrap(), b"passwd: ldap\n");
    assert_eq!((proposed.len(), proposed[0].evidence.as_str()), (2, "intended"));
    let baseline = base().with(&DatabasePath::new(PATH).unwrap(), Some(BASE.as_bytes())).baseline();
    assert_eq!((baseline.count, baseline.uid_zero), (3, vec!["root".to_owned()]), "it holds no accounts");
    assert!(baseline.databases.contains(&PATH.to_owned()));
}

#[test]
fn what_is_too_large_counts_as_one_whole() {
    use crate::model::account::snapshot::MAX_PARSED_BYTES;
    use crate::model::account::snapshot::MAX_PARSED_LINES;
    for padding in ["#".repeat(MAX_PARSED_BYTES), "\n".repeat(MAX_PARSED_LINES)] {
        let text = format!("{BASE_PASSWD}{padding}\nevil::0:0:::\n");
        assert_told(&[("/etc/passwd", text)], &["database_changed /etc/passwd [too_large]"]);
    }
}

#[test]
fn many_changes_are_bounded_and_the_flagged_ones_stay() {
    let junk: String = (0..5000).map(|number| format!("junk{number}:x:{}:1:::\n", 2000 + number)).collect();
    let text = format!("{BASE_PASSWD}{junk}evil:x:0:0:::\n");
    let changes = diff(&base(), &changed(&[("/etc/passwd", text)]));
    assert_eq!(changes.len(), MAX_CHANGES);
    assert!(changes.iter().any(|change| change.name.as_deref() == Some("evil")));
    assert_eq!(changes.last().unwrap().flags, ["more_changes"]);
    let text: String = (0..5000).map(|number| format!("root{number}:x:0:1:::\n")).collect();
    assert_eq!(diff(&base(), &changed(&[("/etc/passwd", text)])).len(), MAX_CHANGES);
}

#[test]
fn the_same_name_many_times_takes_linear_time() {
    let many = |shell: &str| format!("a:x:1:1:::{shell}\n").repeat(90_000);
    let changes = diff(&changed(&[("/etc/passwd", many("x"))]), &changed(&[("/etc/passwd", many("y"))]));
    assert_eq!(changes.len(), MAX_CHANGES);
}

#[test]
fn a_blocked_write_tells_what_it_wanted() {
    let path = DatabasePath::new("/etc/passwd").unwrap();
    let changes = intended(&base(), &path, plus(BASE_PASSWD, "evil::0:0:::\n").as_bytes());
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].name.as_deref(), Some("evil"));
    assert_eq!(changes[0].evidence, "intended");
}

#[test]
fn no_hash_leaves() {
    let after = changed(&[
        ("/etc/passwd", plus(BASE_PASSWD, "a:SECRETHASH:1:1:::\nb:x:2:2:::\n").replace("root:x", "root:SECRETHASH")),
        ("/etc/shadow", plus(BASE_SHADOW, "b:SECRETHASH:::::::\n").replace("alice:$6$s$h", "alice:!SECRETHASH")),
        ("/etc/group", BASE_GROUP.replace("sudo:x", "sudo:SECRETHASH")),
        ("/etc/gshadow", BASE_GSHADOW.replace("sudo:*", "sudo:SECRETHASH")),
    ]);
    for changes in [diff(&base(), &after), diff(&after, &base())] {
        assert!(changes.len() >= 5, "{changes:?}");
        assert!(!serde_json::to_string(&changes).unwrap().contains("SECRETHASH"));
    }
}

#[test]
fn a_baseline_names_uid_zero_and_moves_with_every_byte() {
    let baseline = base().baseline();
    assert_eq!(baseline.count, 3);
    assert_eq!(baseline.uid_zero, ["root"]);
    assert_eq!(baseline.databases, ["/etc/group", "/etc/gshadow", "/etc/passwd", "/etc/shadow"]);
    assert!(baseline.digest.starts_with("sha256:") && baseline.digest.len() == 71);
    assert_eq!(baseline, base().baseline());
    let other = changed(&[("/etc/gshadow", plus(BASE_GSHADOW, "\n"))]);
    assert_ne!(baseline.digest, other.baseline().digest);
    assert_eq!(Databases::default().baseline().count, 0);
}

mod properties {
    use proptest::prelude::*;

    use super::*;
    use crate::model::account::group::GroupEntry;
    use crate::model::account::gshadow::GshadowEntry;
    use crate::model::account::passwd::PasswdEntry;
    use crate::model::account::shadow::ShadowEntry;
    use crate::model::account::subid::SubidEntry;

    /// By database and name: uid, gid, home and shell.
    type Accounts = BTreeMap<(String, String), (Option<u32>, Option<u32>, String)>;

    /// Bytes that look like an account file now and then.
    fn file() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            4 => "[a-e]{1,2}:(x|\\*|!|h|):[0-3]:[0-3]:[a-c]?:/[a-c]:/[a-c]",
            2 => "[a-e]{1,2}:(x|\\*|!|h|):[0-3]:([a-e](,[a-e])?)?",
            2 => "[a-e]{1,2}:(x|\\*|!|\\$6\\$h|):[0-9]{0,2}:::::",
            1 => "[+\\-#][a-c:]{0,6}",
            1 => "[ \t]?[a-c:0]{0,8}\r?",
        ];
        let line = prop_oneof![
            6 => line.prop_map(String::into_bytes),
            1 => proptest::collection::vec(any::<u8>(), 0..12),
        ];
        (proptest::collection::vec(line, 0..8), any::<bool>()).prop_map(|(lines, newline)| {
            let mut bytes = lines.join(&b'\n');
            if newline {
                bytes.push(b'\n');
            }
            bytes
        })
    }

    fn snapshot() -> impl Strategy<Value = Databases> {
        proptest::collection::vec(proptest::option::weighted(0.9, file()), 6).prop_map(|files| {
            let paths = ["/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow", "/etc/subuid", "/opt/users"];
            let present = paths.iter().zip(files).filter_map(|(path, bytes)| Some((path, bytes?)));
            Databases::parse(present.map(|(path, bytes)| (DatabasePath::new(path).unwrap(), bytes)).collect())
        })
    }

    /// Accounts and groups by name, with everything that a change tells of them.
    fn accounts(databases: &Databases) -> Accounts {
        let mut accounts = BTreeMap::new();
        let passwd = databases.passwd().into_iter().flat_map(Table::entries);
        for entry in passwd {
            let key = ("/etc/passwd".to_owned(), printable(&entry.name));
            let shown = format!("{} {}", printable(&entry.home), printable(&entry.shell));
            accounts.entry(key).or_insert((entry.uid, entry.gid, shown));
        }
        let group = databases.get("/etc/group").and_then(|database| database.content.group());
        for entry in group.into_iter().flat_map(Table::entries) {
            accounts.entry(("/etc/group".to_owned(), printable(&entry.name))).or_insert((
                None,
                entry.gid,
                String::new(),
            ));
        }
        accounts
    }

    fn has_duplicates(databases: &Databases) -> bool {
        let passwd = databases.passwd().map_or(0, |table| table.entries().count());
        let group = databases.get("/etc/group").and_then(|database| database.content.group());
        accounts(databases).len() != passwd + group.map_or(0, |table| table.entries().count())
    }

    fn apply(before: &Databases, changes: &[Change]) -> Accounts {
        let mut accounts = accounts(before);
        for change in changes {
            if change.change == "database_removed" {
                accounts.retain(|(database, _), _| *database != change.database);
            }
            let Some(name) = &change.name else { continue };
            let key = (change.database.clone(), name.clone());
            let shown = match (&change.home, &change.shell) {
                (Some(home), Some(shell)) => format!("{home} {shell}"),
                _ => String::new(),
            };
            match change.change.as_str() {
                "account_added" | "account_modified" if change.database == "/etc/passwd" => {
                    accounts.insert(key, (change.uid, change.gid, shown));
                }
                "group_added" | "group_modified" if change.database == "/etc/group" => {
                    accounts.insert(key, (None, change.gid, String::new()));
                }
                "account_removed" | "group_removed" => {
                    accounts.remove(&key);
                }
                _ => {}
            }
        }
        accounts
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

        #[test]
        fn printing_gives_what_was_parsed(bytes in prop_oneof![file(), proptest::collection::vec(any::<u8>(), 0..64)]) {
            prop_assert_eq!(Table::<PasswdEntry>::parse(&bytes).print(), &bytes[..]);
            prop_assert_eq!(Table::<ShadowEntry>::parse(&bytes).print(), &bytes[..]);
            prop_assert_eq!(Table::<GroupEntry>::parse(&bytes).print(), &bytes[..]);
            prop_assert_eq!(Table::<GshadowEntry>::parse(&bytes).print(), &bytes[..]);
            prop_assert_eq!(Table::<SubidEntry>::parse(&bytes).print(), &bytes[..]);
        }

        #[test]
        fn nothing_changed_is_nothing_told(databases in snapshot()) {
            prop_assert_eq!(diff(&databases, &databases.clone()), Vec::new());
        }

        #[test]
        fn any_difference_is_told(before in snapshot(), after in snapshot()) {
            prop_assert_eq!(diff(&before, &after).is_empty(), before == after);
        }

        #[test]
        fn applying_the_diff_gives_the_accounts_after(before in snapshot(), after in snapshot()) {
            prop_assume!(!has_duplicates(&before) && !has_duplicates(&after));
            prop_assert_eq!(apply(&before, &diff(&before, &after)), accounts(&after));
        }

        #[test]
        fn an_injected_account_is_told_and_nothing_else(before in snapshot(), uid in 10_u32..20) {
            let path = DatabasePath::new("/etc/passwd").unwrap();
            let mut bytes = before.get("/etc/passwd").map(|database| database.print().unwrap()).unwrap_or_default();
            if !bytes.is_empty() && !bytes.ends_with(b"\n") {
                bytes.push(b'\n');
            }
            let before = before.with(&path, Some(&bytes));
            bytes.extend_from_slice(format!("mallory:x:{uid}:1::/m:/bin/sh\n").as_bytes());
            let changes = diff(&before, &before.with(&path, Some(&bytes)));
            prop_assert_eq!(changes.len(), 1);
            prop_assert_eq!(&changes[0].change, "account_added");
            prop_assert_eq!(changes[0].name.as_deref(), Some("mallory"));
            prop_assert_eq!(changes[0].uid, Some(uid));
            prop_assert!(changes[0].flags.is_empty());
        }
    }
}

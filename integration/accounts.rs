//! Which account: the changes of a finding name what was added, removed or changed, for the tools that people really use;
//! and a container that leaves its accounts alone leaves no finding.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;

use acctguard::model::event::{Event, Kind, Outcome, Severity};

use crate::harness::bundle::{Bundle, Spec};
use crate::harness::events::{changes, of};
use crate::harness::node::{Node, Runtime, policy};

/// A script, and changes that its findings must name.
struct Case {
    script: &'static str,
    changes: &'static [&'static str],
}

const CASES: [Case; 12] = [
    Case {
        script: "useradd --create-home --shell /bin/sh mallory",
        changes: &["account_added mallory", "group_added mallory"],
    },
    Case {
        script: "adduser --disabled-password --gecos '' mallory",
        changes: &["account_added mallory", "group_added mallory"],
    },
    Case {
        script: "PATH=/opt/busybox:$PATH adduser -D mallory",
        changes: &["account_added mallory", "group_added mallory"],
    },
    Case { script: "echo 'mallory:x:0:0::/root:/bin/sh' >> /etc/passwd", changes: &["account_added mallory"] },
    Case { script: "sed -i 's#^games:.*#games:x:0:0::/:/bin/sh#' /etc/passwd", changes: &["account_modified games"] },
    Case { script: "sed -i '/^games:/d' /etc/passwd", changes: &["account_removed games"] },
    Case { script: "echo games:secret-of-games | chpasswd -c SHA512", changes: &["password_set games"] },
    Case { script: "groupadd outlaws", changes: &["group_added outlaws"] },
    Case { script: "gpasswd -a games sudo", changes: &["membership_added sudo"] },
    Case { script: "userdel games", changes: &["account_removed games"] },
    Case {
        script: "cp /etc/passwd /root/p && echo 'mallory:x:0:0::/root:/bin/sh' >> /root/p && mv /root/p /etc/passwd",
        changes: &["account_added mallory"],
    },
    Case {
        script: "cd /etc && ln passwd .alias && echo 'mallory:x:0:0::/root:/bin/sh' >> .alias && rm .alias",
        changes: &["account_added mallory"],
    },
];

fn findings<'a>(events: &'a [Event], id: &str) -> Vec<&'a Event> {
    of(events, Kind::AccountFinding, id)
}

/// All findings of a container, once they name `wanted`.
fn findings_with(node: &Node, id: &str, wanted: &[&str]) -> Vec<Event> {
    node.wait_for(&format!("a finding with {wanted:?}"), |events| {
        let found = findings(events, id);
        let named: BTreeSet<String> = changes(&found).into_iter().collect();
        let all = wanted.iter().all(|change| named.contains(*change));
        all.then(|| found.into_iter().cloned().collect())
    })
}

fn audit_names_the_accounts(runtime: Runtime) {
    let node = Node::start(runtime, &policy("audit"));
    for case in &CASES {
        let mut spec = Spec::shell(case.script);
        spec.engine_seccomp = true;
        let bundle = node.bundle(&spec);
        node.run(&bundle).ok();
        for finding in findings_with(&node, &bundle.id, case.changes) {
            let verdict = finding.verdict.as_ref().expect("verdict");
            assert_ne!(verdict.result, Outcome::Blocked, "{}", case.script);
            let container = finding.container.as_ref().expect("container");
            assert_eq!(container.runtime.as_deref(), Some(runtime.name()), "{}", case.script);
            assert_eq!(finding.host.cluster.as_deref(), Some("test"));
            let text = serde_json::to_string(&finding).expect("print");
            assert!(!text.contains("secret-of-games") && !text.contains("$6$"), "a secret left: {text}");
        }
    }
}

#[test]
fn runc_audit_names_the_accounts() {
    audit_names_the_accounts(Runtime::Runc);
}

#[test]
fn crun_audit_names_the_accounts() {
    audit_names_the_accounts(Runtime::Crun);
}

fn enforce_keeps_the_databases(runtime: Runtime) {
    let node = Node::start(runtime, &policy("enforce"));
    let databases = ["/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow", "/etc/subuid", "/etc/subgid"];
    for case in &CASES {
        let mut spec = Spec::shell(case.script);
        spec.engine_seccomp = true;
        let bundle = node.bundle(&spec);
        let code = node.run(&bundle).code();
        assert_ne!(code, 0, "{} succeeded", case.script);
        for database in databases {
            assert_eq!(bundle.read(database), Bundle::original(database), "{} changed {database}", case.script);
        }
        let blocked = node.wait_for("a blocked finding", |events| {
            findings(events, &bundle.id).iter().find_map(|finding| {
                let verdict = finding.verdict.as_ref()?;
                (verdict.result == Outcome::Blocked).then(|| (*finding).clone())
            })
        });
        assert_eq!(blocked.verdict.and_then(|verdict| verdict.errno).as_deref(), Some("EPERM"), "{}", case.script);
        assert!(blocked.incident.expect("incident").blocked > 0, "{}", case.script);
    }
}

#[test]
fn runc_enforce_keeps_the_databases() {
    enforce_keeps_the_databases(Runtime::Runc);
}

#[test]
fn crun_enforce_keeps_the_databases() {
    enforce_keeps_the_databases(Runtime::Crun);
}

/// A second account with uid 0 is the worst of all: it says so.
#[test]
fn another_uid_zero_is_critical() {
    let node = Node::start(Runtime::Runc, &policy("audit"));
    let bundle = node.bundle(&Spec::shell("echo 'mallory:x:0:0::/root:/bin/sh' >> /etc/passwd"));
    node.run(&bundle).ok();
    let found = findings_with(&node, &bundle.id, &["account_added mallory"]);
    let flags = |finding: &&Event| {
        let flags = finding.changes.iter().flatten().flat_map(|change| change.flags.iter());
        flags.map(String::as_str).collect::<Vec<_>>().contains(&"uid_zero")
    };
    let finding = found.iter().find(flags).unwrap_or_else(|| panic!("no flag uid_zero in {found:?}"));
    assert_eq!(finding.severity, Severity::Critical);
}

/// What one process tree does in one burst is one incident: its attempts and its finding share the id.
#[test]
fn one_act_is_one_incident() {
    let node = Node::start(Runtime::Crun, &policy("audit"));
    let bundle = node.bundle(&Spec::new(&["/usr/sbin/useradd", "mallory"]));
    node.run(&bundle).ok();
    let found = findings_with(&node, &bundle.id, &["account_added mallory"]);
    let events = node.events();
    let attempts = of(&events, Kind::AccountAttempt, &bundle.id);
    let ids: BTreeSet<_> =
        attempts.iter().filter_map(|event| event.incident.as_ref()).map(|incident| incident.id).collect();
    assert_eq!(ids.len(), 1, "attempts of several incidents: {attempts:#?}");
    let incident = found[0].incident.as_ref().expect("incident");
    assert!(ids.contains(&incident.id), "{incident:?}");
    assert!(incident.attempts >= 3, "{incident:?}");
    assert_eq!(found.len(), 1, "one act, several findings: {found:#?}");
}

/// Reading, and writing what only looks like a database, is no finding.
#[test]
fn a_benign_container_leaves_no_finding() {
    const SCRIPT: &str = "cat /etc/passwd > /tmp/passwd; echo x >> /tmp/passwd; getent passwd root; id; mkdir -p /tmp/etc; \
        cp /etc/passwd /tmp/etc/passwd; mv /tmp/etc/passwd /tmp/etc/shadow; echo 127.0.0.2 b >> /etc/hosts; \
        sed -i s/b/c/ /etc/hosts; touch /etc/passwd.notes /etc/new; rm /etc/new; chmod 600 /etc/hosts; ln -s /etc/passwd /tmp/link; \
        ls -l /etc /proc/self/fd; tar cf /tmp/etc.tar /etc; find / -xdev -name 'passwd*' > /tmp/found";
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("enforce"));
        let bundle = node.bundle(&Spec::shell(SCRIPT));
        node.run(&bundle).ok();
        node.wait_for("the end", |events| of(events, Kind::ContainerExited, &bundle.id).pop().map(|_| ()));
        let events = node.events();
        let noise =
            [of(&events, Kind::AccountFinding, &bundle.id), of(&events, Kind::AccountAttempt, &bundle.id)].concat();
        assert!(noise.is_empty(), "{noise:#?}");
        let created = of(&events, Kind::ContainerCreated, &bundle.id);
        assert_eq!(created.len(), 1, "creation records");
        let baseline = created[0].creation.as_ref().and_then(|creation| creation.accounts.as_ref()).expect("baseline");
        assert_eq!(baseline.uid_zero, ["root"]);
    }
}

/// Engines bind files of their own over `/etc/passwd`. Such a mount goes when the container goes: that is no change.
#[test]
fn databases_on_mounts_are_not_lost_at_the_end() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("audit"));
        let own = node.scratch.path().join("own-passwd");
        std::fs::write(&own, "root:x:0:0::/:/bin/sh\nown:x:7:7::/:/bin/sh\n").expect("write");
        let folder = node.scratch.folder("extra");
        std::fs::write(folder.join("passwd"), "extra:x:5000:5000::/:/bin/sh\n").expect("write");
        let mut spec = Spec::shell("cat /etc/passwd /var/lib/extrausers/passwd");
        spec.binds.push((own, "/etc/passwd".to_owned()));
        spec.binds.push((folder, "/var/lib/extrausers".to_owned()));
        let bundle = node.bundle(&spec);
        node.run(&bundle).ok();
        node.wait_for("the end", |events| of(events, Kind::ContainerExited, &bundle.id).pop().map(|_| ()));
        std::thread::sleep(std::time::Duration::from_millis(1500));
        let events = node.events();
        assert!(findings(&events, &bundle.id).is_empty(), "{:#?}", findings(&events, &bundle.id));
        let bundle =
            node.bundle(&Spec { args: Spec::shell("echo 'mallory:x:0:0::/:/bin/sh' >> /etc/passwd").args, ..spec });
        node.run(&bundle).ok();
        findings_with(&node, &bundle.id, &["account_added mallory"]);
    }
}

/// A hard link made while the overlay is mounted shows other numbers than the database it is a link to, when the layers lie on
/// different file systems: here the upper one is a tmpfs. It is the database all the same.
#[test]
fn a_hard_link_across_overlay_layers_is_the_database() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("enforce"));
        let bundle = node.bundle(&Spec::shell("echo 'mallory:x:0:0::/:/bin/sh' >> /jail/passwd"));
        bundle.put("/etc/passwd", &Bundle::original("/etc/passwd"), 0o644);
        std::fs::create_dir_all(bundle.path("/jail")).expect("create folder");
        std::fs::hard_link(bundle.path("/etc/passwd"), bundle.path("/jail/passwd")).expect("hard link");
        let number = |path: &str| std::fs::metadata(bundle.path(path)).expect("stat").ino();
        assert_ne!(number("/etc/passwd"), number("/jail/passwd"), "the layers do not show what this test is about");
        assert_ne!(node.run(&bundle).code(), 0, "the database was written to by its other name");
        assert_eq!(bundle.read("/etc/passwd"), Bundle::original("/etc/passwd"));
    }
}

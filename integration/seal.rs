//! The launcher in front of real entrypoints, under enforce: what it leaves exactly as it was, what it seals, and where it
//! stays out.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Command;

use acctguard::model::event::{Event, Kind};
use acctguard::model::policy::Ground;
use acctguard::oci::launcher_calls;
use serde_json::{Value, json};

use crate::harness::bundle::{Bundle, Capabilities, Spec};
use crate::harness::command::finish;
use crate::harness::events::of;
use crate::harness::node::{Node, Runtime, policy};
use crate::shim::{console, read_until};

/// Policy `enforce` with more lines under `spec`.
fn enforce(more: &str) -> String {
    format!("{}{more}", policy("enforce"))
}

/// The creation record's ground and reasons.
#[track_caller]
fn standing(node: &Node, bundle: &Bundle) -> (Ground, String) {
    let events = node.events();
    let created = of(&events, Kind::ContainerCreated, &bundle.id);
    let creation = created.last().expect("a creation record").creation.as_ref().expect("creation");
    (creation.protection.ground, creation.protection.reasons.join("; "))
}

/// Ground and reasons of the last exec session.
#[track_caller]
fn session(node: &Node, bundle: &Bundle) -> (Option<Ground>, String) {
    let events = node.events();
    let sessions = of(&events, Kind::ContainerExec, &bundle.id);
    let session = sessions.last().and_then(|event: &&Event| event.session.clone()).expect("a session");
    (session.ground, session.reasons.join("; "))
}

#[test]
fn an_enforced_container_is_sealed_and_says_so() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("enforce"));
        let bundle = node.bundle(&Spec::shell("echo started; cat /proc/self/status"));
        let done = node.run(&bundle).ok();
        assert!(done.stdout.starts_with("started\n"), "{}", done.stdout);
        assert_eq!(standing(&node, &bundle), (Ground::Seal, String::new()));
        let creation = of(&node.events(), Kind::ContainerCreated, &bundle.id)[0].creation.clone().expect("creation");
        assert_eq!(creation.parameters.args[0], "/bin/sh", "the record tells what the engine asked for");
        assert!(!creation.parameters.capabilities["bounding"].contains(&"CAP_SYS_ADMIN".to_owned()));
        let config = bundle.config();
        assert_eq!(config["process"]["args"][0], "/bin/sh", "nothing lent is left for a later exec: {config}");
    }
}

/// What a process sees of itself, as far as it must not depend on acctguard. Run by perl, which is in every Debian.
const SELF_PORTRAIT: &str = r#"
    $| = 1;
    for my $file ("status", "limits", "oom_score_adj", "cgroup", "uid_map") {
        open(F, "<", "/proc/self/$file") or die "$file: $!"; print "== $file\n", <F>; close F;
    }
    print "== securebits ", syscall(157, 27, 0, 0, 0, 0), "\n== dumpable ", syscall(157, 3, 0, 0, 0, 0), "\n";
    open(F, "<", "/proc/self/cmdline"); my $line = join("", <F>); close F; $line =~ s/\0/|/g; print "== cmdline $line\n";
    print "== exe ", readlink("/proc/self/exe"), " cwd ", readlink("/proc/self/cwd"), "\n";
    open(F, "<", "/proc/self/environ"); my $text = join("", <F>); close F; $text =~ s/\0/|/g; print "== environ $text\n";
    opendir(D, "/proc/self/fd"); my @open = sort { $a <=> $b } grep { /^\d+$/ && $_ != fileno(D) } readdir(D); closedir D;
    print "== descriptors @open\n== ", "end\n";
"#;

/// Lines that differ from run to run, or by the interception's own filter, which is no work of the launcher.
const BY_CHANCE: [&str; 11] = [
    "Vm",
    "Rss",
    "voluntary_ctxt",
    "nonvoluntary_ctxt",
    "Seccomp",
    "Speculation",
    "SpeculationIndirect",
    "HugetlbPages",
    "Threads",
    "SigQ",
    "State",
];

fn portrait(text: &str) -> String {
    let lines = text.lines().map(|line| line.trim_end_matches('\r'));
    lines.filter(|line| !BY_CHANCE.iter().any(|name| line.starts_with(name))).collect::<Vec<_>>().join("\n")
}

fn portrait_spec(uid: u32, no_new_privileges: bool, terminal: bool) -> Spec {
    let mut spec = Spec::new(&["perl", "-e", SELF_PORTRAIT, "", "a b"]);
    spec.uid = uid;
    spec.no_new_privileges = no_new_privileges;
    spec.terminal = terminal;
    spec
}

/// A configuration as engines write it: groups, rlimits, an umask, an oom score, odd variables; in a user namespace or not.
fn enrich(bundle: &Bundle, user_namespace: bool, sets: &[&str]) {
    let mut config = bundle.config();
    config["process"]["user"]["additionalGids"] = json!([7, 1234]);
    config["process"]["user"]["umask"] = json!(0o027);
    config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 777, "hard": 1000}]);
    config["process"]["oomScoreAdj"] = json!(321);
    config["process"]["cwd"] = json!("/usr");
    let env = config["process"]["env"].as_array_mut().expect("env");
    env.extend([json!("EMPTY="), json!("LC_ALL=C"), json!("ODD=a=b\nc")]);
    for set in sets {
        config["process"]["capabilities"][*set] = json!(["CAP_KILL", "CAP_SETPCAP"]);
    }
    if user_namespace {
        let mapping = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
        config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({"type": "user"}));
        config["linux"]["uidMappings"] = mapping.clone();
        config["linux"]["gidMappings"] = mapping;
    }
    bundle.write_config(&config);
}

/// What a container prints, on its terminal or its output.
fn printed(node: &Node, bundle: &Bundle, guarded: bool, terminal: bool) -> String {
    let program = || if guarded { node.shim() } else { node.bare() };
    if !terminal {
        let mut command = program();
        let done = finish(command.args(["run", "--bundle"]).arg(&bundle.folder).arg(&bundle.id));
        assert_eq!((done.code(), done.stderr.as_str()), (0, ""), "guarded {guarded}: {}", done.stdout);
        return done.stdout;
    }
    let socket = node.scratch.path().join(format!("console-{}", bundle.id.rsplit('-').next().expect("number")));
    let listener = UnixListener::bind(&socket).expect("bind");
    let mut command = program();
    command.args(["create", "--console-socket"]).arg(&socket).arg("--bundle").arg(&bundle.folder).arg(&bundle.id);
    finish(&mut command).ok();
    let mut terminal = console(&listener);
    finish(program().arg("start").arg(&bundle.id)).ok();
    read_until(&mut terminal, "== end")
}

fn same_portraits(runtime: Runtime, text: &str, stands: (Ground, &str)) {
    let node = Node::start(runtime, text);
    let mut compared = 0;
    for user_namespace in [false, true] {
        for uid in [0, 1000] {
            for no_new_privileges in [false, true] {
                for terminal in [false, true] {
                    for sets in [&[][..], &["inheritable", "ambient"]] {
                        let of = |guarded: bool| {
                            let bundle = node.bundle(&portrait_spec(uid, no_new_privileges, terminal));
                            enrich(&bundle, user_namespace, sets);
                            let text = portrait(&printed(&node, &bundle, guarded, terminal));
                            if guarded {
                                let (ground, reasons) = standing(&node, &bundle);
                                assert_eq!((ground, reasons.as_str()), stands);
                            }
                            text.replace(&bundle.id, "ID")
                        };
                        let (bare, sealed) = (of(false), of(true));
                        assert!(bare.contains("CapAmb") && bare.contains("== descriptors"), "{bare}");
                        let what = format!(
                            "{} uid {uid} no_new_privileges {no_new_privileges} terminal {terminal} user namespace \
                             {user_namespace} {sets:?}",
                            runtime.name()
                        );
                        assert_eq!(bare, sealed, "{what}");
                        compared += 1;
                    }
                }
            }
        }
    }
    assert_eq!(compared, 32);
}

#[test]
fn runc_hands_over_what_it_would_have_without_acctguard() {
    same_portraits(Runtime::Runc, &policy("enforce"), (Ground::Seal, ""));
}

/// Where the launcher is there to listen only.
#[test]
fn a_launcher_that_only_listens_hands_over_the_same() {
    same_portraits(
        Runtime::Runc,
        &enforce("  landlock: off\n"),
        (Ground::Broker, "not sealed: policy says landlock: off"),
    );
}

#[test]
fn crun_hands_over_what_it_would_have_without_acctguard() {
    same_portraits(Runtime::Crun, &policy("enforce"), (Ground::Seal, ""));
}

/// A caller that ignores SIGPIPE and has its standard input closed: what comes of it is the real runtime's affair.
#[test]
fn ignored_signals_and_closed_descriptors_are_handed_on() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("enforce"));
        let of = |guarded: bool, standard_input: &str| {
            let bundle = node.bundle(&portrait_spec(0, false, false));
            let program = if guarded { node.shim() } else { node.bare() };
            let mut command = Command::new("sh");
            command
                .args(["-c", &format!("trap '' PIPE USR1; exec \"$@\" {standard_input}"), "sh"])
                .arg(program.get_program());
            command.args(program.get_args()).env("ACCTGUARD_CONFIG", node.config());
            let done = finish(command.args(["run", "--bundle"]).arg(&bundle.folder).arg(&bundle.id));
            let stderr = done.stderr.replace(&bundle.id, "ID");
            (done.code(), stderr, portrait(&done.stdout).replace(&bundle.id, "ID"))
        };
        // with its standard input closed, crun's connection to any listener takes descriptor 0, sealed or not
        let closed: &[&str] = if runtime == Runtime::Runc { &["<&-"] } else { &[] };
        for standard_input in ["</dev/null"].iter().chain(closed) {
            assert_eq!(of(false, standard_input), of(true, standard_input), "{} {standard_input}", runtime.name());
        }
    }
}

/// What stands in the way of the seal is on record, and the workload can do what it could.
#[test]
fn what_cannot_be_sealed_is_brokered_and_on_record() {
    type Change = fn(&mut Value);
    let traced: Change = |config| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set].as_array_mut().expect("set").push(json!("CAP_SYS_PTRACE"));
        }
    };
    let host_pids: Change = |config| {
        config["linux"]["namespaces"].as_array_mut().expect("list").retain(|namespace| namespace["type"] != "pid");
    };
    let administers: Change = |config| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set].as_array_mut().expect("set").push(json!("CAP_SYS_ADMIN"));
        }
        config["process"]["args"] = json!(["mount", "-t", "tmpfs", "none", "/mnt"]);
    };
    let refused_by_profile: Change = |config| {
        config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["landlock_restrict_self"], "action": "SCMP_ACT_ERRNO"}]});
    };
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("enforce"));
        for (change, no_new_privileges, ground, words) in [
            (traced, false, Ground::Broker, "CAP_SYS_PTRACE"),
            (traced, true, Ground::Seal, ""),
            (host_pids, false, Ground::Broker, "pid namespace is shared"),
            (administers, false, Ground::Broker, "could not mount"),
            (refused_by_profile, false, Ground::Broker, "landlock_restrict_self"),
        ] {
            let mut spec = Spec::new(&["/bin/true"]);
            spec.no_new_privileges = no_new_privileges;
            let bundle = node.bundle(&spec);
            let mut config = bundle.config();
            change(&mut config);
            bundle.write_config(&config);
            let done = node.run(&bundle);
            assert_eq!(done.code(), 0, "{words} on {}: {done:?}", runtime.name());
            let (found, reasons) = standing(&node, &bundle);
            assert_eq!(found, ground, "{words}: {reasons}");
            assert!(reasons.contains(words) && reasons.is_empty() == words.is_empty(), "{words}: {reasons}");
        }
        node.write_policy(&enforce("  landlock: off\n"));
        node.acctguard(&["policy", "check"]);
        let bundle = node.bundle(&Spec::new(&["/bin/true"]));
        node.run(&bundle).ok();
        assert_eq!(standing(&node, &bundle), (Ground::Broker, "not sealed: policy says landlock: off".to_owned()));
    }
}

/// A workload's own profile may refuse what the launcher calls: it runs as without acctguard, on another ground.
#[test]
fn profiles_that_refuse_a_call_of_the_launcher_are_not_broken() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("enforce"));
        let lists = [
            launcher_calls::TO_START,
            launcher_calls::TO_SEAL,
            launcher_calls::TO_LISTEN,
            launcher_calls::TO_GIVE_BACK,
        ];
        let calls: BTreeSet<&str> = lists.concat().into_iter().collect();
        let sealing = [launcher_calls::TO_START, launcher_calls::TO_SEAL, launcher_calls::TO_GIVE_BACK].concat();
        for call in calls {
            let refusing = || {
                let bundle = node.bundle(&Spec::new(&["/bin/busybox", "true"]));
                let mut config = bundle.config();
                config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
                    "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [{"names": [call], "action": "SCMP_ACT_ERRNO"}]});
                bundle.write_config(&config);
                bundle
            };
            let (plain, bundle) = (node.run_bare(&refusing()), refusing());
            let guarded = node.run(&bundle);
            let what = format!("without {call} on {}", runtime.name());
            assert_eq!(guarded.status.code(), plain.status.code(), "{what}: {guarded:?}, {plain:?}");
            if guarded.status.success() {
                let (ground, reasons) = standing(&node, &bundle);
                let expected = if sealing.contains(&call) { Ground::Broker } else { Ground::Seal };
                assert_eq!(ground, expected, "{what}: {reasons}");
                assert!(reasons.is_empty() || reasons.contains(&format!("refuses {call}")), "{what}: {reasons}");
            }
        }
    }
}

/// `landlock: required`: a container that cannot be sealed is `onUnprotected`'s to decide.
#[test]
fn a_required_seal_that_is_missing_is_refused_or_recorded() {
    for (on_unprotected, refused) in [("refuse", true), ("record", false)] {
        let rules = format!("  landlock: required\n  onUnprotected: {on_unprotected}\n");
        let node = Node::start(Runtime::Runc, &enforce(&rules));
        let mut spec = Spec::new(&["/bin/true"]);
        let bundle = node.bundle(&spec);
        node.run(&bundle).ok();
        assert_eq!(standing(&node, &bundle).0, Ground::Seal);
        spec.capabilities = Capabilities::All;
        let bundle = node.bundle(&spec);
        let before = bundle.config();
        let done = node.run(&bundle);
        assert_eq!(done.code() != 0, refused, "{done:?}");
        if refused {
            assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
            assert!(
                done.stderr.contains("cannot be sealed") && done.stderr.contains("CAP_SYS_ADMIN"),
                "{}",
                done.stderr
            );
            assert_eq!(bundle.config(), before);
        } else {
            assert_eq!(standing(&node, &bundle).0, Ground::Broker);
        }
    }
}

/// Programs that are missing, no programs, or not for this user: the runtime's own message and exit code.
#[test]
fn what_does_not_run_is_reported_as_without_acctguard() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &enforce("  exec: sealed\n"));
        let idle = node.launch(&Spec::idle());
        for (program, uid) in [
            ("no-such-program", 0),
            ("/no/such/program", 0),
            ("/etc/passwd", 0),
            ("/etc", 0),
            ("/text", 0),
            ("/secret", 7),
        ] {
            let of = |guarded: bool| {
                let mut spec = Spec::new(&[program]);
                spec.uid = uid;
                let bundle = node.bundle(&spec);
                bundle.put("/text", b"neither ELF nor script\n", 0o755);
                bundle.put("/secret", b"#!/bin/sh\n", 0o700);
                let done = if guarded { node.run(&bundle) } else { node.run_bare(&bundle) };
                (done.code(), message(&done.stderr, &bundle.id))
            };
            let (bare, guarded) = (of(false), of(true));
            assert!(bare.0 != 0 && !bare.1.is_empty(), "{program} runs");
            assert_eq!(bare, guarded, "{program} on {}", runtime.name());
            let exec = |guarded: bool| {
                let mut command = if guarded { node.shim() } else { node.bare() };
                let user = uid.to_string();
                let done = finish(command.args(["exec", "--user", &user]).arg(&idle.id).arg(program));
                (done.code(), message(&done.stderr, &idle.id))
            };
            if !matches!(program, "/text" | "/secret") {
                assert_eq!(exec(false), exec(true), "exec {program} on {}", runtime.name());
            }
        }
    }
}

/// A message without its time and the container's id.
fn message(text: &str, id: &str) -> String {
    let lines = text.lines().map(|line| match line.split_once(" level=") {
        Some((time, rest)) if time.starts_with("time=") => rest,
        _ if line.starts_with("20") => line.split_once(": ").map_or(line, |(_, rest)| rest),
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n").replace(id, "ID")
}

/// The launcher goes behind what the caller preserves, and is gone when the workload runs.
#[test]
fn preserved_descriptors_stay_where_they_are() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("enforce"));
        let script = "cat <&3; cat <&4; ls /proc/self/fd | tr '\\n' ' '; echo $LISTEN_FDS";
        for (caller, count) in [("exec \"$@\"", "2"), ("export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"", "1")] {
            let of = |guarded: bool| {
                let bundle = node.bundle(&Spec::shell(script));
                let program = if guarded { node.shim() } else { node.bare() };
                let mut command = Command::new("/bin/sh");
                let lines = format!("exec 3<<X 4<<Y\nthree\nX\nfour\nY\n{caller}");
                command.args(["-c", &lines, "sh"]).arg(program.get_program()).args(program.get_args());
                command.env("ACCTGUARD_CONFIG", node.config()).args(["run", "--preserve-fds", count, "--bundle"]);
                let done = finish(command.arg(&bundle.folder).arg(&bundle.id)).ok();
                if guarded {
                    assert_eq!(standing(&node, &bundle).0, Ground::Seal);
                }
                done.stdout
            };
            let bare = of(false);
            assert!(bare.starts_with("three\nfour\n"), "{bare}");
            assert_eq!(bare, of(true), "{} {caller}", runtime.name());
        }
    }
}

/// Exec sessions: brokered unless policy says sealed; then with what they would have had, by file and by words.
#[test]
fn exec_sessions_are_sealed_where_policy_says_so() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("enforce"));
        let bundle = node.launch(&Spec::idle());
        node.exec(&bundle, &["/bin/true"]).ok();
        assert_eq!(session(&node, &bundle), (Some(Ground::Broker), String::new()));
        node.write_policy(&enforce("  exec: sealed\n"));
        let file = node.scratch.path().join("process.json");
        for uid in [0, 1000] {
            for no_new_privileges in [false, true] {
                let text = {
                    let mut process =
                        node.bundle(&portrait_spec(uid, no_new_privileges, false)).config()["process"].clone();
                    process["user"]["additionalGids"] = json!([9]);
                    process.to_string()
                };
                fs::write(&file, &text).expect("write");
                let of = |guarded: bool, by_file: bool| {
                    let mut command = if guarded { node.shim() } else { node.bare() };
                    command.arg("exec");
                    let user = uid.to_string();
                    if by_file {
                        command.arg("--process").arg(&file).arg(&bundle.id);
                    } else {
                        let options: &[&str] = if no_new_privileges { &["--no-new-privs"] } else { &[] };
                        command.args(options).args(["--user", &user, "--cwd", "/usr"]).arg(&bundle.id);
                        command.args(["/usr/bin/perl", "-e", SELF_PORTRAIT, "x"]);
                    }
                    let done = finish(&mut command).ok();
                    assert_eq!(done.stderr, "", "{done:?}");
                    numberless(&portrait(&done.stdout))
                };
                for by_file in [true, false] {
                    let what = format!("{} uid {uid} nnp {no_new_privileges} file {by_file}", runtime.name());
                    assert_eq!(of(false, by_file), of(true, by_file), "{what}");
                    assert_eq!(session(&node, &bundle), (Some(Ground::Seal), String::new()), "{what}");
                }
                assert_eq!(fs::read_to_string(&file).expect("read"), text, "the engine's file stays as it is");
            }
        }
        for (script, works) in [
            ("readlink /proc/1/fd/0", false),
            ("cat /proc/1/environ", false),
            ("ls /proc/1/root/", false),
            ("cat /proc/1/cmdline", true),
            ("kill -0 1", true),
        ] {
            let done = node.exec(&bundle, &["sh", "-c", script]);
            assert_eq!(done.code() == 0, works, "what a sealed session sees of the workload: {script}: {done:?}");
        }
    }
}

/// A portrait without the numbers of the process.
fn numberless(portrait: &str) -> String {
    let numbered = ["Tgid:", "Pid:", "PPid:", "NStgid:", "NSpid:", "NSpgid:", "NSsid:"];
    let lines = portrait.lines().filter(|line| !numbered.iter().any(|name| line.starts_with(name)));
    lines.collect::<Vec<_>>().join("\n")
}

/// What the launcher of the container was lent is not there for an exec, whichever way it comes.
#[test]
fn an_exec_gets_nothing_of_what_was_lent() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("enforce"));
        let bundle = node.launch(&Spec::idle());
        let bare = node.bundle(&Spec::idle());
        finish(node.bare().args(["create", "--bundle"]).arg(&bare.folder).arg(&bare.id)).ok();
        finish(node.bare().arg("start").arg(&bare.id)).ok();
        let mut process = bundle.config()["process"].clone();
        process["args"] = json!(["grep", "^Cap", "/proc/self/status"]);
        process.as_object_mut().expect("object").remove("capabilities");
        let silent = node.scratch.path().join("silent.json");
        fs::write(&silent, process.to_string()).expect("write");
        let silent = silent.display().to_string();
        let words: &[&str] = &["grep", "^Cap", "/proc/self/status"];
        for (by_file, user) in [(false, "0"), (false, "1000"), (true, "0")] {
            let of = |mut command: Command, bundle: &Bundle| {
                command.arg("exec");
                if by_file {
                    command.args(["--process", &silent]).arg(&bundle.id);
                } else {
                    command.args(["--user", user]).arg(&bundle.id).args(words);
                }
                finish(&mut command).ok().stdout
            };
            let expected = of(node.bare(), &bare);
            assert_eq!(of(node.shim(), &bundle), expected, "{} {by_file} {user}", runtime.name());
            if !by_file || runtime == Runtime::Crun {
                assert_eq!(of(node.bare(), &bundle), expected, "past the shim, {} {by_file} {user}", runtime.name());
            }
        }
    }
}

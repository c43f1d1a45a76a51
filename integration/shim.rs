//! `acctguard-runtime` in a runtime's place: what it does not touch passes unchanged, and what it edits stays the workload's.

use std::fs;
use std::io::{IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use acctguard::model::event::Kind;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

use crate::harness::bundle::{Bundle, Spec};
use crate::harness::command::{Done, finish};
use crate::harness::events::of;
use crate::harness::machine::{calls_program, program};
use crate::harness::node::{Node, Runtime, policy};

/// Every other command is the real runtime's: same output, same exit code, with the name it was called by.
#[test]
fn other_commands_pass_through() {
    let commands: [&[&str]; 10] = [
        &["--version"],
        &["-v"],
        &["--help"],
        &["features"],
        &["state", "none"],
        &["kill", "none", "KILL"],
        &["delete", "none"],
        &["list"],
        &["no-such-command", "create"],
        &["--no-such-option=create", "state", "x"],
    ];
    for runtime in Runtime::ALL {
        let node = Node::prepare(runtime, &policy("enforce"), "");
        for arguments in commands {
            let (mut bare, mut shim) = (node.bare(), node.program("acctguard-runtime"));
            let bare = finish(bare.args(arguments));
            let shim = finish(shim.arg("--root").arg(node.runtime_root()).args(arguments));
            assert_eq!(told(&bare, runtime), told(&shim, runtime), "{arguments:?}");
        }
    }
}

/// Exit code and output, without what tells the time or by which name the program was called.
fn told(done: &Done, runtime: Runtime) -> (i32, String, String) {
    let own = program("acctguard-runtime").with_file_name(runtime.name()).display().to_string();
    let plain = |text: &str| {
        let text = without_time(text).replace("acctguard-runtime", runtime.name());
        let text = text.replace(&own, &runtime.path().display().to_string());
        // Help is wrapped where the name ends.
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    (done.code(), plain(&done.stdout), plain(&done.stderr))
}

/// The output without the time that both runtimes put before some errors.
fn without_time(text: &str) -> String {
    let lines = text.lines().map(|line| match line.split_once(" level=") {
        Some((time, rest)) if time.starts_with("time=") => rest,
        _ if line.starts_with("20") => line.split_once(": ").map_or(line, |(_, rest)| rest),
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn exit_codes_and_output_are_the_containers() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("audit"));
        let done = node.run(&node.bundle(&Spec::shell("echo out; echo err >&2; exit 7")));
        assert_eq!((done.code(), done.stdout.as_str(), done.stderr.as_str()), (7, "out\n", "err\n"));
        let done = node.run(&node.bundle(&Spec::shell("kill -TERM $$; kill -KILL $$; sleep 5; exit 3")));
        let bare = node.run_bare(&node.bundle(&Spec::shell("kill -TERM $$; kill -KILL $$; sleep 5; exit 3")));
        assert_eq!(done.code(), bare.code());
    }
}

/// The shim becomes the runtime: same pid, so that signals reach the container as ever.
#[test]
fn signals_reach_the_container() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("audit"));
        let bundle = node.bundle(&Spec::shell(
            "trap 'echo got it > /told; exit 9' TERM; echo > /ready; while :; do sleep 0.05; done",
        ));
        let mut child =
            node.shim().args(["run", "--bundle"]).arg(&bundle.folder).arg(&bundle.id).spawn().expect("start");
        until("the container is ready", || bundle.path("/ready").exists());
        let exe = fs::read_link(format!("/proc/{}/exe", child.id())).expect("readlink");
        assert_ne!(exe, program("acctguard-runtime"));
        kill(Pid::from_raw(i32::try_from(child.id()).expect("pid")), Signal::SIGTERM).expect("kill");
        assert_eq!(child.wait().expect("wait").code(), Some(9));
        assert_eq!(bundle.text("/told"), "got it\n");
    }
}

fn until(what: &str, reached: impl Fn() -> bool) {
    for _ in 0..2000 {
        if reached() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("not within 20 s: {what}");
}

/// Global options in any order and form, and the bundle by its default, the working directory.
#[test]
fn options_in_every_form() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("audit"));
        let root = node.runtime_root().display().to_string();
        let log = node.scratch.path().join("log").display().to_string();
        for form in 0..4 {
            let bundle = node.bundle(&Spec::shell("true"));
            let folder = bundle.folder.display().to_string();
            let mut command = node.program("acctguard-runtime");
            match form {
                0 => command.args([
                    &format!("--root={root}"),
                    "--log",
                    &log,
                    "run",
                    &format!("--bundle={folder}"),
                    &bundle.id,
                ]),
                1 => command.args([
                    "--log-format",
                    "json",
                    &format!("--log={log}"),
                    "--root",
                    &root,
                    "run",
                    "-b",
                    &folder,
                    &bundle.id,
                ]),
                2 => command.args(["--root", &root, "run", &bundle.id]).current_dir(&bundle.folder),
                _ => command.args(["--debug", "--root", &root, "run", "--no-pivot", "--bundle", &folder, &bundle.id]),
            };
            if form == 3 {
                // Without pivot_root a runtime needs a root file system that is not shared; only the editing is of interest.
                finish(&mut command);
            } else {
                finish(&mut command).ok();
            }
            assert!(has_listener(&bundle), "form {form}: config.json is not edited");
        }
    }
}

fn has_listener(bundle: &Bundle) -> bool {
    bundle.config()["linux"]["seccomp"]["listenerPath"].is_string()
}

/// What the engine or its user wrote survives, in its order; editing twice changes nothing; owner and mode stay.
#[test]
fn the_edit_keeps_everything_else() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
    let node = Node::start(Runtime::Runc, &policy("audit"));
    let bundle = node.bundle(&Spec::shell("true"));
    let mut config = bundle.config();
    config["x-future"] = json!({"z": 1, "a": [true, null], "big": 18446744073709551615u64});
    bundle.write_config(&config);
    let text = fs::read_to_string(bundle.config_path()).expect("read");
    let text = text.replace("\"big\": 18446744073709551615", "\"big\": 123456789012345678901234567890.10");
    fs::write(bundle.config_path(), text).expect("write");
    fs::set_permissions(bundle.config_path(), fs::Permissions::from_mode(0o640)).expect("chmod");
    chown(bundle.config_path(), Some(1234), Some(2345)).expect("chown");
    node.create(&bundle).ok();
    node.delete(&bundle).ok();
    let first = fs::read_to_string(bundle.config_path()).expect("read");
    let status = fs::metadata(bundle.config_path()).expect("stat");
    assert_eq!((status.mode() & 0o7777, status.uid(), status.gid()), (0o640, 1234, 2345));
    assert!(first.contains("123456789012345678901234567890.10"), "a number changed: {first}");
    let edited = bundle.config();
    let keys = |value: &Value| value.as_object().map(|object| object.keys().cloned().collect::<Vec<_>>());
    let common: Vec<String> = keys(&edited).expect("object").into_iter().filter(|key| key != "hooks").collect();
    assert_eq!(Some(common), keys(&config), "order of the keys");
    for key in ["process", "root", "mounts", "annotations", "hostname"] {
        assert_eq!(config[key], edited[key], "{key}");
    }
    node.create(&bundle).ok();
    assert_eq!(first, fs::read_to_string(bundle.config_path()).expect("read"), "the second edit changed something");
    let left: Vec<_> =
        fs::read_dir(&bundle.folder).expect("read").map(|entry| entry.expect("entry").file_name()).collect();
    assert_eq!(left.len(), 4, "something was left behind: {left:?}");
}

/// Hooks that were there stay, first, and run.
#[test]
fn hooks_are_kept() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("audit"));
        let told = node.scratch.path().join("told");
        // a hook that does not read its state is an error to crun before 1.17 (containers/crun#1551)
        let hook = |word: &str| {
            let script = format!("cat > /dev/null; echo {word} >> {}", told.display());
            json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
        };
        let mut spec = Spec::shell("true");
        spec.hooks =
            Some(json!({"createRuntime": hook("created"), "poststop": hook("stopped"), "poststart": hook("started")}));
        let bundle = node.bundle(&spec);
        node.run(&bundle).ok();
        let words = fs::read_to_string(&told).expect("the hooks ran");
        assert_eq!(words.lines().collect::<Vec<_>>(), ["created", "started", "stopped"]);
        let hooks = bundle.config()["hooks"].clone();
        for stage in ["createRuntime", "poststop"] {
            let list = hooks[stage].as_array().expect("list");
            assert_eq!(list.len(), 2, "{stage}: {list:?}");
            assert_eq!(list[0]["path"], "/bin/sh", "{stage}: {list:?}");
            assert!(list[1]["path"].as_str().expect("path").ends_with("/acctguard-hook"), "{stage}: {list:?}");
            assert!(list[1]["env"].is_array(), "a hook without env inherits the runtime's secrets: {list:?}");
        }
    }
}

/// What the workload's own profile refuses stays refused, and what it allows stays allowed.
#[test]
fn the_workloads_own_profile_holds() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("audit"));
        for script in [
            "unshare --user true",
            "/calls io_uring_setup native",
            "/calls chmod native",
            "/calls mount native",
            "setarch -R true",
        ] {
            let outcome = |guarded: bool| {
                let mut spec = Spec::shell(script);
                spec.engine_seccomp = true;
                let bundle = node.bundle(&spec);
                bundle.put("/calls", calls_program(), 0o755);
                if guarded { node.run(&bundle).code() } else { node.run_bare(&bundle).code() }
            };
            assert_eq!(outcome(false), outcome(true), "{script}");
        }
    }
}

fn process_json(node: &Node, arguments: &[&str]) -> String {
    let bundle = node.bundle(&Spec::new(arguments));
    let path = node.scratch.path().join("process.json");
    fs::write(&path, bundle.config()["process"].to_string()).expect("write");
    path.display().to_string()
}

/// exec by file in each of its three forms, and by words, with options; every one is on record and carries its session.
#[test]
fn exec_in_every_form() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("audit"));
        let bundle = node.launch(&Spec::idle());
        let file = process_json(&node, &["/bin/sh", "-c", "echo from file; touch /etc/passwd; exit 4"]);
        let with_equals = format!("--process={file}");
        let forms: [(&[&str], &str, i32); 5] = [
            (&["exec", "--process", &file, &bundle.id], "from file\n", 4),
            (&["exec", &with_equals, &bundle.id], "from file\n", 4),
            (&["exec", "-p", &file, &bundle.id], "from file\n", 4),
            (&["exec", &bundle.id, "sh", "-c", "echo $0 --process x", "words"], "words --process x\n", 0),
            (
                &[
                    "exec",
                    "--cwd",
                    "/etc",
                    "--env",
                    "A=b",
                    "--user",
                    "0:0",
                    &bundle.id,
                    "/bin/sh",
                    "-c",
                    "pwd; echo $A",
                ],
                "/etc\nb\n",
                0,
            ),
        ];
        for (arguments, output, code) in forms {
            let done = finish(node.shim().args(arguments));
            assert_eq!((done.stdout.as_str(), done.code()), (output, code), "{arguments:?}: {}", done.stderr);
        }
        let events = node.events();
        let sessions: Vec<_> =
            of(&events, Kind::ContainerExec, &bundle.id).iter().filter_map(|event| event.session.clone()).collect();
        assert_eq!(sessions.len(), forms.len(), "{sessions:?}");
        assert!(sessions.iter().all(|session| !session.tty && session.started_by.is_some()), "{sessions:?}");
        assert_eq!(sessions[3].argv, ["sh", "-c", "echo $0 --process x", "words"]);
        let attempts = of(&events, Kind::AccountAttempt, &bundle.id);
        for session in &sessions[..3] {
            let of_session = |event: &&&acctguard::model::event::Event| {
                event.actor.as_ref().is_some_and(|actor| actor.session.as_ref() == Some(&session.id))
            };
            assert!(attempts.iter().any(|event| of_session(&event)), "no attempt of session {}", session.id);
        }
    }
}

#[test]
fn detached_exec_writes_its_pid_file() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("audit"));
        let bundle = node.launch(&Spec::idle());
        let pid_file = node.scratch.path().join("pid");
        let mut command = node.shim();
        command.args(["exec", "--detach", "--pid-file"]).arg(&pid_file).arg(&bundle.id);
        finish(command.args(["/bin/sh", "-c", "sleep 0.2; echo x > /told; sleep 30"])).ok();
        let pid = fs::read_to_string(&pid_file).expect("pid file");
        assert!(Path::new("/proc").join(pid.trim()).exists(), "no process {pid}");
        until("the session wrote", || bundle.path("/told").exists());
    }
}

/// The terminal's other end, as it came over a console socket.
pub fn console(listener: &UnixListener) -> fs::File {
    let (stream, _) = listener.accept().expect("accept");
    let mut bytes = [0u8; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC).expect("recvmsg");
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    fs::File::from(descriptor.expect("a descriptor"))
}

pub fn read_until(terminal: &mut fs::File, word: &str) -> String {
    let mut text = String::new();
    let mut bytes = [0u8; 512];
    while !text.contains(word) {
        let length = terminal.read(&mut bytes).unwrap_or(0);
        assert!(length > 0, "the terminal ended with {text:?}");
        text.push_str(&String::from_utf8_lossy(&bytes[..length]));
    }
    text
}

#[test]
fn terminals_work() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("audit"));
        let socket = node.scratch.path().join("console.sock");
        let listener = UnixListener::bind(&socket).expect("bind");
        let mut spec = Spec::shell("tty; echo in-container; read line; exit 0");
        spec.terminal = true;
        let bundle = node.bundle(&spec);
        let mut command = node.shim();
        command.args(["create", "--console-socket"]).arg(&socket).arg("--bundle").arg(&bundle.folder).arg(&bundle.id);
        finish(&mut command).ok();
        let mut terminal = console(&listener);
        finish(node.shim().arg("start").arg(&bundle.id)).ok();
        assert!(read_until(&mut terminal, "in-container").contains("/dev/"));
        let mut command = node.shim();
        command.args(["exec", "--tty", "--detach", "--console-socket"]).arg(&socket).arg(&bundle.id);
        finish(command.args(["/bin/sh", "-c", "tty; touch /etc/passwd; echo in-session; sleep 1"])).ok();
        let mut terminal = console(&listener);
        assert!(read_until(&mut terminal, "in-session").contains("/dev/"));
        let events = node.events();
        let sessions = of(&events, Kind::ContainerExec, &bundle.id);
        assert!(sessions[0].session.as_ref().is_some_and(|session| session.tty), "{sessions:?}");
    }
}

#[test]
fn preserved_descriptors_arrive() {
    for runtime in Runtime::ALL {
        let node = Node::start(runtime, &policy("audit"));
        let bundle = node.bundle(&Spec::shell("cat <&3"));
        let shim = node.shim();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "exec 3<<X\npassed\nX\nexec \"$@\"", "sh"]).arg(shim.get_program()).args(shim.get_args());
        command.env("ACCTGUARD_CONFIG", node.config()).args(["run", "--preserve-fds", "1", "--bundle"]);
        let done = finish(command.arg(&bundle.folder).arg(&bundle.id)).ok();
        assert_eq!(done.stdout, "passed\n");
    }
}

/// containerd shows its user the last line with level=error of the file that --log names, and nothing else.
#[test]
fn errors_go_to_the_log_as_engines_read_it() {
    let node = Node::start(Runtime::Runc, &policy("enforce"));
    let bundle = node.bundle(&Spec::shell("true"));
    fs::write(bundle.config_path(), "{ \"ociVersion\": ").expect("write");
    let log = node.scratch.path().join("log.json");
    fs::write(&log, "{\"level\":\"info\",\"msg\":\"before\"}\n").expect("write");
    let mut command = node.shim();
    command.arg("--log").arg(&log).args(["--log-format", "json", "create", "--bundle"]).arg(&bundle.folder);
    let done = finish(command.arg(&bundle.id));
    assert_ne!(done.code(), 0);
    let text = fs::read_to_string(&log).expect("read");
    let last: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    assert!(text.starts_with("{\"level\":\"info\""), "the log was overwritten: {text}");
    assert_eq!(last["level"], "error");
    let message = last["msg"].as_str().expect("msg");
    assert!(message.contains("config.json"), "{message}");
    assert!(done.stderr.contains(message), "stderr has another message: {}", done.stderr);
}

/// A configuration that names the shim itself as the real runtime is an error, not a loop.
#[test]
fn it_never_calls_itself() {
    let node = Node::prepare(Runtime::Runc, &policy("audit"), "");
    let link = node.scratch.path().join("runc");
    let copy = node.scratch.path().join("copy");
    std::os::unix::fs::symlink(program("acctguard-runtime"), &link).expect("symlink");
    fs::hard_link(program("acctguard-runtime"), &copy)
        .or_else(|_| fs::copy(program("acctguard-runtime"), &copy).map(|_| ()))
        .expect("copy");
    for path in [program("acctguard-runtime"), link] {
        let config = fs::read_to_string(node.config()).expect("read");
        let changed: Vec<String> = config
            .lines()
            .map(|line| if line.starts_with("path = ") { format!("path = {path:?}") } else { line.to_owned() })
            .collect();
        fs::write(node.config(), changed.join("\n")).expect("write");
        for arguments in [["--version"].as_slice(), &["state", "x"], &["run", "x"]] {
            let done = finish(node.program("acctguard-runtime").args(arguments));
            assert_ne!(done.code(), 0, "{}: {done:?}", path.display());
            assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
            assert!(done.stderr.contains("runtime"), "{done:?}");
        }
    }
}

/// podman hands over its error log only to runtimes by the names that it knows: the shim may be called by any.
#[test]
fn it_works_by_another_name() {
    let node = Node::start(Runtime::Crun, &policy("audit"));
    let link = node.scratch.path().join("crun");
    std::os::unix::fs::symlink(program("acctguard-runtime"), &link).expect("symlink");
    let bundle = node.bundle(&Spec::shell("echo hello"));
    let mut command = Command::new(&link);
    command.env("ACCTGUARD_CONFIG", node.config()).arg("--root").arg(node.runtime_root());
    let done = finish(command.args(["run", "--bundle"]).arg(&bundle.folder).arg(&bundle.id)).ok();
    assert_eq!(done.stdout, "hello\n");
    assert!(has_listener(&bundle));
}

/// A restored process never passed the filter: under enforce it is refused in clear words.
#[test]
fn restore_is_refused_under_enforce() {
    let node = Node::start(Runtime::Runc, &policy("enforce"));
    let bundle = node.bundle(&Spec::shell("true"));
    let done = finish(node.shim().args(["restore", "--bundle"]).arg(&bundle.folder).arg(&bundle.id));
    assert_ne!(done.code(), 0);
    assert!(done.stderr.contains("restore") && done.stderr.contains("enforce"), "{}", done.stderr);
}

/// Only one listener fits into a filter: where the bundle brings one of its own, policy decides.
#[test]
fn a_foreign_listener_is_a_conflict() {
    let node = Node::start(Runtime::Runc, &policy("enforce"));
    let bundle = node.bundle(&Spec::shell("true"));
    let mut config = bundle.config();
    config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/other.sock",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]});
    bundle.write_config(&config);
    let done = node.create(&bundle);
    assert_ne!(done.code(), 0, "created although its calls are somebody else's");
    assert!(done.stderr.contains("listener"), "{}", done.stderr);
    assert!(of(&node.events(), Kind::ContainerCreated, &bundle.id).len() <= 1);
}

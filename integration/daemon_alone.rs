//! The daemon without any container runtime: start, refusal, reload, clients, forged deliveries, and a worker that is killed while a
//! thread with a real seccomp filter depends on it. Needs root.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use acctguard::config::Config;
use acctguard::control::ContainerStatus;
use acctguard::control::EventQuery;
use acctguard::control::Registration;
use acctguard::control::Request;
use acctguard::control::Response;
use acctguard::control::client::Client;
use acctguard::control::client::ClientError;
use acctguard::kernel::fd_passing;
use acctguard::model::event::Container;
use acctguard::model::event::Event;
use acctguard::model::event::EventTime;
use acctguard::model::event::Host;
use acctguard::model::event::Kind;
use acctguard::model::event::Severity;
use acctguard::model::policy::Ground;
use acctguard::model::workload::ContainerId;
use acctguard::model::workload::Workload;
use libseccomp::ScmpAction;
use libseccomp::ScmpFilterContext;
use libseccomp::ScmpSyscall;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(20);
const ENFORCE: &str =
    "apiVersion: acctguard.io/v1alpha1\nkind: AccountPolicy\nmetadata: {name: strict}\nspec:\n  mode: enforce\n";

/// A daemon with folders of its own; killed when dropped.
struct Node {
    dir: tempfile::TempDir,
    config: Config,
    keeper: Option<Child>,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let base = dir.path().display();
        let text = format!(
            "run_dir = \"{base}/run\"\nstate_dir = \"{base}/state\"\npolicy_dir = \"{base}/policy\"\n[daemon]\nstandby = false\n"
        );
        let file = dir.path().join("config.toml");
        std::fs::write(&file, text).expect("write");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("mode");
        std::fs::create_dir(dir.path().join("policy")).expect("policy folder");
        let config = Config::load(Some(&file)).expect("configuration");
        Self { dir, config, keeper: None }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_acctguard-daemon"));
        command.arg("--config").arg(self.dir.path().join("config.toml")).stdin(Stdio::null());
        command
    }

    fn start(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.log()).expect("log");
        self.keeper = Some(self.command().stderr(log).spawn().expect("start"));
        self.until("the daemon serves", || self.ping().is_ok());
    }

    fn started() -> Self {
        let mut node = Self::new();
        node.start();
        node
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn write_policy(&self, text: &str) {
        let path = self.dir.path().join("policy/10.yaml");
        std::fs::write(&path, text).expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("mode");
    }

    fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}\n{log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn call(&self, request: &Request) -> Result<Response, ClientError> {
        Client::connect(&self.config)?.call(request)
    }

    /// Pid of the worker.
    fn ping(&self) -> Result<u32, ClientError> {
        match self.call(&Request::Ping)? {
            Response::Pong { pid, .. } => Ok(pid),
            other => panic!("{other:?}"),
        }
    }

    fn containers(&self) -> Vec<ContainerStatus> {
        match self.call(&Request::Containers) {
            Ok(Response::Containers { containers }) => containers,
            _ => Vec::new(),
        }
    }

    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let client = Client::connect(&self.config).expect("connect");
        let take = |event| {
            events.push(event);
            ControlFlow::Continue(())
        };
        client.events(EventQuery::default(), take).expect("events");
        events
    }

    fn keeper(&self) -> Pid {
        let child = self.keeper.as_ref().expect("a running daemon");
        Pid::from_raw(i32::try_from(child.id()).expect("pid"))
    }

    fn stop(&mut self, signal: Signal) -> ExitStatus {
        nix::sys::signal::kill(self.keeper(), signal).expect("signal");
        self.keeper.take().expect("a running daemon").wait().expect("wait")
    }

    fn kill_worker(&self) -> u32 {
        let worker = self.ping().expect("a worker");
        nix::sys::signal::kill(Pid::from_raw(i32::try_from(worker).expect("pid")), Signal::SIGKILL).expect("kill");
        worker
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.keeper.is_some() {
            let _ = self.stop(Signal::SIGTERM);
        }
    }
}

fn registration(id: &str, pid: u32) -> Registration {
    let container = Container {
        id: ContainerId::new(id).expect("id"),
        name: Some("web".to_owned()),
        image: None,
        engine: "none".to_owned(),
        runtime: None,
        pod: None,
        started_at: None,
    };
    let time = EventTime(jiff::Timestamp::now());
    let mut event = Event::new(uuid::Uuid::now_v7(), time, Kind::ContainerCreated, Severity::Info, Host::default());
    event.container = Some(container.clone());
    Registration {
        workload: Workload { container, annotations: BTreeMap::new(), cluster: None, privileged: false },
        bundle: "/nowhere".to_owned(),
        pid,
        root: "/".to_owned(),
        intercepted: true,
        ground: Ground::Notify,
        event,
    }
}

#[test]
fn it_starts_once_for_its_folders_and_ends_in_order() {
    let mut node = Node::started();
    for (name, mode) in [("", 0o700), ("control.sock", 0o600), ("listener.sock", 0o600)] {
        let metadata = std::fs::metadata(node.config.run_dir.join(name)).expect("there");
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{name}");
    }
    let second = node.command().output().expect("run");
    let message = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(78), "{message}");
    assert!(message.contains("another acctguard-daemon runs") && message.lines().count() == 1, "{message}");
    assert!(node.ping().is_ok(), "the second one spoilt the first one's sockets");
    assert_eq!(node.stop(Signal::SIGTERM).code(), Some(0));
    assert!(!node.config.control_socket().exists() && !node.config.listener_socket().exists());
    assert!(matches!(node.ping(), Err(ClientError::Absent { .. })));
}

#[test]
fn a_bad_start_is_one_clear_message_and_the_right_code() {
    let node = Node::new();
    let run = || {
        let output = node.command().output().expect("run");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    node.write_policy(
        "apiVersion: acctguard.io/v1alpha1\nkind: AccountPolicy\nmetadata: {name: x}\nspec:\n  mode: enforced\n",
    );
    let (code, message) = run();
    assert_eq!(code, Some(78), "{message}");
    assert!(message.contains("10.yaml:5:") && message.contains("mode: enforced"), "{message}");
    node.write_policy(ENFORCE);
    std::fs::create_dir(&node.config.state_dir).expect("state");
    std::fs::write(node.config.store_file(), vec![b'x'; 8192]).expect("a damaged store");
    let (code, message) = run();
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains("events.db is damaged"), "{message}");
    assert!(!node.config.control_socket().exists());
    let unknown = Command::new(env!("CARGO_BIN_EXE_acctguard-daemon")).arg("--nonsense").output().expect("run");
    assert_eq!(unknown.status.code(), Some(64));
    let by_hand = node.command().arg("--worker").output().expect("run");
    assert_eq!(by_hand.status.code(), Some(64), "{}", String::from_utf8_lossy(&by_hand.stderr));
}

#[test]
fn a_bad_policy_changes_nothing_and_a_good_one_holds_at_once() {
    let node = Node::started();
    node.call(&Request::Register(Box::new(registration("c1", std::process::id())))).expect("register");
    let mode = || node.containers().first().map(|status| (status.policy.clone(), status.mode.clone()));
    let before = Some(("built-in".to_owned(), "audit".to_owned()));
    assert_eq!(mode(), before);
    node.write_policy("kind: [");
    let Err(ClientError::Refused { message }) = node.call(&Request::Reload) else { panic!("a bad policy was taken") };
    assert!(message.contains("10.yaml") && !message.contains('\n'), "{message}");
    nix::sys::signal::kill(node.keeper(), Signal::SIGHUP).expect("signal");
    node.kill_worker();
    node.until("another worker serves", || node.ping().is_ok());
    assert_eq!(mode(), before, "the last good policy was lost with the worker");
    node.write_policy(ENFORCE);
    nix::sys::signal::kill(node.keeper(), Signal::SIGHUP).expect("signal");
    node.until("the new policy holds", || mode() == Some(("strict".to_owned(), "enforce".to_owned())));
}

#[test]
fn what_was_answered_is_durable_and_followed() {
    let node = Node::started();
    let (sender, receiver) = mpsc::channel();
    let follower = Client::connect(&node.config).expect("connect");
    let query = EventQuery { follow: true, kinds: vec![Kind::ContainerCreated], ..EventQuery::default() };
    let following = std::thread::spawn(move || {
        follower.events(query, |event| {
            let _ = sender.send(event.id);
            ControlFlow::Continue(())
        })
    });
    let registration = registration("c1", std::process::id());
    let id = registration.event.id;
    node.call(&Request::Register(Box::new(registration))).expect("register");
    assert_eq!(receiver.recv_timeout(PATIENCE).expect("followed"), id);
    let worker = node.kill_worker();
    assert!(following.join().expect("join").is_err(), "a follower must notice that its daemon is gone");
    node.until("another worker serves", || node.ping().is_ok_and(|pid| pid != worker));
    assert_eq!(node.events().iter().map(|event| event.id).collect::<Vec<_>>(), vec![id]);
    assert_eq!(node.containers().len(), 1);
    let time = EventTime(jiff::Timestamp::now());
    let gone = Event::new(uuid::Uuid::now_v7(), time, Kind::ContainerExited, Severity::Info, Host::default());
    let request = Request::Exited { id: ContainerId::new("c1").expect("id"), event: Box::new(gone) };
    node.call(&request).expect("exited");
    assert!(node.containers().is_empty());
    node.call(&request).expect("told again");
    assert_eq!(node.events().len(), 2, "an exit is recorded once");
}

#[test]
fn records_of_the_time_without_a_daemon_are_taken_in_once() {
    let mut node = Node::new();
    let time = EventTime(jiff::Timestamp::now());
    let event = Event::new(uuid::Uuid::now_v7(), time, Kind::ContainerCreated, Severity::Info, Host::default());
    acctguard::store::spool::put(&node.config.spool_dir(), &event).expect("spool");
    node.start();
    assert_eq!(node.events(), vec![event.clone()]);
    acctguard::store::spool::put(&node.config.spool_dir(), &event).expect("spool");
    node.until("the spool is empty", || std::fs::read_dir(node.config.spool_dir()).expect("read").count() == 0);
    assert_eq!(node.events().len(), 1);
}

/// A thread under a real filter that notifies symlinkat(2); everything else of the process is untouched.
struct Filtered {
    made: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
    listener: i32,
}

fn filtered_thread(link: PathBuf) -> Filtered {
    let (made, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (of_thread, ended) = (Arc::clone(&made), Arc::clone(&stop));
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut filter = ScmpFilterContext::new(ScmpAction::Allow).expect("filter");
        let call = ScmpSyscall::from_name("symlinkat").expect("call");
        filter.add_rule(ScmpAction::Notify, call).expect("rule");
        filter.load().expect("load");
        sender.send(filter.get_notify_fd().expect("listener")).expect("send");
        while !ended.load(Ordering::Acquire) {
            rustix::fs::symlinkat("/nowhere", rustix::fs::CWD, &link).expect("a call failed");
            std::fs::remove_file(&link).expect("remove");
            of_thread.fetch_add(1, Ordering::AcqRel);
        }
    });
    let listener = receiver.recv_timeout(PATIENCE).expect("listener");
    Filtered { made, stop, thread, listener }
}

fn state(id: &str, pid: u32) -> String {
    format!(
        r#"{{"ociVersion":"1.0.2","fds":["seccompFd"],"pid":{pid},"metadata":"acctguard/1","state":{{"ociVersion":"1.0.2","id":"{id}","status":"creating","pid":{pid},"bundle":"/nowhere","annotations":{{}}}}}}"#
    )
}

fn deliver(node: &Node, text: &str, descriptors: &[BorrowedFd<'_>]) -> UnixStream {
    let stream = UnixStream::connect(node.config.listener_socket()).expect("connect");
    fd_passing::send(stream.as_fd(), text.as_bytes(), descriptors).expect("deliver");
    stream
}

#[test]
fn a_worker_that_is_killed_again_and_again_costs_a_filtered_thread_no_call() {
    let node = Node::started();
    // the container's init, as far as the daemon is told
    let mut init = Command::new("sleep").arg("600").spawn().expect("sleep");
    node.call(&Request::Register(Box::new(registration("c1", init.id())))).expect("register");
    let filtered = filtered_thread(node.dir.path().join("link"));
    let duplicate = acctguard::kernel::pidfd::open(std::process::id())
        .and_then(|own| own.copy_descriptor(filtered.listener))
        .expect("duplicate");
    // kept open, as runc 1.1.5 does
    let _connection = deliver(&node, &state("c1", init.id()), &[duplicate.as_fd()]);
    drop(duplicate);
    nix::unistd::close(filtered.listener).expect("close our own");
    let listeners = || node.containers().first().map(|status| status.listeners);
    node.until("the listener is served", || listeners() == Some(1));
    for _ in 0..15 {
        let worker = node.kill_worker();
        let before = filtered.made.load(Ordering::Acquire);
        node.until("calls go on", || filtered.made.load(Ordering::Acquire) > before + 3);
        node.until("another worker serves", || node.ping().is_ok_and(|pid| pid != worker));
    }
    assert_eq!(listeners(), Some(1));
    init.kill().and_then(|()| init.wait()).expect("end the init");
    filtered.stop.store(true, Ordering::Release);
    filtered.thread.join().expect("no call failed");
    node.until("the container is gone", || node.containers().is_empty());
    let exits = node.events().into_iter().filter(|event| event.kind == Kind::ContainerExited);
    let witnesses: Vec<_> = exits.filter_map(|event| event.exit).map(|exit| exit.witness).collect();
    assert_eq!(witnesses, ["listener"]);
}

#[test]
fn forged_deliveries_are_survived_and_leave_nothing() {
    let node = Node::started();
    let worker = node.ping().expect("a worker");
    let open = || std::fs::read_dir(format!("/proc/{worker}/fd")).expect("read").count();
    node.until("the start has settled", || {
        let before = open();
        std::thread::sleep(Duration::from_millis(300));
        open() == before
    });
    let before = open();
    let null = std::fs::File::open("/dev/null").expect("open");
    for text in ["\0\u{1}garbage", "[]", &state("c1", 1), &state("../../etc", 1), r#"{"fds":["seccompFd","#] {
        drop(deliver(&node, text, &[null.as_fd()]));
    }
    let mut long = UnixStream::connect(node.config.listener_socket()).expect("connect");
    while long.write_all(&[b'{'; 65536]).is_ok() {}
    node.until("every descriptor is closed", || open() <= before);
    assert_eq!(node.ping().expect("still there"), worker);
    assert!(node.containers().is_empty(), "a forged delivery made a container");
}

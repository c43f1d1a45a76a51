//! A session with the other end of the socket in the test's hands.

use std::time::Instant;

use super::*;
use crate::config::Config;
use crate::nri::bounded::Decide;
use crate::nri::messages::Container;
use crate::nri::messages::Hooks;

/// The engine's end.
struct Engine {
    socket: UnixStream,
    inbox: Inbox<UnixStream>,
}

impl Engine {
    fn call(&mut self, stream: u32, method: &str, payload: Vec<u8>) -> Response {
        let service = "nri.pkg.api.v1alpha1.Plugin".to_owned();
        let request = Request { service, method: method.to_owned(), payload }.encode_to_vec();
        self.send(Lane::Plugin, stream, Kind::Request, request);
        let answer = self.inbox.receive().expect("reads").expect("an answer");
        assert_eq!((answer.lane, answer.stream, answer.kind), (Lane::Plugin, stream, Kind::Response));
        Response::decode(answer.payload.as_slice()).expect("a response")
    }

    fn send(&mut self, lane: Lane, stream: u32, kind: Kind, payload: Vec<u8>) {
        let message = Message { lane, stream, kind, flags: 0, payload };
        self.socket.write_all(&wire::encode(&message).expect("short")).expect("writes");
    }

    fn create(&mut self, stream: u32, id: &str) -> CreateContainerResponse {
        let container = Container { id: id.to_owned(), ..Container::default() };
        let request = CreateContainerRequest { pod: None, container: Some(container) };
        let response = self.call(stream, "CreateContainer", request.encode_to_vec());
        assert_eq!(response.status, None, "an error would refuse the container");
        CreateContainerResponse::decode(response.payload.as_slice()).expect("a response")
    }
}

/// A plugin that decides by `decide`, registered and configured.
fn configured(decide: Decide, spool: &std::path::Path) -> (Engine, std::thread::JoinHandle<Result<(), SessionError>>) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let config = Config { run_dir: spool.to_owned(), state_dir: spool.to_owned(), ..Config::defaults() };
    let plugin = std::thread::spawn(move || {
        let mut decider = Decider::start(config, decide);
        let name = Name { name: "acctguard".to_owned(), index: "90".to_owned() };
        Session::new(theirs, &mut decider).serve(&name)
    });
    let mut engine = Engine { inbox: Inbox::new(ours.try_clone().expect("dup")), socket: ours };
    let registration = engine.inbox.receive().expect("reads").expect("a registration");
    assert_eq!((registration.lane, registration.kind), (Lane::Runtime, Kind::Request));
    let registration = Request::decode(registration.payload.as_slice()).expect("a request");
    assert_eq!(registration.service, "nri.pkg.api.v1alpha1.Runtime");
    let request = RegisterPluginRequest::decode(registration.payload.as_slice()).expect("a registration");
    assert_eq!((request.plugin_name.as_str(), request.plugin_idx.as_str()), ("acctguard", "90"));
    engine.send(Lane::Runtime, 1, Kind::Response, Vec::new());
    let request = ConfigureRequest {
        runtime_name: "containerd".to_owned(),
        runtime_version: "2.3.4".to_owned(),
        request_timeout: 400,
        ..ConfigureRequest::default()
    };
    let answer = engine.call(1, "Configure", request.encode_to_vec());
    let answer = ConfigureResponse::decode(answer.payload.as_slice()).expect("a response");
    assert_eq!(answer.events, 1 << 3, "CREATE_CONTAINER and nothing else: what is not answered is never asked");
    let sync = engine.call(3, "Synchronize", SynchronizeRequest { more: true }.encode_to_vec());
    assert!(SynchronizeResponse::decode(sync.payload.as_slice()).expect("a response").more);
    (engine, plugin)
}

#[test]
fn a_session_registers_answers_and_ends_with_the_engine() {
    let spool = tempfile::tempdir().expect("folder");
    let adjust: Decide = |_, _, _| {
        let adjustment = ContainerAdjustment { hooks: Some(Hooks::default()), ..ContainerAdjustment::default() };
        Decision::Adjust(Box::new(adjustment), None)
    };
    let (mut engine, plugin) = configured(adjust, spool.path());
    assert!(engine.create(5, "c1").adjust.expect("an adjustment").hooks.is_some());
    let unknown = engine.call(7, "EvictContainer", Vec::new());
    assert_eq!(unknown.status.expect("refused").code, UNIMPLEMENTED);
    assert_eq!(engine.call(9, "Shutdown", Vec::new()).status, None);
    drop(engine);
    plugin.join().expect("no panic").expect("a clean end");
}

#[test]
fn what_fails_changes_nothing_and_is_on_record() {
    let spool = tempfile::tempdir().expect("folder");
    let (mut engine, plugin) =
        configured(|_, _, _| Decision::Unguarded("the hook is missing".to_owned()), spool.path());
    assert_eq!(engine.create(5, "c1").adjust, None);
    assert_eq!(engine.create(7, "no\nid").adjust, None);
    let response = engine.call(9, "CreateContainer", vec![0xff]);
    assert_eq!((response.status, response.payload.as_slice()), (None, [].as_slice()));
    let records = || std::fs::read_dir(spool.path().join("spool")).map_or(0, Iterator::count);
    let deadline = Instant::now() + Duration::from_secs(10);
    while records() < 3 {
        assert!(Instant::now() < deadline, "{} records", records());
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(engine);
    plugin.join().expect("no panic").expect("a clean end");
}

#[test]
fn the_engine_never_waits_as_long_as_it_would() {
    let spool = tempfile::tempdir().expect("folder");
    let (mut engine, plugin) = configured(
        |_, _, _| {
            std::thread::sleep(Duration::from_millis(1500));
            Decision::Guarded
        },
        spool.path(),
    );
    let begun = Instant::now();
    engine.create(5, "c1");
    assert!(begun.elapsed() < Duration::from_millis(380), "{:?} of the 400 ms that it has", begun.elapsed());
    drop(engine);
    plugin.join().expect("no panic").expect("a clean end");
}

#[test]
fn a_refusal_and_nonsense_end_the_session_with_one_line() {
    for (bytes, words) in [
        (
            wire::encode(&Message {
                lane: Lane::Runtime,
                stream: 1,
                kind: Kind::Response,
                flags: 0,
                payload: Response {
                    status: Some(Status { code: 3, message: "invalid plugin index".to_owned() }),
                    payload: Vec::new(),
                }
                .encode_to_vec(),
            })
            .expect("short"),
            "invalid plugin index",
        ),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "is it an NRI socket"),
        (b"\0\0\0\x01\0\0\0\x0b\0\0\0\x01\0\0\0\x01\x01\0\xff".to_vec(), "cannot be read"),
    ] {
        let (mut ours, theirs) = UnixStream::pair().expect("a pair");
        ours.write_all(&bytes).expect("writes");
        let mut decider = Decider::start(Config::defaults(), |_, _, _| Decision::Guarded);
        let name = Name { name: "acctguard".to_owned(), index: "90".to_owned() };
        let mut session = Session::new(theirs, &mut decider);
        let error = session.serve(&name).expect_err(words).to_string();
        assert!(error.contains(words) && error.lines().count() == 1, "{error}");
        assert!(!session.was_taken());
    }
}

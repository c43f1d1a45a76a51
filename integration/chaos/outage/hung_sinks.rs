//! Sinks that hang: a TCP receiver that accepts and never reads, a pipe that nobody reads, a pipe without a reader. They hold up no
//! record, no other sink and no stop, and have everything when they read again.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use uuid::Uuid;

use super::events;
use crate::harness::node::{Node, PATIENCE, Runtime, policy};

/// How long the daemon may take to stop; the keeper kills a worker that takes longer than five seconds.
const STOP: Duration = Duration::from_secs(4);
/// A sink that failed for long tries again after a minute at most.
const CATCH_UP: Duration = Duration::from_secs(180);

/// `count` events while three sinks hang.
pub fn run(count: usize) {
    let node = Node::prepare(Runtime::Runc, &policy("audit"), "");
    let hung = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = hung.local_addr().expect("address").port();
    let [unread, unopened] = ["unread", "unopened"].map(|name| pipe(&node, name));
    let file = node.scratch.path().join("events.json");
    let json = |path: &PathBuf| format!("[[sinks]]\ntype = \"json\"\npath = \"{}\"\n\n", path.display());
    let syslog = format!("[[sinks]]\ntype = \"syslog\"\naddress = \"tcp:127.0.0.1:{port}\"\n\n");
    node.write_config(&[syslog, json(&unread), json(&unopened), json(&file)].concat());
    let idle_reader =
        File::options().read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits()).open(&unread).expect("open");
    node.start_daemon();

    let begun = Instant::now();
    events::give(&node, count);
    let expected = events::ids(&events::stored(&node));
    let deadline = Instant::now() + PATIENCE;
    while shipped(&file).len() < expected.len() {
        assert!(Instant::now() < deadline, "a hung sink holds up another:\n{}", node.log_text());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(events::doubles(&expected, &shipped(&file)), 0);
    let passed = begun.elapsed();

    let stopping = Instant::now();
    assert_eq!(node.stop_daemon(Signal::SIGTERM), 0);
    let stopped = stopping.elapsed();
    assert!(stopped < STOP, "a hung sink holds up the stop: {stopped:?}");

    // now they read: first what hung connections and pipes still hold, then what comes anew
    let received = [read_tcp(hung), read_pipe(&unread), read_pipe(&unopened)];
    drop(idle_reader);
    node.start_daemon();
    let counts = received.map(|received| catch_up(&node, &expected, &received));
    println!(
        "hung sinks: {count} events passed three of them in {:.1} s, the daemon stopped in {:.2} s; afterwards each had all, with {} / {} / {} doubles",
        passed.as_secs_f64(),
        stopped.as_secs_f64(),
        counts[0],
        counts[1],
        counts[2]
    );
}

fn pipe(node: &Node, name: &str) -> PathBuf {
    let path = node.scratch.path().join(name);
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("make a pipe");
    path
}

fn shipped(file: &PathBuf) -> Vec<Uuid> {
    events::ids_in(&std::fs::read_to_string(file).unwrap_or_default(), "\"id\":\"")
}

/// Doubles, once all of `expected` came; they come in order for each connection.
fn catch_up(node: &Node, expected: &[Uuid], received: &mpsc::Receiver<Uuid>) -> usize {
    let mut missing: std::collections::HashSet<Uuid> = expected.iter().copied().collect();
    let mut count: usize = 0;
    let deadline = Instant::now() + CATCH_UP;
    while !missing.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(id) = received.recv_timeout(left) else {
            panic!("{} of {} events never came:\n{}", missing.len(), expected.len(), node.log_text());
        };
        missing.remove(&id);
        count += 1;
    }
    count - expected.len()
}

fn read_tcp(listener: TcpListener) -> mpsc::Receiver<Uuid> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let sender = sender.clone();
            std::thread::spawn(move || read_messages(stream, &sender));
        }
    });
    receiver
}

/// RFC 6587, octet counting; a message that was cut off is none.
fn read_messages(stream: TcpStream, sender: &mpsc::Sender<Uuid>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = Vec::new();
        reader.read_until(b' ', &mut length).ok()?;
        let length: usize = std::str::from_utf8(&length).ok()?.trim_end().parse().ok()?;
        let mut message = vec![0; length];
        reader.read_exact(&mut message).ok()?;
        let text = String::from_utf8(message).ok()?;
        events::ids_in(&text, " id=\"").into_iter().try_for_each(|id| sender.send(id)).ok()?;
    }
}

fn read_pipe(path: &PathBuf) -> mpsc::Receiver<Uuid> {
    let (sender, receiver) = mpsc::channel();
    // opened for both, so that it never ends
    let pipe = File::options().read(true).write(true).open(path).expect("open");
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let Ok(line) = line else { return };
            if serde_json::from_str::<serde_json::Value>(&line).is_ok() {
                let sent = events::ids_in(&line, "\"id\":\"").into_iter().try_for_each(|id| sender.send(id));
                if sent.is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

//! Syslog in the form of RFC 5424, one event a message, to a Unix datagram socket, by UDP (RFC 5426) or TCP (RFC 6587, octet counting).
//!
//! The message is the event's JSON; structured data repeats what people filter by. MSGID is the event's kind.
//! None of these transports acknowledges: "sent" means that the kernel took it, and for TCP that the receiver's kernel has it. What was
//! given to a TCP connection that then broke may never have been read, so what the buffers at both ends can hold is offered again:
//! receivers tell doubles by the event's id.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::net::ToSocketAddrs;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use std::time::Instant;

use syslog::Facility;
use syslog::Formatter5424;

use crate::model::event::Event;
use crate::model::event::Severity;
use crate::sinks::Sink;
use crate::sinks::SinkError;
use crate::sinks::rendering;

/// How long connecting and sending may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest datagram: UDP carries 65,507 bytes over IPv4, and receivers cut long before that.
const MAX_DATAGRAM_BYTES: usize = 60_000;
/// How often a receiver's acknowledgement is looked for.
const ACKNOWLEDGEMENT_CHECK: Duration = Duration::from_millis(2);
/// What our end of a TCP connection buffers. Small, so that little is repeated when it breaks.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// More than both ends hold of a receiver that stops reading: 258 kB were measured over the loopback device. Its end grows with what it
/// reads in a round trip (tcp(7), `tcp_moderate_rcvbuf`), which our small buffer bounds.
const UNCONFIRMED_BYTES: usize = 1024 * 1024;
/// SD-ID. 32473 is the enterprise number for documentation (RFC 5612); acctguard has none of its own.
const STRUCTURED_DATA_ID: &str = "acctguard@32473";

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Unix datagram socket.
    Unix(PathBuf),
    /// `HOST:PORT`.
    Udp(String),
    /// `HOST:PORT`.
    Tcp(String),
}

impl std::fmt::Display for Address {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
            Self::Udp(address) => write!(formatter, "udp:{address}"),
            Self::Tcp(address) => write!(formatter, "tcp:{address}"),
        }
    }
}

/// A facility that syslog does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no syslog facility; write auth, authpriv, daemon, user, local0 … local7")]
pub struct FacilityError(String);

enum Connection {
    Unix(UnixDatagram),
    Udp(UdpSocket),
    Tcp(TcpStream),
}

/// The sink.
pub struct Syslog {
    name: String,
    address: Address,
    facility: Facility,
    process_id: u32,
    connection: Option<Connection>,
    unconfirmed: Unconfirmed,
}

/// Lengths of the messages that were given last to the TCP connection in use, as many as its buffers can hold.
#[derive(Debug, Default)]
struct Unconfirmed {
    lengths: VecDeque<usize>,
    bytes: usize,
}

impl Unconfirmed {
    fn add(&mut self, length: usize) {
        self.lengths.push_back(length);
        self.bytes = self.bytes.saturating_add(length);
        while let Some(oldest) = self.lengths.front().copied()
            && self.bytes.saturating_sub(oldest) >= UNCONFIRMED_BYTES
        {
            self.lengths.pop_front();
            self.bytes = self.bytes.saturating_sub(oldest);
        }
    }
}

impl Syslog {
    /// A sink to `address` with a facility by its name; connects with the first event.
    ///
    /// # Errors
    /// [`FacilityError`] for a name that is none.
    pub fn new(address: Address, facility: &str) -> Result<Self, FacilityError> {
        let parsed = Facility::from_str(facility).map_err(|()| FacilityError(facility.to_owned()))?;
        Ok(Self {
            name: format!("syslog:{address}"),
            address,
            facility: parsed,
            process_id: std::process::id(),
            connection: None,
            unconfirmed: Unconfirmed::default(),
        })
    }

    /// The whole message. The crate's own formatter takes numbers only for MSGID and its own clock for TIMESTAMP; here they
    /// are the event's kind and time.
    fn render(&self, event: &Event, body: &str, shortened: bool) -> Vec<u8> {
        let priority = self.facility as u8 | severity(event.severity) as u8;
        let host = header_name(&event.host.name);
        let (process, kind) = (self.process_id, event.kind.as_str());
        let data = structured_data(event, shortened);
        // TIME-SECFRAC has at most six digits (RFC 5424 §6)
        format!("<{priority}>1 {:.6} {host} acctguard {process} {kind} {data} {body}", event.time.0).into_bytes()
    }

    /// The message; one line that names the event when a datagram could not carry all of it.
    fn message(&self, event: &Event) -> Result<Vec<u8>, SinkError> {
        let whole = self.render(event, &rendering::json(event)?, false);
        if matches!(self.address, Address::Tcp(_)) || whole.len() <= MAX_DATAGRAM_BYTES {
            return Ok(whole);
        }
        let length = whole.len();
        let body =
            format!("{length} bytes are too long for a datagram, read the event with: acctguard explain {}", event.id);
        Ok(self.render(event, &body, true))
    }

    fn failed(&self, operation: &'static str) -> impl FnOnce(std::io::Error) -> SinkError + use<> {
        let address = self.address.to_string();
        move |source| SinkError::Receiver { operation, address, source }
    }
}

/// HOSTNAME: 1 to 255 printable ASCII characters (RFC 5424 §6).
fn header_name(name: &str) -> String {
    let clean: String = name.chars().filter(char::is_ascii_graphic).take(255).collect();
    if clean.is_empty() { "-".to_owned() } else { clean }
}

/// What people filter by, escaped as RFC 5424 §6.3.3 wants it.
fn structured_data(event: &Event, shortened: bool) -> String {
    let mut parameters: BTreeMap<String, String> =
        [("id", event.id.to_string()), ("kind", event.kind.as_str().to_owned())]
            .map(|(name, value)| (name.to_owned(), value))
            .into();
    if let Some(container) = &event.container {
        parameters.insert("container".to_owned(), container.id.as_str().to_owned());
        if let Some(name) = &container.name {
            parameters.insert("name".to_owned(), rendering::escape(name));
        }
    }
    if shortened {
        parameters.insert("shortened".to_owned(), "true".to_owned());
    }
    // what the formatter itself holds is not part of structured data
    let formatter = Formatter5424 { facility: Facility::LOG_USER, hostname: None, process: String::new(), pid: 0 };
    formatter.format_5424_structured_data(BTreeMap::from([(STRUCTURED_DATA_ID.to_owned(), parameters)]))
}

const fn severity(severity: Severity) -> syslog::Severity {
    match severity {
        Severity::Info => syslog::Severity::LOG_INFO,
        Severity::Low => syslog::Severity::LOG_NOTICE,
        Severity::Medium => syslog::Severity::LOG_WARNING,
        Severity::High => syslog::Severity::LOG_ERR,
        Severity::Critical => syslog::Severity::LOG_CRIT,
    }
}

fn connect(address: &Address) -> std::io::Result<Connection> {
    match address {
        Address::Unix(path) => {
            let socket = UnixDatagram::unbound()?;
            socket.set_write_timeout(Some(TIMEOUT))?;
            socket.connect(path)?;
            Ok(Connection::Unix(socket))
        }
        Address::Udp(receiver) => {
            let target = first_address(receiver)?;
            let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any)?;
            socket.set_write_timeout(Some(TIMEOUT))?;
            socket.connect(target)?;
            Ok(Connection::Udp(socket))
        }
        Address::Tcp(receiver) => {
            let stream = TcpStream::connect_timeout(&first_address(receiver)?, TIMEOUT)?;
            rustix::net::sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER_BYTES)?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            Ok(Connection::Tcp(stream))
        }
    }
}

fn first_address(receiver: &str) -> std::io::Result<std::net::SocketAddr> {
    receiver.to_socket_addrs()?.next().ok_or_else(|| ErrorKind::AddrNotAvailable.into())
}

fn transmit(connection: &mut Connection, message: &[u8]) -> std::io::Result<()> {
    match connection {
        Connection::Unix(socket) => socket.send(message).map(drop),
        Connection::Udp(socket) => socket.send(message).map(drop),
        Connection::Tcp(stream) => {
            still_open(stream)?;
            let mut framed = format!("{} ", message.len()).into_bytes();
            framed.extend_from_slice(message);
            stream.write_all(&framed)
        }
    }
}

/// A receiver that went away has closed its end; what is written then would be lost without an error.
fn still_open(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(true)?;
    let mut scratch = [0_u8; 256];
    let outcome = stream.read(&mut scratch);
    stream.set_nonblocking(false)?;
    match outcome {
        Ok(0) => Err(ErrorKind::ConnectionReset.into()),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether the receiver's kernel has not acknowledged everything yet: `tx_queue` of the socket in proc_pid_net(5), found by its inode. What
/// our kernel still holds of it may go with this process. False when that cannot be told.
fn has_unacknowledged(stream: &TcpStream) -> bool {
    let Ok(status) = rustix::fs::fstat(stream) else { return false };
    let inode = status.st_ino.to_string();
    ["tcp", "tcp6"].iter().any(|table| {
        let text = std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
        text.lines().any(|line| {
            let mut fields = line.split_whitespace().skip(4);
            let sending = fields.next().and_then(|queues| queues.split(':').next());
            let is_own = fields.nth(4) == Some(inode.as_str());
            is_own && sending.is_some_and(|bytes| bytes.bytes().any(|digit| digit != b'0'))
        })
    })
}

impl Sink for Syslog {
    fn name(&self) -> &str {
        &self.name
    }

    fn send(&mut self, event: &Event) -> Result<(), SinkError> {
        let message = self.message(event)?;
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.address).map_err(self.failed("connect to"))?,
        };
        let outcome = match transmit(&mut connection, &message) {
            // the system's own limit is below ours (net.core.wmem_default)
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => {
                let short =
                    self.render(event, &format!("too long, read it with: acctguard explain {}", event.id), true);
                transmit(&mut connection, &short)
            }
            outcome => outcome,
        };
        outcome.map_err(self.failed("send to"))?;
        if matches!(connection, Connection::Tcp(_)) {
            self.unconfirmed.add(message.len());
        }
        self.connection = Some(connection);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        let Some(Connection::Tcp(stream)) = &self.connection else { return Ok(()) };
        let deadline = Instant::now() + TIMEOUT;
        while has_unacknowledged(stream) {
            if Instant::now() >= deadline {
                self.connection = None;
                return Err(self.failed("send to")(ErrorKind::TimedOut.into()));
            }
            std::thread::sleep(ACKNOWLEDGEMENT_CHECK);
        }
        Ok(())
    }

    fn take_unconfirmed(&mut self) -> usize {
        std::mem::take(&mut self.unconfirmed).lengths.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::Container;
    use crate::model::event::EventTime;
    use crate::model::event::Host;
    use crate::model::event::Kind;
    use crate::model::workload::ContainerId;
    use std::net::TcpListener;

    fn event() -> Event {
        let host = Host { name: "node\n1".to_owned(), ..Host::default() };
        let time = EventTime(jiff::Timestamp::now());
        let mut event = Event::new(uuid::Uuid::now_v7(), time, Kind::AccountFinding, Severity::High, host);
        event.container = Some(Container {
            id: ContainerId::new("c1").unwrap(),
            name: Some("web\"] evil\n<34>1".to_owned()),
            image: None,
            engine: "none".to_owned(),
            runtime: None,
            pod: None,
            started_at: None,
        });
        event
    }

    /// Header fields, and the JSON after the structured data.
    fn check(message: &str, event: &Event) {
        assert!(!message.contains('\n') && message.is_ascii(), "{message}");
        let fields: Vec<&str> = message.splitn(7, ' ').collect();
        // authpriv is 10, error is 3 (RFC 5424 §6.2.1)
        assert_eq!(fields[0], "<83>1");
        assert_eq!(fields[1], format!("{:.6}", event.time.0));
        assert_eq!(&fields[2..6], ["node1", "acctguard", &std::process::id().to_string(), "account.finding"]);
        let id = event.id;
        let data = format!(
            r#"[acctguard@32473 container="c1" id="{id}" kind="account.finding" name="web\"\] evil\\u000a<34>1"] "#
        );
        let body = fields[6].strip_prefix(&data).unwrap_or_else(|| panic!("{}", fields[6]));
        assert_eq!(serde_json::from_str::<Event>(body).unwrap(), *event);
    }

    #[test]
    fn unix_datagrams_and_udp_carry_one_event_each() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let unix = UnixDatagram::bind(&path).unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut buffer = vec![0; 65536];
        let mut sink = Syslog::new(Address::Unix(path.clone()), "authpriv").unwrap();
        let first = event();
        sink.send(&first).unwrap();
        let count = unix.recv(&mut buffer).unwrap();
        check(std::str::from_utf8(&buffer[..count]).unwrap(), &first);

        let address = udp.local_addr().unwrap().to_string();
        let mut sink = Syslog::new(Address::Udp(address), "authpriv").unwrap();
        sink.send(&first).unwrap();
        let count = udp.recv(&mut buffer).unwrap();
        check(std::str::from_utf8(&buffer[..count]).unwrap(), &first);

        let mut long = event();
        long.host.labels.insert("x".to_owned(), "y".repeat(100_000));
        sink.send(&long).unwrap();
        let count = udp.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..count]).unwrap();
        assert!(
            text.contains("shortened=\"true\"") && text.contains(&format!("acctguard explain {}", long.id)),
            "{text}"
        );
    }

    #[test]
    fn a_receiver_that_comes_back_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut sink = Syslog::new(Address::Unix(path.clone()), "local0").unwrap();
        let message = sink.send(&event()).unwrap_err().to_string();
        assert!(message.starts_with("cannot connect to syslog receiver unix:"), "{message}");
        let receiver = UnixDatagram::bind(&path).unwrap();
        sink.send(&event()).unwrap();
        drop(receiver);
        std::fs::remove_file(&path).unwrap();
        assert!(sink.send(&event()).is_err());
        let _receiver = UnixDatagram::bind(&path).unwrap();
        sink.send(&event()).unwrap();
    }

    #[test]
    fn a_receiver_that_does_not_read_fails_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let _receiver = UnixDatagram::bind(&path).unwrap();
        let mut sink = Syslog::new(Address::Unix(path), "local0").unwrap();
        let started = std::time::Instant::now();
        while sink.send(&event()).is_ok() {}
        assert!(started.elapsed() < TIMEOUT * 2);
    }

    #[test]
    fn tcp_counts_octets_and_notices_a_closed_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sink = Syslog::new(Address::Tcp(listener.local_addr().unwrap().to_string()), "authpriv").unwrap();
        let sent = [event(), event()];
        sink.send(&sent[0]).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 65536];
        let count = stream.read(&mut buffer).unwrap();
        let (length, message) = std::str::from_utf8(&buffer[..count]).unwrap().split_once(' ').unwrap();
        assert_eq!(length.parse::<usize>().unwrap(), message.len());
        check(message, &sent[0]);
        drop(stream);
        assert!(sink.send(&sent[1]).is_err());
        sink.send(&sent[1]).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        assert!(stream.read(&mut buffer).unwrap() > 0);
    }

    /// A receiver that accepts and never reads: sending fails in time, and everything that its buffers swallowed is offered again.
    #[test]
    fn what_a_receiver_that_never_reads_was_sent_is_unconfirmed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sink = Syslog::new(Address::Tcp(listener.local_addr().unwrap().to_string()), "authpriv").unwrap();
        let started = std::time::Instant::now();
        let mut sent = 0;
        while sink.send(&event()).is_ok() {
            sent += 1;
        }
        let (mut hung, _) = listener.accept().unwrap();
        // a part of the message that goes through begins the time anew
        assert!(started.elapsed() < TIMEOUT * 6, "{:?}", started.elapsed());
        assert_eq!(sink.take_unconfirmed(), sent);
        assert_eq!(sink.take_unconfirmed(), 0);
        hung.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        while hung.read(&mut [0; 65536]).is_ok_and(|count| count > 0) {}
        // on a new connection: little is taken by the receiver's kernel, much is not
        sink.send(&event()).unwrap();
        sink.flush().unwrap();
        for _ in 0..400 {
            sink.send(&event()).unwrap();
        }
        assert!(sink.flush().is_err(), "what our kernel holds is not sent");
        assert_eq!(sink.take_unconfirmed(), 401);
    }

    #[test]
    fn an_unknown_facility_is_named() {
        let error = Syslog::new(Address::Udp("h:1".to_owned()), "nonsense").err().unwrap();
        assert!(error.to_string().contains("\"nonsense\""));
    }
}

//! One connection to an engine, from the registration to its end. One call is answered at a time, as the engine asks.

use std::io;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use prost::DecodeError;
use prost::Message as _;

use crate::nri::bounded::Decider;
use crate::nri::creation::Creation;
use crate::nri::decision::Decision;
use crate::nri::engine::Engine;
use crate::nri::messages::ConfigureRequest;
use crate::nri::messages::ConfigureResponse;
use crate::nri::messages::ContainerAdjustment;
use crate::nri::messages::CreateContainerRequest;
use crate::nri::messages::CreateContainerResponse;
use crate::nri::messages::EVENT_CREATE_CONTAINER;
use crate::nri::messages::Empty;
use crate::nri::messages::RegisterPluginRequest;
use crate::nri::messages::Request;
use crate::nri::messages::Response;
use crate::nri::messages::Status;
use crate::nri::messages::SynchronizeRequest;
use crate::nri::messages::SynchronizeResponse;
use crate::nri::messages::UNIMPLEMENTED;
use crate::nri::record;
use crate::nri::wire;
use crate::nri::wire::Inbox;
use crate::nri::wire::Kind;
use crate::nri::wire::Lane;
use crate::nri::wire::Message;
use crate::nri::wire::WireError;

/// Longest wait for the engine's answer to the registration, and for room to write.
const LIMIT: Duration = Duration::from_secs(10);
/// What an engine that does not tell its limit waits for an answer (nri `DefaultPluginRequestTimeout`).
const DEFAULT_REQUEST_LIMIT: Duration = Duration::from_secs(2);

/// How the plugin is called by the engine.
#[derive(Debug, Clone)]
pub struct Name {
    /// Its name.
    pub name: String,
    /// Two digits, its place among plugins.
    pub index: String,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// What came.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// What was sent.
    #[error("write to the engine's NRI socket")]
    Write(#[source] io::Error),
    /// The engine does not take the plugin.
    #[error("the engine does not take the plugin: {0}")]
    Refused(String),
    /// A call that is none.
    #[error("a call of the engine cannot be read")]
    Call(#[source] DecodeError),
    /// An answer that the protocol cannot carry.
    #[error("an answer is too long for NRI")]
    TooLong,
}

/// A connection.
pub struct Session<'a> {
    socket: UnixStream,
    decider: &'a mut Decider,
    engine: Option<Engine>,
    limit: Duration,
}

impl<'a> Session<'a> {
    /// On a connection on which nothing was said yet.
    pub fn new(socket: UnixStream, decider: &'a mut Decider) -> Self {
        Self { socket, decider, engine: None, limit: DEFAULT_REQUEST_LIMIT / 2 }
    }

    /// Whether the engine took the plugin.
    #[must_use]
    pub const fn was_taken(&self) -> bool {
        self.engine.is_some()
    }

    /// Registers the plugin and answers until the engine closes the connection.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn serve(&mut self, name: &Name) -> Result<(), SessionError> {
        let inbox = self.socket.try_clone();
        let prepared = self.socket.set_write_timeout(Some(LIMIT)).and(self.socket.set_read_timeout(Some(LIMIT)));
        let inbox = prepared.and(inbox).map_err(SessionError::Write)?;
        let registration =
            RegisterPluginRequest { plugin_name: name.name.clone(), plugin_idx: name.index.clone() }.encode_to_vec();
        let request = Request {
            service: "nri.pkg.api.v1alpha1.Runtime".to_owned(),
            method: "RegisterPlugin".to_owned(),
            payload: registration,
        };
        self.send(Lane::Runtime, 1, Kind::Request, request.encode_to_vec())?;
        let mut inbox = Inbox::new(inbox);
        while let Some(message) = inbox.receive()? {
            self.take(&message)?;
        }
        Ok(())
    }

    fn send(&mut self, lane: Lane, stream: u32, kind: Kind, payload: Vec<u8>) -> Result<(), SessionError> {
        let message = Message { lane, stream, kind, flags: 0, payload };
        let bytes = wire::encode(&message).ok_or(SessionError::TooLong)?;
        self.socket.write_all(&bytes).map_err(SessionError::Write)
    }

    fn take(&mut self, message: &Message) -> Result<(), SessionError> {
        match (message.lane, message.kind) {
            (Lane::Runtime, Kind::Response) => {
                let status = Response::decode(message.payload.as_slice()).unwrap_or_default().status;
                let refused = status.filter(|status| status.code != 0);
                refused.map_or(Ok(()), |status| Err(SessionError::Refused(status.message)))
            }
            (Lane::Plugin, Kind::Request) => {
                let response = self.answer(&message.payload)?;
                self.send(Lane::Plugin, message.stream, Kind::Response, response.encode_to_vec())
            }
            // neither side of NRI streams
            _ => Ok(()),
        }
    }

    /// The answer to a call.
    fn answer(&mut self, call: &[u8]) -> Result<Response, SessionError> {
        let request = Request::decode(call).map_err(SessionError::Call)?;
        let payload = request.payload.as_slice();
        let payload = match request.method.as_str() {
            "Configure" => ConfigureRequest::decode(payload).map(|request| self.configure(&request).encode_to_vec()),
            "Synchronize" => SynchronizeRequest::decode(payload)
                .map(|request| SynchronizeResponse { more: request.more }.encode_to_vec()),
            "CreateContainer" => {
                let adjust = self.create(CreateContainerRequest::decode(payload));
                Ok(CreateContainerResponse { adjust }.encode_to_vec())
            }
            "Shutdown" | "StateChange" => Ok(Empty {}.encode_to_vec()),
            _ => {
                let status = Status { code: UNIMPLEMENTED, message: "acctguard does not ask for that".to_owned() };
                return Ok(Response { status: Some(status), payload: Vec::new() });
            }
        };
        Ok(Response { status: None, payload: payload.map_err(SessionError::Call)? })
    }

    fn configure(&mut self, request: &ConfigureRequest) -> ConfigureResponse {
        let engine = Engine::new(&request.runtime_name, &request.runtime_version);
        let told = u64::try_from(request.request_timeout).ok().filter(|milliseconds| *milliseconds > 0);
        self.limit = told.map_or(DEFAULT_REQUEST_LIMIT, Duration::from_millis) / 2;
        let seccomp = match (engine.takes_seccomp(), engine.tells_seccomp()) {
            (false, _) => {
                "; it takes no seccomp profile of a plugin, so that calls are intercepted only where the profile of \
                a container does that already"
            }
            (true, false) => {
                "; it does not tell which seccomp profile a container has, so that calls are intercepted in \
                containers without one"
            }
            (true, true) => "",
        };
        record::log(&format!("serves {}{seccomp}", engine.shown()));
        if !request.config.trim().is_empty() {
            record::log("takes no configuration from the engine's folder; write it into acctguard's own");
        }
        self.engine = Some(engine);
        // from now on the engine speaks when it has something to ask; a failure shows when it is read from
        let _ = self.socket.set_read_timeout(None);
        ConfigureResponse { events: EVENT_CREATE_CONTAINER }
    }

    /// The change of a container. Where there is none, that is no error: an error would refuse it.
    fn create(&mut self, request: Result<CreateContainerRequest, DecodeError>) -> Option<ContainerAdjustment> {
        let request = match request {
            Ok(request) => request,
            Err(error) => return self.unguarded(None, &format!("the engine's call cannot be read: {error}")),
        };
        let creation = match Creation::of(&request, &self.engine.clone().unwrap_or_default()) {
            Ok(creation) => creation,
            Err(error) => return self.unguarded(None, &error.to_string()),
        };
        match self.decider.decide(creation.clone(), self.limit) {
            Decision::Adjust(adjustment, note) => {
                if let Some(note) = note {
                    record::log(&format!("container {}: {note}", creation.id()));
                }
                if adjustment.encoded_len() < wire::MAX_PAYLOAD_BYTES / 2 {
                    return Some(*adjustment);
                }
                self.unguarded(Some(&creation), "its seccomp profile is too long for NRI")
            }
            Decision::Guarded => None,
            Decision::Unguarded(reason) => self.unguarded(Some(&creation), &reason),
        }
    }

    /// The engine changes nothing, which is told.
    fn unguarded(&self, creation: Option<&Creation>, reason: &str) -> Option<ContainerAdjustment> {
        let workload = creation.map(|creation| creation.workload(self.decider.config().cluster.as_deref()));
        let who = creation.map_or("a container".to_owned(), |creation| format!("container {}", creation.id()));
        record::log(&format!("{who} starts unguarded: {reason}"));
        self.decider.record(workload, reason);
        None
    }
}

#[cfg(test)]
mod tests;

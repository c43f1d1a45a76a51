//! The kubelet's streams over a WebSocket, protocol `v4.channel.k8s.io`: the first byte of a message names its channel, 1 for
//! output, 2 for errors, 3 for what came of it as a Status (k8s.io/apimachinery `remotecommand`).

use std::io::Write as _;
use std::net::TcpStream;

use tungstenite::Message;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::http::HeaderValue;

use crate::Failure;

/// Takes the stream at `url` to its end; the exit code that it tells.
///
/// # Errors
/// The connection and the protocol.
pub fn run(url: &str) -> Result<u8, Failure> {
    let url = url.replacen("http://", "ws://", 1);
    let mut request = url.as_str().into_client_request()?;
    let address = request.uri().authority().ok_or("the stream has no address")?.to_string();
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("v4.channel.k8s.io"));
    let (mut socket, _) = tungstenite::client(request, TcpStream::connect(address)?)?;
    let mut code = 0;
    loop {
        match socket.read() {
            Ok(Message::Binary(bytes)) => match bytes.split_first() {
                Some((1, text)) => std::io::stdout().write_all(text)?,
                Some((2, text)) => std::io::stderr().write_all(text)?,
                Some((3, text)) if !text.is_empty() => code = status(text)?,
                _ => {}
            },
            Ok(Message::Close(_)) => {}
            Ok(_) => {}
            Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => return Ok(code),
            Err(tungstenite::Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)) => {
                return Ok(code);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn status(text: &[u8]) -> Result<u8, Failure> {
    let status: serde_json::Value = serde_json::from_slice(text)?;
    if status["status"] == "Success" {
        return Ok(0);
    }
    let code = status.pointer("/details/causes/0/message").and_then(serde_json::Value::as_str);
    let code = code.and_then(|code| code.parse().ok());
    code.ok_or_else(|| format!("the stream ended with {status}").into())
}

//! The Engine's API as a line of text over its socket: what the CLI would refuse to send.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use crate::Node;

/// Longest answer that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// The Engine's answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP's status; 0 where the Engine gave none.
    pub status: u16,
    /// The body; of one that is not JSON the text.
    pub body: Value,
}

/// Posts a body, of whatever bytes.
///
/// # Panics
/// When nobody listens, or the answer takes longer than two and a half minutes.
pub fn post(node: &Node, path: &str, body: &[u8]) -> Answer {
    let mut stream = UnixStream::connect(node.place().docker_socket()).expect("the Engine listens");
    let limit = Some(Duration::from_secs(150));
    stream.set_read_timeout(limit).and(stream.set_write_timeout(limit)).expect("limits");
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // One that is refused early may not be read to its end.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    let mut bytes = Vec::new();
    // Whoever is refused before all was read is cut off, and what was answered by then counts.
    if let Err(e) = stream.take(LONGEST).read_to_end(&mut bytes) {
        assert!(e.kind() == std::io::ErrorKind::ConnectionReset, "an answer in time: {e}");
    }
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    // A chunked body is its JSON between two lines of lengths.
    let json = body.find('{').and_then(|from| body.get(from..=body.rfind('}')?));
    let body = json.and_then(|json| serde_json::from_str(json).ok());
    let body = body.unwrap_or_else(|| Value::String(text.clone().into_owned()));
    Answer { status, body }
}

impl Answer {
    /// The id of what was created.
    pub fn id(&self) -> Option<&str> {
        self.body["Id"].as_str().filter(|_| self.status < 300)
    }
}

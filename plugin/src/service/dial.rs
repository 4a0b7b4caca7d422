//! The far end of the way to another host's service: stdio joined to the service's socket.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::protocol::FromServer;
use super::reach::connect_for_another;
use crate::engine::api::Failure;

/// Joins stdin and stdout to the service's socket until the service has said all; the exit code. Where no
/// service answers, that is said to the other end in the service's stead.
pub fn dial(socket: Result<&Path, Failure>) -> u8 {
    let stream = socket.and_then(connect_for_another);
    match stream {
        Ok(stream) => join(stream),
        Err(failure) => {
            let line = serde_json::to_string(&FromServer::Failed(failure)).unwrap_or_default();
            let mut out = std::io::stdout();
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
            1
        }
    }
}

fn join(stream: UnixStream) -> u8 {
    let Ok(mut to) = stream.try_clone() else { return 1 };
    // It ends with the input, or with the process.
    std::thread::spawn(move || {
        let _ = pass(&mut std::io::stdin(), &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let mut from = stream;
    u8::from(pass(&mut from, &mut std::io::stdout()).is_err())
}

/// Passes all on as it comes: nothing waits for more.
fn pass(from: &mut impl Read, to: &mut impl Write) -> std::io::Result<()> {
    let mut bytes = [0; 16 * 1024];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                to.write_all(bytes.get(..n).unwrap_or_default())?;
                to.flush()?;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

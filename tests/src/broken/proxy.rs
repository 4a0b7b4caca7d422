//! A socket between a client and the Engine, which loses the connection at a request of choice.
//!
//! Requests that only ask are passed on and not counted; what else there is has its number, from 0.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Pid;

/// Before the Engine hears of a request, while it is at it, or after it has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum When {
    /// It never hears of it.
    Before,
    /// It may do it, now or later.
    During,
    /// It has done it, and the client never hears of that.
    After,
}

/// What happens then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    /// The client and all of its process group are killed.
    Kill,
    /// This connection is closed, and others work.
    Lose,
    /// So are all others from then on.
    LoseAll,
}

/// Where a connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cut {
    /// At which request.
    pub at: usize,
    /// When.
    pub when: When,
    /// And how.
    pub what: What,
}

#[derive(Debug, Default)]
struct Shared {
    requests: Mutex<Vec<String>>,
    dead: AtomicBool,
    ends: AtomicBool,
}

/// See the module. Ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    path: PathBuf,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Listens at `path` in front of the Engine at `engine`.
    ///
    /// # Panics
    /// When it cannot.
    pub fn start(path: &Path, engine: &Path, cut: Option<Cut>) -> Self {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).expect("a socket");
        let shared = Arc::<Shared>::default();
        let (ours, engine) = (shared.clone(), engine.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if ours.ends.load(Ordering::SeqCst) {
                    return;
                }
                if ours.dead.load(Ordering::SeqCst) {
                    continue;
                }
                let (ours, engine) = (ours.clone(), engine.clone());
                std::thread::spawn(move || drop(serve(&client, &engine, cut, &ours)));
            }
        });
        Self { path: path.to_owned(), shared }
    }

    /// The requests that came, but those that only ask: `POST /containers/train-0/stop`.
    ///
    /// # Panics
    /// When a thread of it has.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().expect("whole").clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(&self.path);
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The request that a piece begins, unless it only asks.
fn request(piece: &[u8]) -> Option<String> {
    let line = piece.split(|byte| *byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let (method, rest) = line.split_once(' ')?;
    let path = rest.strip_suffix(" HTTP/1.1")?;
    let changes = matches!(method, "POST" | "PUT" | "DELETE");
    changes.then(|| format!("{method} {path}"))
}

fn serve(
    client: &UnixStream,
    engine: &Path,
    cut: Option<Cut>,
    shared: &Arc<Shared>,
) -> std::io::Result<()> {
    let server = UnixStream::connect(engine)?;
    let (mut from, mut to) = (server.try_clone()?, client.try_clone()?);
    // Once it is set, an answer is no longer passed on.
    let muted = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicBool::new(false));
    let (mutes, answers) = (muted.clone(), answered.clone());
    let back = std::thread::spawn(move || {
        let mut buffer = [0; 65536];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            answers.store(true, Ordering::SeqCst);
            if mutes.load(Ordering::SeqCst) {
                continue;
            }
            if to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        if !mutes.load(Ordering::SeqCst) {
            let _ = to.shutdown(Shutdown::Write);
        }
        answers.store(true, Ordering::SeqCst);
    });
    let (mut reader, mut writer) = (client.try_clone()?, server.try_clone()?);
    let mut buffer = [0; 65536];
    while let Ok(n @ 1..) = reader.read(&mut buffer) {
        let piece = &buffer[..n];
        let mut here = None;
        if let Some(request) = request(piece) {
            let mut requests = shared.requests.lock().expect("whole");
            requests.push(request);
            here = cut.filter(|cut| cut.at + 1 == requests.len());
        }
        let Some(cut) = here else {
            writer.write_all(piece)?;
            continue;
        };
        muted.store(true, Ordering::SeqCst);
        if cut.when != When::Before {
            answered.store(false, Ordering::SeqCst);
            writer.write_all(piece)?;
        }
        if cut.when == When::After {
            // Its answer, or its end: what the Engine does for so long, it does not come back from.
            for _ in 0..6000 {
                if answered.load(Ordering::SeqCst) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        match cut.what {
            What::Kill => {
                let peer = getsockopt(client, sockopt::PeerCredentials)?;
                let group = nix::unistd::getpgid(Some(Pid::from_raw(peer.pid())))?;
                killpg(group, Signal::SIGKILL)?;
            }
            What::Lose => {}
            What::LoseAll => shared.dead.store(true, Ordering::SeqCst),
        }
        client.shutdown(Shutdown::Both)?;
        break;
    }
    let _ = server.shutdown(Shutdown::Write);
    if muted.load(Ordering::SeqCst) {
        let _ = server.shutdown(Shutdown::Both);
    }
    let _ = back.join();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_change_nothing_are_not_counted() {
        let of = |text: &str| request(text.as_bytes());
        assert_eq!(of("POST /v1.41/x?a=b HTTP/1.1\r\nHost: d\r\n").unwrap(), "POST /v1.41/x?a=b");
        assert!(of("GET /v1.41/x HTTP/1.1\r\n").is_none());
        assert!(of("{\"POST\": 1}").is_none());
    }
}

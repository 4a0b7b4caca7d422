//! The way to a service: this node's socket, or another host's, to which a program joins us.
//!
//! That program - ssh, or the Docker CLI - runs `docker-gpuctl dial` over there, which joins its stdio to
//! the service's socket. Its stdin and stdout are one end of a socket pair, so that bounds in time and
//! the end of our words are as with the service's own socket.

use std::io::{ErrorKind, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::engine::api::Failure;

/// How much of what the joining program says is kept, in bytes.
const SAID: usize = 8 * 1024;
/// How long it has to end once it has closed its output.
const ENDS: Duration = Duration::from_secs(5);

/// A service.
pub enum Service {
    /// This node's, at its socket.
    Socket(PathBuf),
    /// Another host's.
    Far(Box<dyn Fn() -> Result<Dialling, Failure> + Send + Sync>),
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => f.debug_tuple("Socket").field(path).finish(),
            Self::Far(_) => f.write_str("Far"),
        }
    }
}

/// A program that joins us to another host's service.
pub struct Dialling {
    /// What is started.
    pub command: Command,
    /// Why there was no answer, by the program's exit code and its last words.
    pub why: fn(&str, i32, &str) -> Failure,
    /// The host, for that.
    pub host: String,
}

impl Service {
    /// Connects.
    ///
    /// # Errors
    /// Why nobody answers.
    pub(super) fn connect(&self) -> Result<(UnixStream, Option<Line>), Failure> {
        match self {
            Self::Socket(path) => {
                let stream = UnixStream::connect(path).map_err(|e| nobody(path, &e))?;
                Ok((stream, None))
            }
            Self::Far(dial) => {
                let (stream, line) = Line::start(dial()?)?;
                Ok((stream, Some(line)))
            }
        }
    }
}

/// The joining program while it runs. Dropped, it is ended.
pub(super) struct Line {
    /// Until it is left to the thread that waits for its end.
    child: Option<Child>,
    said: Receiver<String>,
    why: fn(&str, i32, &str) -> Failure,
    host: String,
}

impl Line {
    fn start(dialling: Dialling) -> Result<(UnixStream, Self), Failure> {
        let Dialling { mut command, why, host } = dialling;
        let program = command.get_program().to_string_lossy().into_owned();
        let unstarted = |_| {
            Failure::new(format!("{program} cannot be started, which is to reach {host}"))
                .hint(format!("put {program} on PATH"))
        };
        let (ours, theirs) = UnixStream::pair().map_err(unstarted)?;
        let input = theirs.try_clone().map_err(unstarted)?;
        command.stdin(OwnedFd::from(input)).stdout(OwnedFd::from(theirs)).stderr(Stdio::piped());
        // A key that interrupts us must not end it: what became of the request comes through it.
        command.process_group(0);
        let mut child = command.spawn().map_err(unstarted)?;
        // Its ends of the pair are its alone from here on.
        drop(command);
        let (tell, said) = channel();
        if let Some(mut stderr) = child.stderr.take() {
            std::thread::spawn(move || {
                let (mut last, mut bytes) = (Vec::new(), [0; 1024]);
                while let Ok(n @ 1..) = stderr.read(&mut bytes) {
                    last.extend_from_slice(bytes.get(..n).unwrap_or_default());
                    let over = last.len().saturating_sub(SAID);
                    last.drain(..over);
                }
                let _ = tell.send(String::from_utf8_lossy(&last).into_owned());
            });
        }
        Ok((ours, Self { child: Some(child), said, why, host }))
    }

    /// The host at the other end.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Why it has ended without an answer; `None` where it has not ended.
    pub(super) fn why(&mut self) -> Option<Failure> {
        let begun = Instant::now();
        let status = loop {
            match self.child.as_mut()?.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if begun.elapsed() < ENDS => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                _ => return None,
            }
        };
        let said = self.said.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
        Some((self.why)(&self.host, status.code().unwrap_or(-1), said.trim()))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if let Ok(None) = child.try_wait() {
            if let Ok(pid) = i32::try_from(child.id()) {
                let pid = nix::unistd::Pid::from_raw(pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            }
            // Nobody waits for that but this thread, so that none is left unburied by who asks often.
            std::thread::spawn(move || child.wait());
        }
    }
}

fn me() -> String {
    crate::client::front::user_name(nix::unistd::getuid())
}

fn nobody(socket: &Path, error: &std::io::Error) -> Failure {
    let shown = socket.display();
    match error.kind() {
        ErrorKind::PermissionDenied => {
            let user = me();
            Failure::new(format!(
                "{user} may not use the gpuctl service at {shown}: members of the group docker may"
            ))
            .hint(format!("use sudo, or: sudo usermod -aG docker {user}, then log in anew"))
        }
        _ => Failure::new(format!("no gpuctl service answers at {shown}"))
            .hint("sudo systemctl start gpuctl.socket, or run this command with sudo"),
    }
}

/// Connects to this node's service for somebody on another host.
///
/// # Errors
/// In words for who asked from there.
pub(super) fn connect_for_another(socket: &Path) -> Result<UnixStream, Failure> {
    UnixStream::connect(socket).map_err(|e| {
        let failure = nobody(socket, &e);
        let hint = match e.kind() {
            ErrorKind::PermissionDenied => {
                format!("on that host: sudo usermod -aG docker {}", me())
            }
            _ => "on that host: sudo systemctl start gpuctl.socket".to_owned(),
        };
        Failure::new(format!("on the other host, {}", failure.message)).hint(hint)
    })
}

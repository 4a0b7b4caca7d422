//! The serving side: one thread a connection, each operation by itself.

use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use gpuctl_ledger::model::{ContainerId, DockerName};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::lines::{Lines, NoLine, write};
use super::places::{Bounds, Full, Places};
use super::protocol::{Ask, FromClient, FromServer, Hello, LONGEST_TO_SERVER, PROTOCOL};
use crate::client::front::user_name;
use crate::client::signals;
use crate::engine::api::{Answer, AskError, CreateAsk, Event, Failure, Front, Request};

/// What is served; injected, so that the transport is tested by itself.
pub type Perform = dyn Fn(Request, &mut dyn Front) -> Result<Answer, Failure> + Send + Sync;

/// Bounds of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time, without root's.
    pub connections: usize,
    /// Connections of one user at a time.
    pub of_a_user: usize,
    /// The user to whom neither applies.
    pub root: u32,
    /// Until the request is there in whole.
    pub request: Duration,
    /// For the client to take what is written to it.
    pub write: Duration,
    /// For `docker create`, which pulls images.
    pub create: Duration,
    /// How long it may say nothing while it is about that.
    pub silence: Duration,
    /// For the start of the attached command.
    pub attach: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            of_a_user: 16,
            root: 0,
            request: Duration::from_secs(10),
            write: Duration::from_secs(10),
            create: Duration::from_secs(3600),
            silence: Duration::from_secs(60),
            attach: Duration::from_secs(60),
        }
    }
}

/// How long accept waits before it looks whether to stop.
const LOOK: u16 = 200;

/// Serves until `stop` says so, then lets operations under way finish.
pub fn serve(
    listener: &UnixListener,
    perform: &Arc<Perform>,
    limits: Limits,
    stop: impl Fn() -> bool,
) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let Limits { connections, of_a_user, root, .. } = limits;
    let places = Places::new(Bounds { all: connections, user: of_a_user, unbounded: root });
    while !stop() {
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(LOOK)) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
            Ok(_) => {}
            Err(e) => return Err(e.into()),
        }
        match listener.accept() {
            Ok((stream, _)) => take(stream, perform, limits, &places),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            // Out of descriptors, or the client was gone at once: others may do better.
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    while !places.are_free() {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn take(mut stream: UnixStream, perform: &Arc<Perform>, limits: Limits, places: &Arc<Places>) {
    // An accepted socket does not inherit O_NONBLOCK on Linux; said plainly all the same.
    let ready = stream.set_nonblocking(false).and(stream.set_write_timeout(Some(limits.write)));
    let (Ok(()), Ok(peer)) = (ready, getsockopt(&stream, PeerCredentials)) else { return };
    let place = match places.take(peer.uid()) {
        Ok(place) => place,
        Err(full) => {
            let text = match full {
                Full::All => "the gpuctl service has too many connections open".to_owned(),
                Full::User => format!(
                    "the gpuctl service has too many connections open: {} of them are yours",
                    limits.of_a_user
                ),
            };
            let failure = Failure::new(text).hint("try again when some of them have ended");
            // Fits into the socket's buffer, so it does not hold up the others.
            let _ = write(&mut stream, &FromServer::Failed(failure));
            return;
        }
    };
    let perform = Arc::clone(perform);
    // Without a thread the closure is dropped, and with it stream and place.
    let _ = std::thread::Builder::new().name("connection".into()).spawn(move || {
        let _place = place;
        connection(stream, perform.as_ref(), limits);
    });
}

fn connection(mut stream: UnixStream, perform: &Perform, limits: Limits) {
    let Ok(reading) = stream.try_clone() else { return };
    let mut lines = Lines::new(reading, LONGEST_TO_SERVER);
    let outcome = match request(&mut lines, limits) {
        Ok(request) => {
            if write(&mut stream, &FromServer::Taken).is_err() {
                return;
            }
            let Ok(mut front) = SocketFront::new(&stream, lines, limits) else { return };
            let outcome = perform(request, &mut front);
            if front.unwritable {
                // It would be waited for once more.
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
            outcome
        }
        Err(Some(failure)) => Err(failure),
        Err(None) => return,
    };
    let last = match outcome {
        Ok(answer) => FromServer::Ok(answer),
        Err(failure) => FromServer::Failed(failure),
    };
    let _ = write(&mut stream, &last);
    // Ends the reading thread too.
    let _ = stream.shutdown(Shutdown::Both);
}

/// The request; nothing to say to a client that went away.
fn request(lines: &mut Lines, limits: Limits) -> Result<Request, Option<Failure>> {
    let wrong = |text: &str| Some(Failure::new(text));
    let line = match lines.read(Some(Instant::now() + limits.request)) {
        Ok(line) => line,
        Err(NoLine::Ended | NoLine::Broken) => return Err(None),
        Err(NoLine::TooLong) => return Err(wrong("the request is longer than 1 MiB")),
        Err(NoLine::NotYet) => return Err(wrong("no request came in time")),
    };
    let number = serde_json::from_str::<serde_json::Value>(&line)
        .ok()
        .and_then(|v| v.get("protocol").and_then(serde_json::Value::as_u64));
    if let Some(number) = number
        && number != u64::from(PROTOCOL)
    {
        return Err(Some(
            Failure::new(format!(
                "the gpuctl service speaks protocol {PROTOCOL}, the plugin {number}"
            ))
            .hint("install plugin and service of the same version, and restart the service"),
        ));
    }
    let hello: Hello =
        serde_json::from_str(&line).map_err(|_| wrong("the request is not understood"))?;
    Ok(hello.request)
}

/// The client at the other end as a [`Front`].
struct SocketFront {
    stream: UnixStream,
    from: Receiver<FromClient>,
    gone: Arc<AtomicBool>,
    /// The client does not take what is written to it.
    unwritable: bool,
    ended: Option<u8>,
    user: Option<String>,
    limits: Limits,
}

impl SocketFront {
    fn new(stream: &UnixStream, lines: Lines, limits: Limits) -> std::io::Result<Self> {
        let peer = getsockopt(stream, PeerCredentials).ok();
        let user = peer.map(|p| user_name(nix::unistd::Uid::from_raw(p.uid())));
        let gone = Arc::new(AtomicBool::new(false));
        // A client answers what it is asked; one that talks on is not listened to.
        let (tell, from) = sync_channel(8);
        let flag = Arc::clone(&gone);
        std::thread::Builder::new()
            .name("reader".into())
            .spawn(move || listen(lines, &tell, &flag))?;
        Ok(Self {
            stream: stream.try_clone()?,
            from,
            gone,
            unwritable: false,
            ended: None,
            user,
            limits,
        })
    }

    /// Whether a line can be written without a wait.
    fn has_room(&self) -> bool {
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLOUT)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1))
    }

    fn send(&mut self, message: &FromServer) -> Result<(), AskError> {
        if self.gone.load(Ordering::Acquire) {
            return Err(AskError::Gone);
        }
        write(&mut self.stream, message).map_err(|_| {
            // Half a line may have gone out: nothing more can be said to this client.
            self.gone.store(true, Ordering::Release);
            self.unwritable = true;
            AskError::Gone
        })
    }

    fn ask<T>(
        &mut self,
        ask: Ask,
        limit: Duration,
        silence: Duration,
        answer: impl Fn(&FromClient) -> Option<T>,
    ) -> Result<T, AskError> {
        self.send(&FromServer::Ask(ask))?;
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.from.recv_timeout(left.min(silence)) {
                Ok(FromClient::Busy) => {}
                Ok(FromClient::Refused(code)) => return Err(AskError::Refused { code }),
                Ok(FromClient::AttachEnded(code)) => self.ended = Some(code),
                Ok(message) => match answer(&message) {
                    Some(answer) => return Ok(answer),
                    None => return Err(self.give_up()),
                },
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Err(self.give_up());
                }
            }
        }
    }

    fn give_up(&self) -> AskError {
        self.gone.store(true, Ordering::Release);
        AskError::Gone
    }
}

/// Passes the client's lines on until it goes away or says something odd.
fn listen(mut lines: Lines, tell: &SyncSender<FromClient>, gone: &AtomicBool) {
    while let Ok(line) = lines.read(None) {
        let Ok(message) = serde_json::from_str(&line) else { break };
        if tell.try_send(message).is_err() {
            break;
        }
    }
    gone.store(true, Ordering::Release);
}

impl Front for SocketFront {
    fn event(&mut self, event: Event) {
        // One that is suspended takes nothing: progress is not worth waiting for, and the change goes on.
        if matches!(event, Event::Progress(_)) && !self.has_room() {
            return;
        }
        // Nobody listening is found out at the next question.
        let _ = self.send(&FromServer::Event(event));
    }

    fn create(&mut self, ask: &CreateAsk) -> Result<ContainerId, AskError> {
        let Limits { create, silence, .. } = self.limits;
        self.ask(Ask::Create(ask.clone()), create, silence, |m| match m {
            FromClient::Created(id) => Some(id.clone()),
            _ => None,
        })
    }

    fn pull(&mut self, image: &str) -> Result<(), AskError> {
        let Limits { create, silence, .. } = self.limits;
        self.ask(Ask::Pull(image.to_owned()), create, silence, |m| {
            matches!(m, FromClient::Pulled).then_some(())
        })
    }

    fn attach(&mut self, docker_name: &DockerName) -> Result<(), AskError> {
        let limit = self.limits.attach;
        self.ask(Ask::Attach(docker_name.clone()), limit, limit, |m| {
            matches!(m, FromClient::Attached).then_some(())
        })
    }

    fn attach_ended(&mut self) -> Result<Option<u8>, AskError> {
        loop {
            match self.from.try_recv() {
                Ok(FromClient::AttachEnded(code)) => self.ended = Some(code),
                Ok(_) => return Err(self.give_up()),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) if self.ended.is_none() => {
                    return Err(self.give_up());
                }
                Err(TryRecvError::Disconnected) => break,
            }
        }
        Ok(self.ended)
    }

    fn user(&self) -> Option<String> {
        self.user.clone()
    }

    fn listens(&mut self) -> bool {
        // A service that is to end waits for nobody who only looks on.
        !self.gone.load(Ordering::Acquire) && !signals::interrupted()
    }
}

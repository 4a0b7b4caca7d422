//! The asking side: it does what the server asks with the [`Front`] that a local operation would
//! have.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::lines::{Lines, NoLine, write};
use super::protocol::{Ask, BUSY, FromClient, FromServer, Hello, LONGEST_TO_CLIENT, PROTOCOL};
use crate::client::signals::INTERRUPTED_CODE;
use crate::engine::api::{Answer, AskError, Failure, Front, Request};

/// How long the server may take to take our lines.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// How often we look whether the user gave up.
const LOOK: Duration = Duration::from_millis(100);
/// How often we look whether the attached command has ended.
const LOOK_ATTACHED: Duration = Duration::from_millis(10);

/// How long we wait, after the user gave up, for what the service made of that.
const ENDING: Duration = Duration::from_secs(30);

/// Has the service do a request. `interrupted` tells whether the user gave up: then nothing more is
/// said to the service, it undoes or finishes, and its answer tells which.
///
/// # Errors
/// The service's failure, or why there was no answer.
pub fn perform(
    socket: &Path,
    request: Request,
    front: &mut dyn Front,
    interrupted: &dyn Fn() -> bool,
) -> Result<Answer, Failure> {
    perform_ending(socket, request, front, interrupted, ENDING)
}

/// As [`perform`]; after an interrupt it waits so long.
pub(super) fn perform_ending(
    socket: &Path,
    request: Request,
    front: &mut dyn Front,
    interrupted: &dyn Fn() -> bool,
    ending: Duration,
) -> Result<Answer, Failure> {
    let mut given_up = None;
    let outcome = ask(socket, request, front, interrupted, &mut given_up, ending);
    outcome.map_err(|failure| match given_up {
        Some(_) => failure.code(INTERRUPTED_CODE),
        None => failure,
    })
}

fn ask(
    socket: &Path,
    request: Request,
    front: &mut dyn Front,
    interrupted: &dyn Fn() -> bool,
    given_up: &mut Option<Instant>,
    ending: Duration,
) -> Result<Answer, Failure> {
    let mut stream = UnixStream::connect(socket).map_err(|e| nobody(socket, &e))?;
    let ended = |_| went_away();
    stream.set_write_timeout(Some(WRITE_LIMIT)).map_err(ended)?;
    let mut lines = Lines::new(stream.try_clone().map_err(ended)?, LONGEST_TO_CLIENT);
    // A server that is full says so and closes without reading: its word counts, not our failure.
    let sent = write(&mut stream, &Hello { protocol: PROTOCOL, request });
    let mut attached = false;
    loop {
        if given_up.is_none() && interrupted() {
            // The end of our words tells the service.
            let _ = stream.shutdown(Shutdown::Write);
            *given_up = Some(Instant::now());
        }
        if given_up.is_some_and(|at| at.elapsed() > ending) {
            return Err(Failure::new("interrupted, and the service is still at it")
                .hint("docker gpuctl ps shows what becomes of it"));
        }
        if given_up.is_none()
            && attached
            && let Ok(Some(code)) = front.attach_ended()
        {
            attached = false;
            write(&mut stream, &FromClient::AttachEnded(code)).map_err(ended)?;
        }
        let look = if attached { LOOK_ATTACHED } else { LOOK };
        let line = match lines.read(Some(Instant::now() + look)) {
            Ok(line) => line,
            Err(NoLine::NotYet) if sent.is_ok() => continue,
            Err(NoLine::TooLong) => return Err(Failure::new("the service's answer is too long")),
            Err(_) => return Err(went_away()),
        };
        let message = serde_json::from_str(&line).map_err(|_| {
            Failure::new("the service's answer is not understood")
                .hint("install plugin and service of the same version, and restart the service")
        })?;
        let reply = match message {
            FromServer::Ok(answer) => return Ok(answer),
            FromServer::Failed(failure) => return Err(failure),
            FromServer::Event(event) => {
                front.event(event);
                continue;
            }
            // It will hear that we are gone.
            FromServer::Ask(_) if given_up.is_some() => continue,
            FromServer::Ask(Ask::Create(ask)) => {
                saying_busy(&stream, BUSY, || front.create(&ask)).map(FromClient::Created)
            }
            FromServer::Ask(Ask::Pull(image)) => {
                saying_busy(&stream, BUSY, || front.pull(&image)).map(|()| FromClient::Pulled)
            }
            FromServer::Ask(Ask::Attach(name)) => front.attach(&name).map(|()| {
                attached = true;
                FromClient::Attached
            }),
        };
        match reply {
            Ok(reply) => write(&mut stream, &reply).map_err(ended)?,
            Err(AskError::Refused { code }) => {
                write(&mut stream, &FromClient::Refused(code)).map_err(ended)?;
            }
            Err(AskError::Gone) => {
                let _ = stream.shutdown(Shutdown::Write);
                *given_up = Some(Instant::now());
            }
        }
    }
}

/// Does something that may take long, as the pull of an image, and says so to the service from time
/// to time: who says nothing is taken for gone.
pub(super) fn saying_busy<T>(stream: &UnixStream, every: Duration, act: impl FnOnce() -> T) -> T {
    let Ok(mut stream) = stream.try_clone() else { return act() };
    let (done, told) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while told.recv_timeout(every) == Err(RecvTimeoutError::Timeout)
                && write(&mut stream, &FromClient::Busy).is_ok()
            {}
        });
        let outcome = act();
        // Ends it before anything else is written.
        drop(done);
        outcome
    })
}

fn nobody(socket: &Path, error: &std::io::Error) -> Failure {
    let shown = socket.display();
    match error.kind() {
        ErrorKind::PermissionDenied => {
            Failure::new(format!("you may not use the gpuctl service at {shown}"))
                .hint("use sudo, or have root add you to the group docker")
        }
        _ => Failure::new(format!("no gpuctl service answers at {shown}"))
            .hint("sudo systemctl start gpuctl.socket, or run this command with sudo"),
    }
}

fn went_away() -> Failure {
    Failure::new("the gpuctl service went away before it had answered")
        .hint("docker gpuctl ps shows what is so; the next command finishes or undoes what is left")
}

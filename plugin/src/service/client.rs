//! The asking side: it does what the server asks with the [`Front`] that a local operation would
//! have.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::lines::{Lines, NoLine, write};
use super::protocol::{Ask, BUSY, FromClient, FromServer, Hello, LONGEST_TO_CLIENT, PROTOCOL};
use super::reach::{Line, Service};
use crate::client::signals::INTERRUPTED_CODE;
use crate::engine::api::{Answer, AskError, Failure, Front, Request};

/// How long the server may take to take our lines.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// How often we look whether the user gave up.
const LOOK: Duration = Duration::from_millis(100);
/// How often we look whether the attached command has ended.
const LOOK_ATTACHED: Duration = Duration::from_millis(10);

/// How long a service may take to say that it has taken the request; to another host there is a login
/// first.
const TAKEN_LIMIT: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 30 });
const TAKEN_LIMIT_FAR: Duration = Duration::from_secs(120);

/// How long we wait, after the user gave up, for what the service made of that.
const ENDING: Duration = Duration::from_secs(30);

/// Has the service do a request. `interrupted` tells whether the user gave up: then nothing more is
/// said to the service, it undoes or finishes, and its answer tells which.
///
/// # Errors
/// The service's failure, or why there was no answer.
pub fn perform(
    service: &Service,
    request: Request,
    front: &mut dyn Front,
    interrupted: &dyn Fn() -> bool,
) -> Result<Answer, Failure> {
    perform_ending(service, request, front, interrupted, ENDING)
}

/// As [`perform`], of what changes nothing: after `limit` there is no answer.
///
/// # Errors
/// As there, or that there was none in time.
pub fn perform_within(
    service: &Service,
    request: Request,
    front: &mut dyn Front,
    limit: Duration,
) -> Result<Answer, Failure> {
    let begun = Instant::now();
    let over = || begun.elapsed() > limit;
    let outcome = perform_ending(service, request, front, &over, Duration::ZERO);
    outcome.map_err(|failure| {
        if !over() {
            return failure;
        }
        let seconds = limit.as_secs();
        Failure::new(format!("the gpuctl service gave no answer within {seconds} s"))
            .hint("docker gpuctl doctor tells more")
    })
}

/// As [`perform`], of what only shows things: once nobody looks on it waits for nothing.
///
/// # Errors
/// As there.
pub fn perform_watching(
    service: &Service,
    request: Request,
    front: &mut dyn Front,
    over: &dyn Fn() -> bool,
) -> Result<Answer, Failure> {
    perform_ending(service, request, front, over, Duration::ZERO)
}

/// As [`perform`]; after an interrupt it waits so long.
pub(super) fn perform_ending(
    service: &Service,
    request: Request,
    front: &mut dyn Front,
    interrupted: &dyn Fn() -> bool,
    ending: Duration,
) -> Result<Answer, Failure> {
    let mut given_up = None;
    let outcome = ask(service, request, front, interrupted, &mut given_up, ending);
    outcome.map_err(|failure| match given_up {
        Some(_) => failure.code(INTERRUPTED_CODE),
        None => failure,
    })
}

fn ask(
    service: &Service,
    request: Request,
    front: &mut dyn Front,
    interrupted: &dyn Fn() -> bool,
    given_up: &mut Option<Instant>,
    ending: Duration,
) -> Result<Answer, Failure> {
    let (mut stream, mut line) = service.connect()?;
    let host = line.as_ref().map(|line| line.host().to_owned());
    // Who joins us to another host's service knows why there is no answer.
    let mut ended = || line.as_mut().and_then(Line::why).unwrap_or_else(went_away);
    stream.set_write_timeout(Some(WRITE_LIMIT)).map_err(|_| ended())?;
    let mut lines = Lines::new(stream.try_clone().map_err(|_| ended())?, LONGEST_TO_CLIENT);
    // A server that is full says so and closes without reading: its word counts, not our failure.
    let sent = write(&mut stream, &Hello { protocol: PROTOCOL, request });
    let mut attached = false;
    let mut limit = Some(if host.is_some() { TAKEN_LIMIT_FAR } else { TAKEN_LIMIT });
    let asked = Instant::now();
    loop {
        if let Some(limit) = limit.filter(|limit| asked.elapsed() > *limit) {
            return Err(Failure::new(format!(
                "the gpuctl service has not taken the request within {} s",
                limit.as_secs()
            ))
            .hint("systemctl status gpuctl there tells more; systemctl restart gpuctl leaves containers alone"));
        }
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
            write(&mut stream, &FromClient::AttachEnded(code)).map_err(|_| ended())?;
        }
        let look = if attached { LOOK_ATTACHED } else { LOOK };
        let line = match lines.read(Some(Instant::now() + look)) {
            Ok(line) => line,
            Err(NoLine::NotYet) if sent.is_ok() => continue,
            Err(NoLine::TooLong) => return Err(Failure::new("the service's answer is too long")),
            Err(_) => return Err(ended()),
        };
        limit = None;
        let message =
            serde_json::from_str(&line).map_err(|_| not_understood(host.as_deref(), &line))?;
        let reply = match message {
            FromServer::Ok(answer) => return Ok(answer),
            FromServer::Failed(failure) => return Err(failure),
            FromServer::Taken => continue,
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
            Ok(reply) => write(&mut stream, &reply).map_err(|_| ended())?,
            Err(AskError::Refused { code }) => {
                write(&mut stream, &FromClient::Refused(code)).map_err(|_| ended())?;
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

/// What came is no line of the service's.
fn not_understood(host: Option<&str>, line: &str) -> Failure {
    const SHOWN: usize = 200;
    match host {
        // A service's line is an object, whatever its version.
        Some(host) if !line.starts_with('{') => {
            let line: String = line.chars().take(SHOWN).collect();
            Failure::new(format!("{host} says something before the gpuctl service can: {line}"))
                .hint("a start-up file of the shell there prints to stdout: let it do so on terminals only")
        }
        _ => Failure::new("the service's answer is not understood")
            .hint("install plugin and service of the same version, and restart the service"),
    }
}

fn went_away() -> Failure {
    Failure::new("the gpuctl service went away before it had answered")
        .hint("docker gpuctl ps shows what is so; the next command finishes or undoes what is left")
}

//! Questions whose answer is wanted at once or not at all: while somebody types, and after somebody's
//! command.

use std::process::Stdio;
use std::time::Duration;

use super::Session;
use crate::client::argv::Globals;
use crate::client::dockercli::captured;
use crate::docker::{Docker, Summary};
use crate::engine::api::{Answer, Request};
use crate::within::within;

/// How long somebody who pressed a key waits.
const LIMIT: Duration = Duration::from_millis(1000);

/// That, or what a test gives that wants the answer on a busy machine. Compiled out of releases.
#[cfg(feature = "faults")]
fn limit() -> Duration {
    let given = std::env::var("GPUCTL_QUICK_MS").ok().and_then(|ms| ms.parse().ok());
    given.map_or(LIMIT, Duration::from_millis)
}

/// That.
#[cfg(not(feature = "faults"))]
fn limit() -> Duration {
    LIMIT
}

/// Runs `ask` and waits no longer than the limit; what comes later is nobody's.
pub(super) fn in_time<T: Send + 'static>(
    ask: impl FnOnce() -> Option<T> + Send + 'static,
) -> Option<T> {
    within(limit(), "quick", ask).ok().flatten().flatten()
}

/// The containers of the Engine that is meant, with their status: all, or those that run.
pub(super) fn containers(all: bool) -> Vec<(String, String)> {
    let found = in_time(move || {
        let session = Session::open(&Globals::default()).ok()?;
        if session.is_far() {
            let words = ["ps", "--no-trunc", "--format", "{{.Names}}\t{{.Status}}"];
            let lines = listed(
                &session,
                &words.into_iter().chain(all.then_some("-a")).collect::<Vec<_>>(),
            )?;
            let pair = |line: &str| {
                let (names, status) = line.split_once('\t')?;
                // Its own name, and those that links gave it.
                let name = names.split(',').find(|name| !name.contains('/'))?;
                Some((name.to_owned(), status.to_owned()))
            };
            return Some(lines.lines().filter_map(pair).collect());
        }
        let rows = Docker::connect(&session.config().docker.host, limit()).ok()?.list(all).ok()?;
        let pair = |row: Summary| Some((row.names.into_iter().next()?, row.status));
        Some(rows.into_iter().filter_map(pair).collect())
    });
    found.unwrap_or_default()
}

/// Why each of these containers did not start, in the Engine's words; empty of one that did.
pub(super) fn start_errors(names: Vec<String>) -> Vec<String> {
    let found = in_time(move || {
        let session = Session::open(&Globals::default()).ok()?;
        if session.is_far() {
            let words = ["inspect", "--type", "container", "--format", "{{json .State.Error}}"];
            let names = names.iter().map(String::as_str);
            let lines = listed(&session, &words.into_iter().chain(names).collect::<Vec<_>>())?;
            return Some(lines.lines().filter_map(|l| serde_json::from_str(l).ok()).collect());
        }
        let docker = Docker::connect(&session.config().docker.host, limit()).ok()?;
        let error = |name: &String| Some(docker.inspect(name).ok()??.error().to_owned());
        Some(names.iter().filter_map(error).collect())
    });
    found.unwrap_or_default()
}

/// The images of the Engine that is meant, by their tags.
pub(super) fn images() -> Vec<String> {
    let found = in_time(|| {
        let session = Session::open(&Globals::default()).ok()?;
        if session.is_far() {
            let words = ["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"];
            let lines = listed(&session, &words)?;
            let tagged = lines.lines().filter(|line| !line.contains("<none>"));
            return Some(tagged.map(str::to_owned).collect());
        }
        Docker::connect(&session.config().docker.host, limit()).ok()?.image_tags().ok()
    });
    found.unwrap_or_default()
}

/// The lines that a list of the Docker CLI prints of the Engine that is meant.
pub(super) fn names(words: &'static [&'static str]) -> Vec<String> {
    let found = in_time(|| listed(&Session::open(&Globals::default()).ok()?, words));
    found.unwrap_or_default().lines().map(str::to_owned).collect()
}

/// What the Docker CLI prints of an Engine.
fn listed(session: &Session, words: &[&str]) -> Option<String> {
    let mut command = session.cli().command(words);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    match captured(command, limit(), || false) {
        Ok((0, lines)) => Some(lines),
        _ => None,
    }
}

/// What engine or service answer in time. Why they do not is not said.
pub(super) fn asked(request: Request) -> Option<Answer> {
    in_time(move || Session::open(&Globals::default()).ok()?.look(request).ok())
}

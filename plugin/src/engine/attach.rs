//! A start with the user's terminal on it: the Docker CLI does it, and is the container's terminal.

use std::time::{Duration, Instant};

use gpuctl_ledger::model::{ContainerId, DockerName, Timestamp};

use super::api::{AskError, Failure, Front};
use super::context::Context;
use crate::docker::{Inspect, start_exit_code};

/// How often an attached start is looked at.
const LOOK: Duration = Duration::from_millis(40);

/// Has the container started on the user's terminal, and waits until that has come so far that it runs,
/// or has run. `before` is what Docker showed of it; one that ran then is only looked on at.
///
/// # Errors
/// Why it did not start. Where the Docker CLI has said that, the message is empty.
pub(super) fn start(
    ctx: &Context,
    front: &mut dyn Front,
    id: &ContainerId,
    docker_name: &DockerName,
    before: &Inspect,
) -> Result<(), Failure> {
    let docker = ctx.docker()?;
    let began = Timestamp::now();
    front.attach(docker_name).map_err(asked)?;
    if before.running() {
        return Ok(());
    }
    let auto_remove = before.auto_remove();
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        // In this order: what ended before the look has left its trace in what is looked at.
        let ended = front.attach_ended();
        let shown = docker.inspect(id.as_str())?;
        match (&shown, &ended) {
            (Some(shown), _) if shown.started_at() != before.started_at() => return Ok(()),
            // Gone already: it ran and `--rm` has removed it, or it did not start, which Docker's
            // own message on the terminal tells.
            (None, Ok(Some(code))) if auto_remove => {
                return match docker.has_started(id, began)? {
                    true => Ok(()),
                    false => Err(Failure::new("").code(if *code < 125 { 125 } else { *code })),
                };
            }
            (None, Ok(None)) if auto_remove => {}
            (None, _) => return Err(Failure::new("the container was removed while it started")),
            (Some(shown), Ok(Some(_))) => {
                let text = shown.error();
                let code = start_exit_code(text);
                let failure = match crate::docker::gpuctl_part(text) {
                    Some(_) => Failure::from(crate::docker::DockerError::Refused {
                        status: 500,
                        message: text.to_owned(),
                    }),
                    None if text.is_empty() => Failure::new("the container did not start"),
                    // The Docker CLI has printed it.
                    None => Failure::new(""),
                };
                return Err(failure.code(code));
            }
            (Some(_), Err(gone)) => return Err(asked(gone.clone())),
            (Some(_), Ok(None)) => {}
        }
        if Instant::now() > deadline {
            return Err(Failure::new("the container did not start within 120 s"));
        }
        std::thread::sleep(LOOK);
    }
}

/// Why the terminal's part was not done.
pub(super) fn asked(error: AskError) -> Failure {
    match error {
        // Docker's own message stands on the terminal already.
        AskError::Refused { code } => Failure::new("").code(code),
        AskError::Gone => Failure::new("interrupted").code(130),
    }
}

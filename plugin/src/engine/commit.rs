//! commit: an image of a container. It changes nothing of it, but holds its lock: so nothing else does
//! meanwhile.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::Value;

use super::api::{
    Amount, Answer, CommitRequest, Doing, Event, Failure, Front, MoreAnswer, Progress,
};
use super::context::{Context, DOCKER_LIMIT};
use super::create::OPERATION_LABEL;
use super::journal::Locked;
use super::names::Found;
use super::{layers, lifecycle};
use crate::client::signals::INTERRUPTED_CODE;
use crate::docker::{Commit, Docker, Inspect, is_image_name};

/// How often it is asked whether somebody still waits, and told that it goes on.
const LOOK: Duration = Duration::from_millis(100);

/// commit.
///
/// # Errors
/// When there is no such container, or Docker makes no image of it.
pub(super) fn commit(
    ctx: &Context,
    request: &CommitRequest,
    front: &mut dyn Front,
) -> Result<Answer, Failure> {
    if let Some(image) = request.image.as_deref().filter(|image| !is_image_name(image)) {
        return Err(Failure::new(format!("an image cannot be called {image:?}")).hint(
            "a name is [HOST[:PORT]/]PATH[:TAG], in small letters but for the tag, as in lab/train:v1",
        ));
    }
    let (lock, found, shown) = lifecycle::locked(ctx, &request.name, front)?;
    let volumes = volumes(&shown);
    if !volumes.is_empty() {
        let text = format!("volumes are not in the image: {}", volumes.join(", "));
        front.event(Event::Note { text });
    }
    let how = Commit {
        image: request.image.clone(),
        author: request.author.clone(),
        message: request.message.clone(),
        changes: changes(&request.changes, shown.label(OPERATION_LABEL).is_some()),
        pause: request.pause,
    };
    let all = layers::size(ctx, &found, &shown, front)?;
    let stands = request.pause && shown.running();
    let goes_on = Progress {
        doing: Doing::Committing,
        of: found.docker_name.to_string(),
        done: Amount::default(),
        all,
    };
    let Some(made) = made(ctx, lock, found, how, &goes_on, front) else {
        return Err(given_up(&request.name, stands));
    };
    let id = made.map_err(|failure| {
        let hint =
            "docker gpuctl commit NAME [REPOSITORY[:TAG]]; docker image ls shows what there is";
        if failure.hint.is_some() { failure } else { failure.hint(hint) }
    })?;
    Ok(Answer::More(MoreAnswer::Committed(id)))
}

/// Has Docker make it, which takes as long as it takes: `None` once nobody waits for it any more. Then
/// Docker goes on, and nothing else is done to the container meanwhile, as long as this process lives.
fn made(
    ctx: &Context,
    lock: Locked,
    found: Found,
    how: Commit,
    goes_on: &Progress,
    front: &mut dyn Front,
) -> Option<Result<String, Failure>> {
    let host = ctx.docker().map(|docker| docker.host().to_owned());
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let docker = host.and_then(|host| Ok(Docker::connect(&host, DOCKER_LIMIT)?));
        let made = docker.and_then(|docker| Ok(docker.commit(&found.id, &how)?));
        drop(lock);
        let _ = tell.send(made);
    });
    loop {
        match told.recv_timeout(LOOK) {
            Ok(made) => return Some(made),
            Err(RecvTimeoutError::Timeout) if front.listens() => {
                front.event(Event::Progress(goes_on.clone()));
            }
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => {
                return Some(Err(Failure::new("the commit has ended without a word")));
            }
        }
    }
}

/// What becomes of an image that nobody waits for.
fn given_up(name: &str, stands: bool) -> Failure {
    let stands = if stands { format!("; {name} stands still until then") } else { String::new() };
    Failure::new(format!("interrupted, but Docker makes the image to its end{stands}"))
        .hint("docker image ls shows it then, docker image rm removes it")
        .code(INTERRUPTED_CODE)
}

/// The label tells which operation made the container, and it is not the image's. The Engine takes no
/// label out: it is emptied.
fn changes(asked: &[String], labelled: bool) -> Vec<String> {
    let ours = labelled.then(|| format!("LABEL {OPERATION_LABEL}=\"\""));
    asked.iter().cloned().chain(ours).collect()
}

/// What is mounted into it, in words: `/data (volume data-0)`.
fn volumes(shown: &Inspect) -> Vec<String> {
    let mounts = shown.0.get("Mounts").and_then(Value::as_array);
    let of = |mount: &Value| {
        let text = |key: &str| mount.get(key).and_then(Value::as_str).unwrap_or_default();
        let what = match text("Type") {
            "volume" => format!("volume {}", text("Name")),
            "bind" => format!("{} of the host", text("Source")),
            other => other.to_owned(),
        };
        format!("{} ({what})", text("Destination"))
    };
    let mut found: Vec<String> = mounts.into_iter().flatten().map(of).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_in_the_image_is_named() {
        let shown = Inspect(json!({"Mounts": [
            {"Type": "volume", "Name": "data-0", "Destination": "/data"},
            {"Type": "bind", "Source": "/srv/sets", "Destination": "/a"},
            {"Type": "tmpfs", "Destination": "/scratch"},
        ]}));
        let words = ["/a (/srv/sets of the host)", "/data (volume data-0)", "/scratch (tmpfs)"];
        assert_eq!(volumes(&shown), words);
        assert!(volumes(&Inspect(json!({"Mounts": null}))).is_empty());
    }

    #[test]
    fn the_operations_label_is_emptied_after_what_was_asked() {
        let asked = ["LABEL gpuctl.operation=x".to_owned()];
        assert_eq!(
            changes(&asked, true),
            ["LABEL gpuctl.operation=x", "LABEL gpuctl.operation=\"\""]
        );
        assert_eq!(changes(&asked, false), asked);
    }
}

//! commit: an image of a container. It changes nothing of it, but holds its lock: so nothing else does
//! meanwhile.

use serde_json::Value;

use super::api::{Answer, CommitRequest, Event, Failure, Front, MoreAnswer};
use super::context::Context;
use super::create::OPERATION_LABEL;
use super::lifecycle;
use crate::docker::{Commit, Inspect};

/// commit.
///
/// # Errors
/// When there is no such container, or Docker makes no image of it.
pub(super) fn commit(
    ctx: &Context,
    request: &CommitRequest,
    front: &mut dyn Front,
) -> Result<Answer, Failure> {
    let (_lock, found, shown) = lifecycle::locked(ctx, &request.name, front)?;
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
    let id = ctx.docker()?.commit(&found.id, &how).map_err(|error| {
        let failure = Failure::from(error);
        let hint =
            "docker gpuctl commit NAME [REPOSITORY[:TAG]]; docker image ls shows what there is";
        if failure.hint.is_some() { failure } else { failure.hint(hint) }
    })?;
    Ok(Answer::More(MoreAnswer::Committed(id)))
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

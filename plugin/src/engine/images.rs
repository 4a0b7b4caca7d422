//! Images that changes want: there, or pulled by whoever asked.

use super::api::{AskError, Event, Failure, Front};
use super::context::Context;
use crate::client::signals::INTERRUPTED_CODE;
use crate::docker::Inspect;

/// The id of an image by its name; pulled where it is not there, as `docker create` does.
///
/// # Errors
/// When it cannot be had: nothing was changed.
pub(super) fn pulled(ctx: &Context, name: &str, front: &mut dyn Front) -> Result<String, Failure> {
    let docker = ctx.docker()?;
    if let Some(id) = docker.image_id(name)? {
        return Ok(id);
    }
    // An id is no name of a registry's.
    if name.starts_with("sha256:") {
        return Err(gone(name));
    }
    front.event(Event::Note { text: format!("image {name} is not on this host: it is pulled") });
    match front.pull(name) {
        Ok(()) => docker.image_id(name)?.ok_or_else(|| gone(name)),
        Err(AskError::Refused { .. }) => {
            Err(Failure::new(format!("image {name} could not be pulled: nothing was changed"))
                .hint("docker image ls shows the images that are there"))
        }
        Err(AskError::Gone) => {
            Err(Failure::new("interrupted: nothing was changed").code(INTERRUPTED_CODE))
        }
    }
}

/// Refuses where a container's own image is gone.
///
/// # Errors
/// As said.
pub(super) fn check(ctx: &Context, shown: &Inspect, or: &str) -> Result<(), Failure> {
    if ctx.docker()?.image_id(shown.image_id())?.is_some() {
        return Ok(());
    }
    let message = format!("the image of {} is not on this host any more", shown.name());
    Err(Failure::new(message).hint(format!("docker pull {}{or}", shown.image())))
}

fn gone(name: &str) -> Failure {
    Failure::new(format!("image {name} is not on this host")).hint(
        "docker image ls shows the images that are there; --image gives the container another",
    )
}

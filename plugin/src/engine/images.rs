//! The image that a change wants: there, or pulled by whoever asked.

use super::api::{AskError, Event, Failure, Front};
use super::context::Context;
use crate::client::signals::INTERRUPTED_CODE;

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

fn gone(name: &str) -> Failure {
    Failure::new(format!("image {name} is not on this host")).hint(
        "docker image ls shows the images that are there; --image gives the container another",
    )
}

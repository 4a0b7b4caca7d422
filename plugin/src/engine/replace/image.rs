//! What a replacement is made of: the image that its spec names, or the one that the name meant before.

use serde_json::Value;

use crate::change;
use crate::engine::api::{Event, Failure, Front};
use crate::engine::change::{Subject, Target};
use crate::engine::context::Context;
use crate::engine::images;

/// What a new container is made of.
pub(super) struct Image {
    /// Without what the old image implied, where it is another.
    pub(super) spec: Value,
    /// The image's id, where the spec's name does not mean it.
    pub(super) id: Option<String>,
    /// What would have to be pulled, of a plan.
    pub(super) pulled: Option<String>,
}

/// The spec to make it from, and its image where the spec's name does not mean that any more.
///
/// # Errors
/// When the image cannot be had, and the Engine's.
pub(super) fn of(
    ctx: &Context,
    subject: &Subject,
    target: &Target,
    dry_run: bool,
    front: &mut dyn Front,
) -> Result<Image, Failure> {
    let docker = ctx.docker()?;
    let text = |spec: &Value, pointer: &str| {
        spec.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let (name, id) = (text(&target.spec, "/Config/Image"), text(&target.spec, "/Image"));
    let is = subject.shown.image_id();
    let mut spec = target.spec.clone();
    if target.new_image {
        // What the old one implied is not the user's word.
        let old = docker.image(is)?;
        let config = old.and_then(|image| image.get("Config").cloned()).unwrap_or(Value::Null);
        spec = change::without_image(&spec, &config);
    }
    let named = docker.image_id(&name)?;
    if !id.is_empty() && named.as_ref() == Some(&id) {
        return Ok(Image { spec, id: None, pulled: None });
    }
    if !id.is_empty() && docker.image_id(&id)?.is_some() {
        return Ok(Image { spec, id: Some(id), pulled: None });
    }
    if id == is {
        images::check(ctx, &subject.shown, "; or --image gives it another one")?;
    }
    if named.is_none() && dry_run {
        return Ok(Image { spec, id: None, pulled: Some(name) });
    }
    let now = images::pulled(ctx, &name, front)?;
    if !id.is_empty() && now != id {
        let text = format!("{name} is another image than it was: what it was is not on this host");
        front.event(Event::Warning { text });
    }
    Ok(Image { spec, id: None, pulled: None })
}

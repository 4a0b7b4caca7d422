//! pause and unpause: processes stand still, and GPUs and ports stay theirs. No journal: each is one
//! call to the Engine.

use super::api::{Answer, Failure, Front};
use super::context::Context;
use super::lifecycle::{each, locked};
use crate::docker::Inspect;

/// pause. Failures are in the answer.
pub(super) fn pause(ctx: &Context, list: &[String], front: &mut dyn Front) -> Answer {
    each(list, front, |name, front| {
        with(ctx, name, front, |now, id| {
            let name = now.name();
            if now.paused() {
                return Err(Failure::new(format!("{name} is paused already"))
                    .hint(format!("docker gpuctl unpause {name} lets it go on")));
            }
            if !now.running() || now.restarting() {
                return Err(Failure::new(format!("{name} does not run: it is {}", now.status()))
                    .hint("only what runs can be paused"));
            }
            Ok(ctx.docker()?.pause(id)?)
        })
    })
}

/// unpause. Failures are in the answer.
pub(super) fn unpause(ctx: &Context, list: &[String], front: &mut dyn Front) -> Answer {
    each(list, front, |name, front| {
        with(ctx, name, front, |now, id| {
            if !now.paused() {
                let text = format!("{} is not paused: it is {}", now.name(), now.status());
                return Err(Failure::new(text).hint("docker gpuctl ps -a shows how each is"));
            }
            Ok(ctx.docker()?.unpause(id)?)
        })
    })
}

/// Under the lock of the container that a name means.
fn with(
    ctx: &Context,
    name: &str,
    front: &mut dyn Front,
    act: impl FnOnce(&Inspect, &str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (_lock, found, shown) = locked(ctx, name, front)?;
    act(&shown, found.id.as_str())
}

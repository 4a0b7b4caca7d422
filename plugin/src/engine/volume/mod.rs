//! Volumes with a size: create, resize, rollback, rm, prune, adopt, and what is shown of them. See
//! docs/adr/0016.

mod adopt;
pub(super) mod copy;
mod create;
mod find;
mod in_place;
mod journal;
mod list;
mod make;
mod observe;
mod recover;
mod remove;
mod resize;
mod roll;
mod room;
pub(super) mod swap;
mod tend;

pub(super) use recover::recover_part;
pub(super) use tend::{findings, tend};

use super::api::{Answer, Failure, Front, VolumeRequest};
use super::context::Context;

/// Does what is asked of volumes.
///
/// # Errors
/// [`Failure`]: then all is as it was, or the failure says what is not.
pub(super) fn perform(
    ctx: &Context,
    request: VolumeRequest,
    front: &mut dyn Front,
) -> Result<Answer, Failure> {
    let answer = match request {
        VolumeRequest::Create { name, size, backend, labels, allocate } => {
            let wanted = create::Wanted { name, size, backend, labels, allocate };
            create::create(ctx, &wanted, front)?
        }
        VolumeRequest::Ls => list::rows(ctx)?,
        VolumeRequest::Inspect { names } => list::inspect(ctx, &names)?,
        VolumeRequest::Resize { name, size, how } => resize::resize(ctx, &name, size, how, front)?,
        VolumeRequest::Rollback { name, version, how } => {
            resize::rollback(ctx, &name, version, how, front)?
        }
        VolumeRequest::History { name } => list::history(ctx, &name)?,
        VolumeRequest::Remove { names, history } => {
            return Ok(remove::remove(ctx, &names, history, front));
        }
        VolumeRequest::Prune { dry_run } => remove::prune(ctx, dry_run, front)?,
        VolumeRequest::Backends => list::backends(ctx),
        VolumeRequest::Adopt { docker_name, name } => adopt::adopt(ctx, &docker_name, name, front)?,
    };
    Ok(Answer::Volume(answer))
}

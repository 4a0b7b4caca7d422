//! volume create.

use gpuctl_ledger::model::{Backend, ByteSize, Version, VolumeName};

use super::super::api::{Failure, Front, VolumeAnswer};
use super::super::context::Context;
use super::make::{self, New};
use super::{find, journal, observe};
use crate::volume::rules;

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Its name.
    pub(super) name: VolumeName,
    /// How much is to fit in.
    pub(super) size: ByteSize,
    /// What is to keep it to that.
    pub(super) backend: Option<Backend>,
    /// The user's labels.
    pub(super) labels: Vec<(String, String)>,
    /// The host's disk gives the room at once.
    pub(super) allocate: bool,
}

/// Makes a volume.
///
/// # Errors
/// [`Failure`]; then nothing is left of it.
pub(super) fn create(
    ctx: &Context,
    wanted: &Wanted,
    front: &mut dyn Front,
) -> Result<VolumeAnswer, Failure> {
    let name = &wanted.name;
    let volumes = &ctx.config.volumes;
    let backend = rules::choose(wanted.backend, volumes.backend, &observe::abilities(ctx))?;
    rules::check_size(wanted.size, backend, volumes.filesystem)?;
    if wanted.allocate && backend != Backend::Image {
        return Err(Failure::new(format!("--allocate is of backend image, this is {backend}"))
            .hint("leave --allocate out, or add --backend image"));
    }
    let _lock = journal::lock(ctx, name, front)?;
    let before = find::by_name(ctx, name)?;
    let version = match &before {
        None => {
            find::check_new(ctx, name)?;
            Version(0)
        }
        Some(at) => {
            if let Some(docker_name) = &at.record.docker_name {
                return Err(Failure::new(format!("the name {name} is in use by volume {docker_name}"))
                    .hint(format!(
                        "docker gpuctl volume resize {name} SIZE changes its size; docker gpuctl volume rm {name} removes it"
                    )));
            }
            at.record.version.next()
        }
    };
    let new = New {
        name,
        before: before.as_ref(),
        version,
        backend,
        size: wanted.size,
        labels: wanted.labels.clone(),
        allocate: wanted.allocate,
        from: None,
        no_verify: false,
        why: "create".to_owned(),
        roll: None,
    };
    let docker_name = make::make(ctx, &new, front)?;
    let summary = format!("{docker_name} has room for {} (backend {backend})", wanted.size);
    Ok(VolumeAnswer::Made { docker_name, summary })
}

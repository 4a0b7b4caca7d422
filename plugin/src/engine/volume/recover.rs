//! Bringing a change to a volume to its end that died: the caller holds the volume's lock, so its
//! author is dead.

use gpuctl_ledger::ledger::At;
use gpuctl_ledger::model::{ContainerName, VolumeOperation, VolumeOperationKind};

use super::super::api::Failure;
use super::super::context::Context;
use super::super::replace::PartOf;
use super::journal::{self, Journal};
use super::{in_place, make, remove};

/// Finishes or undoes it; says which.
///
/// # Errors
/// When neither can be done now: the journal stays, and the next command tries again.
pub(super) fn recover(ctx: &Context, operation: &At<VolumeOperation>) -> Result<String, Failure> {
    recover_with(ctx, operation, None)
}

/// Brings the change to a volume to its end of which a container's replace is a part, where that is
/// still open; says which. The caller holds the container's lock, and does not wait for the volume's:
/// who has that one waits for the container's.
///
/// # Errors
/// As [`recover`], and when somebody else is at work on the volume.
pub(in crate::engine) fn recover_part(
    ctx: &Context,
    whole: &PartOf,
    held: &ContainerName,
) -> Result<Option<String>, Failure> {
    let name = &whole.volume;
    let Some(_lock) = journal::try_lock(ctx, name)? else {
        return Err(Failure::new(format!(
            "it is part of a change to volume {name}, which another command ends"
        ))
        .hint("wait for it, then try again"));
    };
    match journal::open(ctx, name)?.filter(|at| at.record.token == whole.token) {
        Some(operation) => recover_with(ctx, &operation, Some(held)).map(Some),
        None => Ok(None),
    }
}

fn recover_with(
    ctx: &Context,
    operation: &At<VolumeOperation>,
    held: Option<&ContainerName>,
) -> Result<String, Failure> {
    let journal = Journal::found(operation);
    let (name, kind) = (operation.record.name.clone(), operation.record.kind);
    let word = journal::word(kind);
    let ended = match kind {
        VolumeOperationKind::Create | VolumeOperationKind::Resize => {
            make::recover(ctx, journal, held).map(|how| {
                format!("an earlier {word} of volume {name} was broken off: it is {how}")
            })
        }
        VolumeOperationKind::InPlace => in_place::recover(ctx, journal),
        VolumeOperationKind::Remove => remove::recover(ctx, journal),
        VolumeOperationKind::Adopt => {
            Err(Failure::new("this version writes no journal of an adopt")
                .hint("upgrade docker-gpuctl on this host"))
        }
    };
    ended.map_err(|why| {
        let hint = why.hint.clone();
        let mut failure = Failure::new(format!(
            "an earlier {word} of volume {name} was broken off and cannot be brought to an end: {why}"
        ));
        failure.hint = hint.or_else(|| Some("docker gpuctl doctor tells more".into()));
        failure.details = why.details;
        failure
    })
}

//! Bringing a change to a volume to its end that died: the caller holds the volume's lock, so its
//! author is dead.

use gpuctl_ledger::ledger::At;
use gpuctl_ledger::model::{VolumeOperation, VolumeOperationKind};

use super::super::api::Failure;
use super::super::context::Context;
use super::journal::{self, Journal};
use super::{in_place, make, remove};

/// Finishes or undoes it; says which.
///
/// # Errors
/// When neither can be done now: the journal stays, and the next command tries again.
pub(super) fn recover(ctx: &Context, operation: &At<VolumeOperation>) -> Result<String, Failure> {
    let journal = Journal::found(operation);
    let (name, kind) = (operation.record.name.clone(), operation.record.kind);
    let word = journal::word(kind);
    let ended = match kind {
        VolumeOperationKind::Create | VolumeOperationKind::Resize => make::undo(ctx, journal)
            .map(|()| format!("an earlier {word} of volume {name} was broken off: it is undone")),
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

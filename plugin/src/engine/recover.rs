//! Bringing a change to its end that died: the caller holds the container's lock, so its author is
//! dead.

use gpuctl_ledger::ledger::At;
use gpuctl_ledger::model::{Operation, OperationKind};

use super::api::Failure;
use super::context::Context;
use super::journal::Journal;
use super::{
    adopt, clone, prune, remove, rename, snapshot, undo_create, undo_in_place, undo_replace,
};

/// Finishes or undoes it; says which.
///
/// # Errors
/// When neither can be done now: the journal stays, and the next command tries again.
pub(super) fn recover(ctx: &Context, operation: &At<Operation>) -> Result<String, Failure> {
    let journal = Journal::found(operation);
    let name = operation.record.name.clone();
    let ended = match operation.record.kind {
        OperationKind::Run => undo_create::recover(ctx, journal),
        OperationKind::Scale | OperationKind::Update => undo_in_place::recover(ctx, journal),
        OperationKind::Replace => undo_replace::recover(ctx, journal),
        OperationKind::Remove => remove::recover(ctx, journal),
        OperationKind::Adopt => adopt::recover(ctx, journal),
        OperationKind::Clone => clone::recover(ctx, journal),
        OperationKind::Snapshot => snapshot::recover(ctx, journal),
        OperationKind::Prune => prune::recover(ctx, journal),
        OperationKind::Rename => rename::recover(ctx, journal),
    };
    ended.map_err(|why| {
        let hint = why.hint.clone();
        let mut failure = Failure::new(format!(
            "an earlier change to {name} was broken off and cannot be brought to an end: {why}"
        ));
        failure.hint = hint.or_else(|| Some("docker gpuctl doctor tells more".into()));
        failure
    })
}

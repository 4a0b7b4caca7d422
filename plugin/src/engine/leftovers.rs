//! What is left of containers that are no more: of runs with --rm, and the locks of names.

use std::collections::BTreeSet;

use gpuctl_ledger::ledger::At;
use gpuctl_ledger::model::{ContainerId, ContainerName, ContainerRecord};
use gpuctl_ledger::node::docker;
use gpuctl_ledger::rules::liveness::Files;

use super::api::Failure;
use super::context::Context;
use super::{journal, remove};

/// Removes the locks of names that have no container: each run that was given no name made one.
pub(super) fn idle_locks(ctx: &Context) -> Result<(), Failure> {
    let records: Vec<At<ContainerRecord>> = ctx.ledger.list(&ctx.ledger.keys().containers())?;
    let alive: BTreeSet<&str> = records
        .iter()
        .filter(|at| at.record.container.is_some())
        .map(|at| at.record.name.as_str())
        .collect();
    let Ok(entries) = std::fs::read_dir(ctx.config.paths.locks()) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(name) = ContainerName::new(name) else { continue };
        if alive.contains(name.as_str()) {
            continue;
        }
        // Held, somebody is just making it one. Nobody slips in: who finds the file gone takes another.
        if let Some(lock) = journal::try_lock(ctx, &name)? {
            lock.forget();
        }
    }
    Ok(())
}

/// Whether a container is in no file of Docker's.
pub(super) fn absent(ctx: &Context, id: &ContainerId) -> bool {
    docker::facts(&ctx.config.docker.root, id) == Files::Absent
}

/// What runs with --rm have left that ended.
pub(super) fn ended_runs(ctx: &Context) -> Result<(), Failure> {
    let keys = ctx.ledger.keys();
    let records: Vec<At<ContainerRecord>> = ctx.ledger.list(&keys.containers())?;
    let ended: Vec<(ContainerName, ContainerId)> = records
        .into_iter()
        .filter(|at| at.record.auto_remove)
        .filter_map(|at| Some((at.record.name, at.record.container?)))
        .filter(|(_, id)| absent(ctx, id))
        .collect();
    if ended.is_empty() || !our_engine(ctx)? {
        return Ok(());
    }
    for (name, id) in ended {
        remove::forget_ended(ctx, &name, &id)?;
    }
    Ok(())
}

/// Another Engine than ours has none of our containers: that proves nothing of them.
pub(super) fn our_engine(ctx: &Context) -> Result<bool, Failure> {
    Ok(std::path::Path::new(&ctx.docker()?.info()?.root) == ctx.config.docker.root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpuctl_ledger::ledger::Batch;

    #[test]
    fn locks_go_with_their_names_and_not_while_somebody_has_them() {
        let folder = tempfile::tempdir().unwrap();
        let ctx = Context::of_test(folder.path());
        let name = |text: &str| ContainerName::new(text).unwrap();
        for (text, id) in [("lives", Some("a".repeat(64))), ("gone", None)] {
            let record: ContainerRecord = serde_json::from_value(serde_json::json!({
                "schema": 1, "name": text, "version": 0, "container": id,
                "at": "2026-11-22T00:52:04.854Z",
            }))
            .unwrap();
            let mut batch = Batch::new();
            batch.put(ctx.ledger.keys().container(&record.name), &record);
            let _ = ctx.ledger.commit(&batch).unwrap();
        }
        for text in ["lives", "gone", "never"] {
            drop(journal::try_lock(&ctx, &name(text)).unwrap());
        }
        let held = journal::try_lock(&ctx, &name("new")).unwrap();
        idle_locks(&ctx).unwrap();
        let entries = std::fs::read_dir(ctx.config.paths.locks()).unwrap().flatten();
        let left: BTreeSet<String> =
            entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        assert_eq!(left, BTreeSet::from(["lives".to_owned(), "new".to_owned()]));
        drop(held);
    }
}

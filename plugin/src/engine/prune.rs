//! prune: kept layers and retired containers of older versions go, by age and number.
//!
//! One step of the journal, `remove`, with what is to be removed; finished, never undone.

use gpuctl_ledger::ledger::{At, Batch};
use gpuctl_ledger::model::{
    ByteSize, ContainerId, ContainerName, ContainerRecord, OperationKind, Timestamp, Version,
};
use serde::{Deserialize, Serialize};

use super::api::{Answer, Failure, Front, MoreAnswer, PruneRequest, PruneRow};
use super::context::Context;
use super::journal::{self, Journal};
use super::kept::{self, Kept, Stays};
use super::names;

/// One version's kept things.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Item {
    version: Version,
    container: Option<ContainerId>,
    layer: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Data {
    items: Vec<Item>,
}

/// What goes: all but the newest `keep`, of what is older than `before`. Pure.
fn chosen(mut kept: Vec<Kept>, keep: usize, before: Option<Timestamp>) -> Vec<Kept> {
    kept.sort_by_key(|k| k.version);
    kept.truncate(kept.len().saturating_sub(keep));
    kept.retain(|k| before.is_none_or(|before| k.since < before));
    kept
}

/// prune. What would go, or went, is in the answer.
///
/// # Errors
/// When ledger or Engine cannot be read, or one of the names is not there.
pub(super) fn prune(
    ctx: &Context,
    request: &PruneRequest,
    front: &mut dyn Front,
) -> Result<Answer, Failure> {
    let mut rows = Vec::new();
    for name in meant(ctx, &request.names)? {
        let of = |row: &PruneRow| row.name == name;
        match &request.only {
            None => rows.extend(found(ctx, &name, request)?),
            // Just what was shown: by now there may be more.
            Some(shown) if shown.iter().any(of) => {
                let _lock = journal::lock(ctx, &name, front)?;
                let mut now = found(ctx, &name, request)?;
                now.retain(|row| {
                    shown.iter().any(|s| {
                        (&s.name, s.version, s.container.as_ref(), s.layer)
                            == (&row.name, row.version, row.container.as_ref(), row.layer)
                    })
                });
                if now.is_empty() {
                    continue;
                }
                let items = now.iter().map(|row| Item {
                    version: row.version,
                    container: row.container.clone(),
                    layer: row.layer,
                });
                let data = Data { items: items.collect() };
                let kind = OperationKind::Prune;
                let journal = Journal::begin(ctx, &name, kind, front.user(), "remove", &data)?;
                finish(ctx, journal)?;
                rows.extend(now);
            }
            Some(_) => {}
        }
    }
    Ok(Answer::More(MoreAnswer::Pruned(rows)))
}

/// The names that are meant: those given, or all.
fn meant(ctx: &Context, texts: &[String]) -> Result<Vec<ContainerName>, Failure> {
    if texts.is_empty() {
        let all: Vec<At<ContainerRecord>> = ctx.ledger.list(&ctx.ledger.keys().containers())?;
        return Ok(all.into_iter().map(|at| at.record.name).collect());
    }
    let mut names = Vec::new();
    for text in texts {
        let name = names::record(ctx, text)?.record.name;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// What of a name goes.
fn found(
    ctx: &Context,
    name: &ContainerName,
    request: &PruneRequest,
) -> Result<Vec<PruneRow>, Failure> {
    let Some(At { record, .. }) = ctx.ledger.container(name)? else { return Ok(Vec::new()) };
    let versions = kept::versions(ctx, name)?;
    let mut there = Vec::new();
    for mut item in kept::of_records(&versions, record.version, record.container.as_ref()) {
        let shown = match &item.container {
            Some(id) => ctx.docker()?.inspect_with_size(id.as_str())?,
            None => None,
        };
        // What runs all the same is not for us to take away.
        let shown = shown.filter(|shown| !shown.running());
        if shown.is_none() {
            item.container = None;
        }
        if item.container.is_some() || item.layer.is_some() {
            there.push((item, shown));
        }
    }
    let going =
        chosen(there.iter().map(|(item, _)| item.clone()).collect(), request.keep, request.before);
    let row = |(item, shown): (Kept, Option<crate::docker::Inspect>)| {
        let written = shown.as_ref().map_or(0, crate::docker::Inspect::written);
        let layer = item.layer.as_ref().map_or(0, |layer| layer.bytes.0);
        PruneRow {
            name: name.clone(),
            version: item.version,
            since: item.since,
            docker_name: shown.map(|shown| shown.name().to_owned()),
            container: item.container,
            layer: item.layer.is_some(),
            bytes: ByteSize(written + layer),
        }
    };
    Ok(there.into_iter().filter(|(item, _)| going.contains(item)).map(row).collect())
}

/// Removes what the journal says: also what recovery does.
fn finish(ctx: &Context, journal: Journal) -> Result<(), Failure> {
    let data: Data = journal.data()?;
    let name = journal.operation.name.clone();
    let outcome = data.items.iter().try_for_each(|item| -> Result<(), Stays> {
        if let Some(id) = &item.container {
            kept::remove_container(ctx, id)?;
        }
        if item.layer {
            kept::remove_layer(ctx, &name, item.version)?;
        }
        Ok(())
    });
    // What Docker or the disk keeps is kept, and is found again the next time.
    let kept = outcome.err().map(Stays::kept).transpose()?;
    journal.finish(ctx, Batch::new())?;
    kept.map_or(Ok(()), Err)
}

/// Ends a prune that was broken off.
///
/// # Errors
/// When it cannot be brought to an end now.
pub(super) fn recover(ctx: &Context, journal: Journal) -> Result<String, Failure> {
    let name = journal.operation.name.clone();
    finish(ctx, journal)?;
    Ok(format!("an earlier prune of {name} was broken off: it is done"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay_and_so_do_the_young() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
        let kept = |n: u32| Kept {
            version: Version(n),
            since: at(i64::from(n) * 10),
            container: None,
            layer: None,
        };
        let all = || vec![kept(3), kept(0), kept(1)];
        let of = |keep, before| {
            chosen(all(), keep, before).iter().map(|k| k.version.0).collect::<Vec<_>>()
        };
        assert_eq!(of(0, None), [0, 1, 3]);
        assert_eq!(of(1, None), [0, 1]);
        assert_eq!(of(9, None), [0; 0]);
        assert_eq!(of(0, Some(at(30))), [0, 1]);
        assert_eq!(of(2, Some(at(30))), [0]);
        assert_eq!(of(0, Some(at(0))), [0; 0]);
    }
}

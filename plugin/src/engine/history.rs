//! history and diff: nothing here changes anything.

use std::collections::BTreeSet;

use gpuctl_ledger::model::{ContainerRecord, DockerName, Version, VersionRecord};
use serde_json::Value;

use super::api::{Answer, Diff, DiffRequest, Failure, Files, HistoryRow};
use super::context::Context;
use super::kept::{self, Kept};
use super::names;
use crate::change::{Difference, differences};

/// history.
///
/// # Errors
/// The ledger's and the Engine's.
pub(super) fn history(ctx: &Context, name: &str) -> Result<Answer, Failure> {
    let record = record(ctx, name)?;
    let versions = kept::versions(ctx, &record.name)?;
    let kept = kept::of_records(&versions, record.version, record.container.as_ref());
    let there: BTreeSet<String> = match kept.iter().any(|k| k.container.is_some()) {
        true => ctx.docker()?.list(true)?.into_iter().map(|row| row.id).collect(),
        false => BTreeSet::new(),
    };
    let mut rows = Vec::new();
    let mut before: Option<&VersionRecord> = None;
    for v in &versions {
        let current = v.version == record.version && record.container.is_some();
        let of = kept.iter().find(|k| k.version == v.version);
        rows.push(HistoryRow {
            current,
            version: v.version,
            at: v.at,
            by: v.by.clone(),
            why: v.why.clone(),
            gpus: v.gpus.clone(),
            image: image(&v.spec),
            how: v.how,
            changes: before.map(|before| between(before, v)).unwrap_or_default(),
            files: if current { Files::Current } else { files(of, &there) },
        });
        before = Some(v);
    }
    Ok(Answer::History(rows))
}

/// In what two versions differ; where the spec of one was not kept, in their GPUs.
fn between(before: &VersionRecord, after: &VersionRecord) -> Vec<Difference> {
    let (is, to_be) = match before.spec.is_null() || after.spec.is_null() {
        true => (&Value::Null, &Value::Null),
        false => (&before.spec, &after.spec),
    };
    differences((is, &before.gpus), (to_be, &after.gpus))
}

/// Where the files of an older version can be had, of containers that are `there`.
fn files(kept: Option<&Kept>, there: &BTreeSet<String>) -> Files {
    let container = kept.and_then(|k| k.container.as_ref());
    match (kept.and_then(|k| k.layer.as_ref()), container) {
        (Some(layer), _) => Files::Snapshot { bytes: layer.bytes },
        (None, Some(id)) if there.contains(id.as_str()) => Files::Container,
        _ => Files::None,
    }
}

/// diff.
///
/// # Errors
/// When there is no such version, or its spec was not kept.
pub(super) fn diff(ctx: &Context, request: &DiffRequest) -> Result<Answer, Failure> {
    let record = record(ctx, &request.name)?;
    let versions = kept::versions(ctx, &record.name)?;
    let to = request.to.unwrap_or(record.version);
    let from = match request.from {
        Some(from) => from,
        None => {
            versions.iter().map(|v| v.version).filter(|v| *v < to).max().ok_or_else(|| {
                Failure::new(format!("{} has no version before {to}", record.name))
            })?
        }
    };
    let of = |version: Version| -> Result<&VersionRecord, Failure> {
        let found = versions.iter().find(|v| v.version == version).ok_or_else(|| {
            Failure::new(format!("{} has no version {version}", record.name))
                .hint(format!("docker gpuctl history {} shows them", record.name))
        })?;
        if found.spec.is_null() {
            return Err(Failure::new(format!(
                "of version {version} of {} no spec was kept",
                record.name
            )));
        }
        Ok(found)
    };
    let differences = between(of(from)?, of(to)?);
    Ok(Answer::Diff(Diff { name: record.name, from, to, differences }))
}

/// The record that a name means; an older version's name is as good here as the current one's.
fn record(ctx: &Context, name: &str) -> Result<ContainerRecord, Failure> {
    let found = match DockerName::split(name) {
        Some((base, _)) if names::record(ctx, name).is_err() => names::record(ctx, base.as_str())?,
        _ => names::record(ctx, name)?,
    };
    Ok(found.record)
}

fn image(spec: &Value) -> String {
    spec.pointer("/Config/Image").and_then(Value::as_str).unwrap_or_default().to_owned()
}

//! history and diff: nothing here changes anything.

use gpuctl_ledger::model::{ContainerRecord, DockerName, GpuRequest, Version, VersionRecord};
use serde_json::Value;

use super::api::{Answer, Diff, DiffRequest, Failure, Files, HistoryRow};
use super::context::Context;
use super::{kept, names};
use crate::change::differences;

/// history.
///
/// # Errors
/// The ledger's and the Engine's.
pub(super) fn history(ctx: &Context, name: &str) -> Result<Answer, Failure> {
    let record = record(ctx, name)?;
    let versions = kept::versions(ctx, &record.name)?;
    let nothing = (Value::Null, GpuRequest::None);
    let mut rows = Vec::new();
    let mut before: Option<&VersionRecord> = None;
    for v in &versions {
        let changes = match before.filter(|b| !b.spec.is_null() && !v.spec.is_null()) {
            Some(b) => differences((&b.spec, &b.gpus), (&v.spec, &v.gpus)),
            None if before.is_some() => differences(
                (&nothing.0, &before.map(|b| b.gpus.clone()).unwrap_or_default()),
                (&nothing.0, &v.gpus),
            ),
            None => Vec::new(),
        };
        let current = v.version == record.version && record.container.is_some();
        rows.push(HistoryRow {
            current,
            version: v.version,
            at: v.at,
            by: v.by.clone(),
            why: v.why.clone(),
            gpus: v.gpus.clone(),
            image: image(&v.spec),
            how: v.how,
            changes,
            files: files(ctx, v, current, &versions)?,
        });
        before = Some(v);
    }
    Ok(Answer::History(rows))
}

/// Where the files of a version can be had.
fn files(
    ctx: &Context,
    version: &VersionRecord,
    current: bool,
    versions: &[VersionRecord],
) -> Result<Files, Failure> {
    if current {
        return Ok(Files::Current);
    }
    if let Some(layer) = &version.layer {
        return Ok(Files::Snapshot { bytes: layer.bytes });
    }
    // A container that went on as a later version has that one's files.
    let last =
        versions.iter().filter(|v| v.container == version.container).map(|v| v.version).max();
    let own = last == Some(version.version);
    let there = own && ctx.docker()?.inspect(version.container.as_str())?.is_some();
    Ok(if there { Files::Container } else { Files::None })
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
    let (a, b) = (of(from)?, of(to)?);
    let differences = differences((&a.spec, &a.gpus), (&b.spec, &b.gpus));
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

//! rollback: a new version with the spec of an older one.

use std::collections::BTreeSet;
use std::path::PathBuf;

use gpuctl_ledger::model::{ContainerId, ContainerName, Version, VersionRecord};

use super::api::{Answer, Failure, Front, RollbackRequest};
use super::context::Context;
use super::layers::{self, Source};
use super::{change, kept, ports, volume};

/// Brings a container to what it was at an older version.
///
/// # Errors
/// [`Failure`]; then it is as it was, or the failure says what is not.
pub(super) fn rollback(
    ctx: &Context,
    request: &RollbackRequest,
    front: &mut dyn Front,
) -> Result<Answer, Failure> {
    let subject = change::subject(ctx, &request.name, front)?;
    let name = subject.found.record.record.name.clone();
    let current = subject.found.record.record.version;
    let record = &wanted(ctx, &name, current, request.version)?;
    let wanted = record.version;
    if record.spec.is_null() {
        return Err(Failure::new(format!("of version {wanted} of {name} no spec was kept"))
            .hint(format!("docker gpuctl history {name} shows the others")));
    }
    volume::swap::check_there(ctx, &record.spec, &format!("version {wanted} of {name}"))?;
    let files = match request.files {
        false => None,
        true => Some(source(ctx, record, &subject.found.id)?),
    };
    // A port that was given back meanwhile is claimed anew: the same one where it is free.
    let range = ctx.config.ports.range;
    let kept: BTreeSet<u16> = ports::of(ctx, &name)?.into_iter().map(|at| at.record.port).collect();
    let has = ports::spec::wanted(&subject.is, |_| true, true);
    let has: BTreeSet<u16> = has.into_iter().filter_map(|auto| auto.wish).collect();
    let lost = |port: u16| {
        (range.first..=range.last).contains(&port) && !kept.contains(&port) && !has.contains(&port)
    };
    let (spec, ports) = ports::spec::lost(&record.spec, lost);
    let target = change::Target {
        new_image: false,
        asked_gpus: false,
        spec,
        gpus: record.gpus.clone(),
        ports,
        called: Some(format!(
            "rollback to {wanted}{}",
            if request.files { " with its files" } else { "" }
        )),
        files,
    };
    change::bring(ctx, &subject, target, &request.how, front)
}

/// The record of the version that is asked for, or of the one before the current.
fn wanted(
    ctx: &Context,
    name: &ContainerName,
    current: Version,
    asked: Option<Version>,
) -> Result<VersionRecord, Failure> {
    let versions = kept::versions(ctx, name)?;
    let hint = format!("docker gpuctl history {name} shows them");
    let wanted = match asked {
        Some(version) => version,
        None => before(&versions, current).ok_or_else(|| {
            Failure::new(format!("{name} has no version before {current}")).hint(hint.clone())
        })?,
    };
    let found = versions.into_iter().find(|v| v.version == wanted);
    found.ok_or_else(|| Failure::new(format!("{name} has no version {wanted}")).hint(hint))
}

/// The version before the current one.
fn before(versions: &[VersionRecord], current: Version) -> Option<Version> {
    versions.iter().map(|v| v.version).filter(|v| *v < current).max()
}

/// Where the files of a version are kept.
fn source(ctx: &Context, record: &VersionRecord, current: &ContainerId) -> Result<Source, Failure> {
    let version = record.version;
    if let Some(layer) = &record.layer {
        let upper = PathBuf::from(&layer.path);
        if upper.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            let words = format!("the snapshot of version {version}");
            return Ok(Source { upper, kept: true, words });
        }
    }
    if record.container != *current
        && let Some(shown) = ctx.docker()?.inspect(record.container.as_str())?
        && let Ok(docker_name) = gpuctl_ledger::model::DockerName::new(shown.name())
        && let Some(upper) = layers::upper(ctx, &record.container, &shown, &docker_name)?
    {
        let words = format!("the files of {docker_name}");
        return Ok(Source { upper, kept: false, words });
    }
    let name = &record.name;
    Err(Failure::new(format!("the files of version {version} of {name} were not kept")).hint(
        format!(
            "docker gpuctl history {name} shows whose were; without --files the files of now stay"
        ),
    ))
}

//! Which volume does a user mean?

use gpuctl_ledger::ledger::At;
use gpuctl_ledger::model::{Version, VolumeName, VolumeRecord, VolumeVersionRecord};

use super::super::api::Failure;
use super::super::context::Context;

/// A volume that is there, and its current version.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Its record.
    pub(super) record: At<VolumeRecord>,
    /// Its current version's.
    pub(super) version: At<VolumeVersionRecord>,
}

fn unknown(text: &str) -> Failure {
    let shown: String = text.chars().filter(|c| !c.is_control()).take(80).collect();
    Failure::new(format!("no volume {shown} in the ledger of this node")).hint(
        "docker gpuctl volume ls lists them; docker gpuctl volume adopt takes one of Docker's in",
    )
    .not_there()
}

/// The record of a volume by its name.
///
/// # Errors
/// The ledger's.
pub(super) fn by_name(
    ctx: &Context,
    name: &VolumeName,
) -> Result<Option<At<VolumeRecord>>, Failure> {
    Ok(ctx.ledger.get(&ctx.ledger.keys().volume(name))?)
}

/// The record that `data` or `data-N` names.
///
/// # Errors
/// When there is none, or N is not the current version.
pub(super) fn record(ctx: &Context, text: &str) -> Result<At<VolumeRecord>, Failure> {
    if let Ok(name) = VolumeName::new(text)
        && let Some(found) = by_name(ctx, &name)?
    {
        return Ok(found);
    }
    let Some((name, version)) = VolumeName::split(text) else { return Err(unknown(text)) };
    let Some(found) = by_name(ctx, &name)? else { return Err(unknown(text)) };
    let current = found.record.version;
    if version > current {
        return Err(Failure::new(format!("{name} has no version {version}, it is at {current}"))
            .hint(format!("docker gpuctl volume history {name} shows its versions")));
    }
    if version < current {
        return Err(Failure::new(format!(
            "{name}-{version} is an older version: {name} is at {current}"
        ))
        .hint(format!("say {name}, or {}", name.at(current))));
    }
    Ok(found)
}

/// The record of one version.
///
/// # Errors
/// The ledger's, and where there is none.
pub(super) fn version(
    ctx: &Context,
    name: &VolumeName,
    version: Version,
) -> Result<At<VolumeVersionRecord>, Failure> {
    ctx.ledger.get(&ctx.ledger.keys().volume_version(name, version))?.ok_or_else(|| {
        Failure::new(format!("no record of {name} at version {version} in the ledger of this node"))
            .hint(format!("docker gpuctl volume history {name} shows its versions"))
    })
}

/// All versions of a volume, oldest first.
///
/// # Errors
/// The ledger's.
pub(super) fn versions(
    ctx: &Context,
    name: &VolumeName,
) -> Result<Vec<At<VolumeVersionRecord>>, Failure> {
    Ok(ctx.ledger.list(&ctx.ledger.keys().volume_versions(name))?)
}

/// All volumes of the node.
///
/// # Errors
/// The ledger's.
pub(super) fn all(ctx: &Context) -> Result<Vec<At<VolumeRecord>>, Failure> {
    Ok(ctx.ledger.list(&ctx.ledger.keys().volumes())?)
}

/// The volume that `data` or `data-N` names, which is there by its record.
///
/// # Errors
/// As [`record`], and when only its history is left.
pub(super) fn existing(ctx: &Context, text: &str) -> Result<Found, Failure> {
    let record = record(ctx, text)?;
    let name = &record.record.name;
    if record.record.docker_name.is_none() {
        return Err(Failure::new(format!("volume {name} was removed; its history is left")).hint(
            format!("docker gpuctl volume rollback {name} VERSION makes it anew from a version that is still there"),
        ));
    }
    let version = version(ctx, name, record.record.version)?;
    Ok(Found { version, record })
}

/// Refuses a new name that would be mistaken for a version of another, or the other way round.
///
/// # Errors
/// When it would.
pub(super) fn check_new(ctx: &Context, name: &VolumeName) -> Result<(), Failure> {
    if let Some((base, _)) = VolumeName::split(name.as_str())
        && by_name(ctx, &base)?.is_some()
    {
        return Err(Failure::new(format!("the name {name} is that of a version of volume {base}"))
            .hint("take another name"));
    }
    for other in all(ctx)? {
        let other = other.record.name;
        if VolumeName::split(other.as_str()).is_some_and(|(base, _)| base == *name) {
            return Err(Failure::new(format!(
                "versions of {name} would be mistaken for volume {other}"
            ))
            .hint("take another name"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpuctl_ledger::ledger::Batch;

    #[test]
    fn a_volume_is_meant_by_its_name_or_its_current_version() {
        let folder = tempfile::tempdir().unwrap();
        let ctx = Context::of_test(folder.path());
        for (name, docker_name) in
            [("data", Some("data-2")), ("gone", None), ("ab-1", Some("ab-1-2"))]
        {
            let record: VolumeRecord = serde_json::from_value(serde_json::json!({
                "schema": 1, "name": name, "version": 2, "docker_name": docker_name,
                "at": "2026-11-22T00:52:04.854Z",
            }))
            .unwrap();
            let mut batch = Batch::new();
            batch.put(ctx.ledger.keys().volume(&record.name), &record);
            let _ = ctx.ledger.commit(&batch).unwrap();
        }
        for (text, name) in
            [("data", "data"), ("data-2", "data"), ("gone", "gone"), ("ab-1", "ab-1")]
        {
            assert_eq!(record(&ctx, text).unwrap().record.name.as_str(), name, "{text}");
        }
        let why = |text: &str| record(&ctx, text).unwrap_err().message;
        assert_eq!(why("data-1"), "data-1 is an older version: data is at 2");
        assert_eq!(why("data-3"), "data has no version 3, it is at 2");
        assert!(why("other").starts_with("no volume other"));
        assert!(existing(&ctx, "gone").unwrap_err().message.contains("was removed"));
        let name = |text: &str| VolumeName::new(text).unwrap();
        assert!(check_new(&ctx, &name("data-7")).is_err());
        // Its version 1 would be taken for the volume ab-1.
        assert!(check_new(&ctx, &name("ab")).is_err());
        assert!(check_new(&ctx, &name("fresh")).is_ok());
    }
}

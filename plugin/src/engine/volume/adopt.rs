//! volume adopt: a volume that `docker volume create` made becomes one of ours, as it is. One commit;
//! nothing of the volume is touched.

use gpuctl_ledger::ledger::Batch;
use gpuctl_ledger::model::{
    Backend, ByteSize, SCHEMA, Timestamp, Version, VolumeName, VolumeRecord, VolumeVersionRecord,
};
use gpuctl_ledger::store::Outcome;
use serde_json::Value;

use super::super::api::{Failure, Front, VolumeAnswer};
use super::super::context::Context;
use super::{find, journal};

/// Takes a volume in.
///
/// # Errors
/// [`Failure`]; then nothing was changed.
pub(super) fn adopt(
    ctx: &Context,
    docker_name: &str,
    name: Option<VolumeName>,
    front: &mut dyn Front,
) -> Result<VolumeAnswer, Failure> {
    let name = match name {
        Some(name) => name,
        // `data-0` of an older tool is data at version 0.
        None => match VolumeName::split(docker_name) {
            Some((base, _)) => base,
            None => VolumeName::new(docker_name).map_err(|e| {
                Failure::new(e.to_string()).hint("docker gpuctl volume adopt VOLUME --name NAME")
            })?,
        },
    };
    let lock = journal::lock(ctx, &name, front)?;
    let Some(shown) = ctx.docker()?.volume(docker_name)? else {
        return Err(Failure::new(format!("Docker has no volume {docker_name}"))
            .hint("docker volume ls lists them"));
    };
    check_shape(docker_name, &shown)?;
    let before = find::by_name(ctx, &name)?;
    if let Some(current) = before.as_ref().and_then(|at| at.record.docker_name.clone()) {
        return Err(Failure::new(format!("the name {name} is in use by volume {current}"))
            .hint(format!("docker gpuctl volume adopt {docker_name} --name ANOTHER")));
    }
    if before.is_none() {
        find::check_new(ctx, &name)?;
    }
    for other in find::all(ctx)? {
        for version in find::versions(ctx, &other.record.name)? {
            if version.record.docker_name == docker_name {
                let of = &other.record.name;
                return Err(Failure::new(format!(
                    "{docker_name} is a version of volume {of} already"
                ))
                .hint(format!("docker gpuctl volume history {of} shows its versions")));
            }
        }
    }
    let own = VolumeName::split(docker_name).filter(|(base, _)| *base == name).map(|(_, v)| v);
    let version = match (&before, own) {
        (None, own) => own.unwrap_or(Version(0)),
        (Some(at), Some(own)) if own > at.record.version => own,
        (Some(at), _) => at.record.version.next(),
    };
    let size = shown.pointer("/Options/size").and_then(Value::as_str);
    let size = size.and_then(|text| ByteSize::parse(text).ok()).filter(|size| size.0 > 0);
    let backend = if size.is_some() { Backend::Size } else { Backend::Plain };
    let now = Timestamp::now();
    let by = front.user();
    let record = VolumeRecord {
        schema: SCHEMA,
        name: name.clone(),
        version,
        docker_name: Some(docker_name.to_owned()),
        owner: by.clone(),
        at: now,
    };
    let of_version = VolumeVersionRecord {
        schema: SCHEMA,
        name: name.clone(),
        version,
        docker_name: docker_name.to_owned(),
        size,
        backend,
        detail: Value::Null,
        at: now,
        by,
        why: "adopt".to_owned(),
        spec: shown,
    };
    let keys = ctx.ledger.keys();
    let mut batch = Batch::new();
    let key = keys.volume(&name);
    batch.unchanged(key.clone(), before.map(|at| at.revision)).put(key, &record);
    batch.put(keys.volume_version(&name, version), &of_version);
    if ctx.ledger.commit(&batch)? == Outcome::Conflict {
        return Err(Failure::new(format!("the records of volume {name} were changed meanwhile"))
            .hint("try again"));
    }
    drop(lock);
    let limit = size.map_or_else(
        || format!("nothing keeps it to a size until docker gpuctl volume resize {name} SIZE"),
        |size| format!("it has room for {size}"),
    );
    let summary = format!("{docker_name} is volume {name} at version {version}; {limit}");
    Ok(VolumeAnswer::Made { docker_name: docker_name.to_owned(), summary })
}

/// Only what is in a folder of Docker's own can be copied and measured while nothing mounts it.
fn check_shape(docker_name: &str, shown: &Value) -> Result<(), Failure> {
    let driver = shown["Driver"].as_str().unwrap_or_default();
    let elsewhere = |key: &str| shown.pointer(&format!("/Options/{key}")).is_some_and(|v| v != "");
    if driver == "local" && !elsewhere("device") && !elsewhere("type") {
        return Ok(());
    }
    let what = if driver == "local" {
        "a mount of something else".to_owned()
    } else {
        format!("of driver {driver}")
    };
    Err(Failure::new(format!(
        "{docker_name} is {what}: only volumes in Docker's own folder are taken in"
    ))
    .hint("docker gpuctl volume create makes one, into which its content can be copied"))
}

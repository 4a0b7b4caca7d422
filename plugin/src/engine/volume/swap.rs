//! Which volumes of Docker do the two names of `update --volume OLD:NEW` mean?

use std::collections::BTreeSet;

use gpuctl_ledger::model::VolumeName;
use serde_json::Value;

use super::super::api::Failure;
use super::super::context::Context;
use super::find;

/// The two by their names in Docker. OLD is what is mounted, or the version of a volume of ours that is;
/// NEW is the current version of a volume of ours, or a volume of Docker's, or a path of the host.
///
/// # Errors
/// When there is no such volume: Docker would make an empty one.
pub(in crate::engine) fn meant(
    ctx: &Context,
    is: &Value,
    (old, new): (&str, &str),
) -> Result<(String, String), Failure> {
    Ok((mounted(ctx, is, old)?, to_mount(ctx, new)?))
}

/// Refuses a spec of before that mounts a volume by a name which Docker has not any more: it would make an
/// empty one, without a limit. One with a driver's options is made anew of them.
///
/// # Errors
/// As said, and the Engine's.
pub(in crate::engine) fn check_there(
    ctx: &Context,
    spec: &Value,
    whose: &str,
) -> Result<(), Failure> {
    for name in named(spec) {
        if ctx.docker()?.volume(&name)?.is_some() {
            continue;
        }
        let hint = match VolumeName::split(&name) {
            Some((ours, _)) if find::by_name(ctx, &ours)?.is_some() => format!(
                "docker gpuctl volume history {ours} shows which versions are there; \
                 docker volume create {name} makes an empty one, without a limit"
            ),
            _ => format!("docker volume create {name} makes an empty one, if that will do"),
        };
        return Err(Failure::new(format!(
            "{whose} mounts volume {name}, which is not there any more: Docker would make an empty one"
        ))
        .hint(hint));
    }
    Ok(())
}

/// The volumes that a spec names. Pure.
fn named(spec: &Value) -> BTreeSet<String> {
    let list =
        |pointer: &str| spec.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    let binds = list("/HostConfig/Binds").filter_map(|bind| bind.as_str()?.split(':').next());
    let mounts = list("/HostConfig/Mounts").filter(|mount| {
        mount.get("Type").and_then(Value::as_str) == Some("volume")
            && mount.pointer("/VolumeOptions/DriverConfig").is_none_or(Value::is_null)
    });
    let mounts = mounts.filter_map(|mount| mount.get("Source")?.as_str());
    binds
        .chain(mounts)
        .filter(|name| !name.is_empty() && !name.starts_with('/'))
        .map(str::to_owned)
        .collect()
}

fn mounted(ctx: &Context, is: &Value, old: &str) -> Result<String, Failure> {
    let mounts = is.get("Mounts").and_then(Value::as_array).into_iter().flatten();
    let names: BTreeSet<&str> =
        mounts.filter_map(|mount| mount.get("Name")?.as_str()).filter(|n| !n.is_empty()).collect();
    let Ok(name) = VolumeName::new(old) else { return Ok(old.to_owned()) };
    if names.contains(old) || find::by_name(ctx, &name)?.is_none() {
        return Ok(old.to_owned());
    }
    let versions = find::versions(ctx, &name)?;
    let here: Vec<&str> = versions
        .iter()
        .map(|at| at.record.docker_name.as_str())
        .filter(|name| names.contains(name))
        .collect();
    match here.as_slice() {
        [] => Ok(old.to_owned()),
        [one] => Ok((*one).to_owned()),
        several => {
            Err(Failure::new(format!("--volume {old}:...: {} are mounted", several.join(", ")))
                .hint(format!("say which one, as {}", several.join(" or "))))
        }
    }
}

fn to_mount(ctx: &Context, new: &str) -> Result<String, Failure> {
    if new.starts_with('/') {
        return Ok(new.to_owned());
    }
    if let Ok(name) = VolumeName::new(new)
        && let Some(found) = find::by_name(ctx, &name)?
    {
        return found.record.docker_name.ok_or_else(|| {
            Failure::new(format!("volume {name} was removed; its history is left")).hint(format!(
                "docker gpuctl volume rollback {name} VERSION makes it anew from a version that is still there"
            ))
        });
    }
    if ctx.docker()?.volume(new)?.is_some() {
        return Ok(new.to_owned());
    }
    Err(Failure::new(format!("there is no volume {new}")).hint(format!(
        "docker gpuctl volume create {new} --size 20GB makes one with a size, docker volume create {new} one without"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpuctl_ledger::ledger::Batch;
    use serde_json::json;

    #[test]
    fn what_a_spec_names_is_no_path_and_nothing_that_a_driver_makes() {
        let spec = json!({"HostConfig": {"Binds": ["data-0:/data:ro", "/srv:/srv"], "Mounts": [
            {"Type": "volume", "Source": "sets", "Target": "/sets"},
            {"Type": "volume", "Target": "/none"},
            {"Type": "bind", "Source": "/a", "Target": "/a"},
            {"Type": "volume", "Source": "nfs", "Target": "/n", "VolumeOptions": {"DriverConfig": {"Name": "local"}}},
        ]}});
        assert_eq!(named(&spec).into_iter().collect::<Vec<_>>(), ["data-0", "sets"]);
    }

    #[test]
    fn a_volume_of_ours_is_its_version_that_is_mounted_and_its_current_one() {
        let folder = tempfile::tempdir().unwrap();
        let ctx = Context::of_test(folder.path());
        let name = VolumeName::new("data").unwrap();
        let mut batch = Batch::new();
        let record: gpuctl_ledger::model::VolumeRecord = serde_json::from_value(json!({
            "schema": 1, "name": "data", "version": 2, "docker_name": "data-2",
            "at": "2026-11-22T00:52:04.854Z",
        }))
        .unwrap();
        batch.put(ctx.ledger.keys().volume(&name), &record);
        for version in 0..3_u64 {
            let record = json!({"schema": 1, "name": "data", "version": version,
                "docker_name": format!("data-{version}"), "backend": "image", "size": 1 << 30,
                "detail": null, "at": "2026-11-22T00:52:04.854Z", "why": "create", "spec": null});
            let record: gpuctl_ledger::model::VolumeVersionRecord =
                serde_json::from_value(record).unwrap();
            batch.put(ctx.ledger.keys().volume_version(&name, record.version), &record);
        }
        let _ = ctx.ledger.commit(&batch).unwrap();
        let is = |names: &[&str]| {
            let mounts: Vec<Value> = names.iter().map(|name| json!({"Name": name})).collect();
            json!({ "Mounts": mounts })
        };
        let of = |names: &[&str], old: &str| mounted(&ctx, &is(names), old).unwrap();
        assert_eq!(of(&["data-0", "x"], "data"), "data-0");
        assert_eq!(of(&["data"], "data"), "data", "what is mounted under that very name");
        assert_eq!(of(&["x"], "data"), "data");
        assert_eq!(of(&["x"], "x"), "x");
        assert!(mounted(&ctx, &is(&["data-0", "data-1"]), "data").is_err());
        assert_eq!(to_mount(&ctx, "data").unwrap(), "data-2");
        assert_eq!(to_mount(&ctx, "/srv/x").unwrap(), "/srv/x");
    }
}

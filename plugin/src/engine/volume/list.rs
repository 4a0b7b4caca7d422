//! volume ls, inspect, history, backends.

use std::collections::BTreeMap;

use gpuctl_ledger::model::{Backend, ByteSize, VolumeVersionRecord};
use serde_json::{Value, json};

use super::super::api::{BackendRow, VolumeRow, VolumeVersionRow};
use super::super::api::{Failure, VolumeAnswer};
use super::super::context::Context;
use super::{find, observe};
use crate::docker::User;
use crate::volume::{Spec, usage};

/// Docker's volumes by name, and all mounts of volumes: one look for any number of ours.
struct Docker {
    volumes: BTreeMap<String, Value>,
    users: Vec<User>,
}

fn docker(ctx: &Context) -> Result<Docker, Failure> {
    let volumes = ctx.docker()?.volumes()?;
    let named = |v: Value| Some((v["Name"].as_str()?.to_owned(), v));
    Ok(Docker {
        volumes: volumes.into_iter().filter_map(named).collect(),
        users: ctx.docker()?.volume_users()?,
    })
}

impl Docker {
    fn users(&self, docker_name: &str) -> Vec<User> {
        self.users.iter().filter(|u| u.volume == docker_name).cloned().collect()
    }
}

/// What is used of a version, and what is wrong with it; nothing is mounted for it.
fn state(
    ctx: &Context,
    docker: &Docker,
    version: &VolumeVersionRecord,
) -> (Option<ByteSize>, Option<String>) {
    let Some(shown) = docker.volumes.get(&version.docker_name) else {
        return (None, Some("removed outside gpuctl".to_owned()));
    };
    if !observe::is_same(version, shown) {
        return (None, Some("another volume has its name in Docker".to_owned()));
    }
    let used = match Spec::of(version) {
        Some(spec) => {
            let sizing = observe::sizing(ctx, version.backend);
            match sizing.and_then(|sizing| sizing.usage(&spec)) {
                Ok(Some(usage)) => Some(usage.used),
                Ok(None) => return (None, Some("not mounted".to_owned())),
                Err(why) => return (None, Some(why.message)),
            }
        }
        None => shown["Mountpoint"].as_str().and_then(|p| usage::of_tree(p.as_ref()).ok()),
    };
    (used, None)
}

/// volume ls.
///
/// # Errors
/// When ledger or Engine cannot be asked.
pub(super) fn rows(ctx: &Context) -> Result<VolumeAnswer, Failure> {
    let docker = docker(ctx)?;
    let mut rows = Vec::new();
    for at in find::all(ctx)? {
        let record = at.record;
        let Some(docker_name) = record.docker_name else { continue };
        let version = find::version(ctx, &record.name, record.version)?.record;
        let (used, fault) = state(ctx, &docker, &version);
        rows.push(VolumeRow {
            containers: observe::names(&docker.users(&docker_name)),
            name: record.name,
            version: record.version,
            docker_name,
            size: version.size,
            used,
            backend: version.backend,
            owner: record.owner,
            since: record.at,
            fault,
        });
    }
    Ok(VolumeAnswer::Rows(rows))
}

/// volume inspect.
///
/// # Errors
/// When one of them is not there.
pub(super) fn inspect(ctx: &Context, names: &[String]) -> Result<VolumeAnswer, Failure> {
    let docker = docker(ctx)?;
    let mut objects = Vec::new();
    for text in names {
        let found = find::existing(ctx, text)?;
        let version = &found.version.record;
        let (used, fault) = state(ctx, &docker, version);
        let users = docker.users(&version.docker_name);
        let users: Vec<Value> = users
            .iter()
            .map(|u| json!({"name": u.name, "id": u.id, "running": u.running, "writes": u.writes}))
            .collect();
        let mut record = serde_json::to_value(version).unwrap_or_default();
        if let Some(record) = record.as_object_mut() {
            // It is shown beside it as it is now.
            record.remove("spec");
        }
        objects.push(json!({
            "name": found.record.record.name,
            "version": version.version,
            "docker_name": version.docker_name,
            "size": version.size,
            "used": used,
            "on_disk": observe::on_disk(ctx, version),
            "backend": version.backend,
            "owner": found.record.record.owner,
            "fault": fault,
            "containers": users,
            "record": record,
            "docker": docker.volumes.get(&version.docker_name),
        }));
    }
    Ok(VolumeAnswer::Inspect(objects))
}

/// volume history: also of one that was removed.
///
/// # Errors
/// When there is no such volume.
pub(super) fn history(ctx: &Context, text: &str) -> Result<VolumeAnswer, Failure> {
    let record = find::record(ctx, text)?.record;
    let docker = docker(ctx)?;
    let rows = find::versions(ctx, &record.name)?.into_iter().map(|at| {
        let version = at.record;
        let shown = docker.volumes.get(&version.docker_name);
        let present = shown.is_some_and(|shown| observe::is_same(&version, shown));
        // An image outlives its volume in Docker.
        let there = present || version.backend == Backend::Image;
        VolumeVersionRow {
            version: version.version,
            current: record.docker_name.is_some() && version.version == record.version,
            present,
            on_disk: there.then(|| observe::on_disk(ctx, &version)).flatten(),
            docker_name: version.docker_name,
            size: version.size,
            backend: version.backend,
            at: version.at,
            by: version.by,
            why: version.why,
        }
    });
    Ok(VolumeAnswer::History(rows.collect()))
}

/// volume backends.
pub(super) fn backends(ctx: &Context) -> VolumeAnswer {
    let can = observe::abilities(ctx);
    let config = &ctx.config;
    let preferred = can.preferred(config.volumes.backend);
    let (root, images) = (&config.docker.root, &config.volumes.images);
    let filesystem = match config.volumes.filesystem {
        gpuctl_ledger::config::ImageFilesystem::Ext4 => "ext4",
        gpuctl_ledger::config::ImageFilesystem::Xfs => "xfs",
    };
    let free = |path: &std::path::Path| {
        let there = path.ancestors().find(|p| p.exists())?;
        Some(ByteSize(usage::free(there).ok()?.0))
    };
    let row = |backend, how, free| BackendRow {
        backend,
        preferred: preferred == Some(backend),
        why_not: can.why_not(backend).map(str::to_owned),
        how,
        free,
    };
    VolumeAnswer::Backends(vec![
        row(Backend::Size, format!("quotas of xfs in {}", root.display()), free(root)),
        row(
            Backend::Image,
            format!("files with {filesystem} in {}", images.display()),
            free(images),
        ),
    ])
}

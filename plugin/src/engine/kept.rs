//! What is kept of older versions: their containers, stopped and retired, and writable layers that
//! snapshots took.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use gpuctl_ledger::ledger::{At, Batch, LedgerError};
use gpuctl_ledger::model::{
    Binding, ContainerId, ContainerName, KeptLayer, Timestamp, Version, VersionRecord,
};
use gpuctl_ledger::node::notes;

use super::api::Failure;
use super::context::Context;
use super::ending;
use crate::docker::DockerError;
use crate::tree;

/// What is kept of one older version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    /// The version.
    pub(super) version: Version,
    /// Since when it is not the current one any more.
    pub(super) since: Timestamp,
    /// Its container, of which no later version is.
    pub(super) container: Option<ContainerId>,
    /// Its layer.
    pub(super) layer: Option<KeptLayer>,
}

/// What is kept of a container's versions but the current one, oldest first: by its records. Pure.
pub(super) fn of_records(
    versions: &[VersionRecord],
    current: Version,
    container: Option<&ContainerId>,
) -> Vec<Kept> {
    let last: BTreeMap<&ContainerId, Version> =
        versions.iter().map(|v| (&v.container, v.version)).collect();
    let next = |version: Version| versions.iter().find(|v| v.version > version).map(|v| v.at);
    let of = |record: &VersionRecord| {
        let is_last = last.get(&record.container) == Some(&record.version);
        let own = is_last && container != Some(&record.container);
        let kept = Kept {
            version: record.version,
            since: next(record.version).unwrap_or(record.at),
            container: own.then(|| record.container.clone()),
            layer: record.layer.clone(),
        };
        (kept.container.is_some() || kept.layer.is_some()).then_some(kept)
    };
    versions.iter().filter(|v| v.version != current || container.is_none()).filter_map(of).collect()
}

/// The versions of a name, in order.
///
/// # Errors
/// The ledger's.
pub(super) fn versions(ctx: &Context, name: &ContainerName) -> Result<Vec<VersionRecord>, Failure> {
    let all: Vec<At<VersionRecord>> = ctx.ledger.list(&ctx.ledger.keys().versions(name))?;
    Ok(all.into_iter().map(|at| at.record).collect())
}

/// Why something is still there.
pub(super) enum Stays {
    /// The Engine does not answer: whether it is there is not known, and a later try may remove it.
    Unknown(Failure),
    /// It cannot be removed.
    Kept(Failure),
}

impl Stays {
    /// Why it cannot be removed.
    ///
    /// # Errors
    /// The Engine's, where it is not known whether it is there: what is under way stays open then.
    pub(super) fn kept(self) -> Result<Failure, Failure> {
        match self {
            Self::Kept(why) => Ok(why),
            Self::Unknown(why) => Err(why),
        }
    }
}

impl From<Failure> for Stays {
    fn from(why: Failure) -> Self {
        Self::Kept(why)
    }
}

impl From<LedgerError> for Stays {
    fn from(why: LedgerError) -> Self {
        Self::Kept(why.into())
    }
}

impl From<DockerError> for Stays {
    fn from(why: DockerError) -> Self {
        match why.is_unreachable() {
            true => Self::Unknown(
                Failure::from(why).hint("docker gpuctl doctor --fix ends what was left"),
            ),
            false => Self::Kept(why.into()),
        }
    }
}

/// Removes the container of an older version, its binding and the node's copy of that. One that is gone
/// already is no fault; volumes stay.
///
/// # Errors
/// The Engine's and the ledger's.
pub(super) fn remove_container(ctx: &Context, id: &ContainerId) -> Result<(), Stays> {
    match ctx.docker()?.remove(id.as_str(), false, false) {
        Err(e) if !e.is_not_found() => return Err(e.into()),
        _ => {}
    }
    ending::release_dead(ctx, id, &[])?;
    let mut batch = Batch::new();
    batch.delete(ctx.ledger.keys().binding(id));
    let _ = ctx.ledger.commit(&batch)?;
    let _ = notes::remove_binding(&ctx.config.paths, id);
    Ok(())
}

/// Removes a kept layer, and then the word of it from the version's record.
///
/// # Errors
/// When it cannot be removed, or does not lie where layers are kept.
pub(super) fn remove_layer(
    ctx: &Context,
    name: &ContainerName,
    version: Version,
) -> Result<(), Failure> {
    let Some(At { record, revision }) = ctx.ledger.version(name, version)? else { return Ok(()) };
    let Some(layer) = &record.layer else { return Ok(()) };
    remove_folder(&ctx.config.layers(), Path::new(&layer.path))?;
    let key = ctx.ledger.keys().version(name, version);
    let mut batch = Batch::new();
    batch.at(key.clone(), revision).put(key, &VersionRecord { layer: None, ..record });
    let _ = ctx.ledger.commit(&batch)?;
    Ok(())
}

/// Removes a folder below that of the layers, whatever is in it; one that is gone is no fault.
///
/// # Errors
/// As [`remove_layer`].
pub(super) fn remove_folder(layers: &Path, folder: &Path) -> Result<(), Failure> {
    let plain = folder.strip_prefix(layers).is_ok_and(|below| {
        below.components().count() > 0
            && below.components().all(|c| matches!(c, std::path::Component::Normal(_)))
    });
    if !plain {
        return Err(Failure::new(format!(
            "the kept layer {} does not lie in {}, and is not removed",
            folder.display(),
            layers.display()
        ))
        .hint("change.layers in the config names where layers are kept"));
    }
    tree::remove(folder).map_err(|why| {
        Failure::new(format!("the kept layer {} is not removed: {why}", folder.display()))
            .hint("see to its disk, then try again")
    })?;
    // The folder of the name goes with its last layer.
    if let Some(parent) = folder.parent().filter(|parent| *parent != layers) {
        let _ = std::fs::remove_dir(parent);
    }
    Ok(())
}

/// Removes all that is kept of a name's older versions: the container itself is being removed.
///
/// # Errors
/// As of each.
pub(super) fn remove_all(
    ctx: &Context,
    name: &ContainerName,
    current: Option<&ContainerId>,
) -> Result<(), Stays> {
    let versions = versions(ctx, name)?;
    let bindings: Vec<At<Binding>> = ctx.ledger.list(&ctx.ledger.keys().bindings())?;
    let bound = bindings.into_iter().map(|at| at.record).filter(|b| b.name == *name);
    let ids: BTreeSet<ContainerId> =
        versions.iter().map(|v| v.container.clone()).chain(bound.map(|b| b.container)).collect();
    for id in ids.iter().filter(|id| Some(*id) != current) {
        remove_container(ctx, id)?;
    }
    for version in versions.iter().filter(|v| v.layer.is_some()) {
        remove_layer(ctx, name, version.version)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn version(n: u32, container: char, layer: bool) -> VersionRecord {
        let layer = layer.then(
            || json!({"path": format!("/l/{n}"), "bytes": 5, "at": "2026-11-22T00:00:00.000Z"}),
        );
        serde_json::from_value(json!({
            "schema": 1, "name": "train", "version": n, "container": container.to_string().repeat(64),
            "gpus": "none", "at": format!("2026-11-22T00:00:0{n}.000Z"), "why": "x", "spec": {}, "layer": layer,
        }))
        .unwrap()
    }

    #[test]
    fn what_is_kept_is_a_container_of_its_last_version_and_every_layer_but_the_current() {
        let versions = [
            version(0, 'a', false),
            version(1, 'a', true),
            version(2, 'b', true),
            version(3, 'b', false),
            version(4, 'c', true),
        ];
        let current = ContainerId::new("c".repeat(64)).unwrap();
        let kept = of_records(&versions, Version(4), Some(&current));
        let short: Vec<_> =
            kept.iter().map(|k| (k.version.0, k.container.is_some(), k.layer.is_some())).collect();
        assert_eq!(short, [(1, true, true), (2, false, true), (3, true, false)]);
        assert_eq!(kept[0].since, versions[2].at);
        // Of one that was removed nothing is current.
        assert_eq!(of_records(&versions, Version(4), None).len(), 4);
        // One that was only scaled keeps nothing.
        let scaled = [version(0, 'c', false), version(1, 'c', false)];
        assert!(of_records(&scaled, Version(1), Some(&current)).is_empty());
    }

    #[test]
    fn only_what_lies_among_the_layers_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let layers = dir.path().join("layers");
        let one = layers.join("train/0");
        std::fs::create_dir_all(one.join("a/b")).unwrap();
        std::os::unix::fs::symlink(dir.path(), one.join("a/out")).unwrap();
        let outside = dir.path().join("file");
        std::fs::write(&outside, "x").unwrap();
        for wrong in [
            layers.clone(),
            dir.path().to_owned(),
            layers.join("../file"),
            "/".into(),
            "train/0".into(),
        ] {
            assert!(remove_folder(&layers, &wrong).is_err(), "{}", wrong.display());
        }
        remove_folder(&layers, &one).unwrap();
        assert!(!layers.join("train").exists() && layers.exists() && outside.exists());
        remove_folder(&layers, &one).unwrap();
    }
}

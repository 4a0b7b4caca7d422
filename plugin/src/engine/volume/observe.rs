//! What is so: what this host can do, where a volume's content is, how full it is, who uses it.

use std::path::{Path, PathBuf};

use gpuctl_ledger::config::ImageFilesystem;
use gpuctl_ledger::model::{Backend, ByteSize, VolumeVersionRecord};

use serde_json::Value;

use super::super::api::Failure;
use super::super::context::Context;
use crate::docker::User;
use crate::volume::image::{Detail, Images};
use crate::volume::rules::Abilities;
use crate::volume::size::{self, Sized};
use crate::volume::{Sizing, Spec, missing_programs, usage};

/// What this host can do.
pub(super) fn abilities(ctx: &Context) -> Abilities {
    Abilities {
        no_size: size::why_not(&ctx.config.docker.root),
        no_image: no_image(ctx.config.volumes.filesystem),
    }
}

fn no_image(filesystem: ImageFilesystem) -> Option<String> {
    if !Path::new("/dev/loop-control").exists() {
        return Some("this kernel has no loop driver: modprobe loop".to_owned());
    }
    match missing_programs(Images::programs(filesystem)).as_slice() {
        [] => None,
        missing => Some(format!(
            "{} not installed: install e2fsprogs, xfsprogs, mount and util-linux",
            missing.join(", ")
        )),
    }
}

/// The backend of a volume that is kept to a size.
///
/// # Errors
/// When the Engine cannot be spoken to.
pub(super) fn sizing(ctx: &Context, backend: Backend) -> Result<Box<dyn Sizing + '_>, Failure> {
    let docker = ctx.docker()?;
    Ok(match backend {
        Backend::Image => Box::new(Images { docker }),
        Backend::Size | Backend::Plain => Box::new(Sized { docker }),
    })
}

/// The filesystem in a version's image; the config's where it has none.
pub(super) fn filesystem(ctx: &Context, version: &VolumeVersionRecord) -> ImageFilesystem {
    let detail = Spec::of(version).filter(|s| s.backend == Backend::Image);
    match detail.and_then(|spec| Detail::of(&spec).ok()) {
        Some(detail) if detail.filesystem == "xfs" => ImageFilesystem::Xfs,
        Some(_) => ImageFilesystem::Ext4,
        None => ctx.config.volumes.filesystem,
    }
}

/// Where a version's content is, mounted if it has to be.
///
/// # Errors
/// When it is gone.
pub(super) fn content(ctx: &Context, version: &VolumeVersionRecord) -> Result<PathBuf, Failure> {
    let name = &version.docker_name;
    let shown = ctx.docker()?.volume(name)?.ok_or_else(|| {
        let hint = match on_disk(ctx, version) {
            Some(_) => {
                format!(
                    "its image is still there: docker gpuctl doctor --fix gives Docker {name} again"
                )
            }
            None => format!(
                "docker gpuctl volume history {} shows which versions are there",
                version.name
            ),
        };
        Failure::new(format!("Docker has no volume {name} any more: it was removed outside gpuctl"))
            .hint(hint)
    })?;
    check_same(version, &shown)?;
    if let Some(spec) = Spec::of(version) {
        return sizing(ctx, version.backend)?.content(&spec);
    }
    let path = shown["Mountpoint"].as_str().map(PathBuf::from);
    path.filter(|path| path.is_absolute())
        .ok_or_else(|| Failure::new(format!("Docker does not say where volume {name} is")))
}

/// Whether this is what Docker shows of a version, and not of another volume of that name: `docker run -v`
/// makes one where there is none.
pub(super) fn is_same(version: &VolumeVersionRecord, shown: &Value) -> bool {
    let has_size = || shown.pointer("/Options/size").is_some_and(|size| size != "");
    match (version.backend, Spec::of(version)) {
        (Backend::Image, Some(spec)) => Images::is_shown(&spec, shown),
        (Backend::Size, Some(_)) => has_size(),
        _ => true,
    }
}

/// Refuses where it is another.
///
/// # Errors
/// [`Failure`].
pub(super) fn check_same(version: &VolumeVersionRecord, shown: &Value) -> Result<(), Failure> {
    if is_same(version, shown) {
        return Ok(());
    }
    let name = &version.docker_name;
    let hint = match version.backend {
        Backend::Image => format!(
            "docker volume rm {name}, if nothing in it is needed; docker gpuctl doctor --fix gives Docker ours again"
        ),
        _ => format!("docker volume rm {name}, if nothing in it is needed"),
    };
    Err(Failure::new(format!(
        "{name} in Docker is another volume than ours: that was removed outside gpuctl, and one of its name made"
    ))
    .hint(hint))
}

/// Gives Docker the volume of a version again, where it has none and the image is there; whether it did.
///
/// # Errors
/// [`Failure`].
pub(super) fn restore(ctx: &Context, version: &VolumeVersionRecord) -> Result<bool, Failure> {
    let Some(spec) = Spec::of(version).filter(|s| s.backend == Backend::Image) else {
        return Ok(false);
    };
    let labels = version.spec.get("Labels").and_then(Value::as_object).into_iter().flatten();
    let labels: Vec<(String, String)> =
        labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
    Images { docker: ctx.docker()? }.restore(&spec, &labels)
}

/// What is used of a version; it is mounted if it has to be.
///
/// # Errors
/// As [`content`].
pub(super) fn used(ctx: &Context, version: &VolumeVersionRecord) -> Result<ByteSize, Failure> {
    let path = content(ctx, version)?;
    if let Some(spec) = Spec::of(version)
        && let Some(usage) = sizing(ctx, version.backend)?.usage(&spec)?
    {
        return Ok(usage.used);
    }
    usage::of_tree(&path)
}

/// The folder in which a backend has its volumes, and what its disk has free.
pub(super) fn disk(ctx: &Context, backend: Backend) -> Option<(PathBuf, ByteSize)> {
    let folder = match backend {
        Backend::Image => &ctx.config.volumes.images,
        Backend::Size | Backend::Plain => &ctx.config.docker.root,
    };
    // The folder itself may be made only now.
    let there = folder.ancestors().find(|path| path.exists()).unwrap_or(folder);
    let (free, _) = usage::free(there).ok()?;
    Some((folder.clone(), ByteSize(free)))
}

/// What a version costs on the host's disk, as far as that can be seen without mounting anything.
pub(super) fn on_disk(ctx: &Context, version: &VolumeVersionRecord) -> Option<ByteSize> {
    let spec = Spec::of(version);
    match (version.backend, spec) {
        (Backend::Image, Some(spec)) => Images::on_disk(&spec),
        (Backend::Size, Some(spec)) => {
            Some(sizing(ctx, Backend::Size).ok()?.usage(&spec).ok()??.used)
        }
        _ => {
            let shown = ctx.docker().ok()?.volume(&version.docker_name).ok()??;
            usage::of_tree(Path::new(shown["Mountpoint"].as_str()?)).ok()
        }
    }
}

/// Whether the room of a version was taken at once.
pub(super) fn allocated(version: &VolumeVersionRecord) -> bool {
    let spec = Spec::of(version).filter(|spec| spec.backend == Backend::Image);
    spec.and_then(|spec| Detail::of(&spec).ok()).is_some_and(|detail| detail.allocated)
}

/// How long a volume's image is, in bytes; 0 where it has none.
pub(super) fn length(version: &VolumeVersionRecord) -> u64 {
    let detail = Spec::of(version).and_then(|spec| Detail::of(&spec).ok());
    let file = detail.and_then(|detail| std::fs::metadata(detail.file).ok());
    file.map_or(0, |meta| meta.len())
}

/// The containers that mount a volume, running or not.
///
/// # Errors
/// The Engine's.
pub(super) fn users(ctx: &Context, docker_name: &str) -> Result<Vec<User>, Failure> {
    let all = ctx.docker()?.volume_users()?;
    Ok(all.into_iter().filter(|user| user.volume == docker_name).collect())
}

/// Of these, the names of those that may be writing now.
pub(super) fn writers(users: &[User]) -> Vec<String> {
    users.iter().filter(|u| u.running && u.writes).map(|u| u.name.clone()).collect()
}

/// Their names, for a message.
pub(super) fn names(users: &[User]) -> Vec<String> {
    let mut names: Vec<String> = users.iter().map(|u| u.name.clone()).collect();
    names.sort();
    names.dedup();
    names
}

/// One line for each container that uses something.
pub(super) fn lines(users: &[User]) -> Vec<String> {
    let state = |u: &User| if u.running { "running" } else { "not running" };
    users.iter().map(|u| format!("{}  {}  {}", u.name, u.volume, state(u))).collect()
}

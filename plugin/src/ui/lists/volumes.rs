//! volume ls, volume history, volume backends.

use gpuctl_ledger::model::ByteSize;

use super::{NOTHING, ago, has, is, object, or_dash};
use crate::engine::api::{BackendRow, VolumeRow, VolumeVersionRow};
use crate::ui::list::{Column, Filter, List, TRUTH, is_named};
use crate::ui::screen::Tint;

fn size(size: Option<ByteSize>) -> String {
    size.map_or_else(|| NOTHING.to_owned(), |s| s.to_string())
}

fn used(r: &VolumeRow) -> String {
    match (&r.fault, r.used, r.size) {
        (Some(fault), _, _) => fault.clone(),
        (None, Some(used), Some(ByteSize(all))) if all > 0 => {
            format!("{used} ({}%)", u128::from(used.0) * 100 / u128::from(all))
        }
        (None, used, _) => size(used),
    }
}

/// volume ls.
pub static VOLUMES: List<VolumeRow> = List {
    columns: &[
        Column::new("Name", "NAME", "name", |r: &VolumeRow, _| r.name.to_string()),
        Column::new("Version", "VERSION", "version", |r: &VolumeRow, _| r.version.to_string()),
        Column::new("Size", "SIZE", "size", |r: &VolumeRow, _| size(r.size)),
        Column::new("Used", "USED", "used", |r: &VolumeRow, _| used(r))
            .may_cut()
            .tinted(|r| r.fault.as_ref().map(|_| Tint::Bad)),
        Column::new("Backend", "BACKEND", "backend", |r: &VolumeRow, _| r.backend.to_string()),
        Column::new("Owner", "OWNER", "owner", |r: &VolumeRow, _| or_dash(r.owner.as_deref())),
        Column::new("Since", "SINCE", "since", |r: &VolumeRow, v| ago(r.since, v)).may_cut(),
        Column::new("Containers", "CONTAINERS", "containers", |r: &VolumeRow, _| {
            or_dash(Some(&r.containers.join(",")))
        })
        .may_cut(),
        Column::new("DockerName", "VOLUME", "docker_name", |r: &VolumeRow, _| {
            r.docker_name.clone()
        })
        .hidden(),
    ],
    filters: &[
        Filter::new("name", "Part of its name, or ^NAME$", |r, v| is_named(r.name.as_str(), v)),
        Filter::new("backend", "size, image, plain", |r: &VolumeRow, v| r.backend.to_string() == v)
            .only(&["size", "image", "plain"]),
        Filter::new("owner", "Who made it", |r, v| r.owner.as_deref() == Some(v)),
        Filter::new("container", "A container that mounts it", |r, v| {
            r.containers.iter().any(|name| name == v)
        }),
        Filter::new(
            "dangling",
            "Whether no container mounts it: true, false",
            |r: &VolumeRow, v| is(r.containers.is_empty(), v),
        )
        .only(TRUTH),
    ],
    name: |r, _| Some(r.docker_name.clone()),
    object,
};

/// volume history.
pub static VOLUME_VERSIONS: List<VolumeVersionRow> = List {
    columns: &[
        Column::new("Version", "VERSION", "version", |r: &VolumeVersionRow, _| {
            format!("{}{}", r.version, if r.current { "*" } else { "" })
        }),
        Column::new("DockerName", "VOLUME", "docker_name", |r: &VolumeVersionRow, _| {
            r.docker_name.clone()
        }),
        Column::new("Size", "SIZE", "size", |r: &VolumeVersionRow, _| size(r.size)),
        Column::new("OnDisk", "ON DISK", "on_disk", |r: &VolumeVersionRow, _| match r.on_disk {
            on_disk if r.present => size(on_disk),
            Some(on_disk) => format!("{on_disk} (removed)"),
            None => "removed".to_owned(),
        }),
        Column::new("Backend", "BACKEND", "backend", |r: &VolumeVersionRow, _| {
            r.backend.to_string()
        }),
        Column::new("When", "WHEN", "at", |r: &VolumeVersionRow, v| ago(r.at, v)),
        Column::new("By", "BY", "by", |r: &VolumeVersionRow, _| or_dash(r.by.as_deref())),
        Column::new("Why", "WHY", "why", |r: &VolumeVersionRow, _| r.why.clone()).may_cut(),
        Column::new("Current", "CURRENT", "current", |r: &VolumeVersionRow, _| {
            r.current.to_string()
        })
        .hidden(),
    ],
    filters: &[
        Filter::new("by", "Who asked for it", |r, v| r.by.as_deref() == Some(v)),
        Filter::new("change", "Part of why it came to be", |r, v| has(&r.why, v)),
        Filter::new("present", "Whether Docker has it: true, false", |r: &VolumeVersionRow, v| {
            is(r.present, v)
        })
        .only(TRUTH),
    ],
    name: |r, _| Some(r.version.to_string()),
    object,
};

/// volume backends.
pub static BACKENDS: List<BackendRow> = List {
    columns: &[
        Column::new("Backend", "BACKEND", "backend", |r: &BackendRow, _| r.backend.to_string()),
        Column::new("Here", "HERE", "why_not", |r: &BackendRow, _| match &r.why_not {
            None if r.preferred => "yes, preferred".to_owned(),
            None => "yes".to_owned(),
            Some(why) => format!("no: {why}"),
        })
        .may_cut(),
        Column::new("How", "HOW", "how", |r: &BackendRow, _| r.how.clone()).may_cut(),
        Column::new("Free", "FREE", "free", |r: &BackendRow, _| size(r.free)),
    ],
    filters: &[],
    name: |r, _| Some(r.backend.to_string()),
    object,
};
